"""A checkpoint that draws for many: the pictures of `TextToImage.draw`, whoever else asks."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.vq import VQCodec, VQConfig
from arra.errors import InputError
from arra.serving.requests import ENDED, Drawing, Full, Request
from arra.serving.service import Draining, Service, ServiceConfig, Workshop
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage
from lm_kit import CAPTIONS, PADDED, SHAPE
from test_decoding import generator_of

GUIDED, PLAIN = SamplingConfig(2.0, top_k=6), SamplingConfig(1.0)
WAYS = {"auto": "native", "plain": "batches"}


@pytest.fixture(scope="module")
def model() -> TextToImage:
    generator = generator_of(LlamaConfig(**{**SHAPE, "vocab_size": PADDED}))
    codec = VQCodec.seeded(VQConfig(AutoencoderConfig(width=8), vocabulary=16), 0).eval()
    generator.config = replace(generator.config, codec=codec.fingerprint())
    return TextToImage(generator, codec)


@pytest.fixture(params=WAYS)
def shop(request, model):
    service = Service(model, ServiceConfig(slots=6, queue=40, decoder=request.param))
    assert WAYS[request.param] in service.way
    workshop = Workshop([service]).start()
    yield workshop
    workshop.stop(0)


def wanted(count: int) -> list[Request]:
    return [
        Request([*CAPTIONS, None][n % 4], 11 * n, (GUIDED, PLAIN)[n % 2], str(n % 3))
        for n in range(count)
    ]


def test_many_threads_get_the_pictures_that_each_would_get_alone(shop, model):
    service, requests = shop.services["arra"], wanted(16)
    found: dict[int, np.ndarray] = {}

    def ask(number: int) -> None:
        found[number] = service.draw(requests[number], timeout=60)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, r in enumerate(requests):
        (alone,) = model.draw([r.caption], [r.seed], r.sampling)
        assert np.array_equal(found[number], alone), number
    stats = service.stats()
    assert stats["pictures"] == 16
    assert stats["drawing"] == stats["waiting"] == stats["wasted"] == 0
    assert service.idle


def test_a_picture_is_shown_while_it_is_drawn(model, monkeypatch):
    service = Service(model, ServiceConfig(slots=4))
    workshop, ended = Workshop([service]).start(), threading.Event()
    shown: list[tuple[int, np.ndarray]] = []

    def listener(drawing: Drawing) -> None:
        if drawing.preview is not None and (not shown or shown[-1][0] < drawing.preview[0]):
            shown.append(drawing.preview)
        if drawing.state in ENDED:
            ended.set()

    painted: list[int] = []
    paint = service.model.paint
    monkeypatch.setattr(service.model, "paint", lambda c: painted.append(len(c)) or paint(c))
    (drawing,) = service.submit([Request(CAPTIONS[0], 3, GUIDED, previews=2)], listener)
    assert ended.wait(30)
    workshop.stop()
    assert sum(painted) == 3  # each of them once, and the picture
    assert [unit for unit, _ in shown] == [3, 6]
    (final,) = model.draw([CAPTIONS[0]], [3], GUIDED)
    assert np.array_equal(drawing.picture, final)
    side = final.shape[0] // 3
    assert (shown[0][1][side:] == 200).all()
    assert not (shown[0][1][:side] == 200).all()
    assert (shown[1][1][2 * side :] == 200).all()


def test_a_service_that_drains_draws_what_it_took_and_no_more(shop, model):
    service = shop.services["arra"]
    drawings = service.submit(wanted(12))
    assert shop.ready
    shop.drain()
    assert not shop.ready
    with pytest.raises(Draining):
        service.submit(wanted(1))
    assert shop.stop(60)
    assert {d.state for d in drawings} == {"done"}
    (alone,) = model.draw([CAPTIONS[0]], [0], GUIDED)
    assert np.array_equal(drawings[0].picture, alone)


def test_a_service_that_stops_at_once_says_so_to_those_who_wait(model):
    service = Service(model, ServiceConfig(slots=2, queue=200))
    drawings = service.submit(wanted(100))
    workshop = Workshop([service]).start()
    assert not workshop.stop(0)
    assert {d.state for d in drawings} <= {"done", "failed"}
    lost = [d for d in drawings if d.state == "failed"]
    assert lost
    assert all(isinstance(d.error, Draining) for d in lost)


def test_who_cancels_frees_the_place(shop):
    service = shop.services["arra"]
    drawings = service.submit(wanted(20))
    for drawing in drawings[::2]:
        service.cancel(drawing)
    until = time.monotonic() + 30
    while not all(d.state in ENDED for d in drawings) and time.monotonic() < until:
        time.sleep(0.01)
    assert {d.state for d in drawings[1::2]} == {"done"}
    assert "cancelled" in {d.state for d in drawings[::2]}


def test_a_painter_that_fails_harms_nobody_else(shop, monkeypatch):
    service = shop.services["arra"]
    with monkeypatch.context() as patched:
        patched.setattr(service.model, "paint", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            service.draw(wanted(1)[0], timeout=30)
    assert service.draw(wanted(1)[0], timeout=30).shape[-1] == 3


def test_what_cannot_be_drawn_is_refused(model):
    service = Service(model, ServiceConfig(slots=2, queue=3, prompt_tokens=6))
    for request, said in (
        (Request(""), "prompt"),
        (Request("a\x00b"), "prompt"),
        (Request("a " * 9), "tokens, expected 6"),
        (Request("a red bar", -1), "seed"),
        (Request("a red bar", 2**63), "seed"),
    ):
        with pytest.raises(InputError, match=said):
            service.submit([request])
    with pytest.raises(Full):
        service.submit([Request(None, n) for n in range(4)])
    assert service.stats()["waiting"] == 0
    with pytest.raises(InputError, match=r"ServiceConfig\.slots"):
        ServiceConfig(slots=1)
    with pytest.raises(InputError, match="same name"):
        Workshop([service, service])


def test_two_checkpoints_share_a_thread(model):
    one, other = (Service(model, ServiceConfig(slots=4), name) for name in ("one", "other"))
    workshop = Workshop([one, other]).start()
    drawings = [*one.submit(wanted(6)), *other.submit(wanted(6))]
    assert workshop.stop(60)
    assert {d.state for d in drawings} == {"done"}
    for a, b in zip(drawings[:6], drawings[6:], strict=True):
        assert np.array_equal(a.picture, b.picture)


def test_the_thread_that_draws_computes_with_as_many_threads_as_it_is_told(model):
    found: list[int] = []
    before = torch.get_num_threads()
    service = Service(model, ServiceConfig(slots=4))
    workshop = Workshop([service], threads=3).start()
    service.submit([Request(None, 1, PLAIN)], lambda _: found.append(torch.get_num_threads()))
    assert workshop.stop(60)
    torch.set_num_threads(before)
    assert set(found) == {3}
