"""The claim: noisy context in training makes rollouts tolerate errors, at half of the cost a step.

One network, three trainings on the same digits. A model of noisy context sees one copy of a picture
a step; one of clean context sees two, and so has half of the steps (equal compute, the baseline),
or as many (the control, at twice the compute). All are judged as they are, and with noise added to
every cell that was drawn before later ones read it: what was drawn stays as it is, so what is
measured is what wrong context does to the rest.
"""

from __future__ import annotations

from arra.experiments.digits import digits, floors, train_judge
from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import (
    Reading,
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
from arra.systems.xar.arms import train_arm
from arra.systems.xar.recipe import ARMS, CLEAN, DEVIATIONS, LONG, NOISY, RECIPES, Recipe

Results = dict[str, list[Result]]

MOST, LEAST = 0.06, 0.10
"""How much accuracy noisy context may lose at the largest deviation, and clean context must."""
WORKS = 0.9
"""The accuracy that both must have undisturbed."""
_FAR = DEVIATIONS[-1]


def of(name: str, deviation: float = 0.0) -> Reading:
    """What was measured at one deviation."""
    return at(str(deviation), name)


def lost(result: Result) -> float:
    """Accuracy lost at the largest deviation."""
    return of("accuracy")(result) - of("accuracy", _FAR)(result)


def distance(deviation: float) -> Reading:
    """Logarithm of the Fréchet distance, so that differences are ratios."""
    return logarithm(of("frechet", deviation))


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms for all seeds."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, 1).against(held_out)
    results = run_arms(train_arm, ARMS, run, recipe=recipe, judge=judge)
    verdict, statement = judged(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(results)),
        scale=_scale(recipe, results, floors(judge, known, held_out, recipe.drawn)),
        settings=to_plain({"recipe": recipe, "deviations": DEVIATIONS}),
    )


def judged(results: Results) -> tuple[Verdict, str]:
    """At a deviation of 0.3, beside clean context of equal compute. Pass: on average noisy context
    loses at most 0.06 of accuracy and clean context at least 0.10, and noisy context loses less and
    is nearer to real digits in the whole 95 % interval of the paired differences. Fail: in the
    whole interval it loses not 0.04 less, or is farther. Otherwise, or where one of them has less
    than 0.9 undisturbed, the experiment could not tell."""
    noisy, clean = results[NOISY], results[CLEAN]
    if len(noisy) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    saved, nearer = paired(lost, clean, noisy), paired(distance(_FAR), noisy, clean)
    plain = paired(distance(0.0), noisy, clean)
    one, other = (over_seeds([lost(result) for result in arm]) for arm in (noisy, clean))
    said = (
        f"Accuracy lost where context is disturbed by {_FAR}: noisy context {one}, clean context "
        f"{other}; ln Fréchet distance there, noisy minus clean: {nearer.statement()}; "
        f"undisturbed: {plain.statement()}."
    )
    works = [over_seeds([of("accuracy")(r) for r in arm]).value for arm in (noisy, clean)]
    if min(works) < WORKS:
        return "inconclusive", f"A model does not draw digits well enough to tell. {said}"
    if saved.interval.high < LEAST - MOST or nearer.interval.low > 0:
        return "fail", f"Noisy context does not make rollouts more robust. {said}"
    sure = saved.interval.low > 0 and nearer.interval.high < 0
    if one.value <= MOST and other.value >= LEAST and sure:
        return "pass", f"Noisy context makes rollouts tolerate wrong context. {said}"
    return "inconclusive", f"The seeds do not tell. {said}"


def _measures(results: Results) -> list[Measure]:
    columns = [results[arm] for arm in (NOISY, CLEAN, LONG)]
    rows: list[Row] = []
    for deviation in DEVIATIONS:
        rows += [
            (f"digit right, context disturbed by {deviation}", "higher", of("accuracy", deviation)),
            (f"Fréchet distance, disturbed by {deviation}", "lower", of("frechet", deviation)),
        ]
    rows += [
        (f"accuracy lost at {_FAR}", "lower", lost),
        ("seconds a step", "lower", at("step_seconds")),
    ]
    found = [measure(row, *columns) for row in rows]
    if len(columns[0]) > 1:
        differences = {
            f"accuracy lost at {_FAR}, clean - noisy": paired(lost, columns[1], columns[0]),
            f"accuracy lost at {_FAR}, control - noisy": paired(lost, columns[2], columns[0]),
            f"ln Fréchet distance at {_FAR}, noisy - clean": paired(distance(_FAR), *columns[:2]),
            "ln Fréchet distance undisturbed, noisy - clean": paired(distance(0.0), *columns[:2]),
            "ln Fréchet distance undisturbed, noisy - control": paired(
                distance(0.0), columns[0], columns[2]
            ),
        }
        found += gaps(differences)
    return found


def _scale(recipe: Recipe, results: Results, real: dict[str, float]) -> str:
    steps = {arm: recipe.of(arm).train.steps for arm in ARMS}
    side = recipe.options.side * recipe.patch
    return (
        f"handwritten digits of 8 x 8 pixels (1200 to train on, 597 held out) in cells of {side} x "
        f"{side}, {recipe.size.depth} blocks of width {recipe.size.width}, "
        f"{results[NOISY][0]['parameters'] / 1e6:.2f} M parameters, steps of {recipe.batch.size} "
        f"pictures: {', '.join(f'{n} ({arm})' for arm, n in steps.items())}, "
        f"{len(results[NOISY])} paired seeds, {recipe.drawn} pictures of each model and deviation, "
        f"{recipe.options.steps} Euler steps a cell, no guidance; training pictures themselves are "
        f"{real['frechet']:.3g} from held-out ones; the judge reads {real['accuracy']:.1%} of "
        f"held-out digits rightly"
    )
