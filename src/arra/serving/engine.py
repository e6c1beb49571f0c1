"""Many pictures in one running batch: requests join at the next unit and leave when done.

Temporal fusion (Flover, arXiv 2305.13484), elsewhere called continuous or in-flight batching: rows
at different units share one pass, because weights are read once for all of them. A generator whose
rows cannot be at different units is served in batches of requests that are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from arra.errors import InputError
from arra.registry import samplers
from arra.samplers.ancestral import Choice, choose_each
from arra.samplers.noise import PictureNoise
from arra.serving.requests import Drawing, FairQueue
from arra.serving.slots import SlotTable

Placement = Literal["auto", "scattered", "compacted", "gaps"]
_AHEAD = 1 << 16
"""Random numbers that are made ahead for one picture: bounds what waits with it."""


@dataclass
class Work:
    """What an engine has computed since it began."""

    steps: int = 0
    """Passes over the running batch, and batches drawn at once."""
    rows: int = 0
    """Rows of all passes; a guided picture has two."""
    wasted: int = 0
    """Those of them that belonged to nobody."""
    units: int = 0
    """Units drawn for somebody."""
    prompts: int = 0
    """Tokens of prompts that were read."""
    moves: int = 0
    """Slots that were moved to close gaps."""


class Engine(Protocol):
    """What draws queued pictures, a little at each call; used by one thread at a time."""

    work: Work
    queue: FairQueue

    @property
    def live(self) -> int:
        """How many pictures are being drawn."""

    def submit(self, drawings: Sequence[Drawing]) -> None:
        """Let drawings wait for their turn, all or none; any thread may do so. Raises `Full`, or
        `InputError` where the turn of one never comes."""

    def advance(self) -> bool:
        """Go on by a unit (or a batch), letting in who waits; False where there is nothing to do.

        An error ends all drawings that it struck, and is theirs; the engine goes on.
        """

    def abandon(self, error: Exception) -> None:
        """End all drawings, those that wait included, with this error."""


class SlotStepper(Protocol):
    """What the fused engine needs of a generator; `generators.fast.FastStepper` has it."""

    units: int
    codes: int
    end: int | None

    @property
    def scattered(self) -> bool: ...

    def room(self, slots: int, prompt: int) -> Any: ...

    def advance(
        self,
        codes: Tensor,
        cache: Any,
        slots: Any,
        prompts: Sequence[Sequence[int]],
        places: Sequence[int],
    ) -> Tensor: ...


class FusedEngine:
    """Each picture at a unit of its own; one pass a unit for all of them."""

    def __init__(
        self,
        stepper: SlotStepper,
        empty: Sequence[int],
        *,
        slots: int = 64,
        queue: int = 256,
        prompt: int = 256,
        joins: int = 0,
        placement: Placement = "auto",
    ):
        """`empty` is guidance's prompt; `slots` rows fit at once (a guided picture takes two),
        `queue` pictures may wait, a prompt has up to `prompt` tokens, and at most `joins` pictures
        join before a unit (0: all for whom there is room; Flover lets in one).

        Placement: "scattered" computes the rows that are taken, wherever they lie; "compacted"
        moves slots so that they lie side by side, as Flover does; "gaps" computes those between
        them too. "auto" is the first where the decoder can, else the second.
        """
        if slots < 1 or prompt < 1 or joins < 0:
            raise InputError(
                f"FusedEngine: slots {slots}, prompt {prompt}, joins {joins}; expected 1, 1 and 0 "
                "or more"
            )
        if placement == "auto":
            placement = "scattered" if stepper.scattered else "compacted"
        if placement == "scattered" and not stepper.scattered:
            raise InputError("placement: this decoder computes rows that lie side by side")
        self.stepper, self.empty, self.placement = stepper, empty, placement
        self.longest, self.joins = prompt, joins
        self.queue, self.work = FairQueue(queue), Work()
        self._choose: Callable[..., Tensor] = getattr(stepper, "choose_each", choose_each)
        self._prepared: Callable[..., Any] = getattr(stepper, "choices", list)
        self._slots = slots
        self._start()

    def _start(self) -> None:
        self.table = SlotTable(self._slots)
        self._cache = self.stepper.room(self._slots, self.longest)
        self._live: list[Drawing] = []
        self._batch: _Batch | None = None  # until somebody joins or leaves
        self._noise: dict[Drawing, Iterator[Tensor]] = {}

    @property
    def live(self) -> int:
        return len(self._live)

    def occupants(self) -> dict[int, Drawing]:
        """Which drawing is in which slot."""
        return {slot: drawing for drawing in self._live for slot in drawing.slots}

    def submit(self, drawings: Sequence[Drawing]) -> None:
        if (length := max(len(drawing.prompt) for drawing in drawings)) > self.longest:
            raise InputError(f"prompt: {length} tokens, expected {self.longest} at most")
        if max(map(_rows, drawings)) > self._slots:
            raise InputError("guidance: a guided picture takes two slots, there is one")
        self.queue.push(drawings)

    def advance(self) -> bool:
        self._dismiss()
        if not self._live and not self.queue:
            return False
        try:
            batch = self._batch or self._arranged()
            self._pass(batch, self._admit())
        except Exception as error:
            self._fail(error)
        return True

    # ---- who is in -------------------------------------------------------------------------------

    def _dismiss(self) -> None:
        """Let go whoever is not wanted any more."""
        for drawing in self.queue.withdraw():
            drawing.end("cancelled")
        if gone := [one for one in self._live if one.unwanted]:
            self._leave(gone)
            for drawing in gone:
                drawing.end("cancelled")

    def _admit(self) -> list[Drawing]:
        """Give slots to those whose turn it is."""
        joining: list[Drawing] = []
        while (drawing := self.queue.peek()) is not None:
            needed = _rows(drawing)
            if needed > self.table.free or 0 < self.joins <= len(joining):
                break
            self.queue.pop()
            drawing.slots = tuple(self.table.join() for _ in range(needed))
            drawing.begin()
            joining.append(drawing)
        self._live = self._live + joining
        return joining

    def _leave(self, drawings: Sequence[Drawing]) -> None:
        """Free the slots of drawings, and close the gaps that they leave."""
        self._live, self._batch = [d for d in self._live if d not in drawings], None
        for drawing in drawings:
            self._noise.pop(drawing, None)
            for slot in drawing.slots:
                self.table.leave(slot)
        if self.placement != "compacted" or not self.table.gaps:
            return
        moves = self.table.compact()
        self._cache.copy(list(moves), list(moves.values()))
        self.work.moves += len(moves)
        for drawing in self._live:
            drawing.slots = tuple(moves.get(slot, slot) for slot in drawing.slots)

    def abandon(self, error: Exception) -> None:
        self._fail(error)
        for drawing in self.queue.withdraw(everybody=True):
            drawing.end("failed", error)

    def _fail(self, error: Exception) -> None:
        """End all that are being drawn, and begin again with an empty cache."""
        struck = self._live
        self._start()
        for drawing in struck:
            drawing.end("failed", error)

    # ---- one unit --------------------------------------------------------------------------------

    def _pass(self, batch: _Batch, joining: Sequence[Drawing]) -> None:
        """One pass over the running batch and the prompts of those who join it, and the next unit
        of each of their pictures."""
        prompts: list[Sequence[int]] = []
        for drawing in joining:
            prompts += [drawing.prompt, self.empty][: len(drawing.slots)]
            noise = PictureNoise([drawing.request.seed])
            self._noise[drawing] = noise.ahead(
                drawing.units, self.stepper.codes, torch.device("cpu"), _AHEAD
            )
        slots = [slot for drawing in joining for slot in drawing.slots]
        for slot in batch.gaps:
            self._cache.truncate(slot, 0)  # what nobody reads must not grow
        logits = self._logits(batch, prompts, slots)
        if rows := len(batch.owner):
            self.work.steps += 1
            self.work.rows += rows
            self.work.wasted += len(batch.gaps)
        self.work.prompts += sum(map(len, prompts))
        if joining:
            row_of = {slot: rows + row for row, slot in enumerate(slots)}
            batch.places += [_places(drawing, row_of) for drawing in joining]
            batch.choices = None
        self._batch = None if joining else batch
        batch.last = self._draw(self._live, logits, batch)

    def _logits(
        self, batch: _Batch, prompts: Sequence[Sequence[int]], slots: Sequence[int]
    ) -> Tensor:
        """Of the batch's rows, and after the prompts."""
        last, cache = batch.last[batch.owner], self._cache
        if not set(batch.gaps) & set(slots):
            return self.stepper.advance(last, cache, batch.rows, prompts, slots)
        # who joins a gap that is computed must not be written over by it
        gone_on = self.stepper.advance(last, cache, batch.rows, (), ())
        return torch.cat((gone_on, self.stepper.advance(last[:0], cache, (), prompts, slots)))

    def _arranged(self) -> _Batch:
        """The running batch as its pictures are now."""
        scattered = self.placement == "scattered"
        rows = self.table.taken if scattered else self.table.range
        row_of = {slot: row for row, slot in enumerate(rows)}
        owner = torch.zeros(len(rows), dtype=torch.int64)
        for number, drawing in enumerate(self._live):
            for slot in drawing.slots:
                owner[row_of[slot]] = number
        last = torch.tensor([d.drawn[-1] for d in self._live], dtype=torch.int64)
        gaps = [] if scattered else self.table.gaps
        where = torch.tensor(rows, dtype=torch.int32) if scattered else rows
        return _Batch(where, owner, last, gaps, [_places(d, row_of) for d in self._live])

    def _draw(self, drawings: Sequence[Drawing], logits: Tensor, batch: _Batch) -> Tensor:
        """(n,) the next unit of each of these drawings; those that are whole leave."""
        if batch.choices is None or batch.changing:
            choices: list[Choice] = []
            for drawing, (conditional, unconditional) in zip(drawings, batch.places, strict=True):
                config = drawing.request.sampling
                scale = config.scale(drawing.unit, drawing.units)
                choices.append((conditional, unconditional, scale, config))
            batch.choices = self._prepared(choices)
            batch.changing = not all(d.request.sampling.steady for d in drawings)
        race = torch.cat([next(self._noise[drawing]) for drawing in drawings])
        drawn = self._choose(logits, batch.choices, race.to(logits.device)).cpu()
        codes, end = drawn.tolist(), self.stepper.end
        self.work.units += len(codes)
        told, whole = list(drawings), []
        for drawing, code in zip(told, codes, strict=True):
            drawing.add(code, code == end)
            if drawing.unit == drawing.units:
                whole.append(drawing)
        if whole:
            self._leave(whole)
        for drawing in told:
            if drawing.unit == drawing.units:
                drawing.end("drawn")
            else:
                drawing.tell()
        return drawn


