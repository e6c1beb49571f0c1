"""The command line: help, exit codes, what is imported, and what a folder is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

import arra
import arra.commands
from arra import cli
from arra.environment import machine_class, machine_info, versions
from arra.errors import InputError, ProvenanceError, TrainingDiverged
from arra.inspection import describe

HEAVY = ("torch", "transformers", "datasets", "sklearn", "scipy", "matplotlib", "pandas")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Add the command `arra probe`, whose module has the given text, for one test."""
    monkeypatch.setattr(arra.commands, "__path__", [*arra.commands.__path__, str(tmp_path)])
    yield lambda text: (tmp_path / "probe.py").write_text(text)
    sys.modules.pop("arra.commands.probe", None)


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "work",
    [
        "import arra",
        "import arra.cli",
        "from arra.cli import run; run(['--help'])",
        "from arra.cli import run; run(['systems', '--json'])",
        "import arra.report",
    ],
)
def test_nothing_heavy_is_imported(work):
    text = f"{work}\nimport sys\nprint([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    done = _python("-c", text)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


def test_help_and_import_are_fast():
    def best(*arguments: str) -> float:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            assert _python(*arguments).returncode == 0
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    # The least of three, and room for a busy machine: 0.2 s and 0.5 s on an idle one.
    assert best("-c", "import arra") < 1.5
    assert best("-m", "arra", "--help") < 2.0


def test_help_lists_every_command_and_each_explains_itself(capsys):
    assert cli.run(["--help"]) == 0
    overview = capsys.readouterr().out
    for name in cli.command_names():
        assert f"• {name}" in overview
        assert cli.run([name, "--help"]) == 0
        assert len(capsys.readouterr().out) > 200


def test_without_arguments_help_is_shown(capsys):
    assert cli.run([]) == 0
    assert "usage: arra" in capsys.readouterr().out


def test_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"arra {arra.__version__}\n"


