"""Captioned pictures in Parquet and in data sets on disk: lazily read, every bad row named."""

from __future__ import annotations

import pickle
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arra.data import tables
from arra.data.pictures import Limits, PictureSource, RowReport, good_rows, open_pictures
from arra.errors import InputError
from picture_kit import BROKEN, GIF, PNG, RGB, encoded

pytestmark = pytest.mark.filterwarnings("ignore")
LIMITS = Limits(max_bytes=20_000, max_caption=50, min_side=2, animation="refuse", bad_share=1.0)
PICTURES = [RGB, 255 - RGB, RGB[::-1].copy(), RGB[:4]]
GOOD = [(encoded(pixels), f"picture {i}", pixels) for i, pixels in enumerate(PICTURES)]
BAD = [
    *((data, "a bear", reason) for data, reason in BROKEN.values()),
    (None, "a bear", "the row holds no picture"),
    (PNG + bytes(20_000), "a bear", "the file is larger than allowed"),
    (encoded(RGB[:1]), "a bear", "the picture is smaller than allowed"),
    (GIF, "a bear", "the picture has several frames or pages"),
    (PNG, None, "the caption is empty"),
    (PNG, "", "the caption is empty"),
    (PNG, "\u2003\n", "the caption is empty"),
    (PNG, "a\0b", "the caption holds control characters"),
    (PNG, "b" * 51, "the caption is longer than allowed"),
]
# Good rows lie between bad ones, so that a shift by one would be seen.
MIXED = [
    *((data, text, None, pixels) for data, text, pixels in GOOD[:2]),
    *((data, text, reason, None) for data, text, reason in BAD),
    *((data, text, None, pixels) for data, text, pixels in GOOD[2:]),
]
IMAGES = [row[0] for row in MIXED]
TEXTS = [row[1] for row in MIXED]


def check(source: PictureSource, prefix: str) -> RowReport:
    """Every row of MIXED comes out of `source` as it must, under the name `prefix`#number."""
    assert len(source) == len(MIXED)
    report = RowReport(1.0, source.problems)
    rows = dict(good_rows(source, report))
    expected = {f"{prefix}#{i}": row[2] for i, row in enumerate(MIXED) if row[2]}
    assert len(expected) >= 25
    assert {bad.name: bad.reason for bad in report.bad} == expected
    for index, (_, text, reason, pixels) in enumerate(MIXED):
        if reason is None:
            assert (rows[index].key, rows[index].caption) == (f"{prefix}#{index}", text)
            np.testing.assert_array_equal(np.asarray(rows[index].image), pixels)
    return report


def table(as_struct: bool) -> pa.Table:
    images = pa.array(
        [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(IMAGES)]
        if as_struct
        else IMAGES,
        pa.struct({"bytes": pa.binary(), "path": pa.string()}) if as_struct else pa.binary(),
    )
    return pa.table({"id": list(range(len(IMAGES))), "image": images, "caption": TEXTS})


@pytest.mark.parametrize("as_struct", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_parquet(tmp_path, monkeypatch, as_struct, streamed):
    if streamed:
        monkeypatch.setattr(tables, "_GROUP_BYTES", 0)
    pq.write_table(table(as_struct), tmp_path / "rows.parquet", row_group_size=11)
    source = open_pictures(tmp_path / "rows.parquet", limits=LIMITS)
    check(source, "rows.parquet")
    check(pickle.loads(pickle.dumps(source)), "rows.parquet")
    last = len(MIXED) - 1
    for index in (last, 0, 1, last, last - 1, 1, 0):  # forwards, backwards and across groups
        assert source.read(index).caption == TEXTS[index]


def test_parquet_captions_of_other_kinds(tmp_path):
    words = pa.array(["a bear", "a wolf", "a bear"]).dictionary_encode()
    large = pa.array(["a bear", "a wolf", "a bear"], pa.large_string())
    for number, captions in enumerate((words, large)):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(
            pa.table({"img": pa.array([PNG] * 3, pa.large_binary()), "t": captions}), path
        )
        assert [row.caption for row in open_pictures(path)] == ["a bear", "a wolf", "a bear"]


def test_parquet_caption_that_is_not_utf8(tmp_path):
    raw = pa.array([b"a bear", b"ein B\xe4r"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"image": [PNG, PNG], "text": text}), tmp_path / "a.parquet")
    source = open_pictures(tmp_path)
    report = RowReport(1.0)
    assert [index for index, _ in good_rows(source, report)] == [0]
    assert [str(bad) for bad in report.bad] == [
        "a.parquet#1: the caption is not UTF-8 (byte 0xe4 at 5)"
    ]


