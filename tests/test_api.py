"""The HTTP interface: the official client draws with it, and no client can harm it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import socket
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from arra.errors import InputError
from arra.serving import album, answers, api
from arra.serving.config import ServerConfig, ServiceConfig
from arra.serving.logs import JsonLines
from arra.settings import SamplingConfig
from lm_kit import CAPTIONS
from serving_kit import (
    PATH,
    Served,
    events_of,
    label_of,
    pixels,
    served,
    slowed,
    tiny_model,
    wait_for,
)
from test_tour import blocks

KEY, OTHER = "a-key-of-sixteen-letters", "another-key-of-as-many"


@pytest.fixture(scope="module")
def server():
    with served(names=("tiny", "other")) as running:
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def alone(seed: int, sampling: SamplingConfig | None = None, caption: str = CAPTIONS[0]):
    return tiny_model().draw([caption], [seed], sampling)[0]


def error_of(answer: httpx.Response) -> dict:
    """The error of an answer, which has OpenAI's shape and tells nothing of our insides."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert not re.search(r"pydantic|Traceback|\.py|input_value|https?://", answer.text)
    return body["error"]


# ---- the official client -------------------------------------------------------------------------


def test_the_official_client_gets_the_pictures_of_text_to_image(client):
    sampling = SamplingConfig(3.0, "linear", temperature=0.9, top_k=6, top_p=0.95)
    extra = {name: getattr(sampling, name) for name in ("guidance", "top_k", "top_p")}
    extra |= {"guidance_schedule": "linear", "temperature": 0.9, "seed": 7}
    answer = client.images.generate(
        prompt=CAPTIONS[0],
        model="tiny",
        n=3,
        size="12x12",
        response_format="b64_json",
        quality="auto",
        user="somebody",
        extra_body=extra,
    )
    for number, picture in enumerate(answer.data):
        assert np.array_equal(pixels(picture.b64_json), alone(7 + number, sampling))
        assert picture.seed == 7 + number
        label = label_of(picture.b64_json)
        assert (label["prompt"], label["seed"]) == (CAPTIONS[0], str(7 + number))
        assert json.loads(label["sampling"]) == answer.sampling
        assert label["checkpoint"] == answer.fingerprint == tiny_model().fingerprint()
    assert (answer.size, answer.model, answer.seed) == ("12x12", "tiny", 7)
    assert answer.sampling["guidance"] == 3.0
    assert answer.usage.output_tokens == 3 * 9
    assert answer.usage.total_tokens == answer.usage.input_tokens + 3 * 9


def test_the_official_client_reads_the_models(client):
    assert [model.id for model in client.models.list()] == ["tiny", "other"]
    model = client.models.retrieve("other")
    assert (model.object, model.size, model.units) == ("model", "12x12", 9)
    assert model.fingerprint == tiny_model().fingerprint()
    with pytest.raises(openai.NotFoundError, match="there are: tiny, other"):
        client.models.retrieve("nothing")


def test_the_official_client_watches_pictures_being_drawn(server, client):
    with slowed(server.service, 0.05):
        events = list(
            client.images.generate(
                prompt=CAPTIONS[1], stream=True, partial_images=2, n=2, extra_body={"seed": 5}
            )
        )
    partial = [event for event in events if event.type == "image_generation.partial_image"]
    whole = [event for event in events if event.type == "image_generation.completed"]
    assert [(e.index, e.partial_image_index) for e in partial] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert sorted(event.seed for event in whole) == [5, 6]
    for event in whole:
        picture = alone(event.seed, caption=CAPTIONS[1])
        assert np.array_equal(pixels(event.b64_json), picture)
        assert event.usage.output_tokens == 9
        first, second = (pixels(e.b64_json) for e in partial if e.index == event.index)
        assert (first[4:] == 200).all()
        assert (second[8:] == 200).all()
        assert not (second[4:8] == 200).all()
    assert events[-1].type == "image_generation.completed"


