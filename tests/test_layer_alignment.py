"""What a linear map reads out of hidden states: known relations, none at all, and any batching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from arra.errors import InputError
from arra.generators.base import Batch, Output
from arra.metrics.layers import alignment_by_layer
from lm_kit import SHAPE
from test_decoding import generator_of

PICTURES, WIDTH, PLACES = 240, 12, 4


class Told(nn.Module):
    """A generator whose states are given: (layers, N, T, D), found by the number in the tokens."""

    depth, width, grids = 3, WIDTH, ((2, 2),)
    device = torch.device("cpu")

    def __init__(self, states: Tensor):
        super().__init__()
        self.states = states

    def forward(self, batch: Batch, layers: Sequence[int]) -> Output:
        chosen = self.states[:, batch.tokens[:, 0]]
        return Output(Tensor(), Tensor(), {layer: chosen[layer - 1] for layer in layers})


def batches(size: int) -> list[Batch]:
    """Pictures of four places after one position of text, padded by two positions."""
    place = torch.tensor([-1, 0, 1, 2, 3, -1, -1])
    found = []
    for numbers in torch.arange(PICTURES).split(size):
        rows = len(numbers)
        at = place.expand(rows, -1)
        segment = torch.arange(rows)[:, None].expand(-1, len(place)).clone()
        segment[:, -2:] = -1
        tokens = numbers[:, None].expand(-1, len(place))
        found.append(Batch(tokens, segment, at, at, at >= 0, at))
    return found


@pytest.fixture(scope="module")
def told() -> tuple[Tensor, Told]:
    """Features, and states: the first layer knows nothing, the second more at every place, the
    third all, with channels of very different size and one that never changes."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(PICTURES, 5, generator=draw) + 3.0
    inside = features @ torch.randn(5, WIDTH, generator=draw)
    noise = torch.randn(3, PICTURES, 7, WIDTH, generator=draw)
    less = torch.tensor([0.0, 4.0, 1.0, 0.5, 0.1, 0.0, 0.0])[:, None]
    scale = torch.logspace(-2, 3, WIDTH)
    states = torch.stack([noise[0], inside[:, None] + 2 * less * noise[1], noise[2]])
    states[2] = (inside[:, None] + 0.01 * noise[2]) * scale + 7.0
    states[2, ..., 4] = 1.5
    return features, Told(states)


def test_a_known_linear_relation_is_found_and_none_is_not_made_up(told):
    features, generator = told
    found = alignment_by_layer(generator, batches(32), features)
    assert found.layers == (1, 2, 3)
    assert (found.pictures, found.tested) == (PICTURES, 40)
    assert found.by_place.shape == (3, PLACES)
    assert found.by_layer[2] > 0.999
    assert (found.by_place[2] > 0.999).all()
    assert abs(found.by_layer[0]) < 0.1
    assert (np.diff(found.by_place[1]) > 0).all()
    assert found.by_layer[0] < found.by_layer[1] < found.by_layer[2]
    assert (found.control < 0.05).all()
    assert (found.control > -0.3).all()


def test_r2_is_that_of_least_squares_on_the_same_pictures(told):
    features, generator = told
    found = alignment_by_layer(generator, batches(50), features, layers=[2])
    part = np.arange(PICTURES) % 6
    x, y = generator.states[1][:, 1:5].double().numpy(), features.double().numpy()

    def rows(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = x[chosen].reshape(-1, WIDTH)
        return np.c_[flat, np.ones(len(flat))], np.repeat(y[chosen], PLACES, axis=0)

    weights, *_ = np.linalg.lstsq(*rows(part < 4), rcond=None)
    inputs, truth = rows(part == 5)
    mean = y[part < 4].mean(axis=0)
    r2 = 1 - ((inputs @ weights - truth) ** 2).sum() / ((truth - mean) ** 2).sum()
    assert found.by_layer[0] == pytest.approx(r2, abs=0.01)  # its smallest penalties change little


def test_batches_do_not_matter(told):
    features, generator = told
    one, other = (alignment_by_layer(generator, batches(n), features) for n in (1, 64))
    assert np.allclose(one.by_place, other.by_place, atol=1e-4)
    assert np.allclose(one.control, other.control, atol=1e-4)


def test_a_place_that_no_picture_has_is_not_measured(told):
    features, generator = told
    without = [
        Batch(b.tokens, b.segment, b.position, b.target, b.image & (b.place != 2), b.place)
        for b in batches(64)
    ]
    found = alignment_by_layer(generator, without, features)
    assert np.isnan(found.by_place[:, 2]).all()
    assert np.isfinite(found.by_place[:, [0, 1, 3]]).all()
    assert np.isfinite(found.by_layer).all()


def test_wrong_features_are_refused(told):
    features, generator = told
    for wrong, said in (
        (features[:11], "12 or more"),
        (features[:, 0], "shape"),
        (features[:200], "hold more"),
        (torch.cat([features, features]), f"hold {PICTURES}"),
        (torch.ones_like(features), "all the same"),
    ):
        with pytest.raises(InputError, match=said):
            alignment_by_layer(generator, batches(32), wrong)


def test_states_of_a_real_generator_know_the_codes_that_it_has_read():
    """Features that are the first code, one-hot: unknown before it is read, known behind it."""
    from transformers import LlamaConfig

    generator = generator_of(LlamaConfig(**{**SHAPE, "vocab_size": 64}), spread=2.0)
    codes = torch.randint(0, 4, (180, 9), generator=torch.Generator().manual_seed(1))
    store = Rows(codes)
    from arra.settings import BatchConfig

    parts = generator.batches(store, BatchConfig(size=1), ()).in_order(60)
    features = torch.eye(4)[codes[:, 0]]
    generator.train()
    found = alignment_by_layer(generator, list(parts), features)
    assert generator.training
    assert found.by_place.shape == (2, 9)
    assert (found.by_place[:, 0] < 0.1).all()
    assert found.by_place[0, 1] > 0.5  # by a map that serves all places


class Rows:
    """As much of a store as batches in order need."""

    def __init__(self, codes: Tensor):
        self.codes = codes

    def __len__(self) -> int:
        return len(self.codes)

    def rows(self, indices, features=None):
        from arra.data.store import StoredRows

        return StoredRows([[5, 6]] * len(indices), self.codes[list(indices)], {})
