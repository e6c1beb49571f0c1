"""Replicas behind Ray Serve: whatever dies, everybody is answered. Skipped without Ray Serve."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import replica_kit
from arra.errors import InputError
from arra.serving.config import ReplicaConfig
from arra.serving.front import FRONT, TRIES, Front
from arra.serving.replicas import _Cluster, _free_port, deploy
from lm_kit import CAPTIONS
from serving_kit import PATH, tiny_model

# ---- the front -----------------------------------------------------------------------------------


def asked(app, body=b"{}", parts=1):
    """What a client gets that sends `body` to `app` behind a front."""
    sent, left = [], [body[i::parts] for i in range(parts)]

    async def receive():
        if not left:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/", "headers": []}
    asyncio.run(Front(app)(scope, receive, send))
    return sent


async def read(receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    return body


def answer(status: int, kind: bytes, body: bytes, whole: bool = True):
    async def app(scope, receive, send):
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": not whole})

    return app


def test_a_request_whose_replica_dies_is_asked_again_from_its_beginning():
    bodies = []

    async def dying(scope, receive, send):
        bodies.append(await read(receive))
        if len(bodies) == TRIES:
            await answer(200, b"application/json", b"[]")(scope, receive, send)

    start, end = asked(dying, b"a long request", parts=3)
    assert bodies == [b"".join(b"a long request"[i::3] for i in range(3))] * TRIES
    assert (start["status"], end["body"]) == (200, b"[]")


@pytest.mark.parametrize("raises", [True, False])
def test_who_is_never_answered_is_told_so(raises):
    tries = []

    async def dead(scope, receive, send):
        tries.append(await read(receive))
        if raises:
            raise RuntimeError("lost")

    start, end = asked(dead)
    assert len(tries) == TRIES
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"] == b"1"
    error = json.loads(end["body"])["error"]
    assert error["code"] == "unavailable"
    assert "sent again" in error["message"]


def test_what_is_too_large_to_keep_is_not_asked_again():
    tries = []

    async def dead(scope, receive, send):
        tries.append(len(await read(receive)))

    start, _ = asked(dead, b"x" * (2 << 20), parts=4)
    assert tries == [2 << 20]
    assert start["status"] == 503


@pytest.mark.parametrize(("theirs", "ours"), [(404, 503), (429, 429), (408, 504), (503, 503)])
def test_errors_of_rays_own_get_the_shape_of_all_others(theirs, ours):
    start, end = asked(answer(theirs, b"text/plain", b"Path '/' not found."))
    assert start["status"] == ours
    assert set(json.loads(end["body"])["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("status", [200, 400, 500])
def test_answers_of_the_application_stay_as_they_are(status):
    start, end = asked(answer(status, b"application/json", b"{}"))
    assert (start["status"], end["body"]) == (status, b"{}")
    start, end = asked(answer(200, b"text/plain", b"numbers"))
    assert end["body"] == b"numbers"


def test_a_stream_that_breaks_off_says_so():
    sent = asked(answer(200, b"text/event-stream; charset=utf-8", b"event: x\n\n", whole=False))
    assert sent[-1]["body"].startswith(b"event: error\ndata: {")
    assert not sent[-1].get("more_body")
    whole = asked(answer(200, b"text/event-stream", b"event: x\n\n"))
    assert len(whole) == 2


def test_settings_that_make_no_sense_are_refused():
    for given in ({"replicas": 0}, {"replica_cpus": 0.0}, {"replica_cpus": float("nan")}):
        with pytest.raises(InputError, match=next(iter(given))):
            ReplicaConfig(**given)
    free = _free_port("127.0.0.1", 0)
    assert _free_port("127.0.0.1", free) == free
    import socket

    with socket.create_server(("127.0.0.1", free)), pytest.raises(InputError, match="--port"):
        _free_port("127.0.0.1", free)


# ---- a cluster -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port():
    """Two replicas on a small cluster of this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'arra[replicas]'")
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed: 'arra[replicas]'")
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        paths = os.pathsep.join([str(here), str(here.parent / "src")])
        patch.setenv("PYTHONPATH", paths)
        patch.setenv("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", FRONT)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # processes start in turn here: they keep what they compile, and are as urgent as the test
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(
            num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False
        )
        free = _free_port("127.0.0.1", 0)
        with _Cluster("127.0.0.1", free):
            deploy(replica_kit.build, ReplicaConfig(2, 0.5), most=72, patience=5.0)
            yield free
    ray.shutdown()


def request(port: int, method: str, path: str, body: dict | None = None) -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        got = connection.getresponse()
        return got.status, dict(got.getheaders()), got.read()
    finally:
        connection.close()


def draw(port: int, caption: str, seed: int) -> tuple[int, dict, bytes]:
    return request(port, "POST", PATH, {"prompt": caption, "seed": seed})


def picture(body: bytes) -> np.ndarray:
    (one,) = json.loads(body)["data"]
    return np.asarray(Image.open(BytesIO(base64.b64decode(one["b64_json"]))))


def pids(port: int, seconds: float, wanted: int = 2) -> set[str]:
    """The replicas that answer, until there are as many as `wanted`."""
    found, until = set(), time.monotonic() + seconds
    while len(found) < wanted and time.monotonic() < until:
        status, _, body = request(port, "GET", "/pid")
        if status == 200:
            found.add(body.decode())
    return found


def test_a_replica_killed_under_load_loses_nobody_and_comes_back(port):
    before = pids(port, 20)
    assert len(before) == 2
    whole = [(CAPTIONS[n % 3], n) for n in range(24)]
    expected = tiny_model().draw([c for c, _ in whole], [s for _, s in whole], replica_kit.SAMPLING)
    until, answers, killed = time.monotonic() + 6, [], threading.Event()
    lock = threading.Lock()

    def client(number: int) -> None:
        turn = number
        while time.monotonic() < until:
            caption, seed = whole[turn % 24]
            late = killed.is_set()
            got = draw(port, caption, seed)
            with lock:
                answers.append((turn % 24, late, *got))
            turn += 7

    threads = [threading.Thread(target=client, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    os.kill(int(min(before)), 9)
    killed.set()
    for thread in threads:
        thread.join()

    refused = 0
    for number, _, status, headers, body in answers:
        if status == 200:
            assert np.array_equal(picture(body), expected[number])
        else:  # answered, and clearly
            refused += 1
            assert status == 503
            assert json.loads(body)["error"]["message"]
            assert headers["retry-after"] == "1"
    assert sum(late for _, late, *_ in answers) > 10  # there was somebody to lose
    assert refused <= len(threads) * 2
    after = pids(port, 100)
    assert len(after) == 2
    assert min(before) not in after


def test_a_replica_whose_thread_has_ended_is_replaced(port):
    before = pids(port, 30)
    assert request(port, "POST", "/stop", {})[0] == 200
    until = time.monotonic() + 100
    while not (now := pids(port, 5)) - before and time.monotonic() < until:
        time.sleep(0.2)
    assert now - before
    status, _, body = draw(port, CAPTIONS[0], 1)
    assert status == 200
    (expected,) = tiny_model().draw([CAPTIONS[0]], [1], replica_kit.SAMPLING)
    assert np.array_equal(picture(body), expected)
