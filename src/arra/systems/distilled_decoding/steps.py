"""Quality against steps: what a student of digits is worth, and what it costs, beside its teacher.

One seed, teachers and students of minutes; who judges is a perceptron over pixels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from arra.environment import machine_class, machine_info, versions
from arra.experiments.digits import Judge, MemoryStore, digits, floors, in_turn, judged, train_judge
from arra.experiments.once import once
from arra.files import to_plain, write_json
from arra.generators.base import CodeGenerator
from arra.generators.student_batches import NOISE
from arra.generators.students import Student, student_of
from arra.objectives.laws import own_objectives
from arra.registry import samplers
from arra.samplers.flow import FlowSampler, NoiseSampler, TokenFlow, picture_noise
from arra.samplers.helped import Help, HelpedSampler
from arra.settings import SamplingConfig
from arra.systems.distilled_decoding.recipe import KINDS, DigitRecipe, Task
from arra.systems.distilled_decoding.teachers import CROP, Teacher, untrained
from arra.text_to_image import load_generator
from arra.training.loop import train

FORMAT, FILE = 1, "steps.json"
SAMPLING = SamplingConfig(guidance=1.5)
SAME_NOISE, HELPED, INDEPENDENT = "teacher, from noise", "student, helped", "independent"
_TOGETHER, _SHOWN = 100, 10
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
        words, seeds = in_turn(count), _seeds(count)
        codes = _from_noise(teacher, flow, words, seeds)
        noise = picture_noise(seeds, codes.shape[1], teacher.vectors.shape[1])
        return cls(words, noise, codes)

    @classmethod
    def load(cls, path: Path, dimensions: int) -> Pairs:
        """Those whose codes `save` wrote."""
        codes = load_file(str(path))["codes"].long()
        return cls(
            in_turn(len(codes)),
            picture_noise(_seeds(len(codes)), codes.shape[1], dimensions),
            codes,
        )

    def save(self, path: Path) -> None:
        """Codes alone; words and noise are functions of a pair's number."""
        save_file({"codes": self.codes.int()}, str(path))

    def independent(self, words: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """(B, L) every code as often as it stands there in pictures of the word, whatever the
        others are: the limit of drawing all at once without noise that is known."""
        random = np.random.default_rng([1, *seeds])
        rows = {word: np.flatnonzero(np.array(self.words) == word) for word in set(words)}
        length = self.codes.shape[1]
        chosen = np.stack([random.choice(rows[word], length) for word in words])
        return self.codes[torch.from_numpy(chosen), torch.arange(length)]


def _seeds(count: int) -> list[int]:
    return [(1 << 40) + number for number in range(count)]


def measure(recipe: DigitRecipe, folder: Path) -> dict[str, Any]:
    """Train both teachers and their students unless `folder` has them, and draw in all ways; what
    came out, as plain values. Digits drawn are in `folder`/KIND.npy, a row for each way."""
    began, (known, held_out) = time.perf_counter(), digits()
    judge = train_judge(known, held_out, CROP)
    kinds = {}
    for kind in KINDS:
        teacher, student, pairs = taught(recipe, kind, folder / kind)
        real = known.cropped(teacher.crop), held_out.cropped(teacher.crop)
        mine = judge.against(real[1])
        ways = _ways(recipe, kind, teacher, student, pairs)
        kinds[kind] = {
            "real": floors(mine, *real, recipe.drawn),
            "ways": _measured(recipe, ways, teacher, mine, folder / f"{kind}.npy"),
        }
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).date().isoformat(),
        "machine_class": machine_class(machine_info()),
        "machine": dict(machine_info()),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
        "settings": to_plain({"recipe": recipe, "sampling": SAMPLING}),
        "kinds": kinds,
    }


def taught(recipe: DigitRecipe, kind: str, folder: Path) -> tuple[Teacher, Student, Pairs]:
    """A teacher, its student and the pairs between them; trained once."""
    teacher, store = untrained(recipe, kind, digits()[0])
    task, pairs_file = recipe.tasks[kind], "pairs.safetensors"

    def make(target: Path) -> dict[str, Any]:
        batches = teacher.generator.batches(store, replace(task.batch, drop_caption=0.1))
        objectives = own_objectives(teacher.generator)
        train(teacher.generator, objectives, batches, task.teacher, target / "teacher")
        pairs = Pairs.of(teacher, recipe.pairs, TokenFlow(recipe.flow_steps))
        pairs.save(target / pairs_file)
        _train_student(task, teacher, pairs, target / "student")
        return {}

    once(folder, [recipe, kind, SAMPLING], make)
    generator, student = (
        load_generator(folder / n / "model").eval() for n in ("teacher", "student")
    )
    assert isinstance(generator, CodeGenerator)
    assert isinstance(student, Student)
    pairs = Pairs.load(folder / pairs_file, teacher.vectors.shape[1])
    return replace(teacher, generator=generator), student, pairs


