"""Pages of the documentation of which people write the text and results fill the tables."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from arra.files import atomic_file

Block = Callable[[str, Path, str], str | None]
"""(name, folder of results, link from the page to it) -> what stands in the block, or None."""


class Full(Protocol):
    """What was measured, and how thoroughly."""

    @property
    def budget(self) -> str: ...

    def write(self, path: Path) -> None: ...


_BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, block: Block, results: Path, link: str) -> str:
    """`page` with everything between `<!-- results: NAME -->` and `<!-- end -->` made anew.

    What has no results gets a sentence that says so.
    """

    def replaced(match: re.Match[str]) -> str:
        text = block(match[2], results, link)
        return f"{match[1]}{'Not measured yet.' if text is None else text}\n{match[3]}"

    return _BLOCK.sub(replaced, page)


def take_full(
    result: Full, runs: Path, results: Path, file: str, plot: Callable[[Path], None], pictures: str
) -> None:
    """Keep a result of the budget "full" in `results`, as `file`, with its plot made anew and the
    `pictures` that lie in `runs`; another one is left alone."""
    if result.budget != "full":
        return
    result.write(results / file)
    plot(results)
    with atomic_file(results / pictures) as temporary:
        shutil.copyfile(runs / pictures, temporary)


def fill_page(what: str, block: Block, record: Callable[[Path, Path], object]) -> None:
    """The command line of a page: write its tables, after taking in new results if asked."""
    parser = argparse.ArgumentParser(description=f"Fill the tables of a page about {what}.")
    parser.add_argument("page", type=Path, help="the page; its results lie in a folder of its name")
    parser.add_argument("--record", type=Path, metavar="DIR", help="take the results of DIR first")
    given = parser.parse_args()
    results = given.page.with_suffix("")
    if given.record is not None:
        record(given.record, results)
    text = filled(given.page.read_text(encoding="utf-8"), block, results, results.name)
    with atomic_file(given.page) as temporary:
        temporary.write_text(text, encoding="utf-8")
