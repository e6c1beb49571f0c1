"""How much of a prompt its picture shows: digits, inks, relations, number and background.

A score is a share, kept as two arrays over the prompts (what was right, what was asked), so that it
can be bootstrapped over prompts. Beside every score belong its chance level, the control with
shuffled prompts, and the reader's own error on real pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Protocol, TypeVar

import numpy as np

from arra.data.scenes import (
    GROUNDS,
    INKS,
    OPPOSITE,
    DigitScenes,
    Relation,
    Scene,
    SceneConfig,
    Split,
)
from arra.errors import InputError
from arra.metrics.bootstrap import bootstrap, ratio
from arra.metrics.measured import Interval, Measured
from arra.metrics.readings import ReadDigit, Reading, true_reading
from arra.randomness import derangement

T = TypeVar("T")

ATTRIBUTES = ("digit", "colour", "count", "relation", "ground", "all")


class Reader(Protocol):
    """Whatever can read pictures (N, S, S, 3) uint8."""

    def read(self, pictures: np.ndarray) -> list[Reading]:
        """One reading a picture."""


@dataclass(frozen=True)
class Share:
    """A share over N prompts."""

    right: np.ndarray
    """(N,) how much was right."""
    asked: np.ndarray
    """(N,) how much was asked; 0 where the prompt says nothing about it."""

    @property
    def value(self) -> float:
        """All that was right over all that was asked; nan when nothing was."""
        return ratio(self.right, self.asked)


@dataclass(frozen=True)
class PromptScores:
    """Scores of N pictures against their prompts."""

    digit: Share
    """Requested digits with the right value; missing ones are wrong."""
    colour: Share
    """Requested digits with the right ink; missing ones are wrong."""
    count: Share
    """Prompts whose picture has exactly the requested number of digits."""
    relation: Share
    """Stated relations that hold; wrong when either digit is missing."""
    ground: Share
    """Named backgrounds that are right."""
    all: Share
    """Prompts that are right in everything, with no superfluous digit."""

    def values(self) -> dict[str, float]:
        """The six shares by name."""
        return {name: getattr(self, name).value for name in ATTRIBUTES}

    def measured(
        self, reader: str, rng: np.random.Generator, level: float = 0.95
    ) -> dict[str, Measured]:
        """The shares with bootstrap intervals over prompts; `reader` names the judge.

        Where every prompt is right, or none, resampling shows no spread, and the exact binomial
        bounds (Clopper and Pearson 1934) over the prompts are given instead.
        """
        results = {}
        for name in ATTRIBUTES:
            share: Share = getattr(self, name)
            named = share.asked > 0
            if named.sum() < 2:
                continue
            if share.value in (0.0, 1.0):
                interval = _exact(share.value, int(named.sum()), level)
            else:
                interval = bootstrap(
                    share.right[named], share.asked[named], rng=rng, statistic=ratio, level=level
                )
            results[name] = Measured(
                f"prompt accuracy, {name}", share.value, int(named.sum()), reader, interval
            )
        return results


def _exact(value: float, n: int, level: float) -> Interval:
    from scipy import stats

    bounds = stats.binomtest(round(value * n), n).proportion_ci(level, method="exact")
    return Interval(value, float(bounds.low), float(bounds.high), level, "Clopper-Pearson")


def relation_holds(
    kind: str,
    first: ReadDigit,
    second: ReadDigit,
    config: SceneConfig,
    tolerance: float | None = None,
) -> bool:
    """Whether `first` clearly stands `kind` `second`.

    The rule of the scenes (a whole digit apart along one axis, at most a step apart along the
    other), loosened by `tolerance` pixels, half of `config.aside` if None, because readings are not
    exact.
    """
    if kind in ("right of", "below"):
        return relation_holds(OPPOSITE[kind], second, first, config, tolerance)
    slack = config.aside / 2 if tolerance is None else tolerance
    down, across = second.row - first.row, second.column - first.column
    along, beside = (across, down) if kind == "left of" else (down, across)
    return along >= config.digit - slack and abs(beside) <= config.aside + slack


@dataclass(frozen=True)
class _Match:
    """What one assignment of requested to read digits gets right."""

    digits: int
    colours: int
    relations: int


def _match(reading: Reading, scene: Scene, config: SceneConfig) -> _Match:
    """The best assignment: most attributes of digits right, then most relations.

    Relations only break ties, so that they never buy a wrong digit.
    """
    wanted = scene.digits
    found: list[ReadDigit | None] = list(reading.digits)
    found += [None] * max(0, len(wanted) - len(found))
    best, best_key = _Match(0, 0, 0), (-1, -1)
    for chosen in permutations(found, len(wanted)):
        pairs = list(zip(wanted, chosen, strict=True))
        digits = sum(got is not None and got.value == want.value for want, got in pairs)
        colours = sum(got is not None and got.colour == want.colour for want, got in pairs)
        if (digits + colours, len(scene.relations)) <= best_key:
            continue
        relations = 0
        for relation in scene.relations:
            first, second = chosen[relation.first], chosen[relation.second]
            if first is not None and second is not None:
                relations += relation_holds(relation.kind, first, second, config)
        if (digits + colours, relations) > best_key:
            best, best_key = _Match(digits, colours, relations), (digits + colours, relations)
    return best


def prompt_accuracy(
    readings: Sequence[Reading], scenes: Sequence[Scene], config: SceneConfig | None = None
) -> PromptScores:
    """Scores of readings against the prompts (scenes) that their pictures were made for."""
    if len(readings) != len(scenes) or not scenes:
        raise InputError(
            f"prompt_accuracy: {len(readings)} readings for {len(scenes)} prompts, expected as many"
        )
    config = config or SceneConfig()
    right = {name: np.zeros(len(scenes)) for name in ATTRIBUTES}
    asked = {name: np.ones(len(scenes)) for name in ATTRIBUTES}
    for n, (reading, scene) in enumerate(zip(readings, scenes, strict=True)):
        match = _match(reading, scene, config)
        right["digit"][n], right["colour"][n] = match.digits, match.colours
        right["relation"][n] = match.relations
        right["count"][n] = len(reading.digits) == len(scene.digits)
        right["ground"][n] = scene.ground_named and reading.ground == scene.ground
        asked["digit"][n] = asked["colour"][n] = len(scene.digits)
        asked["relation"][n] = len(scene.relations)
        asked["ground"][n] = scene.ground_named
        parts = ("digit", "colour", "count", "relation", "ground")
        right["all"][n] = all(right[name][n] == asked[name][n] for name in parts)
    return PromptScores(**{name: Share(right[name], asked[name]) for name in ATTRIBUTES})


def shuffled_control(
    readings: Sequence[Reading],
    scenes: Sequence[Scene],
    rng: np.random.Generator,
    config: SceneConfig | None = None,
) -> PromptScores:
    """Scores of the same pictures against each other's prompts: what ignoring the prompt gives."""
    if len(scenes) < 2:
        raise InputError("shuffled_control: expected at least two prompts")
    order = derangement(len(scenes), rng)
    return prompt_accuracy(readings, [scenes[i] for i in order], config)


