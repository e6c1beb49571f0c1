"""Captioned pictures in folders: good rows are read exactly, bad ones named with their reason."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import signal
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from arra.data.folders import pairs_source
from arra.data.pictures import (
    BadRow,
    Limits,
    PictureSource,
    RowReport,
    fit,
    good_rows,
    open_pictures,
)
from arra.data.prepare import prepare
from arra.data.store import PreparedStore
from arra.data.tokenizer import train_text_tokenizer
from arra.errors import InputError
from arra.files import read_json
from arra.pixels import to_unit
from picture_kit import BROKEN, GIF, GREY16, PNG, RGB, encoded, exif
from store_parts import PatchCodec, PatchEncoder, contents

pytestmark = pytest.mark.filterwarnings("ignore")
LIMITS = Limits(max_bytes=20_000, max_caption=50, min_side=2, animation="refuse", bad_share=1.0)
GREY = np.repeat(np.rint(GREY16 / 257.0).astype(np.uint8)[..., None], 3, axis=2)
# name -> (bytes, pixels that must come out)
GOOD = {
    "a.png": (PNG, RGB),
    "b.tiff": (encoded(RGB, "TIFF", exif=exif(6)), np.rot90(RGB, -1)),
    "below/c.PNG": (encoded(GREY16), GREY),
    "below/wörter.bmp": (encoded(RGB[:2, :2], "BMP"), RGB[:2, :2]),
    "wrong_ending.jpg": (PNG, RGB),
}
CAPTIONS: dict[str, tuple[bytes, str]] = {
    "blank": (b"", "the caption is empty"),
    "white": (b" \t\r\n\xc2\xa0 ", "the caption is empty"),
    "only_mark": (b"\xef\xbb\xbf", "the caption is empty"),
    "latin": ("ein Bär".encode("latin-1"), "the caption is not UTF-8"),
    "utf16": ("a bear".encode("utf-16"), "the caption is not UTF-8"),
    "nul": (b"a\0bear", "the caption holds control characters"),
    "escape": (b"a \x1b[31mred bear", "the caption holds control characters"),
    "long": (b"b" * 51, "the caption is longer than allowed"),
    "endless": (b"b" * 5000, "the file is larger than allowed"),
}


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read_all(source: PictureSource) -> tuple[dict[str, tuple[np.ndarray, str]], RowReport]:
    report = RowReport(LIMITS.bad_share, source.problems)
    rows = {row.key: (np.asarray(row.image), row.caption) for _, row in good_rows(source, report)}
    assert report.good == len(rows)
    assert report.good + len(report.bad) == source.total
    return rows, report


def reasons(report: RowReport) -> dict[str, str]:
    named = {bad.name: bad.reason for bad in report.bad}
    assert len(named) == len(report.bad), "a row is reported twice"
    return named


def assert_good(rows: dict, prefix: str = "") -> None:
    assert sorted(rows) == sorted(prefix + name for name in GOOD)
    for name, (_, expected) in GOOD.items():
        pixels, caption = rows[prefix + name]
        np.testing.assert_array_equal(pixels, expected, err_msg=name)
        assert caption == f"the caption of {name}"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for name, (data, _) in GOOD.items():
        put(root / name, data)
    return root


@pytest.fixture
def broken_folder(folder, tmp_path):
    """Good pairs beside every kind of broken one, and the reason that each must get."""
    if sys.platform != "linux":
        pytest.skip("only Linux lets the names and pipes be made that are tested here")
    expected = {}
    for name in GOOD:
        # A byte order mark, white space around and Windows line ends are harmless.
        text = f"\ufeff  the caption\r\nof {name}\n"
        put((folder / name).with_suffix(".txt"), text.encode())
    for name, (data, reason) in BROKEN.items():
        put(folder / f"{name}.png", data)
        put(folder / f"{name}.txt", b"a bear")
        expected[f"{name}.png"] = reason
    for name, (text, reason) in CAPTIONS.items():
        put(folder / f"{name}.png", PNG)
        put(folder / f"{name}.txt", text)
        expected[f"{name}.txt"] = reason
    for name, data, reason in (
        ("heavy.png", PNG + bytes(20_000), "the file is larger than allowed"),
        ("thin.png", encoded(RGB[:1]), "the picture is smaller than allowed"),
        ("moving.gif", GIF, "the picture has several frames or pages"),
        ("phone.heic", b"....ftypheic", "its format is not read"),
    ):
        put(folder / name, data)
        put((folder / name).with_suffix(".txt"), b"a bear")
        expected[name] = reason
    put(folder / "lonely.png", PNG)
    expected["lonely.png"] = "the picture has no caption"
    put(folder / "widow.txt", b"a bear")
    expected["widow.txt"] = "the caption has no picture of the same name"
    put(folder / "a.webp", PNG)
    expected["a.webp"] = "another file has the same name"
    put(folder / "a.TXT", b"another caption")
    expected["a.txt"] = "another file has the same name"  # A.TXT sorts first and is the one used
    put(folder / "a.TXT", (folder / "a.txt").read_bytes())
    outside = put(tmp_path / "secret.png", PNG)
    put(tmp_path / "elsewhere" / "d.png", PNG)
    for name, target, reason in (
        ("escaping", outside, "it is a link that leaves the folder"),
        ("dangling", folder / "nothing.png", "it is a link that leads nowhere"),
    ):
        (folder / f"{name}.png").symlink_to(target)
        put(folder / f"{name}.txt", b"a bear")
        expected[f"{name}.png"] = reason
    put(folder / "captioned_from_outside.png", PNG)
    (folder / "captioned_from_outside.txt").symlink_to(put(tmp_path / "secret.txt", b"password"))
    expected["captioned_from_outside.txt"] = "it is a link that leaves the folder"
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    expected["linked"] = "a link to a folder is not followed"
    os.mkfifo(folder / "pipe.png")
    put(folder / "pipe.txt", b"a bear")
    expected["pipe.png"] = "not a regular file"
    (folder / "drawer.png").mkdir()
    put(folder / "drawer.txt", b"a bear")
    expected["drawer.txt"] = "the caption has no picture of the same name"
    with open(os.fsencode(folder) + b"/b\xe4r.png", "wb") as handle:
        handle.write(PNG)
    expected["b\\udce4r.png"] = "its name is not UTF-8"
    put(folder / ".hidden" / "e.png", PNG)
    put(folder / "__MACOSX" / "._a.png", b"junk")
    put(folder / "LICENSE", b"free")
    return folder, expected


def test_folder_names_every_broken_file_and_reads_every_good_one(broken_folder):
    root, expected = broken_folder
    assert len(expected) >= 25
    rows, report = read_all(open_pictures(root, limits=LIMITS))
    assert reasons(report) == expected
    assert_good(rows)
    assert [(note.name, note.note) for note in report.remarks.notes] == [
        ("wrong_ending.jpg", "the content is PNG, the name says JPEG"),
    ]
    assert sum(report.remarks.counts.values()) == len(expected)
    again = open_pictures(root, limits=LIMITS)
    assert again.identity() == open_pictures(str(root), limits=LIMITS).identity()


def prepared(root: Path, folder: Path, **options: Any) -> PreparedStore:
    parts = {
        "codec": PatchCodec(PatchCodec.Config()),
        "encoder": PatchEncoder(PatchEncoder.Config()),
        "tokenizer": train_text_tokenizer(["the caption of a b c"], 64),
    }
    settings = {"size": 8, "shard_rows": 8, "batch": 3, "bad_share": 1.0, "quiet": True}
    source = open_pictures(root, limits=LIMITS)
    return prepare(source, folder, **{**parts, **settings, **options})


def test_a_store_of_a_broken_folder_holds_the_good_rows_and_names_the_others(
    broken_folder, tmp_path
):
    root, expected = broken_folder
    assert len(set(expected.values())) >= 20  # kinds of broken input
    with pytest.raises(InputError, match=r"more than the share of 0\.5 that bad_share allows"):
        prepared(root, tmp_path / "strict", bad_share=0.5)
    store = prepared(root, tmp_path / "store")
    assert store.keys(range(len(store))) == sorted(GOOD)
    captions = [f"the caption of {name}" for name in sorted(GOOD)]
    assert store.captions(range(len(store))) == captions
    fitted = [np.asarray(fit(Image.fromarray(GOOD[name][1]), 8)) for name in sorted(GOOD)]
    codec = PatchCodec(PatchCodec.Config())
    assert torch.equal(store.rows(range(len(GOOD))).codes, codec.encode(to_unit(np.stack(fitted))))
    saved = read_json(tmp_path / "store" / "report.json")
    assert {row["name"]: row["reason"] for row in saved["rows"]} == expected
    assert (saved["good"], saved["bad"]) == (len(GOOD), len(expected))
    assert saved["reasons"]["the caption is empty"] == 3
    assert [note["name"] for note in saved["notes"]] == ["wrong_ending.jpg"]


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("moment", [2, 5, 8, 10])
def test_a_killed_preparation_of_a_broken_folder_goes_on(broken_folder, tmp_path, moment):
    """SIGKILL before the rename number `moment`; the next call ends with the very same files."""
    root, _ = broken_folder
    prepared(root, tmp_path / "whole")
    child = os.fork()
    if child == 0:
        rename, left = os.replace, moment

        def replace(*paths: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*paths)

        os.replace = replace
        try:
            prepared(root, tmp_path / "killed")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    with pytest.raises(InputError, match="did not finish"):
        PreparedStore.open(tmp_path / "killed")
    prepared(root, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_report_is_saved_and_told(broken_folder, tmp_path):
    root, expected = broken_folder
    _, report = read_all(open_pictures(root, limits=LIMITS))
    report.save(tmp_path / "out" / "rows.json")
    saved = read_json(tmp_path / "out" / "rows.json")
    assert {row["name"]: row["reason"] for row in saved["rows"]} == expected
    assert (saved["good"], saved["bad"]) == (len(GOOD), len(expected))
    assert saved["reasons"]["the caption is empty"] == 3
    summary = report.summary()
    assert f"{len(GOOD)} rows were read and {len(expected)} cannot be used" in summary
    assert "3 x the caption is empty" in summary
    assert "\n" not in summary


def test_too_many_bad_rows_stop_the_work(broken_folder):
    root, _ = broken_folder
    source = open_pictures(root, limits=LIMITS)
    with pytest.raises(InputError, match=r"rows cannot be used, more than the share of 0\.1") as e:
        list(good_rows(source, RowReport(0.1, source.problems)))
    assert "3 x the caption is empty" in str(e.value)
    assert str(source.problems[0]) in str(e.value)


def test_share_is_of_all_rows_and_its_bound_is_allowed():
    report = RowReport(0.1, [BadRow("a", "broken")])
    report.check(10)
    with pytest.raises(InputError, match="1 of 9 rows"):
        report.check(9)
    RowReport(0.0).check(0)


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_unreadable_files_are_named():
    # Not tmp_path: it lies in a folder that only its owner may enter, which hides the reason.
    root = Path(tempfile.mkdtemp())
    try:
        put(root / "a.png", PNG)
        put(root / "b.png", PNG)
        (root / "locked").mkdir()
        for name in ("a.txt", "b.txt"):
            put(root / name, b"a bear")
        source = open_pictures(root, limits=LIMITS)
        assert len(source) == 2
        root.chmod(0o755)
        (root / "b.png").chmod(0)
        (root / "locked").chmod(0)
        everyone = os.geteuid()
        if everyone == 0:
            os.seteuid(65534)  # the superuser may read everything
        try:
            rows, report = read_all(source)
            listed = pairs_source(root, LIMITS)
        finally:
            os.seteuid(everyone)
        assert list(rows) == ["a.png"]
        assert reasons(report) == {"b.png": "the file may not be read (permission denied)"}
        assert [(bad.name, bad.reason) for bad in listed.problems] == [
            ("locked", "the folder cannot be read")
        ]
    finally:
        (root / "locked").chmod(0o700)
        shutil.rmtree(root)


def test_a_file_that_changes_after_listing_is_looked_at_again(folder, tmp_path):
    for name in GOOD:
        put((folder / name).with_suffix(".txt"), b"a bear")
    source = open_pictures(folder)
    before = source.identity()["sha256"]
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(put(tmp_path / "secret.png", PNG))
    (folder / "b.tiff").unlink()
    for index, reason in ((0, "link that leaves"), (1, "no such file")):
        with pytest.raises(BadRow, match=reason):
            source.read(index)
    assert open_pictures(folder, limits=LIMITS).identity()["sha256"] != before
    for index in (-1, len(source)):
        with pytest.raises(IndexError):
            source.read(index)


LISTED = (  # fields of a row, and the reason why it is bad
    ({"image": "a.png", "caption": "again"}, "the same picture is listed twice"),
    ({"image": "./a.png", "caption": "again"}, "the same picture is listed twice"),
    ({"image": "none.png", "caption": "a"}, "there is no such file"),
    ({"image": "../secret.png", "caption": "a"}, "its path leaves the folder"),
    ({"image": "/etc/passwd", "caption": "a"}, "its path leaves the folder"),
    ({"image": "link.png", "caption": "a"}, "it is a link that leaves the folder"),
    ({"image": "below", "caption": "a"}, "not a regular file"),
    ({"image": "", "caption": "a"}, "the row names no picture"),
    ({"image": "x" * 400, "caption": "a"}, "the file cannot be read"),
    ({"image": "nul\0.png", "caption": "a"}, "its name is not valid text"),
    ({"image": "spare.png", "caption": "  "}, "the caption is empty"),
    ({"image": "spare.png", "caption": "a\0b"}, "the caption holds control characters"),
    ({"image": "spare.png", "caption": "b" * 51}, "the caption is longer than allowed"),
)
LISTED_JSON = (
    ({"caption": "a"}, "the row has no field image or file_name"),
    ({"image": "spare.png"}, "the row has no field caption or text"),
    ({"image": 3, "caption": "a"}, "the name of the picture is not text"),
    ({"image": "spare.png", "caption": ["a"]}, "the caption is not text"),
    ({"image": "spare.png", "caption": "\ud800"}, "the caption is not UTF-8"),
    ({"image": "\udc80.png", "caption": "a"}, "its name is not valid text"),
    ([1, 2], "the line is not a JSON object"),
)
LISTED_LINES = (
    (b'{"image": "spare.png", "caption": ', "the line is not JSON"),
    (b'{"image": "spare.png", "caption": "B\xe4r"}', "the line is not UTF-8"),
    (b"[" * 100_000, "the line is not JSON"),
    (b'{"a": ' + b"1" * 5000 + b"}", "the line is not JSON"),
    (b'{"a": "' + b"1" * (1 << 21) + b'"}', "the line is longer than allowed"),
)


def listed_folder(folder: Path, tmp_path: Path) -> dict[str, str]:
    put(folder / "cut.png", BROKEN["cut_png"][0])
    put(folder / "spare.png", PNG)
    put(folder / "unlisted.png", PNG)
    (folder / "link.png").symlink_to(put(tmp_path / "secret.png", PNG))
    return {
        "cut.png": BROKEN["cut_png"][1],
        "unlisted.png": "the picture has no caption",
    }


def test_captions_jsonl(folder, tmp_path):
    expected = listed_folder(folder, tmp_path)
    lines = [
        json.dumps({"file_name" if i % 2 else "image": name, "text": f"the caption of {name}"})
        for i, name in enumerate(GOOD)
    ]
    lines = [line.encode() for line in [*lines, json.dumps({"image": "cut.png", "text": "c"})]]
    lines += [b"", b"  \r"]  # blank lines are no rows
    for record, reason in (*LISTED, *LISTED_JSON):
        lines.append(json.dumps(record).encode())
        expected[f"captions.jsonl line {len(lines)}"] = reason
    for line, reason in LISTED_LINES:
        lines.append(line)
        expected[f"captions.jsonl line {len(lines)}"] = reason
    put(folder / "captions.jsonl", b"\xef\xbb\xbf" + b"\r\n".join(lines))
    rows, report = read_all(open_pictures(folder, limits=LIMITS))
    assert reasons(report) == expected
    assert len(expected) >= 25
    assert_good(rows)


def test_metadata_csv(folder, tmp_path):
    expected = listed_folder(folder, tmp_path)
    path = folder / "metadata.csv"
    line = 1
    with open(path, "w", encoding="utf-8-sig", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["file_name", "other", "text"])
        for name in GOOD:
            # A quoted line break inside a caption is legal, and white space in a caption.
            writer.writerow([name, "a,b", f"the caption\nof {name}"])
            line += 2
        writer.writerow(["cut.png", "", "c"])
        line += 1
        for record, reason in LISTED:
            writer.writerow([record["image"], "", record["caption"]])
            line += 1
            expected[f"metadata.csv line {line}"] = reason
    with open(path, "ab") as handle:
        for raw, reason in (
            (b"spare.png,,B\xe4r", "the caption is not UTF-8"),
            (b"spare.png,no caption", "the row has not as many fields as there are columns"),
            (b"spare.png,,a,b", "the row has not as many fields as there are columns"),
            (b'spare.png,"a"b,c', "the row is not CSV"),
            (b"spare.png,," + b"b" * 200_000, "the row is not CSV"),
            (b'spare.png,,"never closed', "the row is not CSV"),
        ):
            handle.write(raw + b"\r\n")
            line += 1
            expected[f"metadata.csv line {line}"] = reason
    rows, report = read_all(open_pictures(folder, limits=LIMITS))
    assert reasons(report) == expected
    assert_good(rows)


def test_csv_without_its_columns_is_refused_as_a_whole(folder):
    for head in (b"", b"file_name,file_name\r\n", b'"file', b",,\r\n"):
        put(folder / "metadata.csv", head)
        with pytest.raises(InputError, match="first row"):
            open_pictures(folder)
    put(folder / "metadata.csv", b"name,words\r\na.png,a bear\r\n")
    with pytest.raises(InputError, match="no field image or file_name"):
        open_pictures(folder)
    source = open_pictures(folder, image_column="name", caption_column="words")
    assert [row.caption for row in source] == ["a bear"]


def test_split_field(folder):
    rows = [
        {"image": name, "caption": "c", "split": "train" if i else "test"}
        for i, name in enumerate(GOOD)
    ]
    put(folder / "captions.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert [row.key for row in open_pictures(folder, split="test")] == ["a.png"]
    train = open_pictures(folder, split="train")
    assert (len(train), train.problems) == (len(GOOD) - 1, ())
    with pytest.raises(InputError, match="there are: test, train"):
        open_pictures(folder, split="validation")


def test_split_folder(folder):
    put(folder / "below" / "c.txt", b"a bear")
    assert [row.key for row in open_pictures(folder, split="below", limits=LIMITS)] == ["c.PNG"]
    for split in ("..", "none", "../pictures"):
        with pytest.raises(InputError, match="split"):
            open_pictures(folder, split=split)


def test_names_match_however_their_accents_are_spelt(tmp_path):
    put(tmp_path / "Ba\u0308r.png", PNG)
    put(tmp_path / "B\u00e4r.txt", b"a bear")
    assert [row.key for row in open_pictures(tmp_path)] == ["Ba\u0308r.png"]


def test_sources_travel_to_other_processes(folder):
    for name in GOOD:
        put((folder / name).with_suffix(".txt"), f"the caption of {name}".encode())
    source = pickle.loads(pickle.dumps(open_pictures(folder)))
    rows, _ = read_all(source)
    assert_good(rows)
    row = pickle.loads(pickle.dumps(source.read(0)))
    np.testing.assert_array_equal(np.asarray(row.image), np.asarray(source.read(0).image))


def test_nothing_usable_says_why(tmp_path):
    put(tmp_path / "a.png", PNG)
    with pytest.raises(InputError, match=r"a\.png: the picture has no caption"):
        open_pictures(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        open_pictures(tmp_path / "none")
    with pytest.raises(InputError, match="no such file or folder"):
        open_pictures("mistyped_folder")
    with pytest.raises(InputError, match="expected a folder, or a file"):
        open_pictures(tmp_path / "a.png")
    put(tmp_path / "captions.jsonl", b"{}")
    put(tmp_path / "metadata.csv", b"{}")
    with pytest.raises(InputError, match=r"captions\.jsonl and metadata\.csv; keep one"):
        open_pictures(tmp_path)


@pytest.fixture(scope="session")
def real_data():
    if "ARRA_DATA" not in os.environ:
        pytest.skip("ARRA_DATA does not name the folder of real data")
    return Path(os.environ["ARRA_DATA"])


@pytest.mark.data
def test_real_arrays(real_data):
    source = open_pictures(real_data / "emoji")
    with np.load(real_data / "emoji" / "emoji64.npz", allow_pickle=False) as arrays:
        images = arrays["images"]
    assert (len(source), source.problems) == (len(images), ())
    for index in range(0, len(source), 500):
        np.testing.assert_array_equal(np.asarray(source.read(index).image), images[index])


@pytest.mark.data
def test_real_pictures(real_data, tmp_path):
    with tarfile.open(real_data / "chest_xray" / "images128.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    shutil.copy(real_data / "chest_xray" / "captions.jsonl", tmp_path)
    source = open_pictures(tmp_path)
    report = RowReport(0.0, source.problems)
    sizes = {row.image.size for _, row in good_rows(source, report)}
    assert (sizes, report.good) == ({(128, 128)}, 653)