def test_the_same_seed_gives_the_same_bytes_with_twenty_others_about(server):
    async def drawn(seeds: list[int]) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as made:

            async def one(number: int, seed: int) -> str:
                sampling = {"guidance": 1.0 + number % 3, "top_k": number % 5} if number else {}
                caption = CAPTIONS[number % 3]
                extra = {"seed": seed, **sampling}
                if number % 2:
                    stream = await made.images.generate(
                        prompt=caption, stream=True, partial_images=3, extra_body=extra
                    )
                    events = [event async for event in stream]
                    assert events[-1].type == "image_generation.completed"
                    return events[-1].b64_json
                answer = await made.images.generate(prompt=caption, extra_body=extra)
                return answer.data[0].b64_json

            return await asyncio.gather(*(one(n, seed) for n, seed in enumerate(seeds)))

    (by_itself,) = asyncio.run(drawn([11]))
    in_company = asyncio.run(drawn([11, *range(20)]))
    assert in_company[0] == by_itself
    assert np.array_equal(pixels(by_itself), alone(11))
    again = alone(3, SamplingConfig(1.0 + 4 % 3, top_k=4), CAPTIONS[4 % 3])
    assert np.array_equal(pixels(in_company[4]), again)


def test_a_seed_is_picked_and_told(server):
    first, second = (server.post(prompt=CAPTIONS[0]).json() for _ in range(2))
    assert first["seed"] != second["seed"]
    again = server.post(prompt=CAPTIONS[0], seed=first["seed"]).json()
    assert again["data"] == first["data"]


def test_the_examples_of_the_page_run(server, tmp_path, monkeypatch, capsys):
    page = Path(__file__).resolve().parents[1] / "docs" / "serving.md"
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for language, block in blocks(page.read_text("utf-8")):
        if language == "python":
            block = block.replace("http://127.0.0.1:8000", server.url)
            exec(compile(block, str(page), "exec"), names)
    names["client"].close()
    assert capsys.readouterr().out.endswith("image_generation.completed 12x12\n")
    caption, sampling = "a red 3", SamplingConfig(3.0)
    for number in range(2):
        picture = np.asarray(Image.open(f"picture-{number}.png"))
        assert np.array_equal(picture, alone(4 + number, sampling, caption))
    (body,) = re.findall(r"-d '(.*)'$", page.read_text("utf-8"), flags=re.MULTILINE)
    answer = server.post(**json.loads(body)).json()
    assert np.array_equal(pixels(answer["data"][1]["b64_json"]), alone(5, sampling, caption))


# ---- what is wrong -------------------------------------------------------------------------------

WRONG = [
    ({}, 400, "prompt", "missing"),
    ({"prompt": None}, 400, "prompt", "string"),
    ({"prompt": 3}, 400, "prompt", "string"),
    ({"prompt": ["a"]}, 400, "prompt", "string"),
    ({"prompt": ""}, 400, "prompt", "empty"),
    ({"prompt": " \n "}, 400, "prompt", "empty"),
    ({"prompt": "a\x00b"}, 400, "prompt", "control characters"),
    ({"prompt": "a\x1bb"}, 400, "prompt", "control characters"),
    ({"prompt": "a" * 2001}, 400, "prompt", "2000 at most"),
    ({"prompt": "a " * 500}, 400, "prompt", "256 at most"),
    ({"n": 0}, 400, "n", "greater than or equal to 1"),
    ({"n": 11}, 400, "n", "10 at most"),
    ({"n": "2"}, 400, "n", "integer"),
    ({"n": True}, 400, "n", "integer"),
    ({"n": 1.5}, 400, "n", "integer"),
    ({"seed": -1}, 400, "seed", "0"),
    ({"seed": 2**63}, 400, "seed", "less than"),
    ({"seed": 2**63 - 1}, 400, "seed", "less than"),
    ({"guidance": -0.1}, 400, "guidance", "0"),
    ({"guidance": "2"}, 400, "guidance", "number"),
    ({"temperature": 1e9}, 400, "temperature", "less than"),
    ({"top_k": -1}, 400, "top_k", "0"),
    ({"top_k": 2**31}, 400, "top_k", "less than"),
    ({"top_p": 0.0}, 400, "top_p", "greater than 0"),
    ({"top_p": 1.1}, 400, "top_p", "1"),
    ({"guidance_schedule": "steep"}, 400, "guidance_schedule", "cosine"),
    ({"size": "1024x1024"}, 400, "size", "12x12"),
    ({"response_format": "url"}, 400, "response_format", "b64_json"),
    ({"output_format": "webp"}, 400, "output_format", "png"),
    ({"background": "transparent"}, 400, "background", "opaque"),
    ({"partial_images": 65}, 400, "partial_images", "64"),
    ({"guidence": 2.0}, 400, "guidence", "no such parameter"),
    ({"model": "nothing"}, 404, "model", "there are: tiny, other"),
]


