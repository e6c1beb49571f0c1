"""The claim of xAR: arms that differ in their context alone, disturbed rollouts, the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from arra.experiments.digit_vectors import Greys, draw
from arra.experiments.digits import digits, train_judge
from arra.systems.xar.arms import make_generator, train_arm
from arra.systems.xar.claim import judged
from arra.systems.xar.recipe import ARMS, CLEAN, DEVIATIONS, LONG, NOISY, Recipe, tiny


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_digits_become_vectors_and_come_back(patch):
    pictures = digits()[1].pictures[:20]
    codes = Greys(patch).of(pictures)
    assert codes.shape == (20, 8 // patch, 8 // patch, patch**2)
    assert float(codes.abs().max()) <= 1.0
    assert (Greys(patch).pictures(codes) == pictures).all()


def test_arms_differ_in_context_and_steps_alone():
    recipe = Recipe()
    assert recipe.of(NOISY) == recipe
    clean, long = recipe.of(CLEAN), recipe.of(LONG)
    assert clean.train.steps * 2 == long.train.steps == recipe.train.steps
    assert clean.options == long.options == replace(recipe.options, context="clean")
    generators = [make_generator(recipe.of(arm), 0) for arm in ARMS]
    assert [generator.units for generator in generators] == [16] * 3
    for generator in generators[1:]:
        for one, other in zip(generators[0].parameters(), generator.parameters(), strict=True):
            assert torch.equal(one, other)


def test_what_was_drawn_is_disturbed_for_later_entities_only():
    generator = make_generator(tiny(), 0)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    plain = draw(generator, ["one", "two"], 0)
    generator.deviation = 0.3
    disturbed = draw(generator, ["one", "two"], 0)
    assert torch.equal(plain[:, :2, :2], disturbed[:, :2, :2])  # the first cell: all its steps
    assert not torch.allclose(plain[:, 2:], disturbed[:, 2:])
    assert torch.equal(disturbed, draw(generator, ["one", "two"], 0))


def test_an_arm_is_trained_once(tmp_path):
    known, held_out = digits()
    judge = train_judge(known, held_out, 0)
    first = train_arm(tiny(), judge, CLEAN, 0, tmp_path, True)
    assert train_arm(tiny(), judge, CLEAN, 0, tmp_path, True) == first
    for deviation in DEVIATIONS:
        assert first[str(deviation)]["frechet"] > 0


def results(kept=0.94, clean=0.80, near=1.0, far=2.0, whole=0.97):
    """Two seeds with nearly the same numbers."""

    def two(accuracy, frechet):
        found = []
        for seed in (0, 1):
            values = {
                str(deviation): {"accuracy": whole, "frechet": 1.0} for deviation in DEVIATIONS
            }
            values[str(DEVIATIONS[-1])] = {
                "accuracy": accuracy + 0.001 * seed,
                "frechet": frechet * (1 + 0.001 * seed),
            }
            found.append(values)
        return found

    return {NOISY: two(kept, near), CLEAN: two(clean, far), LONG: two(clean, far)}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"clean": 0.95}, "fail"),
        ({"near": 3.0}, "fail"),
        ({"clean": 0.89}, "inconclusive"),
        ({"kept": 0.88}, "inconclusive"),
        ({"whole": 0.85, "kept": 0.84, "clean": 0.6}, "inconclusive"),
    ],
)
def test_the_rule_of_the_verdict(changes, verdict):
    assert judged(results(**changes))[0] == verdict


def test_one_seed_is_not_enough():
    assert judged({arm: found[:1] for arm, found in results().items()})[0] == "inconclusive"
