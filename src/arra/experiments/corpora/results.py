"""The results of a corpus: one report over seeds, a table, a page and the picture beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arra.experiments.arms import Arm
from arra.experiments.corpora.corpus import Corpus
from arra.experiments.study_results import watched
from arra.files import atomic_file, to_plain, write_json
from arra.metrics.bootstrap import paired_difference
from arra.report import Pictures
from arra.report.charts import Series, line_chart
from arra.report.grid import draw_grid


@dataclass(frozen=True)
class Measure:
    """One row of the table."""

    key: str
    name: str
    better: str
    """"lower", "higher", or "" where neither is."""


HELD_OUT = "bits"
"""The key of what held-out pictures cost; of a law of vectors that is its loss."""
BITS, VECTORS = "held-out bits per token", "loss of held-out vectors"


def measures(labelled: bool, law: str = BITS) -> tuple[Measure, ...]:
    """The rows of the table, the least noisy measure first; `law` is what pictures cost."""
    found = "class read by the judge" if labelled else "caption among the judge's first five"
    return (
        Measure(HELD_OUT, law, "lower"),
        Measure("frechet", "Fréchet distance to held-out pictures", "lower"),
        Measure("image_text", "image-text cosine", "higher"),
        Measure("image_text_wrong_pairs", "image-text cosine, wrong pairs (control)", ""),
        Measure("caption_found", found, "higher"),
        Measure("caption_found_shuffled", f"{found}, shuffled captions (control)", ""),
        Measure("likeness", "MS-SSIM to the real picture of the caption", ""),
        Measure("ms_ssim", "MS-SSIM within a prompt", ""),
        Measure("near_pixels", "nearer to training than real ones, pixels (0.01 expected)", ""),
        Measure("near_features", "nearer to training than real ones, judge (0.01 expected)", ""),
    )


def compose(
    corpus: Corpus,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    found: Mapping[str, list[dict[str, Any]]],
    reference: dict[str, Any],
    parts: dict[str, Any],
) -> dict[str, Any]:
    """The report as plain JSON: means over seeds with t intervals, and paired differences."""
    training = found[arms[0].name][0]["training"]
    names = [m.key for m in measures(corpus.labelled)]
    return {
        "corpus": corpus.name,
        "title": corpus.title,
        "labelled": corpus.labelled,
        "law": BITS if "held_out_bits" in training["validation"][0] else VECTORS,
        "start": None if corpus.start is None else corpus.start.corpus.name,
        "size": corpus.size,
        "seeds": list(seeds),
        "scale": {
            **parts["pictures"],
            "parameters": training["parameters"],
            "steps": training["steps"],
            "batch": corpus.plan.batch.size * corpus.plan.train.accumulation,
            "prompts": reference["pictures"],
        },
        "parts": {k: v for k, v in parts.items() if k != "pictures"},
        "spent": {
            "parts": sum(parts[name]["seconds"] for name in ("codec", "encoder", "judge")),
            "arm": float(np.mean([r["training"]["seconds"] for rs in found.values() for r in rs])),
        },
        "reference": {**reference, "ms_ssim": found[arms[0].name][0]["ms_ssim_real"]},
        "arms": {
            arm.name: {
                "label": arm.label,
                "step_seconds": [r["training"]["step_seconds"] for r in found[arm.name]],
                "measures": {
                    key: over_seeds([result[key]["value"] for result in found[arm.name]])
                    for key in names
                },
                "curve": _curve(found[arm.name]),
            }
            for arm in arms
        },
        "differences": {
            arm.name: {
                key: difference([r[key]["value"] for r in found[arm.name]],
                                [r[key]["value"] for r in found["baseline"]])
                for key in names
            }
            for arm in arms if arm.name != "baseline"
        },
        "settings": to_plain(corpus),
    }  # fmt: skip


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean over training seeds with its 95 % t interval; no interval of a single seed."""
    if len(values) < 2:
        return {"value": values[0], "low": None, "high": None, "per_seed": list(values)}
    i = paired_difference(values, [0.0] * len(values)).interval
    return {"value": i.value, "low": i.low, "high": i.high, "per_seed": list(values)}


