"""Quality against steps: what a student of digits is worth, and what it costs, beside its teacher.

One seed, teachers and students of minutes; who judges is a perceptron over pixels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.environment import machine_class, machine_info, versions
from arra.experiments.digits import MemoryStore, digits, floors, in_turn, judged, train_judge
from arra.experiments.once import once
from arra.files import to_plain, write_json
from arra.generators.student_batches import NOISE
from arra.generators.students import Student, student_of
from arra.objectives.laws import own_objectives
from arra.registry import samplers
from arra.samplers.flow import FlowSampler, NoiseSampler, TokenFlow, picture_noise
from arra.samplers.helped import Help, HelpedSampler
from arra.settings import SamplingConfig
from arra.systems.distilled_decoding.recipe import KINDS, DigitRecipe
from arra.systems.distilled_decoding.teachers import Teacher, trained
from arra.training.loop import train

FORMAT, FILE = 1, "steps.json"
SAMPLING = SamplingConfig(guidance=1.5)
INDEPENDENT = "independent"
_TOGETHER, _SHOWN = 100, 20
Draw = Callable[[Sequence[str], Sequence[int]], Tensor]


@dataclass(frozen=True)
class Way:
    """One way to draw."""

    name: str
    passes: int
    """Of a network, for a picture."""
    draw: Draw
    """Codes (B, L) for words and seeds."""


@dataclass(frozen=True)
class Pairs:
    """What a student learns from."""

    words: list[str]
    noise: Tensor
    """(N, L, d)."""
    codes: Tensor
    """(N, L) int64."""

    @classmethod
    def of(cls, teacher: Teacher, count: int, flow: TokenFlow) -> Pairs:
        """Digits in turn, by a teacher from noise that no picture of the page has."""
        words, seeds = in_turn(count), [(1 << 40) + number for number in range(count)]
        codes = _from_noise(teacher, flow, words, seeds)
        noise = picture_noise(seeds, codes.shape[1], teacher.vectors.shape[1])
        return cls(words, noise, codes)

    def independent(self, words: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """(B, L) every code as often as it stands there in pictures of the word, whatever the
        others are: the limit of drawing all at once without noise that is known."""
        random = np.random.default_rng([1, *seeds])
        rows = {word: np.flatnonzero(np.array(self.words) == word) for word in set(words)}
        length = self.codes.shape[1]
        chosen = np.stack([random.choice(rows[word], length) for word in words])
        return self.codes[torch.from_numpy(chosen), torch.arange(length)]


def measure(recipe: DigitRecipe, folder: Path) -> dict[str, Any]:
    """Train both teachers and their students, draw in all ways; what came out, as plain values.

    Digits drawn are in `folder`/KIND/drawn.npy, one row of 20 for each way.
    """
    known, held_out = digits()
    judge = train_judge(known, held_out, 1)
    began = time.perf_counter()
    found = {kind: _measured(recipe, kind, judge, folder / kind) for kind in KINDS}
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).date().isoformat(),
        "machine_class": machine_class(machine_info()),
        "machine": dict(machine_info()),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
        "settings": to_plain({"recipe": recipe, "sampling": SAMPLING}),
        "real": floors(judge, known, held_out, recipe.drawn),
        "kinds": found,
    }


def _measured(recipe: DigitRecipe, kind: str, judge: Any, folder: Path) -> dict[str, Any]:
    def make(target: Path) -> dict[str, Any]:
        teacher = trained(recipe, kind, digits()[0], target / "teacher")
        flow = TokenFlow(recipe.flow_steps)
        pairs = Pairs.of(teacher, recipe.pairs, flow)
        student = _taught(recipe, kind, teacher, pairs, target / "student")
        words, seeds = in_turn(recipe.drawn), list(range(recipe.drawn))
        truth = _from_noise(teacher, flow, words, seeds)
        ways = _ways(recipe, kind, teacher, student, pairs)
        drawn = {way.name: way.draw(words, seeds) for way in ways}
        pictures = {name: teacher.painted(codes) for name, codes in drawn.items()}
        np.save(target / "drawn.npy", np.stack([p[:_SHOWN] for p in pictures.values()]))
        times = _timed(ways, recipe.timed)
        return {
            way.name: {
                "passes": way.passes,
                **judged(judge, pictures[way.name]),
                "teachers_codes": float((drawn[way.name] == truth).float().mean()),
                **times[way.name],
            }
            for way in ways
        }

    return once(folder, [recipe, kind, SAMPLING], make)


def _from_noise(
    teacher: Teacher, flow: TokenFlow, words: Sequence[str], seeds: Sequence[int]
) -> Tensor:
    """(B, L) what the teacher draws of the noise of these seeds."""
    sampler = FlowSampler(teacher.vectors, SAMPLING, flow)
    return sampler(teacher.asked(teacher.generator), words, seeds, batch=500)


def _taught(
    recipe: DigitRecipe, kind: str, teacher: Teacher, pairs: Pairs, folder: Path
) -> Student:
    task = recipe.tasks[kind]
    student = student_of(teacher.generator, teacher.vectors, SAMPLING, task.student, seed=0)
    ids = [teacher.ids[word] for word in pairs.words]
    shaped = pairs.codes.view(-1, *student.codes_shape)
    store = MemoryStore(ids, shaped, {NOISE: pairs.noise})
    batches = student.batches(store, task.batch)
    train(student, own_objectives(student), batches, task.training, folder)
    return student


def _ways(
    recipe: DigitRecipe, kind: str, teacher: Teacher, student: Student, pairs: Pairs
) -> list[Way]:
    """The teacher as it always draws; its student in growing steps, then with help; and no
    dependence at all."""
    units, task = teacher.generator.units, recipe.tasks[kind]
    first, until = task.helped
    ancestral = samplers[teacher.generator.sampler](SAMPLING)

    def drawn(sampler: Any, model: Any) -> Draw:
        return partial(_drawn, sampler, teacher.asked(model))

    ways = [Way(f"teacher, {units} steps", units, drawn(ancestral, teacher.generator))]
    for steps in recipe.steps:
        name = f"student, {steps} step{'s' if steps > 1 else ''}"
        ways.append(Way(name, steps, drawn(NoiseSampler(), student.paced(steps=steps))))
    help = Help(teacher.asked(teacher.generator), first, until, TokenFlow(recipe.flow_steps))
    name = f"student, teacher draws units {first + 1} to {until}"
    ways.append(Way(name, help.passes(units), drawn(HelpedSampler(help), student)))
    return [*ways, Way(INDEPENDENT, 0, pairs.independent)]


def _drawn(sampler: Any, stepper: Any, words: Sequence[str], seeds: Sequence[int]) -> Tensor:
    return sampler(stepper, words, seeds, batch=500).flatten(1)


def _timed(ways: Sequence[Way], repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of a picture drawn alone, and of one among `_TOGETHER`; ways take turns."""
    found: dict[str, dict[str, list[float]]] = {
        way.name: {"alone": [], "together": []} for way in ways
    }
    for repeat in range(repeats + 1):  # the first is not counted
        for way in ways:
            for name, count in (("alone", 1), ("together", _TOGETHER)):
                words, seeds = in_turn(count), list(range(count))
                began = time.perf_counter()
                way.draw(words, seeds)
                if repeat:
                    found[way.name][name].append((time.perf_counter() - began) / count)
    return {
        way: {name: statistics.median(seconds) for name, seconds in times.items()}
        for way, times in found.items()
    }


def write(result: dict[str, Any], path: Path) -> None:
    """As JSON, in one step."""
    write_json(path, result)
