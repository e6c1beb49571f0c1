"""The job of `arra generate`: prompts in, a folder of pictures out that no interruption spoils.

The folder holds `generation.json` (with which checkpoint and settings), one PNG a picture (an
animated one a clip), and, once all are drawn, `manifest.jsonl` and `grid.png`. A PNG carries its
prompt, seed, settings and checkpoint in text chunks, so that it can be told what it is wherever it
goes; and, where its codes are the bytes of a file, whether that file needed no repair.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from arra.data.captions import clean_caption
from arra.errors import InputError, ProvenanceError
from arra.files import atomic_file, read_json, sha256_of_file, sha256_of_json, to_plain, write_json
from arra.jobs.console import resumable
from arra.jobs.drafting import decisive
from arra.jobs.validation import write_grid
from arra.labels import label_of, read_png, write_png
from arra.progress import Task, track
from arra.samplers.noise import NOISE
from arra.samplers.speculative import Speculation
from arra.settings import Decoder, Precision, Sampler, SamplingConfig
from arra.text_to_image import TextToImage

SETTINGS, MANIFEST, GRID = "generation.json", "manifest.jsonl", "grid.png"
_WHOLE = "whole file"
_OURS = re.compile(r"[\w-]*[0-9a-f]{10}-\d+\.png")
_MOST_PROMPTS = 16 << 20  # bytes of a file of prompts


@dataclass(frozen=True)
class Wanted:
    """One picture: its prompt and its seed."""

    prompt: str
    seed: int

    @property
    def file(self) -> str:
        """A safe name: the prompt's first letters, a digest of all of it, the seed."""
        plain = unicodedata.normalize("NFKD", self.prompt).encode("ascii", "ignore").decode()
        words = re.sub(r"[^a-z0-9]+", "-", plain.lower())[:40].strip("-")
        digest = hashlib.sha256(self.prompt.encode("utf-8")).hexdigest()[:10]
        return "-".join(part for part in (words, digest, str(self.seed)) if part) + ".png"


