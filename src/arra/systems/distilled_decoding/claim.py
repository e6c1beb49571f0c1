"""The claim: one deterministic step after distillation keeps the joint distribution, which drawing
all codes at once and independently cannot.

Grids of 4 x 4 codes by a rule that is known (so the teacher makes no errors), and how far the joint
law of neighbouring codes is from the true one: total variation, mean over the 24 pairs. Baseline:
every cell from its own frequencies, the best that independent drawing can do. Control: the same
student, trained alike on pairs whose noise is that of others, its cells drawn from what it says.
"""

from __future__ import annotations

from collections.abc import Sequence

from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.distilled_decoding.arms import train_arm
from arra.systems.distilled_decoding.recipe import ARMS, DISTILLED, RECIPES, SHUFFLED, Recipe
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import Result, Row, at, beside, gaps, measure, over_seeds, paired, run_arms

NEAR = 0.15
"""The largest distance of one step that counts as keeping the law; drawing finitely many grids of
the true law alone gives 0.025."""
Results = dict[str, list[Result]]


def claim(run: ClaimRun) -> ClaimResult:
    """Train both arms for every seed and judge them."""
    recipe = RECIPES[run.budget]()
    results = run_arms(train_arm, ARMS, run, recipe=recipe)
    verdict, statement = judged(results)
    return ClaimResult(
        verdict,
        statement,
        tuple(_measures(results)),
        scale=_scale(recipe, results),
        settings=to_plain({"recipe": recipe}),
    )


def judged(results: Results) -> tuple[Verdict, str]:
    """Of the distance of one step to the true law. Pass: on average 0.15 or less, and less than
    half of what independent drawing has, in the whole 95 % interval of the paired difference. Fail:
    more than half of it in the whole interval. Otherwise, or where the teacher is farther than 0.05
    or the control nearer than that half, the experiment could not tell."""
    mine, control = results[DISTILLED], results[SHUFFLED]
    if len(mine) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    one, base = (over_seeds([at(name)(r) for r in mine]) for name in ("one", "independent"))
    gap = paired(lambda r: r["one"] - 0.5 * r["independent"], mine, [_NOTHING] * len(mine))
    said = (
        f"Total variation of neighbouring codes: one step {one.value:.3f}, independent "
        f"{base.value:.3f}; one step minus half of independent: {gap.statement()}."
    )
    shuffled = over_seeds([at("sampled")(r) for r in control]).value
    if over_seeds([at("teacher")(r) for r in mine]).value > 0.05:
        return "inconclusive", f"The teacher's flow does not draw its law. {said}"
    if shuffled < 0.5 * base.value:
        return "inconclusive", f"The control knows the law without its noise. {said}"
    if gap.interval.low > 0:
        return "fail", f"One step does not keep the joint law. {said}"
    if one.value <= NEAR and gap.interval.high < 0:
        return "pass", f"One step keeps the joint law, independent drawing does not. {said}"
    return "inconclusive", f"One step keeps part of the joint law. {said}"


_NOTHING: Result = {"one": 0.0, "two": 0.0, "independent": 0.0}


def _measures(results: Results) -> list[Measure]:
    mine, control = results[DISTILLED], results[SHUFFLED]
    found = [
        beside(
            "total variation of neighbouring codes, 1 step",
            "lower",
            (mine, at("one")),
            (mine, at("independent")),
            (control, at("sampled")),
        ),
        *(measure(row, mine, control=other) for row, other in _rows(control)),
    ]
    if len(mine) > 1:
        lines = {
            "total variation, 2 steps - 1 step": paired(
                lambda r: r["two"] - r["one"], mine, [_NOTHING] * len(mine)
            )
        }
        found += gaps(lines)
    return found


def _rows(control: Sequence[Result]) -> list[tuple[Row, Sequence[Result] | None]]:
    """Further lines of the table, and what stands in the control's column."""
    return [
        (("the same, 2 steps", "lower", at("two")), None),
        (("the same, teacher in 16 steps", "neither", at("teacher")), None),
        (("codes that are the teacher's, 1 step", "higher", at("same one")), control),
        (("codes that are the teacher's, 2 steps", "higher", at("same two")), control),
        (("seconds a training step", "lower", at("step_seconds")), control),
    ]


def _scale(recipe: Recipe, results: Results) -> str:
    return (
        f"grids of 4 x 4 codes of 8, vectors of 4 numbers, {recipe.pairs} pairs by "
        f"{recipe.flow_steps} Euler steps a code, students of {recipe.size.depth} blocks of width "
        f"{recipe.size.width}, {results[DISTILLED][0]['parameters'] / 1e6:.2f} M parameters, "
        f"{recipe.train.steps} steps of {recipe.batch.size} pairs, {len(results[DISTILLED])} "
        f"seeds, {recipe.drawn} grids drawn by each"
    )
