"""Archives, IDX files and labelled arrays: good rows exact, bad ones named, nothing unpacked."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from arra.data.labelled import idx_shape, read_idx
from arra.data.pictures import Classes, Limits, RowReport, good_rows, open_pictures
from arra.errors import InputError
from arra.jobs.options import SourceOptions
from arra.jobs.sources import open_source, sample_pictures
from corpus_kit import add, idx
from picture_kit import BROKEN, GIF, PNG, RGB, encoded

pytestmark = pytest.mark.filterwarnings("ignore")
LIMITS = Limits(max_bytes=20_000, max_caption=50, min_side=2, animation="refuse", bad_share=1.0)
RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2], dtype=np.uint8)


def listing(folder: Path, rows: list[dict], name: str = "captions.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


# ---- archives ----------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path):
    """Good pictures beside everything that an archive can hold besides; the reasons expected."""
    rows, expected = [], {}
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        add(tar, "a.png", PNG)
        add(tar, "./below//b.gif", encoded(RGB[::-1], "GIF"))
        rows += [{"image": "a.png", "caption": "first"}, {"image": "below/b.gif", "text": "second"}]
        for name, (data, reason) in BROKEN.items():
            add(tar, f"{name}.png", data)
            rows.append({"image": f"{name}.png", "caption": "a bear"})
            expected[f"{name}.png"] = reason
        for name, data, reason in (
            ("heavy.png", PNG + bytes(20_000), "the file is larger than allowed"),
            ("moving.gif", GIF, "the picture has several frames or pages"),
        ):
            add(tar, name, data)
            rows.append({"image": name, "caption": "a bear"})
            expected[name] = reason
        for name in ("../up.png", "/abs.png", "in\\..\\out.png"):
            add(tar, name, PNG)
            rows.append({"image": name, "caption": "a bear"})
            expected[name] = "its path leaves the archive"
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
        for number, kind in enumerate(kinds):
            add(tar, f"special{number}.png", b"", type=kind, linkname="a.png")
            expected[f"special{number}.png"] = "not a regular file"
        add(tar, "a.png", PNG)
        expected["a.png"] = "another file has the same name"
        add(tar, "lonely.jpg", PNG)
        expected["lonely.jpg"] = "the picture has no caption"
        add(tar, "notes.txt", b"not a picture, and not missed")
        add(tar, "folder", b"", type=tarfile.DIRTYPE)
    rows += [{"image": "none.png", "caption": "x"}, {"image": "a.png", "caption": "again"},
             {"image": 3, "caption": "x"}, {"image": "a.png", "caption": ""}]  # fmt: skip
    first = len(rows) - 3
    for line, reason in zip(
        range(first, first + 4),
        ("the archive has no such file", "the same picture is listed twice",
         "the name of the picture is not text", "the caption is empty"), strict=True,
    ):  # fmt: skip
        expected[f"captions.jsonl line {line}"] = reason
    for line, row in enumerate(rows, start=1):  # named in the listing, by their lines
        if row.get("image") in ("../up.png", "/abs.png", "in\\..\\out.png"):
            expected[f"captions.jsonl line {line}"] = "the archive has no such file"
    listing(tmp_path, rows)
    return tmp_path, expected


def test_an_archive_is_read_where_it_lies(archive):
    folder, expected = archive
    before = sorted(path.name for path in folder.iterdir())
    for place in (folder, folder / "pictures.tar", folder / "captions.jsonl"):
        source = open_pictures(place, limits=LIMITS)
        report = RowReport(1.0, source.problems)
        rows = {row.key: row for _, row in good_rows(source, report)}
        assert {k: r.caption for k, r in rows.items()} == {
            "a.png": "first", "below/b.gif": "second",
        }  # fmt: skip
        np.testing.assert_array_equal(np.asarray(rows["a.png"].image), RGB)
        named: dict[str, str] = {}
        for bad in report.bad:
            named.setdefault(bad.name.replace("\\\\", "\\"), bad.reason)
        assert named == expected
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not (folder.parent / "up.png").exists()


def test_an_archive_travels_and_has_an_identity(archive):
    folder, _ = archive
    source = open_pictures(folder, limits=LIMITS)
    again = pickle.loads(pickle.dumps(source))
    assert again.identity() == source.identity()
    np.testing.assert_array_equal(np.asarray(again.read(0).image), RGB)
    with pytest.raises(IndexError):
        source.read(len(source))
    os.utime(folder / "pictures.tar", (1, 1))
    assert open_pictures(folder, limits=LIMITS).identity() != source.identity()


def test_splits_of_an_archive(tmp_path):
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            add(tar, name, PNG)
    listing(tmp_path, [{"image": "a.png", "caption": "a", "split": "train"},
                       {"image": "b.png", "caption": "b", "split": "test"}])  # fmt: skip
    test = open_pictures(tmp_path, split="test")
    assert ([row.key for row in test], test.problems) == (["b.png"], ())
    with pytest.raises(InputError, match="no row has split 'val'"):
        open_pictures(tmp_path, split="val")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_cut_archive_gives_what_it_has_or_says_so(tmp_path, share):
    pictures = [encoded(RNG.integers(0, 256, (30, 30, 3), dtype=np.uint8)) for _ in range(6)]
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for i, data in enumerate(pictures):
            add(tar, f"{i}.png", data)
    listing(tmp_path, [{"image": f"{i}.png", "caption": f"{i}"} for i in range(6)])
    path = tmp_path / "p.tar"
    path.write_bytes(path.read_bytes()[: int(share * 6 * 3584)])
    if share == 0.0:
        with pytest.raises(InputError, match=r"p\.tar"):
            open_pictures(path, limits=LIMITS)
        return
    source = open_pictures(path, limits=LIMITS)
    report = RowReport(1.0, source.problems)
    rows = list(good_rows(source, report))
    assert 0 < len(rows) < 6
    for _, row in rows:
        np.testing.assert_array_equal(
            np.asarray(row.image), np.asarray(Image.open(io.BytesIO(pictures[int(row.caption)])))
        )
    assert any("cut off" in bad.reason for bad in report.bad)


def test_compressed_archives_and_lonely_ones_are_refused(tmp_path):
    with tarfile.open(tmp_path / "p.tar", "w:gz") as tar:
        add(tar, "a.png", PNG)
    with pytest.raises(InputError, match="expected one of captions"):
        open_pictures(tmp_path / "p.tar")
    listing(tmp_path, [{"image": "a.png", "caption": "a"}])
    with pytest.raises(InputError, match="not an uncompressed tar"):
        open_pictures(tmp_path / "p.tar")


@given(st.binary(max_size=2000))
@settings(max_examples=30, deadline=None)
def test_no_bytes_of_an_archive_do_harm(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("junk")
    (folder / "p.tar").write_bytes(data)
    listing(folder, [{"image": "a.png", "caption": "a"}])
    with pytest.raises(InputError):
        open_pictures(folder / "p.tar")


# ---- IDX ---------------------------------------------------------------------------------------


def idx_folder(folder: Path, images: np.ndarray = GREY, labels: np.ndarray = LABELS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)), st.booleans())
@settings(max_examples=30, deadline=None)
def test_every_idx_comes_back(tmp_path_factory, array, packed):
    path = tmp_path_factory.mktemp("idx") / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    assert idx_shape(path) == array.shape
    np.testing.assert_array_equal(read_idx(path), array)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_idx_is_refused_or_the_same(tmp_path_factory, data):
    whole = idx(GREY)
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    byte = data.draw(st.integers(0, 255))
    damaged = whole[:place] if cut else whole[:place] + bytes([byte]) + whole[place + 1 :]
    path = tmp_path_factory.mktemp("idx") / "x"
    path.write_bytes(damaged)
    try:
        array = read_idx(path)
    except InputError:
        return
    assert not cut
    assert array.size == GREY.size  # the header agrees with the bytes that are there


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\x01" + struct.pack(">I", 1) + bytes(4), "expected bytes"),
        (b"\0\0\x08\x03\0\0", "cut off"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 2**31, 2**31), "empty or too large"),
        (b"\0\0\x08\x01" + struct.pack(">I", 0), "empty or too large"),
        (idx(LABELS) + b"x", "more than the 6 bytes"),
        (idx(LABELS)[:-1], "5 of the 6 bytes"),
    ],
)
def test_what_is_wrong_with_an_idx_file_is_said(tmp_path, data, reason):
    for name, packed in (("x", data), ("x.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(InputError, match=reason):
            read_idx(tmp_path / name)
    (tmp_path / "y.gz").write_bytes(gzip.compress(idx(GREY))[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path / "y.gz")
    (tmp_path / "z.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path / "z.gz")


def test_idx_pictures_get_captions_of_their_classes(tmp_path):
    folder = idx_folder(tmp_path / "a")
    classes = Classes("a photo of a {label}", ("cat", "dog", "ankle boot"))
    source = open_pictures(folder, classes=classes)
    assert (len(source), source.side, source.problems) == (6, None, ())
    for i, row in enumerate(source):
        assert row.key == f"train-images-idx3-ubyte.gz#{i}"
        assert row.caption == f"a photo of a {classes.names[LABELS[i]]}"
        np.testing.assert_array_equal(np.asarray(row.image), np.repeat(GREY[i, ..., None], 3, 2))
    assert [row.caption for row in open_pictures(folder)] == [str(n) for n in LABELS]
    again = pickle.loads(pickle.dumps(source))
    assert again._pictures is None
    assert again.identity() == source.identity()
    assert again.read(2).caption == source.read(2).caption
    assert source.identity() != open_pictures(folder).identity()


def test_a_label_without_a_name_is_a_bad_row(tmp_path):
    source = open_pictures(idx_folder(tmp_path / "a"), classes=Classes(names=("cat", "dog")))
    assert [row.caption for row in source] == ["cat", "dog", "dog", "cat"]
    assert [(bad.name[-2:], bad.reason) for bad in source.problems] == [
        ("#0", "its class has no name"), ("#5", "its class has no name"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="the share of"):
        sample_pictures(source, 8)


def test_pairs_of_idx_files(tmp_path):
    folder = idx_folder(tmp_path / "a")
    (folder / "t10k-images.idx3-ubyte").write_bytes(idx(GREY[:2]))
    (folder / "t10k-labels.idx1-ubyte").write_bytes(idx(LABELS[:2]))
    with pytest.raises(InputError, match="choose one of: test, train"):
        open_pictures(folder)
    assert len(open_pictures(folder, split="test")) == 2
    options = SourceOptions(split="test", classes=Classes("digit {label}"))
    assert open_source(str(folder), options).read(0).caption == "digit 2"
    (folder / "t10k-labels.idx1-ubyte").unlink()
    with pytest.raises(InputError, match="the labels of split 'test'"):
        open_pictures(folder, split="test")
    (folder / "t10k-images.idx3-ubyte").rename(folder / "train-images-idx3-ubyte")
    with pytest.raises(InputError, match="keep one of them"):
        open_pictures(folder)


def test_labels_must_fit_the_pictures(tmp_path):
    with pytest.raises(InputError, match="6 pictures, but labels of shape"):
        open_pictures(idx_folder(tmp_path / "a", labels=LABELS[:5]))
    with pytest.raises(InputError, match="expected pictures"):
        open_pictures(idx_folder(tmp_path / "b", images=GREY[0]))
    for template, names in (("a photo", ()), ("{label}", ("cat", "cat"))):
        with pytest.raises(InputError, match="Classes"):
            Classes(template, names)


# ---- .npz --------------------------------------------------------------------------------------


def test_labelled_arrays(tmp_path):
    pictures = RNG.integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    names = np.array(["cat", "dog", "bird"])
    path = tmp_path / "set.npz"
    np.savez(path, x_train=pictures, y_train=LABELS, x_test=pictures[:2, ..., :1],
             y_test=LABELS[:2, None].astype(np.int64), class_names=names)  # fmt: skip
    for place in (tmp_path, path):
        source = open_pictures(place, split="train")
        assert source.side == 5
        rows = list(source)
        assert [row.caption for row in rows] == [str(names[n]) for n in LABELS]
        np.testing.assert_array_equal(np.stack([np.asarray(row.image) for row in rows]), pictures)
    test = open_pictures(path, split="test")
    np.testing.assert_array_equal(
        np.asarray(test.read(1).image), np.repeat(pictures[1, ..., :1], 3, 2)
    )
    assert test.read(0).key == "set.npz#test-0"
    with pytest.raises(InputError, match="choose one of: test, train"):
        open_pictures(path)
    assert open_pictures(path, split="test", classes=Classes(names=("a", "b", "c"))).read(0).caption
    listing(tmp_path, [{"caption": "x"}])  # captions go before labels
    with pytest.raises(InputError, match="no array named images"):
        open_pictures(path)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x_train": np.zeros((3, 4, 4, 2), np.uint8)}, "x_train is uint8"),
        ({"x_train": np.zeros((3, 4, 4, 3))}, "x_train is float64"),
        ({"y_train": np.zeros(3)}, "expected whole numbers"),
        ({"y_train": np.zeros(4, np.int64)}, "3 pictures, but labels"),
        ({"class_names": np.array([1, 2])}, "class_names is int64"),
        ({"class_names": np.array(["a", None], dtype=object)}, "cannot be read"),
        ({"y_train": np.array([0, 1, None], dtype=object)}, "cannot be read"),
    ],
)
def test_what_is_wrong_with_labelled_arrays_is_said(tmp_path, arrays, reason):
    good = {"x_train": np.zeros((3, 4, 4, 3), np.uint8), "y_train": np.zeros(3, np.int64)}
    np.savez(tmp_path / "set.npz", **(good | arrays))
    with pytest.raises(InputError, match=reason):
        open_pictures(tmp_path / "set.npz")


def test_other_archives_are_no_labelled_ones(tmp_path):
    (tmp_path / "set.npz").write_bytes(b"PK junk")
    with pytest.raises(InputError, match="x_train and y_train in it"):
        open_pictures(tmp_path / "set.npz")


# ---- the real ones -----------------------------------------------------------------------------


@pytest.fixture
def real_data():
    folder = os.environ.get("ARRA_DATA")
    if not folder:
        pytest.skip("ARRA_DATA names no folder of real data")
    return Path(folder)


@pytest.mark.data
@pytest.mark.parametrize(
    ("place", "split", "rows", "side", "caption"),
    [
        ("emoji", "val", 194, 64, "upside-down face"),
        ("chest_xray", "test", 79, None, "PA view chest X-ray"),
        ("cifar10", "test", 2000, 32, "a photo of a "),
        ("fashion_mnist", "test", 10_000, 28, "a photo of a 9"),
    ],
)
def test_the_real_corpora(real_data, place, split, rows, side, caption):
    classes = Classes("a photo of a {label}")
    source = open_pictures(real_data / place, split=split, classes=classes)
    assert (len(source), source.side, source.problems) == (rows, side, ())
    assert source.read(0).caption.startswith(caption)
    for index in (0, rows // 2, rows - 1):
        assert np.asarray(source.read(index).image).std() > 5