@pytest.mark.parametrize(("body", "status", "param", "said"), WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_request_is_told_what_is_wrong(server, body, status, param, said):
    whole = body if "prompt" in body or not body else {"prompt": CAPTIONS[0], **body}
    for stream in (False, True):
        answer = server.post(**whole, **({"stream": True} if stream and body else {}))
        error = error_of(answer)
        assert (answer.status_code, error["param"]) == (status, param)
        assert error["type"] == "invalid_request_error"
        assert said in error["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1]",
        b'"a"',
        b"null",
        b"\xff\xfe",
        b'{"prompt": "a", "guidance": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "top_p": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\\ud800"}',
        b"[" * 20000,
    ],
    ids=lambda raw: raw[:40].decode("latin-1"),
)
def test_what_is_not_json_is_refused(server, raw):
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(server.url + PATH, content=raw, headers=headers)
    assert answer.status_code == 400
    assert error_of(answer)["message"]


def test_other_types_methods_and_paths_are_refused(server):
    answer = httpx.post(server.url + PATH, content=b'{"prompt": "a"}')
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_json")
    assert server.get(PATH).status_code == 405
    assert server.get("/v1/nothing").status_code == 404
    assert error_of(server.get("/v1/nothing"))["type"] == "invalid_request_error"


def test_a_body_that_is_too_large_is_not_read_to_its_end(server):
    answer = server.post(prompt="a" * 10_000_000)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "too_large")
    sent = 0

    def chunks():
        nonlocal sent
        for _ in range(1000):
            sent += 1 << 16
            yield b" " * (1 << 16)

    try:  # in chunks no length is named beforehand
        headers = {"Content-Type": "application/json"}
        answer = httpx.post(server.url + PATH, content=chunks(), headers=headers)
        assert (answer.status_code, error_of(answer)["code"]) == (413, "too_large")
    except httpx.HTTPError:  # it closed the connection while we were sending
        pass
    assert sent < 1000 << 16
    assert server.post(prompt=CAPTIONS[0]).status_code == 200


def test_a_body_that_does_not_arrive_ends(tmp_path):
    with served(ServerConfig(body_seconds=0.3)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            slow.sendall(f'{head}Content-Length: 20\r\n\r\n{{"p'.encode())
            slow.settimeout(10)
            assert b" 408 " in slow.recv(1000)


def test_a_painter_that_fails_tells_nothing_of_itself(server, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(server.service.model, "paint", lambda *_: 1 / 0)
        answer = server.post(prompt=CAPTIONS[0])
        streamed = server.post(prompt=CAPTIONS[0], stream=True)
    assert answer.status_code == 500
    assert error_of(answer)["type"] == "server_error"
    ((name, data),) = events_of(streamed.text)
    assert name == "error"
    assert data["error"]["type"] == "server_error"
    assert "division" not in answer.text + streamed.text
    assert server.post(prompt=CAPTIONS[0]).status_code == 200


# ---- keys and limits -----------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# who may draw\n\nalice {KEY}\n{OTHER}\n")
    return path


def test_without_a_key_nothing_but_health_is_told(keys):
    with served(ServerConfig(keys=keys)) as server:
        for headers in ({}, *({"Authorization": a} for a in ("", "Bearer", "Bearer x", KEY))):
            answer = server.post(prompt=CAPTIONS[0], headers=headers)
            assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/"):
            assert server.get(path).status_code == 401
        assert "Basic" in server.get("/docs").headers["WWW-Authenticate"]
        assert server.get("/healthz").status_code == server.get("/readyz").status_code == 200
        for key in (KEY, OTHER):
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key) as made:
                assert made.images.generate(prompt=CAPTIONS[0]).data
        assert server.get("/docs", auth=("anybody", OTHER)).status_code == 200
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY + "x") as made,
            pytest.raises(openai.AuthenticationError),
        ):
            made.images.generate(prompt=CAPTIONS[0])


