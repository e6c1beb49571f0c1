"""Clips: videos are cut as asked, bad ones are named, and a store holds the codes of all frames."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arra.codecs import AvcCodec, AvcConfig
from arra.codecs.base import Codec
from arra.data.blocks import ArrayPictures
from arra.data.clips import open_clips
from arra.data.decode import pixels_of
from arra.data.pictures import open_pictures
from arra.data.prepare import prepare, prepare_arrays
from arra.data.report import RowReport, good_rows
from arra.data.rows import BadRow, ClipRow, Clips, Limits
from arra.data.tokenizer import train_text_tokenizer
from arra.errors import InputError
from arra.experiments.moving_digits import WAYS, moving_digits, write_videos
from arra.files import read_json
from arra.jobs.codec_kinds import check_kind
from arra.jobs.sources import sample_pictures
from arra.labels import label_of, read_png, write_png
from arra.pixels import stacked, stills, strips, to_unit, unstacked
from clip_kit import FilmCodec, FilmConfig, film_known
from store_parts import PatchEncoder, contents

AV = importlib.util.find_spec("av") is not None
needs_av = pytest.mark.skipif(not AV, reason="needs PyAV (extra video)")
RNG = np.random.default_rng(3)


def put(path: Path, frames: np.ndarray, **further) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, frames=frames, **further)
    return path


def numbered(count: int, side: int = 16, width: int | None = None) -> np.ndarray:
    """(count, side, width, 3) uint8: frame n is all n."""
    frame = np.ones((side, width or side, 3), dtype=np.uint8)
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * frame


def firsts(row: ClipRow) -> list[int]:
    """The numbers of a row's frames."""
    return [int(np.asarray(frame)[0, 0, 0]) for frame in row.frames]


def reasons(source) -> dict[str, str]:
    return {bad.name: bad.reason for bad in source.problems}


# ---- arrays ------------------------------------------------------------------------------------


def test_frames_come_to_channels_and_back():
    clips = RNG.integers(0, 256, (3, 4, 5, 6, 3), dtype=np.uint8)
    pictures = stacked(clips)
    assert pictures.shape == (3, 5, 6, 12)
    assert np.array_equal(pictures[..., 3:6], clips[:, 1])
    assert np.array_equal(unstacked(pictures), clips)
    assert np.array_equal(stills(pictures), clips[:, 2])
    assert np.array_equal(strips(pictures)[:, :, 6:12], clips[:, 1])
    plain = clips[:, 0]
    assert np.array_equal(stills(plain), plain)
    assert np.array_equal(strips(plain), plain)


