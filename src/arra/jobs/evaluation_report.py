"""What must be said beside the numbers of an evaluation: how they were taken, and what spoils them.

The notes answer what "How to measure" lists of a published number: reference, counts, resizing,
file format, precision, seeds, guidance. The warnings name what makes a number here mean less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from arra.files import to_plain
from arra.jobs.evidence import Evidence
from arra.jobs.picture_sets import PictureSet
from arra.metrics.measured import Measured

_LOSSY = ("JPEG", "WEBP", "JPEG2000", "AVIF")


def warnings_on(e: Evidence) -> list[str]:
    """What makes numbers of this evaluation mean less, each once."""
    found = list(e.warnings)
    drawn, real = e.found, e.real
    if e.ground.trained_on and e.job.source is None:
        found.append("nothing was held out: the real pictures are those that it was trained on")
    lossy = [name for name in _formats(drawn) if name in _LOSSY]
    if lossy:
        found.append(
            f"the pictures to judge are {', '.join(lossy)} files: lossy compression is visible to "
            "distances, though not to eyes; judge PNG or npz"
        )
    if drawn.facts.get("resized") is not None:
        found.append(f"the pictures to judge were resized: {drawn.facts['resized']}")
    if repeats := len(drawn) - _different(drawn.pictures):
        found.append(f"{repeats} of {len(drawn)} pictures to judge are copies of others of them")
    if real.facts.get("through_codec") and e.job.source is None:
        found.append(
            "the real pictures went through the codec, so what the codec loses does not count; "
            "name the originals with --source for distances that others can compare with"
        )
    return list(dict.fromkeys(found))


def notes_on(e: Evidence, measures: Sequence[Measured]) -> list[str]:
    """How the numbers were taken, a sentence each."""
    drawn, real, names = e.found, e.real, {one.name for one in measures}
    split = real.facts.get("split") or "not stated by the source"
    notes = [
        f"Judged: {drawn.what}; files: {_words_of_format(drawn)}; "
        f"resized: {drawn.facts.get('resized') or 'no'}.",
        f"Reference: {real.what}; split: {split}; files: {_words_of_format(real)}; resized: "
        f"{real.facts.get('resized') or 'no'}.",
        "Real and judged pictures are quantised to 8 bits a channel alike.",
        *_sampling_notes(e),
    ]
    if max(int(one.facts.get("frames", 1)) for one in (drawn, real)) > 1:
        notes.append(
            "Clips: held-out bits and whole files are of all frames; every other measure looks at "
            "the middle frame of each and says nothing of motion."
        )
    if any("distance" in name or _is(name, "FID") for name in names):
        notes.append(
            f"Distances stand on {e.sides} pictures of each side, the same number everywhere. The "
            "floor is the distance between two disjoint halves of the real pictures, of that many "
            "each: a difference below its spread is no result. Statistics are float64."
        )
    for eye in e.eyes:
        scaled = (
            "as they are"
            if eye.normalise == "none"
            else "standardised by the real ones, so values do not compare with published ones"
        )
        notes.append(f"{eye.name}: resizing {eye.resizing}; features {scaled}.")
    if kernel := next((m for m in measures if "subsets" in m.details), None):
        subsets, subset = kernel.details["subsets"], kernel.details["subset"]
        notes.append(
            f"Kernel distance: mean over {subsets} subsets of {subset} pictures; unbiased, 0 for "
            "equal laws, may be negative."
        )
    if any(name.startswith("FID") for name in names) and len(drawn) < 50_000:
        notes.append(
            "FID is published for 50 000 pictures against statistics of a training set; at other "
            "numbers its value is another one."
        )
    notes += [text for key, text in _MEANINGS if any(_is(name, key) for name in names)]
    return notes


def _is(name: str, measure: str) -> bool:
    """Whether a result is this measure, perhaps of a variant: "CLIP-score, real pictures"."""
    return name == measure or name.startswith(f"{measure},")


_MEANINGS = (
    (
        "precision",
        "Precision and recall: k = 5 neighbours (fewer for tiny sets); they depend on n, k and the "
        "encoder.",
    ),
    (
        "MS-SSIM, generated against real",
        "MS-SSIM against real: each picture with a real one of its caption; high is alike. This is "
        "what medical papers report; the row with wrong captions shows how alike any two are.",
    ),
    (
        "MS-SSIM, generated",
        "MS-SSIM, generated: pairs of pictures of one prompt; low is diverse, but lower than real "
        "pictures is an error too.",
    ),
    (
        "exact captions",
        "Captions and answers: the likeliest word after the likeliest word, of held-out pictures; "
        "with another picture is what can be said without looking. A true caption names every "
        "digit, and all it says is so.",
    ),
    (
        "image-text cosine",
        "Image-text cosine: raw, not times 100 or 2.5 and not clipped; the rows with wrong pairs "
        "and with real pictures are its scale.",
    ),
    ("CLIP-score", "CLIP-score: 100 x cosine, clipped at 0, of the CLIP version that is named."),
    (
        "classifier score",
        "Classifier score: the formula of the Inception score in another network's classes; it "
        "compares with nothing but itself.",
    ),
    (
        "share nearer than held-out",
        "Share nearer than held-out: pictures nearer to training than 1 % of held-out ones are; "
        "0.01 is expected of a generator that does not copy.",
    ),
)


def _sampling_notes(e: Evidence) -> list[str]:
    facts = e.found.facts
    seeds, sampling = facts.get("seeds"), to_plain(facts.get("sampling"))
    notes = []
    if seeds:
        notes.append(f"Seeds {seeds[0]} to {seeds[1]} for each prompt.")
    if sampling:
        scale = float(sampling.get("guidance", 1.0))
        guided = "off" if scale == 1.0 else f"{scale:g}, {sampling.get('guidance_schedule')}"
        both = len(e.drawn) > 1
        also = "measured without it as well" if both else "not measured without it (--unguided)"
        notes.append(
            f"Guidance: {guided}" + ("" if scale == 1.0 else f"; {also}") + ". Other settings: "
            f"temperature {sampling.get('temperature')}, top-k {sampling.get('top_k')}, top-p "
            f"{sampling.get('top_p')}."
        )
    if e.model is not None and e.job.pictures is None:
        dtype = str(next(e.model.generator.parameters()).dtype).removeprefix("torch.")
        notes.append(f"Drawn in {dtype} on {e.device}.")
    elif sampling is None:
        notes.append("How the judged pictures were drawn (seeds, guidance, precision) is unknown.")
    return notes


def _formats(pictures: PictureSet) -> list[str]:
    kinds = pictures.facts.get("format")
    return list(kinds) if isinstance(kinds, dict) else []


def _words_of_format(pictures: PictureSet) -> str:
    kinds = pictures.facts.get("format", "unknown")
    if isinstance(kinds, dict):
        return ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    return str(kinds)


def _different(pictures: np.ndarray) -> int:
    """How many different pictures there are, byte for byte."""
    return len({hashlib.sha256(picture.tobytes()).digest() for picture in pictures})


def as_markdown(result: dict[str, Any]) -> str:
    """The result of an evaluation as a page to read: warnings, table, what is missing, notes."""
    lines = ["# Evaluation", ""]
    if result["checkpoint"]:
        lines += [f"Checkpoint `{result['checkpoint'][:12]}`, {result['settings']['checkpoint']}."]
    lines += [f"Judged: {result['drawn']['what']}. Reference: {result['real']['what']}.", ""]
    if result["warnings"]:
        lines += ["## Read this first", "", *(f"- {text}" for text in result["warnings"]), ""]
    lines += ["## Measures", "", "| measure | value | 95 % interval | n | who looked |"]
    lines += ["|---|---|---|---|---|"]
    for one in result["measures"]:
        cells = (one["name"], number(one["value"]), bounds(one), str(one["n"]), one["encoder"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if result["skipped"]:
        lines += ["", "## Not measured", ""]
        lines += [f"- {what}: {why}" for what, why in result["skipped"].items()]
    lines += ["", "## How", "", *(f"- {text}" for text in result["notes"])]
    made = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return "\n".join([*lines, "", f"Made with {made}.", ""])


def number(value: float | None) -> str:
    """Four digits, or a dash for what is not a number."""
    return "–" if value is None else f"{value:.4g}"


def bounds(measure: dict[str, Any]) -> str:
    """The interval of a measure in words, or a dash."""
    interval = measure["interval"]
    if interval is None:
        return "–"
    return f"{number(interval['low'])} to {number(interval['high'])}"
