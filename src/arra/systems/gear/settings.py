"""How a codec is tuned; light to import, for help on the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from arra.errors import InputError

FREE_FIELDS = frozenset({"steps", "checkpoint_every", "keep", "log_every"})
"""Fields that may differ when a run is resumed: they do not change the weights of a step."""


@dataclass(frozen=True)
class GearConfig:
    """Joint training of a codec and the generator that guides it (GEAR's stage 1)."""

    steps: int = 2000
    """Updates of codec and generator."""
    batch: int = 64
    """Pictures a step."""
    learning_rate: float = 3e-4
    """Of both AdamW optimisers, constant (the paper: 1e-4 for batches of 256)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    clip: float = 1.0
    """Largest norm of the gradient, of codec and generator each."""
    ema: float | None = 0.999
    """Decay of the average of codec and generator, the same for both so that they lag alike; it is
    what is saved (the paper: 0.9999). None saves the last weights."""
    temperature: float = 0.1
    """Of the soft assignment softmax(-distance / temperature)."""
    codec_alignment: float = 0.5
    """Weight of the alignment loss in the codec's step; 0 tunes for reconstruction alone."""
    read_out: Literal["soft", "straight-through"] = "soft"
    """How the generator reads codes in the codec's step: as mixtures, or exact codes with the
    mixtures' gradient."""
    next_token: float = 0.0
    """Weight of the next-token loss in the codec's step. Above 0 it makes codes trivial to predict
    and worthless: GEAR never does it; it is here as the baseline that collapses."""
    crop: int = 1
    """Pictures are moved by up to this many pixels along each side, at random."""
    flip: bool = False
    """Half of the pictures are mirrored: not for digits or text."""
    drop_caption: float = 0.1
    """Share of captions dropped in the generator's step."""
    l1: float = 1.0
    """Weight of the mean absolute difference of pixels."""
    l2: float = 0.0
    """Weight of the mean squared difference of pixels."""
    perceptual: float = 0.0
    """Weight of the distance of feature maps."""
    adversarial: float = 0.0
    """Weight of a discriminator's opinion (the paper: 0.1); 0 has none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the networks' arithmetic; distances, assignments and losses are float32 always."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step has one too."""
    keep: int = 2
    """Number of checkpoints kept."""
    log_every: int = 10
    """Steps between lines of the log."""
    seed: int = 0
    """Of the order and the crops of pictures, of dropped captions and of dropout."""

    def __post_init__(self) -> None:
        def check(name: str, fine: bool, expected: str) -> None:
            if not fine:
                found = getattr(self, name)
                raise InputError(f"GearConfig.{name}: {found!r}, expected {expected}")

        for name in ("steps", "batch", "checkpoint_every", "keep", "log_every"):
            check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "clip", "temperature"):
            check(name, 0 < getattr(self, name) < math.inf, "a finite number above 0")
        for name in ("codec_alignment", "next_token", "l1", "l2", "perceptual", "adversarial"):
            check(name, 0 <= getattr(self, name) < math.inf, "a finite number of at least 0")
        check("crop", self.crop >= 0, "at least 0")
        check("drop_caption", 0 <= self.drop_caption <= 1, "0 to 1")
        check("ema", self.ema is None or 0 <= self.ema < 1, "None or in [0, 1)")
        check("read_out", self.read_out in ("soft", "straight-through"), "soft, straight-through")
        check("precision", self.precision in ("fp32", "bf16"), "fp32 or bf16")

    def decides(self) -> dict[str, object]:
        """The fields that the weights after a given step depend on."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in FREE_FIELDS}
