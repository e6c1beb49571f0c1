"""The claim: drafts that see the target's noise are accepted several times as often, and what is
drawn stays what the target draws.

The data's law is known, walks around a ring; the larger of two transformers with diffusion heads is
the target, the smaller drafts. How far samples are from each other is a kernel distance (MMD), in
times of that of two runs of the target alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from arra.files import to_plain
from arra.systems.base import ClaimRun
from arra.systems.cspd.arms import ALONE, train_arm
from arra.systems.cspd.recipe import (
    ALIGNED,
    DIFFUSION,
    EXACT,
    GAUSSIAN,
    HEADS,
    INDEPENDENT,
    RECIPES,
    RELEASED,
    Recipe,
)
from arra.systems.results import Better, ClaimResult, Estimate, Measure, Verdict
from arra.systems.seeds import (
    Reading,
    Result,
    Row,
    at,
    logarithm,
    measure,
    over_seeds,
    paired,
    run_arms,
)

Results = dict[str, list[Result]]

MORE, LITTLE_MORE = 2.0, 1.2
"""How many times as often shared noise must be accepted; and how few times refute the claim."""
NEAR, FAR = 2.0, 4.0
"""Kernel distance to the target, in times of the floor, that keeps its law; and that does not."""


def claim(run: ClaimRun) -> ClaimResult:
    """Train both pairs of models for every seed, draw in all ways and judge."""
    recipe = RECIPES[run.budget]()
    results = run_arms(train_arm, HEADS, run, recipe=recipe)
    verdict, statement = judged(results)
    return ClaimResult(
        verdict,
        statement,
        tuple(_measures(results)),
        scale=_scale(recipe, results),
        settings=to_plain({"recipe": recipe}),
    )


def distance(way: str) -> Reading:
    """Kernel distance of what is drawn that way to the target alone, in times of the floor."""
    return lambda result: result[way]["mmd"] / result["floor"]


def judged(results: Results) -> tuple[Verdict, str]:
    """Pass: with shared noise 2 times as much is accepted as with independent noise or more, in the
    whole 95 % interval of the ratio over seeds, and the kernel distance is on average 2 times the
    floor or less. Fail: on average 1.2 times as much or less, or more than 4 times the floor.
    Otherwise, or where tokens of one Gaussian, of which the method is exact, are more than 2 times
    the floor away, the experiment could not tell."""
    mine, exact = results[DIFFUSION], results[GAUSSIAN]
    if len(mine) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    ratio = paired(logarithm(at(ALIGNED, "acceptance")), mine, _independent(mine)).interval
    times, least = math.exp(ratio.value), math.exp(ratio.low)
    shared, alone = (_over(mine, at(way, "acceptance")) for way in (ALIGNED, INDEPENDENT))
    away = _over(mine, distance(ALIGNED)).value
    sure = _over(exact, distance(ALIGNED)).value
    passes = _over(mine, at(ALIGNED, "passes"))
    said = (
        f"Accepted with shared noise {shared}, with independent noise {alone}: {times:.2f} times "
        f"as much (at least {least:.2f}). Kernel distance to the target alone {away:.2f} times the "
        f"floor, of tokens of one Gaussian {sure:.2f}. Passes of the target {passes}."
    )
    if times <= LITTLE_MORE or away > FAR:
        return "fail", said
    if sure > NEAR:
        return "inconclusive", f"Tokens of one Gaussian are not drawn exactly. {said}"
    if least >= MORE and away <= NEAR:
        return "pass", said
    return "inconclusive", f"The seeds do not tell. {said}"


def _independent(results: Sequence[Result]) -> list[Result]:
    """The control's numbers where those of the paper's rule stand."""
    return [{**result, ALIGNED: result[INDEPENDENT]} for result in results]


def _over(results: Sequence[Result], read: Reading) -> Estimate:
    return over_seeds([read(result) for result in results])


def _measures(results: Results) -> list[Measure]:
    """The paper's rule beside the target alone (baseline) and independent noise (control), and
    then the other ways of drawing."""
    mine, exact = results[DIFFUSION], results[GAUSSIAN]

    def row(name: str, better: Better, read: Callable[[str], Reading], alone: bool) -> Measure:
        """Of all three; `alone`: the target has such a number by itself."""
        base = _over(mine, read(ALONE)) if alone else None
        mean, control = (_over(mine, read(way)) for way in (ALIGNED, INDEPENDENT))
        return Measure(name, mean, base, control, better)

    found = [
        row("accepted, of tested tokens", "higher", _acceptance, False),
        row("kernel distance to the target, floors", "lower", distance, False),
        row("passes of the target, of 8", "lower", _passes, True),
        row("passes of the draft", "neither", lambda way: at(way, "draft passes"), True),
        row("possible sequences", "higher", lambda way: at(way, "valid"), True),
        row("from the target's token to the draft's", "lower", lambda way: at(way, "gap"), False),
        row("proposals for a rejected token", "lower", lambda way: at(way, "tries"), False),
        row("of rejected, without a proposal", "lower", lambda way: at(way, "fallbacks"), False),
        row("seconds of drawing", "lower", lambda way: at("seconds", way), True),
    ]
    for way in (EXACT, RELEASED):
        found += [
            measure((f"accepted, {way}", "higher", _acceptance(way)), mine),
            measure((f"kernel distance, floors, {way}", "lower", distance(way)), mine),
            measure((f"passes of the target, {way}", "lower", _passes(way)), mine),
        ]
    for name, text in (("draft", "the draft alone"), ("truth", "the data")):
        found.append(measure((f"kernel distance, floors, {text}", "neither", _floors(name)), mine))
    for name in ("accepted", "rejected"):
        for way, term, text in _TERMS:
            line: Row = (f"median over {name} tokens, {text}", "neither", at(way, name, term))
            found.append(measure(line, mine))
    return [
        *found,
        measure(("accepted, one Gaussian", "higher", _acceptance(ALIGNED)), exact),
        measure(("kernel distance, floors, one Gaussian", "lower", distance(ALIGNED)), exact),
    ]


def _acceptance(way: str) -> Reading:
    return at(way, "acceptance")


def _passes(way: str) -> Reading:
    return at(way, "passes")


def _floors(name: str) -> Reading:
    return lambda result: result[name] / result["floor"]


_TERMS = (
    (ALIGNED, "log_ratio", "log R"),
    (ALIGNED, "log_scale", "log S"),
    (ALIGNED, "target", "squared distance from the target's mean, deviations"),
    (ALIGNED, "draft", "squared distance from the draft's mean, deviations"),
    (RELEASED, "tempered", f"tempered log R, {RELEASED}"),
    (RELEASED, "log_ratio", f"log R, {RELEASED}"),
)


def _scale(recipe: Recipe, results: Results) -> str:
    target, draft = recipe.target, recipe.draft
    return (
        f"sequences of {recipe.law.length} points around a ring, transformers of {target.depth} "
        f"and {draft.depth} blocks of width {target.width} and {draft.width}, heads of three "
        f"blocks of width {target.inner} and {draft.inner}, {recipe.sampling} steps with a learned "
        f"variance, {recipe.ahead} tokens drafted for a pass, {recipe.learning.steps} training "
        f"steps of {recipe.learning.batch} sequences, {recipe.drawn} sequences drawn in each way, "
        f"{len(results[DIFFUSION])} seeds"
    )
