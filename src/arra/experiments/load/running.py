"""A whole load test: saturation, the rates that keep a bound, and a long load on the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from arra.environment import machine_class, machine_info, versions
from arra.experiments.load.asked import Pool, poisson
from arra.experiments.load.config import LoadConfig
from arra.experiments.load.driving import Level, drive, saturate
from arra.experiments.load.results import FILE, LoadResult, Wire, sustained
from arra.experiments.load.targets import OneAtATime, RunningBatch, StaticBatches, Target
from arra.experiments.load.wire import OverHttp, disturbed, serving, stop_under_load
from arra.experiments.speed.counted import resident_memory
from arra.progress import Task, track
from arra.settings import LlamaSize
from arra.text_to_image import TextToImage

_SATURATION, _SOAK, _WIRE = 0.04, 0.45, 0.15
"""Shares of the time: of each target that is saturated, of the long load at the end, and of it
what is over HTTP where that is asked for."""
_DISTURBERS, _STOP = 4, 2.0
"""Clients of each kind that vanish or read slowly; seconds of load before the server is stopped."""
_GRID, _REFINED = 8, 3
"""Rates that all targets meet, and those by which each one's highest rate is narrowed down."""
_LEVELS = 26
"""About how many loads that makes: they share the rest of the time."""
_FEWEST, _FEW = 20, 4
"""Requests that a load has at least, by expectation; the second with a tiny budget."""
_SPAN, _SHORT = 20.0, 4.0
"""Latencies of a lone picture that a load lasts at least: a shorter one is over before those who
come meet as many as they would in the long run; the second with a tiny budget."""
_FAR = 4.0
"""A target whose latency is that many bounds meets no higher rate."""
_REST = 0.9
"""The long load's share of the highest rate that kept the bound."""


def load_model(config: LoadConfig) -> tuple[TextToImage, str]:
    """What is loaded, and what that is in a few words."""
    if config.checkpoint is not None:
        model = TextToImage.from_pretrained(config.checkpoint, "cpu")
        return model, f"the checkpoint {config.checkpoint}"
    from arra.codecs.recipes import scene_codec
    from arra.codecs.vq import VQCodec
    from arra.data.tokenizer import train_text_tokenizer
    from arra.experiments.speed.drawing import DEMO
    from arra.generators.raster import RasterGenerator

    size = _size(config)
    tokenizer = train_text_tokenizer(_captions(), kind="word")
    generator = RasterGenerator.from_scratch(tokenizer, DEMO.codes, DEMO.grid, size, seed=0)
    codec = VQCodec.seeded(scene_codec(), 0)
    generator.config = replace(generator.config, codec=codec.fingerprint())
    millions = sum(weight.numel() for weight in generator.parameters()) / 1e6
    note = f"a model of {millions:.0f} million parameters ({config.size}) with random weights"
    return TextToImage(generator, codec), note


def _size(config: LoadConfig) -> LlamaSize:
    from arra.experiments.speed.drawing import DEMO

    if config.size == "demo":
        return DEMO.model
    if config.size == "26M":
        return LlamaSize(512, 8, 8, 1408)
    return LlamaSize.named(config.size)


def _captions() -> list[str]:
    """Captions of digit scenes, one and two digits: prompts of different lengths."""
    from arra.data.scenes import INKS, WORDS

    inks = list(INKS)
    single = [f"a {inks[n % len(inks)]} {word}" for n, word in enumerate(WORDS)]
    pairs = [f"{a} left of {b}" for a, b in zip(single, single[3:], strict=False)]
    return single + pairs


class _Memory:
    """Samples the memory of a process, this one unless it is named, while a block runs."""

    def __init__(self, seconds: float, process: int | str = "self"):
        self.samples: list[tuple[float, float]] = []
        self._process = process
        self._seconds, self._done = seconds, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.perf_counter()
        while not self._done.wait(self._seconds):
            self.samples.append((time.perf_counter() - began, resident_memory(self._process)))


class _Test:
    """The targets of a test, and what was measured of them."""

    def __init__(
        self, targets: Sequence[Target], pool: Pool, config: LoadConfig, task: Task, tiny: bool
    ):
        self.targets, self.pool, self.config, self.task = targets, pool, config, task
        self.fewest = _FEW if tiny else _FEWEST
        self.span = (_SHORT if tiny else _SPAN) * pool.lone
        self.levels: list[Level] = []

    def at(self, target: Target, rate: float, seconds: float, number: int) -> Level:
        """Load a target; equal rates and numbers are equal arrivals."""
        config = self.config
        seconds = max(seconds, self.fewest / rate, self.span)
        arrivals = poisson(self.pool, rate, seconds, config.clients, config.seed, number)
        level = drive(target, self.pool, arrivals, rate, most=4 * config.clients)
        self.levels.append(level)
        self.task.advance(note=f"{target.name}, {rate:.0f}/s: p95 {level.latency['p95']:.3f} s")
        return level

    def grid(self, rates: Sequence[float], seconds: float, bound: float) -> None:
        """All targets at all rates, in turn; who falls far behind drops out."""
        inside = list(self.targets)
        for number, rate in enumerate(rates):
            turn = number % max(len(inside), 1)
            for target in [*inside[turn:], *inside[:turn]]:
                if self.at(target, rate, seconds, number).p95 > _FAR * bound:
                    inside.remove(target)

    def refine(self, target: Target, seconds: float, bound: float) -> None:
        """Narrow down the highest rate of a target that keeps the bound."""
        for step in range(_REFINED):
            mine = [level for level in self.levels if level.target == target.name]
            low = sustained(mine, bound)
            over = [level.rate for level in mine if level.rate > low]
            if not over:
                return
            rate = (low * min(over)) ** 0.5 if low else min(over) / 2
            self.at(target, rate, seconds, _GRID + step)


