"""The claim of CSpD: the stepper of sequences, the distance of samples, the rule of the verdict."""

from __future__ import annotations

import pytest
import torch

from arra.denoising import Spans
from arra.systems.cspd.arms import kernel_distance, make, middle_distance, train_arm
from arra.systems.cspd.claim import _measures, judged
from arra.systems.cspd.pictures import plot_claim, plot_digits
from arra.systems.cspd.recipe import (
    ALIGNED,
    DIFFUSION,
    EXACT,
    GAUSSIAN,
    HEADS,
    INDEPENDENT,
    RELEASED,
    Recipe,
    tiny,
    tiny_digits,
)
from arra.systems.cspd.stepper import SequenceStepper


def test_ways_of_drawing_differ_in_what_they_say():
    ways = Recipe().samplers(DIFFUSION)
    assert set(ways) == {ALIGNED, INDEPENDENT, EXACT, RELEASED}
    assert [name for name, how in ways.items() if not how.shared] == [INDEPENDENT]
    assert [name for name, how in ways.items() if not how.rule.scaled] == [EXACT]
    assert [name for name, how in ways.items() if how.rule.temperature == 42.0] == [RELEASED]
    assert list(Recipe().samplers(GAUSSIAN)) == [ALIGNED]


@torch.inference_mode()
def test_a_span_is_drawn_from_what_is_before_it():
    """One pass over several spans of a sequence equals one for each."""
    recipe, normal = tiny(), torch.Generator().manual_seed(0)
    stepper = SequenceStepper(*make(recipe, DIFFUSION, recipe.target), recipe.law.length)
    vectors = torch.randn(2, 8, 2, generator=normal)
    spans = Spans(torch.tensor([0, 0, 1]), torch.tensor([2, 3, 0]), torch.tensor([3, 4, 1]))
    noise = torch.randn(sum(stepper.path_draws[:2]), 3, 2, generator=normal)
    cache, scale = stepper.begin([[], []], None), torch.ones(3, 1)
    whole = stepper.paths(cache, vectors, spans, noise, scale, 1.0, 0.1)
    changed = vectors.clone()
    changed[0, 3:], changed[1] = 9.0, -9.0
    again = stepper.paths(cache, changed, spans, noise, scale, 1.0, 0.1)
    torch.testing.assert_close(again.tokens, whole.tokens)


def test_the_kernel_distance_is_that_of_a_loop():
    one, other = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0))

    def mean(x, y):
        return sum(float(torch.exp(-(a - b).square().sum() / 8)) for a in x for b in y) / 49

    naive = mean(one, one) + mean(other, other) - 2 * mean(one, other)
    assert kernel_distance(one, other, 2.0) == pytest.approx(naive**0.5, rel=1e-4)
    assert kernel_distance(one, one, 2.0) == pytest.approx(0.0, abs=1e-3)
    assert middle_distance(torch.tensor([[0.0], [1.0], [3.0]])) == 2.0


@pytest.mark.parametrize("arm", HEADS)
def test_an_arm_is_trained_once(arm, tmp_path):
    first = train_arm(tiny(), arm, 0, tmp_path, True)
    assert train_arm(tiny(), arm, 0, tmp_path, True) == first
    assert first["target"]["passes"] == 8.0
    assert 1.0 < first[ALIGNED]["passes"] < 8.0
    assert 0 <= first[ALIGNED]["acceptance"] <= 1
    assert (tmp_path / f"{arm}-0".replace(" ", "-") / "drawn.safetensors").is_file()


def results(aligned=0.5, independent=0.1, mmd=0.03, exact=0.03, floor=0.02):
    """Two seeds with nearly the same numbers."""
    terms = dict.fromkeys(("log_ratio", "tempered", "log_scale", "target", "draft"), 0.0)
    way = {"draft passes": 3.0, "passes": 4.0, "valid": 0.8, "tries": 2.0, "fallbacks": 0.0}
    way |= {"gap": 0.1, "accepted": terms, "rejected": terms}
    shares = {ALIGNED: aligned, INDEPENDENT: independent, EXACT: aligned, RELEASED: 0.9}
    common = {"floor": floor, "draft": 0.1, "truth": 0.1, "target": {**way, "acceptance": 0.0}}
    mine = {name: {**way, "acceptance": share, "mmd": mmd} for name, share in shares.items()}
    mine |= {**common, "seconds": dict.fromkeys([*shares, "target"], 1.0)}
    other = {**common, ALIGNED: {**way, "acceptance": 0.7, "mmd": exact}}
    changed = {**mine, ALIGNED: {**mine[ALIGNED], "acceptance": aligned * 1.01}}
    return {DIFFUSION: [mine, changed], GAUSSIAN: [other, other]}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"aligned": 0.11}, "fail"),
        ({"aligned": 0.15}, "inconclusive"),
        ({"mmd": 0.05}, "inconclusive"),
        ({"mmd": 0.09}, "fail"),
        ({"exact": 0.05}, "inconclusive"),
    ],
)
def test_the_rule_of_the_verdict(changes, verdict):
    found = results(**changes)
    assert judged(found)[0] == verdict
    assert _measures(found)[0].name == "accepted, of tested tokens"


def test_one_seed_is_not_enough():
    assert judged({arm: found[:1] for arm, found in results().items()})[0] == "inconclusive"


def test_pictures_of_the_page_are_written(tmp_path):
    train_arm(tiny(), DIFFUSION, 0, tmp_path, True)
    plot_claim(tmp_path, tmp_path / "claim.png")
    report = plot_digits(tmp_path, tmp_path / "digits.png", tiny_digits())
    assert report["alone-0.05"]["passes"] == 3.0
    assert report["drafted-0.05"]["passes"] <= 3.0
    for name in ("claim.png", "digits.png"):
        assert (tmp_path / name).stat().st_size > 1000
