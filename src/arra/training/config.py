"""What a training run is told: `TrainConfig`, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from arra.errors import InputError

FREE_FIELDS = frozenset(
    {
        "accumulation",  # with the number of processes: their product counts, see `identity`
        "activation_checkpointing",
        "checkpoint_every",
        "keep",
        "validate_every",
        "log_every",
        "trackers",
    }
)
"""Fields that may differ when a run is resumed: they do not change the weights."""


@dataclass(frozen=True)
class TrainConfig:
    """How a generator is trained. One step is one update of the weights."""

    steps: int = 1000
    """Number of updates."""
    learning_rate: float = 3e-4
    """Peak learning rate. Muon's updates are scaled to AdamW's size, times `muon_scale`."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """"muon" is Muon for hidden matrices and AdamW for embeddings, head, norms and projectors."""
    muon_scale: float = 1.0
    """Muon's step relative to AdamW's. Small models from scratch took 3 well."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; norms, biases and embeddings have none."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from near 0."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    """After the warmup: constant, or falling to 0 at `steps` along a cosine, a line, or, "wsd"
    (warmup, stable, decay), constant first and then a line."""
    decay_share: float = 0.2
    """Share of the steps after the warmup that "wsd" decays for."""
    clip: float | None = 1.0
    """Largest norm of the gradient (all parameters together); None does not clip."""
    accumulation: int = 1
    """Micro-batches whose gradients make one step, in each process."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the arithmetic in forward and backward; weights are float32 always. "auto" is bf16 on CUDA
    and, elsewhere, wherever a short measurement finds it clearly faster."""
    ema: float | None = None
    """Decay of the moving average of the weights that validation and export use; None has none."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step has one too."""
    keep: int = 2
    """Number of checkpoints kept, the newest ones."""
    validate_every: int | None = None
    """Steps between validations; None validates after the last step only."""
    log_every: int = 10
    """Steps between lines of the log; the first and the last step have one too."""
    seed: int = 0
    """Of dropout and of everything else that is random within a forward pass."""
    compile: bool = False
    """Compile decoder blocks, where the generator offers `compile_blocks()`."""
    activation_checkpointing: bool = False
    """Keep only the inputs of blocks and compute the rest again in the backward pass: less memory,
    about a third more time, the same weights."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers by accelerate's names, such as "tensorboard"."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "checkpoint_every", "keep", "log_every"):
            self._expect(name, _whole(getattr(self, name), 1), "a whole number of at least 1")
        every = self.validate_every
        self._expect("validate_every", every is None or _whole(every, 1), "None or at least 1")
        self._expect("warmup", _whole(self.warmup, 0), "a whole number of at least 0")
        self._expect("warmup", self.warmup <= self.steps, f"at most steps ({self.steps})")
        self._expect("seed", _whole(self.seed, 0), "a whole number of at least 0")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            self._expect(name, 0 <= value < math.inf, "a finite number of at least 0")
        self._expect("muon_scale", 0 < self.muon_scale < math.inf, "a finite number above 0")
        self._expect("betas", _pair(self.betas), "two numbers, each at least 0 and below 1")
        self._expect("decay_share", 0 < self.decay_share <= 1, "above 0 and at most 1")
        self._expect("clip", self.clip is None or 0 < self.clip < math.inf, "None or above 0")
        self._expect("ema", self.ema is None or 0 <= self.ema < 1, "None or in [0, 1)")
        self._choice("optimizer", "adamw", "muon")
        self._choice("schedule", "constant", "cosine", "linear", "wsd")
        self._choice("precision", "auto", "fp32", "bf16")
        names = isinstance(self.trackers, tuple) and all(isinstance(n, str) for n in self.trackers)
        self._expect("trackers", names, "a tuple of names, such as ('tensorboard',)")

    def _expect(self, field: str, holds: bool, expected: str) -> None:
        if not holds:
            value = getattr(self, field)
            raise InputError(f"TrainConfig.{field}: {value!r}, expected {expected}")

    def _choice(self, field: str, *choices: str) -> None:
        self._expect(field, getattr(self, field) in choices, f"one of {', '.join(choices)}")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(0 <= beta < 1 for beta in value)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of step `step` (from 0): a pure function, so nothing of it is saved.

    The warmup reaches the peak at step `warmup - 1`; decaying schedules would reach 0 at `steps`,
    one step after the last.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    left = max(1.0 - done, 0.0)
    factor = {
        "constant": 1.0,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))),
        "linear": left,
        "wsd": min(1.0, left / config.decay_share),
    }[config.schedule]
    return config.learning_rate * factor