@pytest.mark.parametrize("repeats", [(), (1,), (3, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("rate", [3.0, 12.5, 29.97])
def test_an_animation_comes_back_bit_for_bit(repeats, rate, tmp_path):
    """Also where frames are equal, which the format keeps as one."""
    clip = RNG.integers(0, 256, (1, 5, 9, 7, 3), dtype=np.uint8)
    for frame in repeats:
        clip[:, frame] = clip[:, frame - 1]
    path, label = tmp_path / "a.png", {"prompt": "ein Bär", "seed": "3"}
    write_png(path, stacked(clip)[0], label, rate)
    assert np.array_equal(read_png(path), stacked(clip)[0])
    assert label_of(path).items() >= label.items()
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 5 - len(repeats)


# ---- cutting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        (Clips(4), [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (Clips(4, stride=3), [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]),
        (Clips(3, rate=5.0), [[0, 2, 4]]),
        (Clips(2, rate=5.0, stride=1), [[0, 2], [2, 4], [4, 6], [6, 8]]),
        (Clips(3, rate=4.0), [[0, 2, 5]]),
        (Clips(10), [list(range(10))]),
        (Clips(1, stride=9), [[0], [9]]),
    ],
)
def test_a_video_is_cut_as_asked(clips, expected, tmp_path):
    path = put(tmp_path / "some_waves-2.npz", numbered(10), fps=np.float32(10))
    source = open_clips(path, clips)
    rows = [source.read(index) for index in range(len(source))]
    assert [firsts(row) for row in rows] == expected
    assert {row.caption for row in rows} == {"some waves 2"}
    assert [row.key for row in rows] == [f"some_waves-2.npz#{one[0]}" for one in expected]
    assert firsts(rows[0])[clips.frames // 2] == int(np.asarray(rows[0].image)[0, 0, 0])
    backwards = [firsts(source.read(n)) for n in reversed(range(len(source)))]
    assert backwards == expected[::-1]
    assert (source.frames, source.side) == (clips.frames, 16)
    assert source.rate == (clips.rate or 10)


def test_captions_are_those_of_a_listing_a_text_file_or_the_name(tmp_path):
    for name in ("a/one.npz", "two.npz", "the sea.npz"):
        put(tmp_path / name, numbered(4))
    (tmp_path / "two.txt").write_text("from a text file")
    found = open_clips(tmp_path, Clips(2))
    captions = {source_row.key: source_row.caption for source_row in found}
    assert captions["a/one.npz#2"] == "one"
    assert captions["two.npz#0"] == "from a text file"
    assert captions["the sea.npz#2"] == "the sea"

    rows = [
        {"file_name": "a/one.npz", "caption": "first", "split": "train"},
        {"file_name": "two.npz", "caption": "second", "split": "test"},
    ]
    listing = tmp_path / "captions.jsonl"
    listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed = open_clips(tmp_path, Clips(4))
    assert [row.caption for row in listed] == ["first", "second"]
    assert reasons(listed) == {"the sea.npz": "the video has no caption"}
    assert [row.caption for row in open_clips(tmp_path, Clips(4), split="test")] == ["second"]
    assert [row.caption for row in open_clips(tmp_path / "two.npz", Clips(4))] == ["second"]
    assert len(open_clips(listing, Clips(1))) == 8


def test_bad_videos_are_named_with_their_reason(tmp_path):
    put(tmp_path / "good.npz", numbered(8), fps=np.float32(10))
    put(tmp_path / "short.npz", numbered(3), fps=np.float32(10))
    put(tmp_path / "large.npz", numbered(8, 40), fps=np.float32(10))
    put(tmp_path / "grey.npz", numbered(8)[..., 0])
    put(tmp_path / "float.npz", numbered(8).astype(np.float32))
    put(tmp_path / "slow.npz", numbered(8), fps=np.float32(2))
    put(tmp_path / "timeless.npz", numbered(8))
    put(tmp_path / "wrong_rate.npz", numbered(8), fps=np.float32([1, 2]))
    put(tmp_path / "heavy.npz", RNG.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8))
    np.savez(tmp_path / "other.npz", images=numbered(8))
    np.savez(tmp_path / "objects.npz", frames=np.asarray([object()], dtype=object))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no")
    (tmp_path / "notes.md").write_text("no video")
    outside = put(tmp_path.parent / "outside.npz", numbered(8))
    (tmp_path / "link.npz").symlink_to(outside)
    limits = Limits(max_pixels=1200, max_bytes=60_000)
    source = open_clips(tmp_path, Clips(4, rate=5.0), limits=limits)
    assert [row.key for row in source] == ["good.npz#0"]
    assert reasons(source) == {
        "short.npz": "the video is shorter than a clip",
        "large.npz": "its frames have more pixels than allowed",
        "grey.npz": "its array frames is no video",
        "float.npz": "its array frames is no video",
        "slow.npz": "it has fewer frames a second than asked for",
        "timeless.npz": "it does not say how many frames a second it has",
        "wrong_rate.npz": "its fps is not one number above 0",
        "heavy.npz": "the file is larger than allowed",
        "other.npz": "it has no array frames that can be read",
        "objects.npz": "its array frames is no video",
        "broken.npz": "it has no array frames that can be read",
        "link.npz": "it is a link that leaves the folder",
    }


def test_what_a_listing_names_wrongly_is_named_by_its_line(tmp_path):
    put(tmp_path / "good.npz", numbered(4))
    names = ["good.npz", "../away.npz", "missing.npz", "notes.md", "good.npz"]
    (tmp_path / "notes.md").write_text("no video")
    (tmp_path / "captions.jsonl").write_text(
        "".join(json.dumps({"file_name": name, "caption": "x"}) + "\n" for name in names)
    )
    source = open_clips(tmp_path, Clips(2))
    assert len(source) == 2
    assert reasons(source) == {
        "captions.jsonl line 2": "its path leaves the folder",
        "captions.jsonl line 3": "there is no such file",
        "captions.jsonl line 4": "its format is not read",
        "captions.jsonl line 5": "the same picture is listed twice",
    }


def test_a_file_that_changes_is_a_bad_row_not_an_end(tmp_path):
    path = put(tmp_path / "a.npz", numbered(8))
    put(tmp_path / "b.npz", numbered(8))
    source = open_clips(tmp_path, Clips(4))
    put(path, numbered(5))
    report = RowReport(0.5, source.problems)
    rows = [row.key for _, row in good_rows(source, report)]
    assert rows == ["a.npz#0", "b.npz#0", "b.npz#4"]
    assert [(bad.name, bad.reason) for bad in report.bad] == [
        ("a.npz#4", "the video ends before the clip does")
    ]
    path.write_bytes(b"")
    with pytest.raises(BadRow, match=r"a\.npz#0: it has no array frames") as caught:
        pickle.loads(pickle.dumps(source)).read(0)
    assert caught.value.name == "a.npz#0"


def test_identity_follows_cutting_and_files_and_sources_travel(tmp_path):
    put(tmp_path / "a.npz", numbered(8))
    source = open_clips(tmp_path, Clips(4))
    source.read(1)
    there = pickle.loads(pickle.dumps(source))
    assert firsts(there.read(0)) == [0, 1, 2, 3]
    assert there.identity() == source.identity()
    assert json.loads(json.dumps(source.identity())) == source.identity()
    others = [open_clips(tmp_path, Clips(4, stride=2)), open_clips(tmp_path, Clips(2))]
    put(tmp_path / "a.npz", numbered(9))
    others.append(open_clips(tmp_path, Clips(4)))
    digests = [json.dumps(one.identity(), sort_keys=True) for one in (source, *others)]
    assert len(set(digests)) == 4


def test_what_cannot_be_opened_says_why(tmp_path):
    put(tmp_path / "videos" / "a.npz", numbered(4))
    with pytest.raises(InputError, match="no such file or folder"):
        open_clips(tmp_path / "missing", Clips(2))
    with pytest.raises(InputError, match=r"no clip that can be used: a\.npz: the video is shorter"):
        open_clips(tmp_path / "videos", Clips(9))
    with pytest.raises(InputError, match="split 'test' asks for a folder"):
        open_clips(tmp_path / "videos", Clips(2), split="test")
    (tmp_path / "a.gif").touch()
    with pytest.raises(InputError, match="expected a folder, a listing, or a video"):
        open_clips(tmp_path / "a.gif", Clips(2))
    with pytest.raises(InputError, match=r"--clips\.frames"):
        open_pictures(tmp_path / "videos" / "a.npz")
    for wrong in ({"frames": 0}, {"frames": 2, "stride": 0}, {"frames": 2, "rate": 0.0}):
        with pytest.raises(InputError, match="Clips"):
            Clips(**wrong)
    with pytest.raises(InputError, match="say how many frames"):
        Clips(rate=3.0)


@pytest.mark.skipif(AV, reason="PyAV is there")
def test_without_pyav_videos_are_refused_and_arrays_read(tmp_path):
    put(tmp_path / "a.npz", numbered(4))
    assert len(open_clips(tmp_path, Clips(2))) == 2
    (tmp_path / "b.mp4").write_bytes(b"0")
    for source in (tmp_path, tmp_path / "b.mp4"):
        with pytest.raises(InputError, match=r"b\.mp4 needs PyAV: pip install arra\[video\]"):
            open_clips(source, Clips(2))
    with pytest.raises(InputError, match=r"avc needs av: pip install arra\[video\]"):
        check_kind("avc", 8)


# ---- videos of FFmpeg --------------------------------------------------------------------------


def encoded_video(path: Path, frames: np.ndarray, codec: str, rate: int = 10) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@needs_av
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")],
)
def test_video_files_are_read_frame_by_frame(name, codec, tmp_path):
    frames = np.stack([np.full((48, 64, 3), 10 * n, dtype=np.uint8) for n in range(24)])
    path = encoded_video(tmp_path / name, frames, codec)
    source = open_clips(path, Clips(6, rate=5.0, stride=3))
    assert source.problems == ()
    assert [row.key for row in source] == [f"{name}#0", f"{name}#6", f"{name}#12"]
    for start, row in zip((0, 6, 12), source, strict=True):
        seen = [float(np.asarray(frame).mean()) / 10 for frame in row.frames]
        assert np.allclose(seen, range(start, start + 12, 2), atol=0.5)
        assert row.image.size == (64, 48)
    again = [np.asarray(frame) for frame in source.read(0).frames]  # back to the beginning
    first = next(iter(open_clips(path, Clips(6, rate=5.0)))).frames
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(again, first, strict=True))


