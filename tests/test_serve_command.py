"""`arra serve` as a process: it starts, is told to stop under load, and loses nobody."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn

from arra import cli
from arra.errors import InputError
from arra.jobs.serving import Server, Serving
from lm_kit import CAPTIONS
from serving_kit import PATH, pixels, served, slowed, tiny_model, wait_for

SOURCE = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mine" / "model"
    tiny_model().save_pretrained(folder)
    return folder.parent


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


class Process:
    """`arra serve` on a free port."""

    def __init__(self, *arguments: object):
        command = [sys.executable, "-m", "arra", "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(
            command,
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.said = []
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(r"listening at (http://\S+)", line):
                self.url = found.group(1)
                return
        raise AssertionError(self.process.stderr.read())

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, seconds: float) -> tuple[int, list[dict], list[str]]:
        """Exit code, the lines of the log, and warnings, which are no JSON."""
        _, errors = self.process.communicate(timeout=seconds)
        lines = errors.splitlines()
        log = [json.loads(line) for line in lines if line.startswith("{")]
        return self.process.returncode, log, [line for line in lines if not line.startswith("{")]


def test_a_server_that_is_told_to_stop_under_load_answers_whom_it_took(checkpoint):
    """Sixteen clients, ten pictures a request, one picture at a time, and SIGTERM amid it."""
    answers: list[tuple[int, httpx.Response]] = []
    failed: list[Exception] = []
    told = threading.Event()
    with Process(f"tiny={checkpoint}", "--slots", 2) as server:
        assert server.said[0] == "tiny: 12x12 pixels, one running batch, native decoder\n"

        def ask(number: int) -> None:
            seed = 1000 * number
            while not told.is_set():
                body = {"prompt": CAPTIONS[number % 3], "n": 10, "seed": seed}
                try:
                    answer = httpx.post(server.url + PATH, json=body, timeout=60)
                except httpx.HTTPError as error:
                    failed.append(error)
                    return
                answers.append((seed, answer))
                seed += 10

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        wait_for(lambda: answers, 30)
        told.set()
        before = len(answers)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        late = httpx.post(server.url + PATH, json={"prompt": CAPTIONS[0]})
        ready = httpx.get(server.url + "/readyz")
        for thread in threads:
            thread.join(60)
        code, log, warnings = server.end(30)
    assert not failed
    assert not warnings
    assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
    assert ready.status_code == 503
    # a client that was about to ask when the others were told may have come too late, too
    drawn = [(seed, answer) for seed, answer in answers if answer.status_code == 200]
    turned_away = [answer for _, answer in answers if answer.status_code != 200]
    assert {answer.json()["error"]["code"] for answer in turned_away} <= {"draining"}
    assert len(answers) >= 16
    assert len(drawn) >= before + 4, "there was no load any more"
    for seed, answer in drawn:
        data = answer.json()["data"]
        assert [one["seed"] for one in data] == list(range(seed, seed + 10))
    seed, answer = drawn[-1]
    wanted = tiny_model().draw([CAPTIONS[seed // 1000 % 3]] * 10, range(seed, seed + 10))
    found = [pixels(one["b64_json"]) for one in answer.json()["data"]]
    assert np.array_equal(np.stack(found), wanted)
    assert code == 0
    lines = [line for line in log if line["event"] == "request" and line["route"] == PATH]
    statuses = sorted(line["status"] for line in lines)
    assert statuses == [200] * len(drawn) + [503] * (len(turned_away) + 1)
    assert [line["undrawn"] for line in log if line["event"] == "stopped"] == [0]
    assert "a red bar" not in json.dumps(log)


def test_whose_turn_does_not_come_in_time_is_told(checkpoint):
    options = ("--slots", 2, "--patience", 0.0, "--pictures", 200, "--host", "0.0.0.0")
    with Process(checkpoint, *options) as server:
        assert server.said[0].startswith("mine: ")
        found = {}

        def ask() -> None:
            body = {"prompt": CAPTIONS[0], "n": 200}
            found["answer"] = httpx.post(server.url + PATH, json=body, timeout=60)

        thread = threading.Thread(target=ask)
        thread.start()

        def waiting() -> bool:
            numbers = httpx.get(server.url + "/metrics").text
            return float(re.search(r"arra_waiting_pictures\S+ (\S+)", numbers).group(1)) > 50

        wait_for(waiting, 20)
        server.process.send_signal(signal.SIGINT)
        thread.join(30)
        code, log, (warning,) = server.end(30)
    assert found["answer"].status_code == 503
    assert found["answer"].json()["error"]["code"] == "draining"
    assert code == 0
    (stopped,) = [line for line in log if line["event"] == "stopped"]
    assert stopped["undrawn"] > 0
    assert warning.startswith("warning: 0.0.0.0 can be reached by other machines")


def test_a_second_signal_ends_the_patience():
    with served() as running, slowed(running.service, 0.2):
        found = {}
        ask = threading.Thread(target=lambda: found.update(one=running.post(prompt=CAPTIONS[0])))
        ask.start()
        wait_for(lambda: running.service.stats()["drawing"])
        server = Server(uvicorn.Config(running.app), running.app.state.desk, 60.0)
        assert not asyncio.run(server.on_tick(1))
        server.handle_exit(signal.SIGTERM, None)
        assert running.get("/readyz").status_code == 503
        assert not asyncio.run(server.on_tick(1))
        assert not server.should_exit
        server.handle_exit(signal.SIGTERM, None)
        assert asyncio.run(server.on_tick(1))
        assert not server.force_exit
        ask.join(10)
    assert found["one"].status_code == 503
    assert not running.workshop.alive


def test_a_client_that_is_killed_frees_its_slots():
    script = """
