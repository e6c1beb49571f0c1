"""The job of `arra train`: a store in, a run folder with a text-to-image model out.

A run folder holds `run.json` (what was asked for), `log.jsonl`, `checkpoints/`, `samples/`
(pictures drawn on the way) and, once training is finished, `model/`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arra.data.store import PreparedStore
from arra.data.subset import Subset, split_rows
from arra.errors import InputError, ProvenanceError
from arra.files import read_json, sha256_of_file, sha256_of_json, to_plain, write_json
from arra.generators.raster import RasterGenerator
from arra.jobs.model import StartingPoint, build_generator, build_objectives, check_window
from arra.jobs.plain_text import TextAbility, pieces
from arra.jobs.validation import HeldOut, Rows, Samples
from arra.objectives.base import features_of
from arra.settings import AlignmentConfig, BatchConfig, SamplingConfig
from arra.text_to_image import TextToImage, quiet_transformers
from arra.training.config import FREE_FIELDS, TrainConfig
from arra.training.identity import check_same_run
from arra.training.loop import train
from arra.training.report import TrainReport, Validator

RUN = "run.json"


@dataclass(frozen=True)
class Training:
    """What to train, on what, and how."""

    store: Path
    """Folder of the prepared store."""
    out: Path
    """Folder of the run."""
    start: StartingPoint = field(default_factory=StartingPoint)
    """What learns to draw, and how much of it is trained."""
    align: tuple[AlignmentConfig, ...] = (AlignmentConfig(),)
    """Terms of representation alignment; none trains without."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    training: TrainConfig = field(default_factory=TrainConfig)
    z_loss: float = 0.0
    held_out: Path | None = None
    """Another store, of the same codec and tokenizer, to validate on."""
    held_out_share: float = 0.05
    """Share of the rows that are held out where no other store is given."""
    samples: int = 8
    """Captions drawn at each validation."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    text: tuple[Path, ...] = ()
    """Files of plain text on which the model's perplexity is measured, before and after."""
    replay: tuple[Path, ...] = ()
    """Files of plain text that are part of the training; `batch.replay` says how much."""

    def decides(self) -> dict[str, Any]:
        """Everything that the weights depend on, as plain JSON."""
        plain = to_plain(self)
        kept = ("align", "batch", "training", "z_loss", "held_out_share")
        settings = {**plain["start"], **{name: plain[name] for name in kept}}
        if self.start.lm is not None:
            del settings["sizes"], settings["generator"]
        settings["adapter"].pop("save")
        if self.batch.replay:
            settings["replay"] = [sha256_of_file(path) for path in self.replay]
        if self.held_out is not None:
            settings["held_out_share"] = 0.0
        align: dict[str, Any] = {}
        for number, term in enumerate(plain["align"]):
            if term["weight"]:
                align.update({f"also {number}": term} if number else term)
        settings["align"] = align or None
        free = {*FREE_FIELDS, "precision"}  # the loop itself sees to the precision
        if self.training.schedule == "constant":
            free.add("steps")
        settings["training"] = {k: v for k, v in plain["training"].items() if k not in free}
        return settings


@dataclass(frozen=True)
class Trained:
    """What a run made."""

    folder: Path
    report: TrainReport
    text: dict[str, float]
    """Perplexity of plain text before and after; with an adapter, also without it. Or nothing."""
    is_main: bool
    """Whether this is the one process that reports (of several that `accelerate launch` began)."""

    def summary(self) -> dict[str, Any]:
        """Plain values for programs."""
        report = self.report
        last = report.history[-1] if report.history else {}
        return {
            "run": str(self.folder),
            "model": str(report.model),
            "steps": report.steps,
            "resumed_from": report.resumed_from,
            "seconds": report.seconds,
            "step_seconds": report.median_step_seconds,
            "data_share": report.data_share,
            "precision": report.precision,
            "compiled": report.compiled,
            "parameters": report.parameters,
            "objective_parameters": report.objective_parameters,
            "last": last,
            "validation": report.validation[-1] if report.validation else None,
            "samples": str(self.folder / "samples"),
            "text_perplexity": self.text or None,
        }


