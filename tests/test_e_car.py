"""The claim of E-CAR: its arms and their cost, and the rule of the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from arra.experiments.digits import digits, train_judge
from arra.heads.stages import stages
from arra.systems.e_car import recipe
from arra.systems.e_car.arms import (
    NaiveGenerator,
    drawing_work,
    make_generator,
    steps_within,
    train_arm,
    training_steps,
    ways_of,
)
from arra.systems.e_car.claim import by_way, judged


def test_arms_begin_with_the_same_weights_but_for_places():
    made = {arm: make_generator(arm, recipe.tiny(), 3).state_dict() for arm in recipe.ARMS}
    one, other = made[recipe.STAGES], made[recipe.ONE]
    assert one.keys() == other.keys()
    assert {name for name, w in other.items() if not torch.equal(w, one[name])} == {"places"}
    assert make_generator(recipe.ONE, recipe.Recipe(), 0).grids == ((8, 8),)


def test_operations_are_those_of_linear_layers_and_attention():
    """Steps of one stage cost alike; all stages together no more than the cut arm has room for."""
    plan = recipe.Recipe()
    one = make_generator(recipe.ONE, plan, 0).eval()
    works = [drawing_work(one.paced(steps=steps)) for steps in (1, 2, 5)]
    assert works[2] - works[1] == 3 * (works[1] - works[0])
    whole = drawing_work(make_generator(recipe.STAGES, plan, 0).eval())
    steps = steps_within(one, whole)
    assert drawing_work(one.paced(steps=steps)) <= whole < drawing_work(one.paced(steps=steps + 1))
    assert training_steps(recipe.STAGES, plan) == plan.train.steps
    assert training_steps(recipe.ONE, plan) == pytest.approx(plan.train.steps * 84 / 64, rel=0.1)


def test_naive_joints_have_the_right_variance_and_nothing_else():
    generator = make_generator(recipe.STAGES, recipe.Recipe(), 0)
    naive = NaiveGenerator(generator.config)
    before, noise = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 64, 1)
    start, _ = naive._start(2, before + 1.0, noise, 1.0)
    after = stages(3)[2]
    assert torch.allclose(start, torch.tensor(1.0 + (after.start**2 - (1 / 3) ** 2) ** 0.5))
    assert naive._start(0, None, noise, 0.5) == (noise, 0.5)


def test_an_arm_is_trained_and_judged_in_its_ways(tmp_path: Path):
    judge, plan = train_judge(*digits(), 0), recipe.tiny()
    found = {arm: [train_arm(plan, judge, arm, 0, tmp_path, True)] for arm in recipe.ARMS}
    for arm in recipe.ARMS:
        names = ways_of(arm, make_generator(arm, plan, 0).eval(), plan)
        assert all(found[arm][0][name]["frechet"] > 0 for name in names)
    ways = by_way(found)
    assert ways[recipe.CUT][0]["work"] <= ways[recipe.STAGES][0]["work"]
    assert ways[recipe.NAIVE][0]["work"] == ways[recipe.STAGES][0]["work"]


def results(work: float, whole: float, cut: float, naive: float) -> dict:
    """Two seeds: stages of this cost, and so many times as far as the others."""

    def way(distance: float, work: float, jitter: float) -> dict:
        return {"frechet": distance * jitter, "work": work, "steps": 8}

    far = {recipe.STAGES: 1.0, recipe.ONE: whole, recipe.CUT: cut, recipe.NAIVE: naive}
    return {
        name: [
            way(1.0 / times, work if name == recipe.STAGES else 1.0, jitter)
            for jitter in ((1.0, 1.101) if name == recipe.STAGES else (1.0, 1.1))
        ]
        for name, times in far.items()
    }


@pytest.mark.parametrize(
    ("work", "whole", "cut", "naive", "verdict"),
    [
        (0.5, 1.0, 0.5, 0.5, "pass"),
        (0.6, 1.0, 0.5, 0.5, "fail"),  # costs too much
        (0.5, 1.6, 0.5, 0.5, "fail"),  # loses quality
        (0.5, 1.0, 1.2, 0.5, "fail"),  # fewer steps do as well
        (0.5, 1.0, 0.5, 1.2, "fail"),  # the correction is of no use
        (0.5, 1.3, 0.5, 0.5, "inconclusive"),
    ],
)
def test_the_verdict_follows_its_rule(work, whole, cut, naive, verdict):
    assert judged(results(work, whole, cut, naive))[0] == verdict


def test_one_seed_says_nothing():
    found = {way: values[:1] for way, values in results(0.5, 1.0, 0.5, 0.5).items()}
    assert judged(found)[0] == "inconclusive"