def _train_student(task: Task, teacher: Teacher, pairs: Pairs, folder: Path) -> None:
    student = student_of(teacher.generator, teacher.vectors, SAMPLING, task.student, seed=0)
    ids = [teacher.ids[word] for word in pairs.words]
    shaped = pairs.codes.view(-1, *student.codes_shape)
    store = MemoryStore(ids, shaped, {NOISE: pairs.noise})
    batches = student.batches(store, task.batch)
    train(student, own_objectives(student), batches, task.training, folder)


def _measured(
    recipe: DigitRecipe, ways: Sequence[Way], teacher: Teacher, judge: Judge, path: Path
) -> dict[str, Any]:
    """By way: what it is worth and what it costs; pictures go to `path`."""
    words, seeds = in_turn(recipe.drawn), list(range(recipe.drawn))
    drawn = {way.name: way.draw(words, seeds) for way in ways}
    pictures = {name: teacher.painted(codes) for name, codes in drawn.items()}
    np.save(path, np.stack([p[:_SHOWN] for p in pictures.values()]))
    times = _timed(ways, recipe.timed)
    return {
        way.name: {
            "passes": way.passes,
            **judged(judge, pictures[way.name]),
            "teachers_codes": float((drawn[way.name] == drawn[SAME_NOISE]).float().mean()),
            **times[way.name],
        }
        for way in ways
    }


def _from_noise(
    teacher: Teacher, flow: TokenFlow, words: Sequence[str], seeds: Sequence[int]
) -> Tensor:
    """(B, L) what the teacher draws of the noise of these seeds."""
    sampler = FlowSampler(teacher.vectors, SAMPLING, flow)
    return sampler(teacher.asked(teacher.generator), words, seeds, batch=500)


def _ways(
    recipe: DigitRecipe, kind: str, teacher: Teacher, student: Student, pairs: Pairs
) -> list[Way]:
    """The teacher as it always draws, and from noise; its student from the same noise in growing
    steps, then with help; and no dependence at all."""
    units, task = teacher.generator.units, recipe.tasks[kind]
    first, until = task.helped
    ancestral = samplers[teacher.generator.sampler](SAMPLING)

    def drawn(sampler: Any, model: Any) -> Draw:
        return partial(_drawn, sampler, teacher.asked(model))

    flow = TokenFlow(recipe.flow_steps)
    ways = [
        Way("teacher", units, drawn(ancestral, teacher.generator)),
        Way(SAME_NOISE, units, partial(_from_noise, teacher, flow)),
    ]
    for steps in recipe.steps:
        name = f"student, {steps} step{'s' if steps > 1 else ''}"
        ways.append(Way(name, steps, drawn(NoiseSampler(), student.paced(steps=steps))))
    help = Help(teacher.asked(teacher.generator), first, until, flow)
    ways.append(Way(HELPED, help.passes(units), drawn(HelpedSampler(help), student)))
    return [*ways, Way(INDEPENDENT, 0, pairs.independent)]


def _drawn(sampler: Any, stepper: Any, words: Sequence[str], seeds: Sequence[int]) -> Tensor:
    return sampler(stepper, words, seeds, batch=500).flatten(1)


def _timed(ways: Sequence[Way], repeats: int) -> dict[str, dict[str, float]]:
    """Processor seconds of a picture drawn alone, and of one among `_TOGETHER`: medians, ways
    taking turns. With one thread these are a clock's where nothing else runs, and what does run
    hardly changes them."""
    found: dict[str, dict[str, list[float]]] = {
        way.name: {"alone": [], "together": []} for way in ways
    }
    for repeat in range(repeats + 1):  # the first is not counted
        for way in ways:
            for name, count in (("alone", 1), ("together", _TOGETHER)):
                words, seeds = in_turn(count), list(range(count))
                began = time.process_time()
                way.draw(words, seeds)
                if repeat:
                    found[way.name][name].append((time.process_time() - began) / count)
    return {
        way: {name: statistics.median(seconds) for name, seconds in times.items()}
        for way, times in found.items()
    }


def write(result: dict[str, Any], path: Path) -> None:
    """As JSON, in one step."""
    write_json(path, result)
