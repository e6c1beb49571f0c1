"""The training loop: what it promises about resuming, averaging over items, and stopping."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import socket
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from arra import files
from arra.errors import InputError, TrainingDiverged
from arra.generators.base import Batch, Generator, Output
from arra.objectives.base import Objective
from arra.objectives.laws import NextToken, ZLoss
from arra.registry import Registry, objectives
from arra.training import checkpoint
from arra.training.config import TrainConfig, learning_rate
from arra.training.ema import Ema
from arra.training.history import History, read_log
from arra.training.loop import train
from arra.training.optimizers import build_optimizers
from arra.training.stopping import TrainingInterrupted

VOCABULARY, WIDTH, LENGTH = 11, 8, 6


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


class Toy(Generator):
    """Embedding, two blocks of a linear layer, norm and head: no attention, but all the rest."""

    registry = Registry("toy generator")
    registered_name = "toy"

    @dataclass(frozen=True)
    class Config:
        dropout: float = 0.1

    def __init__(self, config):
        super().__init__(config)
        self.width, self.depth = WIDTH, 2
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter is not self.norm.weight:
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))

    def forward(self, batch, layers=()):
        x = self.embedding(batch.tokens)
        hidden = {}
        for number, block in enumerate(self.blocks, start=1):
            x = x + F.dropout(F.gelu(block(x)), self.config.dropout, self.training)
            if number in layers:
                hidden[number] = x
        supervised = batch.target != -100
        return Output(self.head(self.norm(x))[supervised], batch.target[supervised], hidden)


class Pull(Objective):
    """Pulls projected hidden states of block 1 to a constant: an objective with parameters."""

    name, layers = "pull", (1,)

    def __init__(self, schedule=lambda step: 0.5):
        super().__init__()
        self.projector = nn.Linear(WIDTH, 3)
        nn.init.constant_(self.projector.weight, 0.1)
        nn.init.zeros_(self.projector.bias)
        self.schedule = schedule
        self.calls = 0

    def weight(self, step):
        return self.schedule(step)

    def count(self, batch):
        return batch.tokens.shape[0]

    def forward(self, output, batch):
        self.calls += 1
        return (self.projector(output.hidden[1].mean(dim=1)) - 1).square().mean()


class Rows:
    """`rows` random sequences a step with ragged targets, dealt out to micros and processes."""

    def __init__(self, rows=8, poison=None):
        self.rows, self.poison = rows, poison

    def batch(self, step, part, parts):
        rng = torch.Generator().manual_seed(1000 + step)
        tokens = torch.randint(VOCABULARY, (self.rows, LENGTH), generator=rng)
        target = (tokens * 3 + 1) % VOCABULARY
        length = torch.randint(1, LENGTH + 1, (self.rows, 1), generator=rng)
        target[torch.arange(LENGTH) >= length] = -100
        if self.poison == step:
            tokens[0, 0] = 0
        share = self.rows // parts
        start = part * share
        own = slice(start, start + share)
        shape = tokens[own].shape
        return Batch(
            tokens=tokens[own],
            segment=torch.arange(share)[:, None].expand(shape),
            position=torch.arange(LENGTH).expand(shape),
            target=target[own],
            image=target[own] >= 0,
            place=torch.full(shape, -1),
            features={"mean": torch.ones(share, 2)},
        )


FAST = TrainConfig(
    steps=12,
    learning_rate=0.02,
    precision="fp32",
    checkpoint_every=5,
    log_every=1,
    warmup=2,
    schedule="cosine",
)
FULL = replace(FAST, accumulation=2, ema=0.9)


def toy(**settings_):
    return Toy(Toy.Config(**settings_))


def losses():
    return [NextToken(), ZLoss(0.01), Pull()]


def weights(folder):
    return load_file(str(folder / "model" / "model.safetensors"))


def newest(folder):
    return checkpoint.latest(folder / "checkpoints")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a, b, tolerance=1e-5):
    return all(torch.allclose(a[name], b[name], atol=tolerance, rtol=tolerance) for name in a)


def without_time(entries):
    return [{k: v for k, v in entry.items() if not k.endswith("seconds")} for entry in entries]


class Stop(Exception):
    pass


class StopsAt(Rows):
    """Raises when the batch of `last` is asked for: an end as abrupt as a crash."""

    def __init__(self, last, **settings_):
        super().__init__(**settings_)
        self.last = last

    def batch(self, step, *place):
        if step == self.last:
            raise Stop
        return super().batch(step, *place)


# Resuming


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, optimizer):
    config = replace(FULL, optimizer=optimizer, validate_every=4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    validators = [lambda generator, step, folder: {"v": float(generator.head.weight.sum())}]
    data = Rows()
    first = train(toy(), losses(), data, config, whole, validators=validators)
    crash = StopsAt(8)
    with pytest.raises(Stop):
        train(toy(), losses(), crash, config, broken, validators=validators)
    assert len(read_log(broken / "log.jsonl")) == 8 + 2
    second = train(toy(), losses(), data, config, broken, validators=validators)
    assert (first.resumed_from, second.resumed_from) == (0, 5)
    assert same(weights(whole), weights(broken))
    for name in ("generator", "objectives", "optimizer", "ema"):
        ours, theirs = (load_file(newest(f) / f"{name}.safetensors") for f in (whole, broken))
        assert ours
        assert same(ours, theirs), name
    # The log has no line twice, and says the same.
    assert without_time(second.history) == without_time(first.history)
    assert [entry["step"] for entry in second.history] == list(range(1, 13))
    assert second.validation == first.validation
    assert [entry["step"] for entry in first.validation] == [4, 8, 12]


def test_a_finished_run_is_not_run_again_and_may_be_extended(tmp_path):
    config = replace(FAST, schedule="constant")
    short = train(toy(), losses(), Rows(), config, tmp_path / "a")
    again = train(toy(), losses(), StopsAt(1), config, tmp_path / "a")
    assert again.resumed_from == 12
    assert without_time(again.history) == without_time(short.history)
    train(toy(), losses(), Rows(), replace(config, steps=16), tmp_path / "a")
    train(toy(), losses(), Rows(), replace(config, steps=16), tmp_path / "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    with pytest.raises(InputError, match=r"TrainConfig\.steps: 3"):
        train(toy(), losses(), Rows(), replace(config, steps=3), tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"config": replace(FAST, learning_rate=0.03)}, "TrainConfig.learning_rate was 0.02"),
        ({"config": replace(FAST, steps=20)}, "TrainConfig.steps"),
        ({"config": replace(FAST, optimizer="muon")}, "TrainConfig.optimizer"),
        ({"config": replace(FAST, precision="bf16")}, "precision"),
        ({"objectives": [NextToken()]}, "objectives.pull"),
        ({"generator": toy(dropout=0.2)}, "generator.dropout"),
        ({"batches": Rows(4)}, "first_batch"),
    ],
)
def test_resuming_another_run_is_refused_by_the_name_of_the_field(tmp_path, change, field):
    arguments = {"generator": toy(), "objectives": losses(), "batches": Rows(), "config": FAST}
    with pytest.raises(Stop):
        train(**{**arguments, "batches": StopsAt(6)}, folder=tmp_path)
    with pytest.raises(InputError, match=field):
        train(**{**arguments, **change}, folder=tmp_path)
    free = replace(FAST, log_every=3, checkpoint_every=4, keep=1, validate_every=2)
    report = train(**{**arguments, "config": replace(free, precision="auto")}, folder=tmp_path)
    assert report.resumed_from == 5
    assert (report.precision, report.precision_reason) == ("fp32", "the run began with it")


def test_damaged_checkpoints_are_named_and_skipped(tmp_path):
    config = replace(FAST, checkpoint_every=3, keep=3)
    train(toy(), losses(), Rows(), config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(toy(), losses(), StopsAt(11), config, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / ".step-00000010.abc.tmp").mkdir()
    cut = folder / "step-00000009" / "optimizer.safetensors"
    cut.write_bytes(cut.read_bytes()[:-7])
    (folder / "step-00000006" / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="checkpoint skipped") as told:
        report = train(toy(), losses(), Rows(), config, tmp_path / "run")
    text = " ".join(str(warning.message) for warning in told)
    assert "step-00000009/optimizer.safetensors" in text
    assert "step-00000006/state.json" in text
    assert report.resumed_from == 3
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert not list(folder.glob(".*"))


def test_only_the_newest_checkpoints_are_kept_and_nothing_is_pickled(tmp_path):
    train(toy(), losses(), Rows(), replace(FAST, checkpoint_every=2, keep=2), tmp_path)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000010", "step-00000012"]
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".jsonl"}


def test_weights_that_are_not_trained_are_not_saved_but_must_be_the_same(tmp_path):
    def frozen(shift=0.0):
        generator = toy()
        generator.embedding.weight.requires_grad_(False).add_(shift)
        return generator

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(frozen(), losses(), Rows(), FULL, whole)
    with pytest.raises(Stop):
        train(frozen(), losses(), StopsAt(8), FULL, broken)
    for kind in ("generator", "ema"):
        saved = load_file(newest(broken) / f"{kind}.safetensors")
        assert "embedding.weight" not in saved
        assert "head.weight" in saved
    with pytest.raises(InputError, match="cannot resume, weights that are not trained was"):
        train(frozen(0.1), losses(), Rows(), FULL, broken)
    train(frozen(), losses(), Rows(), FULL, broken)
    assert same(weights(whole), weights(broken))
    assert torch.equal(weights(whole)["embedding.weight"], frozen().embedding.weight)


# Being killed


def _child(folder, fatal):
    """Train; the process kills itself with SIGKILL at the `fatal`-th of its writes and batches."""
    os.environ["ACCELERATE_USE_CPU"] = "1"
    left = fatal

    def tick():
        nonlocal left
        left -= 1
        return left == 0

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    save_file, rename, append = checkpoint.save_file, os.replace, History.append

    def cut_save(tensors, path):
        save_file(tensors, path)
        if tick():
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    def cut_rename(source, target):
        if tick():
            die()
        rename(source, target)
        if tick():
            die()

    def cut_append(self, entry):
        if tick():
            self._handle.write('{"step": ')
            self._handle.flush()
            die()
        append(self, entry)

    class Fatal(Rows):
        def batch(self, *place):
            if tick():
                die()
            return super().batch(*place)

    if fatal:
        checkpoint.save_file, files.os.replace, History.append = cut_save, cut_rename, cut_append
    config = replace(FULL, steps=24, checkpoint_every=2, keep=2)
    train(toy(), losses(), Fatal(), config, folder)


def _processes():
    context = multiprocessing.get_context("forkserver")
    # What optimisers import when they are first made takes longer than these runs.
    preload = ["arra.training.loop", "torch._dynamo", "hypothesis", "pytest"]
    context.set_forkserver_preload(preload)
    return context


def test_sigkill_at_any_moment_changes_nothing(tmp_path):
    context = _processes()
    rng = random.Random(5)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    server = context.Process(target=_processes)  # starting the server is no part of the duration
    server.start()
    server.join()
    reference = context.Process(target=_child, args=(whole, 0))
    began = time.monotonic()
    reference.start()
    reference.join()
    duration = time.monotonic() - began
    assert reference.exitcode == 0
    exits = []
    for attempt in range(9):
        # By itself, often in the midst of a write, or from outside at a moment of the clock.
        from_outside = attempt % 3 == 2
        fatal = 0 if from_outside else rng.randint(1, 35)
        child = context.Process(target=_child, args=(killed, fatal))
        child.start()
        if from_outside:
            child.join(rng.uniform(0.05, 0.4) * duration)
            child.kill()
        child.join()
        exits.append(child.exitcode)
    assert exits.count(-signal.SIGKILL) >= 6
    last = context.Process(target=_child, args=(killed, 0))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert same(weights(whole), weights(killed))
    logs = [without_time(read_log(folder / "log.jsonl")) for folder in (whole, killed)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_keeps_a_checkpoint(tmp_path, number):
    class Signals(NextToken):  # batches are made a step ahead; a loss knows which step it is
        passes = 0

        def forward(self, output, batch):
            self.passes += 1
            if self.passes == 6:  # noticed by the next step, which is the last
                os.kill(os.getpid(), number)
            return super().forward(output, batch)

    def interrupting():
        return [Signals(), *losses()[1:]]

    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted, match="run the same command again") as caught:
        train(toy(), interrupting(), Rows(), FAST, tmp_path / "stopped")
    assert caught.value.exit_code == 128 + number
    assert newest(tmp_path / "stopped").name == "step-00000007"
    assert signal.getsignal(number) == before
    train(toy(), losses(), Rows(), FAST, tmp_path / "stopped")
    train(toy(), losses(), Rows(), FAST, tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


# What a step is


def test_cutting_a_batch_into_micro_batches_changes_only_rounding(tmp_path):
    results = {}
    for parts in (1, 2, 8):
        config = replace(FAST, accumulation=parts)
        folder = tmp_path / str(parts)
        report = train(toy(dropout=0.0), losses(), Rows(8), config, folder)
        results[parts] = weights(folder), report.history
    for parts in (2, 8):
        assert close(results[1][0], results[parts][0])
        for a, b in zip(results[1][1], results[parts][1], strict=True):
            for name in ("loss", "cross_entropy", "z_loss", "pull", "grad_norm"):
                assert a[name] == pytest.approx(b[name], rel=1e-4)


def test_loss_is_the_mean_over_all_supervised_tokens(tmp_path):
    generator, data = toy(dropout=0.0), Rows(8)
    batches = [data.batch(0, micro, 4) for micro in range(4)]
    with torch.no_grad():
        outputs = [generator(batch) for batch in batches]
    logits = torch.cat([output.logits for output in outputs])
    targets = torch.cat([output.targets for output in outputs])
    probability = torch.softmax(logits, -1)[torch.arange(len(targets)), targets]
    config = replace(FAST, steps=1, accumulation=4, warmup=0)
    report = train(generator, [NextToken(), ZLoss()], data, config, tmp_path)
    entry = report.history[0]
    assert entry["cross_entropy"] == pytest.approx(float(-probability.log().mean()), rel=1e-5)
    expected = float(logits.exp().sum(-1).log().pow(2).mean())
    assert entry["z_loss"] == pytest.approx(expected, rel=1e-5)
    assert entry["loss"] == pytest.approx(entry["cross_entropy"] + 1e-5 * expected, rel=1e-5)


def test_objective_of_weight_zero_is_as_if_absent(tmp_path):
    silent = Pull(lambda step: 0.0)
    train(toy(), [NextToken(), silent], Rows(), FAST, tmp_path / "zero")
    report = train(toy(), [NextToken()], Rows(), FAST, tmp_path / "absent")
    assert silent.calls == 0
    assert same(weights(tmp_path / "zero"), weights(tmp_path / "absent"))
    assert "pull" not in report.history[0]
    untouched = Pull()
    assert torch.equal(silent.projector.weight, untouched.projector.weight)


def test_objective_is_evaluated_only_while_it_has_weight(tmp_path):
    early = Pull(lambda step: 0.5 if step < 3 else 0.0)
    report = train(toy(), [NextToken(), early], Rows(), FAST, tmp_path)
    assert early.calls == 3
    assert ["pull" in entry for entry in report.history] == [True] * 3 + [False] * 9
    with pytest.raises(InputError, match="every objective has weight 0 at step 0"):
        train(toy(), [Pull(lambda step: 0.0)], Rows(), FAST, tmp_path / "none")


def test_training_learns_and_reports(tmp_path):
    config = replace(FAST, steps=60, schedule="wsd", log_every=20)
    generator = toy()
    objectives_ = losses()
    report = train(generator, objectives_, Rows(32), config, tmp_path)
    assert [entry["step"] for entry in report.history] == [1, 20, 40, 60]
    assert report.history[-1]["cross_entropy"] < 0.5 * report.history[0]["cross_entropy"]
    assert not torch.equal(objectives_[2].projector.bias, torch.zeros(3))
    assert report.parameters == sum(p.numel() for p in generator.parameters())
    assert report.objective_parameters == WIDTH * 3 + 3
    assert 0 < report.median_step_seconds < report.seconds
    # Projectors are in the checkpoint and not in the exported model.
    assert weights(tmp_path).keys() == generator.state_dict().keys()
    assert "2.projector.weight" in load_file(newest(tmp_path) / "objectives.safetensors")
    assert not generator.training
    assert same(weights(tmp_path), generator.state_dict())


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    generator, objectives_ = toy(), losses()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(generator, objectives_, Rows(), FAST, tmp_path / "a")
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(99)
    train(toy(), losses(), Rows(), FAST, tmp_path / "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    train(toy(), losses(), Rows(), replace(FAST, seed=1), tmp_path / "c")
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


# Validation, averages


def test_validation_does_not_change_training(tmp_path):
    seen = []

    def validator(generator, step, folder):
        assert not any(module.training for module in generator.modules())
        assert not torch.is_grad_enabled()
        seen.append(float(torch.rand(())))
        weight = generator.head.weight.clone()
        return {"sum": float(weight.sum()), "undefined": math.nan}

    config = replace(FULL, validate_every=3)
    data = Rows()
    report = train(toy(), losses(), data, config, tmp_path / "a", validators=[validator])
    train(toy(), losses(), data, FULL, tmp_path / "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert [entry["step"] for entry in report.validation] == [3, 6, 9, 12]
    assert len(set(seen)) == 1
    assert report.validation[0]["undefined"] is None
    # The last validation saw the averaged weights, which are those that were exported.
    exported = weights(tmp_path / "a")["head.weight"]
    raw = load_file(newest(tmp_path / "a") / "generator.safetensors")["head.weight"]
    assert report.validation[-1]["sum"] == pytest.approx(float(exported.sum()), rel=1e-6)
    assert not torch.equal(raw, exported)


def test_ema_is_the_average_of_its_definition():
    module = nn.Linear(2, 2)
    ema = Ema(module, 0.9)
    expected = module.weight.detach().clone()
    for update in range(1, 200):
        with torch.no_grad():
            module.weight += 0.1
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * module.weight.detach()
        ema.update(update)
    assert torch.allclose(ema.average["weight"], expected, atol=1e-4)
    own = module.weight.detach().clone()
    with ema.swapped():
        assert torch.equal(module.weight, ema.average["weight"])
    assert torch.equal(module.weight, own)


def test_exported_weights_are_the_average_of_those_of_every_step(tmp_path):
    start = dict(toy().state_dict())
    config = replace(FAST, ema=0.9, steps=6, checkpoint_every=1, keep=6, learning_rate=0.1)
    train(toy(), losses(), Rows(), config, tmp_path)
    for name, expected in start.items():
        for step in range(1, 7):
            file = tmp_path / "checkpoints" / f"step-{step:08d}" / "generator.safetensors"
            decay = min(0.9, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * load_file(file)[name]
        assert torch.allclose(weights(tmp_path)[name], expected, atol=1e-5)


# Divergence


class Breaks(Pull):
    """Not finite, in the loss or only in its gradient, when the batch's first token is 0."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def forward(self, output, batch):
        loss = super().forward(output, batch)
        if self.where == "loss" and batch.tokens[0, 0] == 0:
            return loss * float("nan")
        if self.where == "gradient" and batch.tokens[0, 0] == 0:
            return loss + (loss * 0).sqrt()
        return loss


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_stops_the_run_and_keeps_its_batch(tmp_path, where):
    data = Rows(poison=8)
    clean = [step for step in range(8) if data.batch(step, 0, 1).tokens[0, 0] == 0]
    assert not clean
    with pytest.raises(TrainingDiverged, match=r"step 8: .*not finite.*step-00000005"):
        train(toy(), [NextToken(), Breaks(where)], data, FAST, tmp_path)
    stem = tmp_path / "diverged" / "step-00000008-rank0-micro0"
    kept, batch = load_file(f"{stem}.safetensors"), data.batch(8, 0, 1)
    assert torch.equal(kept["tokens"], batch.tokens)
    assert torch.equal(kept["features.mean"], batch.features["mean"])
    facts = json.loads(Path(f"{stem}.json").read_text())
    assert facts["step"] == 8
    assert facts["values"]["grad_norm"] in ("nan", "inf")
    assert facts["values"]["cross_entropy"] > 0
    assert newest(tmp_path).name == "step-00000005"
    assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl")] == list(range(1, 9))


