"""The claim: who learns from what it wrote itself, and may take tokens back, recovers from errors.

Additions are written figure by figure. After a figure that was made wrong on purpose a model either
takes it back or goes on; what counts is whether the sum is right in the end. The same model, the
same data: SequenceMatch; (baseline) likelihood of data with mistakes that are taken back; (control)
likelihood alone. Beside it, without a verdict, digits as codes, with a code that is made wrong.
"""

from __future__ import annotations

from arra.experiments.digits import digits, train_judge
from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import Result, Row, at, gaps, measure, over_seeds, paired, run_arms
from arra.systems.sequencematch.arms import train_additions, train_pictures
from arra.systems.sequencematch.recipe import ARMS, BACKSPACE, LIKELIHOOD, MATCH, RECIPES, Recipe

Results = dict[str, list[Result]]

GAIN, LOST, MOST_LOST = 0.05, 0.01, 0.03
"""By how much recovery must be better; how much accuracy may be lost; how much is too much."""
WORKS = 0.5
"""Share of sums that likelihood alone must get right for errors to mean anything."""
RECOVERY, ACCURACY = at("recovery"), at("accuracy")


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms for all seeds, additions and pictures."""
    recipe = RECIPES[run.budget]()
    texts = run_arms(train_additions, ARMS, run, recipe=recipe)
    judge = train_judge(*digits(), crop=0)
    pictures = run_arms(train_pictures, ARMS, run, recipe=recipe, judge=judge)
    verdict, statement = judged(texts)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(texts, pictures)),
        scale=_scale(recipe, texts, pictures),
        settings=to_plain({"recipe": recipe}),
    )


def judged(results: Results) -> tuple[Verdict, str]:
    """Of paired differences of means over seeds. Pass: after a wrong figure the sum is right 0.05
    more often than for the baseline, above 0 in the whole 95 % interval, and without one at most
    0.01 less often than for likelihood alone. Fail: no more often than for the baseline, or more
    than 0.03 less often than for likelihood alone. Otherwise, or where likelihood alone is right
    less often than not, the experiment could not tell."""
    match = results[MATCH]
    if len(match) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    gain = paired(RECOVERY, match, results[BACKSPACE])
    change = paired(ACCURACY, match, results[LIKELIHOOD])
    said = (
        "Sums that are right after a wrong figure, SequenceMatch minus likelihood with backspaces: "
        f"{gain.statement()}; right sums, SequenceMatch minus likelihood alone: "
        f"{change.statement()}."
    )
    if over_seeds([ACCURACY(result) for result in results[LIKELIHOOD]]).value < WORKS:
        return "inconclusive", f"Likelihood did not learn to add. {said}"
    if gain.interval.value <= 0:
        return "fail", f"What it wrote itself did not teach it to recover. {said}"
    if change.interval.value < -MOST_LOST:
        return "fail", f"It recovers at the price of right sums. {said}"
    better = gain.interval.value >= GAIN and gain.interval.low > 0
    if better and change.interval.value >= -LOST:
        return "pass", f"It recovers from errors, and makes no more of them. {said}"
    return "inconclusive", f"The seeds do not tell. {said}"


def _measures(texts: Results, pictures: Results) -> list[Measure]:
    rows: list[Row] = [
        ("right sums", "higher", ACCURACY),
        ("right after a wrong figure", "higher", RECOVERY),
        ("the wrong figure taken back at once", "higher", at("recovery: undone")),
        ("right after a wrong figure and one more", "higher", at("late recovery")),
        ("backspaces in a sum", "neither", at("backspaces")),
        ("nats of a held-out figure", "lower", at("nats")),
        ("seconds a step", "lower", at("step_seconds")),
    ]
    found = [measure(row, *(texts[arm] for arm in ARMS)) for row in rows]
    rows = [
        ("pictures: digit right", "higher", ACCURACY),
        ("pictures: Fréchet distance", "lower", at("frechet")),
        ("pictures: digit right after a wrong code in the middle", "higher", RECOVERY),
        ("pictures: the wrong code taken back at once", "higher", at("undone")),
        ("pictures: backspaces", "neither", at("backspaces")),
        ("pictures: nats of a held-out code", "lower", at("nats")),
    ]
    found += [measure(row, *(pictures[arm] for arm in ARMS)) for row in rows]
    if len(texts[MATCH]) > 1:
        others = {"with backspaces": BACKSPACE, "alone": LIKELIHOOD}
        found += gaps(
            {
                f"{label}, SequenceMatch - likelihood {name}": paired(
                    read, results[MATCH], results[arm]
                )
                for label, results, read in (
                    ("right after a wrong figure", texts, RECOVERY),
                    ("right sums", texts, ACCURACY),
                    ("pictures: right after a wrong code", pictures, RECOVERY),
                )
                for name, arm in others.items()
            }
        )
    return found


def _scale(recipe: Recipe, texts: Results, pictures: Results) -> str:
    task, drawing = recipe.additions, recipe.pictures
    one, other = (found[MATCH][0]["parameters"] / 1e6 for found in (texts, pictures))
    return (
        f"{recipe.sums} additions of numbers of three figures, lowest first, {recipe.asked} held "
        f"out; {task.size.depth} blocks of width {task.size.width}, {one:.2f} M parameters, "
        f"{task.tuning.train.steps} steps of {task.tuning.batch.size}, {task.begin} of them "
        f"likelihood alone; digits of 8 x 8 pixels as 16 of {recipe.codes.vocabulary} codes, "
        f"{other:.2f} M parameters, {drawing.tuning.train.steps} steps of "
        f"{drawing.tuning.batch.size}, {drawing.begin} of them likelihood alone, {recipe.drawn} "
        f"drawn; {len(texts[MATCH])} paired seeds, temperature 1"
    )
