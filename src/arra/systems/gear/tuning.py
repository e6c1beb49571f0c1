"""The loop of joint training: exact resume, averages, checkpoints that are whole or not there."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arra.codecs.losses import FeatureMaps
from arra.codecs.quantized import QuantizedCodec
from arra.errors import InputError
from arra.files import read_json, to_plain
from arra.networks.part import tensors_fingerprint
from arra.progress import Task, track
from arra.systems.gear.routing import Guide, Routing
from arra.systems.gear.settings import GearConfig
from arra.systems.gear.views import View
from arra.text_to_image import TextToImage
from arra.training import checkpoint
from arra.training.ema import Ema
from arra.training.history import History
from arra.training.identity import check_same_run, step_seed
from arra.training.stopping import StopRequest, TrainingInterrupted, stop_on_signal


@dataclass(frozen=True)
class TuneReport:
    """What a finished run did."""

    steps: int
    """Updates in all."""
    resumed_from: int
    """Updates that an earlier process had done."""
    seconds: float
    """Wall-clock time of this process's part of the run."""
    history: list[dict[str, Any]]
    """Logged steps: step (updates done), the losses by name, seconds."""
    codec: Path
    """Folder of the tuned codec (averaged weights, if there is an average)."""


def tune_codec(
    codec: QuantizedCodec,
    views: Callable[[int], View],
    config: GearConfig,
    folder: str | Path,
    guide: Guide | None = None,
    *,
    features: FeatureMaps | None = None,
    quiet: bool = False,
) -> TuneReport:
    """Tune `codec` in place, going on from a checkpoint where there is one.

    Writes `checkpoints/`, `log.jsonl` and `codec/` to `folder`, and, with a `guide`, `model/`: the
    generator that learnt beside the codec, with it. Without a guide the codec is tuned for
    reconstruction alone: the control that costs as many steps. One process, on the codec's device.
    A run that is killed and started again ends with the same weights as one that was not.

    `features` gives the feature maps of the perceptual term. Raises `InputError` for another run in
    the folder, `TrainingDiverged` and `TrainingInterrupted` as `train` does.
    """
    began = time.perf_counter()
    with ExitStack() as stack:
        # dropout knows only torch's global generators: the caller gets his back afterwards
        stack.enter_context(torch.random.fork_rng(devices=_cuda(codec)))
        run = _Run(codec, views, config, Path(folder), guide, features)
        stack.callback(run.close)
        request = stack.enter_context(stop_on_signal())
        left = config.steps - run.start
        task = stack.enter_context(track("tune the codec", left, quiet=quiet or left == 0))
        run.loop(request, task)
        run.finish()
        seconds = time.perf_counter() - began
        return TuneReport(
            config.steps, run.start, seconds, run.history.entries, run.folder / "codec"
        )


def _cuda(codec: QuantizedCodec) -> list[torch.device]:
    return [codec.device] if codec.device.type == "cuda" else []


class _Run:
    """The state of one call of `tune_codec`."""

    def __init__(
        self,
        codec: QuantizedCodec,
        views: Callable[[int], View],
        config: GearConfig,
        folder: Path,
        guide: Guide | None,
        features: FeatureMaps | None,
    ):
        self.codec, self.views, self.config = codec, views, config
        self.folder, self.guide = folder, guide
        identity = self._identity()
        self.networks = nn.ModuleDict({"codec": codec})
        if guide is not None:
            self.networks["generator"] = guide.generator
            guide.alignment.to(codec.device)
        self.networks.to(codec.device)
        self.routing = Routing(codec, guide, config, features)
        self.helpers = nn.ModuleDict()
        if guide is not None:
            self.helpers["alignment"] = guide.alignment
        if self.routing.terms.adversary is not None:
            self.helpers["discriminator"] = self.routing.terms.adversary.discriminator
        self.ema = None if config.ema is None else Ema(self.networks, config.ema)
        self.progress = checkpoint.Progress(
            self.networks, self.helpers, self.routing.optimizers, self.ema
        )
        self.checkpoints = folder / "checkpoints"
        self.run, self.start = identity, self._restore(identity)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.clean(self.checkpoints)
        self.history = History(folder / "log.jsonl", self.start)

    def _identity(self) -> dict[str, Any]:
        """Everything that decides the weights, before anything has learnt."""
        view, found = self.views(0), {"GearConfig": to_plain(self.config.decides())}
        tensors = {"pictures": view.pictures}
        if view.prompted is not None:
            tensors |= {"tokens": view.prompted.tokens, **view.prompted.features}
        found["first_view"] = tensors_fingerprint(tensors)
        found["codec"] = self.codec.fingerprint()
        if self.guide is not None:
            found["generator"] = self.guide.generator.fingerprint()
            found["alignment"] = self.guide.alignment.settings()
        return json.loads(json.dumps(found))

    def _restore(self, identity: dict[str, Any]) -> int:
        """The number of updates in the newest checkpoint, which is put in place; 0 without one."""
        path = checkpoint.latest(self.checkpoints)
        if path is None:
            return 0
        state = read_json(path / "state.json")
        check_same_run(state["run"], identity, path)
        if state["step"] > self.config.steps:
            raise InputError(
                f"GearConfig.steps: {self.config.steps}, but {path} is {state['step']} steps on; "
                "expected at least that many, or another folder"
            )
        checkpoint.restore(path, self.progress)
        return int(state["step"])

    def loop(self, request: StopRequest, task: Task) -> None:
        """All steps that are left."""
        config, device = self.config, self.codec.device
        for step in range(self.start, config.steps):
            began, view = time.perf_counter(), _on(self.views(step), device)
            seed = step_seed(config.seed, step)
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)
            values = self.routing.step(step, view)
            if self.ema is not None:
                self.ema.update(step + 1)
            done = step + 1
            if done % config.log_every == 0 or done in (1, config.steps):
                seconds = time.perf_counter() - began
                self.history.append({"step": done, **values, "seconds": seconds})
            task.advance(note=f"l1 {values.get('codec/l1', math.nan):.4f}")
            if done == config.steps or request.signal or done % config.checkpoint_every == 0:
                self._checkpoint(done)
            if request.signal and done < config.steps:
                raise TrainingInterrupted(
                    f"stopped after step {done} of {config.steps}; the checkpoint is in "
                    f"{self.checkpoints}: run the same command again to go on from there",
                    request.signal or signal.SIGINT,
                )

    def _checkpoint(self, done: int) -> None:
        self.history.sync()
        checkpoint.save(
            self.checkpoints,
            done,
            self.run,
            self.progress,
            self.config.keep,
        )

    def finish(self) -> None:
        """Put the averages in place and save what users take away."""
        if self.ema is not None:
            self.ema.copy_to_module()
        self.networks.eval()
        self.codec.save_pretrained(self.folder / "codec")
        if self.guide is not None:
            generator = self.guide.generator
            generator.config = replace(generator.config, codec=self.codec.fingerprint())
            TextToImage(generator, self.codec).save_pretrained(self.folder / "model")

    def close(self) -> None:
        """Close the log."""
        self.history.close()


def _on(view: View, device: torch.device) -> View:
    return View(
        view.pictures.to(device),
        None if view.prompted is None else view.prompted.to(device),
        None if view.dropped is None else view.dropped.to(device),
    )