# Optimisers and schedules


def _groups(config, **extra):
    joint = nn.Module()
    joint.generator = toy()
    for name, module in extra.items():
        joint.generator.add_module(name, module)
    joint.objectives = nn.ModuleList([Pull()])
    return {
        type(optimizer).__name__: [
            (group["weight_decay"], set(group["param_names"])) for group in optimizer.param_groups
        ]
        for optimizer in build_optimizers(joint, config)
    }


def test_norms_biases_and_embeddings_do_not_decay():
    matrices = {"generator.blocks.0.weight", "generator.blocks.1.weight", "generator.head.weight"}
    no_decay = {
        "generator.embedding.weight",
        "generator.norm.weight",
        "generator.norm.bias",
        "generator.blocks.0.bias",
        "generator.blocks.1.bias",
        "objectives.0.projector.bias",
    }
    projector = "objectives.0.projector.weight"
    groups = _groups(replace(FAST, weight_decay=0.3))
    assert groups == {"AdamW": [(0.3, matrices | {projector}), (0.0, no_decay)]}
    groups = _groups(replace(FAST, weight_decay=0.3, optimizer="muon"))
    assert groups == {
        "Muon": [(0.3, matrices - {"generator.head.weight"})],
        "AdamW": [(0.3, {"generator.head.weight", projector}), (0.0, no_decay)],
    }


