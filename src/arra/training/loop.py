"""The one training loop: any generator, any objectives, one process or many.

A run is a function of its settings and its data. Batches, learning rate and random numbers are pure
functions of (step, micro-batch), so a run that is killed and started again ends with the same
weights, bit for bit, as one that was not; on another number of processes, within rounding.
"""

from __future__ import annotations

import copy
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arra.ahead import ahead
from arra.errors import InputError, TrainingDiverged
from arra.files import read_json, to_plain
from arra.generators.base import Batch, Generator
from arra.objectives.base import Objective
from arra.precision import autocast
from arra.progress import Task, track
from arra.training import checkpoint
from arra.training.config import TrainConfig, learning_rate
from arra.training.diverged import keep_batches
from arra.training.ema import Ema
from arra.training.history import History, read_log
from arra.training.identity import check_same_run, identity, step_seed
from arra.training.joint import (
    Joint,
    check_objectives,
    checkpointed_activations,
    fresh_accelerator,
    try_compile,
)
from arra.training.optimizers import build_optimizers
from arra.training.precision import choose_precision
from arra.training.report import BatchSource, TrainReport, Validator
from arra.training.sharding import gather, shard, whole
from arra.training.stopping import StopRequest, TrainingInterrupted, stop_on_signal


def train(
    generator: Generator,
    objectives: Sequence[Objective],
    batches: BatchSource,
    config: TrainConfig,
    folder: str | Path,
    *,
    validators: Sequence[Validator] = (),
    progress_label: str = "train",
) -> TrainReport:
    """Train `generator` for `config.steps` updates, going on from a checkpoint where there is one.

    Writes `checkpoints/`, `log.jsonl` and, at the end, the exported generator `model/` to `folder`.
    Afterwards the generator has the exported weights and is in evaluation mode. The device, the
    number of processes and whether weights are sharded (FSDP2) are accelerate's choice (`accelerate
    launch`, ACCELERATE_USE_CPU); all processes must see the same `folder`.

    The total loss is the sum of weight(step) * loss over the objectives whose weight is not 0. Each
    loss is a mean over `Objective.count` items, and micro-batches and processes are weighed so that
    the step's loss is the mean over the items of all of them.

    Raises `InputError` for settings that do not fit (each other, the generator, the run that is
    resumed), `TrainingDiverged` when a loss or gradient is not finite (the batches are then in
    `diverged/`), and `TrainingInterrupted` after SIGINT or SIGTERM.
    """
    check_objectives(objectives, generator.depth)
    started = time.perf_counter()
    with ExitStack() as stack:
        run = _Run(generator, objectives, batches, config, Path(folder))
        stack.callback(run.close)
        stack.enter_context(run.own_randomness())
        run.prepare()
        if config.activation_checkpointing:
            stack.enter_context(checkpointed_activations(run.joint.generator))
        request = stack.enter_context(stop_on_signal())
        label = progress_label if run.start == 0 else f"{progress_label} (from step {run.start})"
        left = config.steps - run.start
        task = stack.enter_context(track(label, left, quiet=not run.is_main or left == 0))
        run.loop(validators, request, task)
        run.finish(validators)
        return run.report(time.perf_counter() - started)


def stepper(
    generator: Generator,
    objectives: Sequence[Objective],
    batches: BatchSource,
    config: TrainConfig,
    folder: str | Path,
) -> Callable[[int], float]:
    """A function that does step n of what `train` would do, for who measures it.

    It gives the seconds for which the step waited for its batches. Steps are done in order, the
    first is that of `folder`'s checkpoint, or 0; torch's global random numbers move.
    """
    check_objectives(objectives, generator.depth)
    run = _Run(generator, objectives, batches, config, Path(folder))
    run.prepare()

    def step(number: int) -> float:
        run.step(number, StopRequest())
        return run.data_seconds[-1]

    return step


