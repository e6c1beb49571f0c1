"""Every registry is filled, every entry is covered: by the contract here, which holds for all parts
alike, and by that of its room, which runs over the same registry. Adding a part adds its tests."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from arra import registry
from arra.codecs.latent import PixelCodec
from arra.codecs.streamed import StreamCodec
from arra.networks.part import Part
from arra.objectives.base import Objective
from arra.registry import Registry

for room in ("codecs", "encoders", "generators", "metrics.reader", "objectives", "samplers"):
    importlib.import_module(f"arra.{room}")  # registers

HERE = Path(__file__).parent
# Registry -> the test module whose contract runs over all its entries.
ROOMS = {
    "codecs": "test_codecs.py",
    "encoders": "test_encoders.py",
    "generators": "test_generators.py",
    "objectives": "test_alignment.py",
    "samplers": "test_samplers.py",
}
REGISTRIES = {name: r for name, r in vars(registry).items() if isinstance(r, Registry)}


def missing(part: type[Part]) -> list[str]:
    """Modules of an extra that `part` needs and that are not installed here."""
    return [module for module in part.needs if importlib.util.find_spec(module) is None]


PARTS = [
    pytest.param(
        cls,
        id=f"{name}-{entry}",
        marks=pytest.mark.skipif(bool(missing(cls)), reason=f"needs {', '.join(missing(cls))}"),
    )
    for name, entries in REGISTRIES.items()
    for entry in entries
    if issubclass(cls := entries[entry], Part)
]


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_registry_is_filled_by_importing_its_room(name):
    assert len(REGISTRIES[name]) > 0
    for entry in REGISTRIES[name]:
        assert REGISTRIES[name][entry].registered_name == entry


@pytest.mark.parametrize("name", ROOMS)
def test_the_contract_of_a_room_runs_over_its_registry(name):
    """The test module lists the registry itself, and so has every entry that will be added."""
    tree = ast.parse((HERE / ROOMS[name]).read_text(encoding="utf-8"))
    calls = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert f"list({name})" in calls


def test_every_registry_has_a_contract():
    parts = {cls.values[0].registry.kind for cls in PARTS}
    covered = {REGISTRIES[name].kind for name in ROOMS} | parts
    assert covered == {entries.kind for entries in REGISTRIES.values()}


@pytest.mark.parametrize("cls", PARTS)
def test_a_tiny_part_is_the_same_each_time_and_uses_nobodys_randomness(cls):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = cls.tiny()
    now = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(states[0], now[0])
    assert states[1:] == now[1:]
    torch.manual_seed(2)
    assert cls.tiny().fingerprint() == first.fingerprint()


@pytest.mark.parametrize("cls", PARTS)
def test_a_seed_is_all_that_decides_initial_weights(cls):
    part = cls.tiny()
    one, two, other = (cls.seeded(part.config, seed).fingerprint() for seed in (3, 3, 4))
    assert one == two
    referred = "fingerprint" in cls.Config.__dataclass_fields__  # weights come from elsewhere
    weightless = issubclass(cls, StreamCodec | PixelCodec)  # file formats and pixels have none
    assert (one == other) == (referred or weightless)


@pytest.mark.parametrize("cls", PARTS)
def test_a_loaded_part_is_the_saved_one_in_evaluation_mode(cls, tmp_path):
    part = cls.tiny()
    part.save_pretrained(tmp_path / "part")
    part.save_pretrained(tmp_path / "part")  # over itself
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = cls.from_pretrained(tmp_path / "part")
    assert torch.equal(torch.get_rng_state(), state)
    assert type(again) is cls
    assert again.fingerprint() == part.fingerprint()
    assert not any(module.training for module in again.modules())
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
    suffixes = {path.suffix for path in (tmp_path / "part").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".jinja", ".txt"}, "nothing is pickled"


@pytest.mark.parametrize("name", list(registry.objectives))
def test_objectives_tell_what_they_are(name):
    """Settings are JSON and differ when the weight does: a resumed run notices."""
    objective = registry.objectives[name].tiny(width=8, features=4)
    assert isinstance(objective, Objective)
    assert json.loads(json.dumps(objective.settings())) == objective.settings()
    assert objective.settings()["weight"] == objective.weight(0)
