"""Pictures for GenEval and DPG-Bench, laid out as their scorers read them.

GenEval (github.com/djghosh13/geneval) reads a folder of numbered folders, each with the line of
`evaluation_metadata.jsonl` that its pictures answer and `samples/0000.png` and so on. DPG-Bench
(github.com/TencentQQGYLab/ELLA) reads a folder that holds nothing but one picture for each prompt
file, four samples tiled two by two; it takes every other file for a failed picture and leaves it
out of the mean, so nothing else may lie there.

    DIR/drawn/           what `arra generate` makes: resumed from here
    DIR/images/          what the scorer reads
    DIR/benchmark.json   prompts, settings, and how to call the scorer
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from arra.data.captions import clean_caption, jsonl_records
from arra.data.rows import BadRow
from arra.errors import InputError, ProvenanceError
from arra.files import atomic_file, atomic_folder, read_json, sha256_of_json, to_plain, write_json
from arra.jobs.generation import Generated, Generation, generate
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage

Layout = Literal["geneval", "dpg"]
RECORD, DRAWN, IMAGES = "benchmark.json", "drawn", "images"
SAMPLES = 4
"""Pictures of each prompt in both benchmarks."""


@dataclass(frozen=True)
class Prompt:
    """One prompt of a benchmark."""

    name: str
    """What its folder or picture is called."""
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    """Of GenEval: the whole line, which its scorer wants back."""


@dataclass(frozen=True)
class Benchmark:
    """Which prompts to draw for whose scorer, and how."""

    layout: Layout
    prompts: Path
    """GenEval: `evaluation_metadata.jsonl`. DPG: the folder of prompt files, or `dpg_bench.csv`."""
    out: Path
    seed: int = 0
    """Seeds are this and the next three, for each prompt."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batch: int = 64
    overwrite: bool = False


def draw_benchmark(model: TextToImage, job: Benchmark) -> dict[str, Any]:
    """Draw what is missing, lay all out, and write the record, which is returned.

    Raises `InputError` for unusable prompts, `ProvenanceError` for a folder of other pictures.
    """
    form, images = _FORMS[job.layout], job.out / IMAGES
    if model.frames > 1:
        raise InputError("the checkpoint draws clips, the scorers want pictures")
    if model.size[0] != model.size[1]:
        raise InputError(f"the checkpoint draws {model.size} pixels, the scorers want squares")
    prompts = form.read(job.prompts)
    decides = {
        "layout": job.layout,
        "prompts": len(prompts),
        "prompts_sha256": sha256_of_json(prompts),
        "samples": SAMPLES,
        "seeds": [job.seed, job.seed + SAMPLES - 1],
        "side": model.size[0],
        "checkpoint": model.fingerprint(),
        "sampling": to_plain(job.sampling),
    }
    record = {
        "kind": "pictures for a benchmark",
        **decides,
        "repeated_prompts": len(prompts) - len({prompt.text for prompt in prompts}),
        "images": str(images),
        "score_with": form.score.format(images=images, side=model.size[0]),
        "remarks": list(form.remarks),
    }
    _claim(job, decides)
    write_json(job.out / RECORD, {**record, "complete": False})
    texts = [prompt.text for prompt in prompts]
    wanted = Generation(
        texts, job.out / DRAWN, SAMPLES, job.seed, job.sampling, job.batch, job.overwrite
    )
    files = _files_of(generate(model, wanted))
    images.mkdir(parents=True, exist_ok=True)
    for left in images.glob(".*.tmp"):  # of a process that was killed while it wrote
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    for prompt in prompts:
        form.write(images, prompt, files[prompt.text])
    record["complete"] = True
    write_json(job.out / RECORD, record)
    return record


def _claim(job: Benchmark, decides: dict[str, Any]) -> None:
    """Make the folder that of this benchmark, or refuse; nothing of another one may stay in it."""
    path, images = job.out / RECORD, job.out / IMAGES
    if not path.is_file():
        if images.exists():
            raise InputError(f"{images}: is there already; name an empty or new folder")
        return
    there = read_json(path)
    differing = [name for name, value in decides.items() if there.get(name) != value]
    if differing and not job.overwrite:
        raise ProvenanceError(
            f"{job.out}: holds other pictures (differing: {', '.join(differing)}); name another "
            "folder, or replace them with --overwrite"
        )
    if differing and images.exists():
        shutil.rmtree(images)


def _files_of(made: Generated) -> dict[str, list[Path]]:
    """The files of each prompt, in the order of the seeds."""
    found: dict[str, list[Path]] = {}
    for file, wanted in zip(made.files, made.wanted, strict=True):
        found.setdefault(wanted.prompt, []).append(file)
    return found


# ---- GenEval -----------------------------------------------------------------------------------


