"""The claim: bytes of a standard codec are a vocabulary that a language model can write.

The same language model learns, for as many positions, four vocabularies of the same digits: bytes
of JPEG files; pixels (the baseline); quantised squares; and bytes of the same files under a fixed
cipher (the control). Its pictures go before one judge. Without any model, codecs meet pictures that
they were not made for.
"""

from __future__ import annotations

from typing import Any

from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.jpeg_lm.arms import log, make_judge, real_distance, robustness, train_arm
from arra.systems.jpeg_lm.recipe import ARMS, JPEG, PIXELS, RECIPES, SCRAMBLED, SQUARES, Recipe
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import Result, Row, estimate, measure, paired, run_arms

Results = dict[str, list[Result]]
"""Arm to what was measured, in the order of the seeds."""

LEAST_VALID, TOO_FEW = 0.95, 0.8
"""Share of the files that are to be whole, and below which the claim has failed."""
MOST_JPEG, LEAST_SQUARES = 1.3, 1.5
"""How many times its usual error a codec may make on transposed and on inverted digits, and how
many a trained one makes at least, if the claim is right."""
UNUSUAL = ("transposed", "inverted")

DISTANCE: Row = ("ln Fréchet distance", "lower", lambda r: log(r["frechet"]))
VALID: Row = ("files that are whole", "higher", lambda r: r["valid"])
ROWS: tuple[Row, ...] = (
    DISTANCE,
    ("Fréchet distance", "lower", lambda r: r["frechet"]),
    ("Fréchet distance of real digits through the codec", "lower", lambda r: r["floor"]),
    VALID,
    ("files that Pillow opens", "higher", lambda r: r["opens"]),
    ("bits of a held-out picture (of its codes)", "neither", lambda r: r["bits"]),
    ("bits of a training picture", "neither", lambda r: r["training bits"]),
    ("positions a picture", "neither", lambda r: r["positions"]),
    ("seconds a training step", "neither", lambda r: r["step_seconds"]),
)


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms for all seeds, and try the codecs on other pictures."""
    recipe = RECIPES[run.budget]()
    judge = make_judge(recipe)
    results = run_arms(train_arm, ARMS, run, recipe=recipe, judge=judge)
    codecs = {
        arm: [robustness(recipe, arm, seed) for seed in run.seeds]
        for arm in (JPEG, PIXELS, SQUARES)
    }
    verdict, statement = judged(results, codecs)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(results, codecs)),
        scale=_scale(recipe, results, real_distance(judge, recipe)),
        settings=to_plain(recipe),
    )


def _measures(results: Results, codecs: Results) -> list[Measure]:
    """JPEG beside pixels (baseline) and scrambled files (control); then beside squares."""
    rows = [measure(row, results[JPEG], results[PIXELS], results[SCRAMBLED]) for row in ROWS]
    for name, better, read in ROWS[:3]:
        row = (f"squares (vq) as baseline: {name}", better, read)
        rows.append(measure(row, results[JPEG], results[SQUARES]))
    if len(results[JPEG]) > 1:
        for other in (PIXELS, SCRAMBLED, SQUARES):
            gap = estimate(paired(DISTANCE[2], results[JPEG], results[other]))
            rows.append(Measure(f"paired difference, jpeg - {other}: {DISTANCE[0]}", gap))
    names = {
        "error": "squared error of held-out digits 0 to 7 (greys)",
        "new": "times that error: digits 8 and 9",
        "transposed": "times that error: transposed digits",
        "inverted": "times that error: inverted digits",
    }
    for key, name in names.items():
        row = (f"codec alone, squares (vq) as control: {name}", "lower", _reading(key))
        rows.append(measure(row, codecs[JPEG], codecs[PIXELS], codecs[SQUARES]))
    return rows


def _reading(key: str) -> Any:
    return lambda result: result[key]


def judged(results: Results, codecs: Results) -> tuple[Verdict, str]:
    """Pass: in the 95 % interval over seeds nearer to real digits than pixels and scrambled
    files; at least 0.95 of the files whole, in the mean; and on transposed and on inverted digits
    JPEG makes at most 1.3 times its usual error, the squares at least 1.5 times theirs. Fail:
    farther than pixels, or than scrambled files, in the whole interval; less than 0.8 whole; or
    JPEG bears unusual pictures no better than the squares. Otherwise the experiment cannot tell."""
    if len(results[JPEG]) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    far, control, squares = (
        paired(DISTANCE[2], results[JPEG], results[other]) for other in (PIXELS, SCRAMBLED, SQUARES)
    )
    valid = _mean(results[JPEG], "valid")
    jpeg, trained = ({key: _mean(codecs[arm], key) for key in UNUSUAL} for arm in (JPEG, SQUARES))
    said = (
        f"ln Fréchet distance, JPEG minus pixels: {far.statement()}; minus scrambled files: "
        f"{control.statement()}; minus quantised squares: {squares.statement()}. {valid:.1%} of "
        f"the files are whole. Times their usual error on transposed and inverted digits: JPEG "
        f"{jpeg['transposed']:.2f} and {jpeg['inverted']:.2f}, squares "
        f"{trained['transposed']:.2f} and {trained['inverted']:.2f}."
    )
    if any(jpeg[key] >= trained[key] for key in UNUSUAL):
        return "fail", f"JPEG bears unusual pictures no better than trained squares. {said}"
    if valid < TOO_FEW:
        return "fail", f"Too few files are whole. {said}"
    if far.interval.low > 0:
        return "fail", f"Pixels come nearer to real digits. {said}"
    if control.interval.low > 0:
        return "fail", f"Scrambled files do better: it is not the codec. {said}"
    robust = all(jpeg[key] <= MOST_JPEG and trained[key] >= LEAST_SQUARES for key in UNUSUAL)
    nearer = far.interval.high < 0 and control.interval.high < 0
    if robust and nearer and valid >= LEAST_VALID:
        return "pass", f"Files are whole, nearer to real digits than pixels, and robust. {said}"
    return "inconclusive", f"Not all of the claim shows. {said}"


def _mean(results: list[Result], key: str) -> float:
    return sum(result[key] for result in results) / len(results)


def _scale(recipe: Recipe, results: Results, floor: float) -> str:
    size, one = recipe.size, results[JPEG][0]
    return (
        f"handwritten digits enlarged to {recipe.side} x {recipe.side} greys (1200 to train on, "
        f"each written anew {recipe.variants} times, 597 held out), "
        f"JPEG of quality {recipe.jpeg.quality} with a restart marker a block, a "
        f"Llama of {size.depth} blocks of width {size.width} ({one['parameters'] / 1e6:.2f} M "
        f"parameters for JPEG), {recipe.train.steps} steps of about {recipe.tokens} positions in "
        f"every arm, "
        f"{len(results[JPEG])} paired seeds, {recipe.drawn} pictures drawn of each model; "
        f"training digits themselves are {floor:.3g} from the held-out ones"
    )
