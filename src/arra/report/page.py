"""The page `report.html`: one file with everything in it, for any screen, light or dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from arra.report.charts import Series, course, line_chart
from arra.report.format import PARTS, Interval, Pictures, Report, labels

_FIRST = 24  # prompts that are shown at once; the others are behind a click


def render_page(report: Report, pictures: Pictures) -> str:
    """The page as HTML. It needs nothing but itself: no network, no script."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    names = labels(report, pictures)
    loader = PackageLoader("arra", "templates")
    environment = Environment(
        loader=loader,
        autoescape=select_autoescape(("html", "j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    prompts = [_prompt(pictures, names, index) for index in range(len(pictures.captions))]
    return environment.get_template("report.html.j2").render(
        headline=headline(report),
        detail=detail(report),
        names=names,
        prompts=prompts[:_FIRST],
        more_prompts=prompts[_FIRST:],
        marked=bool(pictures.right),
        charts=_charts(report, names),
        measures=_measures(report),
        floor=_floor(report),
        reader=[(part, _percent(report["reader_error"][part])) for part in PARTS],  # type: ignore[literal-required]
        trained=report.get("trained", []),
        codec=_codec(pictures),
        stages=_stages(report["seconds"]),
        total=duration(_total(report["seconds"])),
        settings=_flat(report["settings"]),
        machine=_flat(report["machine"]),
        versions=report["versions"],
    )


def headline(report: Report) -> str:
    """What came out, in one sentence, as far as the intervals allow it to be said."""
    aligned = report["arms"]["aligned"]["prompt_accuracy"]["all"]
    baseline = report["arms"]["baseline"]["prompt_accuracy"]["all"]
    if aligned["value"] is None or baseline["value"] is None:
        return "This run did not measure how many prompts were drawn as asked."
    of = f" of {report['prompts']} held-out prompts" if "prompts" in report else " of the prompts"
    start = (
        f"With alignment the model drew {_share(aligned['value'])}{of} as asked, "
        f"without alignment {_share(baseline['value'])}: "
    )
    sign = _sign(report)
    if sign is None:
        return start + "the run does not say how much of the difference is chance."
    if sign == 0:
        return start + "a difference that chance explains as well."
    return start + ("alignment helped in this run." if sign > 0 else "alignment hurt in this run.")


def _sign(report: Report) -> int | None:
    """1 or -1 where the difference of the arms is more than chance, 0 where it may be chance."""
    difference = report.get("differences", {}).get("all")
    if difference is None:
        arms = report["arms"]
        aligned, baseline = (arms[n]["prompt_accuracy"]["all"] for n in ("aligned", "baseline"))
        if None in (aligned["low"], aligned["high"], baseline["low"], baseline["high"]):
            return None
        # Without the paired difference only intervals that do not overlap are taken as a sign.
        low = aligned["low"] - baseline["high"]  # type: ignore[operator]
        high = aligned["high"] - baseline["low"]  # type: ignore[operator]
    elif difference["low"] is None or difference["high"] is None:
        return None
    else:
        low, high = difference["low"], difference["high"]
    return 1 if low > 0 else -1 if high < 0 else 0


def detail(report: Report) -> str:
    """The second sentence: the parts of the prompt, and how well the reader itself reads."""
    accuracy = report["arms"]["aligned"]["prompt_accuracy"]
    values = {part: accuracy[part]["value"] for part in PARTS if part != "all"}  # type: ignore[literal-required]
    parts = [f"{part} {_share(value)}" for part, value in values.items() if value is not None]
    text = f"With alignment, part by part: {', '.join(parts)}. " if parts else ""
    difference = report.get("differences", {}).get("all")
    if difference is not None and difference["value"] is not None:
        text += f"Difference between the arms: {_points(difference)}. "
    error = report["reader_error"]["all"]["value"]
    if error is not None:
        text += (
            "A small network reads the pictures; "
            f"it misreads {_share(error)} of real scenes, which bounds what can be measured."
        )
    return text.strip()


def _points(difference: Interval) -> str:
    text = f"{100 * (difference['value'] or 0):+.1f} percentage points"
    if difference["low"] is None or difference["high"] is None:
        return text
    return text + f" ({100 * difference['low']:+.1f} to {100 * difference['high']:+.1f})"


def _share(value: float) -> str:
    """A share as whole per cent, which a line break does not part from its sign."""
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def duration(seconds: float | None) -> str:
    """Seconds for people: "0.8 s", "42 s", "3 min 05 s"."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def data_uri(picture: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as a PNG inside a URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _prompt(pictures: Pictures, names: Mapping[str, str], index: int) -> dict[str, Any]:
    caption = pictures.captions[index]
    cells: list[dict[str, Any]] = []
    if pictures.real is not None:
        alt = f"real scene: {caption}"
        cells.append({"label": "real", "uri": data_uri(pictures.real[index]), "alt": alt})
    for name, array in pictures.arms.items():
        cell: dict[str, Any] = {"label": names[name], "uri": data_uri(array[index])}
        cell["alt"] = f"drawn {names[name]}: {caption}"
        if name in pictures.right:
            cell["right"] = bool(pictures.right[name][index])
        if name in pictures.read:
            cell["read"] = pictures.read[name][index]
        cells.append(cell)
    return {"caption": caption, "cells": cells}


def _charts(report: Report, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """One chart for each loss that any arm logged, in the order in which they appear."""
    losses: dict[str, None] = {}
    for points in report["history"].values():
        for point in points:
            losses.update(dict.fromkeys(point["losses"]))
    charts = []
    for loss in losses:
        series = []
        for arm in report["history"]:
            mine = [p for p in report["history"][arm] if p["losses"].get(loss) is not None]
            x = [float(point["step"]) for point in mine]
            series.append(Series(names.get(arm, arm), x, [p["losses"][loss] for p in mine]))
        title = loss.replace("_", " ").replace("/", ": ")
        svg = line_chart(series, title, "step")
        if svg:
            legend = [
                {"arm": i, "label": s.label, "last": f"{course(s.y)[-1]:.4g}"}
                for i, s in enumerate(series)
                if s.y
            ]
            charts.append({"title": title, "svg": svg, "legend": legend})
    return charts


def _number(value: Any, form: str = "{:.4g}", unit: str = "", scale: float = 1.0) -> str:
    """A number or an interval as text; a dash where nothing was measured."""
    interval = value if isinstance(value, dict) else {"value": value, "low": None, "high": None}
    if interval["value"] is None:
        return "–"
    text = form.format(scale * interval["value"]) + unit
    if interval["low"] is None or interval["high"] is None:
        return text
    low, high = (form.format(scale * interval[end]) for end in ("low", "high"))
    return f"{text} ({low} to {high})"


def _percent(value: Any) -> str:
    return _number(value, "{:.1f}", "\N{NO-BREAK SPACE}%", 100.0)


def _measures(report: Report) -> list[dict[str, Any]]:
    """Rows of the table of metrics: a name, which direction is better, a text for each arm."""
    arms = report["arms"]
    rows: list[dict[str, Any]] = []

    def row(name: str, better: str, texts: list[str]) -> None:
        rows.append({"name": name, "better": better, "values": texts})

    for part in PARTS:
        accuracies = [arm["prompt_accuracy"][part] for arm in arms.values()]  # type: ignore[literal-required]
        name = "everything in the prompt right" if part == "all" else f"{part} right"
        row(name, "higher", [_percent(value) for value in accuracies])
    encoders = dict.fromkeys(arm["frechet"]["encoder"] for arm in arms.values())
    distances = [_number(arm["frechet"], "{:.3g}") for arm in arms.values()]
    row(f"Fréchet distance ({', '.join(encoders)})", "lower", distances)
    bits = [_number(arm["held_out_bits"]) for arm in arms.values()]
    row("held-out loss, bits per image token", "lower", bits)
    steps = [_number(arm["step_seconds"], "{:.3f}") for arm in arms.values()]
    row("seconds per training step", "lower", steps)
    further = dict.fromkeys(key for arm in arms.values() for key in arm.get("more", {}))
    for key in further:
        row(key, "", [_number(arm.get("more", {}).get(key)) for arm in arms.values()])
    return rows


def _floor(report: Report) -> str:
    frechet = report["arms"]["aligned"]["frechet"]
    if frechet["floor"] is None:
        return ""
    return (
        f"Two samples of {frechet['n']} real pictures are {frechet['floor']:.3g} apart in the same "
        "encoder: no generator can be expected to come below that."
    )


def _codec(pictures: Pictures) -> list[dict[str, str]]:
    if pictures.originals is None or pictures.reconstructions is None:
        return []
    pairs = zip(pictures.originals, pictures.reconstructions, strict=True)
    return [{"original": data_uri(a), "reconstruction": data_uri(b)} for a, b in pairs]


def _total(seconds: Mapping[str, float]) -> float:
    return seconds.get("total", sum(value or 0.0 for value in seconds.values()))


def _stages(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    seconds = {name: value for name, value in seconds.items() if name != "total"}
    longest = max([value or 0.0 for value in seconds.values()], default=0.0) or 1.0
    return [
        {
            "name": name.replace("_", " "),
            "time": duration(value),
            "share": f"{100 * (value or 0) / longest:.1f}",
        }
        for name, value in seconds.items()
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows: ("codec.channels", "64")."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            rows += _flat(value, f"{name}.")
        elif isinstance(value, list):
            rows.append((name, ", ".join(str(item) for item in value)))
        else:
            rows.append((name, "–" if value is None else str(value)))
    return rows
