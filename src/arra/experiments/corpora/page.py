"""The tables of a page of the documentation, made from the results of corpora that are kept beside.

    python -m arra.experiments.corpora.page docs/corpora.md --record runs/corpora

takes the results of `arra corpus` into the folder `docs/corpora` and writes the tables of the page
again; without `--record` it only writes the tables. What stands between the marks
`<!-- results: NAME -->` and `<!-- end -->` is replaced; people write the rest of the page.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path
from typing import Any

from arra.errors import InputError
from arra.experiments.corpora.results import markdown
from arra.files import atomic_file, read_json, write_json

_BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
MOST_BYTES = 150_000
"""Largest picture that is taken in."""


def filled(page: str, results: Path, link: str) -> str:
    """`page` with the table of every corpus that it marks, from `results`/NAME.json.

    `link` is the way from the page to that folder. A corpus without results gets a sentence that
    says so.
    """

    def block(match: re.Match[str]) -> str:
        name = match[2]
        try:
            report = read_json(results / f"{name}.json")
        except InputError:
            return f"{match[1]}Not measured yet.\n{match[3]}"
        picture = f"![{report['title']}: what each arm draws]({link}/{name}.png)"
        return f"{match[1]}{picture}\n\n{markdown(report)}\n{match[3]}"

    return _BLOCK.sub(block, page)


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


def main() -> None:
    """Write the page that the command line names."""
    parser = argparse.ArgumentParser(description="Fill the tables of a page about real corpora.")
    parser.add_argument("page", type=Path, help="the page; its results lie in a folder of its name")
    parser.add_argument("--record", type=Path, metavar="DIR", help="take the results of DIR first")
    given = parser.parse_args()
    results = given.page.with_suffix("")
    if given.record is not None:
        record(given.record, results)
    text = filled(given.page.read_text(encoding="utf-8"), results, results.name)
    with atomic_file(given.page) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
