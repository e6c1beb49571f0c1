"""The job of `arra distill`: a checkpoint in, a run folder with a student of a step or two out.

A run folder is that of `arra train`; `pairs/` in it holds what the teacher made of noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from arra.data.store import PreparedStore
from arra.data.subset import Subset, split_rows
from arra.files import to_plain
from arra.generators.base import Generator
from arra.generators.students import Student, StudentOptions, student_of
from arra.jobs.pairs import PairOptions, Pairs, make_pairs
from arra.jobs.training import Trained, claim_run, store_digest
from arra.jobs.validation import HeldOut, write_grid
from arra.objectives.laws import own_objectives
from arra.samplers.flow import NoiseSampler
from arra.settings import BatchConfig, SamplingConfig
from arra.text_to_image import TextToImage, quiet_transformers
from arra.training.config import FREE_FIELDS, TrainConfig
from arra.training.loop import train
from arra.training.report import Validator

PAIRS = "pairs"
"""In a run's folder."""
BATCHES = BatchConfig(drop_caption=0.0)


@dataclass(frozen=True)
class Distillation:
    """Which student learns from whom, and how."""

    teacher: Path
    """A checkpoint, or a run with `model/`."""
    out: Path
    """Folder of the run."""
    captions: tuple[str, ...]
    """What the teacher draws, in turn."""
    pairs: PairOptions = field(default_factory=PairOptions)
    student: StudentOptions = field(default_factory=StudentOptions)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How the teacher draws; the student draws so, too."""
    batch: BatchConfig = BATCHES
    training: TrainConfig = field(default_factory=TrainConfig)
    held_out_share: float = 0.05
    """Share of the pairs that are held out, to see how many codes the student gets right."""
    samples: int = 8
    """Held-out pairs of which pictures are drawn at each validation."""
    device: str = "cpu"
    """Where the teacher draws."""

    def decides(self) -> dict[str, Any]:
        """Everything but the pairs that the weights depend on, as plain JSON."""
        plain = to_plain(self)
        settings = {name: plain[name] for name in ("student", "batch", "held_out_share")}
        free = {*FREE_FIELDS, "precision"}  # as for `arra train`
        if self.training.schedule == "constant":
            free.add("steps")
        settings["training"] = {k: v for k, v in plain["training"].items() if k not in free}
        return settings


def run_distillation(job: Distillation) -> Trained:
    """Make the pairs and train the student, each going on where it stopped, and write `model/`.

    Raises `InputError` for a teacher that nobody can be a student of, and what `make_pairs` and
    `train` raise.
    """
    with quiet_transformers():
        return _run(job, TextToImage.from_pretrained(job.teacher, job.device))


def _run(job: Distillation, teacher: TextToImage) -> Trained:
    student = student_of(
        teacher.generator,
        teacher.codec.code_vectors(),
        job.sampling,
        job.student,
        seed=job.training.seed,
    )
    pairs = make_pairs(teacher, job.captions, job.out / PAIRS, job.pairs, job.sampling)
    kept, out = split_rows(len(pairs), job.held_out_share)
    facts = {
        "store": str((job.out / PAIRS).absolute()),
        "held_out": None,
        "held_out_share": job.held_out_share,
    }
    decides = {"store": store_digest(pairs), "teacher": teacher.fingerprint(), **job.decides()}
    settings = {name: value for name, value in vars(job).items() if name != "captions"}
    claim_run(job.out, facts, decides, {**settings, "align": []})
    validators: list[Validator] = []
    if len(out):
        held_out = Subset(pairs, out)
        validators = [HeldOut(held_out, batch=job.batch.size), BesideTeacher(pairs, out, job)]
    report = train(
        student,
        own_objectives(student),
        student.batches(Subset(pairs, kept), job.batch, ()),
        job.training,
        job.out,
        validators=validators,
        progress_label="distill",
    )
    from accelerate import PartialState

    state = PartialState()
    if state.is_main_process:
        TextToImage(student.cpu(), teacher.codec.cpu()).save_pretrained(job.out / "model")
    state.wait_for_everyone()
    return Trained(job.out, report, {}, state.is_main_process)


class BesideTeacher:
    """A validator: of held-out noise the share of codes that are the teacher's, and some pictures
    beside its, for every number of steps."""

    def __init__(self, pairs: Pairs, rows: Any, job: Distillation, most: int = 256):
        self.codec, self.rows, self.samples = PreparedStore.codec(pairs), rows[:most], job.samples
        self.captions, self.seeds = pairs.captions(self.rows), pairs.seeds(self.rows)
        self.codes = pairs.rows(self.rows, ()).codes

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        assert isinstance(generator, Student)
        found, drawn = {}, {"teacher": self.codes}
        for steps in range(1, len(generator.config.starts) + 1):
            name = f"{steps} step{'s' if steps > 1 else ''}"
            paced = generator.paced(steps=steps)
            codes = NoiseSampler()(paced, self.captions, self.seeds).cpu().view_as(self.codes)
            drawn[name] = codes
            found[f"teachers_codes_{steps}"] = agreement(codes, self.codes)
        if some := min(self.samples, len(self.captions)):
            model = TextToImage(generator, self.codec.to(generator.device))
            pictures = {name: model.paint(codes[:some]) for name, codes in drawn.items()}
            path = folder / "samples" / f"step-{step:08d}.png"
            write_grid(path, self.captions[:some], pictures)
        return found


def agreement(one: torch.Tensor, other: torch.Tensor) -> float:
    """Share of codes (B, ...) that are the same."""
    return float((one == other).float().mean())
