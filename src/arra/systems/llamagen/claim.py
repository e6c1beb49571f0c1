"""The claim, in two parts, both of which have to hold.

A: with codes of unit length, few dimensions raise the use of the codebook and lower the error of
reconstruction. Baseline: many dimensions; control: as few, without normalisation.
B: guidance has an optimum. Pictures of a digit are nearer to real ones of it at a scale between
none and much, and more of them show what was asked for. Baseline: none; control: sharpening by
temperature instead. The distance is taken digit by digit: that of all pictures together, which is
usual, does not see whether a picture shows what it should, and so little of what guidance is for.
"""

from __future__ import annotations

import math
from typing import Any

from arra.experiments.digit_grids import real_pictures
from arra.experiments.digits import digits, train_judge
from arra.experiments.parallel import Job, run_jobs
from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.llamagen.arms import measure_guidance, measure_tokenizers
from arra.systems.llamagen.recipe import (
    CODECS,
    FEW,
    GUIDED,
    MANY,
    NORMALISED,
    PLAIN,
    RECIPES,
    Recipe,
)
from arra.systems.results import Better, ClaimResult, Measure, Verdict
from arra.systems.seeds import Reading, Result, Row, beside, estimate, measure, paired

MOST = 8.0
"""The scale of guidance that must be too much."""
TIMES = 2.0
"""A codebook of few dimensions must be used at least this many times as much."""


