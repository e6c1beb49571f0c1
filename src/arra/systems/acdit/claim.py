"""The claim: a clean past conditions better than a noisy one.

Clips of a digit that moves by the same step from frame to frame, which the caption names. Frames
are blocks: after a clean past, as ACDiT trains, or (baseline) after a past with noise of its own,
everything else equal; or (control) all frames are one block, a plain diffusion transformer. Whether
the law of the clips was learnt is seen in how a drawn digit moves.
"""

from __future__ import annotations

from arra.files import to_plain
from arra.systems.acdit.arms import train_arm
from arra.systems.acdit.clips import SIDE
from arra.systems.acdit.recipe import ARMS, CLEAN, NOISED, RECIPES, WHOLE, Recipe
from arra.systems.base import ClaimRun
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import Result, Row, at, gaps, measure, over_seeds, paired, run_arms

Results = dict[str, list[Result]]

GAP, NONE = 0.10, 0.03
"""By how much the share of such clips must be larger, and what counts as no difference."""


WORKS = 0.3
"""The share that a past must reach, clean or noised, for its learning to be seen at all."""
RIGHT = at("right")
"""Share of clips whose digit moves by the step that was asked for, all along."""


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms for all seeds."""
    recipe = RECIPES[run.budget]()
    results = run_arms(train_arm, ARMS, run, recipe=recipe)
    verdict, statement = judged(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(results)),
        scale=_scale(recipe, results),
        settings=to_plain({"recipe": recipe}),
    )


def judged(results: Results) -> tuple[Verdict, str]:
    """Of the paired difference, clean minus noised past, in the share of clips that move as asked.
    Pass: on average 0.10 or more, and above 0 in the whole 95 % interval. Fail: below 0.03 in the
    whole interval. Otherwise, or where neither reaches 0.3, the experiment could not tell. All
    frames at once decides nothing."""
    clean = results[CLEAN]
    if len(clean) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    gap = paired(RIGHT, clean, results[NOISED])
    whole = paired(RIGHT, clean, results[WHOLE])
    said = (
        f"Share of clips that move as asked, clean minus noised past: {gap.statement()}; clean "
        f"past minus all frames at once: {whole.statement()}."
    )
    best = max(over_seeds([RIGHT(r) for r in results[arm]]).value for arm in (CLEAN, NOISED))
    if best < WORKS:
        return "inconclusive", f"No arm learnt how a digit moves. {said}"
    if gap.interval.high < NONE:
        return "fail", f"A clean past is no better than a noised one. {said}"
    if gap.interval.value >= GAP and gap.interval.low > 0:
        return "pass", f"A clean past conditions better than a noised one. {said}"
    return "inconclusive", f"The seeds do not tell. {said}"


def _measures(results: Results) -> list[Measure]:
    columns = [results[arm] for arm in (CLEAN, NOISED, WHOLE)]
    rows: list[Row] = [
        ("clips that move as asked", "higher", RIGHT),
        ("clips of one steady motion", "higher", at("steady")),
        ("Fréchet distance of frames", "lower", at("frechet")),
        ("the same of training clips", "neither", at("floor")),
        ("seconds a step", "lower", at("step_seconds")),
    ]
    found = [measure(row, *columns) for row in rows]
    if len(columns[0]) > 1:
        others = {"noised past": columns[1], "all frames at once": columns[2]}
        found += gaps(
            {
                f"clips that move as asked, clean past - {name}": paired(RIGHT, columns[0], other)
                for name, other in others.items()
            }
        )
    return found


def _scale(recipe: Recipe, results: Results) -> str:
    truth = results[CLEAN][0]["truth"]
    return (
        f"clips of {recipe.frames} frames of {SIDE} x {SIDE} pixels, a digit that moves by one of "
        f"eight steps on a torus ({truth:.1%} of held-out clips count as right), squares of "
        f"{recipe.patch} x {recipe.patch} pixels, {recipe.size.depth} blocks of width "
        f"{recipe.size.width}, {results[CLEAN][0]['parameters'] / 1e6:.2f} M parameters, "
        f"{recipe.train.steps} steps of {recipe.batch.size} clips, {len(results[CLEAN])} paired "
        f"seeds, {recipe.drawn} clips drawn of each model, {recipe.options.steps} Euler steps a "
        f"block, no guidance"
    )