@needs_av
def test_what_is_no_video_is_a_bad_row(tmp_path):
    frames = np.zeros((8, 32, 32, 3), dtype=np.uint8)
    whole = encoded_video(tmp_path / "whole.mp4", frames, "libx264").read_bytes()
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile whole.mp4\n")
    (tmp_path / "playlist.mkv").write_text("#EXTM3U\n#EXTINF:1,\nwhole.mp4\n")
    (tmp_path / "empty.avi").touch()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    source = open_clips(tmp_path, Clips(4))
    assert {row.key for row in source} <= {"whole.mp4#0", "whole.mp4#4"}
    assert {bad.name for bad in source.problems} == {
        "text.mp4", "list.mp4", "playlist.mkv", "empty.avi", "cut.mp4",
    }  # fmt: skip


# ---- the store ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "moving"
    write_videos(moving_digits(12, 7, 32, seed=1), folder)
    return folder


@pytest.fixture(scope="module", params=["film", pytest.param("avc", marks=needs_av)])
def codec(request, videos) -> Codec:
    sample = sample_pictures(open_clips(videos, Clips(3)), 32).pictures
    if request.param == "film":
        return FilmCodec.fit(sample, FilmConfig(3, (4, 4)))
    return AvcCodec.fit(sample, AvcConfig(3, (2, 2), vocabulary=300))