import json, socket, sys
body = json.dumps({"prompt": "a red bar", "n": 4, "stream": True, "partial_images": 8})
made = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
head = "POST /v1/images/generations HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\n"
made.sendall(f"{head}Content-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
while b"partial_image" not in made.recv(1 << 16):
    pass
print("watching", flush=True)
while made.recv(1 << 16):
    pass
"""
    with served() as server, slowed(server.service, 0.3):
        port = server.url.rpartition(":")[2]
        with subprocess.Popen(
            [sys.executable, "-c", script, port], stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdout.readline() == "watching\n"
            assert server.service.stats()["drawing"] == 4
            client.send_signal(signal.SIGKILL)
        wait_for(lambda: server.service.idle, 2)
        assert server.service.stats()["pictures"] == 0
        assert server.post(prompt=CAPTIONS[0]).status_code == 200


def test_names_come_from_folders_or_are_given(checkpoint, tmp_path):
    folder = tmp_path / "with=sign"
    folder.mkdir()
    named = Serving([str(checkpoint), f"other={checkpoint}", f"m={checkpoint}/model"]).named()
    assert named == {"mine": checkpoint, "other": checkpoint, "m": checkpoint / "model"}
    assert list(Serving([f"{checkpoint}/model"]).named()) == ["mine"]
    with pytest.raises(InputError, match="NAME=PATH"):
        Serving([str(folder)]).named()  # there is such a folder, so the sign belongs to its name
    for wrong, said in (([], "no checkpoint"), ([f"../x={checkpoint}"], "cannot be the name")):
        with pytest.raises(InputError, match=said):
            Serving(wrong).named()
    with pytest.raises(InputError, match="there already"):
        Serving([str(checkpoint), f"{checkpoint}/model"]).named()


def test_what_cannot_be_served_is_told_before_anything_starts(checkpoint, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, said in (
            ([tmp_path], "no checkpoint here"),
            ([checkpoint, "--port", taken.getsockname()[1]], "cannot listen there"),
            ([checkpoint, "--host", "203.0.113.7", "--port", 0], "cannot listen there"),
            ([checkpoint, "--keys", tmp_path / "none"], "cannot be read"),
            ([checkpoint, "--save", "/proc/nothing"], "cannot be written to"),
            ([checkpoint, "--timeout", "nan"], "timeout"),
        ):
            assert cli.run(["serve", *map(str, arguments)]) == 2
            assert said in capsys.readouterr().err


def test_without_the_extra_its_name_is_told(checkpoint):
    script = (
        "import sys; sys.modules['fastapi'] = None\n"
        f"from arra import cli; sys.exit(cli.run(['serve', {str(checkpoint)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), text=True, capture_output=True
    )
    assert done.returncode == 2
    assert "pip install arra[serve]" in done.stderr