def chance_level(
    scenes: Sequence[Scene], rng: np.random.Generator, config: SceneConfig | None = None
) -> PromptScores:
    """Scores of perfect pictures of *other* prompts of the set.

    This is what a generator reaches that draws flawless scenes and does not read its prompt.
    """
    return shuffled_control([true_reading(scene) for scene in scenes], scenes, rng, config)


def _one(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


def corrupted(scene: Scene, attribute: str, rng: np.random.Generator) -> Scene:
    """The prompt with every value of one attribute replaced by one that the picture lacks."""
    if attribute == "digit":
        values = [v for v in range(10) if v not in {d.value for d in scene.digits}]
        return replace(
            scene, digits=tuple(replace(d, value=_one(values, rng)) for d in scene.digits)
        )
    if attribute == "colour":
        inks = [ink for ink in INKS if ink not in {d.colour for d in scene.digits}]
        return replace(
            scene, digits=tuple(replace(d, colour=_one(inks, rng)) for d in scene.digits)
        )
    if attribute == "count":
        return replace(scene, digits=(*scene.digits, scene.digits[0]))
    if attribute == "relation":
        turned = tuple(Relation(r.first, OPPOSITE[r.kind], r.second) for r in scene.relations)
        return replace(scene, relations=turned)
    grounds = [ground for ground in GROUNDS if ground != scene.ground]
    return replace(scene, ground=_one(grounds, rng), ground_named=True)


@dataclass(frozen=True)
class ReaderError:
    """How well a reader reads real pictures of scans that it never saw."""

    scores: PromptScores
    """Real pictures against their own prompts: true-positive rates, the ceiling of any claim."""
    false_positive: dict[str, float]
    """By attribute: how often the reader finds a falsified attribute all the same."""
    pictures: int

    def corrected(self, attribute: str, measured: float) -> float:
        """The rate that the pictures probably have, given the rate that the reader measured.

        p = (m - f) / (t - f), clipped to [0, 1], of true-positive rate t and false-positive rate f
        (Rogan and Gladen 1978). nan when the reader cannot tell right from wrong (t <= f).
        """
        true = self.scores.values()[attribute]
        false = self.false_positive[attribute]
        if not true > false:
            return math.nan
        return min(1.0, max(0.0, (measured - false) / (true - false)))


def reader_error(
    reader: Reader,
    rng: np.random.Generator,
    config: SceneConfig | None = None,
    *,
    split: Split = "test",
    count: int = 1000,
    seed: int = 0,
) -> ReaderError:
    """Measure `reader` on `count` real pictures of `split`."""
    config = config or SceneConfig()
    pictures, scenes = DigitScenes(config, split, seed=seed, combinations="all").pictures(0, count)
    readings = reader.read(pictures)
    false = {}
    parts = [name for name in ATTRIBUTES if name != "all"]
    for name in parts:
        wrong = [corrupted(scene, name, rng) for scene in scenes]
        false[name] = getattr(prompt_accuracy(readings, wrong, config), name).value
    # A prompt is wrong as a whole when any one thing is: falsify one thing, chosen by chance.
    mixed = []
    for scene in scenes:
        usable = [name for name in parts if name != "relation" or scene.relations]
        mixed.append(corrupted(scene, usable[rng.integers(len(usable))], rng))
    false["all"] = prompt_accuracy(readings, mixed, config).all.value
    return ReaderError(prompt_accuracy(readings, scenes, config), false, count)
