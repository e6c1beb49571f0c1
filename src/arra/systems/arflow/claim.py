"""The claim: a memory of noisier pictures of the class improves a flow at equal network size.

Three arms of one network, as many pictures in every batch: with the memory, with the memory emptied
before every picture (the baseline), and trained in sequences of any digits (the control).
"""

from __future__ import annotations

import math

from arra.experiments.digits import digits, floors, train_judge
from arra.files import to_plain
from arra.systems.arflow.arms import train_arm
from arra.systems.arflow.recipe import ARMS, MEMORY, MIXED, RECIPES, RESET, SCALES, Recipe
from arra.systems.base import ClaimRun
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import Reading, Result, Row, at, gaps, logarithm, measure, paired, run_arms

Results = dict[str, list[Result]]

GAIN = 0.9
"""The memory's distance to real digits must be at most so many times the baseline's."""


def of(scale: float, name: str) -> Reading:
    """What was measured at one scale of guidance."""
    return at("scales", f"{scale:g}", name)


DISTANCE, GUIDED_DISTANCE = (logarithm(of(scale, "frechet")) for scale in (1.0, SCALES[-1]))


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms for all seeds."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, recipe.judge_crop).against(held_out)
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
    """Of the ln Fréchet distance without guidance, in the 95 % interval over seeds. Pass: with the
    memory below the baseline, on average by 10 % or more, and below the control. Fail: a gain of
    10 % is excluded, or the control is no farther in the whole interval (then the class of what is
    remembered is not what helps). Otherwise the experiment could not tell."""
    memory, reset, mixed = (results[arm] for arm in ARMS)
    if len(memory) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    gain, control = paired(DISTANCE, memory, reset), paired(DISTANCE, memory, mixed)
    said = (
        f"ln Fréchet distance, with the memory minus with it emptied: {gain.statement()}; minus "
        f"trained in sequences of any digits: {control.statement()}."
    )
    if gain.interval.low > math.log(GAIN):
        return "fail", f"The memory does not bring the 10 %. {said}"
    if control.interval.low > 0:
        return "fail", f"The class of what is remembered is not what helps. {said}"
    below = gain.interval.high < 0 and gain.interval.value <= math.log(GAIN)
    if below and control.interval.high < 0:
        return "pass", f"A memory of the class improves the flow. {said}"
    return "inconclusive", f"The seeds do not tell. {said}"


def _measures(results: Results) -> list[Measure]:
    """Columns: the memory, the memory emptied, sequences of any digits."""
    columns = [results[arm] for arm in ARMS]
    rows: list[Row] = []
    for scale in SCALES:
        how = "without guidance" if scale == 1.0 else f"guidance {scale:g}"
        rows += [
            (f"Fréchet distance, {how}", "lower", of(scale, "frechet")),
            (f"mean of those of the digits, {how}", "lower", of(scale, "class frechet")),
            (f"digit right, {how}", "higher", of(scale, "accuracy")),
        ]
    rows += [
        ("loss of the last steps", "lower", at("loss")),
        ("seconds of a step", "lower", at("step_seconds")),
    ]
    found = [measure(row, *columns) for row in rows]
    if len(columns[0]) > 1:
        memory = results[MEMORY]
        differences = {
            "memory - emptied": paired(DISTANCE, memory, results[RESET]),
            "memory - any digits": paired(DISTANCE, memory, results[MIXED]),
            "memory - emptied, guided": paired(GUIDED_DISTANCE, memory, results[RESET]),
        }
        found += gaps({f"ln Fréchet distance, {name}": gap for name, gap in differences.items()})
    return found


def _scale(recipe: Recipe, results: Results, real: dict[str, float]) -> str:
    parameters = results[MEMORY][0]["parameters"]
    options = recipe.options
    return (
        f"handwritten digits of 8 x 8 pixels (1200 to train on, 597 held out) as 16 cells of 4 "
        f"numbers, {recipe.size.depth} blocks of width {recipe.size.width}, {parameters / 1e6:.2f} "
        f"M parameters, {recipe.train.steps} steps of {recipe.batch.size} pictures in sequences of "
        f"{options.sequence}, {len(results[MEMORY])} paired seeds, {recipe.drawn} drawn in "
        f"{options.steps} stochastic steps; training pictures are {real['frechet']:.3g} from the "
        f"held-out ones; the judge reads {real['accuracy']:.1%} of held-out digits rightly"
    )
