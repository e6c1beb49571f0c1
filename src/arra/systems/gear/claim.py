"""The claim: a fresh generator learns faster and better on a codec that GEAR has tuned.

Better than on a codec tuned for reconstruction alone for as many steps: the control that the paper
lacks. Tuning by the next-token loss through straight-through codes must collapse, as the paper
says. Cross-entropies of different codecs do not compare, so that the verdict rests on pictures: the
logarithm of the Fréchet distance, averaged over the checkpoints of a generator's training.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from arra.experiments.digits import Judge, digits, train_judge
from arra.experiments.parallel import Job, run_jobs
from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.gear.recipe import (
    ARMS,
    COLLAPSING,
    CONTROL,
    GEAR,
    GLOBAL,
    PATCH,
    PLAIN,
    RECIPES,
    TOKENIZERS,
    WARM_UP,
    Recipe,
)
from arra.systems.gear.stages import make_codecs, train_fresh
from arra.systems.results import ClaimResult, Measure, Verdict
from arra.systems.seeds import Reading, Result, Row, estimate, measure, paired

Results = dict[Any, list[Result]]
"""Codec name, or (codec, generator), to what was measured, in the order of the seeds."""


def curve(result: Result) -> float:
    """Mean over checkpoints of the logarithm of the Fréchet distance."""
    found = [math.log(max(mark["frechet"], 1e-6)) for mark in result["checkpoints"]]
    return sum(found) / len(found)


def last(name: str) -> Reading:
    """What was measured after the last step."""
    return lambda result: result["checkpoints"][-1][name]


def first(name: str) -> Reading:
    """What was measured at the first checkpoint."""
    return lambda result: result["checkpoints"][0][name]


CODEC_MEASURES: tuple[Row, ...] = (
    ("reconstruction, mean absolute error on [-1, 1]", "lower", lambda r: r["l1"]),
    ("reconstruction, Fréchet distance", "lower", lambda r: r["frechet"]),
    ("entropy of the codes (nats)", "neither", lambda r: r["entropy"]),
)
CURVE: Row = ("ln Fréchet distance, mean over the checkpoints", "lower", curve)
LAST_FRECHET: Row = ("Fréchet distance, last checkpoint", "lower", last("frechet"))
LAST_RIGHT: Row = ("digit right, last checkpoint", "higher", last("accuracy"))
LAST_NATS: Row = ("held-out nats per code, last checkpoint", "lower", last("nats"))
FRESH_MEASURES: tuple[Row, ...] = (
    CURVE,
    ("Fréchet distance, first checkpoint", "lower", first("frechet")),
    LAST_FRECHET,
    ("Fréchet distance, last checkpoint, guided", "lower", last("guided frechet")),
    LAST_RIGHT,
    ("digit right, last checkpoint, guided", "higher", last("guided accuracy")),
    ("held-out nats per code, first checkpoint", "lower", first("nats")),
    LAST_NATS,
    ("alignment loss, last steps", "lower", lambda r: r["alignment"]),
)


def claim(run: ClaimRun) -> ClaimResult:
    """Tune the codecs, train and judge a fresh generator on each; all seeds paired."""
    recipe = RECIPES[run.budget]()
    known, held_out = digits()
    judge = train_judge(known, held_out, recipe.tuning.crop)
    results = _run_all(recipe, judge, run)
    real = known.cropped(recipe.tuning.crop).pictures
    some = np.random.default_rng(0).choice(len(real), recipe.drawn, replace=False)
    floor = judge.distance(real[some])
    right = float((judge.classes(held_out.pictures) == held_out.labels).mean())
    measures = _measures(results)
    verdict, statement = _verdict(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(measures),
        scale=_scale(recipe, results, floor, right),
        settings=to_plain(recipe),
    )


def _run_all(recipe: Recipe, judge: Judge, run: ClaimRun) -> Results:
    given = {"recipe": recipe, "judge": judge, "quiet": run.quiet}
    folders = {seed: run.folder / f"seed-{seed}" for seed in run.seeds}
    codecs = [
        Job(f"codecs, seed {seed}", make_codecs, {**given, "seed": seed, "folder": folder})
        for seed, folder in folders.items()
    ]
    found: Results = {name: [] for name in (*TOKENIZERS, *ARMS)}
    for made in run_jobs(codecs, quiet=run.quiet):
        for name in TOKENIZERS:
            found[name].append(made[name])
    pairs = [(seed, arm) for arm in ARMS for seed in run.seeds]
    fresh = [
        Job(
            f"{tokenizer}, {how}, seed {seed}",
            train_fresh,
            {**given, "tokenizer": tokenizer, "how": how, "seed": seed, "folder": folders[seed]},
        )
        for seed, (tokenizer, how) in pairs
    ]
    for (_, arm), result in zip(pairs, run_jobs(fresh, quiet=run.quiet), strict=True):
        found[arm].append(result)
    return found


def _measures(results: Results) -> list[Measure]:
    """The table: GEAR beside the warm-up (baseline) and equal steps of reconstruction (control)."""
    codecs = [results[name] for name in (GEAR, WARM_UP, CONTROL)]
    fresh = [results[name, PATCH] for name in (GEAR, WARM_UP, CONTROL)]
    rows = [
        measure((f"codec: {name}", better, read), *codecs) for name, better, read in CODEC_MEASURES
    ]
    rows += [
        measure((f"fresh generator: {name}", better, read), *fresh)
        for name, better, read in FRESH_MEASURES
    ]
    if len(codecs[0]) > 1:
        for name, _, read in FRESH_MEASURES:
            gap = estimate(paired(read, fresh[0], fresh[2]))
            rows.append(Measure(f"paired difference, GEAR - control: {name}", gap))
    return rows + _collapse(results) + _rivals(results)


def _collapse(results: Results) -> list[Measure]:
    """The straight-through codec in the place of GEAR's."""
    codecs = [results[name] for name in (COLLAPSING, WARM_UP, CONTROL)]
    fresh = [results[name, PATCH] for name in (COLLAPSING, WARM_UP, CONTROL)]
    rows = [
        measure((f"straight-through codec: {name}", better, read), *codecs)
        for name, better, read in CODEC_MEASURES
    ]
    for name, better, read in (LAST_FRECHET, LAST_NATS):
        rows.append(measure((f"on the straight-through codec: {name}", better, read), *fresh))
    return rows


