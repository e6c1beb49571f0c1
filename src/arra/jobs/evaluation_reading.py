"""Of a checkpoint that reads: captions and answers about held-out pictures that are right.

Beside each number stands what the same prompts give with another picture: what can be said without
looking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from arra.data.rows import Question
from arra.data.scene_captions import is_true
from arra.data.scene_questions import questions
from arra.data.scenes import DigitScenes, Scene, SceneConfig
from arra.jobs.evaluation_parts import Ground
from arra.metrics.bootstrap import mean_measured
from arra.metrics.measured import Measured
from arra.metrics.understanding import (
    Describes,
    answered,
    described,
    exact_match,
    kind_of,
    likeliest_answers,
)
from arra.pixels import to_unit
from arra.randomness import derangement
from arra.text_to_image import TextToImage

if TYPE_CHECKING:
    from arra.jobs.evidence import Evidence

_KINDS, _FEWEST = 12, 20  # kinds of questions that are told apart, and how many of each
_KNOWN = 4096  # training rows whose answers say which ones are frequent
OTHER = ", another picture"


@dataclass(frozen=True)
class Shown:
    """Pictures to be read, and what is right to say of them."""

    codes: Tensor
    """(N, ...) of the checkpoint's codec."""
    captions: list[str]
    questions: list[tuple[Question, ...]]
    scenes: list[Scene]
    """The truth where pictures are digit scenes, else nothing."""


def find_shown(
    model: TextToImage, ground: Ground, config: SceneConfig | None, count: int, seed: int
) -> Shown:
    """Test scenes of held-out combinations, or the first `count` of the held-out rows.

    Scenes are asked about where the store's were: what a model never heard it cannot answer.
    """
    if config is None:
        assert ground.held_out is not None
        rows, here = ground.held_out, range(min(count, len(ground.held_out)))
        return Shown(rows.rows(here, ()).codes, rows.captions(here), rows.questions(here), [])
    endless = DigitScenes(config, "test", seed=seed, combinations="heldout")
    pictures, scenes = endless.pictures(0, count)
    with torch.inference_mode():
        codes = model.codec.encode(to_unit(pictures).to(model.codec.device))
    asks = ground.store is not None and ground.store.asks
    asked = [questions(scene, config) if asks else () for scene in scenes]
    return Shown(codes, [scene.caption for scene in scenes], asked, scenes)


def reads(e: Evidence) -> str | None:
    """Why nothing can be read, or None."""
    if e.model is None:
        return "no checkpoint"
    if not e.model.can_read:
        return f"a {e.model.generator.registered_name} generator draws and does not read"
    return "no store" if e.config is None and e.ground.held_out is None else None


def asked(e: Evidence) -> str | None:
    """Why nothing can be asked, or None."""
    return None if any(e.shown.questions) else "the store has no questions"


def captions(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """Captions that are the stored ones, and of digit scenes those that are true."""
    shown, other = e.shown, derangement(len(e.shown.captions), rng)
    said = described(_reader(e), shown.codes)
    for what, texts in (("", said), (OTHER, [said[row] for row in other])):
        right = exact_match(texts, shown.captions)
        yield mean_measured(f"exact captions{what}", right, "none", rng)
        if shown.scenes and e.config is not None:
            pairs = zip(texts, shown.scenes, strict=True)
            true = np.array([is_true(text, scene, e.config) for text, scene in pairs], float)
            yield mean_measured(f"true captions{what}", true, "none", rng)


def answers(e: Evidence, rng: np.random.Generator) -> Iterator[Measured]:
    """Exact answers, of all questions and of each kind, and what is answered without looking."""
    shown, other = e.shown, derangement(len(e.shown.captions), rng)
    everything = [(row, one) for row, asked in enumerate(shown.questions) for one in asked]
    picture = np.array([row for row, _ in everything])
    prompts = [one.question for _, one in everything]
    wanted = [one.answer for _, one in everything]

    def right(rows: np.ndarray) -> np.ndarray:
        return exact_match(described(_reader(e), shown.codes[rows], prompts), wanted)

    seen = right(picture)
    yield answered("exact answers", seen, picture, rng)
    for kind, here in _kinds(prompts):
        yield answered(f"exact answers, {kind}", seen[here], picture[here], rng)
    yield answered(f"exact answers{OTHER}", right(other[picture]), picture, rng)
    if e.ground.training is not None:
        rows = e.ground.training
        asked = rows.questions(range(min(_KNOWN, len(rows))))
        frequent = likeliest_answers(one for row in asked for one in row)
        guessed = [frequent.get(kind_of(prompt), "") for prompt in prompts]
        name = "exact answers, the most frequent of the kind"
        yield answered(name, exact_match(guessed, wanted), picture, rng)


def _reader(e: Evidence) -> Describes:
    assert e.model is not None
    return e.model.reader


def _kinds(prompts: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The kinds of questions that are asked often enough, and where they stand."""
    kinds = [kind_of(prompt) for prompt in prompts]
    counts = Counter(kinds)
    if 1 < len(counts) <= _KINDS:
        for kind in sorted(counts):
            if counts[kind] >= _FEWEST:
                yield kind, np.array([found == kind for found in kinds])
