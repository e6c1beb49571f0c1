"""What is left in a server when clients have gone: nothing that grows with how many there were."""

from __future__ import annotations

import gc
import json
import socket
from collections import Counter
from urllib.parse import urlsplit

import httpx
import pytest

from arra.serving.answers import Commission
from arra.serving.config import ServerConfig
from arra.serving.requests import Drawing
from arra.serving.streams import Watch
from serving_kit import PATH, served, slowed, wait_for

KINDS = (Commission, Drawing, Watch)


@pytest.fixture(scope="module")
def server():
    with served(ServerConfig(rate=1e6, burst=1000)) as running:
        yield running


def alive() -> Counter[str]:
    """What was made for requests and is still there."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in KINDS)


def ask_and(server, then, stream: bool = False) -> None:
    """Ask for two pictures, and let `then` do with the connection what it likes before it is
    closed."""
    where = urlsplit(server.url)
    body = {"prompt": "a red bar", "n": 2, "seed": 1, "stream": stream}
    text = json.dumps(body | ({"partial_images": 3} if stream else {})).encode()
    with socket.create_connection((where.hostname, where.port), 20) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        then(line)


def settled(server) -> bool:
    """Whether nobody is being answered and nothing is being drawn."""
    metrics = server.app.state.desk.metrics
    return server.workshop.idle and not metrics.answering


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_who_vanishes_or_reads_slowly_leaves_nothing_behind(server, stream):
    assert server.post(prompt="a red bar").status_code == 200
    wait_for(lambda: settled(server))
    engine = server.service.engine
    with slowed(server.service, 0.002):  # so that there is something to leave
        for turn in range(40):
            then = (lambda line: None) if turn % 2 else (lambda line: line.recv(64))
            ask_and(server, then, stream)

    def left() -> list[str]:
        return [
            name
            for name, there in {
                "answers or pictures": not settled(server),
                "objects": bool(alive()),
                "clients in the queue": bool(engine.queue._lines),
                "noise": bool(engine._noise),
                "slots": engine.table.free != 16,
                "pictures to paint": bool(server.service._to_paint),
            }.items()
            if there
        ]

    # All in one condition: whoever vanished at once may be read by the server only after it has
    # been found idle, and is then still being drawn.
    wait_for(lambda: not left(), 20)


def test_numbers_for_prometheus_do_not_grow_with_what_is_asked(server):
    """Nor does the table of rates, whose clients are addresses here: one of them."""

    def probe(number: int) -> None:
        for path in (f"/v1/models/{number}", f"/{number}/x", f"/studio/{number}", f"/?q={number}"):
            httpx.get(server.url + path)
        httpx.request(f"METHOD{number}", server.url + PATH)
        server.post(prompt=f"a red bar {number}", model=f"m{number}")
        server.post(prompt="a red bar", user=f"somebody {number}", seed=number)

    def lines() -> list[str]:
        page = server.get("/metrics").text
        return sorted(line.rpartition(" ")[0] for line in page.splitlines() if line[0] != "#")

    probe(0)
    lines()  # being asked for them is counted, too
    before = lines()
    for number in range(1, 20):
        probe(number)
    assert lines() == before
    assert list(server.app.state.desk.limit._buckets) == ["127.0.0.1"]
