"""Several processes, sharded or not, do what one does."""

from __future__ import annotations

import multiprocessing
import socket
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import distributed_kit as kit
from arra.errors import InputError
from arra.training import checkpoint
from arra.training.history import read_log
from arra.training.stored import Stored

ONE = replace(kit.CONFIG, accumulation=kit.PARTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two processes, and the same runs of one."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        kit.run(folder / "one-two", replace(ONE, steps=2))
        _two_processes(folder)
        kit.run(folder / "two-one", ONE)
        kit.run(folder / "one", ONE, validators=[kit.weigh])
        kit.run(folder / "one-muon", replace(kit.MUON, accumulation=kit.PARTS), tied=False)
        kit.run(folder / "one-lora", replace(kit.LORA, accumulation=kit.PARTS), adapter="lora")
    return folder


def _two_processes(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distributed_kit", "torch._dynamo"])
    processes = [context.Process(target=kit.work, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def weights(folder):
    (file,) = (folder / "model").glob("*.safetensors")
    return load_file(file)


def assert_close(a, b, tolerance=1e-5):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], atol=tolerance, rtol=tolerance), name


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("one", "ddp"),
        ("one", "fsdp"),
        ("one", "one-two"),
        ("one", "two-one"),
        ("one-muon", "muon"),
        ("one-lora", "lora"),
    ],
)
def test_two_processes_equal_one_dropout_included(folder, one, two):
    assert_close(weights(folder / one), weights(folder / two))
    logs = [read_log(folder / name / "log.jsonl") for name in (one, two)]
    steps = [[entry for entry in log if "loss" in entry] for log in logs]
    assert len(steps[0]) == len(steps[1]) > 1
    for a, b in zip(*steps, strict=True):
        for name in ("loss", "cross_entropy", "alignment", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), (name, a["step"])


def test_validators_see_the_whole_average(folder):
    found = [
        [
            entry["validation"]
            for entry in read_log(folder / name / "log.jsonl")
            if "validation" in entry
        ]
        for name in ("one", "ddp", "fsdp")
    ]
    assert len(found[0]) == 1
    for other in found[1:]:
        assert other[0]["training"] == 0
        assert other[0]["logit"] == pytest.approx(found[0][0]["logit"], rel=1e-4)


def test_every_process_writes_its_rows_and_they_make_the_whole(folder):
    sharded, whole = (checkpoint.latest(folder / name / "checkpoints") for name in ("fsdp", "one"))
    kinds = ("ema", "generator", "objectives", "optimizer")
    names = sorted(file.name for file in sharded.iterdir())
    parts = [f"{kind}-0000{rank}-of-00002.safetensors" for kind in kinds for rank in (1, 2)]
    assert names == sorted([*parts, "state.json"])
    first, second = (load_file(sharded / name) for name in parts[2:4])
    table = "lm.model.embed_tokens.weight"
    rows = len(load_file(whole / "generator.safetensors")[table])
    assert rows % 2 == 1
    assert (len(first[table]), len(second[table])) == (rows // 2 + 1, rows // 2)
    for kind in kinds:
        expected = load_file(whole / f"{kind}.safetensors")
        with Stored(sharded, kind) as stored:
            assert set(stored.names) == set(expected)
            for name, tensor in expected.items():
                read = torch.empty(stored.shape(name))
                stored.read_into(name, read)
                assert torch.allclose(read, tensor, atol=1e-5), (kind, name)


def test_the_exported_model_is_a_plain_one(folder):
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder / "fsdp" / "model", output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_another_number_of_micro_batches_is_another_run(folder, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    with pytest.raises(InputError, match="accumulation x processes was 4 and is now 2"):
        kit.run(folder / "fsdp", replace(kit.CONFIG, steps=5))


def test_a_sharded_checkpoint_with_a_part_missing_is_skipped(folder, tmp_path):
    whole = checkpoint.latest(folder / "fsdp" / "checkpoints")
    part = whole / "ema-00002-of-00002.safetensors"
    kept = part.read_bytes()
    try:
        part.unlink()
        with pytest.warns(UserWarning, match="ema-00002-of-00002.safetensors: missing"):
            assert checkpoint.latest(whole.parent).name == "step-00000002"
    finally:
        part.write_bytes(kept)