def claim(run: ClaimRun) -> ClaimResult:
    """Train and measure everything for all seeds."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, recipe.crop)
    given = {"recipe": recipe, "folder": run.folder, "quiet": run.quiet}
    jobs = [
        Job(f"guidance, seed {seed}", measure_guidance, {**given, "judge": judge, "seed": seed})
        for seed in run.seeds
    ] + [
        Job(f"tokenizers, seed {seed}", measure_tokenizers, {**given, "seed": seed})
        for seed in run.seeds
    ]
    found = run_jobs(jobs, quiet=run.quiet)
    guided, codecs = found[: len(run.seeds)], found[len(run.seeds) :]
    verdict, statement = verdict_of(codecs, guided)
    real = real_pictures(judge, known, held_out, recipe.crop, recipe.drawn)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_codec_rows(codecs) + _guidance_rows(recipe, guided)),
        scale=_scale(recipe, guided, real),
        settings=to_plain(recipe),
    )


def of(arm: str, name: str) -> Reading:
    """A number of one arm."""
    return lambda result: result[arm][name]


def log_of(arm: str, name: str) -> Reading:
    """Its logarithm, so that differences are ratios."""
    return lambda result: math.log(max(result[arm][name], 1e-6))


def _difference(name: str, one: str, other: str, log: bool = False) -> Reading:
    read = log_of if log else of
    return lambda result: read(one, name)(result) - read(other, name)(result)


def _codec_rows(results: list[Result]) -> list[Measure]:
    """Few normalised dimensions beside many, and beside few that are not normalised."""
    arms = (f"{NORMALISED} {FEW}", f"{NORMALISED} {MANY}", f"{PLAIN} {FEW}")
    parts: tuple[tuple[str, str, Better], ...] = (
        ("codes used", "usage", "higher"),
        ("reconstruction, mean squared error on [-1, 1]", "mse", "lower"),
    )
    rows = [
        beside(f"A: {label}", better, *((results, of(arm, name)) for arm in arms))
        for label, name, better in parts
    ]
    for kind, width in CODECS:
        arm = f"{kind} {width}"
        for label, name in (("codes used", "usage"), ("error", "mse")):
            row: Row = (f"A: {arm} dimensions: {label}", "neither", of(arm, name))
            rows.append(measure(row, results))
    return rows


def _guidance_rows(recipe: Recipe, results: list[Result]) -> list[Measure]:
    """Every scale: guided, not guided, sharpened instead."""
    parts: tuple[tuple[str, str, Better], ...] = (
        ("Fréchet distance by digit", "class frechet", "lower"),
        ("Fréchet distance of all", "frechet", "lower"),
        ("digit right", "accuracy", "higher"),
    )
    rows = []
    for scale in recipe.scales:
        arms = (f"guided {scale:g}", "guided 1", f"sharpened {scale:g}")
        for label, name, better in parts:
            columns = ((results, of(arm, name)) for arm in arms)
            rows.append(beside(f"B: scale {scale:g}: {label}", better, *columns))
    rows.append(measure(("B: held-out bits a picture", "lower", lambda r: r["bits"]), results))
    if len(results) > 1:
        for name, read in _questions().items():
            if name.startswith("B"):
                gap = estimate(paired(read, results, [{}] * len(results)))
                rows.append(Measure(f"paired difference, {name}", gap))
    return rows


def _questions() -> dict[str, Reading]:
    """What the verdict asks: numbers that must be above 0 (of no result: 0)."""
    few, many, plain = f"{NORMALISED} {FEW}", f"{NORMALISED} {MANY}", f"{PLAIN} {FEW}"
    best, none, most = f"guided {GUIDED:g}", "guided 1", f"guided {MOST:g}"
    sharp = f"sharpened {GUIDED:g}"
    used = _difference("usage", few, many, log=True)
    asked: dict[str, Reading] = {
        f"A: ln use, {FEW} against {MANY} dimensions, less ln {TIMES:g}": (
            lambda r: used(r) - math.log(TIMES)
        ),
        f"A: ln error, {MANY} against {FEW} dimensions": _difference("mse", many, few, log=True),
        "A: ln use, normalised against plain": _difference("usage", few, plain, log=True),
        "A: ln error, plain against normalised": _difference("mse", plain, few, log=True),
        f"B: ln Fréchet distance by digit, none against {GUIDED:g}": (
            _difference("class frechet", none, best, log=True)
        ),
        f"B: ln Fréchet distance by digit, {MOST:g} against {GUIDED:g}": (
            _difference("class frechet", most, best, log=True)
        ),
        f"B: digits right, {GUIDED:g} against none": _difference("accuracy", best, none),
        f"B: ln Fréchet distance by digit, sharpened against {GUIDED:g}": (
            _difference("class frechet", sharp, best, log=True)
        ),
    }
    return {name: _or_zero(read) for name, read in asked.items()}


def _or_zero(read: Reading) -> Reading:
    return lambda result: read(result) if result else 0.0


def verdict_of(codecs: list[Result], guided: list[Result]) -> tuple[Verdict, str]:
    """Pass: every question's 95 % interval over seeds is above 0. Fail: one is below 0."""
    if len(codecs) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    said, low, high = [], [], []
    for name, read in _questions().items():
        results = codecs if name.startswith("A") else guided
        gap = paired(read, results, [{}] * len(results))
        said.append(f"{name}: {gap.statement()}")
        low.append(gap.interval.low)
        high.append(gap.interval.high)
    numbers = "; ".join(said) + "."
    if min(low) > 0:
        return "pass", f"Few normalised dimensions and some guidance are best. {numbers}"
    if min(high) < 0:
        return "fail", f"One of the statements is wrong. {numbers}"
    return "inconclusive", f"The seeds do not tell everything. {numbers}"


def _scale(recipe: Recipe, results: list[Result], real: dict[str, Any]) -> str:
    return (
        f"handwritten digits of 8 x 8 pixels (1200 to train on in nine crops, 597 held out), 4 x 4 "
        f"codes; tokenizers of {recipe.codes} codes, {recipe.tokenizer.steps} steps of "
        f"{recipe.tokenizer.batch} pictures; generator: {recipe.generator_codes} codes, "
        f"{recipe.size.depth} blocks of width {recipe.size.width}, "
        f"{results[0]['parameters'] / 1e6:.2f} M parameters, {recipe.train.steps} steps of "
        f"{recipe.batch.size} pictures, {recipe.drawn} pictures drawn at each scale; "
        f"{len(results)} paired seeds; training pictures themselves are {real['frechet']:.3g} from "
        f"the held-out ones; the judge reads {real['accuracy']:.1%} of held-out digits rightly"
    )
