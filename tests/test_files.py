"""Files and folders that are whole or not there, whenever the writer dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arra import files
from arra.errors import InputError
from arra.files import atomic_file, atomic_folder, read_json, sha256_of_json, write_json


def fill(folder: Path, text: str) -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text(text)
        (temporary / "b").write_text(text)


def state(folder: Path) -> tuple[str, str]:
    return (folder / "a").read_text(), (folder / "b").read_text()


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    return request.param


def test_a_folder_is_replaced_whole_and_nothing_stays_beside_it(tmp_path, way):
    fill(tmp_path / "x", "old")
    fill(tmp_path / "x", "new")
    assert state(tmp_path / "x") == ("new", "new")
    with suppress(RuntimeError), atomic_folder(tmp_path / "x") as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert state(tmp_path / "x") == ("new", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges names")
def test_there_is_no_instant_without_the_folder(tmp_path):
    """A reader that looks all the time always finds the folder, with one content or the other."""
    folder = tmp_path / "x"
    fill(folder, "0")
    stop, missing, looks = threading.Event(), [], 0

    def look() -> None:
        nonlocal looks
        while not stop.is_set():
            looks += 1
            if not folder.is_dir():
                missing.append(looks)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(30):
        fill(folder, str(number))
    stop.set()
    reader.join()
    assert looks > 100
    assert missing == []


def die_at_rename(moment: int) -> None:
    """From now on the process dies before or after a rename: at the `moment`-th of these."""
    passed = 0

    def dying(rename: Callable) -> Callable:
        def tick() -> None:
            nonlocal passed
            if passed == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1

        def wrapped(*paths: Path) -> object:
            tick()
            done = rename(*paths)
            tick()
            return done

        return wrapped

    os.replace, files._exchange = dying(os.replace), dying(files._exchange)


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_kill_at_any_rename_leaves_one_of_the_two(tmp_path, way):
    """SIGKILL before and after every rename of a replacement; the next writer or reader mends."""
    moment, survived = 0, False
    while not survived:
        folder = tmp_path / f"{moment}" / "x"
        fill(folder, "old")
        child = os.fork()
        if child == 0:
            try:
                die_at_rename(moment)
                fill(folder, "new")
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        survived = not os.WIFSIGNALED(status)
        files.restore_folder(folder)
        assert state(folder) in (("old", "old"), ("new", "new"))
        assert list(folder.parent.glob(".*.old")) == []
        fill(folder, "newest")
        assert state(folder) == ("newest", "newest")
        moment += 1
    assert moment >= (3 if way == "exchange" else 7)


def test_a_file_is_replaced_whole(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with suppress(RuntimeError), atomic_file(tmp_path / "x.json") as temporary:
        temporary.write_text("{")
        raise RuntimeError
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_json_from_outside_is_checked(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match="no such file"):
        read_json(path)
    for content in (b"{", b"\xff\xfe", b"[1, 2"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not valid JSON"):
            read_json(path)
    path.write_text("[" + "1," * 99 + "1]")
    with pytest.raises(InputError, match="more than the 50 allowed"):
        read_json(path, max_bytes=50)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())))
def test_equal_settings_have_equal_digests_in_any_order(values):
    turned = dict(reversed(list(values.items())))
    assert sha256_of_json(values) == sha256_of_json(turned)
    assert sha256_of_json({**values, "one more": 1}) != sha256_of_json({**values, "one more": 2})
