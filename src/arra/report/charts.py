"""Line charts as SVG text for a page: sharp at any size, coloured by the page's own style sheet.

The page styles the classes `frame`, `tick`, `line`, `thin`, and `arm-0`, `arm-1`, ... so that one
drawing is legible in light and in dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 440, 264
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 12, 44
_INNER = (_WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM)
_MANY = 40  # points from which on a line is smoothed
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
    windows = [values[max(0, index - reach) : index + reach + 1] for index in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def course(values: Sequence[float]) -> list[float]:
    """`values` as a chart shows them: smoothed if there are more than forty, else as they are."""
    return smooth(values, reach=len(values) // 25 + 1) if len(values) > _MANY else list(values)


def line_chart(series: Sequence[Series], title: str, x_label: str, outliers: bool = False) -> str:
    """An SVG element with a line for each series; series `i` has the class `arm-i`.

    Values that are not finite are left out. Lines of more than forty points are drawn thin, with
    their smoothed course on top. The few largest values may lie outside, unless `outliers` are to
    be seen. Gives an empty string when there is nothing to draw.
    """
    lines = [(index, s, _finite(s)) for index, s in enumerate(series)]
    lines = [(index, s, points) for index, s, points in lines if points]
    if not lines:
        return ""
    everything = [point for _, _, points in lines for point in points]
    x_low, x_high = _range([x for x, _ in everything])
    heights = [y for _, y in everything]
    y_low, y_high = _range(heights if outliers else _without_outliers(heights), margin=0.05)

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        return _LEFT + across * _INNER[0], _TOP + (1 - up) * _INNER[1]

    drawn = []
    for index, _, points in lines:
        if len(points) > _MANY:
            drawn.append(_path([at(x, y) for x, y in points], f"thin arm-{index}"))
        smoothed = course([y for _, y in points])
        spots = [at(x, y) for (x, _), y in zip(points, smoothed, strict=True)]
        dashes = f'" stroke-dasharray="{_DASHES[index % len(_DASHES)]}'
        drawn.append(_path(spots, f"line arm-{index}{dashes}"))
        if len(spots) == 1:
            x, y = spots[0]
            drawn.append(f'<circle class="arm-{index}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
    ends = "; ".join(f"{s.label} ends at {course([y for _, y in p])[-1]:.4g}" for _, s, p in lines)
    name = escape(f"{title}: {ends}", quote=True)
    return "".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">',
            *_axes((x_low, x_high), (y_low, y_high), at),
            f'<text class="tick" x="{_LEFT + _INNER[0] / 2}" y="{_HEIGHT - 6}" '
            f'text-anchor="middle">{escape(x_label)}</text>',
            # An inner drawing cuts off what lies outside of it: the first, very large losses.
            f'<svg x="{_LEFT}" y="{_TOP}" width="{_INNER[0]}" height="{_INNER[1]}" '
            f'viewBox="{_LEFT} {_TOP} {_INNER[0]} {_INNER[1]}">',
            *drawn,
            "</svg></svg>",
        ]
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


def _axes(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    at: Callable[[float, float], tuple[float, float]],
) -> list[str]:
    parts = []
    across, up = ticks(*x_range, 5), ticks(*y_range, 5)
    for value in up:
        x, y = at(x_range[0], value)
        text = _number(value, up[1] - up[0] if len(up) > 1 else 1)
        parts.append(f'<path class="frame" d="M{x:.1f} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{x - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
    for value in across:
        x, y = at(value, y_range[0])
        text = _number(value, across[1] - across[0] if len(across) > 1 else 1)
        parts.append(f'<path class="frame" d="M{x:.1f} {y:.1f}v5"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{y + 19:.1f}" text-anchor="middle">{text}</text>'
        )
    return parts


def _path(points: list[tuple[float, float]], style: str) -> str:
    steps = " ".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{style}" d="M{steps}"/>'
