"""Stores made by Ray actors: the same bytes, whatever dies on the way. Skipped without Ray."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from arra.data import cluster
from arra.data.prepare import prepare
from arra.data.tokenizer import train_text_tokenizer
from arra.errors import ArraError, InputError
from store_parts import NoiseSource, PatchCodec, PatchEncoder, contents

ray = pytest.importorskip(
    "ray", reason="Ray is not installed: pip install 'arra[distributed-data]'"
)


@pytest.fixture(scope="module", autouse=True)
def _local_ray():
    """One small cluster of this machine for all tests: starting it takes seconds."""
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        # what actors import: the modules of these tests, and arra, installed or not
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent / "src")]))
        ray.init(
            num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False
        )
    yield
    ray.shutdown()


def make(source, folder, **options):
    settings = {
        "codec": PatchCodec(PatchCodec.Config()),
        "tokenizer": train_text_tokenizer(["a picture of noise number 1 2 3"], 64),
        "encoder": PatchEncoder(PatchEncoder.Config()),
        "size": 8,
        "shard_rows": 32,
        "batch": 8,
        "quiet": True,
    }
    return prepare(source, folder, **{**settings, **options})


def test_an_actor_killed_in_the_middle_loses_and_doubles_nothing(tmp_path):
    bad = (3, 50)
    make(NoiseSource(150, bad), tmp_path / "alone")
    marker = tmp_path / "marker"
    source = NoiseSource(150, bad, killer=70, marker=str(marker))
    make(source, tmp_path / "ray", engine="ray", workers=1)
    assert marker.exists()  # so it did die, by SIGKILL, in the middle of a shard
    assert contents(tmp_path / "ray") == contents(tmp_path / "alone")


def test_a_shard_that_kills_is_given_up_and_what_is_finished_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "TRIES", 1)
    folder = tmp_path / "deadly"
    with pytest.raises(ArraError, match=r"actors died 1 times over rows 32 to 63 .*are kept"):
        make(NoiseSource(64, killer=40), folder, engine="ray", workers=1)
    make(NoiseSource(64), folder)
    make(NoiseSource(64), tmp_path / "alone")
    assert contents(folder) == contents(tmp_path / "alone")


def test_an_actor_tells_its_error_by_name():
    def fail(number):
        raise InputError(f"shard {number}: no")

    row = cluster._Actor(SimpleNamespace(noted=fail), 1)({"shard": 3})
    assert row == {"shard": 3, "error": "InputError", "outcome": "shard 3: no"}
