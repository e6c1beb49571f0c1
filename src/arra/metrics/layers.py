"""How much of an encoder's view of the picture is in the hidden states, by layer and position.

Alignment (ARRA, arXiv 2503.07334, section 3) pulls states towards that view through a projector
that exists in training only. Here a map is fitted afterwards, the best linear one, to the states of
any checkpoint alike; so models with and without alignment are measured with the same rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from arra.errors import InputError
from arra.generators.base import Batch, Generator
from arra.randomness import derangement

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties that are tried, as shares of the number of states."""
FEWEST = 12
"""Pictures without which nothing is measured."""
_SMALLEST = 1e-6  # a channel that varies less than this counts as constant


@dataclass(frozen=True)
class Reader:
    """Reads a feature, counted from the mean one, from the states of a layer."""

    mean: Tensor
    """(D,) the mean state."""
    weights: Tensor
    """(D, D_F)."""
    target: Tensor
    """(D_F,) what is read from the mean state."""

    def __call__(self, states: Tensor) -> Tensor:
        """(M, D_F) of states (M, D)."""
        return (states - self.mean) @ self.weights + self.target


@dataclass(frozen=True)
class LayerAlignment:
    """Held-out R² of the map from states to features: 1 is the whole feature, 0 is no more than
    the mean picture's."""

    layers: tuple[int, ...]
    """L blocks, counted from 1."""
    by_layer: np.ndarray
    """(L,) over all places."""
    by_place: np.ndarray
    """(L, P) at each place: the state that predicts code p has seen the caption and the codes
    before p. NaN where no picture has such a place."""
    control: np.ndarray
    """(L,) of the same with the features of other pictures: what chance gives."""
    pictures: int
    """Pictures that were looked at."""
    tested: int
    """Those among them that R² is about; the others fitted the map and chose its penalty."""
    readers: tuple[Reader, ...] = field(repr=False)
    """L maps that were fitted, with the penalty that was chosen."""
    centre: Tensor = field(repr=False)
    """(D_F,) the mean feature of the pictures that fitted them, from which readers count."""


def alignment_by_layer(
    generator: Generator,
    batches: Iterable[Batch],
    features: Tensor,
    layers: Sequence[int] | None = None,
    *,
    seed: int = 0,
) -> LayerAlignment:
    """Fit a ridge map from the states of each of `layers` (None: all) to `features` (N, D_F).

    Row n is what an encoder says about the n-th picture of `batches`, which are gone through twice
    and must be the same both times. One map a layer, shared by all places as the projector of the
    alignment is. Of six pictures four fit it, one chooses the penalty, and one is measured.

    Raises `InputError` for fewer than 12 pictures, another number of features, or features that are
    all the same.
    """
    features = features.float().cpu()
    if features.ndim != 2 or len(features) < FEWEST:
        raise InputError(
            f"features: shape {tuple(features.shape)}, expected (N, D) of {FEWEST} or more pictures"
        )
    chosen = tuple(layers or range(1, generator.depth + 1))
    part = torch.arange(len(features)) % 6
    fitting = part < 4
    mean = features[fitting].mean(dim=0)
    centred = features - mean
    if float(centred[fitting].square().sum()) <= _SMALLEST * float(mean.square().sum() + 1e-30):
        raise InputError("features: all the same, so that there is nothing to predict")
    others = derangement(len(features), np.random.default_rng(seed))
    targets = torch.cat([centred, centred[torch.from_numpy(others)]], dim=1)

    places = sum(rows * columns for rows, columns in generator.grids)
    sums = {layer: _Sums(generator.width, targets.shape[1]) for layer in chosen}
    for layer, states, picture, _ in _states(generator, batches, chosen, len(features)):
        here = fitting[picture]
        sums[layer].add(states[here], targets[picture[here]])
    maps = {layer: found.solved() for layer, found in sums.items()}

    width = features.shape[1]
    wrong = {
        layer: torch.zeros(2, 2, len(PENALTIES), places, dtype=torch.float64) for layer in chosen
    }
    total = torch.zeros(2, 2, places, dtype=torch.float64)
    for layer, states, picture, place in _states(generator, batches, chosen, len(features)):
        for number in (0, 1):  # choosing, measuring
            here = part[picture] == 4 + number
            truth, at = targets[picture[here]], place[here]
            error = (maps[layer](states[here]) - truth).square()
            for which, columns in enumerate((slice(0, width), slice(width, None))):
                wrong[layer][number, which].index_add_(
                    1, at, error[..., columns].sum(dim=-1).double()
                )
                if layer == chosen[0]:
                    total[number, which].index_add_(
                        0, at, truth[:, columns].square().sum(dim=-1).double()
                    )
    return _result(chosen, wrong, total, part, maps, mean)


