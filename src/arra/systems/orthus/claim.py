"""The claim: a model of codes becomes one of vectors by a soft lookup, a diffusion head and little
tuning, and then draws nearer to real pictures without reading worse.

Baseline: the same model of codes, trained on for as many steps. Control: the same conversion with
squared errors in the place of the diffusion head.
"""

from __future__ import annotations

import math

from arra.experiments.digits import digits, floors, train_judge
from arra.files import to_plain
from arra.metrics.bootstrap import PairedDifference
from arra.systems.base import ClaimRun
from arra.systems.orthus.arms import train_arm, train_base
from arra.systems.orthus.recipe import ARMS, BASE, CODES, DIFFUSION, MEAN, RECIPES, Recipe
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import Result, Row, at, gaps, logarithm, measure, paired, run_arms

Results = dict[str, list[Result]]

NEARER = math.log(0.8)
"""The converted model's distance must be at most 0.8 of the baseline's."""
LOST = -0.01
"""And it may read a point worse."""
DISTANCE = logarithm(at("frechet"))


def claim(run: ClaimRun) -> ClaimResult:
    """Train and measure all arms for all seeds."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, 1)
    run_arms(train_base, [BASE], run, recipe=recipe, judge=judge)
    results = run_arms(train_arm, ARMS, run, recipe=recipe, judge=judge)
    verdict, statement = judged(results)
    floor = floors(judge, known, held_out, recipe.drawn)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(results)),
        scale=_scale(recipe, results, floor),
        settings=to_plain({"recipe": recipe}),
    )


def differences(results: Results) -> dict[str, PairedDifference]:
    """What the verdict rests on, seed by seed."""
    ours, codes, mean = (results[arm] for arm in (DIFFUSION, CODES, MEAN))
    return {
        "nearer": paired(DISTANCE, ours, codes),
        "mean is farther than diffusion": paired(DISTANCE, mean, ours),
        "mean is farther than codes": paired(DISTANCE, mean, codes),
        "reads": paired(at("read right"), ours, codes),
    }


def judged(results: Results) -> tuple[Verdict, str]:
    """Pass, in the whole 95 % intervals over seeds: ln distance of the converted model minus that
    of the codes at most ln 0.8, that of squared errors above both, and read digits at most a point
    below. Fail: the first not below 0, or reading more than a point worse, in the whole interval.
    Otherwise it could not tell."""
    if len(results[DIFFUSION]) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    found = differences(results)
    said = "; ".join(f"{name}: {gap.statement()}" for name, gap in found.items())
    intervals = {name: gap.interval for name, gap in found.items()}
    text = f"Differences of ln Fréchet distance, and of the share of digits read right. {said}."
    if intervals["nearer"].low >= 0 or intervals["reads"].high < LOST:
        return "fail", text
    good = (
        intervals["nearer"].high <= NEARER
        and intervals["mean is farther than diffusion"].low > 0
        and intervals["mean is farther than codes"].low > 0
        and intervals["reads"].low >= LOST
    )
    return ("pass", text) if good else ("inconclusive", f"The seeds do not tell. {text}")


def _measures(results: Results) -> list[Measure]:
    rows: list[Row] = [
        ("Fréchet distance of drawn digits", "lower", at("frechet")),
        ("the same, mean of the ten digits", "lower", at("class frechet")),
        ("drawn digits that are read as asked for", "higher", at("accuracy")),
        ("held-out digits named exactly", "higher", at("read right")),
    ]
    columns = [results[arm] for arm in (DIFFUSION, CODES, MEAN)]
    found = [measure(row, *columns) for row in rows]
    for stage, label in (("before", "before the conversion"), ("tuned", "new parts tuned alone")):
        rows = [
            (f"{label}: Fréchet distance", "lower", at(stage, "frechet")),
            (f"{label}: held-out digits named exactly", "higher", at(stage, "read right")),
        ]
        found += [measure(row, results[DIFFUSION]) for row in rows]
    if len(results[DIFFUSION]) > 1:
        found += gaps(differences(results))
    return found


def _scale(recipe: Recipe, results: Results, floor: dict[str, float]) -> str:
    size = recipe.size
    return (
        f"digits of 8 x 8 as 16 vectors of 4 or 16 of 32 codes, a causal language model of "
        f"{size.depth} blocks of width {size.width}, {recipe.base.steps} + {recipe.tuned.steps} + "
        f"{recipe.whole.steps} steps of {recipe.batch.size}, {recipe.drawn} drawn without "
        f"guidance (real digits: distance {floor['frechet']:.2f}, {floor['accuracy']:.3f} read "
        f"right), {len(results[DIFFUSION])} seeds"
    )
