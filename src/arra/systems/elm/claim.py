"""The claim: two sub-codes a cell make tables small and keep the pictures; what sub-codes have in
common is lost, so that more of them hurt; and drawing needs much randomness.

Part 1 is exact: sequences whose law is known, where no split, a split between tied bits and a split
that keeps ties together must come to the entropy, or to the entropy and one bit a pair of tied bits
that was parted. Part 2 is digits as bits of a binary autoencoder. Baseline: the code as a whole;
control: eight sub-codes.
"""

from __future__ import annotations

import math
from typing import Any

from arra.experiments.digit_grids import real_pictures
from arra.experiments.digits import Judge, digits, train_judge
from arra.experiments.parallel import Job, run_jobs
from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.elm.arms import measure_digits, measure_synthetic, train_bits
from arra.systems.elm.recipe import FEW, GREEDY, HALF, KEPT, RECIPES, SPLITS, TIES, Recipe
from arra.systems.results import Better, ClaimResult, Measure, Verdict
from arra.systems.seeds import Reading, Result, beside, estimate, over_seeds, paired

NEAR_ENOUGH = 0.25
"""Bits a cell by which a model of the known sequences may miss what it can reach at best."""
KEEPS = 1.25
"""Two sub-codes keep quality if their distance is at most this many times that of the whole."""

Results = dict[Any, list[Result]]
"""(ties, split), or the name of an arm of digits, to what was measured, seed by seed."""
ARMS: dict[str, tuple[int, bool]] = {
    **{f"{split} x {8 // split}": (split, False) for split in SPLITS},
    "2 x 4, masked": (2, True),
}
"""Sub-codes x bits, and whether cells are predicted masked instead of in raster order."""
WHOLE, HALVES, BITWISE, MASKED = "1 x 8", "2 x 4", "8 x 1", "2 x 4, masked"