def test_tied_head_does_not_decay_and_half_precision_weights_are_refused():
    joint = nn.Module()
    joint.generator = toy()
    joint.generator.head.weight = joint.generator.embedding.weight
    joint.objectives = nn.ModuleList()
    decayed = build_optimizers(joint, FAST)[0].param_groups[0]["param_names"]
    assert decayed == ["generator.blocks.0.weight", "generator.blocks.1.weight"]
    joint.generator.bfloat16()
    with pytest.raises(InputError, match=r"bfloat16.*expected float32"):
        build_optimizers(joint, FAST)
    joint.generator.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable parameter"):
        build_optimizers(joint, FAST)


def test_a_norm_that_gets_no_gradient_signal_keeps_its_size(tmp_path):
    generator = toy(dropout=0.0)
    before = {name: p.detach().clone() for name, p in generator.named_parameters()}

    class Nothing(NextToken):
        def forward(self, output, batch):
            return super().forward(output, batch) * 0.0

    config = replace(FAST, weight_decay=0.5, schedule="constant", warmup=0)
    train(generator, [Nothing()], Rows(), config, tmp_path)
    after = dict(generator.named_parameters())
    for name in ("norm.weight", "blocks.0.bias", "embedding.weight"):
        assert torch.equal(after[name], before[name])
    shrunk = before["blocks.0.weight"] * (1 - 0.02 * 0.5) ** 12
    assert torch.allclose(after["blocks.0.weight"], shrunk, atol=1e-6)


