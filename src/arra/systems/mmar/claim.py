"""The claim, in two parts.

A: where a perfect denoiser's output is rounded to bfloat16, objective v keeps the errors of a
trajectory least. B: one language model that sees clean vectors and draws them with a head reads
digits no worse than with codes (the baseline), and better than one through which diffusion runs
(the control), and draws no worse than either.
"""

from __future__ import annotations

import math

from arra.experiments.digits import digits, floors, train_judge
from arra.files import to_plain
from arra.metrics.bootstrap import PairedDifference
from arra.systems.base import ClaimRun
from arra.systems.mmar.arms import train_arm
from arra.systems.mmar.numerics import SCHEDULES, rounding_errors
from arra.systems.mmar.recipe import ARMS, CODES, NOISED, RECIPES, VECTORS, Recipe
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import (
    Result,
    Row,
    at,
    gaps,
    logarithm,
    measure,
    over_seeds,
    paired,
    run_arms,
)

Results = dict[str, list[Result]]
Errors = dict[str, list[dict[str, float]]]
"""By schedule, of each seed: the error by what the network says."""

BELOW_NOISE, BELOW_DATA = 5.0, 2.0
"""So many times smaller the error with v must be than with the noise, and with the data."""
BETTER, WORSE = 0.02, -0.01
"""What vectors must gain in reading over diffusion through the model, and may lose at most."""
DISTANCE = logarithm(at("frechet"))


def claim(run: ClaimRun) -> ClaimResult:
    """Both parts, for all seeds."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, 1)
    errors = {
        schedule: [rounding_errors(schedule, recipe.numerics, seed) for seed in run.seeds]
        for schedule in SCHEDULES
    }
    results = run_arms(train_arm, ARMS, run, recipe=recipe, judge=judge)
    verdict, statement = judged(errors, results)
    floor = floors(judge, known, held_out, recipe.drawn)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=(*_numerics(errors), *_measures(results)),
        scale=_scale(recipe, results, floor),
        settings=to_plain({"recipe": recipe}),
    )


def differences(results: Results) -> dict[str, PairedDifference]:
    """What the verdict on part B rests on, seed by seed."""
    ours, codes, noised = (results[arm] for arm in (VECTORS, CODES, NOISED))
    read = at("read right")
    return {
        "read, vectors - codes": paired(read, ours, codes),
        "read, vectors - noised": paired(read, ours, noised),
        "ln distance, vectors - codes": paired(DISTANCE, ours, codes),
        "ln distance, vectors - noised": paired(DISTANCE, ours, noised),
    }


def stable(errors: Errors) -> bool:
    """Part A, in every seed and with both schedules."""
    return all(
        BELOW_NOISE * e["v"] <= e["epsilon"] and BELOW_DATA * e["v"] <= e["origin"]
        for seeds in errors.values()
        for e in seeds
    )


def judged(errors: Errors, results: Results) -> tuple[Verdict, str]:
    """Fail: v is not the least of part A by its factors, or diffusion through the model reads more
    than a point better in the whole 95 % interval over seeds, or vectors draw farther than codes in
    the whole interval. Pass: part A holds; in the whole intervals vectors read not a point worse
    than codes and two points better than diffusion through the model, and their ln distance is at
    most ln 1.05 above either. Otherwise it could not tell."""
    if len(results[VECTORS]) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    found = differences(results)
    said = "; ".join(f"{name}: {gap.statement()}" for name, gap in found.items())
    part = "holds" if stable(errors) else "does not hold"
    text = f"Part A {part}. Part B: {said}."
    intervals = {name: gap.interval for name, gap in found.items()}
    lost = intervals["read, vectors - noised"].high < WORSE
    if not stable(errors) or lost or intervals["ln distance, vectors - codes"].low > 0:
        return "fail", text
    good = (
        intervals["read, vectors - codes"].low >= WORSE
        and intervals["read, vectors - noised"].low >= BETTER
        and intervals["ln distance, vectors - codes"].high <= math.log(1.05)
        and intervals["ln distance, vectors - noised"].high <= math.log(1.05)
    )
    return ("pass", text) if good else ("inconclusive", f"The seeds do not tell. {text}")


def _numerics(errors: Errors) -> list[Measure]:
    """v beside the noise (baseline) and the data (control)."""
    found = []
    for schedule, seeds in errors.items():
        v, noise, data = (
            over_seeds([e[said] for e in seeds]) for said in ("v", "epsilon", "origin")
        )
        name = f"rounding error at the end, {schedule} schedule"
        found.append(Measure(name, v, noise, data, "lower"))
    return found


def _measures(results: Results) -> list[Measure]:
    rows: list[Row] = [
        ("held-out digits named exactly", "higher", at("read right")),
        ("Fréchet distance of drawn digits", "lower", at("frechet")),
        ("the same, mean of the ten digits", "lower", at("class frechet")),
        ("drawn digits that are read as asked for", "higher", at("accuracy")),
        ("parameters", "neither", at("parameters")),
        ("seconds of a step", "lower", at("step_seconds")),
    ]
    columns = [results[arm] for arm in (VECTORS, CODES, NOISED)]
    found = [measure(row, *columns) for row in rows]
    if len(results[VECTORS]) > 1:
        found += gaps(differences(results))
    return found


def _scale(recipe: Recipe, results: Results, floor: dict[str, float]) -> str:
    size = recipe.size
    return (
        f"A: {recipe.numerics.points} points, {recipe.numerics.steps} steps. B: digits of 8 x 8 as "
        f"16 vectors of 4, a language model of {size.depth} blocks of width {size.width}, "
        f"{recipe.train.steps} steps of {recipe.batch.size}, half of the rows to read, "
        f"{recipe.drawn} drawn without guidance (real digits: distance {floor['frechet']:.2f}, "
        f"{floor['accuracy']:.3f} read right), {len(results[VECTORS])} seeds"
    )
