"""What happens when somebody uses the page: drawing, stopping, and settings that come back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

from arra.errors import ArraError, InputError
from arra.files import to_plain
from arra.labels import labelled_png
from arra.serving.requests import Full
from arra.serving.service import Draining, Workshop
from arra.serving.studio import pictures
from arra.serving.studio.drawing import Exhibition, Show
from arra.serving.studio.live import Live, first_of_each, live_view
from arra.serving.studio.pictures import History, Shown
from arra.serving.studio.settings import (
    SEEDS,
    StudioSettings,
    Wish,
    file_label,
    settings_in,
    wish,
)

log = logging.getLogger("arra.serving")

_ENDED = 64
_SCORED = 20.0  # seconds for which the last scores are waited for

FIELDS = (
    "prompt",
    "models",
    "count",
    "seed",
    "guidance",
    "guidance_schedule",
    "temperature",
    "top_k",
    "top_p",
    "slow",
)
"""Of the page, in the order in which one comes to them with the Tab key."""


class Visits:
    """All who look at the page."""

    def __init__(
        self,
        workshop: Workshop,
        settings: StudioSettings,
        desk: Any = None,
        live: Live | None = None,
    ):
        """`desk` is that of the server's API, whose limit of pictures a minute counts here too;
        `live` scores what is drawn, where somebody does."""
        self.settings, self.desk, self.live = settings, desk, live
        self._ended: dict[str, list[Show]] = {}
        """Whose pictures are drawn, but perhaps not scored to the end; the newest visits."""
        self.services = workshop.services
        self.models = tuple(self.services)
        self.now: dict[str, Exhibition] = {}
        """What is being drawn, by visit."""
        self._fingerprint: Callable[[str], str] = cache(
            lambda name: self.services[name].model.fingerprint()
        )

    # ---- drawing -----------------------------------------------------------------------------

    async def draw(
        self, request: gr.Request, *values: Any
    ) -> AsyncIterator[tuple[Any, Any, Any, Any, Any, Any]]:
        """Message, sheet, scores, history, gallery and Stop, again and again until all is drawn.

        `values` are those of `FIELDS`, and the history.
        """
        history: History = values[-1] or History()
        visit = str(request.session_hash)
        nothing = gr.skip(), gr.skip(), history, gr.skip()
        try:
            asked = wish(dict(zip(FIELDS, values[:-1], strict=True)), self.settings, self.models)
            shown = self._exhibition(asked, _client(request, visit))
        except (InputError, Full, Draining) as error:
            yield pictures.message(str(error), wrong=True), *nothing, gr.update(interactive=False)
            return
        before = self.now.get(visit)
        if before is not None:
            before.cancel()
        self.now[visit] = shown
        try:
            found: list[Shown] = []
            async for _ in shown.steps(self.settings.timeout):
                found = [await self._shown(show, asked) for show in shown.shows]
                said = pictures.message(_progress(shown))
                sheet = pictures.sheet(found, asked.prompt)
                scores = self._scores(shown.shows)
                yield said, sheet, scores, history, gr.skip(), gr.update(interactive=True)
            history.add(asked, found)
            said = _end(shown)
            sheet = pictures.sheet(found, asked.prompt)
            scores, kept = self._scores(shown.shows), pictures.gallery(history)
            self._remember(visit, shown.shows)
            yield said, sheet, scores, history, kept, gr.update(interactive=False)
        except Exception:
            log.exception("the studio failed")
            wrong = pictures.message("Something failed here; the server's log says what.", True)
            yield wrong, *nothing, gr.update(interactive=False)
        finally:
            shown.cancel()
            if self.now.get(visit) is shown:
                del self.now[visit]

    def _scores(self, shows: Sequence[Show]) -> Any:
        """How well the states of what is shown are aligned, as far as somebody has looked."""
        if self.live is None:
            return gr.skip()
        self.live.look(shows)
        return live_view(self.live, shows)

    def _remember(self, visit: str, shows: list[Show]) -> None:
        self._ended.pop(visit, None)
        self._ended[visit] = shows
        while len(self._ended) > _ENDED:
            del self._ended[next(iter(self._ended))]

    async def scored(self, request: gr.Request) -> AsyncIterator[Any]:
        """The scores of what this visit has drawn, once they are whole; others may draw meanwhile,
        and so may this visit."""
        shows = self._ended.pop(str(request.session_hash), [])
        if self.live is None or not shows:
            yield gr.skip()
            return
        until = time.monotonic() + _SCORED
        while any(map(self.live.due, first_of_each(shows))) and time.monotonic() < until:
            self.live.look(shows)
            await asyncio.sleep(0.1)
            if str(request.session_hash) in self.now:  # it looks at the next ones
                yield gr.skip()
                return
        yield live_view(self.live, shows)

    def _exhibition(self, asked: Wish, client: str) -> Exhibition:
        """Let pictures wait, if the client may ask for so many more within this minute."""
        count = asked.count * len(asked.models)
        if self.desk is not None and (wait := self.desk.limit.take(client, count)):
            raise InputError(f"Too many pictures within a minute; try again in {wait:.0f} s")
        try:
            return Exhibition(asked, self.services, client)
        except ArraError:
            if self.desk is not None:
                self.desk.limit.give_back(client, count)
            raise

    async def _shown(self, show: Show, asked: Wish) -> Shown:
        name, seed = show.service.name, show.drawing.request.seed
        done = show.unit / max(1, show.drawing.units)
        whole = show.whole and show.drawing.state == "done"
        png = None
        if show.picture is not None:
            make = (lambda: self._png(show, asked)) if whole else _quick(show)
            png = await asyncio.to_thread(make)
        return Shown(name, seed, show.service.model.size, png, done, _note(show, whole), whole)

    def _png(self, show: Show, asked: Wish) -> bytes:
        """The file that is saved: the picture with its settings."""
        service, picture = show.service, show.picture
        assert picture is not None
        seed, precision = show.drawing.request.seed, service.config.precision
        checkpoint = self._fingerprint(service.name)
        return labelled_png(
            picture,
            file_label(asked.prompt, seed, asked.sampling, service.name, checkpoint, precision),
        )

    def stop(self, request: gr.Request) -> None:
        """What this visit is waiting for is not wanted any more."""
        shown = self.now.get(str(request.session_hash))
        if shown is not None:
            shown.cancel()

    # ---- settings that come back ---------------------------------------------------------------

    def again(self, history: History | None, event: gr.EventData) -> tuple[Any, ...]:
        """Fields, sheet and message of an item of the history."""
        try:
            item = (history or History()).find(int(event._data["item"]))
        except (KeyError, TypeError, ValueError):
            item = None
        if item is None:
            said = pictures.message("That picture is not kept any more.", wrong=True)
            return *([gr.skip()] * len(FIELDS)), gr.skip(), said
        asked = item.wish
        fields = self._fields(asked.prompt, asked.seed, asked.sampling, asked.models, asked.count)
        sheet = pictures.sheet(item.shown, asked.prompt)
        return *fields, sheet, pictures.message("Its settings are in the fields.")

    def read(self, file: str | None) -> tuple[Any, ...]:
        """Fields and message of a PNG that was dropped here."""
        if not file:
            return *([gr.skip()] * len(FIELDS)), gr.skip()
        try:
            prompt, seed, sampling, model = settings_in(Path(file))
            if seed >= SEEDS:
                raise InputError(f"seed: {seed} is larger than this page can show")
        except InputError as error:
            said = pictures.message(str(error), wrong=True)
            return *([gr.skip()] * len(FIELDS)), said
        models = (model,) if model in self.models else ()
        fields = self._fields(prompt, seed, sampling, models, 1)
        text = "The settings of that picture are in the fields."
        if model and not models:
            text += f" Its model, {model}, is not served here."
        return *fields, pictures.message(text)

    def _fields(
        self, prompt: str, seed: int, sampling: Any, models: Sequence[str], count: int
    ) -> list[Any]:
        plain = to_plain(sampling)
        values = {"prompt": prompt, "seed": seed, "count": count, **plain}
        if models:
            values["models"] = list(models)
        return [values.get(name, gr.skip()) for name in FIELDS]


def _quick(show: Show) -> Callable[[], bytes]:
    picture = show.picture
    assert picture is not None
    return lambda: pictures.quick_png(picture)


def _client(request: gr.Request, visit: str) -> str:
    """Who asks: whose key it is or from where, as the server's other requests, else the visit."""
    scope = getattr(request.request, "scope", None) or {}
    return str(scope.get("arra.client") or visit)


