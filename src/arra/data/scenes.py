"""Digit scenes: real handwritten digits, coloured and placed on a canvas by a caption.

A scene is a pure function of (configuration, split, seed, index), so that any number of them exists
without a file, workers need no coordination, and the truth of every picture is known. The digits
are scikit-learn's (8 x 8 pixels, 1 797 of them); they are split by image, so that no handwritten
digit of a test scene was ever part of a training scene.

Some combinations never occur in training, so that prompts of them test composition: a fifth of the
pairs of coloured digits never stand in one picture, and a fifth of the pairs of coloured digit and
background never occur with that digit alone ("heldout"). Harder still, each digit never occurs at
all in one of the six inks ("inks").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Literal

import numpy as np
from PIL import Image

from arra.errors import InputError

Split = Literal["train", "validation", "test"]
Combinations = Literal["seen", "heldout", "inks", "all"]

INKS: dict[str, tuple[int, int, int]] = {
    "red": (235, 50, 45),
    "yellow": (250, 220, 50),
    "green": (60, 190, 75),
    "blue": (60, 120, 245),
    "purple": (185, 70, 215),
    "white": (245, 245, 245),
}
GROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (12, 12, 14),
    "navy": (22, 28, 72),
    "grey": (72, 74, 80),
}
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURED = tuple(product(range(10), INKS))
"""Every digit in every ink."""
UNSEEN_INK = frozenset((digit, tuple(INKS)[digit % len(INKS)]) for digit in range(10))
"""The ink in which each digit never occurs in training."""
HELD_OUT_SHARE = 0.2

_STREAM = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True)
class SceneConfig:
    """What scenes look like. Lengths are in pixels."""

    size: int = 24
    """Side of the square canvas."""
    digit: int = 12
    """Side of the square that one digit fills."""
    step: int = 12
    """Digits are placed with their corner on multiples of this."""
    most: int = 3
    """Largest number of digits in a scene (1 to 3)."""
    counts: tuple[float, ...] = (0.35, 0.55, 0.1)
    """How often scenes have one, two and three digits."""
    ground_named: float = 0.5
    """Share of captions that name the background; the others leave it open."""

    @property
    def aside(self) -> int:
        """How far, in pixels, two digits of a relation may be out of line."""
        return min(self.step, self.digit // 3)

    def __post_init__(self) -> None:
        if not 1 <= self.most <= 3:
            raise InputError(f"SceneConfig.most: {self.most}, expected 1, 2 or 3")
        if self.step < 1 or self.digit < 4 or self.size < self.digit:
            raise InputError("SceneConfig: expected size >= digit >= 4 pixels and step >= 1")
        if self.most > 1 and self.size < 2 * self.digit:
            raise InputError(
                f"SceneConfig.size: {self.size} has no room for two digits of {self.digit} pixels"
            )
        if len(self.counts) < self.most or min(self.counts) < 0 or sum(self.counts) <= 0:
            raise InputError("SceneConfig.counts: expected a weight for each number of digits")


@dataclass(frozen=True)
class SceneDigit:
    """One digit of a scene: what it is, its ink, its corner in pixels, and which scan it was."""

    value: int
    colour: str
    row: int
    column: int
    scan: int = -1


@dataclass(frozen=True)
class Relation:
    """`first` stands `kind` (left of, right of, above, below) `second`; both index the digits."""

    first: int
    kind: str
    second: int


@dataclass(frozen=True)
class Scene:
    """A caption and the truth about the picture that belongs to it."""

    caption: str
    digits: tuple[SceneDigit, ...]
    relations: tuple[Relation, ...]
    ground: str
    ground_named: bool
    picture: np.ndarray | None = field(default=None, compare=False, repr=False)
    """(size, size, 3) uint8, or None where only the prompt was asked for."""


@cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images.astype(np.float32) / 16.0, data.target.astype(np.int64)


@cache
def scans_of(split: Split) -> tuple[np.ndarray, ...]:
    """Indices of the digit scans that belong to `split`, one array for each digit value.

    Of each value 70 % go to training, 12 % to validation and the rest to the test.
    """
    if split not in _STREAM:
        raise InputError(f"split: {split!r}, expected one of {', '.join(_STREAM)}")
    _, labels = _scans()
    order = np.random.default_rng(20250307).permutation(len(labels))
    parts = []
    for value in range(10):
        mine = order[labels[order] == value]
        first, second = int(0.70 * len(mine)), int(0.82 * len(mine))
        bounds = {"train": (0, first), "validation": (first, second), "test": (second, None)}
        parts.append(np.sort(mine[slice(*bounds[split])]))
    return tuple(parts)


@cache
def _masks(side: int) -> np.ndarray:
    """(1797, side, side) float32 in [0, 1]: how much ink each pixel of each scan has."""
    images, _ = _scans()
    big = [
        np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
        for image in images
    ]
    # A firmer stroke: small digits with soft edges are hard to read for people and networks alike.
    return np.clip((np.stack(big) - 0.15) / 0.6, 0.0, 1.0)


@cache
def _held_out() -> tuple[np.ndarray, np.ndarray]:
    """Which pairs of coloured digits (60, 60), and which coloured digits alone on a background
    (60, 3), training never shows."""
    rng = np.random.default_rng(20250310)
    above = np.triu(rng.random((len(COLOURED), len(COLOURED))) < HELD_OUT_SHARE, k=1)
    return above | above.T, rng.random((len(COLOURED), len(GROUNDS))) < HELD_OUT_SHARE


def is_held_out(coloured: list[int], ground: int) -> bool:
    """Whether a scene with these coloured digits (indices into `COLOURED`) is held out."""
    together, alone = _held_out()
    if len(coloured) == 1:
        return bool(alone[coloured[0], ground])
    return bool(together[np.ix_(coloured, coloured)].any())


def holds(kind: str, a: tuple[int, int], b: tuple[int, int], config: SceneConfig) -> bool:
    """Whether a digit at corner `a` (row, column) stands `kind` a digit at corner `b`."""
    (ra, ca), (rb, cb) = a, b
    if kind == "left of":
        return ca + config.digit <= cb and abs(ra - rb) <= config.aside
    if kind == "above":
        return ra + config.digit <= rb and abs(ca - cb) <= config.aside
    return holds(OPPOSITE[kind], b, a, config)


def _apart(a: tuple[int, int], b: tuple[int, int], digit: int) -> bool:
    return abs(a[0] - b[0]) >= digit or abs(a[1] - b[1]) >= digit


@cache
def _placements(config: SceneConfig, kinds: tuple[tuple[int, str, int], ...]) -> np.ndarray:
    """All placements (n, digits, 2) of corners in which every relation of `kinds` holds."""
    corners = range(0, config.size - config.digit + 1, config.step)
    spots = list(product(corners, corners))
    found: list[tuple[tuple[int, int], ...]] = [(spot,) for spot in spots]
    for _ in range(len(kinds)):
        found = [
            (*placed, spot)
            for placed in found
            for spot in spots
            if all(_apart(spot, other, config.digit) for other in placed)
        ]
    fits = [
        placed
        for placed in found
        if all(holds(k, placed[i], placed[j], config) for i, k, j in kinds)
    ]
    return np.asarray(fits, dtype=np.int64)


def _phrase(digit: SceneDigit, rng: np.random.Generator, article: str = "a") -> str:
    name = WORDS[digit.value] if rng.random() < 0.2 else str(digit.value)
    return f"{article} {digit.colour} {name}"


def _caption(
    digits: tuple[SceneDigit, ...],
    relations: tuple[Relation, ...],
    ground: str | None,
    rng: np.random.Generator,
) -> str:
    """One of several phrasings of the scene."""
    first = _phrase(digits[0], rng)
    text, named = first, 0  # which digit the sentence is about
    if relations:
        kind, second = relations[0].kind, _phrase(digits[1], rng)
        form = int(rng.choice(3, p=(0.45, 0.4, 0.15)))
        if form == 1:
            text, named = f"{second} {OPPOSITE[kind]} {first}", 1
        elif form == 2 and digits[0].colour != digits[1].colour:
            text = f"{first} and {second} , the {digits[0].colour} one {kind} the other"
        else:
            text = f"{first} {kind} {second}"
    for relation in relations[1:]:
        # "and" goes on about the digit that the sentence is about, "which" about the one just named
        link = "and" if relation.second == named else "which is"
        text += f" {link} {OPPOSITE[relation.kind]} {_phrase(digits[relation.first], rng)}"
    if ground is not None:
        text += f" on {ground}"
    return text


class DigitScenes:
    """An endless sequence of scenes: `scenes[i]` is the same scene on every machine.

    `combinations` says which scenes occur: those of training ("seen"); only scenes with a
    combination that training never shows, of known coloured digits ("heldout"); only digits in inks
    in which training never shows them ("inks"); or "all".
    """

    def __init__(
        self,
        config: SceneConfig | None = None,
        split: Split = "train",
        seed: int = 0,
        combinations: Combinations = "seen",
    ):
        self.config = config or SceneConfig()
        self.split, self.seed, self.combinations = split, seed, combinations
        self._by_value = scans_of(split)
        if combinations not in ("seen", "heldout", "inks", "all"):
            raise InputError(f"combinations: {combinations!r}, expected seen, heldout, inks or all")
        known = [n for n, pair in enumerate(COLOURED) if pair not in UNSEEN_INK]
        new = [n for n, pair in enumerate(COLOURED) if pair in UNSEEN_INK]
        self._objects = {"inks": new, "all": known + new}.get(combinations, known)
        counts = np.asarray(self.config.counts[: self.config.most], dtype=np.float64)
        self._bounds = np.cumsum(counts / counts.sum())

    def __getitem__(self, index: int) -> Scene:
        return self._make(index, draw=True)

    def prompt(self, index: int) -> Scene:
        """Scene `index` without its picture."""
        return self._make(index, draw=False)

    def pictures(self, start: int, stop: int) -> tuple[np.ndarray, list[Scene]]:
        """Pictures (n, size, size, 3) uint8 of the scenes `start` to `stop`, and the scenes."""
        scenes = [self.prompt(index) for index in range(start, stop)]
        side = self.config.size
        out = np.empty((len(scenes), side, side, 3), dtype=np.uint8)
        for picture, scene in zip(out, scenes, strict=True):
            picture[:] = draw(scene, self.config)
        return out, scenes

    def redrawn(self, scene: Scene, seed: int) -> Scene:
        """Another scene of the same caption: other scans, other places, and another background
        where the caption leaves it open. For the variety that a prompt really has."""
        rng = np.random.default_rng([_STREAM[self.split], self.seed, seed, 1])
        kinds = tuple((r.first, r.kind, r.second) for r in scene.relations)
        places = _placements(self.config, kinds)
        corners = places[rng.integers(len(places))]
        digits = []
        for digit, (row, column) in zip(scene.digits, corners, strict=True):
            scans = self._by_value[digit.value]
            scan = int(scans[rng.integers(len(scans))])
            digits.append(SceneDigit(digit.value, digit.colour, int(row), int(column), scan))
        ground = tuple(GROUNDS)[rng.integers(len(GROUNDS))]
        if scene.ground_named:
            ground = scene.ground
        new = Scene(scene.caption, tuple(digits), scene.relations, ground, scene.ground_named)
        return _with_picture(new, self.config)

    def _make(self, index: int, draw: bool) -> Scene:
        rng = np.random.default_rng([_STREAM[self.split], self.seed, index])
        number = int(np.searchsorted(self._bounds, rng.random(), side="right")) + 1
        number = min(number, self.config.most)
        while True:
            chosen = rng.choice(self._objects, size=number, replace=False).tolist()
            ground = int(rng.integers(len(GROUNDS)))
            new = is_held_out(chosen, ground)
            if self.combinations in ("inks", "all") or new == (self.combinations == "heldout"):
                break
        kinds = []
        for newcomer in range(1, number):
            kind = RELATIONS[rng.integers(4)]
            kinds.append((0, kind, 1) if newcomer == 1 else (2, kind, int(rng.integers(2))))
        places = _placements(self.config, tuple(kinds))
        while len(places) == 0:  # three digits in a row or column need a larger canvas
            kinds[-1] = (2, RELATIONS[rng.integers(4)], int(rng.integers(2)))
            places = _placements(self.config, tuple(kinds))
        corners = places[rng.integers(len(places))]
        digits = []
        for coloured, (row, column) in zip(chosen, corners, strict=True):
            value, colour = COLOURED[coloured]
            scans = self._by_value[value]
            scan = int(scans[rng.integers(len(scans))])
            digits.append(SceneDigit(value, colour, int(row), int(column), scan))
        relations = tuple(Relation(*kind) for kind in kinds)
        name = tuple(GROUNDS)[ground]
        named = bool(rng.random() < self.config.ground_named)
        # what is new about one digit alone is its background, so that its caption must say it
        named = named or (number == 1 and self.combinations == "heldout")
        caption = _caption(tuple(digits), relations, name if named else None, rng)
        scene = Scene(caption, tuple(digits), relations, name, named)
        return _with_picture(scene, self.config) if draw else scene


def _with_picture(scene: Scene, config: SceneConfig) -> Scene:
    return Scene(
        scene.caption,
        scene.digits,
        scene.relations,
        scene.ground,
        scene.ground_named,
        draw(scene, config),
    )


def draw(scene: Scene, config: SceneConfig) -> np.ndarray:
    """The picture (size, size, 3) uint8 of a scene."""
    canvas = np.empty((config.size, config.size, 3), dtype=np.float32)
    canvas[:] = GROUNDS[scene.ground]
    masks = _masks(config.digit)
    for digit in scene.digits:
        rows = slice(digit.row, digit.row + config.digit)
        columns = slice(digit.column, digit.column + config.digit)
        ink = masks[digit.scan][..., None]
        colour = np.asarray(INKS[digit.colour], dtype=np.float32)
        canvas[rows, columns] += ink * (colour - canvas[rows, columns])
    return np.rint(canvas).astype(np.uint8)
