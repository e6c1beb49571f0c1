"""Training a codec: one small loop, because a codec fits one device."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from arra.codecs.base import Codec
from arra.codecs.losses import FeatureMaps, ReconstructionConfig, ReconstructionLoss
from arra.codecs.measuring import CodecReport, evaluate_codec
from arra.errors import InputError, TrainingDiverged
from arra.pixels import to_unit
from arra.precision import autocast, bf16_speed
from arra.progress import track

Pictures = Tensor | Callable[[int], Tensor]
"""uint8 (N, H, W, 3) or (N, 3, H, W); or step -> float batch (B, 3, H, W) in [-1, 1]."""


@dataclass(frozen=True)
class CodecTraining:
    """How a codec is trained."""

    steps: int = 2000
    """Most optimiser steps."""
    seconds: float | None = None
    """Most seconds. The schedule then follows whichever of steps and seconds is further on, so that
    the learning rate reaches 0 in time; runs are no longer repeatable bit for bit."""
    batch: int = 64
    """Pictures a step, where pictures come as a tensor."""
    lr: float = 2e-3
    """Highest learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    weight_decay: float = 0.0
    """Weight decay of AdamW on matrices and kernels (not on the codebook, norms and biases)."""
    warmup: int = 50
    """Steps over which the learning rate rises from 0."""
    decay: Literal["cosine", "linear"] = "cosine"
    """How it falls to 0."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float | None = None
    """Decay of an average of the weights that replaces them at the end; None for no average."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """"auto" times both on the first batch and takes bf16 only where it is faster by a tenth."""
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    """The terms between picture and reconstruction."""
    held_out: float = 0.05
    """Share of a picture tensor that is kept for measuring (at least one picture, at most 1024)."""
    record_every: int = 50
    """Steps between entries of the history."""
    quiet: bool = False
    """Show no progress."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "lr", "clip", "record_every")
        for name in positive:
            if getattr(self, name) <= 0:
                raise InputError(
                    f"CodecTraining.{name}: {getattr(self, name)}, expected more than 0"
                )
        if self.seconds is not None and self.seconds <= 0:
            raise InputError(f"CodecTraining.seconds: {self.seconds}, expected more than 0 or None")
        if self.warmup < 0:
            raise InputError(f"CodecTraining.warmup: {self.warmup}, expected at least 0")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise InputError(f"CodecTraining.ema: {self.ema}, expected 0 <= decay < 1")
        if not 0 < self.held_out < 1:
            raise InputError(f"CodecTraining.held_out: {self.held_out}, expected 0 < share < 1")
        if self.decay not in ("cosine", "linear"):
            raise InputError(f"CodecTraining.decay: {self.decay!r}, expected cosine or linear")
        if self.precision not in ("fp32", "bf16", "auto"):
            raise InputError(
                f"CodecTraining.precision: {self.precision!r}, expected fp32, bf16, auto"
            )


class _Schedule:
    """How far training has come, in [0, 1], and the learning rate there."""

    def __init__(self, config: CodecTraining):
        self.config, self.start = config, time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def progress(self, step: int) -> float:
        done = step / self.config.steps
        if self.config.seconds is not None:
            done = max(done, self.elapsed() / self.config.seconds)
        return min(done, 1.0)

    def factor(self, step: int, progress: float) -> float:
        rise = min(1.0, (step + 1) / (self.config.warmup + 1))
        if self.config.decay == "linear":
            return rise * (1.0 - progress)
        return rise * 0.5 * (1.0 + math.cos(math.pi * progress))


def bf16_is_faster(codec: Codec, pictures: Tensor) -> bool:
    """Whether forward and backward of a copy take a tenth less time in bf16."""
    trial = copy.deepcopy(codec).train()

    def attempt(bf16: bool) -> None:
        with autocast(trial.device, bf16):
            output = trial(pictures)
        (output.reconstruction.float().mean() + sum(output.losses.values())).backward()

    return bf16_speed(attempt, trial.device) > 1 / 0.9


def _optimizer(codec: Codec, config: CodecTraining) -> torch.optim.AdamW:
    kernels = {
        id(module.weight) for module in codec.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    decayed = [p for p in codec.parameters() if id(p) in kernels]
    others = [p for p in codec.parameters() if id(p) not in kernels]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=config.lr, betas=config.betas, fused=True)


def _average(codec: Codec, decay: float) -> AveragedModel:
    """An average of the weights whose decay rises with its age, so that the start is forgotten."""

    def blend(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        now = min(decay, (1.0 + float(count)) / (10.0 + float(count)))
        return averaged.lerp(current, 1.0 - now)

    return AveragedModel(codec, avg_fn=blend)


def _sources(
    pictures: Pictures, config: CodecTraining, validation: Tensor | None, generator: torch.Generator
) -> tuple[Callable[[int], Tensor], Tensor]:
    """A function from step to float batch, and the pictures to measure on."""
    if not isinstance(pictures, Tensor):
        if validation is None:
            # steps beyond the last: a function of the step makes other pictures there
            validation = torch.cat([pictures(config.steps + extra).cpu() for extra in range(4)])
        return pictures, validation
    if validation is None:
        if len(pictures) < 2:
            raise InputError(f"pictures: {len(pictures)}, expected at least 2 (one is held out)")
        count = min(max(1, round(len(pictures) * config.held_out)), 1024, len(pictures) - 1)
        order = torch.randperm(len(pictures), generator=generator)
        validation, pictures = pictures[order[:count]], pictures[order[count:]]
    if len(pictures) == 0:
        raise InputError("pictures: none to train on")
    train = pictures

    def draw(step: int) -> Tensor:
        chosen = torch.randint(len(train), (config.batch,), generator=generator)
        return to_unit(train[chosen.to(train.device)])

    return draw, validation


class _Trainer:
    """Codec, losses and optimiser of one training; `step` does one optimiser step."""

    def __init__(
        self, codec: Codec, reconstruction: ReconstructionLoss, config: CodecTraining, bf16: bool
    ):
        self.codec, self.reconstruction, self.config = codec, reconstruction, config
        self.bf16, self.device = bf16, codec.device
        self.optimizer = _optimizer(codec, config)
        self.average = _average(codec, config.ema) if config.ema is not None else None

    def step(self, step: int, batch: Tensor, lr: float) -> dict[str, float]:
        """Learn from one batch at learning rate `lr`; the named losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with autocast(self.device, self.bf16):
            output = self.codec(batch)
        reconstruction = output.reconstruction.float()
        losses = output.losses | self.reconstruction.of_all(output, batch, step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        norm = float(nn.utils.clip_grad_norm_(self.codec.parameters(), self.config.clip))
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if not math.isfinite(norm + sum(values.values())):
            raise _diverged(values, norm, step)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.codec)
        adversary = self.reconstruction.adversary
        if adversary is not None and self.reconstruction.adversarial_at(step):
            values["discriminator"] = float(adversary.update(batch, reconstruction))
            for made, target in output.smaller:
                if self.reconstruction.looks_at(target):
                    adversary.update(target, made.float())
        return values

    def finish(self) -> None:
        """Put the averaged weights in place, if there are any, and switch to evaluation."""
        if self.average is not None:
            self.codec.load_state_dict(self.average.module.state_dict())
        self.codec.eval()


