"""The container file: no engine builds it here, but what it names exists and is written well."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from arra.serving.config import ServerConfig

ROOT = Path(__file__).resolve().parents[1]
KNOWN = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN"),
    *("STOPSIGNAL", "USER", "WORKDIR"),
}


def read() -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined, comments left out."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in whole.splitlines() if line.strip()]
    return [(name, argument.strip()) for name, argument in pairs]


def of(name: str) -> list[str]:
    return [argument for found, argument in read() if found == name]


def test_every_instruction_is_known_and_every_variable_is_set():
    found = read()
    assert {name for name, _ in found} <= KNOWN
    assert next(name for name, _ in found if name != "ARG") == "FROM"
    known = {"PATH"}
    for name, argument in found:
        if name == "FROM":
            known -= {"TORCH_INDEX", "EXTRA"}  # they end with their stage
        for used in re.findall(r"\$\{?(\w+)", argument):
            assert used in known or f'{used}="$(' in argument, f"{name} {argument}"
        if name == "ARG":
            known.add(argument.split("=")[0])
        if name == "ENV":
            known |= set(re.findall(r"(\w+)=", argument))
    for command in of("RUN"):
        shlex.split(command)  # quotes match


def test_the_files_that_are_copied_exist_and_are_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    for argument in of("COPY"):
        if argument.startswith("--from="):
            stages = [line.split(" AS ")[1] for line in of("FROM") if " AS " in line]
            assert argument.split()[0].removeprefix("--from=") in stages
            continue
        *sources, _ = argument.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(fnmatch(source, name) for name in let_in), source


def test_what_is_installed_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    defaults = dict(line.split("=", 1) for line in of("ARG"))
    assert defaults["EXTRA"] in project["optional-dependencies"]
    assert float(defaults["PYTHON"].split(".")[1]) >= 11
    assert project["requires-python"] == ">=3.11"
    assert "cpu" in defaults["TORCH_INDEX"]
    constraints = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==\S+$", constraints, re.MULTILINE)
    for needed in (project["readme"], *project["license-files"]):
        assert any(needed in argument.split() for argument in of("COPY"))


def test_it_runs_as_nobody_special_and_says_how_it_is():
    names = [name for name, _ in read()]
    assert of("USER") == ["arra"]
    assert "useradd" in next(a for a in of("RUN") if "useradd" in a)
    assert names.index("USER") < names.index("ENTRYPOINT")
    check = json.loads(of("HEALTHCHECK")[0].split("CMD", 1)[1])
    compile(check[2], "health", "exec")
    assert "/healthz" in check[2]
    (port,) = of("EXPOSE")
    assert f":{port}/" in check[2]
    assert int(port) == ServerConfig().port
    assert of("STOPSIGNAL") == ["SIGTERM"]  # on which the server drains
    text = (ROOT / "Containerfile").read_text().lower()
    assert not re.search(r"(token|password|secret|api_key)\s*=", text)


@pytest.mark.parametrize("kind", ["ENTRYPOINT", "comment"])
def test_the_command_has_the_options_that_are_named(kind, capsys):
    from arra.cli import run

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (argument,) = of("ENTRYPOINT")
    program, *given = json.loads(argument)
    assert program in project["scripts"]
    if kind == "comment":
        assert "--keys" in (ROOT / "Containerfile").read_text()
        given = [given[0], "--keys"]
    assert run([given[0], "--help"]) == 0
    told = capsys.readouterr().out
    for option in (word for word in given if word.startswith("--")):
        assert option in told