def test_schedules_have_their_shapes():
    config = TrainConfig(steps=110, warmup=10, learning_rate=2.0)
    assert [learning_rate(config, step) for step in (0, 4, 9)] == [0.2, 1.0, 2.0]
    at = {
        name: [learning_rate(replace(config, schedule=name), step) for step in (10, 60, 100, 110)]
        for name in ("constant", "cosine", "linear", "wsd")
    }
    assert at["constant"] == [2.0] * 4
    assert at["cosine"] == pytest.approx([2.0, 1.0, 2 * 0.5 * (1 + math.cos(0.9 * math.pi)), 0.0])
    assert at["linear"] == pytest.approx([2.0, 1.0, 0.2, 0.0])
    assert at["wsd"] == pytest.approx([2.0, 2.0, 1.0, 0.0])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(0, 60),
    st.sampled_from(["constant", "cosine", "linear", "wsd"]),
    st.integers(0, 70),
)
def test_learning_rate_stays_between_zero_and_its_peak(steps, warmup, schedule, step):
    config = TrainConfig(steps=steps, warmup=min(warmup, steps), schedule=schedule)
    assert 0 <= learning_rate(config, step) <= config.learning_rate


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"steps": 1.5},
        {"learning_rate": math.nan},
        {"betas": (0.9, 1.0)},
        {"warmup": 20},
        {"schedule": "stairs"},
        {"optimizer": "sgd"},
        {"ema": 1.0},
        {"clip": 0.0},
        {"trackers": "tensorboard"},
        {"validate_every": 0},
    ],
)
def test_wrong_settings_are_named(change):
    (field,) = change
    with pytest.raises(InputError, match=rf"TrainConfig\.{field}: .*expected"):
        TrainConfig(**{"steps": 10, **change})