def test_each_key_has_a_rate_of_its_own(keys):
    config = ServerConfig(keys=keys, rate=60.0, burst=4, pictures=3)
    with served(config, ServiceConfig(slots=4, queue=2)) as server:
        alice, other = ({"Authorization": f"Bearer {key}"} for key in (KEY, OTHER))
        # what is refused for another reason costs nothing
        assert server.post(prompt=CAPTIONS[0], n=3, headers=alice).status_code == 400
        assert server.post(prompt=CAPTIONS[0], n=2, headers=alice).status_code == 200
        assert server.post(prompt=CAPTIONS[0], n=2, headers=alice).status_code == 200
        answer = server.post(prompt=CAPTIONS[0], n=2, headers=alice)
        assert (answer.status_code, error_of(answer)["type"]) == (429, "rate_limit_error")
        assert 1 <= int(answer.headers["Retry-After"]) <= 2
        assert server.post(prompt=CAPTIONS[0], n=2, headers=other).status_code == 200
        time.sleep(int(answer.headers["Retry-After"]))
        assert server.post(prompt=CAPTIONS[0], n=2, headers=alice).status_code == 200


def test_a_full_queue_says_when_to_come_again():
    config = ServerConfig(rate=1.0, burst=20, pictures=3)
    with served(config, ServiceConfig(slots=2, queue=3)) as server:
        with slowed(server.service, 0.2):

            async def fill() -> list:
                body = {"prompt": CAPTIONS[0], "n": 3}
                async with httpx.AsyncClient(base_url=server.url, timeout=60) as made:
                    return await asyncio.gather(*(made.post(PATH, json=body) for _ in range(4)))

            answers = asyncio.run(fill())
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200
        assert statuses[-1] == 429
        for answer in answers:
            if answer.status_code == 429:
                assert error_of(answer)["code"] == "queue_full"
                assert answer.headers["Retry-After"] == "1"
        # only what was drawn was taken from the bucket
        drawn = 3 * statuses.count(200)
        assert server.app.state.desk.limit.take("127.0.0.1", 20 - drawn) == 0.0
        assert server.app.state.desk.limit.take("127.0.0.1", 1) > 0.0


# ---- time ----------------------------------------------------------------------------------------


def test_who_waits_too_long_is_told_and_the_place_is_free():
    with served(ServerConfig(timeout=0.3)) as server:
        with slowed(server.service, 0.1):
            answer = server.post(prompt=CAPTIONS[0], n=2)
            assert (answer.status_code, error_of(answer)["code"]) == (504, "timeout")
            streamed = server.post(prompt=CAPTIONS[0], stream=True, partial_images=1)
            assert events_of(streamed.text)[-1][0] == "error"
            assert events_of(streamed.text)[-1][1]["error"]["code"] == "timeout"
            wait_for(lambda: server.service.idle)
        assert server.post(prompt=CAPTIONS[0]).status_code == 200


def test_a_server_that_drains_finishes_what_it_took_and_says_so():
    with served() as server, slowed(server.service, 0.1):

        async def drain_meanwhile() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as made:
                taken = [
                    asyncio.create_task(made.post(PATH, json={"prompt": CAPTIONS[0], "seed": n}))
                    for n in range(6)
                ]
                await asyncio.sleep(0.5)
                server.workshop.drain()
                late = await made.post(PATH, json={"prompt": CAPTIONS[0]})
                ready, alive = await made.get("/readyz"), await made.get("/healthz")
                return [*await asyncio.gather(*taken), late, ready, alive]

        *taken, late, ready, alive = asyncio.run(drain_meanwhile())
    for seed, answer in enumerate(taken):
        assert np.array_equal(pixels(answer.json()["data"][0]["b64_json"]), alone(seed))
    assert (late.status_code, error_of(late)["code"]) == (503, "draining")
    assert (ready.status_code, alive.status_code) == (503, 200)


