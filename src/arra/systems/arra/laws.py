"""What a law of the next unit costs, and what it is worth: `arra bench heads`.

Generators of about as many parameters, whose next unit is a code, a vector, a map or an entity,
learn the same scenes for as many steps. Each draws the same prompts in several numbers of passes;
counted are passes of the network and of the head, operations, seconds, and pictures that are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
from torch import nn

from arra.environment import machine_class, machine_info, versions
from arra.errors import InputError
from arra.experiments.bench import Bench
from arra.experiments.grid import Cell, changed
from arra.experiments.parallel import run_jobs
from arra.experiments.plotting import sheet
from arra.experiments.scene_cells import SceneRunner, SceneSetting
from arra.experiments.scene_judging import floor, median_seconds, worth
from arra.experiments.speed.counted import operations
from arra.files import read_json, to_plain, write_json
from arra.progress import track
from arra.systems.arra.scenes_config import ScenesConfig
from arra.systems.arra.studies import COARSE, base, changes_of
from arra.systems.arra.ways import VECTOR_WAYS
from arra.text_to_image import TextToImage, load_generator

FORMAT, FILE, PICTURES = 1, "heads.json", "heads-pictures.png"
Pace = dict[str, int]
"""`steps` of the solver, `rounds` of a masked generator; empty: as trained."""
_STEPS: tuple[Pace, ...] = ({"steps": 5}, {"steps": 10}, {"steps": 25})
_ROUNDS: tuple[Pace, ...] = (
    {"rounds": 4, "steps": 10},
    {"rounds": 8, "steps": 5},
    {"rounds": 8, "steps": 25},
    {"rounds": 16, "steps": 25},
)
PACES: dict[str, tuple[Pace, ...]] = {"masked-vectors": _ROUNDS, "masked-language": _ROUNDS}
"""By way, where they are not those of a solver alone."""
RASTER = "codes"
"""The raster generator of codes."""
_TOGETHER, _SHOWN = 32, 8


@dataclass(frozen=True)
class Drawing:
    """One generator at one pace."""

    way: str
    pace: Pace
    parameters: int
    passes: int
    """Passes of the network in a picture, one after the other."""
    evaluations: int
    """Of the head's own network, if it has one."""
    operations: float
    """Of the products of matrices of one guided picture; a multiply-add counts two."""
    alone: float
    """Seconds of a picture, median."""
    together: float
    """Seconds of a picture among 32."""
    right: float
    """Share of prompts that are right in everything."""
    low: float
    high: float
    """Its 95 % interval over prompts."""
    frechet: float
    """Distance to as many real scenes in the reader's features."""


