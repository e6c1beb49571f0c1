"""Arrivals, and the ways of serving them: what is drawn, what it takes, and how long each waits.

The clock is either that of the machine, stopped while nothing is computed, or counts passes, which
gives the same numbers everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from arra.data.tokenizer import train_text_tokenizer
from arra.generators.fast import FastStepper, decoding
from arra.generators.raster import RasterGenerator
from arra.samplers.ancestral import choose_each
from arra.samplers.noise import PictureNoise
from arra.serving.engine import FusedEngine, Placement
from arra.serving.requests import Drawing, Request
from arra.settings import LlamaSize, SamplingConfig
from arra.systems.flover.recipe import Recipe

SAMPLINGS = (SamplingConfig(1.0, temperature=0.0), SamplingConfig(1.0, top_k=50))
"""Requests are drawn greedily and by chance, in turn."""


@dataclass(frozen=True)
class Arrival:
    """A request that comes at a time, counted in passes with one row."""

    at: float
    prompt: tuple[int, ...]
    length: int
    seed: int

    def drawing(self) -> Drawing:
        """The request as the engine takes it, asking for `length` tokens."""
        request = Request(None, self.seed, SAMPLINGS[self.seed % 2])
        return Drawing(request, list(self.prompt), self.length)


@dataclass
class Served:
    """What serving arrivals gave."""

    codes: list[list[int]]
    """Of each request."""
    latencies: list[float] = field(default_factory=list)
    """From each request's arrival to its last token, in the clock's unit."""
    busy: float = 0.0
    """Time in which something was computed."""
    total: float = 0.0
    """Time from the first arrival to the last token."""
    rows: int = 0
    """Rows of all passes."""
    wasted: int = 0
    """Those of them that belonged to no unfinished request."""
    moves: int = 0
    """Slots moved."""
    occupancy: list[dict[int, int]] = field(default_factory=list)
    """Of each pass which request is in which slot."""


def arrivals(recipe: Recipe, seed: int) -> list[Arrival]:
    """Requests with exponential gaps, uniform lengths and random prompts: functions of `seed`."""
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(1.0 / recipe.rate, recipe.requests))
    low, high = recipe.lengths
    return [
        Arrival(
            float(when),
            tuple(rng.integers(1, recipe.codes, recipe.prompt).tolist()),
            int(rng.integers(low, high + 1)),
            1000 * seed + number,
        )
        for number, when in enumerate(at)
    ]


def stepper_of(recipe: Recipe, size: LlamaSize, seed: int = 0) -> FastStepper:
    """An untrained Llama with the fastest decoder that there is, fp32."""
    side = int(np.ceil(np.sqrt(recipe.lengths[1])))
    tokenizer = train_text_tokenizer(["a picture"], kind="word")
    generator = RasterGenerator.from_scratch(
        tokenizer, recipe.codes, (side, side), size, seed=seed
    ).eval()
    way = decoding(generator, 10**9, prompt=recipe.prompt, decoder="fast")
    assert isinstance(way.stepper, FastStepper)
    return way.stepper


class _Clock:
    """Time of the machine while something is computed, or passes."""

    def __init__(self, counting: bool):
        self.now = self.busy = 0.0
        self._counting = counting

    def run(self, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        took = 1.0 if self._counting else time.perf_counter() - began
        self.now += took
        self.busy += took

    def wait(self, until: float) -> None:
        self.now = max(self.now, until)


@torch.inference_mode()
def fused(
    stepper: FastStepper,
    wanted: Sequence[Arrival],
    slots: int,
    placement: Placement,
    unit: float | None,
) -> Served:
    """By the engine. `unit` is how long a pass with one row takes, in seconds; None counts passes.

    With one slot requests are served one after the other.
    """
    engine = FusedEngine(
        stepper,
        [0],
        slots=slots,
        queue=len(wanted),
        prompt=max(len(arrival.prompt) for arrival in wanted),
        placement=placement,
    )
    clock, scale = _Clock(unit is None), unit or 1.0
    drawings, waiting = [arrival.drawing() for arrival in wanted], list(range(len(wanted)))
    number_of = {drawing: number for number, drawing in enumerate(drawings)}
    ended = [0.0] * len(wanted)
    occupancy: list[dict[int, int]] = []
    while waiting or engine.live or len(engine.queue):
        if not (engine.live or len(engine.queue)):
            clock.wait(wanted[waiting[0]].at * scale)
        while waiting and wanted[waiting[0]].at * scale <= clock.now:
            engine.submit([drawings[waiting.pop(0)]])
        before = [drawing.unit for drawing in drawings]
        occupancy.append({s: number_of[d] for s, d in engine.occupants().items()})
        clock.run(engine.advance)
        for number, drawing in enumerate(drawings):
            if drawing.unit > before[number]:
                ended[number] = clock.now
    work = engine.work
    served = _served(clock, wanted, ended, scale)
    served.codes = [drawing.codes.tolist() for drawing in drawings]
    served.rows, served.wasted, served.moves = work.rows, work.wasted, work.moves
    served.occupancy = occupancy
    return served


@torch.inference_mode()
def windowed(
    stepper: FastStepper,
    wanted: Sequence[Arrival],
    slots: int,
    window: float,
    unit: float | None,
) -> Served:
    """In batches: of those who came within `window` of the first, at most `slots`; each batch is
    drawn until its longest request ends."""
    clock, scale = _Clock(unit is None), unit or 1.0
    codes: list[list[int]] = [[] for _ in wanted]
    ended = [0.0] * len(wanted)
    waiting, rows, wasted = list(range(len(wanted))), 0, 0
    occupancy: list[dict[int, int]] = []
    while waiting:
        first = wanted[waiting[0]].at * scale
        full = len(waiting) >= slots and wanted[waiting[slots - 1]].at * scale
        until = first + window * scale
        clock.wait(min(until, full) if full else until)
        batch = [n for n in waiting if wanted[n].at * scale <= clock.now][:slots]
        waiting = [n for n in waiting if n not in batch]
        draw = _Batch(stepper, [wanted[n] for n in batch])
        longest = max(wanted[n].length for n in batch)
        for step in range(longest):
            clock.run(draw.advance)
            occupancy.append(dict(enumerate(batch)))
            if step:
                rows += len(batch)
                wasted += sum(wanted[n].length <= step for n in batch)
        for row, n in enumerate(batch):
            codes[n] = draw.codes[row][: wanted[n].length]
            ended[n] = clock.now  # nobody gets anything before the batch is whole
    served = _served(clock, wanted, ended, scale)
    served.codes, served.rows, served.wasted = codes, rows, wasted
    served.occupancy = occupancy
    return served


class _Batch:
    """Requests that are drawn together, a token at a call."""

    def __init__(self, stepper: FastStepper, batch: Sequence[Arrival]):
        self.stepper, self.batch = stepper, batch
        self.codes: list[list[int]] = [[] for _ in batch]
        self._noise = PictureNoise([arrival.seed for arrival in batch])
        self._choose = getattr(stepper, "choose_each", choose_each)
        choices = [(n, -1, 1.0, SAMPLINGS[a.seed % 2]) for n, a in enumerate(batch)]
        self._choices = getattr(stepper, "choices", list)(choices)

    def advance(self) -> None:
        if not self.codes[0]:
            logits, self._cache = self.stepper.prefill([a.prompt for a in self.batch])
        else:
            logits = self.stepper.step(torch.tensor([row[-1] for row in self.codes]), self._cache)
        race = self._noise.exponential(self.stepper.codes, logits.device)
        drawn = self._choose(logits, self._choices, race).tolist()
        for row, code in zip(self.codes, drawn, strict=True):
            row.append(code)


def _served(
    clock: _Clock, wanted: Sequence[Arrival], ended: Sequence[float], scale: float
) -> Served:
    latencies = [end - a.at * scale for end, a in zip(ended, wanted, strict=True)]
    total = max(ended) - wanted[0].at * scale
    return Served([], latencies, clock.busy, total)


@torch.inference_mode()
def pass_seconds(stepper: FastStepper, rows: int, positions: int, repeats: int) -> float:
    """Median seconds of a pass with so many rows, each after `positions` tokens."""
    prompt = [1] * positions
    times = []
    for _ in range(repeats):
        _, cache = stepper.prefill([prompt] * rows)
        began = time.perf_counter()
        stepper.step(torch.ones(rows, dtype=torch.int64), cache)
        times.append(time.perf_counter() - began)
    return float(np.median(times))
