"""The plan of the house: which room knows which, how large a file may be, what an import costs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "arra"
FILES = sorted(SOURCE.rglob("*.py"))

# Modules that every room may use; they know no room.
SHARED = {
    "ahead",
    "allocation",
    "denoising",
    "environment",
    "errors",
    "files",
    "guidance",
    "labels",
    "pixels",
    "precision",
    "progress",
    "randomness",
    "registry",
    "resizing",
    "settings",
}
# Which rooms a room knows. What is not named here (the command line, the experiments, the report)
# stands above all rooms: it may know everything, and no room knows it.
KNOWS = {
    "orders": set(),
    "networks": {"orders"},
    "codecs": {"orders", "networks"},
    "encoders": {"networks"},
    "data": {"networks", "codecs", "encoders"},
    "adapters": {"networks"},
    "heads": {"networks"},
    "generators": {"adapters", "orders", "networks", "heads", "codecs", "data"},
    "objectives": {"generators"},
    "samplers": {"orders", "networks"},
    "metrics": {"networks", "encoders", "data", "generators"},
    "training": {"networks", "generators", "objectives"},
}
# Pictures, captions and scenes know nothing of codecs: only what prepares the store does.
STORE = {"crew", "make", "prepare", "store", "workplace"}
MAY_NAME_SYSTEMS = {"systems", "commands", "cli"}


def module_of(path: Path) -> tuple[str, ...]:
    """`("data", "make")` of data/make.py, `("data",)` of data/__init__.py."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path) -> Iterator[str]:
    """Full names of all imported modules, those inside of functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            if node.module == "arra":
                yield from (f"arra.{alias.name}" for alias in node.names)
            else:
                yield node.module


def known_to(path: Path) -> set[str]:
    """Rooms and shared modules of arra that a file imports."""
    found = {name.split(".")[1] for name in imports(path) if name.startswith("arra.")}
    return {name for name in found if (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").is_file()}


@pytest.mark.parametrize("room", [*KNOWS, "shared"])
def test_a_room_knows_only_what_stands_below_it(room):
    if room == "shared":
        mine, allowed = [SOURCE / f"{name}.py" for name in SHARED], SHARED
    else:
        mine, allowed = sorted((SOURCE / room).rglob("*.py")), SHARED | {room} | KNOWS[room]
    assert mine
    wrong = {str(p.relative_to(SOURCE)): known_to(p) - allowed for p in mine}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_every_folder_is_a_room_or_above_all_rooms():
    above = {"commands", "experiments", "jobs", "report", "serving", "systems", "templates"}
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders - above == set(KNOWS)


def test_the_arrows_have_no_circle():
    done: list[str] = []
    while len(done) < len(KNOWS):
        ready = [room for room in KNOWS if room not in done and KNOWS[room] <= set(done)]
        assert ready, f"a circle among {set(KNOWS) - set(done)}"
        done += ready


def test_only_the_store_knows_codecs_and_encoders():
    sources = [path for path in (SOURCE / "data").glob("*.py") if path.stem not in STORE]
    assert {path.stem: known_to(path) & {"codecs", "encoders"} for path in sources} == {
        path.stem: set() for path in sources
    }


def test_objectives_read_outputs_and_reach_into_no_model():
    for path in (SOURCE / "objectives").glob("*.py"):
        rooms = {name for name in imports(path) if name.startswith("arra.generators")}
        assert rooms <= {"arra.generators.base"}, path


def test_nothing_else_names_a_system():
    slugs = [path.parent.name for path in (SOURCE / "systems").glob("*/__init__.py")]
    for path in FILES:
        if module_of(path)[:1] and module_of(path)[0] in MAY_NAME_SYSTEMS:
            continue
        names = set(imports(path))
        assert not any(name.startswith("arra.systems") for name in names), path
        text = path.read_text(encoding="utf-8")
        for slug in slugs:
            # the first system has the package's own name
            assert slug == "arra" or not re.search(rf"['\"]{slug}['\"]", text), (path, slug)


def test_files_can_be_read_in_one_sitting():
    long = {p.name: n for p in FILES if (n := len(p.read_text("utf-8").splitlines())) > 500}
    assert long == {}


def test_every_imported_package_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(lines: list[str]) -> set[str]:
        return {canonical(re.split(r"[<>=!\[ ]", line)[0]) for line in lines}

    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    declared = names([*project["dependencies"], *(line for e in extras.values() for line in e)])
    providers = packages_distributions()
    wanted = {name.split(".")[0] for path in FILES for name in imports(path)}
    for name in wanted - set(sys.stdlib_module_names) - {"arra"}:
        # of an extra that is not installed here the name of the package must tell
        found = {
            canonical(distribution) for distribution in providers.get(name, [name, f"{name}-torch"])
        }
        assert found & declared, f"{name} is imported, but pyproject.toml does not declare it"
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = names([line for line in constraints if "==" in line])
    assert declared - {"arra"} <= pinned


HEAVY = ("torch", "transformers", "datasets", "pyarrow", "sklearn", "scipy", "matplotlib")
# In the order in which they are imported; each may have loaded nothing heavier than is named.
COST = [
    ("arra", ()),
    ("arra.cli", ()),
    ("arra.settings", ()),
    ("arra.report", ()),
    ("arra.systems.base", ()),
    ("arra.serving.config", ()),
    ("arra.data.pictures", ()),
    ("arra.data.scenes", ()),
    ("arra.data.tokenizer", ()),
    ("arra.orders.builders", ("torch",)),
    ("arra.codecs", ("torch",)),
    ("arra.codecs.training", ("torch",)),
    ("arra.encoders", ("torch",)),
    ("arra.metrics.reader", ("torch",)),
    ("arra.metrics.frechet", ("torch",)),
    ("arra.data.prepare", ("torch", "pyarrow")),
]


def test_imports_are_cheap_and_touch_no_randomness():
    script = f"""
import importlib, json, sys
heavy, loaded = {HEAVY!r}, []
for name in {[name for name, _ in COST]!r}:
    importlib.import_module(name)
    loaded.append([module for module in heavy if module in sys.modules])
import torch
fresh = torch.Generator().manual_seed(torch.initial_seed()).get_state()
print(json.dumps([loaded, bool(torch.equal(torch.get_rng_state(), fresh))]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    loaded, untouched = json.loads(found.stdout)
    assert untouched
    for (name, allowed), modules in zip(COST, loaded, strict=True):
        assert set(modules) <= set(allowed), f"importing {name} loads {modules}"