def difference(arm: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Mean of arm - baseline over paired seeds with its t interval."""
    return over_seeds([a - b for a, b in zip(arm, baseline, strict=True)])


def _curve(results: list[dict[str, Any]]) -> list[dict[str, float]]:
    """What held-out pictures cost during training, mean over seeds."""
    runs = [result["training"]["validation"] for result in results]
    points = []
    for marks in zip(*runs, strict=True):
        value = float(np.mean([watched(mark) for mark in marks]))
        points.append({"step": marks[0]["step"], "held_out_bits": value})
    return points


# ---- what people read --------------------------------------------------------------------------


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table: a column for each arm, the differences, and real pictures."""
    arms, others = report["arms"], report["differences"]
    heading = ["measure", *(arm["label"] for arm in arms.values())]
    heading += [f"difference, {arms[name]['label']}" for name in others]
    heading += ["real pictures", "through the codec", "better"]
    rows = []
    for m in measures(report["labelled"], report.get("law", BITS)):
        cells = [_interval(arm["measures"][m.key]) for arm in arms.values()]
        cells += [_interval(others[name][m.key], signed=True) for name in others]
        cells += [_real(report, m.key), _interval(report["reference"]["codec"].get(m.key))]
        rows.append([m.name, *cells, m.better or "–"])
    return heading, rows


def _real(report: Mapping[str, Any], key: str) -> str:
    reference = report["reference"]
    found = reference["ms_ssim"] if key == "ms_ssim" else reference["real"].get(key)
    return _interval(found)


def _interval(found: Mapping[str, Any] | None, signed: bool = False) -> str:
    if found is None or found["value"] is None:
        return "–"
    form = "{:+.3g}" if signed else "{:.4g}"
    text = form.format(found["value"])
    if found["low"] is None:
        return text
    return f"{text} [{form.format(found['low'])}, {form.format(found['high'])}]"


def markdown(report: Mapping[str, Any]) -> str:
    """The results of a corpus as a paragraph and a table of Markdown."""
    heading, rows = table(report)
    lines = [describe(report), "", _row(heading), "|" + "---|" * len(heading), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def describe(report: Mapping[str, Any]) -> str:
    """What was trained, and how it was judged, in a paragraph."""
    scale, parts, reference = report["scale"], report["parts"], report["reference"]
    spent = {name: seconds / 60 for name, seconds in report["spent"].items()}
    seeds = len(report["seeds"])
    begun = f"begun from the {report['start']} model" if report["start"] else "from random weights"
    vectors = report.get("law", BITS) == VECTORS
    used = "" if vectors else f", {parts['codec']['usage']:.0%} of its codes used there"
    return (
        f"{scale['training']} training pictures of {report['size']} x {report['size']} pixels, a "
        f"model of {scale['parameters'] / 1e6:.2f} M parameters {begun}, {scale['steps']} steps of "
        f"{scale['batch']}, {seeds} seed{'' if seeds == 1 else 's'}. The codec: "
        f"{parts['codec']['psnr']:.1f} dB on held-out pictures{used}. "
        f"Judged on {scale['prompts']} captions of {scale['held_out']} "
        f"held-out pictures; the Fréchet distance in {reference['dimensions']} dimensions. "
        f"Training took {spent['parts']:.1f} minutes for codec, teacher and judge and "
        f"{spent['arm']:.1f} for each arm and seed ({report['machine']})."
    )


def write_pages(
    folder: Path,
    report: dict[str, Any],
    captions: Sequence[str],
    rows: Mapping[str, np.ndarray],
) -> None:
    """Write `report.json`, `report.html`, `grid.png` and `drawn.png`.

    `rows` are the rows of the picture. `drawn.png` has those of the arms alone, for real pictures
    are often not ours to hand on, and of large pictures the first six only.
    """
    write_json(folder / "report.json", report)
    names = {name: report["arms"].get(name, {}).get("label", name) for name in rows}
    short = [_short(text) for text in captions]
    grid = _png(draw_grid(Pictures(short, rows), names), 256)
    drawn = {name: array for name, array in rows.items() if name in report["arms"]}
    page = render(report, base64.b64encode(grid).decode("ascii"))
    files = {
        "grid.png": grid,
        "drawn.png": _png(
            draw_grid(Pictures(short, drawn), names, most=6 if report["size"] > 64 else 12), 128
        ),
        "report.html": page.encode("utf-8"),
    }
    for name, content in files.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_bytes(content)


def _short(caption: str, most: int = 60) -> str:
    """The first sentence of a caption, cut where it is long."""
    first = caption.split(". ")[0]
    return first if len(first) <= most else first[: most - 1] + "…"


def _png(picture: Image.Image, colours: int) -> bytes:
    """A PNG with a palette: the eye sees hardly a difference, and the file is a third."""
    buffer = io.BytesIO()
    picture.quantize(colours).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def render(report: Mapping[str, Any], grid: str) -> str:
    """The page as HTML, everything in it; `grid` is a PNG in base 64."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("arra", "templates"),
        autoescape=select_autoescape(("html", "j2")),
        undefined=StrictUndefined,
    )
    series = [
        Series(
            arm["label"],
            [point["step"] for point in arm["curve"]],
            [point["held_out_bits"] for point in arm["curve"]],
        )
        for arm in report["arms"].values()
    ]
    heading, rows = table(report)
    return environment.get_template("corpus.html.j2").render(
        title=report["title"],
        description=describe(report),
        grid=grid,
        heading=heading,
        rows=rows,
        chart=line_chart(series, report.get("law", BITS), "step"),
        arms=[arm["label"] for arm in report["arms"].values()],
        versions=report["versions"],
    )
