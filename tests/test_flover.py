"""The claim of Flover: the same outputs whatever the service, and what each of them computes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arra.systems.flover.claim import judged, served
from arra.systems.flover.pictures import draw_slots
from arra.systems.flover.recipe import ARMS, COMPACTED, GAPS, SCATTERED, SEQUENTIAL, WINDOW, tiny
from arra.systems.flover.simulator import arrivals, stepper_of

RECIPE = replace(tiny(), requests=14)


@pytest.fixture(scope="module")
def stepper():
    return stepper_of(RECIPE, RECIPE.size)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("unit", [None, 1e-4])
def test_all_ways_give_the_same_outputs(stepper, seed, unit):
    wanted = arrivals(RECIPE, seed)
    found = {arm: served(arm, RECIPE, stepper, wanted, unit) for arm in ARMS}
    useful = sum(arrival.length - 1 for arrival in wanted)
    for arm, run in found.items():
        assert run.codes == found[SEQUENTIAL].codes, arm
        assert [len(codes) for codes in run.codes] == [arrival.length for arrival in wanted]
        assert run.rows - run.wasted == useful, arm
        assert min(run.latencies) > 0
        assert run.total >= run.busy
    for arm in (SEQUENTIAL, COMPACTED, SCATTERED):
        assert found[arm].wasted == 0
    assert found[SCATTERED].moves == found[GAPS].moves == 0


def test_counting_gives_the_same_numbers_every_time(stepper):
    wanted = arrivals(RECIPE, 3)
    for arm in ARMS:
        one, other = (served(arm, RECIPE, stepper, wanted, None) for _ in range(2))
        assert one == other, arm


def test_requests_of_one_length_that_come_at_once_are_one_batch(stepper):
    wanted = [replace(a, at=0.0, length=6) for a in arrivals(replace(RECIPE, requests=4), 0)]
    together = served(COMPACTED, RECIPE, stepper, wanted, None)
    assert together.busy == 6  # passes: one for the prompts, five for the others
    assert together.rows == 4 * 5
    assert together.latencies == [6.0] * 4
    waited = served(WINDOW, replace(RECIPE, window=3.0), stepper, wanted, None)
    assert waited.rows == together.rows
    assert waited.busy == 6


def test_a_window_waits_and_draws_to_the_longest(stepper):
    base = arrivals(replace(RECIPE, requests=3), 0)
    plan = zip(base, (0.0, 1.0, 9.0), (3, 5, 4), strict=True)
    wanted = [replace(a, at=at, length=length) for a, at, length in plan]
    found = served(WINDOW, replace(RECIPE, window=2.0), stepper, wanted, None)
    # the first two begin at 2 and both end at 7; the third waits from 9 to 11
    assert found.latencies == [7.0, 6.0, 6.0]
    assert found.wasted == 2
    assert found.rows == 2 * 4 + 3


def test_arrivals_are_as_the_recipe_says():
    many = replace(RECIPE, requests=4000)
    wanted = arrivals(many, 0)
    assert wanted == arrivals(many, 0)
    assert wanted != arrivals(many, 1)
    lengths = [arrival.length for arrival in wanted]
    assert (min(lengths), max(lengths)) == RECIPE.lengths
    assert wanted[-1].at / len(wanted) == pytest.approx(1 / RECIPE.rate, rel=0.05)
    assert len({arrival.seed for arrival in wanted}) == 4000


def results(**changes):
    """Two seeds in which fused service takes a third of the sequential time."""
    common = {"different": 0, "wasted": 0}
    base = {
        SEQUENTIAL: {"total": 3.0, "latency": 2.0, **common},
        WINDOW: {"total": 1.5, "latency": 1.2, **common},
        COMPACTED: {"total": 1.0, "latency": 0.5, **common},
    }
    for arm, values in changes.items():
        base[arm].update(values)
    return {arm: [v, {**v, "total": v["total"] * 1.01}] for arm, v in base.items()}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({WINDOW: {"different": 1}}, "fail"),
        ({COMPACTED: {"wasted": 1}}, "fail"),
        ({WINDOW: {"total": 0.9}}, "fail"),
        ({SEQUENTIAL: {"total": 1.8}}, "inconclusive"),
        ({WINDOW: {"latency": 0.4}}, "inconclusive"),
    ],
)
def test_the_rule_of_the_verdict(changes, verdict):
    assert judged(results(**changes))[0] == verdict


def test_one_seed_is_not_enough():
    one = {arm: values[:1] for arm, values in results().items()}
    assert judged(one)[0] == "inconclusive"


def test_the_picture_of_the_page_is_drawn(tmp_path):
    draw_slots(tmp_path / "slots.png", RECIPE)
    assert (tmp_path / "slots.png").stat().st_size > 3000