def run_training(job: Training) -> Trained:
    """Train, going on from a checkpoint where there is one, and write `model/` with its codec.

    Raises what `train` raises; `ProvenanceError` where run, store and language model do not belong
    together.
    """
    with quiet_transformers():
        return _run(job, PreparedStore.open(job.store))


def _run(job: Training, store: PreparedStore) -> Trained:
    rows, held_out = training_rows(store, job)
    generator = build_generator(store, job.start, job.training.seed)
    ability = TextAbility(generator, job.text)
    check_window(generator, store, job.batch.layout)
    objectives = build_objectives(store, generator, job.align, job.z_loss, job.training.seed)
    features, replay = features_of(objectives), pieces(generator, job.replay)
    batches = generator.batches(rows, job.batch, features, replay)
    _claim(job, store)
    report = train(
        generator,
        objectives,
        batches,
        job.training,
        job.out,
        validators=_validators(job, store, rows, held_out),
    )
    from accelerate import PartialState

    state = PartialState()
    text: dict[str, float] = {}
    if state.is_main_process:
        text = ability.after(generator)
        if job.start.adapter.save == "merged" and isinstance(generator, RasterGenerator):
            generator.merge()
        TextToImage(generator.cpu(), store.codec()).save_pretrained(job.out / "model")
    state.wait_for_everyone()
    return Trained(job.out, report, text, state.is_main_process)


def training_rows(store: PreparedStore, job: Training) -> tuple[Rows, Rows | None]:
    """The rows to train on, and those held out, if any."""
    if job.held_out is None:
        kept, out = split_rows(len(store), job.held_out_share)
        return Subset(store, kept), Subset(store, out) if len(out) else None
    other = PreparedStore.open(job.held_out)
    mine, theirs = store.provenance.settings, other.provenance.settings
    for part in ("codec", "tokenizer"):
        if getattr(mine, part) != getattr(theirs, part):
            raise ProvenanceError(
                f"{other.folder}: made by another {part} than {store.folder}, so that its bits do "
                f"not compare; prepare it with the {part} of that store (--{part} "
                f"{store.folder / part})"
            )
    return store, other


def store_digest(store: PreparedStore) -> str:
    """Digest of what a store holds, wherever it lies."""
    provenance = to_plain(store.provenance)
    del provenance["arra"]
    return sha256_of_json(provenance)


def _validators(
    job: Training, store: PreparedStore, rows: Rows, held_out: Rows | None
) -> list[Validator]:
    found: list[Validator] = []
    if held_out is not None:
        found.append(HeldOut(held_out, batch=job.batch.size))
    if job.samples:
        found.append(Samples(held_out or rows, store, job.samples, job.sampling))
    return found


def _claim(job: Training, store: PreparedStore) -> None:
    """Write `run.json`; refuse a folder that holds another run."""
    facts = {
        "store": str(job.store.absolute()),
        "held_out": None if job.held_out is None else str(job.held_out.absolute()),
        "held_out_share": job.held_out_share if job.held_out is None else 0.0,
    }
    claim_run(job.out, facts, {"store": store_digest(store), **job.decides()}, job)


def claim_run(out: Path, facts: dict[str, Any], decides: dict[str, Any], settings: Any) -> None:
    """Write `run.json` of a run with these facts of its store; refuse a folder that holds a run
    that anything else decides."""
    path = out / RUN
    plain = json.loads(json.dumps(to_plain(decides)))
    begun = (out / "checkpoints").is_dir() and any((out / "checkpoints").iterdir())
    if begun:
        if not path.is_file():
            raise InputError(f"{out}: holds checkpoints of another program; name a new folder")
        check_same_run(read_json(path)["decides"], plain, out)
    # Not accelerate's own state: made before the loop, it would take each process for the only one.
    if os.environ.get("RANK", "0") == "0":
        record = {"kind": "run", **facts, "decides": plain, "settings": to_plain(settings)}
        write_json(path, record)
