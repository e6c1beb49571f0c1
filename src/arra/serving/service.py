"""A checkpoint that draws for many, and the one thread in which all that are served do so."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from arra.data.captions import clean_caption
from arra.errors import ArraError, InputError
from arra.generators.fast import FastStepper, decoding
from arra.registry import samplers
from arra.serving.config import ServiceConfig
from arra.serving.engine import BatchEngine, Engine, FusedEngine
from arra.serving.requests import ENDED, Drawing, Request
from arra.text_to_image import TextToImage

log = logging.getLogger("arra.serving")

_UNDRAWN = 200
"""Grey of the parts of a picture that are not drawn yet."""
_TOGETHER, _SHARE = 16, 0.15
"""Pictures that are painted at once, and the share of the time that painting fewer may take: few
take as long as many, so that painting each as soon as it is drawn would hold up all others."""


class Draining(ArraError):
    """The service is about to stop and takes no more requests."""


class Service:
    """Draws the pictures of one checkpoint for many. `Workshop` runs it; requests come from any
    thread.

    A picture is what `TextToImage.draw` gives for its caption, seed and sampling at the service's
    precision: to the last bit with the decoder of CPUs, whose rows do not depend on their company,
    else within rounding.
    """

    def __init__(self, model: TextToImage, config: ServiceConfig | None = None, name: str = "arra"):
        """Raises `InputError` where the model cannot be drawn as `config` says."""
        self.model, self.config, self.name = model, config or ServiceConfig(), name
        self.engine: Engine
        self.engine, self.way = _engine(model, self.config)
        self.created = int(time.time())
        self.draining = False
        self.painted = 0
        """Pictures that were finished."""
        self.changed: Callable[[], None] = lambda: None
        """Called when a request came: wakes who runs the service."""
        self._to_paint: deque[tuple[Drawing, Tensor, int]] = deque()
        self._painted_at = self._took = 0.0

    # ---- for callers, in any thread --------------------------------------------------------------

    def check(self, request: Request) -> list[int]:
        """The prompt's ids; `InputError` where the request cannot be drawn."""
        caption = request.caption
        if caption is not None:
            caption = clean_caption(caption, "prompt")
        if not 0 <= request.seed < 2**63:
            raise InputError(f"seed: {request.seed}, expected 0 or more, below 2**63")
        generator = self.model.generator
        samplers[generator.sampler](request.sampling)  # refuses settings that its law does not have
        ids = generator.prompt_ids(caption)
        if len(ids) > self.config.prompt_tokens:
            raise InputError(
                f"prompt: {len(ids)} tokens, expected {self.config.prompt_tokens} at most"
            )
        return ids

    def submit(
        self, requests: Sequence[Request], listener: Callable[[Drawing], None] | None = None
    ) -> list[Drawing]:
        """Let requests wait for their turn, all or none; `listener` hears of every change, in the
        workshop's thread, and must not wait.

        Raises `InputError` for one that cannot be drawn, `Full` where too many wait, `Draining`.
        """
        generator = self.model.generator
        codes = prod(generator.codes_shape)
        drawings = [Drawing(r, self.check(r), generator.units, codes) for r in requests]
        for drawing in drawings:
            drawing.listen(self._noticed)
            if listener is not None:
                drawing.listen(listener)
        if self.draining:
            raise Draining("the server is about to stop and takes no more requests")
        self.engine.submit(drawings)
        self.changed()
        return drawings

    def cancel(self, drawing: Drawing) -> None:
        """Nobody waits for this drawing any more: its slots are free from the next unit on."""
        drawing.unwanted = True
        self.changed()

    def draw(self, request: Request, timeout: float | None = None) -> np.ndarray:
        """(H, W, 3) uint8: submit, and wait. `TimeoutError` after `timeout` seconds; the drawing's
        own error where it failed."""
        ended = threading.Event()

        def listener(changed: Drawing) -> None:
            if changed.state in ENDED:
                ended.set()

        (drawing,) = self.submit([request], listener)
        if not ended.wait(timeout):
            self.cancel(drawing)
            raise TimeoutError(f"no picture within {timeout} seconds")
        if drawing.error is not None:
            raise drawing.error
        assert drawing.picture is not None
        return drawing.picture

    def stats(self) -> dict[str, int]:
        """Numbers for whoever watches: pictures drawn and waiting, and what was computed."""
        work = self.engine.work
        return {
            "drawing": self.engine.live,
            "waiting": len(self.engine.queue),
            "pictures": self.painted,
            **{name: getattr(work, name) for name in work.__dataclass_fields__},
        }

    @property
    def idle(self) -> bool:
        """Whether nothing is being drawn or painted, and nobody waits."""
        return not (self.engine.live or len(self.engine.queue) or self._to_paint)

    # ---- for the workshop, in its thread ---------------------------------------------------------

    def advance(self) -> bool:
        """Draw a unit, and paint what is due; False where there was nothing to do."""
        drew = self.engine.advance()
        if not self._to_paint:
            return drew
        rested = time.perf_counter() - self._painted_at >= self._took / _SHARE
        if not drew or len(self._to_paint) >= _TOGETHER or rested:
            began = time.perf_counter()
            self._paint()
            self._painted_at = time.perf_counter()
            self._took = self._painted_at - began
        return True

    def abandon(self, error: Exception) -> None:
        """End everything with this error."""
        self.engine.abandon(error)
        while self._to_paint:
            drawing, *_ = self._to_paint.popleft()
            if drawing.state not in ENDED:
                drawing.end("failed", error)

    def _noticed(self, drawing: Drawing) -> None:
        """A drawing changed: it may have to be painted, at each of its units once."""
        if drawing.unit == drawing.copied:
            return  # told of a preview, not of a unit
        if drawing.state == "drawn" or (drawing.state == "drawing" and self._shown(drawing)):
            drawing.copied = drawing.unit
            self._to_paint.append((drawing, drawing.codes, drawing.unit))

    def _shown(self, drawing: Drawing) -> bool:
        """Whether the picture is to be shown at its present unit."""
        wanted, unit, units = drawing.request.previews, drawing.unit, drawing.units
        if not wanted or not drawing.drawn:
            return False
        rows, columns = self.model.generator.grids[-1]
        if prod(self.model.generator.codes_shape) != rows * columns:
            return False  # codes that do not stand for places of their own
        before = (unit - 1) * (wanted + 1) // units
        return unit * (wanted + 1) // units > before

    def _paint(self) -> None:
        some = [self._to_paint.popleft() for _ in range(min(_TOGETHER, len(self._to_paint)))]
        some = [job for job in some if not job[0].unwanted or job[0].state == "drawn"]
        if not some:
            return
        codes = torch.stack([job[1] for job in some])
        try:
            shape = len(some), *self.model.generator.codes_shape
            known = codes if codes.is_floating_point() else codes.clamp(min=0)
            pictures = self.model.paint(known.view(shape))
        except Exception as error:
            log.exception("%s: pictures could not be painted", self.name)
            for drawing, *_ in some:
                if drawing.state not in ENDED:
                    drawing.end("failed", error)
            return
        for (drawing, painted, unit), picture in zip(some, pictures, strict=True):
            if drawing.state in ENDED:
                continue
            if unit == drawing.units:
                drawing.picture = picture
                self.painted += 1
                drawing.end("done")
            else:
                drawing.preview = unit, self._veiled(picture, painted)
                drawing.tell()

    def _veiled(self, picture: np.ndarray, codes: Tensor) -> np.ndarray:
        """The picture with grey where no code is drawn yet."""
        rows, columns = self.model.generator.grids[-1]
        missing = (codes < 0).view(rows, columns).numpy()
        side = picture.shape[0] // rows, picture.shape[1] // columns
        veiled = picture.copy()
        veiled[np.kron(missing, np.ones(side, dtype=bool))] = _UNDRAWN
        return veiled


