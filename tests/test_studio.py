"""The page in a browser: drawn by keyboard, side by side, kept, read back, on a phone, at night.

A tiny random model is served by a real server. Nothing may be asked of anybody else.
"""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.vq import VQCodec, VQConfig
from arra.errors import InputError
from arra.labels import label_of, labelled_png
from arra.serving.requests import ENDED
from arra.serving.service import Service, ServiceConfig, Workshop
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage
from lm_kit import PADDED, SHAPE, word_tokenizer
from test_decoding import generator_of

pytest.importorskip("gradio", reason="the studio needs gradio: pip install 'arra[serve]'")
fastapi = pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from arra.serving.studio import mount_studio  # noqa: E402
from arra.serving.studio.drawing import Exhibition  # noqa: E402
from arra.serving.studio.pictures import History, Shown, gallery, sheet  # noqa: E402
from arra.serving.studio.settings import StudioSettings, Wish, settings_in, wish  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PROMPT = "a red bar left of a blue square"
SAMPLING = SamplingConfig(2.0, top_k=6)


@dataclass(frozen=True)
class Config:
    """As much of a server's configuration as the page reads."""

    sampling: SamplingConfig = SAMPLING
    pictures: int = 4
    prompt_characters: int = 80
    timeout: float = 60.0
    studio_store: Path | None = None


def tiny(seed: int) -> TextToImage:
    generator = generator_of(LlamaConfig(**{**SHAPE, "vocab_size": PADDED}))
    codec = VQCodec.seeded(VQConfig(AutoencoderConfig(width=8), vocabulary=16), seed).eval()
    generator.config = replace(generator.config, codec=codec.fingerprint())
    return TextToImage(generator, codec)


@pytest.fixture(scope="module")
def models() -> dict[str, TextToImage]:
    return {"aligned": tiny(0), "baseline": tiny(1)}


@dataclass
class Served:
    """A server that runs, and its parts."""

    url: str
    workshop: Workshop
    models: dict[str, TextToImage]
    asked: list[str] = field(default_factory=list)
    """Everything that any page of the browser has asked for."""


@pytest.fixture(scope="module")
def served(models) -> Iterator[Served]:
    services = [Service(m, ServiceConfig(slots=16, queue=6), n) for n, m in models.items()]
    workshop = Workshop(services).start()
    app = mount_studio(fastapi.FastAPI(), workshop, Config())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Served(f"http://127.0.0.1:{port}", workshop, models)
    server.should_exit = True
    thread.join(10)
    workshop.stop(0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM.is_file():
        pytest.skip(f"needs {CHROMIUM}")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(QUIET))
        yield chromium
        chromium.close()


Visit = Callable[..., Any]


@pytest.fixture
def visit(browser, served) -> Iterator[Visit]:
    contexts = []

    def opened(width: int = 1200, height: int = 900, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: served.asked.append(request.url))
        page.goto(f"{served.url}/")  # leads to /studio/
        page.wait_for_selector("#arra-prompt textarea")
        return page

    yield opened
    for context in contexts:
        context.close()


def drawn(page: Any, count: int) -> list[tuple[str, int, bytes]]:
    """Model, seed and file of every picture, once as many are whole."""
    page.wait_for_function(
        "n => document.querySelectorAll('#arra-pictures figure[data-state=whole]').length === n"
        " && !document.querySelector('#arra-pictures figure[data-state=drawing]')",
        arg=count,
    )
    found = page.eval_on_selector_all(
        "#arra-pictures figure",
        "all => all.map(f => [f.dataset.model, +f.dataset.seed, f.querySelector('a').href])",
    )
    prefix = "data:image/png;base64,"
    assert all(uri.startswith(prefix) for *_, uri in found)
    return [(name, seed, base64.b64decode(uri[len(prefix) :])) for name, seed, uri in found]


def label_in(png: bytes, folder: Path) -> dict[str, str]:
    (folder / "some.png").write_bytes(png)
    return label_of(folder / "some.png")


