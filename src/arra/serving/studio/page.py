"""The page itself: fields, what happens when somebody uses them, and where it is mounted.

Nothing is fetched from elsewhere: fonts are the reader's own, scripts and styles Gradio's and ours.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from html import escape
from importlib.resources import files
from typing import Any

from arra.errors import InputError
from arra.serving.service import Service, Workshop
from arra.serving.studio import pictures
from arra.serving.studio.alignment import Measuring, alignment_page
from arra.serving.studio.live import Live, live_view
from arra.serving.studio.pictures import History
from arra.serving.studio.settings import SCHEDULES, StudioSettings

try:
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.responses import RedirectResponse, Response
except ImportError as error:
    raise InputError(f"the studio needs {error.name}: pip install 'arra[serve]'") from error

from arra.serving.studio.visits import FIELDS, Visits

PATH = "/studio"
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><path fill="#0f766e" '
    'd="M0 0h4v2H3v1H2v1H0z"/></svg>'
)
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
    live = Live(measuring, settings.studio_encoder)
    visits = Visits(workshop, settings, getattr(app.state, "desk", None), live)
    blocks = Page(visits, measuring).blocks()
    taken = {getattr(route, "path", None) for route in app.routes}
    for path, answer in _AT_ROOT.items():
        if path not in taken:
            app.get(path, include_in_schema=False)(answer)
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
    live.start()
    return app


def _to_studio() -> RedirectResponse:
    return RedirectResponse(PATH.lstrip("/") + "/")


def _manifest() -> dict[str, str]:
    return {"name": "arra studio", "start_url": f"{PATH}/", "display": "browser"}


def _icon() -> Response:
    return Response(_ICON, media_type="image/svg+xml")


# Browsers, and Gradio's page wherever it is mounted, ask for these at the root.
_AT_ROOT: dict[str, Callable] = {
    "/": _to_studio,
    "/manifest.json": _manifest,
    "/favicon.ico": _icon,
}


class Page:
    """Its fields, and which of them leads to what."""

    def __init__(self, visits: Visits, measuring: Measuring):
        self.visits, self.measuring = visits, measuring
        self.settings, self.services = visits.settings, visits.services
        self.models = visits.models

    def blocks(self) -> gr.Blocks:
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
                live = gr.HTML(
                    live_view(self.visits.live, ()) if self.visits.live else "",
                    elem_id="arra-live",
                    js_on_load=None,
                )
        gr.HTML('<h2 class="arra-title">History</h2>', js_on_load=None)
        gallery = gr.HTML(
            pictures.gallery(History()), elem_id="arra-history", js_on_load=_press("item")
        )
        history = gr.State(None, time_to_live=12 * 3600)
        inputs = [fields[name] for name in FIELDS]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        drawn = gr.on(
            [fields["prompt"].submit, fields["seed"].submit, draw.click],
            self.visits.draw,
            [*inputs, history],
            [said, sheet, live, history, gallery, stop],
            trigger_mode="once",
            **quiet,
        )
        drawn.then(self.visits.scored, None, [live], **quiet)
        stop.click(self.visits.stop, None, None, **quiet)
        blocks.unload(self.visits.stop)
        gallery.click(self.visits.again, [history], [*inputs, sheet, said], **quiet)
        file.upload(self.visits.read, [file], [*inputs, said], **quiet)
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
                height=170,
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