def read_geneval(path: Path) -> list[Prompt]:
    """The prompts of `evaluation_metadata.jsonl`, in order; `InputError` naming a bad line."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected GenEval's evaluation_metadata.jsonl")
    prompts: list[Prompt] = []
    for number, record in jsonl_records(path):
        where = f"{path} line {number}"
        if isinstance(record, BadRow):
            raise record
        for key in ("tag", "include", "prompt"):
            if key not in record:
                raise InputError(
                    f"{where}: no {key!r}; expected GenEval's evaluation_metadata.jsonl"
                )
        text = clean_caption(record["prompt"], where)
        prompts.append(Prompt(f"{len(prompts):05d}", text, record))
    if not prompts:
        raise InputError(f"{path}: holds no prompt")
    return prompts


def _write_geneval(images: Path, prompt: Prompt, files: Sequence[Path]) -> None:
    folder = images / prompt.name
    if len(list(folder.glob("samples/*.png"))) == len(files):
        return  # a folder comes into being whole
    with atomic_folder(folder) as temporary:
        (temporary / "samples").mkdir()
        for number, file in enumerate(files):
            shutil.copyfile(file, temporary / "samples" / f"{number:04d}.png")
        line = json.dumps(prompt.metadata, ensure_ascii=False)
        (temporary / "metadata.jsonl").write_text(line, encoding="utf-8")


# ---- DPG-Bench ---------------------------------------------------------------------------------


def read_dpg(path: Path) -> list[Prompt]:
    """The prompts of a folder of `.txt` files or of `dpg_bench.csv` (item_id, text), by name.

    Raises `InputError` naming a file or row that the scorer could not match with its picture.
    """
    if path.is_dir():
        found = {
            file.stem: clean_caption(file.read_bytes(), str(file))
            for file in sorted(path.glob("*.txt"))
        }
    elif path.suffix.lower() == ".csv" and path.is_file():
        found = _dpg_rows(path)
    else:
        raise InputError(f"{path}: expected DPG-Bench's folder of prompts, or its dpg_bench.csv")
    if not found:
        raise InputError(f"{path}: holds no prompt")
    for name in found:
        if not name or "." in name or name != os.path.basename(name):
            raise InputError(
                f"{path}: {name!r} cannot name a picture; the scorer reads a name up to its first "
                "dot"
            )
    return [Prompt(name, text) for name, text in sorted(found.items(), key=_by_number)]


def _by_number(item: tuple[str, str]) -> tuple[int, str]:
    return (int(item[0]) if item[0].isdecimal() else -1, item[0])


def _dpg_rows(path: Path) -> dict[str, str]:
    """The text of each item; the file has a row for each question on it."""
    found: dict[str, str] = {}
    with open(path, encoding="utf-8-sig", newline="") as handle:
        rows = csv.DictReader(handle)
        if not {"item_id", "text"} <= set(rows.fieldnames or ()):
            raise InputError(f"{path}: no columns item_id and text; expected dpg_bench.csv")
        for row in rows:
            name, where = str(row["item_id"]), f"{path} line {rows.line_num}"
            if name == "item_id":  # a second header: the scorer skips the first row for its sake
                continue
            text = clean_caption(row["text"], where)
            if found.setdefault(name, text) != text:
                raise InputError(f"{where}: another text for item {name!r}")
    return found


def _write_dpg(images: Path, prompt: Prompt, files: Sequence[Path]) -> None:
    path = images / f"{prompt.name}.png"
    if path.is_file():
        return
    tiles = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    rows = [np.concatenate(tiles[start : start + 2], axis=1) for start in (0, 2)]
    with atomic_file(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG")


# ---- the two -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """How one scorer wants its pictures."""

    read: Callable[[Path], list[Prompt]]
    write: Callable[[Path, Prompt, Sequence[Path]], None]
    score: str
    """How it is called."""
    remarks: tuple[str, ...]
    """What to know about its scores."""


_FORMS = {
    "geneval": _Form(
        read_geneval,
        _write_geneval,
        "python evaluation/evaluate_images.py {images} --outfile results.jsonl --model-path "
        "DETECTOR_FOLDER && python evaluation/summary_scores.py results.jsonl",
        (
            "the overall score is the mean of the six tasks over pictures, not over prompts",
            "its standard error is 1 to 2 points: four pictures share a prompt",
            "models that saw its templates or had the prompts rewritten do not compare",
        ),
    ),
    "dpg": _Form(
        read_dpg,
        _write_dpg,
        "bash dpg_bench/dist_eval.sh {images} {side}",
        (
            "its resolution must be the side of a tile, or it cuts the tiles wrongly",
            "it writes its results into the folder of pictures: score a copy, or give --res-path",
            "it skips the first row of its question file, and a picture that fails is left out of "
            "the mean without a word: compare the number of scores with the number of prompts",
            "its category scores stand on the last of the four tiles alone",
        ),
    ),
}