def test_folder_of_parquet_files_and_splits(tmp_path):
    for name, words in (
        ("data/train-00000-of-00002.parquet", ["a", "b"]),
        ("data/train-00001-of-00002.parquet", ["c"]),
        ("data/test-00000-of-00001.parquet", ["d"]),
    ):
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": [PNG] * len(words), "text": words}), tmp_path / name)
    source = open_pictures(tmp_path, split="train")
    assert [(row.key, row.caption) for row in source] == [
        ("data/train-00000-of-00002.parquet#0", "a"),
        ("data/train-00000-of-00002.parquet#1", "b"),
        ("data/train-00001-of-00002.parquet#0", "c"),
    ]
    assert [row.caption for row in open_pictures(tmp_path)] == ["d", "a", "b", "c"]
    with pytest.raises(InputError, match="no Parquet file of split 'dev'"):
        open_pictures(tmp_path, split="dev")
    digest = source.identity()["sha256"]
    assert open_pictures(tmp_path, split="train").identity()["sha256"] == digest
    pq.write_table(pa.table({"image": [PNG], "text": ["changed"]}), tmp_path / name)
    assert open_pictures(tmp_path, split="train").identity()["sha256"] == digest
    assert open_pictures(tmp_path).identity()["sha256"] != digest


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    noise = [
        encoded(np.random.default_rng(i).integers(0, 256, (20, 20, 3), np.uint8)) for i in range(4)
    ]
    pq.write_table(
        pa.table({"image": noise, "text": ["a", "b", "c", "d"]}),
        path, row_group_size=2, compression="zstd",
    )  # fmt: skip
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + bytes(100) + whole[start + 100 :])
    report = RowReport(1.0)
    good = [row.caption for _, row in good_rows(open_pictures(path), report)]
    assert good == ["a", "b"]
    assert {bad.name: bad.reason for bad in report.bad} == {
        "a.parquet#2": "its row group cannot be read",
        "a.parquet#3": "its row group cannot be read",
    }
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"a\.parquet: not a Parquet file"):
        open_pictures(path)


