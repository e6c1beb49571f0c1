"""The job of `arra imitate`: a language model in, the same with a learnt backspace out.

A run folder is that of `arra train`; `replay/` in it holds what the model wrote on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from arra.data.store import PreparedStore
from arra.data.subset import Subset, split_rows
from arra.errors import InputError, ProvenanceError
from arra.files import atomic_file, sha256_of_json, to_plain
from arra.generators.backspacing import BackspaceStepper, Writing, with_backspace
from arra.generators.base import Generator
from arra.generators.batches import Store
from arra.generators.raster import RasterGenerator
from arra.jobs.imitation import HeldOutActions, Tuning, tune
from arra.jobs.imitation_options import ImitationOptions
from arra.jobs.texts import Texts, read_lines, texts_of
from arra.jobs.training import Trained, claim_run, store_digest
from arra.jobs.validation import Samples
from arra.objectives.imitation import ImitationConfig, Ramp
from arra.samplers.backtracking import BacktrackingSampler
from arra.settings import BatchConfig, SamplingConfig
from arra.text_to_image import TextToImage, quiet_transformers
from arra.training.config import FREE_FIELDS, TrainConfig
from arra.training.replay import ReplayConfig
from arra.training.report import Validator

ERASE = "⌫"
"""A backspace in samples of text."""
_COMPARED = 64  # rows of a store whose captions are read again


@dataclass(frozen=True)
class Imitation:
    """What is tuned, on what, and how."""

    checkpoint: Path
    """A run folder, its model/, or an exported checkpoint."""
    out: Path
    """Folder of the run."""
    store: Path | None = None
    """Folder of a prepared store, whose pictures are drawn code by code."""
    text: tuple[Path, ...] = ()
    """Or files of texts, one on each line, behind a prompt and a tab where there is one."""
    most: int | None = None
    """Tokens that a text may have; None: as many as the longest one has."""
    imitation: ImitationOptions = field(default_factory=ImitationOptions)
    batch: BatchConfig = field(default_factory=BatchConfig)
    training: TrainConfig = field(default_factory=TrainConfig)
    held_out_share: float = 0.05
    samples: int = 8
    """Prompts after which something is drawn or written at each validation."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if (self.store is None) == (not self.text):
            raise InputError("data: name either a store of pictures (--store) or texts (--text)")
        if self.text and self.batch.drop_caption:
            raise InputError("batch.drop_caption: texts keep their prompts, expected 0")

    @property
    def tuning(self) -> Tuning:
        """The settings of the training."""
        told, begin = self.imitation, self.imitation.start(self.training.steps)
        imitation = ImitationConfig(told.divergence, told.gamma, told.alpha, Ramp(most=told.share))
        replay = ReplayConfig(begin, told.every, told.texts, told.kept, told.own)
        return Tuning(imitation, told.noise, replay, self.batch, self.training).blended(
            begin, told.rise
        )

    def decides(self) -> dict[str, Any]:
        """Everything but the data and the checkpoint that the weights depend on, as plain JSON."""
        plain = to_plain(self)
        settings = {name: plain[name] for name in ("most", "batch", "held_out_share")}
        settings["imitation"] = {
            **plain["imitation"],
            "begin": self.tuning.imitation.ramp.start - 1,
        }
        free = {*FREE_FIELDS, "precision"}  # as for `arra train`
        if self.training.schedule == "constant":
            free.add("steps")
        settings["training"] = {k: v for k, v in plain["training"].items() if k not in free}
        return settings


@dataclass(frozen=True)
class _Data:
    """What a run learns to write."""

    known: Store
    held_out: Store | None
    writing: Writing
    digest: str
    samples: list[Validator]


def run_imitation(job: Imitation) -> Trained:
    """Tune, going on where a call was stopped, and write `model/`.

    Raises `InputError` for a checkpoint that cannot have a backspace, or texts that it cannot read,
    `ProvenanceError` for a store of another codec or tokenizer, and what `train` raises.
    """
    with quiet_transformers():
        return _run(job, TextToImage.from_pretrained(job.checkpoint, "cpu"))