# Log, objectives, precision, compile, trackers


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 9), st.binary(max_size=12))
def test_log_is_cut_back_to_the_step_whatever_stands_at_its_end(tmp_path_factory, steps, at, tail):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    lines = "".join(f'{{"step": {step}}}\n' for step in steps)
    path.write_bytes(lines.encode() + b'{"step": ' + tail.replace(b"\n", b""))
    history = History(path, at)
    history.append({"step": at + 1, "loss": math.inf})
    history.close()
    expected = [{"step": step} for step in steps if step <= at]
    found = read_log(path)
    # The tail may happen to complete a line; what stands before it is decided.
    assert found[: len(expected)] == expected
    assert found[-1] == {"step": at + 1, "loss": None}


def test_objectives_of_a_batch_that_supervises_nothing_are_zero():
    batch = replace(Rows().batch(0, 0, 1), target=torch.full((8, LENGTH), -100))
    output = toy()(batch)
    for objective in (NextToken(), ZLoss()):
        assert objectives[objective.registered_name] is type(objective)
        assert objective.count(batch) == 0
        assert objective(output, batch).item() == 0
    with pytest.raises(InputError, match="weight"):
        ZLoss(-1.0)


def test_objectives_are_checked(tmp_path):
    for wrong, message in (
        ([], "no objectives"),
        ([NextToken(), NextToken()], "'cross_entropy' is taken"),
        ([NextToken(), Pull3()], "reads layer 3"),
    ):
        with pytest.raises(InputError, match=message):
            train(toy(), wrong, Rows(), FAST, tmp_path)


