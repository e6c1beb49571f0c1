"""Clips through the commands: prepared, trained on, drawn, completed and evaluated."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from arra import cli
from arra.data.clips import open_clips
from arra.data.rows import Clips
from arra.data.store import PreparedStore
from arra.experiments.moving_digits import moving_digits, write_videos
from arra.jobs.generation import GRID, MANIFEST
from arra.jobs.sources import sample_pictures
from arra.labels import label_of, read_png
from arra.pixels import stacked, unstacked
from arra.samplers.ancestral import AncestralSampler
from arra.settings import SamplingConfig
from arra.systems.jpeg_lm.moving import demonstrate, tiny
from arra.text_to_image import TextToImage
from clip_kit import FilmCodec, FilmConfig, film_known

AV = importlib.util.find_spec("av") is not None
needs_av = pytest.mark.skipif(not AV, reason="needs PyAV (extra video)")
FRAMES = 3
CLIPS = ("--clips.frames", FRAMES, "--size", "32")
SMALL = (
    *("--llama.width", "32", "--llama.depth", "2", "--llama.heads", "2"),
    *("--llama.feed-forward", "48", "--batch.size", "4", "--samples", "2"),
    *("--precision", "fp32", "--held-out-share", "0.2"),
)


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


@pytest.fixture(scope="module", params=["film", pytest.param("avc", marks=needs_av)])
def work(request, tmp_path_factory):
    """A store of clips with features, and a run of six steps on it."""
    root = tmp_path_factory.mktemp("clips")
    write_videos(moving_digits(24, FRAMES, 32, seed=4), root / "videos")
    chosen = ("--train-codec", "avc", "--codec.vocabulary", "300")
    if request.param == "film":
        sample = sample_pictures(open_clips(root / "videos", Clips(FRAMES)), 32).pictures
        FilmCodec.fit(sample, FilmConfig(FRAMES, (4, 4))).save_pretrained(root / "codec")
        chosen = ("--codec", str(root / "codec"))
    with film_known():
        prepared = run(
            *("prepare", root / "videos", "--out", root / "store", *CLIPS, *chosen),
            *("--train-encoder", "contrastive", "--encoder.steps", "3", "--encoder.width", "16"),
            *("--encoder.dim", "8", "--aggregations", "cls", "mean", "patches"),
        )
        assert prepared == 0
        train = ("train", root / "store", "--out", root / "run", "--generator", "raster", *SMALL)
        assert run(*train, "--steps", "6", "--validate-every", "3", "--align.target", "patch") == 0
        yield SimpleNamespace(root=root, store=PreparedStore.open(root / "store"))


def test_alignment_and_held_out_bits_work_as_for_pictures(work):
    rows = [json.loads(line) for line in (work.root / "run" / "log.jsonl").open()]
    losses = [row["alignment"] for row in rows if "alignment" in row]
    assert losses
    assert np.isfinite(losses).all()
    assert any("held_out_bits" in json.dumps(row) for row in rows)
    strip = Image.open(sorted((work.root / "run" / "samples").glob("*.png"))[0])
    assert strip.width > 2 * strip.height * FRAMES / 4  # all frames side by side


def test_each_prompt_and_seed_is_one_animation(work, capsys):
    drawn = {}
    for batch in (1, 3):
        out = work.root / f"drawn-{batch}"
        asked = ("--count", "3", "--seed", "5", "--batch", batch, "--guidance", "1.5")
        assert run("generate", work.root / "run", "a seven moving left", "--out", out, *asked) == 0
        files = sorted(out.glob("a-seven*.png"))
        drawn[batch] = [read_png(path) for path in files]
        assert (out / GRID).is_file()
        lines = (out / MANIFEST).read_text().splitlines()
        assert [json.loads(line)["seed"] for line in lines] == [5, 6, 7]
    label = label_of(files[0])
    assert label["prompt"] == "a seven moving left"
    assert label["frames"] == str(FRAMES)
    assert label["whole file"] in ("yes", "no")
    assert [clip.shape for clip in drawn[1]] == [(32, 32, 3 * FRAMES)] * 3
    assert all(np.array_equal(a, b) for a, b in zip(drawn[1], drawn[3], strict=True))
    model = TextToImage.from_pretrained(work.root / "run", "cpu")
    plain = model.draw(["a seven moving left"] * 3, [5, 6, 7], SamplingConfig(guidance=1.5))
    assert np.array_equal(plain, np.stack(drawn[1]))
    assert model.frames == FRAMES
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in files}
    assert run("generate", work.root / "run", "a seven moving left", "--out", out, *asked) == 0
    assert "0 pictures drawn (3 were there)" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in files} == before


@pytest.mark.parametrize("given", [1, 2])
def test_a_completion_keeps_the_given_frames(work, given):
    model = TextToImage.from_pretrained(work.root / "run", "cpu")
    codes = work.store.rows(range(3)).codes
    rows, columns = model.codec.grid
    prompt = model.codec.prompts(codes, given * rows * columns)
    sampler = AncestralSampler(SamplingConfig(guidance=1.0))
    drawn = sampler(model.generator, work.store.captions(range(3)), [0, 1, 2], prefix=prompt)
    found, whole = (unstacked(model.paint(some.view(3, -1))) for some in (drawn, codes))
    assert np.array_equal(found[:, :given], whole[:, :given])
    assert not np.array_equal(found, whole)


def test_evaluation_counts_whole_files_and_looks_at_middle_frames(work):
    out = work.root / "evaluated"
    assert run("evaluate", work.root / "run", "--out", out, "--count", "6") == 0
    found = json.loads((out / "evaluation.json").read_text())
    measures = {one["name"]: one for one in found["measures"]}
    share = measures["whole files"]["value"]
    files = sorted((out / "pictures").glob("a-*.png"))
    assert share == np.mean([label_of(path)["whole file"] == "yes" for path in files])
    assert any("bits" in name for name in measures)
    assert any("middle frame" in note for note in found["notes"])
    assert found["drawn"]["frames"] == FRAMES
    again = ("evaluate", "--pictures", out / "pictures", "--out", work.root / "sets")
    source = ("--source", work.root / "videos", *CLIPS[:2], "--encoders")
    assert run(*again, *source, work.root / "store.parts" / "encoder") == 0
    compared = json.loads((work.root / "sets" / "evaluation.json").read_text())
    assert any("middle frame" in note for note in compared["notes"])


def test_whole_files_are_told_from_broken_ones(work):
    model = TextToImage.from_pretrained(work.root / "run", "cpu")
    codes = work.store.rows(range(4)).codes
    assert model.codec.valid(codes).all()
    cut = codes.clone()
    cut[:, 3:] = model.codec.stream.end
    assert not model.codec.valid(cut).any()
    pictures = model.paint(torch.cat([codes, cut]))
    assert pictures.shape == (8, 32, 32, 3 * FRAMES)


def test_what_does_not_fit_is_refused(work, capsys, tmp_path):
    videos = work.root / "videos"
    for arguments, message in (
        (("--train-codec", "vq", *CLIPS), "vq takes pictures, the source gives clips of 3 frames"),
        (("--codec", work.root / "store" / "codec", "--clips.frames", "2", "--size", "32"),
         "its rows are clips of 2 frames"),
        (("--codec", work.root / "store" / "codec", "--size", "32", "--clips.rate", "2"),
         "say how many frames a clip has"),
    ):  # fmt: skip
        assert run("prepare", videos, "--out", tmp_path / "store", *arguments) != 0
        assert message in capsys.readouterr().err
    asked = ("--layout", "dpg", "--prompts", tmp_path / "p.csv", "--out", tmp_path / "drawn")
    assert run("generate", work.root / "run", *asked) != 0
    assert "draws clips" in capsys.readouterr().err


@pytest.mark.skipif(AV, reason="PyAV is there")
def test_without_pyav_the_commands_refuse_clearly(tmp_path, capsys):
    write_videos(moving_digits(4, FRAMES, 32), tmp_path / "videos")
    arguments = ("--train-codec", "avc", *CLIPS)
    assert run("prepare", tmp_path / "videos", "--out", tmp_path / "store", *arguments) != 0
    assert "pip install arra[video]" in capsys.readouterr().err
    (tmp_path / "a.mp4").write_bytes(b"0")
    assert run("prepare", tmp_path / "a.mp4", "--out", tmp_path / "store", *arguments) != 0
    assert "a.mp4 needs PyAV: pip install arra[video]" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@needs_av
def test_h264_files_below_64_pixels_are_refused_unless_of_macroblocks(tmp_path, capsys):
    write_videos(moving_digits(4, FRAMES, 32), tmp_path / "videos")
    arguments = ("--train-codec", "avc", "--clips.frames", FRAMES, "--size", "24")
    assert run("prepare", tmp_path / "videos", "--out", tmp_path / "store", *arguments) != 0
    assert "frames of a multiple of it; these have 24 pixels" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["film", pytest.param("avc", marks=needs_av)])
def test_the_demonstration_of_moving_digits_runs_and_goes_on(kind, tmp_path):
    recipe = tiny()
    if kind == "film":
        clips = stacked(moving_digits(recipe.count, recipe.frames, recipe.side).clips)
        FilmCodec.fit(clips, FilmConfig(recipe.frames, (4, 4))).save_pretrained(tmp_path / "codec")
        recipe = replace(recipe, codec=str(tmp_path / "codec"))
    with film_known():
        found = demonstrate(recipe, tmp_path / "out")
        again = demonstrate(recipe, tmp_path / "out")
    assert found["clips"] == 12
    assert found["frames"] == 4
    assert set(found["bits"]) == {"training", "held-out"}
    assert again["bits"] == found["bits"]
    assert again["whole"] == found["whole"]
    assert np.asarray(Image.open(tmp_path / "out" / "moving.png")).shape[1] == 4 * 32 * 2
    store = PreparedStore.open(tmp_path / "out" / "store")
    assert "moving" in store.captions([0])[0]