def raw_request(server: Served, **body) -> socket.socket:
    """A connection on which pictures were asked for and nothing was read."""
    host, port = server.url.removeprefix("http://").split(":")
    text = json.dumps({"prompt": CAPTIONS[0], **body})
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect((host, int(port)))
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    made.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
    return made


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_frees_the_slots(server, stream):
    cancelled = 'arra_ended_pictures_total{model="tiny",state="cancelled"}'

    def count() -> float:
        found = re.search(re.escape(cancelled) + r" ([\d.]+)", server.get("/metrics").text)
        return float(found.group(1)) if found else 0.0

    before = count()
    with slowed(server.service, 0.2):
        made = raw_request(server, n=4, stream=stream, **({"partial_images": 3} if stream else {}))
        wait_for(lambda: server.service.stats()["drawing"] == 4)
        if stream:
            made.settimeout(10)
            received = b""
            while b"partial_image" not in received:
                received += made.recv(4096)
        made.close()
        wait_for(lambda: server.service.idle, 5)
    assert server.service.stats()["drawing"] == server.service.stats()["waiting"] == 0
    wait_for(lambda: count() == before + 4)
    route = f'arra_requests_total{{route="{PATH}",status="499"}}'
    assert route in server.get("/metrics").text
    assert server.post(prompt=CAPTIONS[0]).status_code == 200


