"""Line charts as SVG text for a page: sharp at any size, coloured by the page's own style sheet.

The page styles the classes `frame`, `tick`, `line`, `thin`, and `arm-0`, `arm-1`, ... so that one drawing
is legible in light and in dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 440, 264
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 44
_DASHES = ("", "7 4", "2 4", "9 3 2 3")


@dataclass(frozen=True)
class Series:
    """One line: its label and its points, in order of x."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that lie within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * index for index in range(first, last + 1)]


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Mean of each value and its neighbours up to `reach` away, fewer where the line ends."""
    out = []
    for index in range(len(values)):
        near = min(reach, index, len(values) - 1 - index)
        window = values[index - near : index + near + 1]
        out.append(sum(window) / len(window))
    return out


def line_chart(series: Sequence[Series], title: str, x_label: str, y_label: str) -> str:
    """An SVG element with a line for each series; series `i` has the class `arm-i`.

    Values that are not finite are left out. Lines of more than forty points are drawn thin, with
    their smoothed course on top. Gives an empty string when there is nothing to draw.
    """
    lines = [(index, s, _finite(s)) for index, s in enumerate(series)]
    lines = [(index, s, points) for index, s, points in lines if points]
    if not lines:
        return ""
    everything = [point for _, _, points in lines for point in points]
    x_low, x_high = _range([x for x, _ in everything])
    y_low, y_high = _range(_without_outliers([y for _, y in everything]), margin=0.05)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (min(max(y, y_low), y_high) - y_low) / (y_high - y_low)
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + across * width, _TOP + (1 - up) * height

    parts = [*_axes(x_low, x_high, y_low, y_high, at), _labels(x_label, y_label)]
    for index, _, points in lines:
        style = f'arm-{index}" stroke-dasharray="{_DASHES[index % len(_DASHES)]}'
        if len(points) > 40:
            parts.append(_path([at(x, y) for x, y in points], f"thin arm-{index}"))
            course = smooth([y for _, y in points], reach=max(2, len(points) // 25))
            points = [(x, y) for (x, _), y in zip(points, course, strict=True)]
        parts.append(_path([at(x, y) for x, y in points], f"line {style}"))
        if len(points) == 1:
            (x, y) = at(*points[0])
            parts.append(f'<circle class="dot arm-{index}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
    ends = "; ".join(f"{s.label} ends at {points[-1][1]:.4g}" for _, s, points in lines)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(f"{title}: {ends}", quote=True)}">' + "".join(parts) + "</svg>"
    )


def _finite(series: Series) -> list[tuple[float, float]]:
    pairs = zip(series.x, series.y, strict=True)
    return [(float(x), float(y)) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _range(values: list[float], margin: float = 0.0) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high == low:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    room = (high - low) * margin
    return low - room, high + room


def _without_outliers(values: list[float]) -> list[float]:
    # The first steps of training are so much worse that they would flatten everything after them.
    ordered = sorted(values)
    cap = ordered[int(0.97 * (len(ordered) - 1))]
    return [value for value in values if value <= cap]


def _number(value: float, spacing: float) -> str:
    places = max(0, -math.floor(math.log10(spacing) + 1e-9)) if spacing > 0 else 0
    return f"{value + 0.0:,.{min(places, 6)}f}"


def _axes(x_low: float, x_high: float, y_low: float, y_high: float, at) -> list[str]:  # type: ignore[no-untyped-def]
    parts = []
    across, up = ticks(x_low, x_high, 5), ticks(y_low, y_high, 5)
    for value in up:
        x, y = at(x_low, value)
        text = _number(value, up[1] - up[0] if len(up) > 1 else 1)
        parts.append(f'<path class="frame" d="M{x:.1f} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{x - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
    for value in across:
        x, y = at(value, y_low)
        text = _number(value, across[1] - across[0] if len(across) > 1 else 1)
        parts.append(f'<path class="frame" d="M{x:.1f} {y:.1f}v5"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{y + 19:.1f}" text-anchor="middle">{text}</text>'
        )
    return parts


def _labels(x_label: str, y_label: str) -> str:
    middle = _TOP + (_HEIGHT - _TOP - _BOTTOM) / 2
    return (
        f'<text class="tick" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="tick" transform="translate(14 {middle}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )


def _path(points: list[tuple[float, float]], style: str) -> str:
    steps = " ".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{style}" d="M{steps}"/>'
