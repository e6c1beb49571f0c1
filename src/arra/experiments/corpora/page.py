"""The tables of a page of the documentation, made from the results of corpora that are kept beside.

    python -m arra.experiments.corpora.page docs/corpora.md --record runs/corpora

takes the results of `arra corpus` into the folder `docs/corpora` and writes the tables of the page
again; without `--record` it only writes the tables. What stands between the marks
`<!-- results: NAME -->` and `<!-- end -->` is replaced; people write the rest of the page.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from arra.errors import InputError
from arra.experiments.corpora.results import markdown
from arra.experiments.pages import fill_page
from arra.files import atomic_file, read_json, write_json

MOST_BYTES = 150_000
"""Largest picture that is taken in."""


def block(name: str, results: Path, link: str) -> str | None:
    """Picture and table of the corpus `name`, from `results`/NAME.json; None without results."""
    path = results / f"{name}.json"
    if not path.is_file():
        return None
    report = read_json(path)
    picture = f"![{report['title']}: what each arm draws]({link}/{name}.png)"
    return f"{picture}\n\n{markdown(report)}"


def record(runs: Path, results: Path) -> list[str]:
    """Take `report.json` and `drawn.png` of every finished corpus in `runs` into `results`: names.

    Raises `InputError` where a picture is larger than a repository should hold.
    """
    names = []
    for path in sorted(runs.glob("*/report.json")):
        report: dict[str, Any] = read_json(path)
        picture = path.with_name("drawn.png")
        if picture.stat().st_size > MOST_BYTES:
            raise InputError(f"{picture}: {picture.stat().st_size} bytes, expected {MOST_BYTES}")
        write_json(results / f"{report['corpus']}.json", report)
        with atomic_file(results / f"{report['corpus']}.png") as temporary:
            shutil.copyfile(picture, temporary)
        names.append(str(report["corpus"]))
    return names


if __name__ == "__main__":
    fill_page("real corpora", block, record)
