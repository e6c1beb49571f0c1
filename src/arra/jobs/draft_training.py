"""The job of `arra draft`: a raster checkpoint learns to foretell itself.

A run folder is that of `arra train`, with a drafter in `model/`, which is also kept beside the
checkpoint. `drawn.safetensors` in it holds what the checkpoint drew to learn from, if it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from arra.data.store import PreparedStore, StoredRows
from arra.data.subset import Subset, split_rows
from arra.errors import InputError, ProvenanceError
from arra.files import atomic_file, sha256_of_json, to_plain
from arra.generators.base import Generator
from arra.generators.batches import Store
from arra.generators.features import FeatureStudent
from arra.jobs.console import resumable
from arra.jobs.drafting import DRAFTER, check_drafted
from arra.jobs.training import Trained, claim_run, store_digest
from arra.objectives.features import feature_objectives
from arra.progress import track
from arra.settings import BatchConfig, SamplingConfig
from arra.text_to_image import TextToImage, checkpoint_folder, quiet_transformers
from arra.training.config import FREE_FIELDS, TrainConfig
from arra.training.loop import train

DRAWN = "drawn.safetensors"
FIRST_SEED = 1 << 40
"""Of the pictures that the checkpoint draws to learn from: far from those that are looked at."""


@dataclass(frozen=True)
class DraftNetwork:
    """The network that foretells features, and how it learns."""

    depth: int = 1
    """Decoder blocks."""
    heads: int = 4
    feed_forward: int = 0
    """Inner width of the blocks; 0: eight thirds of the width."""
    noise: float = 0.2
    """Width of the uniform noise on the features that it reads in training."""
    feature_weight: float = 1.0
    """Weight of the smooth L1 between features and the target's."""
    law_weight: float = 0.1
    """Weight of the cross-entropy between the head's laws of both."""


@dataclass(frozen=True)
class DraftTraining:
    """Whose features are learnt, of what, and how."""

    target: Path
    """A checkpoint, or a run with `model/`."""
    store: Path
    """Captions, and the codes to learn from."""
    out: Path
    """Folder of the run."""
    drawn: int = 0
    """Instead of the store's codes so many pictures that the checkpoint draws of its captions."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How it draws them."""
    network: DraftNetwork = field(default_factory=DraftNetwork)
    batch: BatchConfig = field(default_factory=BatchConfig)
    training: TrainConfig = field(default_factory=TrainConfig)
    held_out_share: float = 0.05
    """Share of the rows on which the drafter is compared with the target."""
    device: str = "cpu"
    """Where the checkpoint draws."""

    def decides(self) -> dict[str, Any]:
        """Everything but store and target that the weights depend on, as plain JSON."""
        plain = to_plain(self)
        names = ("network", "batch", "held_out_share", "drawn", *(("sampling",) * bool(self.drawn)))
        free = {*FREE_FIELDS, "precision"}  # as for `arra train`
        if self.training.schedule == "constant":
            free.add("steps")
        training = {k: v for k, v in plain["training"].items() if k not in free}
        return {**{name: plain[name] for name in names}, "training": training}


def run_draft_training(job: DraftTraining) -> Trained:
    """Train, going on from a checkpoint where there is one, and keep the drafter.

    Raises `InputError` where the checkpoint's codes cannot be drafted, `ProvenanceError` for a
    store of another codec or tokenizer, and what `train` raises.
    """
    if job.drawn < 0:
        raise InputError(f"drawn: {job.drawn}, expected 0 or more")
    with quiet_transformers():
        return _run(job, TextToImage.from_pretrained(job.target, job.device))


