"""Captions from outside: one clean line of text, and the records of JSON-lines and CSV files."""

from __future__ import annotations

import codecs
import csv
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arra.data.rows import BadRow, Limits, Question
from arra.data.tokenizer import one_line
from arra.errors import InputError

IMAGE_FIELDS = ("image", "file_name")
CAPTION_FIELDS = ("caption", "text")
MOST_QUESTIONS = 100
"""About one picture."""
_LINE_BYTES = 1 << 20  # of a JSON line: room for any caption and much beside it

Record = dict[str, Any]


def clean_caption(raw: Any, name: str, limits: Limits | None = None, what: str = "caption") -> str:
    """The caption in `raw` (bytes or str) on one line, runs of white space made one space; `what`
    is its name in messages.

    Raises:
        BadRow: it is empty, too long, not text, not UTF-8, or holds control characters.
    """
    limits = limits or Limits()
    if isinstance(raw, bytes):
        raw = _decoded(raw, name, what)
    if not isinstance(raw, str):
        raise BadRow(name, f"the {what} is not text", f"it is {type(raw).__name__}")
    bad = next((char for char in raw if "\ud800" <= char <= "\udfff"), None)
    if bad is not None:
        raise BadRow(name, f"the {what} is not UTF-8", f"it holds U+{ord(bad):04X}")
    text = one_line(raw)
    if not text:
        raise BadRow(name, f"the {what} is empty")
    if len(text) > limits.max_caption:
        raise BadRow(
            name,
            f"the {what} is longer than allowed",
            f"{len(text)} > {limits.max_caption} characters",
        )
    control = next((char for char in text if unicodedata.category(char) == "Cc"), None)
    if control is not None:
        raise BadRow(name, f"the {what} holds control characters", f"U+{ord(control):04X}")
    return text


def _decoded(raw: bytes, name: str, what: str) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadRow(name, f"the {what} is not UTF-8", "it looks like UTF-16")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte {raw[error.start]:#04x} at {error.start}"
        raise BadRow(name, f"the {what} is not UTF-8", detail) from error


def clean_questions(raw: Any, name: str, limits: Limits | None = None) -> tuple[Question, ...]:
    """The questions in `raw`, a list of objects with `question` and `answer`; None is no question.

    Raises `BadRow` where it is something else, or a text in it is no clean line (`clean_caption`).
    """
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise BadRow(name, "its questions are not a list", f"they are {type(raw).__name__}")
    if len(raw) > MOST_QUESTIONS:
        detail = f"{len(raw)} > {MOST_QUESTIONS}"
        raise BadRow(name, "there are more questions than allowed", detail)
    found = []
    for number, one in enumerate(raw, start=1):
        if not isinstance(one, dict) or not {"question", "answer"} <= one.keys():
            reason = "a question is not an object with question and answer"
            raise BadRow(name, reason, f"question {number}: {str(one)[:200]}")
        question, answer = (
            clean_caption(one[part], name, limits, part) for part in ("question", "answer")
        )
        found.append(Question(question, answer))
    return tuple(found)


def questions_of(
    record: Record, path: Path, name: str, limits: Limits | None = None
) -> tuple[Question, ...]:
    """The field `questions` of a row of the listing `path`; a CSV file has none."""
    raw = None if path.suffix.lower() == ".csv" else record.get("questions")
    return clean_questions(raw, name, limits)


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
