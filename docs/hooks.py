"""Pages of the site that are made from the sources while mkdocs builds it.

The commands from their own help, the API from the docstrings (one page a room, one section a
module), and three files of the root folder. Nothing here needs mkdocs except `on_files`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "arra"
ROOT_PAGES = {
    "Architecture": "ARCHITECTURE.md",
    "Contributing": "CONTRIBUTING.md",
    "Changelog": "CHANGELOG.md",
}


def modules() -> Iterator[tuple[str, str]]:
    """Room and full name of every public module; the room of those at the root is "arra".

    Commands are left out: they have the page of the command line.
    """
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("arra", *path.relative_to(SOURCE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts[-1].startswith("_") or parts[1:2] == ("commands",):
            continue
        at_root = len(parts) < 2 or not (SOURCE / parts[1]).is_dir()
        yield "arra" if at_root else parts[1], ".".join(parts)


def reference() -> dict[str, str]:
    """Name and Markdown of the pages of the API, one for each room.

    Of a package only the docstring is shown: what it exports is shown where it is defined.
    """
    pages: dict[str, str] = {}
    for room, module in modules():
        options = "" if room in pages else "      heading_level: 1\n"
        if (SOURCE.parent / module.replace(".", "/")).is_dir():
            options += "      members: false\n"
        pages[room] = pages.get(room, "") + f"::: {module}\n"
        pages[room] += f"    options:\n{options}\n" if options else "\n"
    return pages


def help_of(command: str) -> str:
    """What `arra COMMAND --help` prints: usage, text, and groups that begin with their title."""
    from arra import cli

    printed = io.StringIO()
    columns = mock.patch.dict(os.environ, {"COLUMNS": "80"})
    with columns, contextlib.redirect_stdout(printed):
        if cli.run([command, "--help"]) != 0:
            raise RuntimeError(f"arra {command} --help failed")
    lines = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
    # the frame of a group, as it is drawn where only ASCII is sure to show: a line below its title
    return re.sub(r"^ (\w.*)\n -+$", r"\n\1:", lines, flags=re.MULTILINE).strip()


def command_line() -> str:
    """Markdown of the page of the command line: a section for each command."""
    from arra import cli

    page = f"# Commands\n\n{cli._DESCRIPTION}\n"
    for name in cli.command_names():
        text, _, groups = help_of(name).partition("\n\n\n")
        usage, _, text = text.partition("\n\n")
        block = re.sub(r"\n{3,}", "\n\n", f"{usage}\n\n{groups}")
        page += f"\n## arra {name}\n\n{text}\n\n```text\n{block}\n```\n"
    return page


def made_pages() -> set[str]:
    """Names of the pages that are made here."""
    rooms = {f"api/{name}.md" for name in reference()}
    return {"cli.md", *rooms, *(name.lower() for name in ROOT_PAGES.values())}


def files_of(nav: Any) -> list[str]:
    """The files that a navigation names, at any depth."""
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [name for entry in entries for name in files_of(entry)]


def on_config(config: Any) -> Any:
    """Complete the navigation: guides that mkdocs.yml does not name, and the pages made here."""
    sys.path.insert(0, str(SOURCE.parent))  # the commands are those of this checkout
    guides = next(entry["Guides"] for entry in config.nav if "Guides" in entry)
    pages = {page.name for page in Path(config.docs_dir).glob("*.md")}
    guides += sorted(pages - set(files_of(config.nav)))
    config.nav += [
        {"Commands": "cli.md"},
        {"API": [{name: f"api/{name}.md"} for name in reference()]},
        {"Project": [{title: name.lower()} for title, name in ROOT_PAGES.items()]},
    ]
    config.watch += [str(SOURCE), *(str(ROOT / name) for name in ROOT_PAGES.values())]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Give mkdocs the pages that are made here."""
    from mkdocs.structure.files import File

    pages = {f"api/{name}.md": text for name, text in reference().items()}
    pages["cli.md"] = command_line()
    for name in ROOT_PAGES.values():
        text = (ROOT / name).read_text(encoding="utf-8")
        pages[name.lower()] = text.replace("](docs/", "](")
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files
