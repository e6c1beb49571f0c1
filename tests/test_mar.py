"""The claim of MAR: data whose law is known, arms alike, and the rule of the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from arra.experiments.rings import judged as judge
from arra.experiments.rings import learn, sequences, sliced_distance
from arra.randomness import seeded
from arra.systems.mar.arms import CodeHead, draw, make_head, make_model, train_arm
from arra.systems.mar.claim import BOOK_MANY, MANY, MEAN, PLAIN, judged
from arra.systems.mar.recipe import ARMS, CODES, Arm, Recipe, tiny


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rings", [1, 4])
def test_the_truth_is_possible_and_noise_is_not(rings):
    recipe = Recipe()
    truth = sequences(recipe, rings, 3000, random())
    assert truth.shape == (3000, 4, 2 * rings)
    assert judge(truth, recipe)["parts"] > 0.98
    assert judge(truth, recipe)["valid"] > 0.95
    noise = torch.randn(truth.shape, generator=random(1))
    assert judge(noise, recipe)["valid"] < 0.01
    jump = truth.clone()
    jump[:, 2:] = truth.roll(1, dims=0)[:, 2:]  # another walk goes on: points, but not neighbours
    assert 0.7 < judge(jump, recipe)["parts"] < 0.9  # a quarter of the tokens, a quarter of them


def test_distance_is_that_of_sorted_projections():
    one, other = torch.randn(2, 400, 3, generator=random())
    assert sliced_distance(one, one[torch.randperm(400)], 20, random(1)) == pytest.approx(
        0, abs=1e-9
    )
    moved = sliced_distance(one, one + torch.tensor([3.0, 0, 0]), 2000, random(1))
    assert moved == pytest.approx(1.5, rel=0.05)  # E|cos| of a random direction is 1/2
    assert sliced_distance(one, other, 50, random(1)) < 0.2


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_a_state_knows_only_what_is_before_it(arm):
    recipe = tiny()
    with seeded(0):
        model = make_model(recipe, 2 * arm.rings)
    tokens = torch.randn(3, recipe.length, 2 * arm.rings)
    with torch.no_grad():
        before = model(tokens)
        tokens[:, 2] += 1.0
        after = model(tokens)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_a_code_is_drawn_as_often_as_the_softmax_says():
    torch.manual_seed(0)
    head = CodeHead(4, torch.randn(5, 2))
    hidden = torch.randn(1, 4).expand(20_000, -1)
    with torch.no_grad():
        chances = head.logits(hidden[0]).softmax(dim=0)
        drawn = head.sample(hidden, torch.randn(1, 20_000, 2))
    shares = torch.bincount(head.nearest(drawn), minlength=5) / 20_000
    assert torch.allclose(shares, chances, atol=0.015)


@pytest.mark.parametrize("arm", ARMS[::2], ids=lambda arm: arm.name)
def test_an_arm_learns_and_draws(arm, tmp_path):
    recipe = replace(tiny(), steps=60, batch=64)
    source = random()
    with seeded(0):
        model, head = make_model(recipe, 2 * arm.rings), make_head(arm, recipe, source)
    tokens = sequences(recipe, arm.rings, 500, random(5))

    def loss() -> float:
        with torch.no_grad():
            hidden = model(tokens).flatten(0, 1)
            return float(head.loss(tokens.flatten(0, 1), hidden, random=random(6)))

    before = loss()
    learn(model, head, recipe, recipe.learning, source)
    assert loss() < before
    assert draw(model, head, recipe, 7, source).shape == (7, recipe.length, 2 * arm.rings)


def test_an_arm_is_trained_once(tmp_path):
    arm, recipe = Arm(CODES, 1, 8), tiny()
    first = train_arm(arm, recipe, 0, tmp_path, True)
    assert train_arm(arm, recipe, 0, tmp_path, True) == first
    assert 0 <= first["valid"] <= 1
    assert first["truth"]["parts"] > 0.9


def results(plain=0.95, mean=0.0, far=1.2, rings=0.9, book=0.05, many=0.03):
    """Two seeds with nearly the same numbers."""

    def two(**values):
        return [values, {name: value * 1.001 for name, value in values.items()}]

    found = {arm: two(valid=0.5, parts=0.5, distance=0.1, floor=0.02) for arm in ARMS}
    found[PLAIN] = two(valid=plain, parts=plain, distance=0.02 * far, floor=0.02)
    found[MEAN] = two(valid=mean, parts=mean, distance=0.1, floor=0.02)
    found[MANY] = two(valid=rings**4, parts=rings, distance=many, floor=0.02)
    found[BOOK_MANY] = two(valid=0.0, parts=0.3, distance=book, floor=0.02)
    return found


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"plain": 0.3}, "fail"),
        ({"book": 0.02}, "fail"),
        ({"plain": 0.8}, "inconclusive"),
        ({"far": 2.5}, "inconclusive"),
        ({"rings": 0.7}, "inconclusive"),
        ({"mean": 0.2}, "inconclusive"),
    ],
)
def test_the_rule_of_the_verdict(changes, verdict):
    assert judged(results(**changes))[0] == verdict


def test_one_seed_is_not_enough():
    assert judged({arm: found[:1] for arm, found in results().items()})[0] == "inconclusive"