@pytest.mark.parametrize("arguments", [["nonsense"], ["systems", "--nonsense"], ["reproduce"]])
def test_wrong_arguments_end_with_2(arguments, capsys):
    assert cli.run(arguments) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("arra.errors.InputError('row 3: no caption')", InputError.exit_code),
        ("arra.errors.ProvenanceError('row 3: no caption')", ProvenanceError.exit_code),
        ("arra.errors.TrainingDiverged('row 3: no caption')", TrainingDiverged.exit_code),
        ("OSError(28, 'row 3: no caption')", 1),
    ],
)
def test_errors_become_a_message_and_an_exit_code(command, capsys, monkeypatch, error, code):
    monkeypatch.delenv("ARRA_DEBUG", raising=False)
    command(f"import arra.errors\ndef command() -> None:\n    '''Fail.'''\n    raise {error}\n")
    assert cli.run(["probe"]) == code
    plain = capsys.readouterr()
    assert plain.out == ""
    assert "row 3: no caption" in plain.err
    assert "Traceback" not in plain.err

    assert cli.run(["probe", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("ARRA_DEBUG", "1")
    assert cli.run(["probe"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_of_ours_is_not_hidden(command):
    command("def command() -> None:\n    '''Fail.'''\n    raise RuntimeError('a defect')\n")
    with pytest.raises(RuntimeError, match="a defect"):
        cli.run(["probe"])


def test_a_command_may_choose_its_exit_code(command):
    command("def command(n: int) -> int:\n    '''Choose.'''\n    return n\n")
    assert cli.run(["probe", "--n", "7"]) == 7
    assert cli.run(["probe", "--n", "0"]) == 0


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_interrupting_ends_with_130(tmp_path):
    text = (
        "import signal, sys, arra.commands\n"
        # who runs the tests in the background may have told all its children to ignore it
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"arra.commands.__path__.append({str(tmp_path)!r})\n"
        "from arra.cli import run\n"
        "sys.exit(run(['probe']))\n"
    )
    (tmp_path / "probe.py").write_text(
        "import time\ndef command() -> None:\n    '''Wait.'''\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "arra: interrupted"


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX pipe")
def test_a_closed_pipe_is_no_complaint():
    text = "from arra.cli import run\nimport sys\nsys.exit(run(['systems', '--json']))"
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", text],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
            env=buffered,
        )
    finally:
        os.close(writer)
    assert done.stderr == b""


def test_systems_prints_json_that_names_every_system(capsys):
    from arra.systems.base import list_systems

    assert cli.run(["systems", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["slug"] for row in rows] == [system.slug for system in list_systems()]
    for row in rows:
        keys = {"slug", "title", "arxiv", "family", "summary", "verdict", "measured"}
        assert row.keys() == keys


def test_reproduce_of_an_unknown_system_is_an_input_error(capsys, tmp_path):
    assert cli.run(["reproduce", "nope", "--out", str(tmp_path / "out")]) == InputError.exit_code
    assert "'nope'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_info_gives_versions_and_machine(capsys):
    assert cli.run(["info", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["versions"] == versions()
    assert values["machine"] == machine_info()
    assert cli.run(["info"]) == 0
    assert "torch: " in capsys.readouterr().out


def test_versions_are_those_of_the_modules():
    found = versions()
    assert found["numpy"] == np.__version__
    assert found["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]


def test_the_class_of_a_machine_names_cores_and_gpu():
    machine = machine_info()
    assert machine_class({**machine, "cores": 1, "accelerator": "none"}) == "1 core, no GPU"
    assert machine_class({**machine, "cores": 16, "accelerator": "X9"}) == "16 cores, X9"


def _saved_part(folder: Path) -> Path:
    folder.mkdir()
    config = {"kind": "codec", "name": "vq", "config": {"bits": 3}}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}
    save_file(weights, folder / "model.safetensors")
    return folder


def test_info_tells_what_a_saved_part_is(tmp_path, capsys):
    folder = _saved_part(tmp_path / "codec")
    assert cli.run(["info", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["name"], found["config"]) == ("codec", "vq", {"bits": 3})
    assert (found["parameters"], found["dtypes"]) == (17, ["F32"])
    assert found["bytes"] == sum(file.stat().st_size for file in folder.iterdir())


def test_info_tells_what_a_language_model_is(tmp_path):
    folder = _saved_part(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 9}))
    (folder / "image.json").write_text(json.dumps({"codec": "vq", "offset": 3}))
    found = describe(folder)
    assert (found["kind"], found["model_type"], found["vocab_size"]) == (
        "language model",
        "llama",
        9,
    )
    assert found["parameters"] == 17
    assert found["files"] == {"image.json": {"codec": "vq", "offset": 3}}


@pytest.mark.parametrize("form", [pa.ipc.new_file, pa.ipc.new_stream])
def test_info_counts_the_rows_of_prepared_data(tmp_path, form):
    table = pa.table({"codes": [1, 2, 3, 4, 5]})
    with form(str(tmp_path / "part.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    (tmp_path / "provenance.json").write_text('{"codec": "abc"}')
    found = describe(tmp_path)
    assert (found["kind"], found["rows"]) == ("prepared data", {"part.arrow": 5})
    assert found["files"] == {"provenance.json": {"codec": "abc"}}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 8 + b"{}",
        (2**62).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"nope",
        (8).to_bytes(8, "little") + b'{"a": 3}',
    ],
)
def test_damaged_weights_are_named(tmp_path, damage):
    folder = _saved_part(tmp_path / "codec")
    (folder / "model.safetensors").write_bytes(damage)
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        describe(folder)


def test_damaged_prepared_data_is_named(tmp_path):
    (tmp_path / "part.arrow").write_bytes(b"ARROW1\0\0 and no more")
    with pytest.raises(InputError, match=r"part\.arrow: damaged"):
        describe(tmp_path)


def test_what_arra_did_not_make_is_refused(tmp_path, capsys):
    assert cli.run(["info", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert cli.run(["info", str(tmp_path / "absent")]) == 2
    (tmp_path / "notes.txt").write_text("x")
    assert cli.run(["info", str(tmp_path / "notes.txt")]) == 2