def _diverged(losses: dict[str, float], norm: float, step: int) -> TrainingDiverged:
    values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    return TrainingDiverged(
        f"step {step}: a loss or gradient is not finite ({values}, gradient norm {norm:.4g}); "
        "lower CodecTraining.lr or raise CodecTraining.warmup"
    )


def train_codec(
    codec: Codec,
    pictures: Pictures,
    config: CodecTraining | None = None,
    *,
    generator: torch.Generator,
    validation: Tensor | None = None,
    features: FeatureMaps | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> CodecReport:
    """Train `codec` in place, on its own device, and measure it on pictures that were held out.

    `validation` are the pictures to measure on (as `evaluate_codec` takes them); without it a share
    of a tensor of pictures is set aside, or, of a function, four batches beyond the last step.
    `features` gives the feature maps of the perceptual term. `on_step` gets the step and its
    losses. `generator` is a CPU generator; it chooses pictures and seeds the discriminator.
    The codec is left in evaluation mode.

    Raises `TrainingDiverged` when a loss or gradient is not finite; the weights are then those
    before the bad step. Raises `InputError` for pictures of the wrong shape.
    """
    config = config or CodecTraining()
    device = codec.device
    draw, held_out = _sources(pictures, config, validation, generator)
    terms = ReconstructionLoss(config.reconstruction, features, device, generator)
    bf16 = config.precision == "bf16"
    if config.precision == "auto":
        state = generator.get_state()
        bf16 = bf16_is_faster(codec, draw(0).to(device))
        generator.set_state(state)
    trainer = _Trainer(codec.train(), terms, config, bf16)
    history: list[dict[str, float]] = []
    schedule, step, shown = _Schedule(config), 0, 0
    with track(f"Training the {codec.registered_name} codec", config.steps, config.quiet) as task:
        while (progress := schedule.progress(step)) < 1.0:
            lr = config.lr * schedule.factor(step, progress)
            losses = trainer.step(step, draw(step).to(device, non_blocking=True), lr)
            if step % config.record_every == 0:
                history.append({"step": float(step), "lr": lr, **losses})
            if on_step is not None:
                on_step(step, losses)
            step += 1
            done = round(schedule.progress(step) * config.steps)
            task.advance(done - shown, f"loss {sum(losses.values()):.4f}")
            shown = done
    seconds = schedule.elapsed()
    trainer.finish()
    report = evaluate_codec(codec, held_out)
    return replace(report, steps=step, seconds=seconds, history=tuple(history))
