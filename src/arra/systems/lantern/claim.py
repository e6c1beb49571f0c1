"""The claim: guesses that may borrow from the codes nearest to them stay much more often, and what
is drawn suffers much less than from borrowing of any codes.

Digits as 4 x 4 codes whose laws are flat, a small language model of them, and EAGLE's drafter. What
is compared is how many codes a pass of the model gives, and what the pictures are worth. Baseline:
lossless decoding with the same drafter. Control: as many lenders, at random, by the same bound.
"""

from __future__ import annotations

import math

from arra.files import to_plain
from arra.metrics.bootstrap import PairedDifference, paired_difference
from arra.systems.base import ClaimRun
from arra.systems.lantern.arms import compare
from arra.systems.lantern.recipe import NEAREST, PLAIN, RANDOM, RECIPES, STRICT, Recipe
from arra.systems.results import Better, ClaimResult, Measure, Verdict
from arra.systems.seeds import (
    Reading,
    Result,
    at,
    beside,
    gaps,
    measure,
    over_seeds,
    run_arms,
)

ALL = "all"
"""All arms share a target and a drafter, and so are one job."""
GAIN, NO_GAIN = 1.3, 1.1
"""How many times as many codes a pass must give as lossless decoding; and what counts as none."""
LOSS = 0.03
"""Share of digits that may be read wrongly in addition."""
WORSE = 2.0
"""How many times as much the control must add to the Fréchet distance."""


def passed(arm: str) -> Reading:
    """Codes that a pass of the model gives, the one included that nobody guessed."""
    return at(arm, "units per pass")


def claim(run: ClaimRun) -> ClaimResult:
    """Train targets and drafters and draw in all ways, for all seeds."""
    recipe = RECIPES[run.budget]()
    results = run_arms(compare, [ALL], run, recipe=recipe)[ALL]
    verdict, statement = judged(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(measures(recipe, results)),
        scale=scale(recipe, results),
        settings=to_plain({"recipe": recipe}),
    )


def judged(results: list[Result]) -> tuple[Verdict, str]:
    """Fail: nearest lenders give less than 1.1 times the codes a pass of lossless decoding, or the
    random ones are no worse in Fréchet distance than the nearest. Pass: 1.3 times or more, at most
    3 points of accuracy lost, and the random ones add at least twice what the nearest add to the
    distance, more than these in the whole 95 % interval. Otherwise the experiment could not tell.
    Means over seeds."""
    if len(results) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    gain = math.exp(over_seeds([math.log(_ratio(r, NEAREST)) for r in results]).value)
    lost = _apart(results, "accuracy", STRICT, NEAREST).interval.value
    near, far = (
        _apart(results, "frechet", arm, STRICT).interval.value for arm in (NEAREST, RANDOM)
    )
    apart = _apart(results, "frechet", RANDOM, NEAREST)
    said = (
        f"Codes a pass: nearest / lossless {gain:.3f}; accuracy lost {100 * lost:.1f} points; "
        f"added to the Fréchet distance: nearest {near:.3f}, random {far:.3f}, random minus "
        f"nearest {apart.statement()}."
    )
    if gain < NO_GAIN:
        return "fail", f"Borrowing does not help. {said}"
    if far <= near:
        return "fail", f"Random lenders are no worse than the nearest. {said}"
    enough = gain >= GAIN and lost <= LOSS and far >= WORSE * near
    if enough and apart.interval.low > 0.0:
        return "pass", f"Borrowing of the nearest codes draws faster at a small cost. {said}"
    return "inconclusive", f"Not all that was expected was seen. {said}"


def _ratio(result: Result, arm: str) -> float:
    return passed(arm)(result) / passed(STRICT)(result)


def _apart(results: list[Result], key: str, one: str, other: str) -> PairedDifference:
    """One arm minus another, seed by seed (at least two)."""
    return paired_difference(
        [at(one, key)(r) for r in results], [at(other, key)(r) for r in results]
    )


def measures(recipe: Recipe, results: list[Result]) -> list[Measure]:
    """The lines of the table."""
    found = []
    rows: tuple[tuple[str, Better, str], ...] = (
        ("codes a pass (lossless; random lenders)", "higher", "units per pass"),
        ("total variation of what is drawn from the model's law", "lower", "variation"),
        ("Fréchet distance, features of a judge", "lower", "frechet"),
        ("the same, mean of the ten digits", "lower", "class frechet"),
        ("digits that are read rightly", "higher", "accuracy"),
        ("share of guesses that stay", "neither", "accepted"),
        ("seconds for all digits", "lower", "seconds"),
    )
    for name, better, key in rows:
        columns = [(results, at(arm, key)) for arm in (NEAREST, STRICT, RANDOM)]
        found.append(beside(name, better, *columns))
    for arm in (arm.name for arm in recipe.arms[3:]):
        for name, better, key in rows[:3]:
            short = name.split(" (")[0]
            found.append(measure((f"{short}: {arm}", better, at(arm, key)), results))
    plain: tuple[tuple[str, Better, str], ...] = (
        ("Fréchet distance, plain drawing", "lower", "frechet"),
        ("digits that are read rightly, plain drawing", "higher", "accuracy"),
        ("seconds, plain drawing", "lower", "seconds"),
    )
    found += [measure((name, better, at(PLAIN, key)), results) for name, better, key in plain]
    found.append(
        measure(("Fréchet distance, real digits", "lower", at("real", "frechet")), results)
    )
    if len(results) > 1:
        found += gaps(
            {
                f"{key}, {one} - {other}": _apart(results, key, one, other)
                for key in ("units per pass", "frechet", "accuracy")
                for one, other in ((NEAREST, STRICT), (RANDOM, NEAREST), (STRICT, PLAIN))
            }
        )
    return found


def scale(recipe: Recipe, results: list[Result]) -> str:
    """How large the experiment was."""
    return (
        f"digits of 4 x 4 codes of {recipe.codes}, {recipe.size.depth} blocks of width "
        f"{recipe.size.width}, {results[0]['parameters'] / 1e6:.2f} M parameters, "
        f"{recipe.train.steps} steps of {recipe.batch.size} digits, a drafter of "
        f"{results[0]['drafter'] / 1e6:.2f} M parameters, {recipe.learn.steps} steps, at most "
        f"{recipe.nodes} guesses a pass, {recipe.drawn} digits drawn in each way, "
        f"{recipe.neighbours} lenders, delta {recipe.delta}, {len(results)} paired seeds"
    )