def claim(run: ClaimRun) -> ClaimResult:
    """Train and measure everything for all seeds."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, recipe.crop)
    results = _run_all(recipe, judge, run)
    verdict, statement = verdict_of(results)
    real = real_pictures(judge, known, held_out, recipe.crop, recipe.drawn)
    measures = _synthetic_rows(results) + _digit_rows(results) + _kept_rows(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(measures + _gaps(results)),
        scale=_scale(recipe, results, real),
        settings=to_plain(recipe),
    )


def _run_all(recipe: Recipe, judge: Judge, run: ClaimRun) -> Results:
    given = {"recipe": recipe, "folder": run.folder, "quiet": run.quiet}
    codecs = [Job(f"codec, seed {seed}", train_bits, {**given, "seed": seed}) for seed in run.seeds]
    found: Results = {"codec": run_jobs(codecs, quiet=run.quiet)}
    jobs: list[Job] = []
    keys: list[Any] = []
    for name, (split, masked) in ARMS.items():
        for seed in run.seeds:
            own = {"judge": judge, "split": split, "masked": masked, "seed": seed}
            jobs.append(Job(f"digits {name}, seed {seed}", measure_digits, {**given, **own}))
            keys.append(name)
    for ties in TIES:
        for split in SPLITS:
            for seed in run.seeds:
                own = {"ties": ties, "split": split, "seed": seed}
                label = f"{ties}, {split} sub-codes, seed {seed}"
                jobs.append(Job(label, measure_synthetic, {**given, **own}))
                keys.append((ties, split))
    for key, result in zip(keys, run_jobs(jobs, quiet=run.quiet), strict=True):
        found.setdefault(key, []).append(result)
    return found


def _log(arm: str, sampling: str = "plain") -> Reading:
    """Logarithm of the Fréchet distance of the pictures that were drawn so, out of all arms."""
    return lambda result: math.log(max(result[arm][sampling]["class frechet"], 1e-6))


def _by_seed(results: Results) -> list[Result]:
    """One result a seed, which holds those of all arms by name."""
    count = len(results["codec"])
    return [{name: found[seed] for name, found in results.items()} for seed in range(count)]


def _gap(one: Reading, other: Reading) -> Reading:
    return lambda result: one(result) - other(result) if result else 0.0


QUESTIONS: dict[str, Reading] = {
    f"digits: ln Fréchet distance by digit, greedy against top-{HALF}": (
        _gap(_log(WHOLE, f"top {GREEDY}"), _log(WHOLE, f"top {HALF}"))
    ),
    f"digits: ln Fréchet distance by digit, top-{FEW} against top-{HALF}": (
        _gap(_log(WHOLE, f"top {FEW}"), _log(WHOLE, f"top {HALF}"))
    ),
    f"digits: ln {KEEPS:g} + ln Fréchet distance by digit, {WHOLE} against {HALVES}": (
        lambda r: _gap(_log(WHOLE), _log(HALVES))(r) + math.log(KEEPS) if r else 0.0
    ),
    f"digits: ln Fréchet distance by digit, {BITWISE} against {HALVES}": (
        _gap(_log(BITWISE), _log(HALVES))
    ),
}
"""What must be above 0 for digits."""


def missed(result: Result) -> float:
    """Bits a cell over what a model with these sub-codes can reach at best."""
    return result["excess"] - result["least"]


def verdict_of(results: Results) -> tuple[Verdict, str]:
    """Pass: every model of known sequences is within 0.25 bits a cell of what is possible for its
    split, and every question about digits is answered above 0 in the 95 % interval over seeds.
    Fail: one is the other way round. Otherwise the experiment could not tell."""
    if len(results["codec"]) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    margins = {
        (ties, split): over_seeds([missed(r) for r in results[ties, split]])
        for ties in TIES
        for split in SPLITS
    }
    largest = max(value.value for value in margins.values())
    near = all(value.high is not None and value.high < NEAR_ENOUGH for value in margins.values())
    far = any(value.low is not None and value.low > NEAR_ENOUGH for value in margins.values())
    seeds = _by_seed(results)
    gaps = {name: paired(read, seeds, [{}] * len(seeds)) for name, read in QUESTIONS.items()}
    said = "; ".join(f"{name}: {gap.statement()}" for name, gap in gaps.items())
    numbers = f"Known sequences: at most {largest:.3f} bits a cell over what is possible; {said}."
    if far or any(gap.interval.high < 0 for gap in gaps.values()):
        return "fail", f"One of the statements is wrong. {numbers}"
    if near and all(gap.interval.low > 0 for gap in gaps.values()):
        return "pass", f"Two sub-codes are enough and not too many. {numbers}"
    return "inconclusive", f"The seeds do not tell everything. {numbers}"


def _of(*path: str) -> Reading:
    """A number by the names that lead to it."""

    def read(result: Result) -> float:
        value: Any = result
        for name in path:
            value = value[name]
        return float(value)

    return read


def _synthetic_rows(results: Results) -> list[Measure]:
    """Two sub-codes beside the whole and beside eight; what was possible behind it."""
    parts: tuple[tuple[str, str, Better], ...] = (
        ("bits a cell over the entropy", "excess", "lower"),
        ("the least that is possible", "least", "neither"),
        ("total variation of the laws", "variation", "lower"),
    )
    rows = []
    for ties in TIES:
        for label, name, better in parts:
            columns = ((results[ties, split], _of(name)) for split in (2, 1, 8))
            title = f"known law, {ties}: {label} (2 | 1 | 8 sub-codes)"
            rows.append(beside(title, better, *columns))
        title = f"known law, {ties}: bits a cell over the entropy, 4 sub-codes"
        rows.append(beside(title, "lower", (results[ties, 4], _of("excess"))))
    for label, name in (("parameters", "parameters"), ("of them tables and heads", "tables")):
        columns = ((results["free", split], _of(name)) for split in (2, 1, 8))
        rows.append(beside(f"known law: {label} (2 | 1 | 8 sub-codes)", "lower", *columns))
    return rows


_JUDGED: tuple[tuple[str, str, Better], ...] = (
    ("Fréchet distance by digit", "class frechet", "lower"),
    ("Fréchet distance of all", "frechet", "lower"),
    ("digit right", "accuracy", "higher"),
)


def _digit_rows(results: Results) -> list[Measure]:
    codec = results["codec"]
    bits = ((results[arm], _of("bits")) for arm in (HALVES, WHOLE, BITWISE))
    rows = [
        beside("digits: codes used", "higher", (codec, _of("usage"))),
        beside("digits: error of the codec", "lower", (codec, _of("mse"))),
        beside(f"digits: held-out bits a picture ({HALVES} | {WHOLE} | {BITWISE})", "lower", *bits),
    ]
    compared = ((HALVES, WHOLE, BITWISE), ("4 x 2",), (MASKED, HALVES))
    for sampling in ("plain", "guided"):
        for label, name, better in _JUDGED:
            for arms in compared:
                columns = ((results[arm], _of(sampling, name)) for arm in arms)
                title = f"digits, {sampling}: {label} ({' | '.join(arms)})"
                rows.append(beside(title, better, *columns))
    return rows


def _kept_rows(results: Results) -> list[Measure]:
    """What the number of codes that are drawn from does, on the whole code."""
    return [
        beside(
            f"digits, top-{kept} of 256: {label}",
            better,
            (results[WHOLE], _of(f"top {kept}", name)),
        )
        for kept in KEPT
        for label, name, better in _JUDGED
    ]


def _gaps(results: Results) -> list[Measure]:
    seeds = _by_seed(results)
    if len(seeds) < 2:
        return []
    asked = {
        **QUESTIONS,
        f"digits: ln Fréchet distance by digit, {MASKED} against {HALVES}": (
            _gap(_log(MASKED), _log(HALVES))
        ),
    }
    return [
        Measure(f"paired difference, {name}", estimate(paired(read, seeds, [{}] * len(seeds))))
        for name, read in asked.items()
    ]


def _scale(recipe: Recipe, results: Results, real: dict[str, float]) -> str:
    entropies = ", ".join(f"{results[t, 1][0]['entropy']:.2f} ({t})" for t in TIES)
    return (
        f"known sequences of 16 cells of 8 bits, entropy of a cell {entropies} bits, "
        f"{recipe.synthetic.steps} steps of {recipe.batch.size}; handwritten digits of 8 x 8 "
        f"pixels (1200 to train on in nine crops, 597 held out) as 4 x 4 cells of 8 bits, "
        f"{recipe.train.steps} steps of {recipe.batch.size}, {recipe.drawn} pictures drawn of each "
        f"setting; {recipe.size.depth} blocks of width {recipe.size.width}; "
        f"{len(results['codec'])} paired seeds; training pictures themselves are "
        f"{real['frechet']:.3g} from the held-out ones; the judge reads {real['accuracy']:.1%} of "
        "held-out digits rightly"
    )