@dataclass(frozen=True)
class Generation:
    """What to draw, where to, and how."""

    prompts: Sequence[str]
    out: Path
    count: int = 1
    """Pictures of each prompt."""
    seed: int = 0
    """Seed of the first picture of each prompt; the next ones follow."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batch: int = 64
    overwrite: bool = False
    decoder: Decoder = "auto"
    precision: Precision = "fp32"
    sampler: Sampler = "auto"
    speculation: Speculation | None = None
    """Draws where `sampler` is speculative; made with `sampling`."""


@dataclass(frozen=True)
class Generated:
    """The pictures of one call."""

    folder: Path
    files: list[Path]
    """In the order of the prompts, and of the seeds for each."""
    wanted: list[Wanted]
    drawn: int
    """How many were not there before."""

    def pictures(self) -> np.ndarray:
        """(N, H, W, 3) uint8; (N, H, W, 3 T) where they are clips."""
        return np.stack([read_png(path) for path in self.files])

    def whole(self) -> np.ndarray:
        """(n,) bool, of the pictures that know it: whether their codes were a file that needed no
        repair."""
        found = (label_of(path).get(_WHOLE) for path in self.files)
        return np.asarray([answer == "yes" for answer in found if answer is not None], dtype=bool)


def read_prompts(path: Path) -> list[str]:
    """The lines of a UTF-8 text file that are not blank; `InputError` naming a bad line."""
    try:
        if path.stat().st_size > _MOST_PROMPTS:
            raise InputError(f"{path}: more than {_MOST_PROMPTS} bytes, expected a prompt a line")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return [
        clean_caption(line, f"{path} line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def generate(model: TextToImage, job: Generation) -> Generated:
    """Draw every picture that is not there yet; the same files whatever interrupts it.

    Raises `InputError` for unusable prompts or a folder of other things, `ProvenanceError` when the
    folder holds pictures of another checkpoint or of other settings.
    """
    wanted = _wanted(job)
    fingerprint = model.fingerprint()
    settings = {
        "kind": "generated pictures",
        "checkpoint": fingerprint,
        "size": list(model.size),
        "sampling": to_plain(job.sampling),
        "noise": NOISE,
    }
    if job.precision != "fp32":  # at fp32 all decoders draw the same
        settings["precision"] = job.precision
    if job.sampler == "backtracking":
        settings["sampler"] = job.sampler
    if job.speculation is not None:
        settings |= decisive(job.speculation)
    settings |= model.chosen
    job.out.mkdir(parents=True, exist_ok=True)
    _claim(job, settings)
    files = [job.out / one.file for one in wanted]
    digest = sha256_of_json(settings)
    there = [_is_whole(path, one, digest) for path, one in zip(files, wanted, strict=True)]
    missing = there.count(False)
    with resumable("drawing"), track("draw", missing * model.generator.units) as task:
        # Whole batches are drawn again, though some of their pictures may be there: a product of
        # matrices rounds by their size, and an undisturbed run's pictures are to come out.
        for start in range(0, len(wanted), job.batch):
            here = range(start, min(start + job.batch, len(wanted)))
            todo = [i for i in here if not there[i]]
            if not todo:
                continue
            codes = model.draw_codes(
                [wanted[i].prompt for i in here],
                [wanted[i].seed for i in here],
                job.sampling,
                batch=job.batch,
                decoder=job.decoder,
                precision=job.precision,
                sampler=job.sampler,
                speculation=job.speculation,
                on_unit=partial(_advance, task, len(todo)),
            )
            drawn = model.paint(codes)
            whole = None if model.codec.stream is None else model.codec.valid(codes).tolist()
            for i in todo:
                label = _label(wanted[i], settings, digest)
                if whole is not None:
                    label[_WHOLE] = "yes" if whole[i - start] else "no"
                write_png(files[i], drawn[i - start], label, model.codec.rate)
    result = Generated(job.out, files, wanted, missing)
    _summarise(result, job)
    return result


def _advance(task: Task, units: int, pictures: int) -> None:
    """Of the pictures that got a unit only the missing ones count as progress."""
    task.advance(units)


def _wanted(job: Generation) -> list[Wanted]:
    if job.count < 1 or job.batch < 1:
        raise InputError(f"count {job.count}, batch {job.batch}: expected 1 or more")
    if not 0 <= job.seed <= job.seed + job.count < 2**63:
        raise InputError(f"seed: {job.seed}, expected 0 or more, below 2**63")
    prompts = [clean_caption(text, f"prompt {n}") for n, text in enumerate(job.prompts, start=1)]
    if not prompts:
        raise InputError("no prompt: give some on the command line, or a file with --prompts")
    # a prompt that is given twice would give the same pictures twice
    return [
        Wanted(prompt, seed)
        for prompt in dict.fromkeys(prompts)
        for seed in range(job.seed, job.seed + job.count)
    ]


def _claim(job: Generation, settings: dict[str, Any]) -> None:
    """Make the folder that of these settings, or refuse."""
    path = job.out / SETTINGS
    if not path.is_file():
        for name in (MANIFEST, GRID):
            if (job.out / name).exists():
                raise InputError(f"{job.out}: holds another {name}; name an empty or new folder")
    else:
        there = read_json(path)
        differing = _differences(there, settings)
        if differing and not job.overwrite:
            lines = "\n  ".join(differing)
            raise ProvenanceError(
                f"{job.out}: holds pictures that were drawn otherwise:\n  {lines}\nName another "
                "folder, or replace them with --overwrite"
            )
        if differing:
            for file in (*job.out.glob("*.png"), job.out / MANIFEST):
                if file.name in (GRID, MANIFEST) or _OURS.fullmatch(file.name):
                    file.unlink(missing_ok=True)
    write_json(path, settings)
    for left in job.out.glob(".*.tmp"):  # of a process that was killed while it wrote
        left.unlink(missing_ok=True)


def _differences(there: Any, here: dict[str, Any]) -> list[str]:
    def leaves(values: Any) -> dict[str, Any]:
        values = dict(values) if isinstance(values, dict) else {}
        sampling = values.pop("sampling", None) or {}
        return {**values, **{f"sampling.{name}": value for name, value in sampling.items()}}

    old, new = leaves(there), leaves(here)
    return [
        f"{name}: {old.get(name)!r} there, {new.get(name)!r} now"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _is_whole(path: Path, wanted: Wanted, digest: str) -> bool:
    """Whether the file is this picture; files are written whole, so only the label is read."""
    label = label_of(path)
    found = (label.get("prompt"), label.get("seed"), label.get("digest"))
    return found == (wanted.prompt, str(wanted.seed), digest)


def _label(wanted: Wanted, settings: dict[str, Any], digest: str) -> dict[str, Any]:
    return {
        "prompt": wanted.prompt,
        "seed": str(wanted.seed),
        "sampling": settings["sampling"],
        "checkpoint": settings["checkpoint"],
        "digest": digest,
    }


def _summarise(result: Generated, job: Generation) -> None:
    """`manifest.jsonl` of all pictures of the folder, and `grid.png` of this call's."""
    path = result.folder / MANIFEST
    entries: dict[str, dict[str, Any]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if (result.folder / Path(str(entry["file"])).name).is_file():
                entries[entry["file"]] = entry
    for file, one in zip(result.files, result.wanted, strict=True):
        entries[file.name] = {
            "file": file.name,
            "prompt": one.prompt,
            "seed": one.seed,
            "sha256": sha256_of_file(file),
        }
    with atomic_file(path) as temporary:
        lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries.values())
        temporary.write_text("".join(lines), encoding="utf-8")
    shown = result.files[: 24 * job.count]
    pictures = np.stack([read_png(file) for file in shown])
    rows = {
        f"seed {job.seed + offset}": pictures[offset :: job.count]
        for offset in range(min(job.count, 8))
    }
    prompts = [one.prompt for one in result.wanted[: len(shown) : job.count]]
    write_grid(result.folder / GRID, prompts, rows)
