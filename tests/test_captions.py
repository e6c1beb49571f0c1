"""Captions and the parsers of their files: whatever the bytes, a row or a reason comes out."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arra.data.captions import clean_caption, csv_records, jsonl_records
from arra.data.rows import BadRow

VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
JSON = (
    VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=5), VALUES, max_size=2)
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "listing"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=3), max_size=4), st.booleans())
def test_jsonl_round_trip(scratch, records, ascii):
    text = "\n".join(json.dumps(record, ensure_ascii=ascii) for record in records)
    scratch.write_bytes(text.encode("utf-8"))
    assert list(jsonl_records(scratch)) == list(enumerate(records, 1))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,\n\r 1aé\0', max_size=80).map(str.encode))
def test_jsonl_of_any_bytes_gives_every_line_once(scratch, data):
    scratch.write_bytes(data)
    found = list(jsonl_records(scratch))
    body = data.removeprefix(b"\xef\xbb\xbf")
    expected = [n for n, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    assert [number for number, _ in found] == expected
    assert all(isinstance(item, dict | BadRow) for _, item in found)


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=12)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=6))
def test_csv_round_trip(scratch, rows):
    with open(scratch, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, quoting=csv.QUOTE_ALL)
        writer.writerows([("file_name", "text"), *rows])
    found = [record for _, record in csv_records(scratch)]
    assert found == [{"file_name": name, "text": text} for name, text in rows]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120) | st.text(alphabet='",\n\r a\0', max_size=60).map(str.encode))
def test_csv_of_any_bytes_gives_rows_or_reasons(scratch, data):
    scratch.write_bytes(b"image,caption\n" + data)
    for _, item in csv_records(scratch):
        assert isinstance(item, BadRow) or list(item) == ["image", "caption"]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_clean_captions_are_clean(raw):
    try:
        text = clean_caption(raw, "x")
    except BadRow as bad:
        assert bad.reason.startswith("the caption")  # noqa: PT017
        return
    assert text
    assert text.isprintable() or not any(char < " " for char in text)
    assert clean_caption(text.encode("utf-8"), "x") == text == " ".join(text.split())
