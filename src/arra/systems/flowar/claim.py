"""The claim: a head over a scale's map must be told the transformer's state position by position.

Three models of equal size and weights, trained alike; they differ in what the head is told. Losses
are compared on held-out digits, with the same times and noises for all.
"""

from __future__ import annotations

import math

from arra.experiments.digits import digits, floors, train_judge
from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.flowar.arms import train_arm
from arra.systems.flowar.recipe import ARMS, POOLED, RECIPES, SCATTERED, SPATIAL, Recipe
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import Result, Row, at, gaps, logarithm, measure, paired, run_arms

Results = dict[str, list[Result]]

MOST_LOSS, MOST_DISTANCE = 0.75, 0.6
"""Loss and Fréchet distance of the spatial head, at most, in those of the pooled one."""


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms for all seeds."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, recipe.crop).against(held_out)
    results = run_arms(train_arm, ARMS, run, recipe=recipe, judge=judge)
    verdict, statement = judged(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(results)),
        scale=_scale(recipe, results, floors(judge, known, held_out, recipe.drawn)),
        settings=to_plain({"recipe": recipe}),
    )


def judged(results: Results) -> tuple[Verdict, str]:
    """Pass, in the 95 % intervals over seeds: the loss of the spatial head is at most 0.75 times
    that of the pooled one and below the control's, its Fréchet distance at most 0.6 times the
    pooled one's. Fail: beyond one of these in the whole interval. Otherwise it could not tell."""
    spatial = results[SPATIAL]
    if len(spatial) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    loss, distance = (
        paired(logarithm(at(name)), spatial, results[POOLED]) for name in ("loss", "frechet")
    )
    control = paired(logarithm(at("loss")), spatial, results[SCATTERED])
    said = (
        f"ln loss, spatial minus pooled: {loss.statement()}; ln Fréchet distance, spatial minus "
        f"pooled: {distance.statement()}; ln loss, spatial minus scattered: {control.statement()}."
    )
    bounds = (
        (loss.interval, math.log(MOST_LOSS)),
        (distance.interval, math.log(MOST_DISTANCE)),
        (control.interval, 0.0),
    )
    if any(interval.low > bound for interval, bound in bounds):
        return "fail", f"Telling states position by position gains less than claimed. {said}"
    if all(interval.high <= bound for interval, bound in bounds):
        return "pass", f"States told position by position are what the head needs. {said}"
    return "inconclusive", f"The seeds do not tell. {said}"


def _measures(results: Results) -> list[Measure]:
    rows: list[Row] = [
        ("flow loss of held-out digits, mean over positions", "lower", at("loss")),
        ("Fréchet distance", "lower", at("frechet")),
        ("digit right", "higher", at("accuracy")),
        ("parameters", "neither", at("parameters")),
        ("seconds of a training step", "lower", at("step_seconds")),
    ]
    found = [measure(row, *(results[arm] for arm in ARMS)) for row in rows]
    if len(results[SPATIAL]) > 1:
        found += gaps(
            {
                f"ln {name}, spatial - {arm}": paired(
                    logarithm(at(name)), results[SPATIAL], results[arm]
                )
                for name in ("loss", "frechet")
                for arm in (POOLED, SCATTERED)
            }
        )
    return found


def _scale(recipe: Recipe, results: Results, real: dict[str, float]) -> str:
    return (
        f"handwritten digits of 8 x 8 pixels (1200 to train on, 597 held out), pixels as vectors "
        f"of one number, scales 1, 2, 4, 8; {recipe.size.depth} blocks of width "
        f"{recipe.size.width}, a head of {recipe.options.inner_depth} of {recipe.options.inner}, "
        f"{results[SPATIAL][0]['parameters'] / 1e6:.2f} M parameters in all, {recipe.train.steps} "
        f"steps of {recipe.batch.size} pictures, {len(results[SPATIAL])} paired seeds, "
        f"{recipe.drawn} pictures of each model in {recipe.options.steps} steps a scale, without "
        f"guidance; baseline: pooled, control: scattered; training pictures are "
        f"{real['frechet']:.3g} from held-out ones, {real['accuracy']:.1%} of which the judge "
        "reads rightly"
    )