def test_columns_that_cannot_be_told_are_asked_for(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"front": [PNG], "back": [encoded(255 - RGB)], "de": ["Bär"], "en": ["bear"]}),
        path,
    )
    with pytest.raises(InputError, match=r"which column is the image: \['front', 'back'\]"):
        open_pictures(path)
    with pytest.raises(InputError, match=r"which column is the caption: \['de', 'en'\]"):
        open_pictures(path, image_column="back")
    with pytest.raises(InputError, match="'side' does not exist"):
        open_pictures(path, image_column="side")
    with pytest.raises(InputError, match="'front' does not hold such values"):
        open_pictures(path, image_column="back", caption_column="front")
    row = open_pictures(path, image_column="back", caption_column="en").read(0)
    assert row.caption == "bear"
    np.testing.assert_array_equal(np.asarray(row.image), 255 - RGB)
    pq.write_table(pa.table({"front": [1]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: expected the columns back"):
        open_pictures(tmp_path, image_column="back", caption_column="en")


def dataset() -> datasets.Dataset:
    records = {"image": [{"bytes": b, "path": None} if b is not None else None for b in IMAGES]}
    kinds = {"image": datasets.Image(), "text": datasets.Value("string")}
    return datasets.Dataset.from_dict(records | {"text": TEXTS}, datasets.Features(kinds))


def test_dataset_on_disk(tmp_path):
    dataset().save_to_disk(tmp_path / "one")
    source = open_pictures(tmp_path / "one", limits=LIMITS)
    check(source, "row")
    check(pickle.loads(pickle.dumps(source)), "row")
    identity = source.identity()
    assert (identity["kind"], identity["rows"]) == ("datasets", len(MIXED))
    assert open_pictures(tmp_path / "one", limits=LIMITS).identity() == identity
    dataset().select(range(3)).save_to_disk(tmp_path / "three")
    assert open_pictures(tmp_path / "three").identity()["sha256"] != identity["sha256"]


def test_dataset_with_splits(tmp_path):
    both = datasets.DatasetDict(train=dataset(), test=dataset().select([0]))
    both.save_to_disk(tmp_path / "both")
    check(open_pictures(tmp_path / "both", split="train", limits=LIMITS), "train")
    assert len(open_pictures(tmp_path / "both", split="test")) == 1
    for split in (None, "dev"):
        with pytest.raises(InputError, match="choose one of: train, test"):
            open_pictures(tmp_path / "both", split=split)


def test_dataset_may_refer_only_to_its_own_files(tmp_path):
    root = tmp_path / "refers"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(PNG)
    paths = [
        root / "own.png",
        tmp_path / "secret.png",
        root / ".." / "secret.png",
        root / "none.png",
    ]
    data = datasets.Dataset.from_dict(
        {"image": [{"bytes": None, "path": str(path)} for path in paths], "text": ["a"] * 4},
        datasets.Features(image=datasets.Image(), text=datasets.Value("string")),
    )
    (root / "own.png").write_bytes(PNG)
    report = RowReport(1.0)
    source = tables.DatasetSource(data, "refers", LIMITS, root=root)
    rows = [row for _, row in good_rows(source, report)]
    np.testing.assert_array_equal(np.asarray(rows[0].image), RGB)
    assert [bad.reason for bad in report.bad] == [
        "its path leaves the folder",
        "its path leaves the folder",
        "there is no such file",
    ]


def test_a_folder_that_only_the_library_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    dataset().save_to_disk(tmp_path / "saved")
    arrow = next(Path(tmp_path / "saved").glob("*.arrow"))
    (tmp_path / "plain" / "data").mkdir(parents=True)
    arrow.rename(tmp_path / "plain" / "data" / "train.arrow")
    check(open_pictures(tmp_path / "plain", limits=LIMITS), "train")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="a folder that the datasets library cannot load"):
        open_pictures(tmp_path / "nothing")


def test_hub_names_reach_the_library_with_their_revision(monkeypatch):
    asked = []

    def load_dataset(name, revision=None):
        asked.append((name, revision))
        if name == "owner/missing":
            raise ConnectionError("the hub cannot be reached")
        return datasets.DatasetDict(train=dataset())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_pictures("owner/bears@v1.0", limits=LIMITS)
    check(source, "train")
    assert (source.identity()["name"], source.identity()["revision"]) == ("owner/bears", "v1.0")
    with pytest.raises(InputError, match=r"owner/missing: .* the hub cannot be reached"):
        open_pictures("owner/missing")
    assert asked == [("owner/bears", "v1.0"), ("owner/missing", None)]


def arrays_folder(path: Path, lines: list[str], images=None) -> Path:
    images = np.stack([RGB, 255 - RGB, RGB // 2]) if images is None else images
    path.mkdir()
    np.savez(path / "pictures.npz", images=images)
    (path / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return path


def test_arrays_with_captions(tmp_path):
    lines = ['{"caption": "a", "split": "train"}', "{broken", '{"caption": "c", "split": "test"}']
    source = open_pictures(arrays_folder(tmp_path / "a", lines))
    assert [(row.key, row.caption) for row in source] == [
        ("pictures.npz#0", "a"),
        ("pictures.npz#2", "c"),
    ]
    np.testing.assert_array_equal(np.asarray(source.read(1).image), RGB // 2)
    assert [bad.reason for bad in source.problems] == ["the line is not JSON"]
    again = pickle.loads(pickle.dumps(source))
    assert again.identity() == source.identity()
    np.testing.assert_array_equal(np.asarray(again.read(0).image), RGB)
    test = open_pictures(tmp_path / "a" / "pictures.npz", split="test")
    assert [row.key for row in test] == ["pictures.npz#2"]


def test_arrays_that_do_not_fit_their_captions(tmp_path):
    lines = ['{"caption": "a"}', '{"caption": "b", "index": 7}']
    source = open_pictures(arrays_folder(tmp_path / "few", lines))
    assert [bad.reason for bad in source.problems] == [
        "the rows are not in the order of the pictures",
        "the picture has no caption",
    ]
    source = open_pictures(arrays_folder(tmp_path / "many", ['{"caption": "a"}'] * 4))
    assert [bad.reason for bad in source.problems] == ["the array has no such picture"]
    for number, images in enumerate((RGB, RGB[None].astype(float), RGB[None, ..., :2])):
        with pytest.raises(InputError, match=r"expected uint8 \(N, H, W, 3\)"):
            open_pictures(arrays_folder(tmp_path / str(number), lines, images))
    folder = arrays_folder(tmp_path / "objects", lines, np.array([{}], dtype=object))
    with pytest.raises(InputError, match="expected uint8"):
        open_pictures(folder)
    (folder / "pictures.npz").write_bytes(b"PK junk")
    with pytest.raises(InputError, match="no array named images"):
        open_pictures(folder)
