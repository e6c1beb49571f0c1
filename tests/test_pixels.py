"""Pictures between bytes and numbers, timing of bf16, seeded randomness."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arra.errors import InputError
from arra.pixels import planes, to_share, to_uint8, to_unit
from arra.precision import bf16_speed
from arra.randomness import derangement, seeded


def test_bytes_survive_the_round_trip():
    """Every one of the 256 values, through float and back."""
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    every[..., 1] = every[..., 1][:, ::-1]
    assert np.array_equal(to_uint8(to_unit(every)), every)
    unit = to_unit(torch.from_numpy(every))
    assert torch.equal(unit, to_unit(every))
    assert (float(unit.min()), float(unit.max())) == (-1.0, 1.0)
    assert float(unit[0, 1, 2, 3]) == pytest.approx(every[0, 2, 3, 1] / 127.5 - 1)
    assert float(to_share(every)[0, 1, 2, 3]) == pytest.approx(every[0, 2, 3, 1] / 255)


def test_channels_may_stand_first_and_values_outside_are_clamped():
    pictures = torch.randint(256, (2, 5, 7, 3), dtype=torch.uint8)
    assert torch.equal(planes(pictures.permute(0, 3, 1, 2)), planes(pictures))
    assert to_uint8(torch.tensor([-9.0, 0.0, 9.0]).view(1, 3, 1, 1)).tolist() == [[[[0, 128, 255]]]]


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 4, 4, 4), (2, 4, 4, 1)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(InputError, match="pictures"):
        to_unit(np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match="pictures"):
        to_unit(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="pictures"):
        to_uint8(torch.zeros(shape))


def test_speed_is_the_ratio_of_the_shortest_times():
    def attempt(bf16: bool) -> None:
        time.sleep(0.01 if bf16 else 0.03)

    assert 1.5 < bf16_speed(attempt, torch.device("cpu"), repeats=2) < 4


def test_seeded_depends_on_the_seed_and_leaves_the_caller_alone():
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    with seeded(3):
        second = torch.rand(2)
    with seeded(4):
        third = torch.rand(2)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), before)


@given(st.integers(2, 40), st.integers(0, 9))
def test_a_derangement_moves_everything(count, seed):
    moved = derangement(count, np.random.default_rng(seed))
    assert sorted(moved) == list(range(count))
    assert all(moved != np.arange(count))
