"""The same load over HTTP: `arra serve` in a process of its own.

Beside it clients that vanish and clients that read slowly; at the end the server is told to stop in
the middle of requests.
"""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from arra.errors import ArraError
from arra.experiments.load.asked import Asked, Pool
from arra.experiments.load.targets import Answer
from arra.serving.requests import Full

PATH = "/v1/images/generations"
_START = 120.0
"""Seconds within which a server has to listen."""
_TIMEOUT = 60.0
_COUNTED = {
    "arra_steps_total": "steps",
    "arra_rows_total": "rows",
    "arra_wasted_rows_total": "wasted",
}
"""Counters of /metrics, and what `Target.work` calls them."""


class Gone(ArraError):
    """A server that stops did not take a request, and said so or was not there."""


@dataclass(frozen=True)
class Stop:
    """What became of requests when the server was told to stop (SIGTERM) in the middle of them."""

    right: int
    """Answered with the right picture."""
    turned_away: int
    """Told 503, or not connected to at all."""
    lost: int
    """Taken, and then answered wrongly or not at all."""
    seconds: float
    """From the signal to the end of the process."""
    code: int
    """Its exit code."""


@contextmanager
def serving(checkpoint: Path, slots: int, waiting: int) -> Iterator[tuple[str, subprocess.Popen]]:
    """`arra serve` of a checkpoint on a free port: its address and process. It ends with the block.

    Raises `ArraError` with what it said where it does not listen.
    """
    command = [sys.executable, "-m", "arra", "serve", f"model={checkpoint}", "--port", "0"]
    command += ["--device", "cpu", "--slots", str(slots), "--queue", str(waiting)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    watchdog = threading.Timer(_START, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        told: list[str] = []
        for line in process.stdout:
            told.append(line)
            if line.startswith("listening at "):
                break
        else:
            raise ArraError(f"arra serve did not start: {''.join(told).strip() or 'no word'}")
        watchdog.cancel()
        yield told[-1].split()[2], process
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.terminate()
        process.wait()


class OverHttp:
    """A server, asked by as many threads as there may be clients."""

    name = "arra serve, over HTTP"

    def __init__(self, url: str, clients: int):
        self.url = url
        self.options = "in a process of its own, POST /v1/images/generations, PNG in base64"
        self._pool = ThreadPoolExecutor(clients, "arra-load-client")

    def submit(self, asked: Asked, client: str, answer: Answer) -> None:
        """See `Target.submit`."""
        self._pool.submit(self._ask, asked, answer)

    def work(self) -> dict[str, float]:
        """See `Target.work`, from the server's metrics: what it computed for everybody."""
        return counted(self.url)

    def close(self) -> None:
        """See `Target.close`."""
        self._pool.shutdown()

    def _ask(self, asked: Asked, answer: Answer) -> None:
        try:
            picture: np.ndarray | Exception = ask(self.url, asked)
        except Exception as error:
            picture = error
        answer(picture)


def ask(url: str, asked: Asked) -> np.ndarray:
    """(H, W, 3) uint8: the picture that a server gives. `Full` for 429, `Gone` for 503 and where
    nobody listens, `ArraError` for other errors; broken connections raise `OSError` or
    `HTTPException`."""
    connection = _connected(url)
    try:
        connection.request("POST", PATH, _body(asked), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    if response.status == 200:
        (one,) = json.loads(text)["data"]
        return np.asarray(Image.open(BytesIO(base64.b64decode(one["b64_json"]))))
    kind = {429: Full, 503: Gone}.get(response.status, ArraError)
    raise kind(f"{response.status}: {text[:200]!r}")


def counted(url: str) -> dict[str, float]:
    """What a server has computed since it started, of all its models: `Target.work`, read from its
    /metrics. `ArraError` where they cannot be read."""
    connection = _connected(url)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status != 200:
        raise ArraError(f"/metrics: {response.status}")
    work = dict.fromkeys(_COUNTED.values(), 0.0)
    for line in text.splitlines():
        name = line.partition("{")[0]
        if name in _COUNTED:
            work[_COUNTED[name]] += float(line.rpartition(" ")[2])
    return work


def _connected(url: str) -> http.client.HTTPConnection:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_TIMEOUT)
    try:
        connection.connect()
    except ConnectionRefusedError as error:
        raise Gone("nobody listens") from error
    return connection


def _body(asked: Asked) -> str:
    sampling = asdict(asked.sampling)
    names = ("guidance", "guidance_schedule", "temperature", "top_k", "top_p")
    settings: dict[str, Any] = {name: sampling[name] for name in names}
    return json.dumps({"prompt": asked.caption, "seed": asked.seed, **settings})


@contextmanager
def disturbed(url: str, pool: Pool, vanishing: int, slow: int) -> Iterator[dict[str, int]]:
    """Beside the block so many clients who ask and vanish, and so many who read a byte now and
    then; how often each kind has asked."""
    counts, done = {"vanished": 0, "slow": 0}, threading.Event()
    lock = threading.Lock()

    def vanish(turn: int) -> None:
        connection = _connected(url)
        asked = pool.asked[turn % len(pool)]
        connection.request("POST", PATH, _body(asked), {"Content-Type": "application/json"})
        time.sleep(0.001 * (turn % 20))
        connection.close()

    def read_slowly(turn: int) -> None:
        where, body = urlsplit(url), _body(pool.asked[turn % len(pool)]).encode()
        with socket.create_connection((where.hostname or "", where.port or 80), _TIMEOUT) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            line.sendall(head.encode() + body)
            while not done.wait(0.01) and line.recv(64):
                pass

    def again(what: str, once: Any) -> None:
        turn = 0
        while not done.wait(0.02):
            try:
                once(turn)
            except (OSError, http.client.HTTPException, ArraError):
                continue  # what becomes of these is theirs
            turn += 1
            with lock:
                counts[what] += 1

    jobs = [("vanished", vanish)] * vanishing + [("slow", read_slowly)] * slow
    threads = [threading.Thread(target=again, args=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        done.set()
        for thread in threads:
            thread.join()


def stop_under_load(
    url: str, process: subprocess.Popen, pool: Pool, clients: int, seconds: float
) -> Stop:
    """Let clients ask again and again, and tell the server to stop after some seconds."""
    found, lock = {"right": 0, "turned_away": 0, "lost": 0}, threading.Lock()

    def client(number: int) -> None:
        turn = number
        while True:
            asked, kind = pool.asked[turn % len(pool)], "lost"
            try:
                kind = "right" if pool.right(asked, ask(url, asked)) else "lost"
            except (Gone, Full):
                kind = "turned_away"
            except Exception:
                kind = "lost"
            with lock:
                found[kind] += 1
            if kind != "right":
                return
            turn += clients

    threads = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    told = time.perf_counter()
    code = process.wait(2 * _TIMEOUT)
    ended = time.perf_counter() - told
    for thread in threads:
        thread.join()
    return Stop(**found, seconds=ended, code=code)
