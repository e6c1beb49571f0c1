"""The report of a run: `report.json` for programs, `report.html` for people, and `grid.png`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from arra.files import atomic_file, to_plain, write_json
from arra.report.format import Pictures, Report, check_pictures, check_report, labels
from arra.report.grid import draw_grid
from arra.report.page import render_page


def write_report(folder: str | Path, report: Report, pictures: Pictures) -> Path:
    """Write `report.json`, `report.html` and `grid.png` into `folder`; the path of the page.

    Numbers that are not finite become null: after minutes of training a report with a gap is worth
    more than none. Raises `InputError` when a key is missing or the pictures do not fit together.
    """
    plain = _without_nonfinite(to_plain(report))
    check_report(plain)
    check_pictures(pictures)
    folder = Path(folder)
    write_json(folder / "report.json", plain)
    with atomic_file(folder / "grid.png") as temporary:
        draw_grid(pictures, labels(plain, pictures)).save(temporary, format="PNG", optimize=True)
    with atomic_file(folder / "report.html") as temporary:
        temporary.write_text(render_page(plain, pictures), encoding="utf-8")
    return folder / "report.html"


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nonfinite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
