"""What a model wrote while it learnt: drawn every so many steps, kept as files, read by batches.

Step s reads what was written after at most s - 1 steps, for the loop makes one batch ahead. The
files are a function of the weights, so that a run that is stopped and started again finds, or
writes again, the very same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arra.errors import InputError
from arra.files import atomic_file, sha256_of_json
from arra.generators.backspace_batches import Text


@dataclass(frozen=True)
class ReplayConfig:
    """When the model writes, and how much."""

    start: int = 25
    """Steps after which it does so for the first time, not before the first update."""
    every: int = 25
    """Steps between two times."""
    texts: int = 128
    """Texts at a time."""
    kept: int = 4
    """Of how many times texts are learnt from: newer ones take the place of the oldest."""
    batch: int = 16
    """Texts in a batch, beside those of the data."""

    def __post_init__(self) -> None:
        for name in ("every", "texts", "kept", "batch"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"ReplayConfig.{name}: {value}, expected at least 1")
        if self.start < 1 or self.start % self.every:
            raise InputError(
                f"ReplayConfig.start: {self.start}, expected a multiple of every ({self.every})"
            )


class Replay:
    """The texts of a run, in `folder`."""

    def __init__(self, folder: Path, config: ReplayConfig, seed: int = 0):
        self.folder, self.config, self.seed = folder, config, seed
        self._identity = sha256_of_json([asdict(config), seed])
        self._held: dict[int, list[Text]] = {}

    def is_due(self, done: int) -> bool:
        """Whether the model writes after `done` steps."""
        late = done - self.config.start
        return late >= 0 and late % self.config.every == 0

    def times(self, step: int) -> list[int]:
        """After how many steps the texts that `step` learns from were written."""
        config = self.config
        newest = config.start + (step - 1 - config.start) // config.every * config.every
        oldest = max(config.start, newest - (config.kept - 1) * config.every)
        return list(range(oldest, newest + 1, config.every))

    def sample(self, step: int, rng: np.random.Generator) -> list[Text]:
        """`config.batch` of the texts that `step` learns from; none before there are any."""
        held = [text for done in self.times(step) for text in self._texts(done)]
        if not held:
            return []
        return [held[i] for i in rng.integers(len(held), size=self.config.batch)]

    def write(self, done: int, texts: Sequence[Text]) -> None:
        """Keep what was written after `done` steps."""
        columns = {
            "prompts": _padded([prompt for prompt, _ in texts]),
            "actions": _padded([actions for _, actions in texts]),
        }
        with atomic_file(self._file(done)) as temporary:
            save_file(columns, str(temporary), metadata={"settings": self._identity})
        self._hold(done, list(texts))

    def _texts(self, done: int) -> list[Text]:
        if done not in self._held:
            self._hold(done, self._read(done))
        return self._held[done]

    def _hold(self, done: int, texts: list[Text]) -> None:
        self._held[done] = texts
        for old in sorted(self._held)[: -self.config.kept - 1]:
            self._held.pop(old, None)

    def _file(self, done: int) -> Path:
        return self.folder / f"texts-{done:08d}.safetensors"

    def _read(self, done: int) -> list[Text]:
        file = self._file(done)
        try:
            with safe_open(str(file), framework="pt") as handle:
                identity = (handle.metadata() or {}).get("settings")
                columns = [handle.get_tensor(name) for name in ("prompts", "actions")]
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{file}: the texts after step {done} cannot be read ({error}); does the run "
                f"write them, every {self.config.every} steps?"
            ) from error
        if identity != self._identity:
            raise InputError(f"{file}: was written with other settings; use another folder")
        prompts, actions = ([[i for i in row if i >= 0] for row in c.tolist()] for c in columns)
        return list(zip(prompts, actions, strict=True))


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """(N, L) int32, -1 where a row has ended."""
    length = max(1, *map(len, rows))
    filled = [[*row, *[-1] * (length - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.int32)
