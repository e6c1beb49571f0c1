"""The claim: a diffusion head models the law of a vector that a regression cannot, and needs no
codebook, which for vectors of many independent parts could not be large enough.

The data's law is known: tokens are points on one ring or on four rings at once, and every next one
is a neighbour of the last. One causal transformer, several heads.
"""

from __future__ import annotations

from dataclasses import replace

from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.mar.arms import train_arm
from arra.systems.mar.recipe import (
    BESIDE,
    CODES,
    DECIDING,
    DIFFUSION,
    RECIPES,
    REGRESSION,
    Arm,
    Recipe,
)
from arra.systems.results import ClaimResult, Estimate, Measure, Verdict
from arra.systems.seeds import Reading, Result, Row, estimate, measure, over_seeds, paired, run_arms

Results = dict[Arm, list[Result]]

PLAIN, MANY = Arm(DIFFUSION, 1), Arm(DIFFUSION, 4)
MEAN, MEAN_MANY = Arm(REGRESSION, 1), Arm(REGRESSION, 4)
BOOK, BOOK_MANY = Arm(CODES, 1, 64), Arm(CODES, 4, 512)
"""The largest codebooks of either kind of token."""
VALID, INVALID, PARTS, GAP = 0.85, 0.1, 0.8, 0.4
"""What the diffusion head must reach, and the regression must not; and the least gap of the two."""


def valid(result: Result) -> float:
    """Share of sequences that are possible."""
    return result["valid"]


def parts(result: Result) -> float:
    """Share of parts (a ring of a token) that are at a point, and next to the one before."""
    return result["parts"]


def excess(result: Result) -> float:
    """Sliced Wasserstein distance to the truth, in those of two sets of the truth."""
    return result["distance"] / result["floor"]


def claim(run: ClaimRun) -> ClaimResult:
    """Train and measure all arms for all seeds."""
    recipe = RECIPES[run.budget]()
    results = run_arms(train_arm, DECIDING, run, recipe=recipe)
    first = replace(run, seeds=run.seeds[:1])
    results |= run_arms(train_arm, BESIDE, first, recipe=recipe)
    verdict, statement = judged(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(results)),
        scale=_scale(recipe, results),
        settings=to_plain({"recipe": recipe}),
    )


def judged(results: Results) -> tuple[Verdict, str]:
    """Pass, in the 95 % intervals over seeds: with one ring the diffusion head's sequences are
    possible in at least 85 % and the regression's in at most 10 %, and they are at most twice as
    far from the truth as the truth is from itself; with four, its parts in at least 80 %, and its
    distance is below that of 512 codes. Fail: with one ring less than 0.4 above the regression, or
    with four rings no nearer than 512 codes, in the whole interval. Otherwise it could not tell."""
    if len(results[PLAIN]) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    gap = paired(valid, results[PLAIN], results[MEAN])
    nearer = paired(_distance, results[BOOK_MANY], results[MANY])
    one, none = _over(valid, results[PLAIN]), _over(valid, results[MEAN])
    far, four = _over(excess, results[PLAIN]), _over(parts, results[MANY])
    said = (
        f"One ring: possible sequences with the diffusion head {one}, with the regression {none}; "
        f"distance to the truth {far} times its own. Four rings: possible parts {four}; distance "
        f"of 512 codes minus that of the diffusion head: {nearer.statement()}."
    )
    if gap.interval.high < GAP or nearer.interval.high < 0:
        return "fail", said
    bounds = (
        (one.low or 0.0) >= VALID,
        (none.high or 0.0) <= INVALID,
        (far.high or 9.0) <= 2.0,
        (four.low or 0.0) >= PARTS,
        nearer.interval.low > 0,
    )
    return ("pass", said) if all(bounds) else ("inconclusive", f"The seeds do not tell. {said}")


def _distance(result: Result) -> float:
    return result["distance"]


def _over(read: Reading, results: list[Result]) -> Estimate:
    return over_seeds([read(result) for result in results])


def _measures(results: Results) -> list[Measure]:
    """The diffusion head beside codes (baseline) and the regression (control)."""
    found: list[Measure] = []
    for name, arms in (
        ("one ring", (PLAIN, BOOK, MEAN)),
        ("four rings", (MANY, BOOK_MANY, MEAN_MANY)),
    ):
        rows: list[Row] = [
            (f"possible sequences, {name}", "higher", valid),
            (f"possible parts, {name}", "higher", parts),
            (f"sliced Wasserstein distance to the truth, {name}", "lower", _distance),
            (f"the same in times of the truth's own, {name}", "lower", excess),
            (f"parameters, {name}", "neither", lambda r: r["parameters"]),
            (f"seconds of training, {name}", "lower", lambda r: r["seconds"]),
        ]
        found += [measure(row, *(results[arm] for arm in arms)) for row in rows]
    for arm in (Arm(CODES, 1, 8), Arm(CODES, 4, 64)):
        row: Row = (f"possible parts, {arm.name}", "higher", parts)
        found.append(measure(row, results[arm]))
    if len(results[PLAIN]) > 1:
        gap = estimate(paired(_distance, results[BOOK_MANY], results[MANY]))
        found.append(Measure("paired difference of distances, 512 codes - diffusion", gap))
    return found


def _scale(recipe: Recipe, results: Results) -> str:
    truth = results[PLAIN][0]["truth"]["valid"]
    return (
        f"sequences of {recipe.length} tokens of one or four rings of {recipe.modes} points (of "
        f"the truth itself {truth:.3f} is possible), a causal transformer of {recipe.depth} blocks "
        f"of width {recipe.width}, {recipe.steps} steps of {recipe.batch} sequences, "
        f"{recipe.judged} drawn, {len(results[PLAIN])} seeds (one of arms that decide nothing)"
    )