def _run(job: DraftTraining, model: TextToImage) -> Trained:
    store, wanted = PreparedStore.open(job.store), job.network
    check_drafted(model, model.generator.units)
    store.check(codec=model.codec)
    check_captions(model.generator, store)
    facts = {
        "store": str(job.store.absolute()),
        "held_out": None,
        "held_out_share": job.held_out_share,
    }
    decides = {"store": store_digest(store), "target": model.fingerprint(), **job.decides()}
    claim_run(job.out, facts, decides, {**vars(job), "align": []})
    codes = drawn_codes(job, model, store, sha256_of_json(decides)) if job.drawn else None
    kept, out = split_rows(job.drawn or len(store), job.held_out_share)
    student = FeatureStudent.of(
        model.generator,
        depth=wanted.depth,
        heads=wanted.heads,
        feed_forward=wanted.feed_forward,
        noise=wanted.noise,
        seed=job.training.seed,
    )
    report = train(
        student,
        feature_objectives(wanted.feature_weight, wanted.law_weight),
        student.batches(_rows(store, kept, codes), job.batch),
        job.training,
        job.out,
        validators=[Agreement(_rows(store, out, codes), job.batch.size)] if len(out) else [],
        progress_label="draft",
    )
    from accelerate import PartialState

    state = PartialState()
    if state.is_main_process:
        student.network.cpu().save_pretrained(checkpoint_folder(job.target) / DRAFTER)
    state.wait_for_everyone()
    return Trained(job.out, report, {}, state.is_main_process)


def check_captions(generator: Generator, store: PreparedStore) -> None:
    """`ProvenanceError` where the first caption has other ids than the generator gives it: its
    tokenizer may have more tokens than the store's, but those of captions are the same."""
    (caption,), (stored,) = store.captions([0]), store.rows([0], ()).text_ids
    if generator.caption_ids(caption) != list(stored):
        raise ProvenanceError(
            f"{store.folder}: its captions were read by another tokenizer than the checkpoint's; "
            "prepare it again with the checkpoint's tokenizer"
        )


def drawn_codes(
    job: DraftTraining, model: TextToImage, store: PreparedStore, digest: str
) -> Tensor:
    """(drawn, ...) int64: what the checkpoint draws of the store's captions, row after row; drawn
    once, by settings of this digest."""
    path = job.out / DRAWN
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("settings") == digest:
                return file.get_tensor("codes")
    captions = store.captions(np.arange(job.drawn) % len(store))
    seeds = range(FIRST_SEED, FIRST_SEED + job.drawn)
    with resumable("drawing"), track("draw", job.drawn * model.generator.units) as task:
        codes = model.draw_codes(captions, list(seeds), job.sampling, on_unit=task.advance).cpu()
    with atomic_file(path) as temporary:
        save_file({"codes": codes}, temporary, {"settings": digest})
    return codes


@dataclass(frozen=True)
class Redrawn:
    """Texts of a store's rows, again and again, with codes of their own."""

    store: PreparedStore
    numbers: np.ndarray
    """(N,) which row, counted on over the store's end."""
    codes: Tensor
    """(N, ...)."""

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(
        self, indices: Sequence[int] | np.ndarray, features: Sequence[str] | None = None
    ) -> StoredRows:
        """As `PreparedStore.rows`."""
        chosen = np.asarray(indices, dtype=np.int64)
        found = self.store.rows(self.numbers[chosen] % len(self.store), features)
        return replace(found, codes=self.codes[torch.from_numpy(chosen)])

    def text_lengths(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """As `PreparedStore.text_lengths`."""
        return self.store.text_lengths(self.numbers[np.asarray(indices)] % len(self.store))


def _rows(store: PreparedStore, rows: np.ndarray, codes: Tensor | None) -> Store:
    if codes is None:
        return Subset(store, rows)
    return Redrawn(store, rows, codes[torch.from_numpy(rows)])


class Agreement:
    """A validator: how near the drafter's laws are to the target's, told the true features."""

    def __init__(self, rows: Store, batch: int, most: int = 512):
        self.rows, self.batch, self.most = rows, batch, most

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        overlap = same = count = 0.0
        batches = generator.batches(self.rows, BatchConfig(size=1), ())
        for batch in batches.in_order(self.batch, self.most):
            found = generator(batch.to(generator.device))
            mine, true = found.logits.float(), found.true_logits.float()
            overlap += float(torch.minimum(mine.softmax(-1), true.softmax(-1)).sum())
            same += float((mine.argmax(-1) == true.argmax(-1)).sum())
            count += len(mine)
        return {"accepted": overlap / count, "same_likeliest": same / count}