def pixels(png: bytes) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def in_a_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """What comes of `work`, in a thread without a loop: the browser's has one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result(60)


def fill_seed(page: Any, seed: int) -> None:
    page.fill("#arra-seed input", str(seed))
    page.keyboard.press("Tab")


# ---- in the browser ------------------------------------------------------------------------------


def test_enter_draws_what_the_library_draws_and_it_is_seen_growing(visit, served, tmp_path):
    page = visit()
    assert page.url == f"{served.url}/studio/"
    page.evaluate(
        """() => {
          window.seen = [];
          const wall = document.querySelector('#arra-pictures');
          new MutationObserver(() => {
            const f = wall.querySelector('figure');
            if (f && f.querySelector('img'))
              window.seen.push([f.dataset.state, f.querySelector('img').src]);
          }).observe(wall, {childList: true, subtree: true, attributes: true});
        }"""
    )
    page.wait_for_function("document.activeElement.closest('#arra-prompt') !== null")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Enter")
    found = drawn(page, 2)
    assert [(name, seed) for name, seed, _ in found] == [("aligned", 0), ("baseline", 0)]
    for name, seed, png in found:
        (alone,) = served.models[name].draw([PROMPT], [seed], SAMPLING)
        assert np.array_equal(pixels(png), alone)
        label = label_in(png, tmp_path)
        assert (label["prompt"], label["seed"], label["model"]) == (PROMPT, str(seed), name)
        assert label["checkpoint"] == served.models[name].fingerprint()
        assert '"top_k": 6' in label["sampling"]
        assert label["Software"] == "arra"
    assert not np.array_equal(pixels(found[0][2]), pixels(found[1][2]))
    seen = page.evaluate("window.seen")
    before = list(dict.fromkeys(src for state, src in seen if state == "drawing"))
    assert len(before) >= 3  # of the eight that a picture of nine units has before it is whole
    assert seen[-1][0] == "whole"
    said = page.inner_text("#arra-said")
    assert "2 pictures in" in said
    assert "native decoder" in said
    note = page.inner_text("#arra-pictures figure >> nth=0")
    assert "seed 0" in note
    assert "waited" in note
    assert "drew in" in note


def test_history_gives_settings_and_pictures_back(visit, tmp_path):
    page = visit()
    page.fill("#arra-prompt textarea", "a red bar")
    fill_seed(page, 41)
    page.get_by_label("baseline").uncheck()
    page.click("#arra-draw")
    (first,) = drawn(page, 1)
    page.wait_for_selector("#arra-history [data-item='1']")
    page.fill("#arra-prompt textarea", "a green square")
    fill_seed(page, 7)
    page.get_by_label("baseline").check()
    page.press("#arra-prompt textarea", "Enter")
    drawn(page, 2)
    page.wait_for_selector("#arra-history [data-item='2']")
    items = page.eval_on_selector_all(
        "#arra-history [data-item]", "all => all.map(b => b.dataset.item)"
    )
    assert items == ["2", "1"]
    page.focus("#arra-history [data-item='1']")
    page.keyboard.press("Enter")
    assert drawn(page, 1) == [first]
    assert page.input_value("#arra-prompt textarea") == "a red bar"
    assert page.input_value("#arra-seed input") == "41"
    assert not page.get_by_label("baseline").is_checked()
    with page.expect_download() as download:
        page.click("#arra-pictures a.arra-save")
    saved = tmp_path / "saved.png"
    download.value.save_as(saved)
    assert download.value.suggested_filename == "a-red-bar-aligned-41.png"
    assert saved.read_bytes() == first[2]
    page.press("#arra-prompt textarea", "Enter")  # the same settings, the same picture
    page.wait_for_selector("#arra-history [data-item='3']")
    assert drawn(page, 1) == [first]


def test_a_picture_that_is_dropped_here_gives_its_settings(visit, tmp_path):
    page = visit()
    sampling = SamplingConfig(3.5, guidance_schedule="cosine", temperature=0.5, top_p=0.75)
    label = {"prompt": "a blue bar", "seed": 12, "model": "baseline", "sampling": vars(sampling)}
    file = tmp_path / "some.png"
    file.write_bytes(labelled_png(np.zeros((8, 8, 3), np.uint8), label))
    before = label_of(file)["sampling"]
    page.click("text=Settings of a picture")
    page.set_input_files("#arra-file input[type=file]", str(file))
    page.wait_for_function("document.querySelector('#arra-prompt textarea').value === 'a blue bar'")
    assert page.input_value("#arra-seed input") == "12"
    assert page.get_by_label("baseline").is_checked()
    assert not page.get_by_label("aligned").is_checked()
    page.press("#arra-prompt textarea", "Enter")
    ((name, seed, png),) = drawn(page, 1)
    assert (name, seed) == ("baseline", 12)
    assert label_in(png, tmp_path)["sampling"] == before


def test_what_cannot_be_drawn_is_said_and_nothing_else_happens(visit, served):
    page = visit()
    page.press("#arra-prompt textarea", "Enter")
    page.wait_for_selector("#arra-said [role=alert]")
    assert "Write a prompt first" in page.inner_text("#arra-said")
    page.fill("#arra-prompt textarea", "a red bar")
    page.get_by_label("baseline").uncheck()
    page.get_by_label("aligned").uncheck()
    page.click("#arra-draw")
    page.wait_for_function("document.querySelector('#arra-said').innerText.includes('Models')")
    page.get_by_label("aligned").check()
    service = served.workshop.services["aligned"]
    service.draining = True
    try:
        page.click("#arra-draw")
        page.wait_for_function("document.querySelector('#arra-said').innerText.includes('stop')")
    finally:
        service.draining = False
    assert "Traceback" not in page.content()
    page.click("#arra-draw")
    drawn(page, 1)


def test_a_full_queue_is_said_and_who_stops_or_leaves_frees_it(visit, served, monkeypatch):
    """With the engine at rest what is asked for waits, and two wishes do not fit into the queue."""
    services = served.workshop.services.values()
    for service in services:
        monkeypatch.setattr(service.engine, "_admit", list)
    one, other = visit(), visit()
    for page in (one, other):
        page.fill("#arra-prompt textarea", "a red bar")
        page.focus("#arra-count input[type=number]")
        for _ in range(3):
            page.keyboard.press("ArrowUp")
    eight = "document.querySelectorAll('#arra-pictures figure[data-seed]').length === 8"
    one.click("#arra-draw")
    one.wait_for_function(eight)
    assert "waiting" in one.inner_text("#arra-pictures")
    other.click("#arra-draw")
    other.wait_for_function("document.querySelector('#arra-said').innerText.includes('later')")
    assert [service.stats()["waiting"] for service in services] == [4, 4]
    one.click("#arra-stop")
    one.wait_for_function("document.querySelector('#arra-said').innerText.includes('Stopped')")
    assert [service.stats()["waiting"] for service in services] == [0, 0]
    other.click("#arra-draw")
    other.wait_for_function(eight)
    assert [service.stats()["waiting"] for service in services] == [4, 4]
    other.close()  # who leaves waits no more
    until = time.monotonic() + 15
    while not served.workshop.idle and time.monotonic() < until:
        one.wait_for_timeout(50)
    assert served.workshop.idle


def test_a_phone_shows_it_without_scrolling_sideways_and_the_dark_is_dark(visit):
    page = visit(390, 844, "dark")
    page.fill("#arra-prompt textarea", PROMPT)
    page.click("#arra-draw")
    drawn(page, 2)
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1] == 390
    order = page.evaluate(
        "['ask', 'wall', 'knobs'].map(n => document.querySelector('#arra-' + n)"
        ".getBoundingClientRect().top)"
    )
    assert order == sorted(order)  # the pictures come right below the prompt

    def light(colour: str) -> float:
        return sum(map(float, colour.split("(")[1].split(")")[0].split(",")[:3])) / 765

    read = "getComputedStyle(document.querySelector('{}')).{}"
    paper = page.evaluate(read.format("gradio-app, body", "backgroundColor"))
    ink = page.evaluate(read.format("#arra-pictures b", "color"))
    assert light(paper) < 0.2 < 0.8 < light(ink)
    page.get_by_role("tab", name="Alignment").click()
    page.wait_for_selector("#arra-alignment pre")
    assert "--studio-store STORE" in page.inner_text("#arra-alignment")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_nothing_is_asked_of_anybody_else(visit, served):
    page = visit()
    page.fill("#arra-prompt textarea", "a red bar")
    page.press("#arra-prompt textarea", "Enter")
    drawn(page, 2)
    assert len(served.asked) > 5
    own = (served.url, "data:", "blob:")
    assert [url for url in served.asked if not url.startswith(own)] == []


# ---- without one ---------------------------------------------------------------------------------


VALUES: dict[str, Any] = {
    "prompt": "a red bar",
    "models": ["one"],
    "count": 1,
    "seed": 0,
    "guidance": 2.0,
    "guidance_schedule": "constant",
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "slow": True,
}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("prompt", "  ", "Write a prompt"),
        ("prompt", None, "Write a prompt"),
        ("prompt", "a" * 2001, "2000 at most"),
        ("prompt", "a\x00b", "control"),
        ("models", ["other"], "choose one"),
        ("count", 9, "Pictures"),
        ("count", 1.5, "Pictures"),
        ("seed", -1, "Seed"),
        ("seed", 2**53, "Seed"),
        ("seed", None, "Seed"),
        ("guidance", float("nan"), "Guidance"),
        ("guidance", -1.0, "guidance"),
        ("guidance_schedule", "never", "Schedule"),
        ("temperature", "1", "Temperature"),
        ("top_k", -1, "Top-k"),
        ("top_p", 0.0, "top_p"),
    ],
)
def test_fields_are_checked_on_the_server(name, value, said):
    assert wish(VALUES, StudioSettings(), ("one", "two")).models == ("one",)
    with pytest.raises(InputError, match=said):
        wish({**VALUES, name: value}, StudioSettings(), ("one", "two"))


def test_only_pictures_of_arra_have_settings(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    whole = {"prompt": "a", "seed": 1, "sampling": {"guidance": 3.0}, "model": "m"}
    file = tmp_path / "a.png"
    file.write_bytes(labelled_png(picture, whole))
    assert settings_in(file) == ("a", 1, SamplingConfig(3.0), "m")
    for wrong in (
        b"no picture",
        file.read_bytes()[:40],
        labelled_png(picture, {"prompt": "a"}),
        labelled_png(picture, {**whole, "seed": "x"}),
        labelled_png(picture, {**whole, "sampling": {"guidance": -3}}),
        labelled_png(picture, {**whole, "sampling": {"guidance_schedule": "x"}}),
        labelled_png(picture, {**whole, "sampling": [1]}),
        labelled_png(picture, {**whole, "sampling": "{"}),
    ):
        file.write_bytes(wrong)
        with pytest.raises(InputError, match="not a picture that arra drew"):
            settings_in(file)


def test_history_is_bounded_and_prompts_are_no_markup():
    history, asked = History(), Wish("<b>&\"'", ("m",), 5, 1, SAMPLING)
    shown = Shown("m<i>", 5, (8, 8), b"\x89PNG", 1.0, "note <i>", whole=True)
    for _ in range(30):
        history.add(asked, [shown])
    assert [item.number for item in history.items] == list(range(30, 6, -1))
    assert history.find(30) is not None
    assert history.find(6) is None
    history.add(asked, [replace(shown, whole=False)])  # what was stopped is not kept
    assert history.made == 30
    history.add(asked, [replace(shown, png=bytes(20 << 20))])
    history.add(asked, [replace(shown, png=bytes(20 << 20))])
    assert [item.number for item in history.items] == [32]
    small = History()
    small.add(asked, [shown])
    for html in (sheet([shown], asked.prompt), gallery(small)):
        assert "<b>&" not in html
        assert "<i>" not in html


def test_news_that_nobody_fetches_are_replaced_and_the_workshop_does_not_wait(models):
    """The page looks for the first time when all is drawn: the newest step is there, or, where
    every step is to be seen, all of them in order."""
    service = Service(models["aligned"], ServiceConfig(slots=8), "aligned")
    workshop = Workshop([service]).start()

    async def look(slow: bool) -> tuple[list[int], np.ndarray]:
        asked = Wish(PROMPT, ("aligned",), 3, 1, SAMPLING, slow)
        shown = Exhibition(asked, {"aligned": service}, "somebody")
        while shown.shows[0].drawing.state not in ENDED:  # the event loop stands still
            time.sleep(0.01)
        units = []
        async for _ in shown.steps(30.0):
            units.append(shown.shows[0].unit)
        picture = shown.shows[0].picture
        assert picture is not None
        return units, picture

    (alone,) = models["aligned"].draw([PROMPT], [3], SAMPLING)
    for slow, expected in ((False, [8, 9]), (True, [*range(1, 10)])):
        units, picture = in_a_loop(look(slow))
        assert units == expected
        assert np.array_equal(picture, alone)

    async def leave() -> None:
        shown = Exhibition(Wish(PROMPT, ("aligned",), 0, 8, SAMPLING), {"aligned": service}, "b")
        looked = shown.steps(30.0)
        await anext(looked)
        await looked.aclose()  # the visitor is gone
        assert all(show.drawing.unwanted or show.whole for show in shown.shows)

    in_a_loop(leave())
    workshop.stop(0)


def test_the_alignment_is_measured_beside_the_drawing(models, tmp_path):
    """On a real store: the pauses are waited for, another codec's model is refused, and the page
    shows what was found."""
    from arra.data.prepare import prepare
    from arra.encoders.small import SmallEncoder
    from arra.serving.studio.alignment import Measuring, alignment_page
    from store_parts import NoiseSource

    model = models["aligned"]
    services = [Service(m, ServiceConfig(slots=8), f"<{n}>") for n, m in models.items()]
    workshop = Workshop(services)
    assert "--studio-store" in alignment_page(Measuring(workshop, None))
    with pytest.raises(InputError, match="no prepared store"):
        Measuring(workshop, tmp_path)
    parts: dict[str, Any] = {"codec": model.codec, "tokenizer": word_tokenizer()}
    parts |= {"size": model.size[0], "quiet": True}
    prepare(NoiseSource(24), tmp_path / "bare", **parts)
    with pytest.raises(InputError, match="no features"):
        Measuring(workshop, tmp_path / "bare")
    prepare(NoiseSource(48), tmp_path / "store", **parts, encoder=SmallEncoder.tiny())
    measuring = Measuring(workshop, tmp_path / "store")
    assert measuring.captions
    assert "Measuring in the pauses" in alignment_page(measuring)
    measuring.start()
    until = time.monotonic() + 30
    while not measuring.finished and time.monotonic() < until:
        time.sleep(0.02)
    found = measuring.found["<aligned>"]
    assert (found.layers, found.pictures, found.tested) == ((1, 2), 48, 8)
    assert np.isfinite(found.by_place).all()
    assert "codec" in measuring.failed["<baseline>"]
    html = alignment_page(measuring)
    assert html.count("<svg viewBox") == 2 + 1 + 2 + 1  # curves, map, a grid a layer, the legend
    assert f"{found.by_layer[1]:.3f}" in html
    assert "<aligned>" not in html
    assert "nan" not in html.lower()


def test_the_limit_of_the_server_counts_here_too(models):
    """What is taken of the bucket is given back where the pictures could not wait."""
    from types import SimpleNamespace

    from arra.serving.requests import Full
    from arra.serving.studio.visits import Visits

    left = [5]

    def take(client: str, count: int) -> float:
        if left[0] < count:
            return 12.0
        left[0] -= count
        return 0.0

    def give_back(client: str, count: int) -> None:
        left[0] += count

    desk = SimpleNamespace(limit=SimpleNamespace(take=take, give_back=give_back))
    service = Service(models["aligned"], ServiceConfig(slots=8, queue=3), "aligned")
    visits = Visits(Workshop([service]), StudioSettings(), desk)

    async def ask(count: int) -> None:
        visits._exhibition(Wish(PROMPT, ("aligned",), 0, count, SAMPLING), "somebody")

    in_a_loop(ask(2))
    assert left == [3]
    with pytest.raises(Full):
        in_a_loop(ask(2))
    assert left == [3]
    with pytest.raises(InputError, match="try again in 12 s"):
        in_a_loop(ask(4))
    assert service.stats()["waiting"] == 2


def test_modules_hung_apart_share_the_weights_and_nothing_else(models):
    from arra.serving.studio.alignment import _apart

    generator = models["aligned"].generator
    apart = _apart(generator)
    ours = {id(p) for p in generator.parameters()}
    assert {id(p) for p in apart.parameters()} == ours
    assert apart.fingerprint() == generator.fingerprint()
    assert not {id(m) for m in apart.modules()} & {id(m) for m in generator.modules()}
    assert torch.is_inference_mode_enabled() is False
