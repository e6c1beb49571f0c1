"""The alignment of the picture that is being drawn: what is shown is what one pass over its codes
gives, it grows, and nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arra.data.store import PreparedStore
from arra.data.subset import Subset
from arra.encoders.small import SmallEncoder
from arra.errors import InputError
from arra.metrics.layers import alignment_by_layer, picture_alignment
from arra.serving.requests import Request
from arra.serving.service import Service, ServiceConfig, Workshop
from arra.settings import BatchConfig
from lm_kit import word_tokenizer
from serving_kit import running, slowed, wait_for

pytest.importorskip("gradio", reason="the studio needs gradio: pip install 'arra[serve]'")
fastapi = pytest.importorskip("fastapi")

from arra.serving.studio import mount_studio  # noqa: E402
from arra.serving.studio.alignment import Measuring  # noqa: E402
from arra.serving.studio.drawing import Show  # noqa: E402
from arra.serving.studio.live import Live, first_of_each, live_view  # noqa: E402
from store_parts import NoiseSource  # noqa: E402
from test_studio import PROMPT, SAMPLING, Config, browser, tiny  # noqa: E402, F401


@pytest.fixture(scope="module")
def model():
    return tiny(0)


@pytest.fixture(scope="module")
def store(model, tmp_path_factory) -> Path:
    """A store of 48 pictures, with its encoder beside it as `arra prepare` leaves it."""
    from arra.data.prepare import prepare

    folder, encoder = tmp_path_factory.mktemp("live") / "store", SmallEncoder.tiny()
    parts: dict[str, Any] = {"codec": model.codec, "tokenizer": word_tokenizer(), "quiet": True}
    prepare(NoiseSource(48), folder, **parts, size=model.size[0], encoder=encoder)
    encoder.save_pretrained(folder.with_name("store.parts") / "encoder")
    return folder


@pytest.fixture
def shop(model) -> Iterator[Workshop]:
    workshop = Workshop([Service(model, ServiceConfig(slots=8), "aligned")]).start()
    yield workshop
    workshop.stop(0)


def measured(workshop: Workshop, store: Path) -> Measuring:
    measuring = Measuring(workshop, store)
    measuring.start()
    wait_for(lambda: measuring.finished, 60)
    assert not measuring.failed
    return measuring


def shown(workshop: Workshop, live: Live | None = None, seed: int = 0) -> Show:
    """A picture that is being drawn, as the page has it."""
    service, made = workshop.services["aligned"], []

    def heard(drawing) -> None:
        if made:
            made[0].hear()

    (drawing,) = service.submit([Request(PROMPT, seed, SAMPLING, "", previews=8)], heard)
    made.append(Show(service, drawing, slow=True))
    return made[0]


def test_readers_are_the_maps_that_were_measured(model, store):
    """R² of what they read of the pictures that were held back is what was told."""
    prepared, generator = PreparedStore.open(store), model.generator
    rows = list(range(48))
    features = prepared.rows(rows).features["cls"]
    batches = list(generator.batches(Subset(prepared, rows), BatchConfig(size=1), ()).in_order(1))
    found = alignment_by_layer(generator, batches, features)
    held = range(5, 48, 6)
    for row, layer in enumerate(found.layers):
        error = total = 0.0
        for picture in held:
            hidden = generator(batches[picture], [layer]).hidden[layer]
            states = hidden[batches[picture].place >= 0].detach()
            truth = features[picture] - found.centre
            error += float((found.readers[row](states) - truth).square().sum())
            total += len(states) * float(truth.square().sum())
        assert 1 - error / total == pytest.approx(found.by_layer[row], abs=1e-4)
    one = picture_alignment(generator, batches[5], found, features[5])
    assert one.shape == found.by_place.shape
    assert np.abs(one).max() <= 1 + 1e-6
    other = picture_alignment(generator, batches[5], found, 2 * found.centre - features[5])
    np.testing.assert_allclose(one, -other, atol=1e-5)


def test_what_is_scored_so_far_is_what_the_whole_picture_says_of_it(shop, store, monkeypatch):
    """A state has seen no later code: with the same view of the picture, scores stay as they
    were."""
    live = Live(measured(shop, store))
    assert not live.off
    view = torch.linspace(-1, 1, live.feature(np.zeros((12, 12, 3), np.uint8)).numel())
    monkeypatch.setattr(live, "feature", lambda picture: view)
    with slowed(shop.services["aligned"], 0.05):
        show, early = shown(shop), []
        while not (early and early[-1].whole):
            if (scores := live.scores(show)) is not None:
                early.append(scores)
    whole = early[-1].values
    assert whole.shape == (2, 9)
    assert np.isfinite(whole).all()
    assert 0 < early[0].unit < 9
    for scores in early[:-1]:
        assert not scores.whole
        assert np.isnan(scores.values[:, scores.unit :]).all()
        np.testing.assert_allclose(
            scores.values[:, : scores.unit], whole[:, : scores.unit], atol=1e-5
        )


def test_nobody_waits_for_it(shop, store, monkeypatch):
    """Looked at by a thread that does not come back, pictures are drawn all the same, no more of
    them are kept than there is room for, and what was asked of it returns at once."""
    live, stuck = Live(measured(shop, store)), threading.Event()
    monkeypatch.setattr(live, "scores", lambda show: stuck.wait(60) and None)
    live.start()
    shows = []
    for seed in range(40):
        shows.append(shown(shop, live, seed))
        live.look([shows[-1]])
    wait_for(lambda: all(show.drawing.state == "done" for show in shows), 30)
    assert 1 < len(live._waiting) <= 16
    assert not stuck.is_set()
    stuck.set()


def test_where_nothing_can_be_scored_a_line_says_so(shop, store, tmp_path):
    none = Live(Measuring(shop, None))
    assert "--studio-store" in live_view(none, ())
    with pytest.raises(InputError, match="--studio-store"):
        Live(Measuring(shop, None), tmp_path)
    alone = tmp_path / "alone"
    alone.symlink_to(store)
    without = Live(Measuring(shop, alone))
    assert "--studio-encoder" in live_view(without, ())
    show = shown(shop)
    without.look([show])
    assert not without.due(show)
    other = tmp_path / "other"
    SmallEncoder.seeded(SmallEncoder.tiny().config, 5).save_pretrained(other)
    with pytest.raises(InputError, match="not the encoder of the store"):
        Live(Measuring(shop, store), other)
    own = store.with_name("store.parts") / "encoder"
    waiting = Live(Measuring(shop, alone), own)
    assert not waiting.off
    assert "is shown once the store" in live_view(waiting, [show])
    assert live_view(waiting, ()) == ""
    assert first_of_each([show, show]) == [show]


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light")])
def test_it_grows_on_the_page(shop, store, browser, width, scheme):  # noqa: F811
    app = mount_studio(fastapi.FastAPI(), shop, Config(studio_store=store))
    with running(app) as url, slowed(shop.services["aligned"], 0.1):
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.goto(f"{url}/")
        page.get_by_role("tab", name="Alignment").click()
        page.wait_for_selector("#arra-alignment svg")
        page.get_by_role("tab", name="Draw").click()
        page.evaluate(
            """() => {
              window.seen = [];
              new MutationObserver(() => {
                const f = document.querySelector('#arra-live figure');
                if (f) window.seen.push([+f.dataset.positions, f.dataset.whole,
                  f.querySelectorAll('rect.heat').length]);
              }).observe(document.querySelector('#arra-live'), {childList: true, subtree: true});
            }"""
        )
        page.fill("#arra-prompt textarea", PROMPT)
        page.press("#arra-prompt textarea", "Enter")
        page.wait_for_selector("#arra-live figure[data-positions='9'][data-whole=true]")
        seen = page.evaluate("window.seen")
        positions = [count for count, *_ in seen]
        assert positions == sorted(positions)
        assert len(set(positions)) >= 3
        assert "false" in {whole for _, whole, _ in seen}
        assert {squares / count for count, _, squares in seen} == {2.0}  # of two layers
        text = page.inner_text("#arra-live")
        assert "Against the whole picture" in text
        assert "best so far: layer" in text
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        context.close()