class Workshop:
    """Runs services in one thread, a unit of each in turn.

    One, because products of matrices take all cores anyway, and two teams of threads on the same
    cores slow one another down many times.
    """

    def __init__(self, services: Sequence[Service], threads: int = 0):
        """`threads` compute each product of matrices; 0: as many as torch takes."""
        if not services:
            raise InputError("Workshop: no service, expected one or more")
        self.services = {service.name: service for service in services}
        if len(self.services) != len(services):
            raise InputError("Workshop: two services of the same name")
        self._threads = threads
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="arra-workshop", daemon=True)
        for service in services:
            service.changed = self._woken.set

    def start(self) -> Workshop:
        """Begin to draw; returns itself."""
        self._thread.start()
        return self

    @property
    def alive(self) -> bool:
        """Whether the thread that draws is running."""
        return self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether requests are taken and drawn."""
        draining = any(service.draining for service in self.services.values())
        return self.alive and not draining

    @property
    def idle(self) -> bool:
        """Whether nothing is being drawn and nobody waits."""
        return all(service.idle for service in self.services.values())

    def drain(self) -> None:
        """Take no more requests; those that were taken are drawn."""
        for service in self.services.values():
            service.draining = True

    def stop(self, patience: float = 30.0) -> bool:
        """Drain for up to `patience` seconds, and end; whether everything was drawn."""
        self.drain()
        until = time.monotonic() + patience
        while self._thread.is_alive() and not self.idle and time.monotonic() < until:
            time.sleep(0.01)
        whole = self.idle
        self._stopping = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()
        return whole

    def stats(self) -> dict[str, dict[str, int]]:
        """`Service.stats` of each, by name."""
        return {name: service.stats() for name, service in self.services.items()}

    @torch.inference_mode()
    def _run(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)
        while not self._stopping:
            self._woken.clear()
            busy = [self._advance(service) for service in self.services.values()]
            if not any(busy):
                self._woken.wait()
        gone = Draining("the server stopped before this picture was drawn")
        for service in self.services.values():
            service.abandon(gone)

    def _advance(self, service: Service) -> bool:
        try:
            return service.advance()
        except Exception as error:  # nobody else will tell those who wait
            log.exception("%s: the engine failed", service.name)
            service.abandon(error)
            return True


def _engine(model: TextToImage, config: ServiceConfig) -> tuple[Engine, str]:
    """What draws this model for many, and in which way."""
    generator = model.generator
    many = 10**9  # a server draws for as long as it runs: whatever has to be built pays
    way = decoding(
        generator,
        many if generator.device.type == "cpu" else 0,
        prompt=config.prompt_tokens,
        decoder=config.decoder,
        precision=config.precision,
    )
    if isinstance(way.stepper, FastStepper):
        fused = FusedEngine(
            way.stepper,
            generator.prompt_ids(None),
            slots=config.slots,
            queue=config.queue,
            prompt=config.prompt_tokens,
        )
        return fused, f"one running batch, {way.kind} decoder"
    batches = BatchEngine(way.stepper, generator.sampler, rows=config.slots, queue=config.queue)
    return batches, f"batches of requests that are alike: {way.reason}"


__all__ = ["Draining", "Service", "ServiceConfig", "Workshop"]
