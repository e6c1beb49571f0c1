"""The claim of ARFlow: digits as cells, arms alike, and the rule of the verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arra.experiments.digits import digits, train_judge
from arra.systems.arflow.arms import CELLS, make_batches, make_generator, train_arm
from arra.systems.arflow.claim import judged
from arra.systems.arflow.recipe import ARMS, MEMORY, MIXED, RESET, full, tiny


def test_cells_give_the_digits_back():
    pictures = digits()[1].pictures[:50]
    cells = CELLS.of(pictures)
    assert cells.shape == (50, 4, 4, 4)
    assert float(cells.min()) == -1.0
    assert float(cells.max()) == 1.0
    assert np.array_equal(CELLS.pictures(cells), pictures)
    grey = pictures[0, 2:4, 4:6, 0].flatten()  # the second row's third cell
    assert np.allclose(cells[0, 1, 2].numpy(), grey / 127.5 - 1)


def test_arms_begin_alike_and_see_as_many_pictures():
    known = digits()[0]
    models = {arm: make_generator(arm, tiny(), 3) for arm in ARMS}
    for arm in ARMS[1:]:
        for one, other in zip(models[MEMORY].parameters(), models[arm].parameters(), strict=True):
            assert torch.equal(one, other)
    assert [models[arm].remembers for arm in ARMS] == [True, False, True]
    for arm in ARMS:
        batches = make_batches(arm, models[arm], full(), 0, known)
        batch = batches.batch(3)
        assert len(batch.tokens) == 100
        labels = known.labels[batches._indices(3)]
        alike = [
            len(set(labels[(batch.group == number).numpy()])) == 1
            for number in batch.group.unique()
        ]
        if arm == MEMORY:
            assert all(alike)
        if arm == MIXED:
            assert np.mean(alike) < 0.2
        if arm == RESET:
            assert len(alike) == 100


def test_an_arm_is_trained_once(tmp_path):
    known, held_out = digits()
    judge = train_judge(known, held_out, 0)
    first = train_arm(tiny(), judge, MIXED, 0, tmp_path, True)
    assert train_arm(tiny(), judge, MIXED, 0, tmp_path, True) == first
    assert set(first["scales"]) == {"1", "1.5"}
    assert all(found["frechet"] > 0 for found in first["scales"].values())


def results(memory: float, mixed: float, jitter: float = 1.001) -> dict:
    """Two seeds: distances in those of the memory emptied."""

    def arm(distance: float) -> list[dict]:
        return [
            {"scales": {scale: {"frechet": distance * j} for scale in ("1", "1.5")}}
            for j in (1.0, jitter)
        ]

    return {
        MEMORY: arm(memory),
        RESET: [replaced(found) for found in arm(1.0)],
        MIXED: [replaced(found) for found in arm(mixed)],
    }


def replaced(found: dict) -> dict:
    """The same without a seed's own luck."""
    return {"scales": {scale: dict(values) for scale, values in found["scales"].items()}}


@pytest.mark.parametrize(
    ("memory", "mixed", "verdict"),
    [
        (0.8, 1.0, "pass"),
        (1.1, 1.3, "fail"),  # no gain
        (0.95, 1.3, "fail"),  # a gain, but not of 10 %
        (0.8, 0.7, "fail"),  # any digits do as well
    ],
)
def test_the_rule_of_the_verdict(memory, mixed, verdict):
    found = results(memory, mixed)
    for arm, jitter in ((MEMORY, 1.0005), (RESET, 1.001)):
        found[arm][1]["scales"]["1"]["frechet"] *= jitter
    assert judged(found)[0] == verdict


def test_seeds_that_differ_do_not_tell():
    found = results(0.8, 1.0)
    found[MEMORY][1]["scales"]["1"]["frechet"] *= 2.0
    assert judged(found)[0] == "inconclusive"
    assert judged({arm: values[:1] for arm, values in found.items()})[0] == "inconclusive"
