"""Captions from outside: one clean line of text, and the records of JSON-lines and CSV files."""

from __future__ import annotations

import codecs
import csv
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arra.data.rows import BadRow, Limits
from arra.data.tokenizer import one_line
from arra.errors import InputError

IMAGE_FIELDS = ("image", "file_name")
CAPTION_FIELDS = ("caption", "text")
_LINE_BYTES = 1 << 20  # of a JSON line: room for any caption and much beside it

Record = dict[str, Any]


def clean_caption(raw: Any, name: str, limits: Limits | None = None) -> str:
    """The caption in `raw` (bytes or str) on one line, runs of white space made one space.

    Raises:
        BadRow: it is empty, too long, not text, not UTF-8, or holds control characters.
    """
    limits = limits or Limits()
    if isinstance(raw, bytes):
        raw = _decoded(raw, name)
    if not isinstance(raw, str):
        raise BadRow(name, "the caption is not text", f"it is {type(raw).__name__}")
    bad = next((char for char in raw if "\ud800" <= char <= "\udfff"), None)
    if bad is not None:
        raise BadRow(name, "the caption is not UTF-8", f"it holds U+{ord(bad):04X}")
    text = one_line(raw)
    if not text:
        raise BadRow(name, "the caption is empty")
    if len(text) > limits.max_caption:
        raise BadRow(
            name,
            "the caption is longer than allowed",
            f"{len(text)} > {limits.max_caption} characters",
        )
    control = next((char for char in text if unicodedata.category(char) == "Cc"), None)
    if control is not None:
        raise BadRow(name, "the caption holds control characters", f"U+{ord(control):04X}")
    return text


def _decoded(raw: bytes, name: str) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadRow(name, "the caption is not UTF-8", "it looks like UTF-16")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte {raw[error.start]:#04x} at {error.start}"
        raise BadRow(name, "the caption is not UTF-8", detail) from error


def field_of(record: Record, wanted: str | None, known: tuple[str, ...], name: str) -> Any:
    """The value of the field `wanted`, or, where that is None, of the first of `known` there is."""
    for field in (wanted,) if wanted else known:
        if field in record:
            return record[field]
    expected = wanted or " or ".join(known)
    has = ", ".join(map(str, record)) or "none"
    raise BadRow(name, f"the row has no field {expected}", f"its fields: {has[:200]}")


def jsonl_records(path: Path) -> Iterator[tuple[int, Record | BadRow]]:
    """Line number (from 1) and object of every line that is not blank, or what is wrong with it."""
    try:
        with open(path, "rb") as handle:
            for number, line in _lines(handle):
                if number == 1 and line is not None:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line is None or line.strip():
                    yield number, _json_record(line, f"{path.name} line {number}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _lines(handle: Any) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None for one that is too long, which is skipped without being held."""
    number = 0
    while line := handle.readline(_LINE_BYTES + 1):
        number += 1
        if len(line) <= _LINE_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = handle.readline(_LINE_BYTES)
        yield number, None


def _json_record(line: bytes | None, name: str) -> Record | BadRow:
    if line is None:
        return BadRow(name, "the line is longer than allowed", f"{_LINE_BYTES} bytes")
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        detail = f"byte {line[error.start]:#04x} at {error.start}"
        return BadRow(name, "the line is not UTF-8", detail)
    except (ValueError, RecursionError) as error:
        return BadRow(name, "the line is not JSON", str(error)[:200])
    if not isinstance(record, dict):
        return BadRow(name, "the line is not a JSON object", f"it is {type(record).__name__}")
    return record


def csv_records(path: Path) -> Iterator[tuple[int, Record | BadRow]]:
    """Line number (of the row's last line) and fields of every row, or what is wrong with it.

    The first row names the columns. Bytes that are not UTF-8 stay visible as lone surrogates, so
    that only the row they stand in is bad.

    Raises:
        InputError: the file cannot be read or its first row names no columns.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            columns = _csv_columns(reader, path)
            while True:
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    name = f"{path.name} line {reader.line_num}"
                    yield reader.line_num, BadRow(name, "the row is not CSV", str(error))
                    continue
                if values:
                    yield reader.line_num, _csv_record(columns, values, path, reader.line_num)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _csv_columns(reader: Any, path: Path) -> list[str]:
    columns: list[str] = []
    try:
        columns = next(reader, columns)
    except csv.Error as error:
        raise InputError(f"{path}: its first row is not CSV ({error})") from error
    if len(set(columns)) != len(columns) or not any(columns):
        raise InputError(f"{path}: its first row must name the columns, each once")
    return columns


def _csv_record(columns: list[str], values: list[str], path: Path, line: int) -> Record | BadRow:
    if len(values) != len(columns):
        reason = "the row has not as many fields as there are columns"
        return BadRow(f"{path.name} line {line}", reason, f"{len(values)} and {len(columns)}")
    return dict(zip(columns, values, strict=True))