class _Run:
    """The state of one call of `train`."""

    def __init__(
        self,
        generator: Generator,
        objectives: Sequence[Objective],
        batches: BatchSource,
        config: TrainConfig,
        folder: Path,
    ):
        self.generator, self.batches, self.config, self.folder = generator, batches, config, folder
        self.whole = Joint(generator, objectives)
        self.checkpoints = folder / "checkpoints"
        self.found = checkpoint.latest(self.checkpoints)
        state = read_json(self.found / "state.json") if self.found else {}
        self.start: int = state.get("step", 0)
        self.saved_identity: dict[str, Any] = state.get("run", {})
        if self.found and config.precision == "auto":
            self.precision = self.saved_identity["precision"]
            self.reason = "the run began with it"
        else:
            self.precision, self.reason = choose_precision(config.precision, self._trial)
        learned = any(True for _ in self.whole.objectives.parameters())
        self.accelerator = fresh_accelerator(self.precision, config.trackers, folder, learned)
        self.device: torch.device = self.accelerator.device
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.is_main = self.accelerator.is_main_process
        self.sharded: bool = self.accelerator.is_fsdp2
        # Sharding cannot be undone: a copy is sharded, and its weights come back to the whole.
        self.joint = copy.deepcopy(self.whole) if self.sharded else self.whole
        self.history: History | None = None
        self.step_seconds: list[float] = []
        self.data_seconds: list[float] = []
        self.ahead = ahead(map(self._micros, range(self.start, config.steps)), 1)
        self.compiled = False
        self.note = ""

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """Dropout knows only torch's global generators: give the caller's back afterwards."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            yield

    def _seed(self, seed: int) -> None:
        # torch.manual_seed seeds every kind of device, and where CUDA is not in use it keeps each
        # call in a list for later, with a stack trace.
        torch.default_generator.manual_seed(seed)
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).manual_seed(seed)

    def prepare(self) -> None:
        """Move, compile, wrap, and restore or begin."""
        config, trained = self.config, self.joint.generator
        self.identity = identity(self.whole, self.batches, config, self.precision, self.world)
        if self.found:
            self._check_resumable(self.found)
        if self.sharded:
            shard(self.joint, self.accelerator, self.precision)
        else:
            self.joint.to(self.device)
        self.joint.train()
        if config.compile:
            self.compiled = try_compile(self.joint, None if self.sharded else self._attempt)
            self.joint.zero_grad()
        self.model: Any = self.joint
        self.optimizers: list[Any] = build_optimizers(self.joint, config)
        if not self.sharded:
            self.model, *self.optimizers = self.accelerator.prepare(self.model, *self.optimizers)
        self.ema = Ema(trained, config.ema) if config.ema is not None else None
        self.progress = checkpoint.Progress(
            trained, self.joint.objectives, self.optimizers, self.ema
        )
        if self.found:
            checkpoint.restore(self.found, self.progress)
        if self.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.clean(self.checkpoints)
            self.history = History(self.folder / "log.jsonl", self.start)
        if config.trackers:
            self._start_trackers()
        self.accelerator.wait_for_everyone()

    def _check_resumable(self, path: Path) -> None:
        check_same_run(self.saved_identity, self.identity, path)
        if self.start > self.config.steps:
            raise InputError(
                f"TrainConfig.steps: {self.config.steps}, but {path} is {self.start} steps on; "
                "expected at least that many, or another folder"
            )

    def _start_trackers(self) -> None:
        plain = {name: v for name, v in to_plain(self.config).items() if v is not None}
        scalars = {name: v for name, v in plain.items() if not isinstance(v, list)}
        # Events after the checkpoint are of steps that will be done again.
        purge = {"tensorboard": {"purge_step": self.start + 1}} if self.start else {}
        self.accelerator.init_trackers("tracking", scalars, init_kwargs=purge)

    def _trial(self, bf16: bool) -> None:
        """One forward and backward pass on the CPU, uncompiled, thrown away: to see how long it
        takes. It leaves nothing behind."""
        joint, trained = self.whole, self.whole.training
        with torch.random.fork_rng(devices=[]), autocast(torch.device("cpu"), bf16):
            torch.default_generator.manual_seed(self.config.seed)
            total, _ = joint.train()(self._first, joint.weights(self.start))
        total.backward()
        joint.zero_grad()
        joint.train(trained)

    @cached_property
    def _first(self) -> Batch:
        """The first micro-batch."""
        return self.batches.batch(self.start, 0, self.config.accumulation)

    def _attempt(self) -> None:
        """One forward and backward pass as training does it, thrown away."""
        self._seed(self.config.seed)
        batch = self._batch(self.start, 0).to(self.device)
        with self.accelerator.autocast():
            total, _ = self.joint(batch, self.joint.weights(self.start))
        total.backward()

    def loop(self, validators: Sequence[Validator], request: StopRequest, task: Task) -> None:
        """All steps that are left, with what is due after each but the last."""
        config = self.config
        for step in range(self.start, config.steps):
            stop = self.step(step, request)
            done = step + 1
            task.advance(note=self.note)
            if done == config.steps:
                return
            if config.validate_every and done % config.validate_every == 0:
                self._validate(validators, done)
            if stop or done % config.checkpoint_every == 0:
                self._checkpoint(done)
            if stop:
                where = self.checkpoints / f"step-{done:08d}"
                raise TrainingInterrupted(
                    f"stopped after step {done} of {config.steps}; the checkpoint is {where}: "
                    "run the same command again to go on from there",
                    request.signal or signal.SIGINT,  # another process may have had it
                )

    def _batch(self, step: int, micro: int) -> Batch:
        """This process's micro-batch `micro` of `step`."""
        parts = self.config.accumulation * self.world
        return self.batches.batch(step, self._part(micro), parts)

    def _micros(self, step: int) -> list[Batch]:
        """This process's micro-batches of `step`."""
        return [self._batch(step, micro) for micro in range(self.config.accumulation)]

    def _part(self, micro: int) -> int:
        """Which of the micro-batches of a step, over all processes, this process's `micro` is.

        Two of one process are those of two processes with one each: data, and seeds, too.
        """
        return micro * self.world + self.rank

    def step(self, step: int, request: StopRequest) -> bool:
        """One update; returns whether any process has been asked to stop."""
        began = time.perf_counter()
        weights = self.joint.weights(step)
        micros = next(self.ahead)
        self.data_seconds.append(time.perf_counter() - began)
        shares, stop = self._shares(micros, list(weights), request)
        lr = learning_rate(self.config, step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        losses = self._accumulate(step, micros, weights, shares)
        clip = math.inf if self.config.clip is None else self.config.clip
        norm = whole(self.accelerator.clip_grad_norm_(self.model.parameters(), clip))
        # The one wait for the device in a step: nothing that is not finite may reach the weights.
        *values, grad_norm = torch.cat([self._sum(losses), norm.reshape(1)]).tolist()
        named = {self.joint.losses()[i].name: v for i, v in zip(weights, values, strict=True)}
        loss = sum(weight * v for weight, v in zip(weights.values(), values, strict=True))
        facts = {"loss": loss, **named, "lr": lr, "grad_norm": grad_norm}
        if not all(map(math.isfinite, facts.values())):
            self._diverged(step, micros, facts)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.ema:
            self.ema.update(step + 1)
        self.step_seconds.append(time.perf_counter() - began)
        clocks = {"seconds": self.step_seconds[-1], "data_seconds": self.data_seconds[-1]}
        self._log(step + 1, {**facts, **clocks})
        self.note = f"loss {loss:.4f}"
        return stop

    def _accumulate(
        self,
        step: int,
        micros: Sequence[Batch],
        weights: dict[int, float],
        shares: Sequence[dict[int, float]],
    ) -> Tensor:
        """Gradients of the step's loss; returns this process's part of each objective's loss."""
        losses = torch.zeros(len(weights), device=self.device)
        for micro, (batch, share) in enumerate(zip(micros, shares, strict=True)):
            # Data parallelism averages gradients over processes; what is wanted is their sum.
            scales = {i: weight * share[i] * self.world for i, weight in weights.items()}
            last = micro == len(micros) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                self._seed(step_seed(self.config.seed, step, self._part(micro)))
                total, found = self.model(batch.to(self.device), scales)
                self.accelerator.backward(total)
            losses += torch.stack([found[i] * share[i] for i in weights])
        return losses

    def _shares(
        self, micros: Sequence[Batch], active: Sequence[int], request: StopRequest
    ) -> tuple[list[dict[int, float]], bool]:
        """Per micro-batch, each objective's share of the items of the step over all processes.

        The stop request travels along: processes must agree on the step after which they stop.
        """
        chosen = [self.joint.losses()[i] for i in active]
        counts = [[float(objective.count(batch)) for objective in chosen] for batch in micros]
        asked = float(request.signal != 0)
        mine = [sum(column) for column in zip(*counts, strict=True)] + [asked]
        sent = torch.tensor(mine, dtype=torch.float32, device=self.device)  # exact below 2^24
        *totals, stop = self._sum(sent).tolist() if self.world > 1 else mine
        rows = [
            {i: n / max(total, 1.0) for i, n, total in zip(active, row, totals, strict=True)}
            for row in counts
        ]
        return rows, stop > 0

    def _sum(self, values: Tensor) -> Tensor:
        """Sum over processes."""
        return self.accelerator.reduce(values, reduction="sum") if self.world > 1 else values

    def _log(self, done: int, facts: dict[str, float]) -> None:
        if done % self.config.log_every and done not in (1, self.config.steps):
            return
        if self.history:
            self.history.append({"step": done, **facts})
        if self.config.trackers:
            self.accelerator.log(facts, step=done)

    def _diverged(self, step: int, micros: Sequence[Batch], facts: dict[str, float]) -> None:
        """Keep this process's batches and stop, before the weights are touched."""
        folder = self.folder / "diverged"
        bad = keep_batches(folder, step, self.rank, micros, facts)
        last_good = checkpoint.latest(self.checkpoints) or "none yet"
        raise TrainingDiverged(
            f"step {step}: {', '.join(bad)} not finite. The batches are in {folder}, the newest "
            f"checkpoint is {last_good}. Try a lower learning rate, a longer warmup or a smaller "
            "TrainConfig.clip"
        )

    def _validate(self, validators: Sequence[Validator], done: int) -> None:
        """Run validators in the main process; nothing of it reaches the training that follows."""
        if validators:
            with self.ema.swapped() if self.ema else nullcontext():
                if self.sharded:
                    gather(self.generator, self.joint.generator)
                if self.history:
                    self._measure(validators, done, self.history)
        self.accelerator.wait_for_everyone()

    def _measure(self, validators: Sequence[Validator], done: int, history: History) -> None:
        modes = [(module, module.training) for module in self.generator.modules()]
        self.generator.to(self.device).eval()
        results: dict[str, float] = {}
        with torch.no_grad():
            for validator in validators:
                # The same random numbers each time: differences are the weights'. Training does
                # not notice, for it seeds every micro-batch.
                self._seed(self.config.seed)
                results |= validator(self.generator, done, self.folder)
        for module, mode in modes:
            module.training = mode
        if self.sharded:  # its room on the device is the sharded copy's
            self.generator.cpu()
        history.append({"step": done, "validation": results})
        if self.config.trackers:
            self.accelerator.log({f"validation/{k}": v for k, v in results.items()}, step=done)

    def _checkpoint(self, done: int) -> None:
        if self.history:
            self.history.sync()
        checkpoint.save(
            self.checkpoints,
            done,
            self.identity,
            self.progress,
            self.config.keep,
            self.accelerator,
        )
        self.accelerator.wait_for_everyone()

    def finish(self, validators: Sequence[Validator]) -> None:
        """Last validation, last checkpoint (unless an earlier process did them) and export."""
        done = self.config.steps
        if self.start < done:
            self._validate(validators, done)
            self._checkpoint(done)
        if self.ema:
            self.ema.copy_to_module()
        if self.sharded:
            gather(self.whole, self.joint)
        self.generator.eval()
        if self.is_main:
            self.generator.save_pretrained(self.folder / "model")
        self.accelerator.wait_for_everyone()

    def report(self, seconds: float) -> TrainReport:
        """The report; every process reads the log that the main one wrote."""
        steady = self.step_seconds[1:]
        entries = read_log(self.folder / "log.jsonl")
        marks = [entry for entry in entries if "validation" in entry]
        return TrainReport(
            steps=self.config.steps,
            resumed_from=self.start,
            seconds=seconds,
            median_step_seconds=statistics.median(steady) if steady else math.nan,
            data_share=sum(self.data_seconds[1:]) / sum(steady) if steady else math.nan,
            history=[entry for entry in entries if "validation" not in entry],
            validation=[{"step": entry["step"], **entry["validation"]} for entry in marks],
            precision=self.precision,
            precision_reason=self.reason,
            compiled=self.compiled,
            parameters=_trainable(self.generator),
            objective_parameters=_trainable(self.whole.objectives),
            model=self.folder / "model",
        )

    def close(self) -> None:
        """End the thread of batches, close the log and finish trackers."""
        self.ahead.close()
        if self.history:
            self.history.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()


def _trainable(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