def stored(source, folder: Path, codec: Codec, **options):
    tokenizer = train_text_tokenizer(["a seven moving left"])
    options = {"size": 32, "encoder": PatchEncoder.seeded(PatchEncoder.Config(), 0), **options}
    return prepare(source, folder, codec=codec, tokenizer=tokenizer, quiet=True, **options)


def test_a_store_holds_what_the_codec_gives(codec, videos, tmp_path):
    source = open_clips(videos, Clips(3, stride=2))
    aggregations = ("cls", "patches")
    store = stored(source, tmp_path / "store", codec, batch=5, aggregations=aggregations)
    assert len(store) == len(source) == 36
    pictures = np.stack([pixels_of(row, 32) for row in source])
    assert pictures.shape == (36, 32, 32, 9)
    codes = codec.encode(to_unit(pictures, 9))
    found = store.rows(range(36))
    assert torch.equal(found.codes, codes)
    with film_known():
        again = store.codec()
    assert torch.equal(again.decode(found.codes), codec.decode(codes))
    assert store.captions([0, 1, 2]) == [source.read(0).caption] * 3
    assert store.keys([1, 3]) == ["000000.npz#2", "000001.npz#0"]
    encoder = PatchEncoder.seeded(PatchEncoder.Config(), 0)
    seen = encoder.encode(encoder.preprocess([source.read(n).frames[1] for n in range(36)]))
    assert torch.allclose(found.features["cls"], seen.cls.float(), atol=1e-2)


