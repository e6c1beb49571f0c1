"""The claim: scales that show the picture draw in schedules never trained, and lose nothing.

Four models of equal width and depth, trained for as many steps on the same digits. Residual and
direct scales, all else equal, say whether showing the picture costs quality. The flexible model,
which saw schedules drawn at random, is judged in schedules that it never saw, beside its own
default and beside the same model trained in one schedule (the control): is it random schedules that
let it draw in any, or does the table of places do that alone?
"""

from __future__ import annotations

import math
from dataclasses import replace

from arra.experiments.digits import digits, floors, train_judge
from arra.files import to_plain
from arra.metrics.bootstrap import PairedDifference, paired_difference
from arra.systems.base import ClaimRun
from arra.systems.flexvar.arms import train_arm
from arra.systems.flexvar.recipe import (
    ARMS,
    DEFAULT,
    DIRECT,
    FIXED,
    FLEXIBLE,
    RECIPES,
    RESIDUAL,
    UNSEEN,
    Recipe,
    named,
)
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import Reading, Result, Row, estimate, measure, paired, run_arms

Results = dict[str, list[Result]]

MOST_DIRECT = 1.15
"""Direct scales may be so many times as far from real digits as residual ones."""
MOST_UNSEEN = 1.5
"""Unseen schedules, on average, so many times as far as the default one."""
FAILED_UNSEEN = 2.0
"""And none of them so many times."""


def of(sides: tuple[int, ...], name: str) -> Reading:
    """What was measured in one schedule."""
    return lambda result: result["schedules"][named(sides)][name]


def distance(sides: tuple[int, ...] = DEFAULT) -> Reading:
    """Logarithm of the Fréchet distance, so that differences are ratios."""
    return lambda result: math.log(max(of(sides, "frechet")(result), 1e-6))


def unseen(result: Result) -> float:
    """Its mean over the schedules that training never had."""
    return sum(distance(sides)(result) for sides in UNSEEN) / len(UNSEEN)


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms for all seeds."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, recipe.judge_crop)
    judge = replace(judge, reference=held_out.cropped(recipe.crop).pictures)
    results = run_arms(train_arm, ARMS, run, recipe=recipe, judge=judge)
    verdict, statement = judged(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(results)),
        scale=_scale(
            recipe, results, floors(judge, known.cropped(recipe.crop), held_out, recipe.drawn)
        ),
        settings=to_plain({"recipe": recipe, "unseen": UNSEEN}),
    )


def _measures(results: Results) -> list[Measure]:
    """Columns: the flexible model, residual scales (default schedule alone), the control."""
    flexible, residual, direct, fixed = (
        results[arm] for arm in (FLEXIBLE, RESIDUAL, DIRECT, FIXED)
    )
    rows = []
    for name, better, key in (
        ("Fréchet distance", "lower", "frechet"),
        ("digit right", "higher", "accuracy"),
    ):
        row: Row = (f"{name}, {named(DEFAULT)}", better, of(DEFAULT, key))  # type: ignore[assignment]
        rows.append(measure(row, flexible, residual, fixed))
        row = (f"direct scales and places of one schedule: {name}", better, of(DEFAULT, key))  # type: ignore[assignment]
        rows.append(measure(row, direct, residual))
        for sides in UNSEEN:
            row = (f"{name}, {named(sides)} (unseen)", better, of(sides, key))  # type: ignore[assignment]
            rows.append(measure(row, flexible, None, fixed))
    rows.append(measure(("ln Fréchet distance, unseen", "lower", unseen), flexible, None, fixed))
    if len(flexible) > 1:
        gaps = {
            "ln Fréchet distance, direct - residual": paired(distance(), direct, residual),
            "ln Fréchet distance, flexible: unseen - default": _moved(flexible),
            "ln Fréchet distance, unseen: flexible - control": paired(unseen, flexible, fixed),
            "ln Fréchet distance, default: flexible - control": paired(distance(), flexible, fixed),
        }
        rows += [Measure(f"paired difference, {name}", estimate(g)) for name, g in gaps.items()]
    return rows


def _moved(results: list[Result]) -> PairedDifference:
    """Unseen schedules minus the default one of the same models."""
    return paired_difference([unseen(r) for r in results], [distance()(r) for r in results])


def judged(results: Results) -> tuple[Verdict, str]:
    """Pass: in the 95 % interval over seeds unseen schedules are on average at most 1.5 times as
    far from real digits as the flexible model's default, no single one 2 times, and nearer than
    the control's; and direct scales are at most 1.15 times as far as residual ones. Fail: outside
    one of these margins in the whole interval. Otherwise the experiment could not tell."""
    flexible, fixed = results[FLEXIBLE], results[FIXED]
    if len(flexible) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    shown = paired(distance(), results[DIRECT], results[RESIDUAL])
    moved, control = _moved(flexible), paired(unseen, flexible, fixed)
    far = max(_worst(flexible, sides) for sides in UNSEEN)
    said = (
        f"ln Fréchet distance, direct minus residual scales: {shown.statement()}; flexible, unseen "
        f"schedules minus its default: {moved.statement()}, the worst schedule {far:.2f} times; "
        f"unseen schedules, flexible minus trained in one schedule: {control.statement()}."
    )
    if far > FAILED_UNSEEN or moved.interval.low > math.log(MOST_UNSEEN):
        return "fail", f"Schedules that were not trained lose quality. {said}"
    if shown.interval.low > math.log(MOST_DIRECT):
        return "fail", f"Scales that show the picture do worse than residual ones. {said}"
    if control.interval.low > 0:
        return "fail", f"Random schedules do not help: one trained schedule does as well. {said}"
    within = moved.interval.high <= math.log(MOST_UNSEEN)
    if within and shown.interval.high <= math.log(MOST_DIRECT) and control.interval.high < 0:
        return "pass", f"Direct scales lose nothing and draw in schedules never trained. {said}"
    return "inconclusive", f"The seeds do not tell. {said}"


def _worst(results: list[Result], sides: tuple[int, ...]) -> float:
    """Mean over seeds of how many times as far as the default a schedule is (geometric)."""
    gaps = [distance(sides)(result) - distance()(result) for result in results]
    return math.exp(sum(gaps) / len(gaps))


def _scale(recipe: Recipe, results: Results, real: dict[str, float]) -> str:
    parameters = ", ".join(f"{results[arm][0]['parameters'] / 1e6:.2f} M ({arm})" for arm in ARMS)
    return (
        f"handwritten digits of 8 x 8 pixels (1200 to train on, 597 held out), pixels as codes "
        f"without loss, {recipe.size.depth} blocks of width {recipe.size.width}, parameters: "
        f"{parameters}, {recipe.train.steps} steps of {recipe.batch.size} pictures, "
        f"{len(results[FLEXIBLE])} paired seeds, {recipe.drawn} pictures drawn of each model and "
        f"schedule, without guidance; training pictures themselves are {real['frechet']:.3g} from "
        f"the held-out ones; the judge reads {real['accuracy']:.1%} of held-out digits rightly"
    )
