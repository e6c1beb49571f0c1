"""`arra bench decoding`: every way of decoding one checkpoint, on the fast decoder.

Counted are units that a pass gives, seconds of a picture drawn alone and among others, memory, and
what the pictures are worth; and what passes cost of other models, from which follows where guesses
pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch

from arra.data.scenes import Scene
from arra.environment import machine_class, machine_info, versions
from arra.errors import InputError
from arra.experiments.once import once
from arra.experiments.plotting import sheet
from arra.experiments.scene_judging import Worth, floor, median_seconds, worth
from arra.experiments.speed.counted import added_memory
from arra.files import read_json, to_plain, write_json
from arra.progress import track
from arra.settings import Precision
from arra.systems.arra.decoding.costs import PassCost, measured_models, pass_costs
from arra.systems.arra.decoding.models import Models, build
from arra.systems.arra.decoding.ways import DEEP, Way, ways
from arra.systems.arra.scenes_config import ScenesConfig

FORMAT, FILE, PICTURES = 1, "decoding.json", "decoding-pictures.png"
BATCHES = (1, 8, 32)
DRAWN = "pictures.npy"
_SHOWN, _REPEATS = 8, 3


@dataclass(frozen=True)
class Decoded:
    """One way."""

    way: str
    lossless: bool
    parameters: int
    """Of all networks that take part."""
    passes: float
    """Of the model for a picture."""
    codes_per_pass: float
    """Or vectors; those of the grid over passes."""
    accepted: float | None
    """Share of the guesses that stayed; None where nothing is guessed."""
    seconds: dict[str, float]
    """Of a picture, by the pictures that are drawn together; medians."""
    memory: float
    """MiB that drawing the largest batch adds to a process at most."""
    worth: Worth
    variation: float | None = None
    """How far the law of a code is from the target's, in total variation, on average; None where
    the way keeps it, or where nobody knows."""


@dataclass(frozen=True)
class DecodingResult:
    """All that was measured."""

    decoded: tuple[Decoded, ...]
    costs: tuple[PassCost, ...]
    floor: float
    """Frechet distance of as many other real scenes."""
    steps: int
    prompts: int
    units: int
    budget: str
    threads: int
    date: str
    machine: dict[str, Any]
    machine_class: str
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write everything as JSON, atomically."""
        write_json(path, {"format": FORMAT, **to_plain(asdict(self))})


def read_decoding(path: Path) -> DecodingResult:
    """What `DecodingResult.write` wrote; `InputError` where it is something else."""
    value = read_json(path)
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise InputError(f"{path}: expected the result of `arra bench decoding`, format {FORMAT}")
    try:
        value["decoded"] = tuple(_decoded(one) for one in value["decoded"])
        value["costs"] = tuple(PassCost(**one) for one in value["costs"])
        return DecodingResult(**value)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not the result of `arra bench decoding` ({error})") from error


def run_decoding(
    config: ScenesConfig, folder: Path, budget: str = "full", quiet: bool = False
) -> DecodingResult:
    """Train what is not trained yet, draw in every way, and write `folder`/decoding.json."""
    models = build(config, folder, budget, quiet)
    prompts = config.prompts if budget == "full" else 8
    _, scenes = models.scenes(prompts)
    captions = [scene.caption for scene in scenes]
    chosen = list(ways(models))
    decoded, shown = [], {}
    with track("draw", len(chosen), quiet) as task:
        for number, way in enumerate(chosen):
            place = folder / "work" / "ways" / f"{number:02}"
            asked = [way.name, budget, prompts, way.model.fingerprint(), to_plain(way.sampling)]
            make = partial(_judged, models, way, scenes, config, folder, budget)
            decoded.append(_decoded(once(place, asked, make)))
            if not way.name.startswith(DEEP):  # the same pictures again
                shown[way.name] = np.load(place / DRAWN)
            task.advance(note=f"{way.name}: {decoded[-1].codes_per_pass:.2f} codes a pass")
    sheet(list(shown.items()), folder / PICTURES, [fill(text, 18) for text in captions[:_SHOWN]])
    costs: list[PassCost] = []
    with track("passes", len(measured_models(budget)), quiet) as task:
        for name, precision in measured_models(budget):
            place = folder / "work" / "passes" / f"{name} {precision}".replace(" ", "-")
            make = partial(_passes, name, precision, budget)
            costs += [
                PassCost(**one) for one in once(place, [name, precision, budget], make)["costs"]
            ]
            task.advance(note=f"{name}, {precision}")
    machine = machine_info()
    result = DecodingResult(
        tuple(decoded),
        tuple(costs),
        floor(models.bench, prompts),
        models.setting.plan.train.steps,
        prompts,
        models.target.generator.units,
        budget,
        torch.get_num_threads(),
        datetime.now(UTC).date().isoformat(),
        dict(machine),
        machine_class(machine),
        versions(),
    )
    result.write(folder / FILE)
    return result


def _judged(
    models: Models,
    way: Way,
    scenes: Sequence[Scene],
    config: ScenesConfig,
    folder: Path,
    budget: str,
    target: Path,
) -> dict[str, Any]:
    """Draw all prompts in one way, and see what it costs; some pictures go to `target`."""
    captions = [scene.caption for scene in scenes]
    codes = way.draw(captions, range(len(captions)), BATCHES[-1])
    pictures = way.model.paint(codes)
    np.save(target / DRAWN, pictures[:_SHOWN])
    judged = worth(models.bench, pictures, scenes)
    return asdict(_measured(way, judged, captions, config, folder, budget))


def _decoded(value: dict[str, Any]) -> Decoded:
    """Of plain values."""
    return Decoded(**{**value, "worth": Worth(**value["worth"])})


def _passes(name: str, precision: Precision, budget: str, target: Path) -> dict[str, Any]:
    return {"costs": [asdict(cost) for cost in pass_costs(name, precision, budget)]}


def _measured(
    way: Way,
    judged: Worth,
    captions: list[str],
    config: ScenesConfig,
    folder: Path,
    budget: str,
) -> Decoded:
    """What the way costs; statistics are those of the call that was judged."""
    passes, codes, accepted = way.passes(), way.codes_per_pass(), way.accepted()
    variation = None if way.observed is None else way.observed.variation()
    seconds = {}
    for batch in BATCHES if budget == "full" else BATCHES[:2]:
        # several single pictures, so that one with lucky guesses decides nothing
        count = min(max(batch, 8), len(captions))

        def draw(batch: int = batch, count: int = count) -> object:
            return way.draw(captions[:count], range(count), batch)

        seconds[str(batch)] = median_seconds(draw, _REPEATS) / count
    place = (str(folder.absolute()), budget, "" if config.cells is None else str(config.cells))
    memory = added_memory(drawing, *place, str(config.steps or 0), way.name)
    return Decoded(
        way.name,
        way.lossless,
        way.parameters,
        passes,
        codes,
        accepted,
        seconds,
        memory if np.isfinite(memory) else 0.0,
        judged,
        variation,
    )


def drawing(folder: str, budget: str, cells: str, steps: str, name: str) -> Any:
    """A call that draws the largest batch in one way, in a process that has done nothing else."""
    config = ScenesConfig(int(steps) or None, cells=Path(cells) if cells else None)
    models = build(config, Path(folder), budget, quiet=True)
    way = next(way for way in ways(models) if way.name == name)
    count = BATCHES[-1] if budget == "full" else 2
    captions = [scene.caption for scene in models.scenes(count)[1]]
    way.draw(captions[:1], [0], 1)  # decoders and tables are there before anything counts
    return lambda: way.draw(captions, list(range(count)), count)
