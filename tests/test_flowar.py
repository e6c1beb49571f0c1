"""The claim of FlowAR: its arms, and the rule of the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from arra.experiments.digits import digits, train_judge
from arra.systems.flowar import recipe
from arra.systems.flowar.arms import make_generator, scattered, train_arm
from arra.systems.flowar.claim import judged


def test_arms_begin_with_the_same_weights():
    made = [make_generator(arm, recipe.tiny(), 3).state_dict() for arm in recipe.ARMS]
    for other in made[1:]:
        assert made[0].keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in made[0].items())


def test_scattered_states_are_those_of_the_map_in_another_order():
    states = torch.randn(4, 64, 3)
    found = scattered(states)
    assert torch.equal(found.sum(dim=2).sort(dim=1).values, states.sum(dim=2).sort(dim=1).values)
    assert (found == states).all(dim=2).float().mean() < 0.2
    assert not torch.equal(found, scattered(states))


def test_an_arm_is_trained_and_judged(tmp_path: Path):
    judge = train_judge(*digits(), 0)
    for arm in recipe.ARMS:
        found = train_arm(recipe.tiny(), judge, arm, 0, tmp_path, True)
        assert found["loss"] > 0
        assert found["frechet"] > 0


def results(loss: float, distance: float, control: float) -> dict:
    """Two seeds of a spatial head whose loss and distance are so many times the pooled one's."""

    def arm(loss: float, distance: float, jitter: float) -> dict:
        return {"loss": loss * jitter, "frechet": distance * jitter, "accuracy": 0.8}

    return {
        recipe.SPATIAL: [arm(loss, distance, j) for j in (1.0, 1.101)],
        recipe.POOLED: [arm(1.0, 1.0, j) for j in (1.0, 1.1)],
        recipe.SCATTERED: [arm(loss * control, 1.0, j) for j in (1.0, 1.1)],
    }


@pytest.mark.parametrize(
    ("loss", "distance", "control", "verdict"),
    [
        (0.6, 0.3, 1.5, "pass"),
        (0.8, 0.3, 1.5, "fail"),  # less gained than claimed
        (0.6, 0.7, 1.5, "fail"),
        (0.6, 0.3, 0.9, "fail"),  # as good wherever states stand
        (0.75, 0.3, 1.5, "inconclusive"),
    ],
)
def test_the_verdict_follows_its_rule(loss, distance, control, verdict):
    assert judged(results(loss, distance, control))[0] == verdict


def test_one_seed_says_nothing():
    found = {arm: values[:1] for arm, values in results(0.6, 0.3, 1.5).items()}
    assert judged(found)[0] == "inconclusive"
