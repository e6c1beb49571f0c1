"""Convergence factors and pooled differences, against curves whose answer is known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arra.errors import InputError
from arra.metrics.bootstrap import (
    minimum_detectable_effect,
    paired_difference,
    pooled_differences,
)
from arra.metrics.convergence import (
    Bounds,
    Curve,
    convergence_factor,
    qualities,
    steps_to,
)

STEPS = (10, 20, 40, 80, 160, 320)


def logarithmic(faster: float = 1.0, start: float = 9.0) -> Curve:
    """A curve that falls by 1 with each doubling, so that it is read exactly everywhere."""
    return Curve(STEPS, tuple(start - math.log2(faster * step) for step in STEPS))


@given(st.floats(1.0, 4.0), st.floats(1.8, 3.5))
@settings(max_examples=50, deadline=None)
def test_a_curve_that_is_faster_by_a_factor_has_that_factor_at_every_quality(faster, quality):
    found = convergence_factor([logarithmic()] * 3, [logarithmic(faster)] * 3, quality)
    assert found.reached == 3
    assert found.interval is not None
    assert found.interval.value == pytest.approx(faster)
    assert found.interval.high == pytest.approx(faster)
    assert found.median.low == found.median.high == pytest.approx(faster)


def test_higher_is_better_is_the_mirror_image():
    up = [Curve(c.steps, tuple(-v for v in c.values)) for c in (logarithmic(), logarithmic(1.7))]
    found = convergence_factor([up[0]], [up[1]], -3.0, "higher")
    assert found.factors[0].low == pytest.approx(1.7)


def test_steps_are_read_between_evaluations_on_the_logarithm_of_steps():
    curve = Curve((1, 10, 100, 1000, 10000), (5.0, 4.0, 2.0, 2.5, 1.0))
    assert steps_to(curve, 4.0) == Bounds(10.0, 10.0)
    assert steps_to(curve, 3.0).low == pytest.approx(10**1.5)
    assert steps_to(curve, 2.0) == Bounds(100.0, 100.0)  # the first time
    assert steps_to(curve, 1.75).low == pytest.approx(1000 * 10**0.5)


def test_what_is_not_reached_is_a_bound_and_stays_in_the_result():
    slow, fast = logarithmic(), logarithmic(4.0)
    last = slow.values[-1]
    assert steps_to(slow, last - 0.5) == Bounds(320.0, math.inf)
    assert steps_to(slow, 8.0) == Bounds(0.0, 10.0)

    never = convergence_factor([fast, fast], [slow, fast], last - 0.5)
    assert never.reached == 1
    assert never.interval is None
    assert never.factors[1].exact
    assert never.factors[0].low == 0.0
    assert never.factors[0].high == pytest.approx(steps_to(fast, last - 0.5).low / 320)
    assert "1 of 2 seeds" in str(never)

    other = convergence_factor([slow], [fast], last - 0.5)
    assert str(other.factors[0]) == f"more than {320 / steps_to(fast, last - 0.5).low:.3g}"
    assert str(convergence_factor([slow], [slow], last - 1).factors[0]) == "unknown"
    at_once = convergence_factor([slow], [fast], 6.0 - 0.8)
    assert at_once.factors[0].high == math.inf  # the method had it before its first evaluation


def test_the_interval_is_the_paired_t_interval_of_logarithms():
    speeds = (1.1, 1.4, 1.9, 1.2)
    found = convergence_factor([logarithmic()] * 4, [logarithmic(s) for s in speeds], 3.0)
    assert found.interval is not None
    expected = paired_difference([math.log(s) for s in speeds], [0.0] * 4).interval
    assert found.interval.value == pytest.approx(float(np.prod(speeds)) ** 0.25)
    assert found.interval.low == pytest.approx(math.exp(expected.low))
    assert found.interval.high == pytest.approx(math.exp(expected.high))


def test_each_seed_can_have_a_quality_of_its_own():
    slow = [logarithmic(start=9.0), logarithmic(start=9.3)]
    fast = [logarithmic(2.0, start=9.0), logarithmic(2.0, start=9.3)]
    found = convergence_factor(slow, fast, qualities(slow)["baseline's last"])
    assert [f.low for f in found.factors] == pytest.approx([2.0, 2.0])


def test_stated_qualities_come_from_the_baseline_alone():
    found = qualities([logarithmic(start=9.0), logarithmic(start=9.2)], shares=(0.25, 0.5))
    assert list(found) == ["baseline after 80 steps", "baseline after 160 steps", "baseline's last"]
    assert found["baseline after 80 steps"] == pytest.approx([9.1 - math.log2(80)] * 2)


@pytest.mark.parametrize(
    ("steps", "values"),
    [
        ((1, 2, 3, 4), (4.0, 3.0, 2.0, 1.0)),
        ((1, 2, 2, 4, 5), (5.0, 4.0, 3.0, 2.0, 1.0)),
        ((0, 1, 2, 3, 4), (5.0, 4.0, 3.0, 2.0, 1.0)),
        ((1, 2, 3, 4, 5), (5.0, 4.0, math.nan, 2.0, 1.0)),
        ((1, 2, 3, 4, 5), (5.0, 4.0)),
    ],
)
def test_curves_that_cannot_be_read_are_refused(steps, values):
    with pytest.raises(InputError, match="Curve"):
        Curve(steps, values)


def test_pairs_must_match():
    with pytest.raises(InputError, match="1 and 2 curves"):
        convergence_factor([logarithmic()], [logarithmic()] * 2, 3.0)


@given(st.lists(st.floats(0.0, 10.0), min_size=5, max_size=5), st.floats(-1.0, 11.0))
def test_the_step_lies_where_a_naive_search_finds_the_crossing(values, quality):
    curve = Curve((1, 2, 4, 8, 16), tuple(values))
    found = steps_to(curve, quality)
    if min(values) > quality:
        assert found == Bounds(16.0, math.inf)
    elif values[0] <= quality:
        assert found.high <= 1.0
    else:
        before, after = next(
            (a, b)
            for (a, _), (b, v) in pairwise(zip(curve.steps, values, strict=True))
            if v <= quality
        )
        assert before - 1e-9 <= found.low == found.high <= after + 1e-9


# Differences with a pooled spread


def test_pooled_differences_of_one_arm_are_the_paired_ones():
    arm, base = [0.71, 0.74, 0.69, 0.80], [0.66, 0.70, 0.68, 0.71]
    (pooled,) = pooled_differences([arm], base)
    paired = paired_difference(arm, base).interval
    assert (pooled.value, pooled.low, pooled.high) == pytest.approx(
        (paired.value, paired.low, paired.high)
    )


def test_pooled_differences_are_those_of_least_squares():
    """The block design as a regression on arms and seeds, with the textbook error of a contrast."""
    from scipy import stats

    rng = np.random.default_rng(3)
    arms, seeds = 4, 3
    table = rng.normal(size=(arms, seeds)) + np.arange(arms)[:, None] + 5 * rng.normal(size=seeds)
    columns = []
    for arm in range(arms):
        for seed in range(seeds):
            row = np.zeros(arms + seeds - 1)
            row[arm] = 1.0
            if seed:
                row[arms + seed - 1] = 1.0
            columns.append(row)
    design, y = np.asarray(columns), table.reshape(-1)
    beta, *_ = np.linalg.lstsq(design, y, rcond=None)
    freedom = len(y) - design.shape[1]
    variance = float(((y - design @ beta) ** 2).sum()) / freedom * np.linalg.inv(design.T @ design)
    for arm, found in enumerate(pooled_differences(table[1:].tolist(), table[0].tolist()), start=1):
        contrast = np.zeros(design.shape[1])
        contrast[arm], contrast[0] = 1.0, -1.0
        half = stats.t.ppf(0.975, freedom) * math.sqrt(contrast @ variance @ contrast)
        assert found.value == pytest.approx(contrast @ beta)
        assert found.high - found.value == pytest.approx(half)


def test_pooled_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(4)
    held, count = 0, 600
    for _ in range(count):
        table = rng.normal(size=(4, 3)) + 10 * rng.normal(size=3)
        found = pooled_differences((table[1:] + 0.5).tolist(), table[0].tolist())
        held += sum(one.low <= 0.5 <= one.high for one in found)
    assert held / (3 * count) == pytest.approx(0.95, abs=0.025)


def test_one_seed_has_no_pooled_spread():
    with pytest.raises(InputError, match="two seeds"):
        pooled_differences([[1.0]], [0.0])


@pytest.mark.parametrize("pairs", [2, 3, 4])
def test_the_detectable_effect_of_few_pairs_exists(pairs):
    """scipy has no number for the far tail of the non-central law here; it has none to add."""
    from scipy import stats

    effect = minimum_detectable_effect(1.0, pairs)
    drawn = np.random.default_rng(5).normal(effect, 1.0, size=(4000, pairs))
    found = stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)