@dataclass(frozen=True)
class LawsResult:
    """All that was measured."""

    drawings: tuple[Drawing, ...]
    floor: float
    """Frechet distance of as many other real scenes."""
    steps: int
    prompts: int
    budget: str
    threads: int
    date: str
    machine: dict[str, Any]
    machine_class: str
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write everything as JSON, atomically."""
        write_json(path, {"format": FORMAT, **to_plain(asdict(self))})


def read_laws(path: Path) -> LawsResult:
    """What `LawsResult.write` wrote; `InputError` where it is something else."""
    value = read_json(path)
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise InputError(f"{path}: expected the result of `arra bench heads`, format {FORMAT}")
    try:
        value["drawings"] = tuple(Drawing(**one) for one in value["drawings"])
        return LawsResult(**value)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not the result of `arra bench heads` ({error})") from error


def run_laws(
    config: ScenesConfig, folder: Path, budget: str = "full", quiet: bool = False
) -> LawsResult:
    """Train what is not trained yet, draw at every pace, and write `folder`/heads.json."""
    setting = changed(base(budget, config.steps), {"bench.codec": COARSE})
    ways = {RASTER: changed(setting, {"alignment": None})}
    for name, way in VECTOR_WAYS.items():
        ways[name] = changed(setting, {**changes_of(way, COARSE), "alignment": None})
    cells = {name: Cell(one, 0, name) for name, one in ways.items()}
    runner = SceneRunner(config.cells or folder / "work", quiet=quiet)
    runner.prepare(list(ways.values()))
    run_jobs([runner.job(c) for c in cells.values() if runner.find(c) is None], quiet=quiet)
    prompts = config.prompts if budget == "full" else 8
    jobs = [(name, pace) for name in cells for pace in _paces(name, budget)]
    drawings, shown = [], {}
    with track("draw", len(jobs), quiet) as task:
        for name, pace in jobs:
            measured, pictures = _measured(runner, cells[name], name, pace, prompts)
            drawings.append(measured)
            shown[name] = pictures[:_SHOWN]  # the last pace of each is the slowest
            task.advance(note=f"{name} {pace}: {measured.right:.2f} right")
    _, scenes = runner.bench(setting).scenes("heldout", prompts, setting.judge.prompt_seed)
    captions = [fill(scene.caption, 18) for scene in scenes[:_SHOWN]]
    sheet(list(shown.items()), folder / PICTURES, captions)
    machine = machine_info()
    result = LawsResult(
        drawings=tuple(drawings),
        floor=floor(runner.bench(setting), prompts),
        steps=setting.plan.train.steps,
        prompts=prompts,
        budget=budget,
        threads=torch.get_num_threads(),
        date=datetime.now(UTC).date().isoformat(),
        machine=dict(machine),
        machine_class=machine_class(machine),
        versions=versions(),
    )
    result.write(folder / FILE)
    return result


def _paces(name: str, budget: str) -> Sequence[Pace]:
    found = ({},) if name == RASTER else PACES.get(name, _STEPS)
    return found if budget == "full" else found[:1]


def _measured(
    runner: SceneRunner, cell: Cell, name: str, pace: Pace, prompts: int
) -> tuple[Drawing, np.ndarray]:
    """What it costs and is worth, and the pictures."""
    bench, model = _model(runner, cell, pace)
    setting: SceneSetting = cell.setting
    sampling = setting.judge.sampling
    _, scenes = bench.scenes("heldout", prompts, setting.judge.prompt_seed)
    captions, seeds = [scene.caption for scene in scenes], list(range(prompts))
    pictures = model.draw(captions, seeds, sampling, batch=_TOGETHER)
    judged = worth(bench, pictures, scenes)

    def alone() -> object:
        return model.draw_codes(captions[:1], [0], sampling)

    def together() -> object:
        return model.draw_codes(captions[:_TOGETHER], seeds[:_TOGETHER], sampling)

    def plain() -> object:
        return model.draw_codes(captions[:1], [0], sampling, decoder="plain")

    with _counted(model) as counts:
        plain()
    measured = Drawing(
        way=name,
        pace=pace,
        parameters=sum(p.numel() for p in model.generator.parameters()),
        passes=counts["network"],
        evaluations=counts["head"],
        operations=operations(plain),
        alone=median_seconds(alone),
        together=median_seconds(together) / min(_TOGETHER, prompts),
        **vars(judged),
    )
    return measured, pictures


def _model(runner: SceneRunner, cell: Cell, pace: Pace) -> tuple[Bench, TextToImage]:
    bench = runner.bench(cell.setting)
    generator = load_generator(runner.folder / "cells" / cell.key / "model")
    model = TextToImage(generator, bench.codec)
    return bench, model.paced(pace.get("steps"), pace.get("rounds")) if pace else model


@contextmanager
def _counted(model: TextToImage) -> Iterator[dict[str, int]]:
    """Counts passes of the network's last block, and of the head's own network."""
    counts = {"network": 0, "head": 0}
    head = getattr(getattr(model.generator, "head", None), "network", None)
    # a layer inside the block: some networks call parts of their blocks and not the whole
    layers = [m for m in model.generator.decoder_blocks()[-1].modules() if isinstance(m, nn.Linear)]
    watched = {"network": layers[-1], "head": head}

    def counting(name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            counts[name] += 1

        return count

    hooks = [
        module.register_forward_hook(counting(name))
        for name, module in watched.items()
        if isinstance(module, nn.Module)
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
