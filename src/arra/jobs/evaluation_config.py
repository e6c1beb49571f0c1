"""What `arra evaluate` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from arra.errors import InputError
from arra.jobs.options import EncoderOptions, SourceOptions
from arra.settings import SamplingConfig

Reference = Literal["held-out", "training"]


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate, and how."""

    out: Path
    checkpoint: Path | None = None
    """None measures `pictures` against `source`."""
    store: Path | None = None
    """Rows to evaluate on; None takes what the checkpoint's run held out."""
    pictures: str | None = None
    """Pictures to judge instead of drawing: see `arra.jobs.picture_sets`."""
    source: str | None = None
    """Real pictures to compare with; None takes the rows as the codec paints them."""
    reading: SourceOptions = field(default_factory=SourceOptions)
    """How they are read."""
    statistics: Path | None = None
    """Mean and covariance of real Inception features (`.npz` with mu and sigma)."""
    reference: Reference = "held-out"
    """Which rows of the checkpoint's store are the real pictures."""
    count: int = 256
    """Pictures that are drawn, one for each caption where there are enough captions."""
    most: int = 50_000
    """Most pictures that are read of `pictures` and of `source`."""
    unguided: bool = False
    """Draw without guidance as well, and measure both."""
    inception: str | None = None
    """File of Inception weights, or "auto"."""
    encoders: tuple[str, ...] = ()
    """Encoders (folders or hub names) in which sets of pictures are compared."""
    encoder_options: EncoderOptions = field(default_factory=EncoderOptions)
    classifier: str | None = None
    """An image classifier (folder or hub name) whose classes give a classifier score."""
    towers: str | None = None
    """A CLIP model, or an encoder that was trained with captions, for the image-text score."""
    text: tuple[Path, ...] = ()
    """Files of plain text (UTF-8) whose perplexity tells whether the model can still write."""
    scenes: bool = False
    """Draw prompts of held-out digit scenes and read the pictures."""
    reader: Path | None = None
    reader_seconds: float = 40.0
    reader_steps: int | None = None
    diversity_prompts: int = 16
    diversity_seeds: int = 4
    training_rows: int = 10_000
    """Most training pictures that copies are looked for among."""
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batch: int = 64
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.count < 1 or self.most < 2:
            raise InputError(f"count {self.count}, most {self.most}: expected 1 and 2 or more")
        if self.checkpoint is None and self.pictures is None:
            raise InputError("nothing to evaluate: name a checkpoint, or pictures with --pictures")
        if self.checkpoint is None and self.source is None and self.statistics is None:
            raise InputError(
                "pictures alone: name real ones with --source, or statistics of them with "
                "--statistics"
            )
        if self.checkpoint is None and (self.store or self.scenes or self.text):
            raise InputError("--store, --scenes and --text need a checkpoint")
        if self.statistics is not None and self.inception is None:
            raise InputError("--statistics are of Inception features: give --inception as well")
