"""The claim: next-scale prediction needs a pass a scale instead of one a code, and loses nothing.

Three models of equal width and depth, trained for as many steps on the same digits, differ in the
units that one pass draws: scales, single pixels in raster order (the baseline), and bands of two
rows (the control: as few passes, without scales). Their pictures go before one judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from arra.experiments.digits import digits, floors, train_judge
from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.results import ClaimResult, Estimate, Measure, Verdict
from arra.systems.seeds import Result, Row, at, estimate, logarithm, measure, paired, run_arms
from arra.systems.var.arms import drawing_seconds, middle, train_arm
from arra.systems.var.recipe import ARMS, BANDS, RASTER, RECIPES, SCALES, Recipe

Results = dict[str, list[Result]]

MOST_DISTANCE = 1.5
"""The Fréchet distance may be this many times that of raster order."""
MOST_ACCURACY = 0.03
"""And so many digits fewer may be read rightly."""
DISTANCE = logarithm(at("frechet"))


def right(result: Result) -> float:
    """Share of the digits that the judge reads as what was asked for."""
    return result["accuracy"]


ROWS: tuple[Row, ...] = (
    ("ln Fréchet distance", "lower", DISTANCE),
    ("digit right", "higher", right),
    ("Fréchet distance", "lower", at("frechet")),
    ("Fréchet distance, guided", "lower", at("guided frechet")),
    ("digit right, guided", "higher", at("guided accuracy")),
    ("held-out nats a picture (of the codes)", "lower", at("nats")),
    ("seconds a training step", "lower", at("step_seconds")),
)


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms for all seeds, then time how they draw."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, recipe.judge_crop)
    judge = replace(judge, reference=held_out.cropped(recipe.crop).pictures)
    results = run_arms(train_arm, ARMS, run, recipe=recipe, judge=judge)
    measures = [measure(row, *(results[arm] for arm in (SCALES, RASTER, BANDS))) for row in ROWS]
    if len(run.seeds) > 1:
        measures += [_gap(row, results) for row in ROWS[:2]]
    measures += _costs(recipe)
    verdict, statement = judged(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(measures),
        scale=_scale(
            recipe, results, floors(judge, known.cropped(recipe.crop), held_out, recipe.drawn)
        ),
        settings=to_plain({"recipe": recipe, "units": ARMS}),
    )


def _gap(row: Row, results: Results) -> Measure:
    """Scales minus raster order, and beside it scales minus bands."""
    name, _, read = row
    system, control = (
        estimate(paired(read, results[SCALES], results[arm])) for arm in (RASTER, BANDS)
    )
    return Measure(f"paired difference, {name}", system, None, control)


def _costs(recipe: Recipe) -> list[Measure]:
    """Passes, and seconds a picture alone and in a batch."""
    passes = {arm: float(len(units)) for arm, units in ARMS.items()}
    found = [_columns("sequential passes a picture", passes)]
    for batch in (1, 32):
        times = drawing_seconds(recipe, batch)
        medians = {arm: middle(times[arm]) for arm in ARMS}
        found.append(_columns(f"seconds a picture, {batch} at once (median)", medians, "s"))
    return found


def _columns(name: str, values: Mapping[str, float], unit: str = "") -> Measure:
    system, baseline, control = (Estimate(values[arm]) for arm in (SCALES, RASTER, BANDS))
    return Measure(name, system, baseline, control, "lower", unit)


def judged(results: Results) -> tuple[Verdict, str]:
    """Pass: in the 95 % interval over seeds scales are at most 1.5 times as far from real digits as
    raster order, with at most 0.03 fewer digits right, and nearer than bands of as few passes.
    Fail: worse than one of these margins in the whole interval, or no nearer than bands. Otherwise
    the experiment could not tell."""
    if len(results[SCALES]) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    far = paired(DISTANCE, results[SCALES], results[RASTER])
    read = paired(right, results[SCALES], results[RASTER])
    control = paired(DISTANCE, results[SCALES], results[BANDS])
    limit = math.log(MOST_DISTANCE)
    said = (
        f"ln Fréchet distance, scales minus raster order: {far.statement()}; digits right: "
        f"{read.statement()}; ln Fréchet distance, scales minus bands: {control.statement()}."
    )
    within = far.interval.high < limit and read.interval.low > -MOST_ACCURACY
    beyond = far.interval.low > limit or read.interval.high < -MOST_ACCURACY
    if beyond:
        return "fail", f"Next-scale prediction loses quality. {said}"
    if control.interval.low > 0:
        return "fail", f"Bands of as few passes do as well: it is not the scales. {said}"
    if within and control.interval.high < 0:
        return "pass", f"A sixteenth of the passes, and no quality is lost. {said}"
    return "inconclusive", f"The seeds do not tell. {said}"


def _scale(recipe: Recipe, results: Results, real: dict[str, float]) -> str:
    parameters = ", ".join(f"{results[arm][0]['parameters'] / 1e6:.2f} M ({arm})" for arm in ARMS)
    return (
        f"handwritten digits of 8 x 8 pixels (1200 to train on, 597 held out), pixels as codes "
        f"without loss, {recipe.size.depth} blocks of width {recipe.size.width}, parameters: "
        f"{parameters}, {recipe.train.steps} steps of {recipe.batch.size} pictures, "
        f"{len(results[SCALES])} paired seeds, {recipe.drawn} pictures drawn of each model; "
        f"training pictures themselves are {real['frechet']:.3g} from the held-out ones; the judge "
        f"reads {real['accuracy']:.1%} of held-out digits rightly"
    )