def run_load(
    config: LoadConfig, folder: Path, budget: str = "full", quiet: bool = False
) -> LoadResult:
    """Load all targets, and write what was found to `folder`/load.json.

    The bound on the 95th percentile of the latency is `config.bound` times the median latency of a
    lone picture, drawn by `TextToImage.draw` while the machine does nothing else.
    """
    minutes = config.minutes or (10.0 if budget == "full" else 0.1)
    model, note = load_model(config)
    captions = _captions()
    model.draw(captions[:1], [0], batch=1)  # builds and warms up
    pool = Pool(model, captions, config.pool if budget == "full" else 16, config.settings)
    targets: tuple[Target, ...] = (
        OneAtATime(model),
        StaticBatches(model, config.slots, config.window),
        RunningBatch(model, config.slots, 8 * config.clients),
    )
    seconds = 60 * minutes
    began = time.perf_counter()
    try:
        with track("load", _LEVELS + len(targets) + 1, quiet) as task:
            test = _Test(targets, pool, config, task, tiny=budget != "full")
            full = [
                _saturated(task, target, pool, config.clients, _SATURATION * seconds)
                for target in targets
            ]
            bound = config.bound * pool.lone
            each = (1 - _SOAK - _SATURATION * len(targets)) * seconds / _LEVELS
            rates = _rates(min(f.throughput for f in full), full[-1].throughput)
            test.grid(rates, each, bound)
            for target in targets:
                test.refine(target, each, bound)
            engine = targets[-1]
            best = sustained([one for one in test.levels if one.target == engine.name], bound)
            rate = _REST * (best or rates[0])
            rest = _SOAK - (_WIRE if config.http else 0.0)
            soak, memory = _soak(test, engine, rate, seconds * rest)
            wire = None
            if config.http:
                wire = _wire(test, model, folder, rate, seconds * _WIRE)
    finally:
        for target in targets:
            target.close()
    machine = machine_info()
    result = LoadResult(
        model=note,
        config=config,
        budget=budget,
        minutes=(time.perf_counter() - began) / 60,
        units=model.generator.units,
        pool=len(pool),
        different=pool.different,
        lone=pool.lone,
        bound=bound,
        options={target.name: target.options for target in targets},
        saturated=tuple(full),
        levels=tuple(test.levels),
        soak=soak,
        memory=tuple(memory),
        wire=wire,
        threads=torch.get_num_threads(),
        date=datetime.now(UTC).date().isoformat(),
        machine=dict(machine),
        machine_class=machine_class(machine),
        versions=versions(),
    )
    result.write(folder / FILE)
    return result


def _saturated(task: Task, target: Target, pool: Pool, clients: int, seconds: float) -> Level:
    level = saturate(target, pool, clients, seconds)
    task.advance(note=f"{level.target}: {level.throughput:.0f} pictures a second")
    return level


def _rates(slowest: float, fastest: float) -> list[float]:
    """From what the slowest answers easily to nearly all that the fastest can, by equal factors."""
    low, high = 0.4 * slowest, 0.95 * max(fastest, slowest)
    return [low * (high / low) ** (n / (_GRID - 1)) for n in range(_GRID)]


def _soak(
    test: _Test, target: Target, rate: float, seconds: float
) -> tuple[Level, list[tuple[float, float]]]:
    """A long load, with the memory of the process while it lasts."""
    config = test.config
    arrivals = poisson(test.pool, rate, seconds, config.clients, config.seed, 1000)
    with _Memory(min(1.0, seconds / 20)) as memory:
        level = drive(target, test.pool, arrivals, rate, most=4 * config.clients)
    test.task.advance(note="long load")
    return level, memory.samples


def _wire(test: _Test, model: TextToImage, folder: Path, rate: float, seconds: float) -> Wire:
    """A server of the same model, loaded over HTTP and then stopped. It gets half of the rate that
    the engine alone answers: packing, sending and the clients themselves take the same cores."""
    config, checkpoint = test.config, _checkpoint(test.config, model, folder)
    with serving(checkpoint, config.slots, 8 * config.clients) as (url, process):
        target = OverHttp(url, 2 * config.clients)
        try:
            saturate(target, test.pool, 2, min(2.0, seconds / 10))  # warms up
            arrivals = poisson(test.pool, rate / 2, seconds, config.clients, config.seed, 1001)
            disturbers = disturbed(url, test.pool, _DISTURBERS, _DISTURBERS)
            with disturbers as counts, _Memory(min(1.0, seconds / 20), process.pid) as memory:
                level = drive(target, test.pool, arrivals, rate / 2, most=4 * config.clients)
            seconds = min(_STOP, seconds / 5)
            stop = stop_under_load(url, process, test.pool, config.clients, seconds)
        finally:
            target.close()
    return Wire(level, **counts, memory=tuple(memory.samples), stop=stop)


def _checkpoint(config: LoadConfig, model: TextToImage, folder: Path) -> Path:
    """Where the checkpoint lies; a model without one is saved beside the results first."""
    if config.checkpoint is not None:
        return config.checkpoint
    model.save_pretrained(folder / "model")
    return folder / "model"