def test_an_interrupted_preparation_ends_with_the_same_bytes(videos, tmp_path):
    clips, codec = Clips(3), FilmCodec.fit(
        sample_pictures(open_clips(videos, Clips(3)), 32).pictures, FilmConfig(3, (4, 4))
    )  # fmt: skip
    options = {"shard_rows": 5, "batch": 2, "bad_share": 0.5}
    stored(open_clips(videos, clips), tmp_path / "whole", codec, **options)

    source = open_clips(videos, clips)
    read, source.read = source.read, None

    def stopping(index: int):
        if index == 12:
            raise KeyboardInterrupt
        return read(index)

    source.read = stopping
    with pytest.raises(KeyboardInterrupt):
        stored(source, tmp_path / "again", codec, **options)
    assert not (tmp_path / "again" / "store.json").exists()
    stored(open_clips(videos, clips), tmp_path / "again", codec, **options)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_bad_clips_are_in_the_report_of_the_store(tmp_path):
    for name in ("a", "b", "c"):
        put(tmp_path / "videos" / f"{name}.npz", numbered(6))
    put(tmp_path / "videos" / "d.npz", numbered(2))
    source = open_clips(tmp_path / "videos", Clips(3))
    put(tmp_path / "videos" / "b.npz", numbered(4))
    codec = FilmCodec.fit(sample_pictures(source, 16, bad_share=1.0).pictures, FilmConfig())
    store = stored(source, tmp_path / "store", codec, size=16, bad_share=0.5, encoder=None)
    assert len(store) == 5
    report = read_json(tmp_path / "store" / "report.json")
    named = {bad["name"]: bad["reason"] for bad in report["rows"]}
    assert named == {
        "d.npz": "the video is shorter than a clip",
        "b.npz#3": "the video ends before the clip does",
    }


def test_clips_in_memory_are_a_source_too(tmp_path):
    clips = stacked(moving_digits(6, 3, 16 * 2).clips)
    codec = FilmCodec.fit(clips, FilmConfig(3, (4, 4)))
    tokenizer = train_text_tokenizer(["x"])
    options = {"codec": codec, "tokenizer": tokenizer, "quiet": True}
    store = prepare_arrays(clips, ["x"] * 6, tmp_path / "store", **options)
    assert torch.equal(store.rows(range(6)).codes, codec.encode(to_unit(clips, 9)))
    row = ArrayPictures(clips, ["x"] * 6).read(2)
    assert np.array_equal(pixels_of(row, 32), clips[2])
    with pytest.raises(InputError, match="its rows are pictures, this film-of-tests codec takes"):
        prepare_arrays(clips[..., :3], ["x"] * 6, tmp_path / "other", **options)
    with pytest.raises(InputError, match="vq takes pictures, the source gives clips of 3 frames"):
        check_kind("vq", 3)


# ---- moving digits -----------------------------------------------------------------------------


def test_moving_digits_move_as_their_captions_say():
    found = moving_digits(40, 5, 32, speed=3, seed=2)
    again = moving_digits(40, 5, 32, speed=3, seed=2)
    assert np.array_equal(found.clips, again.clips)
    assert found.captions == again.captions
    ways = set()
    for clip, caption in zip(found.clips, found.captions, strict=True):
        way = caption.rsplit(" ", 1)[1]
        ways.add(way)
        down, right = (3 * step for step in WAYS[way])
        for before, after in pairwise(clip):
            assert np.array_equal(np.roll(before, (down, right), (0, 1)), after)
        assert clip[0].max() > 100
    assert ways == set(WAYS)
    other = moving_digits(40, 5, 32, speed=3, seed=2, held_out=True)
    assert not np.array_equal(other.clips, found.clips)
    with pytest.raises(InputError, match="a path of at most half a side"):
        moving_digits(1, 10, 32, speed=2)


@pytest.mark.data
@pytest.mark.skipif("ARRA_DATA" not in os.environ, reason="ARRA_DATA names no folder")
def test_real_clips_are_cut_and_fitted():
    folder = Path(os.environ["ARRA_DATA"]) / "video"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    source = open_clips(folder, Clips(6, rate=3.0, stride=3))
    assert source.problems == ()
    assert {video.caption for video in source.videos} >= {"carphone", "pancake"}
    by_name = {video.name: video for video in source.videos}
    frames = np.load(folder / "pancake.npz")["frames"]
    index = next(n for n in range(len(source)) if source.read(n).key == "pancake.npz#0")
    row = source.read(index)
    steps = [int(np.floor(n * 2.5 + 1e-6)) for n in range(6)]
    assert by_name["pancake.npz"].facts.rate == pytest.approx(7.5)
    assert np.array_equal(np.stack([np.asarray(f) for f in row.frames]), frames[steps])
    small = unstacked(pixels_of(row, 64)[None])[0]
    assert small.shape == (6, 64, 64, 3)
    assert abs(float(small.mean()) - float(frames[steps].mean())) < 1