def _rivals(results: Results) -> list[Measure]:
    """ARRA, GEAR, both and none: the alignment of the generator beside that of the codec."""
    rows = []
    none = results[CONTROL, PLAIN]
    for name, better, read in (CURVE, LAST_FRECHET, LAST_RIGHT):
        for label, arm in (
            ("ARRA", (CONTROL, GLOBAL)),
            ("GEAR's codec", (GEAR, PLAIN)),
            ("both", (GEAR, GLOBAL)),
        ):
            row = (f"{label} against none: {name}", better, read)
            rows.append(measure(row, results[arm], none))
            if len(none) > 1:
                gap = estimate(paired(read, results[arm], none))
                rows.append(Measure(f"paired difference, {label} - none: {name}", gap))
    return rows


def _verdict(results: Results) -> tuple[Verdict, str]:
    """Pass: below the control beyond what seeds explain, and the straight-through codec collapses
    (lower entropy of codes, and worse pictures, than the control). Fail: above the control beyond
    what seeds explain, or no collapse. Otherwise the experiment could not tell."""
    if len(results[GEAR]) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    helped = paired(curve, results[GEAR, PATCH], results[CONTROL, PATCH])
    entropy = paired(lambda r: r["entropy"], results[COLLAPSING], results[CONTROL]).interval
    worse = paired(curve, results[COLLAPSING, PATCH], results[CONTROL, PATCH]).interval
    nats = paired(last("nats"), results[GEAR, PATCH], results[CONTROL, PATCH]).interval
    collapsed = entropy.high < 0 and worse.low > 0
    said = (
        f"ln Fréchet distance of a fresh generator, GEAR minus equal steps of reconstruction: "
        f"{helped.statement()}. Held-out nats per code: {nats}. Straight-through minus control: "
        f"entropy of the codes {entropy}, ln Fréchet distance {worse}."
    )
    if not collapsed:
        return "fail", f"The straight-through codec did not collapse. {said}"
    if helped.interval.high < 0:
        return (
            "pass",
            f"GEAR's codec is learnt faster and better; straight-through collapses. {said}",
        )
    if helped.interval.low > 0:
        return "fail", f"A fresh generator does worse on GEAR's codec. {said}"
    return (
        "inconclusive",
        f"Straight-through tuning collapses; whether GEAR helps, the seeds do not tell. {said}",
    )


def _scale(recipe: Recipe, results: Results, floor: float, right: float) -> str:
    parameters = results[GEAR, PATCH][0]["parameters"]
    return (
        f"handwritten digits of 8 x 8 pixels (1200 to train on, 597 held out), 4 x 4 codes among "
        f"{recipe.codec.vocabulary}, {recipe.warm_up.steps} + {recipe.tuning.steps} codec steps, a "
        f"fresh Llama of {parameters / 1e6:.2f} M parameters for {recipe.train.steps} steps of "
        f"{recipe.batch.size} pictures, {len(results[GEAR])} paired seeds; {recipe.drawn} pictures "
        f"drawn at each of {len(results[GEAR, PATCH][0]['checkpoints'])} checkpoints; training "
        f"pictures themselves are {floor:.3g} from the held-out ones; the judge reads "
        f"{right:.1%} of held-out digits rightly"
    )