def test_a_slow_reader_holds_up_nobody_and_gets_the_newest(server, monkeypatch):
    """Pictures of a megabyte, so that nothing of a stream fits into buffers on the way."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    encode = answers.labelled_png
    monkeypatch.setattr(answers, "labelled_png", lambda picture, *label: encode(noise, *label))
    before = server.service.stats()["pictures"]
    made = raw_request(server, n=2, stream=True, partial_images=8, seed=5)
    wait_for(lambda: server.service.stats()["pictures"] == before + 2)
    wait_for(lambda: server.service.idle)
    began = time.monotonic()
    assert server.post(prompt=CAPTIONS[0]).status_code == 200
    assert time.monotonic() - began < 5
    received = b""
    made.settimeout(20)
    while b"0\r\n\r\n" not in received[-10:]:
        received += made.recv(1 << 20)
    made.close()
    text = received.decode()
    assert text.count("event: image_generation.completed") == 2
    # at most the preview that was on its way, and the newest of each picture
    assert text.count("event: image_generation.partial_image") <= 3


def test_a_reader_that_never_reads_is_given_up(monkeypatch):
    monkeypatch.setattr(api, "_GRACE", 0.2)
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    encode = answers.labelled_png
    monkeypatch.setattr(answers, "labelled_png", lambda picture, *label: encode(noise, *label))
    with served(ServerConfig(timeout=2.0)) as server:
        metrics = server.app.state.desk.metrics.registry
        with raw_request(server, n=4, stream=True, partial_images=8):
            wait_for(lambda: server.service.stats()["pictures"] == 4)
            assert metrics.get_sample_value("arra_open_requests") == 1
            wait_for(lambda: metrics.get_sample_value("arra_open_requests") == 0)
            labels = {"route": PATH, "status": "499"}
            assert metrics.get_sample_value("arra_requests_total", labels) == 1


# ---- what is kept and told -----------------------------------------------------------------------


def test_every_picture_is_saved_and_a_full_disk_harms_nobody(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "album"
    with served(ServerConfig(save=folder)) as server:
        prompt = "../../a red bar"
        answer = server.post(prompt=prompt, n=2, seed=8).json()
        streamed = server.post(prompt=prompt, stream=True, seed=8)
        files = sorted(folder.rglob("*.png"))
        assert [path.parent for path in files] == [folder / "tiny"] * 2
        assert all(re.fullmatch(r"[0-9a-f]{16}-[89]\.png", path.name) for path in files)
        assert {path.read_bytes() for path in files} == {
            base64.b64decode(one["b64_json"]) for one in answer["data"]
        }
        assert events_of(streamed.text)[-1][1]["b64_json"] == answer["data"][0]["b64_json"]

        def full(path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(album, "atomic_file", full)
        with caplog.at_level(logging.ERROR, "arra.serving"):
            again = server.post(prompt=prompt, n=2, seed=20)
        assert again.status_code == 200
        assert len(again.json()["data"]) == 2
        assert caplog.text.count("No space left on device") == 2
        assert "arra_save_errors_total 2.0" in server.get("/metrics").text
    assert len(list(folder.rglob("*"))) == 3


def test_prometheus_can_read_the_numbers(server):
    before = server.service.stats()
    server.post(prompt=CAPTIONS[0], n=3)
    answer = server.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            found[sample.name, *sorted(sample.labels.values())] = sample.value
    assert found["arra_pictures_total", "tiny"] == before["pictures"] + 3
    assert found["arra_units_total", "tiny"] == before["units"] + 27
    assert found["arra_rows_total", "tiny"] > 0
    assert found["arra_wasted_rows_total", "tiny"] == 0
    assert found["arra_waiting_pictures", "tiny"] == found["arra_drawing_pictures", "tiny"] == 0
    assert found["arra_requests_total", PATH, "200"] >= 1
    assert found["arra_request_seconds_count", PATH] >= 1
    assert found["arra_picture_seconds_count", "tiny"] >= 3
    assert found["arra_open_requests",] >= 1  # this very one


@pytest.mark.parametrize("told", [False, True])
def test_the_log_has_a_line_a_request_and_prompts_only_if_asked(told, caplog):
    with (
        served(ServerConfig(log_prompts=told)) as server,
        caplog.at_level(logging.INFO, "arra.serving"),
    ):
        secret = 'a red bar\n{"event": "forged"}'
        answer = server.post(prompt=secret, seed=4)
        server.post(prompt=secret, stream=True, seed=4)
        server.post(prompt=secret, n=0)
        wait_for(lambda: len(caplog.records) >= 3)
    lines = [JsonLines().format(record) for record in caplog.records]
    assert not any("\n" in line for line in lines)
    entries = [json.loads(line) for line in lines]
    assert [entry["status"] for entry in entries] == [200, 200, 400]
    assert entries[0]["id"] == answer.headers["X-Request-Id"]
    for entry in entries[:2]:
        assert (entry["event"], entry["route"], entry["seed"]) == ("request", PATH, 4)
        assert (entry["client"], entry["model"], entry["n"]) == ("127.0.0.1", "tiny", 1)
        assert entry.get("prompt") == (secret if told else None)
    assert told or "red" not in "".join(lines)


def test_the_page_of_the_interface_needs_no_other_host(server):
    page = server.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
    assert "<script" not in page.text
    description = server.get("/openapi.json").json()
    for path in description["paths"]:
        assert path in page.text
    fields = description["components"]["schemas"]["ImageRequest"]["properties"]
    assert fields["prompt"]["maxLength"] == 2000
    for field, schema in fields.items():
        assert f"<code>{field}</code>" in page.text
        assert schema.get("description"), field
    codes = {
        code
        for path in description["paths"].values()
        for op in path.values()
        for code in op["responses"]
    }
    assert "422" not in codes
    assert server.get("/").headers["Location"] == "/docs"


def test_other_pages_may_not_call_it_unless_they_are_named(server):
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    plain = httpx.options(server.url + PATH, headers=asked)
    assert "access-control-allow-origin" not in plain.headers
    for name, value in {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}.items():
        assert server.get("/v1/models").headers[name] == value
    with served(ServerConfig(cors=("https://example.org",))) as open_one:
        answer = httpx.options(open_one.url + PATH, headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        asked["Origin"] = "https://other.example"
        answer = httpx.options(open_one.url + PATH, headers=asked)
        assert "access-control-allow-origin" not in answer.headers


def test_the_server_decides_what_requests_leave_open():
    sampling = SamplingConfig(1.0, top_k=3)
    with served(ServerConfig(sampling=sampling)) as server:
        answer = server.post(prompt=CAPTIONS[0], seed=1).json()
        assert np.array_equal(pixels(answer["data"][0]["b64_json"]), alone(1, sampling))
        assert answer["sampling"]["top_k"] == 3
        answer = server.post(prompt=CAPTIONS[0], seed=1, top_k=0, guidance=2.0).json()
        assert np.array_equal(pixels(answer["data"][0]["b64_json"]), alone(1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"rate": float("nan")},
        {"rate": 1.0, "burst": 5},
        {"pictures": 0},
        {"timeout": float("nan")},
        {"patience": -1.0},
        {"cors": ("example.org",)},
    ],
    ids=str,
)
def test_a_wrong_configuration_names_the_field(wrong):
    with pytest.raises(InputError, match="ServerConfig"):
        ServerConfig(**wrong)