class Pull3(Pull):
    layers = (3,)


def test_bf16_and_fp32_may_follow_each_other_in_one_process(tmp_path):
    for name in ("bf16", "fp32", "auto"):
        config = replace(FAST, precision=name, steps=4)
        report = train(toy(), losses(), Rows(), config, tmp_path / name)
        assert report.precision == name or name == "auto"
        assert report.precision_reason
    # trying both out leaves nothing behind
    assert same(weights(tmp_path / "auto"), weights(tmp_path / report.precision))
    a, b = weights(tmp_path / "bf16"), weights(tmp_path / "fp32")
    assert a["head.weight"].dtype == torch.float32
    assert not same(a, b)
    assert close(a, b, tolerance=0.1)


def _refuse(*arguments):
    raise RuntimeError("no compiler here")


@pytest.mark.parametrize("call", ["forward", "_compiled_call_impl"])
def test_failing_compilation_falls_back_with_one_warning(tmp_path, call):
    class Uncompilable(Toy):
        registered_name = "toy"

        def compile_blocks(self):
            for block in self.blocks:
                setattr(block, call, _refuse)

    config = replace(FAST, compile=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        report = train(Uncompilable(Toy.Config()), losses(), Rows(), config, tmp_path / "a")
    mine = [str(w.message) for w in told if "compile" in str(w.message)]
    assert mine == ["not compiled, training goes on without: no compiler here"]
    assert not report.compiled
    train(toy(), losses(), Rows(), FAST, tmp_path / "b")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_trackers_are_written_or_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    config = replace(FAST, trackers=("tensorboard",))
    train(toy(), losses(), Rows(), config, tmp_path / "a")
    assert list((tmp_path / "a").rglob("events.out.tfevents.*"))
    with pytest.raises(InputError, match=r"'paper', expected some of .*tensorboard"):
        train(toy(), losses(), Rows(), replace(FAST, trackers=("paper",)), tmp_path / "b")
    monkeypatch.setattr("arra.training.joint.get_available_trackers", list)
    with pytest.raises(InputError, match="pip install tensorboard"):
        train(toy(), losses(), Rows(), config, tmp_path / "b")


# Several processes


def _worker(rank, world, port, folder):
    os.environ |= {
        "ACCELERATE_USE_CPU": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    early = [NextToken(), ZLoss(0.01), Pull(lambda step: 0.5 if step < 6 else 0.0)]
    config = replace(FAST, accumulation=2)
    report = train(toy(dropout=0.0), early, Rows(8), config, folder)
    assert len(report.history) == 12
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = _processes()
    workers = [
        context.Process(target=_worker, args=(rank, 2, port, tmp_path / "two")) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    early = [NextToken(), ZLoss(0.01), Pull(lambda step: 0.5 if step < 6 else 0.0)]
    config = replace(FAST, accumulation=4)
    train(toy(dropout=0.0), early, Rows(8), config, tmp_path / "one")
    assert close(weights(tmp_path / "one"), weights(tmp_path / "two"))
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("one", "two")]
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert ("pull" in a) == ("pull" in b)