def _result(
    layers: tuple[int, ...],
    wrong: dict[int, Tensor],
    total: Tensor,
    part: Tensor,
    maps: dict[int, _Maps],
    centre: Tensor,
) -> LayerAlignment:
    """R² of squared errors (choosing or measuring, true or control, penalty, place)."""
    by_layer, by_place, control, readers = [], [], [], []
    for layer in layers:
        overall = []
        for which in (0, 1):
            best = int(wrong[layer][0, which].sum(dim=-1).argmin())
            error = wrong[layer][1, which, best]
            overall.append(1.0 - float(error.sum() / total[1, which].sum()))
            if which == 0:
                by_place.append((1.0 - error / total[1, 0]).numpy())
                readers.append(maps[layer].reader(best, len(centre)))
        by_layer.append(overall[0])
        control.append(overall[1])
    return LayerAlignment(
        layers,
        np.array(by_layer),
        np.stack(by_place),
        np.array(control),
        len(part),
        int((part == 5).sum()),
        tuple(readers),
        centre,
    )


def picture_alignment(
    generator: Generator, batch: Batch, found: LayerAlignment, feature: Tensor
) -> np.ndarray:
    """(L, P) how well the `feature` (D_F,) of the one picture of `batch` is read at each place.

    R² is about many pictures. Of one it is the cosine between what is read from a state and the
    feature, both counted from the mean picture's: 1 is its direction, 0 is what chance gives. NaN
    where the picture has no such place.
    """
    truth = feature.float().cpu() - found.centre
    values = np.full(found.by_place.shape, np.nan)
    with torch.no_grad():
        for layer, states, _, place in _states(generator, [batch], found.layers, 1):
            row = found.layers.index(layer)
            read = found.readers[row](states)
            values[row, place.numpy()] = torch.cosine_similarity(read, truth[None], dim=-1).numpy()
    return values


@torch.no_grad()
def _states(
    generator: Generator, batches: Iterable[Batch], layers: tuple[int, ...], pictures: int
) -> Iterable[tuple[int, Tensor, Tensor, Tensor]]:
    """(layer, states (M, D), picture (M,), place (M,)) of every batch and layer."""
    was_training, before = generator.training, 0
    generator.eval()
    try:
        for batch in batches:
            samples = batch.samples
            if before + samples > pictures:
                raise InputError(f"features: of {pictures} pictures, but the batches hold more")
            hidden = generator(batch.to(generator.device), layers).hidden
            here = batch.image & (batch.place >= 0)
            picture, place = batch.segment[here] + before, batch.place[here]
            for layer in layers:
                yield layer, hidden[layer][here.to(generator.device)].float().cpu(), picture, place
            before += samples
    finally:
        generator.train(was_training)
    if before != pictures:
        raise InputError(f"features: of {pictures} pictures, but the batches hold {before}")


class _Sums:
    """What a ridge regression needs to know of states (M, D) and targets (M, D_T), batch by
    batch: memory does not grow with the number of states."""

    def __init__(self, width: int, targets: int):
        self.count = 0
        self.states = torch.zeros(width, dtype=torch.float64)
        self.squares = torch.zeros(width, width, dtype=torch.float64)
        self.products = torch.zeros(width, targets, dtype=torch.float64)
        self.targets = torch.zeros(targets, dtype=torch.float64)

    def add(self, states: Tensor, targets: Tensor) -> None:
        x, y = states.double(), targets.double()
        self.count += len(x)
        self.states += x.sum(dim=0)
        self.targets += y.sum(dim=0)
        self.squares += x.T @ x
        self.products += x.T @ y

    def solved(self) -> _Maps:
        """The maps of all penalties, from states whose channels have mean 0 and deviation 1."""
        n = self.count
        mean, target = self.states / n, self.targets / n
        spread = (self.squares.diagonal() / n - mean.square()).clamp(min=0.0).sqrt()
        inverse = torch.where(spread > _SMALLEST, 1.0 / spread.clamp(min=_SMALLEST), 0.0)
        gram = (self.squares / n - torch.outer(mean, mean)) * torch.outer(inverse, inverse)
        cross = (self.products / n - torch.outer(mean, target)) * inverse[:, None]
        values, vectors = torch.linalg.eigh(gram)
        turned = vectors.T @ cross
        weights = [
            (vectors / (values.clamp(min=0.0) + penalty)) @ turned * inverse[:, None]
            for penalty in PENALTIES
        ]
        return _Maps(mean.float(), torch.stack(weights).float(), target.float())


@dataclass(frozen=True)
class _Maps:
    """x -> (x - mean) W + target, for each penalty a W."""

    mean: Tensor
    weights: Tensor
    """(penalties, D, D_T)."""
    target: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """(penalties, M, D_T) of states (M, D)."""
        return (states - self.mean) @ self.weights + self.target

    def reader(self, penalty: int, width: int) -> Reader:
        """The map of one penalty to the first `width` targets."""
        weights = self.weights[penalty, :, :width].contiguous()
        return Reader(self.mean, weights, self.target[:width])
