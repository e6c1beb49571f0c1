"""Experiments on real corpora: parts made once, arms paired, copies seen, pages true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arra.codecs.enlarging import enlarged, freeze_codes
from arra.codecs.lfq import LFQCodec
from arra.codecs.recipes import scene_autoencoder, scene_codec, scene_training
from arra.codecs.training import train_codec
from arra.codecs.vq import VQCodec
from arra.errors import InputError
from arra.experiments.corpora.judging import Judgement
from arra.experiments.corpora.page import MOST_BYTES, block, record
from arra.experiments.corpora.results import (
    VECTORS,
    describe,
    difference,
    markdown,
    over_seeds,
)
from arra.experiments.corpora.running import BASELINE, arm_folder, bench_for, run_corpus
from arra.experiments.corpora.workbench import Workbench
from arra.experiments.pages import filled
from arra.generators.raster import RasterGenerator
from arra.pixels import to_uint8, to_unit
from arra.systems.arra.corpora import ARMS, drawn_by
from arra.text_to_image import TextToImage
from corpus_kit import tiny_corpus, write_all

PAIR = [ARMS["baseline"], ARMS["aligned"]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def moved(data, tmp_path_factory):
    """The finished X-ray experiment, with the emoji model that it went on from."""
    out = tmp_path_factory.mktemp("out")
    bench = bench_for(tiny_corpus("xray"), data, out, "cpu", quiet=True)
    return bench, run_corpus(bench, PAIR, [0], processes=1)


# ---- codecs that grow --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [VQCodec, LFQCodec])
def test_an_enlarged_codec_reads_and_paints_the_same(kind):
    config = scene_codec(4, 16) if kind is VQCodec else kind.tiny().config
    config = replace(config, autoencoder=replace(scene_autoencoder(4), width=16))
    small = kind.seeded(config, 3).eval()
    large = enlarged(small, 2)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(5, 3, 24, 24, generator=generator) * 2 - 1
    repeated = pictures.repeat_interleave(2, 2).repeat_interleave(2, 3)
    codes = small.encode(pictures)
    assert len(codes.unique()) > 3
    assert torch.equal(large.encode(repeated), codes)
    expected = small.decode(codes).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(large.decode(codes), expected, atol=1e-5, rtol=0)
    assert large.downsample == 8
    assert large.fingerprint() != small.fingerprint()


def test_painting_is_learnt_and_codes_stay():
    config = replace(scene_codec(4, 16), autoencoder=replace(scene_autoencoder(4), width=16))
    codec = enlarged(VQCodec.seeded(config, 0), 2)
    with pytest.raises(InputError, match="dead_below"):
        freeze_codes(codec)
    codec.config = replace(codec.config, dead_below=0.0)
    freeze_codes(codec)
    pictures = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)
    )
    before, codes = codec.codebook.clone(), codec.encode(to_unit(pictures))
    painted = codec.decode(codes)
    generator = torch.Generator().manual_seed(0)
    train_codec(codec, pictures, replace(scene_training(20), quiet=True), generator=generator)
    assert torch.equal(codec.codebook, before)
    assert torch.equal(codec.encode(to_unit(pictures)), codes)
    assert not torch.equal(codec.decode(codes), painted)


def test_only_a_patch_stem_can_be_enlarged():
    config = replace(scene_codec(4, 16), autoencoder=replace(scene_autoencoder(4), stem="conv"))
    with pytest.raises(InputError, match="patch"):
        enlarged(VQCodec.seeded(config, 0), 2)
    with pytest.raises(InputError, match="factor"):
        enlarged(VQCodec.seeded(scene_codec(4, 16), 0), 0)


# ---- the experiment ----------------------------------------------------------------------------


def test_a_model_that_draws_goes_on_with_its_own_tokens(moved):
    bench, _ = moved
    start = RasterGenerator.from_pretrained(bench.start.folder / "seed-0/baseline/model")
    after = RasterGenerator.from_pretrained(arm_folder(bench, PAIR[0], 0) / "model")
    assert after.config.vocabulary == start.config.vocabulary
    assert after.prompt_ids("view 0 of a chest") == start.prompt_ids("view 0 of a chest")
    assert start.config.codec == bench.start.codec.fingerprint()
    assert after.config.codec == bench.codec.fingerprint()
    assert torch.equal(bench.codec.codebook, bench.start.codec.codebook)
    # six steps from the start, not from random weights
    gap = sum((a - b).abs().sum() for a, b in zip(after.parameters(), start.parameters(),
                                                  strict=True))  # fmt: skip
    size = sum(b.abs().sum() for b in start.parameters())
    assert 0 < gap < 0.5 * size


def test_the_report_is_whole_and_checkpoints_draw(moved):
    bench, report = moved
    for arm in PAIR:
        measures = report["arms"][arm.name]["measures"]
        assert all(np.isfinite(m["value"]) for m in measures.values())
        assert [p["step"] for p in report["arms"][arm.name]["curve"]] == [1, 2]
        model = TextToImage.from_pretrained(arm_folder(bench, arm, 0))
        assert model.draw(["view 0 of a chest"], [0]).shape == (1, 32, 32, 3)
    assert report["start"] == "emoji"
    assert json.loads((bench.folder / "report.json").read_text()) == report
    with (
        Image.open(bench.folder / "grid.png") as grid,
        Image.open(bench.folder / "drawn.png") as drawn,
    ):
        assert grid.height - drawn.height == 2 * (128 + 12)  # two rows of real pictures
    page = (bench.folder / "report.html").read_text()
    assert "held-out bits per token" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_what_is_done_is_not_done_again(moved, monkeypatch):
    bench, report = moved
    again = Workbench(bench.corpus, bench.data, bench.out, quiet=True)
    for name in ("train_encoder", "train_codec"):
        monkeypatch.setattr(f"arra.experiments.corpora.workbench.{name}", None)
    monkeypatch.setattr("arra.experiments.corpora.running.train_arm", None)
    found = run_corpus(again, PAIR, [0], processes=1)
    same = [key for key in report if key not in ("seconds", "versions", "machine")]
    assert {k: found[k] for k in same} == {k: report[k] for k in same}


def test_arms_begin_alike_and_the_control_sees_wrong_pictures(data, tmp_path):
    bench = bench_for(tiny_corpus("cifar10"), data, tmp_path, "cpu", quiet=True)
    report = run_corpus(bench, list(ARMS.values()), [1], processes=1)
    first = {}
    for name in ARMS:
        log = (tmp_path / f"cifar10/seed-1/{name}/log.jsonl").read_text().splitlines()
        first[name] = json.loads(log[0])
    # the same weights, pictures and dropped captions: only what is aligned with differs
    assert len({entry["cross_entropy"] for entry in first.values()}) == 1
    assert first["aligned"]["alignment"] != first["shuffled"]["alignment"]
    base = report["arms"][BASELINE]["measures"]["bits"]["value"]
    for name in ("aligned", "shuffled"):
        mine = report["arms"][name]["measures"]["bits"]["value"]
        assert report["differences"][name]["bits"]["value"] == mine - base != 0
    assert report["labelled"]
    assert report["reference"]["choices"] == 3
    text = markdown(report)
    assert text.count("\n|") == 12
    assert "1 seed." in text
    with pytest.raises(InputError, match="baseline"):
        run_corpus(bench, [ARMS["aligned"]], [0])


def test_idx_files_go_through(data, tmp_path):
    bench = bench_for(tiny_corpus("fashion"), data, tmp_path, "cpu", quiet=True)
    bench.build()
    assert len(bench.store) == 48
    assert set(bench.held_out.captions) <= set(bench.corpus.source.classes.names)


def test_pictures_that_are_not_there_are_named(data, tmp_path):
    with pytest.raises(InputError, match=r"chest_xray: not there; xray needs it"):
        bench_for(tiny_corpus("xray"), tmp_path, tmp_path, "cpu", quiet=True)


def test_judge_and_teacher_must_differ():
    corpus = tiny_corpus("cifar10")
    with pytest.raises(InputError, match="one seed"):
        replace(corpus, judge_training=replace(corpus.judge_training, seed=0))
    with pytest.raises(InputError, match="one shape"):
        replace(corpus, judge=corpus.encoder)
    with pytest.raises(InputError, match="contrastive"):
        replace(corpus, judge_training=replace(corpus.judge_training, objective="instance"))


# ---- the judgement -----------------------------------------------------------------------------


def test_copies_of_training_pictures_are_seen(moved):
    bench, _ = moved
    judgement = Judgement(bench)
    copied = bench.painted(bench.store)
    found = judgement.copies(copied)
    assert found["exact_copies"]["value"] == 1.0
    assert found["near_pixels"]["value"] == 1.0
    rng = np.random.default_rng(1)
    noise = to_uint8(torch.from_numpy(rng.uniform(-1, 1, (8, 3, 32, 32))).float())
    assert judgement.copies(noise)["near_pixels"]["value"] == 0.0


def test_distance_to_oneself_is_nothing_and_noise_is_far(moved):
    bench, _ = moved
    judgement = Judgement(bench)
    assert judgement.distance(judgement.real).value == pytest.approx(0, abs=1e-6)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, judgement.real.shape, dtype=np.uint8)
    known = judgement.of_training(rng)
    assert judgement.distance(noise).value > 3 * known["high"]
    assert judgement.features(noise).shape[1] == max(2, len(judgement.prompts) // 20)


def test_found_is_the_rank_of_the_own_caption(moved):
    bench, _ = moved
    judgement = Judgement(bench)
    every = judgement._found(judgement.real, judgement.prompts, len(judgement.choices))
    assert every.tolist() == [1.0] * len(judgement.prompts)
    once = [[picture] for picture in judgement.real[:4]]
    for caption, picture in zip(judgement.prompts[:4], once, strict=True):
        scores = [judgement._found(np.stack(picture), [c], 1)[0] for c in judgement.choices]
        assert sum(scores) == 1.0
        see, read = (
            bench.judge.picture_features(np.stack(picture)),
            bench.judge.text_features(judgement.choices),
        )
        cosine = (read @ see[0]) / np.linalg.norm(read, axis=1)
        own = judgement.choices.index(caption)
        assert scores[own] == float(cosine.argmax() == own)


def test_over_seeds_is_the_t_interval():
    from scipy import stats

    values = [2.0, 2.5, 3.3]
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert over_seeds([1.0])["low"] is None
    gap = difference([3.0, 4.0], [1.0, 2.5])
    assert gap["value"] == pytest.approx(1.75)


@pytest.mark.parametrize("name", ["masked-vectors", "entities"])
def test_generators_of_vectors_go_through(name, data, tmp_path):
    corpus = drawn_by(tiny_corpus("emoji"), name)
    bench = bench_for(corpus, data, tmp_path, "cpu", quiet=True)
    report = run_corpus(bench, PAIR, [0], processes=1)
    assert (report["corpus"], report["law"]) == (f"emoji-{name}", VECTORS)
    assert "codes" not in describe(report)
    for arm in report["arms"].values():
        assert all(np.isfinite(each["value"]) for each in arm["measures"].values())
    model = TextToImage.from_pretrained(arm_folder(bench, ARMS["aligned"], 0) / "model", "cpu")
    assert model.draw(["a red square"], [0]).shape == (1, 16, 16, 3)


# ---- the page of the documentation -------------------------------------------------------------


def test_tables_of_a_page_are_the_results(moved, tmp_path):
    bench, report = moved
    results = tmp_path / "page"
    assert record(bench.out, results) == ["xray"]
    page = (
        "a\n<!-- results: xray -->\nold\n<!-- end -->\nb\n<!-- results: emoji -->\n<!-- end -->\n"
    )
    text = filled(page, block, results, "page")
    assert "old" not in text
    assert markdown(report) in text
    assert "(page/xray.png)" in text
    assert "Not measured yet." in text.split("emoji")[-1]
    assert text.startswith("a\n")
    assert filled(text, block, results, "page") == text
    (bench.folder / "drawn.png").write_bytes(bytes(MOST_BYTES + 1))
    with pytest.raises(InputError, match="bytes"):
        record(bench.out, results)


def test_the_documentation_shows_the_committed_results():
    page = Path(__file__).parents[1] / "docs" / "corpora.md"
    text = page.read_text(encoding="utf-8")
    assert filled(text, block, page.with_suffix(""), "corpora") == text
    for picture in page.with_suffix("").glob("*.png"):
        assert picture.stat().st_size <= MOST_BYTES