def _run(job: Imitation, model: TextToImage) -> Trained:
    checkpoint, generator = model.fingerprint(), _with_backspace(model, job.training.seed)
    data = _pictures(job, model, generator) if job.store is not None else _texts(job, generator)
    facts = {
        "store": None if job.store is None else str(job.store.absolute()),
        "held_out": None,
        "held_out_share": job.held_out_share,
    }
    decides = {"store": data.digest, "checkpoint": checkpoint, **job.decides()}
    claim_run(job.out, facts, decides, {**vars(job), "align": []})
    validators = list(data.samples)
    if data.held_out is not None:
        validators.append(HeldOutActions(data.held_out, data.writing, job.batch.size))
    report = tune(
        generator,
        data.known,
        data.writing,
        job.tuning,
        job.out,
        validators=validators,
        progress_label="imitate",
    )
    from accelerate import PartialState

    state = PartialState()
    if state.is_main_process:
        TextToImage(generator.cpu(), model.codec).save_pretrained(job.out / "model")
    state.wait_for_everyone()
    return Trained(job.out, report, {}, state.is_main_process)


def _with_backspace(model: TextToImage, seed: int) -> RasterGenerator:
    generator = model.generator
    if not isinstance(generator, RasterGenerator):
        raise InputError(
            f"a {generator.registered_name} generator: only language models (raster) take tokens "
            "back"
        )
    return with_backspace(generator, seed)


def _pictures(job: Imitation, model: TextToImage, generator: RasterGenerator) -> _Data:
    """The pictures of a store, code by code."""
    assert job.store is not None
    store = PreparedStore.open(job.store)
    _check_store(store, generator)
    kept, out = split_rows(len(store), job.held_out_share)
    known, held_out = Subset(store, kept), Subset(store, out) if len(out) else None
    samples: list[Validator] = []
    if job.samples:
        shown = held_out or known
        samples = [Samples(shown, store, job.samples, job.sampling, sampler="backtracking")]
    return _Data(known, held_out, Writing.of_pictures(generator), store_digest(store), samples)


def _check_store(store: PreparedStore, generator: RasterGenerator) -> None:
    """`ProvenanceError` unless a store has the generator's codec and tokenizer."""
    codec = str(store.provenance.settings.codec["fingerprint"])
    if codec != generator.config.codec:
        raise ProvenanceError(
            f"{store.folder}: its pictures were encoded by another codec ({codec[:12]}) than the "
            f"checkpoint's ({generator.config.codec[:12]}); prepare it again with --codec and the "
            "checkpoint's codec/"
        )
    rows = range(min(len(store), _COMPARED))
    captions, ids = store.captions(rows), store.rows(rows, ()).text_ids
    if any(generator.caption_ids(c) != list(i) for c, i in zip(captions, ids, strict=True)):
        raise ProvenanceError(
            f"{store.folder}: its captions were read by another tokenizer than the checkpoint's; "
            "prepare it again with --tokenizer and the checkpoint"
        )


def _texts(job: Imitation, generator: RasterGenerator) -> _Data:
    """Lines of files."""
    whole, writing = texts_of(generator, read_lines(job.text), job.most)
    kept, out = split_rows(len(whole), job.held_out_share)
    known, held_out = whole.subset(kept), whole.subset(out) if len(out) else None
    digest = sha256_of_json([[line.prompt, line.text] for line in whole.lines])
    shown = (held_out or known).subset(range(min(job.samples, len(held_out or known))))
    samples: list[Validator] = []
    if len(shown):
        samples = [WrittenTexts(shown, writing, job.sampling)]
    return _Data(known, held_out, writing, digest, samples)


class WrittenTexts:
    """A validator: what the model writes after a few prompts, with what it takes back."""

    def __init__(self, texts: Texts, writing: Writing, sampling: SamplingConfig):
        # guidance is a matter of captions and their pictures
        self.texts, self.writing = texts, writing
        self.sampler = BacktrackingSampler(replace(sampling, guidance=1.0))

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        assert isinstance(generator, RasterGenerator)
        stepper = BackspaceStepper(generator, self.writing)
        prompts = [self.writing.prompt(ids) for ids in self.texts.prompts]
        actions = self.sampler.actions(stepper, prompts, range(len(prompts)))
        lines = [
            f"{line.prompt}\t{spelt(generator, self.writing, row)}"
            for line, row in zip(self.texts.lines, actions, strict=True)
        ]
        path = folder / "samples" / f"step-{step:08d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return {}


def spelt(generator: RasterGenerator, writing: Writing, actions: Sequence[int]) -> str:
    """Actions as text, each token by itself where some are taken back, a backspace as `ERASE`."""
    tokenizer, end = generator.tokenizer, len(writing.ids)
    assert tokenizer is not None
    written = [action for action in actions if action != end]
    if end + 1 not in written:
        return str(tokenizer.decode([writing.ids[action] for action in written]))
    return " ".join(
        ERASE if action == end + 1 else str(tokenizer.decode([writing.ids[action]])).strip()
        for action in written
    )