def _note(show: Show, whole: bool) -> str:
    drawing = show.drawing
    seed = f"seed {drawing.request.seed}"
    if drawing.state == "failed":
        return f"{seed} · failed: {_reason(drawing.error)}"
    if drawing.state == "cancelled":
        return f"{seed} · stopped at {show.unit} of {drawing.units}"
    if whole:
        return f"{seed} · waited {_seconds(show.waited)} · drew in {_seconds(show.drew)}"
    if drawing.state == "waiting":
        return f"{seed} · waiting"
    return f"{seed} · {show.unit} of {drawing.units}"


def _reason(error: Exception | None) -> str:
    """What may be told of an error."""
    return str(error) if isinstance(error, ArraError) else "the server's log says why"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _progress(shown: Exhibition) -> str:
    count = len(shown.shows)
    return f"Drawing {count} pictures…" if count > 1 else "Drawing…"


def _end(shown: Exhibition) -> str:
    states = [show.drawing.state for show in shown.shows]
    failed = [show.drawing.error for show in shown.shows if show.drawing.state == "failed"]
    if failed:
        return pictures.message(f"{len(failed)} failed: {_reason(failed[0])}", wrong=True)
    if "cancelled" in states:
        return pictures.message("Stopped.")
    count = "1 picture" if len(states) == 1 else f"{len(states)} pictures"
    ways = dict.fromkeys(show.service.way for show in shown.shows)
    return pictures.message(f"{count} in {_seconds(shown.seconds)}: {'; '.join(ways)}.")
