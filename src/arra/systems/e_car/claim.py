"""The claim: stages of growing resolution draw as well as one at the whole resolution, for less.

Two models of equal size, trained for the same number of operations on the same digits, one with
stages, one without; the latter also draws in fewer steps, for no more than stages cost. The former
also draws with its stages joined naively. Operations are counted, not timed.
"""

from __future__ import annotations

import math

from arra.experiments.digits import digits, floors, train_judge
from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.e_car.arms import train_arm
from arra.systems.e_car.recipe import ARMS, CUT, NAIVE, ONE, RECIPES, STAGES, Recipe
from arra.systems.results import Better, ClaimResult, Measure, Verdict
from arra.systems.seeds import Result, at, beside, gaps, logarithm, paired, run_arms

Results = dict[str, list[Result]]

MOST_WORK = 0.55
"""Operations of drawing in stages, at most, in those of one stage."""
MOST_DISTANCE, FAILED_DISTANCE = 1.15, 1.5
"""The same of the Fréchet distance, to pass and to fail."""
DISTANCE = logarithm(at("frechet"))
MODEL = {STAGES: STAGES, NAIVE: STAGES, ONE: ONE, CUT: ONE}
"""Whose model draws in each way."""


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms for all seeds."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, recipe.crop).against(held_out)
    results = run_arms(train_arm, ARMS, run, recipe=recipe, judge=judge)
    flat = by_way(results)
    verdict, statement = judged(flat)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(flat)),
        scale=_scale(recipe, results, floors(judge, known, held_out, recipe.drawn)),
        settings=to_plain({"recipe": recipe}),
    )


def by_way(results: Results) -> Results:
    """Results of every way of drawing, seed by seed."""
    return {way: [result[way] for result in results[arm]] for way, arm in MODEL.items()}


def judged(ways: Results) -> tuple[Verdict, str]:
    """Pass: stages cost at most 0.55 times the operations of one stage, and in the 95 % intervals
    over seeds their Fréchet distance is at most 1.15 times its, below that of one stage in fewer
    steps and below that of stages joined naively. Fail: they cost more, or are 1.5 times as far, or
    no nearer than one of the others, in the whole interval. Otherwise it could not tell."""
    stages = ways[STAGES]
    if len(stages) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    share = stages[0]["work"] / ways[ONE][0]["work"]
    whole, cut, naive = (paired(DISTANCE, stages, ways[way]) for way in (ONE, CUT, NAIVE))
    said = (
        f"Operations: {share:.3f} of those of one stage. ln Fréchet distance, stages minus one "
        f"stage: {whole.statement()}; minus one stage in {ways[CUT][0]['steps']} steps: "
        f"{cut.statement()}; minus stages joined naively: {naive.statement()}."
    )
    worse = (
        share > MOST_WORK,
        whole.interval.low > math.log(FAILED_DISTANCE),
        cut.interval.low > 0,
        naive.interval.low > 0,
    )
    if any(worse):
        return "fail", f"Stages lose quality, or cost too much. {said}"
    near = whole.interval.high <= math.log(MOST_DISTANCE)
    if near and cut.interval.high < 0 and naive.interval.high < 0:
        return "pass", f"Stages draw as well for less. {said}"
    return "inconclusive", f"The seeds do not tell. {said}"


def _measures(ways: Results) -> list[Measure]:
    """Columns: stages, one stage (baseline), one stage in fewer steps (control)."""
    rows: list[tuple[str, Better, str]] = [
        ("Fréchet distance", "lower", "frechet"),
        ("digit right", "higher", "accuracy"),
        ("operations of a picture", "lower", "work"),
        ("seconds of all pictures", "lower", "seconds"),
        ("steps of a stage", "neither", "steps"),
    ]
    found = []
    for name, better, key in rows:
        columns = [(ways[way], at(key)) for way in (STAGES, ONE, CUT)]
        found.append(beside(name, better, *columns))
    for name, better, key in rows[:2]:
        title = f"stages joined naively: {name}"
        found.append(beside(title, better, (ways[NAIVE], at(key))))
    if len(ways[STAGES]) > 1:
        others = {"one stage": ONE, "fewer steps": CUT, "joined naively": NAIVE}
        found += gaps(
            {
                f"ln Fréchet distance, stages - {told}": paired(DISTANCE, ways[STAGES], ways[way])
                for told, way in others.items()
            }
        )
    return found


def _scale(recipe: Recipe, results: Results, real: dict[str, float]) -> str:
    one, stages = results[ONE][0], results[STAGES][0]
    return (
        f"handwritten digits of 8 x 8 pixels (1200 to train on, 597 held out), pixels as vectors "
        f"of one number, stages of 2, 4 and 8; {recipe.size.depth} blocks of width "
        f"{recipe.size.width}, a head of {recipe.options.inner_depth} of {recipe.options.inner}, "
        f"{stages['parameters'] / 1e6:.2f} M parameters in all, {stages['steps']} steps of "
        f"{recipe.batch.size} pictures ({one['steps']} with one stage, as many operations), "
        f"{len(results[ONE])} paired seeds, {recipe.drawn} pictures drawn in each way, without "
        f"guidance; baseline: one stage, control: the same in fewer steps; training pictures are "
        f"{real['frechet']:.3g} from held-out ones, {real['accuracy']:.1%} of which the judge "
        "reads rightly"
    )
