"""The page itself: fields, what happens when somebody uses them, and where it is mounted.

Nothing is fetched from elsewhere: fonts are the reader's own, scripts and styles Gradio's and ours.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from arra.errors import ArraError, InputError
from arra.files import to_plain
from arra.labels import labelled_png
from arra.serving.requests import Full
from arra.serving.service import Draining, Service, Workshop
from arra.serving.studio import pictures
from arra.serving.studio.alignment import Measuring, alignment_page
from arra.serving.studio.drawing import Exhibition, Show
from arra.serving.studio.pictures import History, Shown
from arra.serving.studio.settings import (
    SCHEDULES,
    SEEDS,
    StudioSettings,
    Wish,
    label_of,
    settings_in,
    wish,
)

try:
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.responses import RedirectResponse
except ImportError as error:
    raise InputError(f"the studio needs {error.name}: pip install 'arra[serve]'") from error

log = logging.getLogger("arra.serving")

PATH = "/studio"
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
_MANIFEST = "/manifest.json"
_SESSIONS = 256  # visits whose pictures are remembered
_EVENTS = 1024
_UPLOAD = "32mb"
_KEEP_FILES = 600  # seconds that a file somebody dropped here lies on the disk


def mount_studio(app: FastAPI, workshop: Workshop, config: Any) -> FastAPI:
    """The page at /studio of `app`, and a way to it from / unless something is there.

    `config` is the server's; `StudioSettings` says which of its fields are read. Raises
    `InputError` where its store cannot be used.
    """
    settings = StudioSettings.of(config)
    measuring = Measuring(workshop, settings.studio_store)
    studio = Studio(workshop, settings, measuring, getattr(app.state, "desk", None))
    blocks = studio.page()
    taken = {getattr(route, "path", None) for route in app.routes}
    if "/" not in taken:
        app.get("/", include_in_schema=False)(_to_studio)
    if _MANIFEST not in taken:  # Gradio's page asks for it there, wherever it is mounted
        app.get(_MANIFEST, include_in_schema=False)(_manifest)
    app = gr.mount_gradio_app(
        app,
        blocks,
        PATH,
        footer_links=[],
        run_history=False,
        max_file_size=_UPLOAD,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=_theme(),
        css=files("arra.templates").joinpath("studio.css").read_text(encoding="utf-8"),
    )
    measuring.start()
    return app


def _to_studio() -> RedirectResponse:
    return RedirectResponse(PATH.lstrip("/") + "/")


def _manifest() -> dict[str, str]:
    return {"name": "arra studio", "start_url": f"{PATH}/", "display": "browser"}


class Studio:
    """What the page does, for all who look at it."""

    def __init__(
        self,
        workshop: Workshop,
        settings: StudioSettings,
        measuring: Measuring,
        desk: Any = None,
    ):
        """`desk` is that of the server's API, whose limit of pictures a minute counts here too."""
        self.workshop, self.settings, self.measuring, self.desk = (
            workshop,
            settings,
            measuring,
            desk,
        )
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
    ) -> AsyncIterator[tuple[Any, Any, Any, Any, Any]]:
        """Message, sheet, history, gallery and Stop, again and again until all is drawn.

        `values` are those of `FIELDS`, and the history.
        """
        history: History = values[-1] or History()
        visit = str(request.session_hash)
        nothing = gr.skip(), history, gr.skip()
        try:
            asked = wish(dict(zip(FIELDS, values[:-1], strict=True)), self.settings, self.models)
            self._limit(asked, request)
            shown = Exhibition(asked, self.services, _client(request, visit))
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
                yield said, sheet, history, gr.skip(), gr.update(interactive=True)
            history.add(asked, found)
            said = _end(shown)
            sheet = pictures.sheet(found, asked.prompt)
            yield said, sheet, history, pictures.gallery(history), gr.update(interactive=False)
        except Exception:
            log.exception("the studio failed")
            wrong = pictures.message("Something failed here; the server's log says what.", True)
            yield wrong, *nothing, gr.update(interactive=False)
        finally:
            shown.cancel()
            if self.now.get(visit) is shown:
                del self.now[visit]

    def _limit(self, asked: Wish, request: gr.Request) -> None:
        """Refuse who asks for more pictures a minute than the server's configuration allows."""
        if self.desk is None:
            return
        count = asked.count * len(asked.models)
        wait = self.desk.limit.take(_client(request, ""), count)
        if wait:
            raise InputError(f"Too many pictures within a minute; try again in {wait:.0f} s")

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
            label_of(asked.prompt, seed, asked.sampling, service.name, checkpoint, precision),
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

    # ---- the page --------------------------------------------------------------------------------

    def page(self) -> gr.Blocks:
        """The page, ready to be mounted."""
        blocks = gr.Blocks(
            title="arra studio",
            analytics_enabled=False,
            fill_width=True,
            delete_cache=(_KEEP_FILES, _KEEP_FILES),
        )
        blocks.state_session_capacity = _SESSIONS
        with blocks:
            gr.HTML(self._head(), elem_id="arra-head", js_on_load=None)
            with gr.Tabs():
                with gr.Tab("Draw", id="draw"):
                    self._draw_tab(blocks)
                with gr.Tab("Alignment", id="alignment"):
                    self._alignment_tab(blocks)
        blocks.queue(default_concurrency_limit=None, max_size=_EVENTS, api_open=False)
        return blocks

    def _head(self) -> str:
        names = ", ".join(self.models)
        return (
            '<header class="arra-head"><h1>arra <span>studio</span></h1>'
            f"<p>{escape(names)}</p></header>"
        )

    def _draw_tab(self, blocks: gr.Blocks) -> None:
        first: Service = next(iter(self.services.values()))
        with gr.Row(elem_id="arra-desk"):
            # a phone shows the pictures between the prompt and the other fields
            with gr.Column(min_width=240, elem_id="arra-ask"):
                fields, draw, stop, chips = self._asking()
            with gr.Column(min_width=240, elem_id="arra-knobs"):
                fields |= self._knobs()
                file = self._drop()
            with gr.Column(min_width=240, elem_id="arra-wall"):
                said = gr.HTML(
                    pictures.message("Write a prompt and press Enter."),
                    elem_id="arra-said",
                    js_on_load=None,
                )
                blank = pictures.blank(self.models[:2], first.model.size)
                sheet = gr.HTML(blank, elem_id="arra-pictures", js_on_load=None)
        gr.HTML('<h2 class="arra-title">History</h2>', js_on_load=None)
        gallery = gr.HTML(
            pictures.gallery(History()), elem_id="arra-history", js_on_load=_press("item")
        )
        history = gr.State(None, time_to_live=12 * 3600)
        inputs = [fields[name] for name in FIELDS]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on(
            [fields["prompt"].submit, fields["seed"].submit, draw.click],
            self.draw,
            [*inputs, history],
            [said, sheet, history, gallery, stop],
            trigger_mode="once",
            **quiet,
        )
        stop.click(self.stop, None, None, **quiet)
        blocks.unload(self.stop)
        gallery.click(self.again, [history], [*inputs, sheet, said], **quiet)
        file.upload(self.read, [file], [*inputs, said], **quiet)
        if chips is not None:
            chips.click(_prompt_of, None, [fields["prompt"]], **quiet)

    def _asking(self) -> tuple[dict[str, Any], gr.Button, gr.Button, gr.HTML | None]:
        """Prompt, some to try, and the two buttons."""
        prompt = gr.Textbox(
            label="Prompt",
            placeholder="What should it draw?",
            lines=1,
            max_lines=4,
            max_length=self.settings.prompt_characters,
            autofocus=True,
            elem_id="arra-prompt",
        )
        chips = None
        if self.measuring.captions:
            chips = gr.HTML(pictures.chips(self.measuring.captions), js_on_load=_press("prompt"))
        with gr.Row(elem_id="arra-go"):
            draw = gr.Button("Draw", variant="primary", elem_id="arra-draw", min_width=80)
            stop = gr.Button("Stop", interactive=False, elem_id="arra-stop", min_width=80)
        return {"prompt": prompt}, draw, stop, chips

    def _knobs(self) -> dict[str, Any]:
        """The other fields, in the order in which one comes to them with the Tab key."""
        sampling = self.settings.sampling
        fields: dict[str, Any] = {}
        fields["models"] = gr.CheckboxGroup(
            list(self.models),
            value=list(self.models[:2]),
            label="Models side by side",
            visible=len(self.models) > 1,
            elem_id="arra-models",
        )
        with gr.Row(elem_id="arra-seeds", equal_height=True):
            fields["seed"] = gr.Number(
                0, label="Seed", precision=0, minimum=0, min_width=110, elem_id="arra-seed"
            )
            new = gr.Button("New seed", elem_id="arra-new", min_width=96, scale=0, size="sm")
        fields["guidance"] = gr.Slider(
            1.0,
            max(10.0, sampling.guidance),
            sampling.guidance,
            step=0.1,
            label="Guidance (1: none)",
            elem_id="arra-guidance",
        )
        fields["count"] = gr.Slider(
            1, max(2, self.settings.pictures), 1, step=1, label="Pictures", elem_id="arra-count"
        )
        with gr.Accordion("More", open=False, elem_id="arra-more"):
            fields["guidance_schedule"] = gr.Dropdown(
                list(SCHEDULES), value=sampling.guidance_schedule, label="Guidance over time"
            )
            fields["temperature"] = gr.Slider(
                0.0, 2.0, sampling.temperature, step=0.05, label="Temperature"
            )
            fields["top_k"] = gr.Number(
                sampling.top_k, label="Top-k (0: all)", precision=0, minimum=0
            )
            fields["top_p"] = gr.Slider(0.05, 1.0, sampling.top_p, step=0.05, label="Top-p")
            fields["slow"] = gr.Checkbox(
                True,
                label="Show every step",
                info="Small models draw faster than the eye; the times are those of the drawing.",
            )
        new.click(
            _new_seed,
            None,
            [fields["seed"]],
            show_progress="hidden",
            queue=False,
            api_visibility="private",
        )
        return fields

    def _drop(self) -> gr.File:
        with gr.Accordion("Settings of a picture", open=False, elem_id="arra-read"):
            return gr.File(
                label="Drop a PNG that arra made",
                file_types=[".png"],
                height=120,
                elem_id="arra-file",
            )

    def _alignment_tab(self, blocks: gr.Blocks) -> None:
        view = gr.HTML(
            lambda: alignment_page(self.measuring), elem_id="arra-alignment", js_on_load=None
        )
        if self.measuring.folder is None:
            return
        timer = gr.Timer(1.5)

        def look() -> tuple[Any, Any]:
            finished = self.measuring.finished
            return alignment_page(self.measuring), gr.Timer(active=not finished)

        timer.tick(look, None, [view, timer], show_progress="hidden", api_visibility="private")


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


def _new_seed() -> int:
    return secrets.randbelow(10**6)


def _prompt_of(event: gr.EventData) -> Any:
    found = event._data.get("prompt") if isinstance(event._data, dict) else None
    return found if isinstance(found, str) else gr.skip()


def _press(name: str) -> str:
    """Script of an HTML element whose buttons with data-NAME trigger a click with that datum."""
    return (
        "element.addEventListener('click', (e) => {"
        f"const b = e.target.closest('[data-{name}]');"
        f"if (b) trigger('click', {{{name}: b.dataset.{name}}});"
        "});"
    )


def _theme() -> Any:
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="stone",
        font=fonts,
        font_mono=mono,
    ).set(  # darker than Gradio's, so that text can be read
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_text_color="white",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        link_text_color="*primary_700",
        color_accent="*primary_700",
        slider_color="*primary_600",
    )