@dataclass
class _Batch:
    """Rows that are computed together, as long as nobody joins or leaves."""

    rows: Any
    """Their slots, as the stepper takes them."""
    owner: Tensor
    """(rows,) which drawing each belongs to."""
    last: Tensor
    """(n,) the last code of each drawing."""
    gaps: list[int]
    """Slots among them that belong to nobody."""
    places: list[tuple[int, int]]
    """Of each drawing its row, and that of the pair without caption or -1."""
    choices: Any = None
    """How each is drawn, as `choose_each` takes it."""
    changing: bool = False
    """Whether that may change from unit to unit."""


def _places(drawing: Drawing, row_of: dict[int, int]) -> tuple[int, int]:
    rows = [row_of[slot] for slot in drawing.slots]
    return rows[0], rows[1] if len(rows) > 1 else -1


def _rows(drawing: Drawing) -> int:
    """Rows of the running batch that a drawing takes."""
    return 2 if drawing.request.sampling.guided else 1


class BatchEngine:
    """Whole batches of requests with the same settings, drawn by the generator's own sampler."""

    def __init__(self, stepper: Any, sampler: str, *, rows: int = 64, queue: int = 256):
        """At most `rows` pictures in a batch (half as many guided ones); `queue` may wait."""
        if rows < 2:
            raise InputError(f"BatchEngine.rows: {rows}, expected 2 or more")
        self.stepper, self.sampler, self.rows = stepper, sampler, rows
        self.queue, self.work = FairQueue(queue), Work()
        self._live: list[Drawing] = []

    @property
    def live(self) -> int:
        return len(self._live)

    def submit(self, drawings: Sequence[Drawing]) -> None:
        self.queue.push(drawings)

    def advance(self) -> bool:
        for drawing in self.queue.withdraw():
            drawing.end("cancelled")
        self._live = batch = self._next()
        if not batch:
            return False
        try:
            codes = self._drawn(batch)
        except _Unwanted:
            codes = None
        except Exception as error:
            self._live = []
            for drawing in batch:
                drawing.end("failed", error)
            return True
        self._live = []
        for number, drawing in enumerate(batch):
            if drawing.unwanted or codes is None:
                drawing.end("cancelled")
            else:
                drawing.drawn, drawing.unit = codes[number], drawing.units
                drawing.end("drawn")
        return True

    def abandon(self, error: Exception) -> None:
        for drawing in self.queue.withdraw(everybody=True):
            drawing.end("failed", error)

    def _next(self) -> list[Drawing]:
        """Whose turn it is, and those after it that want to be drawn in the same way."""
        batch: list[Drawing] = []
        while (drawing := self.queue.peek()) is not None:
            sampling, room = drawing.request.sampling, self.rows // _rows(drawing)
            if batch and (sampling != batch[0].request.sampling or len(batch) >= room):
                break
            self.queue.pop()
            drawing.begin()
            batch.append(drawing)
        return batch

    def _drawn(self, batch: Sequence[Drawing]) -> list[list[int]]:
        """The codes of each."""
        sampling = batch[0].request.sampling

        def on_unit(pictures: int) -> None:
            units = pictures // len(batch)
            self.work.steps += units
            self.work.units += pictures
            self.work.rows += pictures * _rows(batch[0])
            if all(drawing.unwanted for drawing in batch):
                raise _Unwanted
            for drawing in batch:
                drawing.unit = min(drawing.unit + units, drawing.units - 1)
                drawing.tell()

        codes = samplers[self.sampler](sampling)(
            self.stepper,
            [drawing.request.caption for drawing in batch],
            [drawing.request.seed for drawing in batch],
            batch=len(batch),
            on_unit=on_unit,
        )
        return codes.tolist()


class _Unwanted(Exception):
    """Nobody waits for this batch any more."""
