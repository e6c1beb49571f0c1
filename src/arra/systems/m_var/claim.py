"""The claim: attention within scales and a linear-time scan between them do what block-causal
attention does, at equal parameters, and both paths are needed.

Four models of as many parameters learn the same digits; what is compared is the held-out
cross-entropy of the same codes, scale by scale.
"""

from __future__ import annotations

from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.m_var.arms import seconds_by_length, size_of, train_arm
from arra.systems.m_var.recipe import ARMS, BOTH, FULL, INTRA, RECIPES, SCAN, Recipe
from arra.systems.results import ClaimResult, Estimate, Measure, Verdict
from arra.systems.seeds import Reading, Result, Row, estimate, measure, paired, run_arms

Results = dict[str, list[Result]]

ALLOWED = 0.02
"""Nats a code that M-VAR may be worse than block-causal attention."""
TOO_MUCH = 0.05
"""And where it has failed."""


def nats(result: Result) -> float:
    """Held-out nats a code."""
    return result["nats"]


def at(level: int) -> Reading:
    """The same at one scale (-1 is the finest)."""
    return lambda result: result["scales"][level]


def claim(run: ClaimRun) -> ClaimResult:
    """Train and measure all arms for all seeds, then time blocks over growing pyramids."""
    recipe = RECIPES[run.budget]()
    results = run_arms(train_arm, ARMS, run, "mixer", recipe=recipe)
    verdict, statement = judged(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(results) + _times(recipe)),
        scale=_scale(recipe, results),
        settings=to_plain(
            {"recipe": recipe, "feed_forward": {a: size_of(recipe, a).feed_forward for a in ARMS}}
        ),
    )


def _measures(results: Results) -> list[Measure]:
    """M-VAR beside VAR's attention (baseline) and attention within scales alone (control)."""
    levels = len(results[BOTH][0]["scales"])
    rows: list[Row] = [("held-out nats a code", "lower", nats)]
    rows += [(f"the same, scale {n + 1} of {levels}", "lower", at(n)) for n in range(levels)]
    columns = [results[arm] for arm in (BOTH, FULL, INTRA)]
    found = [measure(row, *columns) for row in rows]
    found += [
        measure((f"scan alone: {name}", better, read), results[SCAN])
        for name, better, read in (rows[0], rows[-1])
    ]
    if len(columns[0]) > 1:
        for name, read, one, other in (
            ("M-VAR - block-causal attention", nats, BOTH, FULL),
            ("attention within scales alone - M-VAR", nats, INTRA, BOTH),
            ("scan alone - M-VAR, finest scale", at(-1), SCAN, BOTH),
        ):
            gap = estimate(paired(read, results[one], results[other]))
            found.append(Measure(f"paired difference, {name}", gap))
    seconds: Row = ("seconds a training step", "lower", lambda r: r["step_seconds"])
    return [*found, measure(seconds, *columns)]


def _times(recipe: Recipe) -> list[Measure]:
    times = seconds_by_length(recipe)
    return [
        Measure(
            f"milliseconds of the blocks, {kind}, {length} cells",
            Estimate(1e3 * times[BOTH][length][kind]),
            Estimate(1e3 * times[FULL][length][kind]),
            None,
            "lower",
            "ms",
        )
        for kind in ("training", "drawing")
        for length in times[BOTH]
    ]


def judged(results: Results) -> tuple[Verdict, str]:
    """Pass: in the 95 % interval over seeds M-VAR is at most 0.02 nats a code worse than
    block-causal attention, and leaving out the scan costs, and leaving out attention costs at the
    finest scale. Fail: more than 0.05 worse in the whole interval, or one of the paths is of no use
    in the whole interval. Otherwise the experiment could not tell."""
    if len(results[BOTH]) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    close = paired(nats, results[BOTH], results[FULL])
    scan = paired(nats, results[INTRA], results[BOTH])
    attention = paired(at(-1), results[SCAN], results[BOTH])
    said = (
        f"Held-out nats a code, M-VAR minus block-causal attention: {close.statement()}; without "
        f"the scan minus M-VAR: {scan.statement()}; without attention minus M-VAR at the finest "
        f"scale: {attention.statement()}."
    )
    if close.interval.low > TOO_MUCH:
        return "fail", f"Attention to coarser scales is missed. {said}"
    if scan.interval.high < 0:
        return "fail", f"The scan is dead weight. {said}"
    if attention.interval.high < 0:
        return "fail", f"Attention is dead weight. {said}"
    if close.interval.high < ALLOWED and scan.interval.low > 0 and attention.interval.low > 0:
        return "pass", f"Both paths together do what block-causal attention does. {said}"
    return "inconclusive", f"The seeds do not tell. {said}"


def _scale(recipe: Recipe, results: Results) -> str:
    counts = ", ".join(f"{results[arm][0]['parameters']} ({arm})" for arm in ARMS)
    return (
        f"handwritten digits of 8 x 8 pixels (1200 to train on, 597 held out), pixels as codes "
        f"without loss in scales of 1, 2, 4 and 8, {recipe.size.depth} blocks of width "
        f"{recipe.size.width}, parameters: {counts}, {recipe.train.steps} steps of "
        f"{recipe.batch.size} pictures, {len(results[BOTH])} paired seeds; blocks timed on one "
        f"picture"
    )
