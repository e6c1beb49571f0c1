"""The claim of jpeg-lm, its rule, and the way from pictures to pictures on the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from arra import cli
from arra.data.store import PreparedStore
from arra.pixels import to_unit
from arra.systems.base import get_system, reproduce
from arra.systems.jpeg_lm.arms import (
    ScrambledCodec,
    make_codec,
    repainted,
    robustness,
    sets,
)
from arra.systems.jpeg_lm.claim import judged
from arra.systems.jpeg_lm.recipe import JPEG, PIXELS, SCRAMBLED, SQUARES, full, tiny
from arra.text_to_image import TextToImage


def outcome(distances, valid=0.99, jpeg=1.0, squares=2.0):
    results = {
        arm: [{"frechet": d * (1 + 0.01 * n), "valid": valid} for n in range(3)]
        for arm, d in zip((JPEG, PIXELS, SCRAMBLED, SQUARES), distances, strict=True)
    }
    codecs = {
        arm: [{"transposed": value, "inverted": value}] * 3
        for arm, value in ((JPEG, jpeg), (SQUARES, squares))
    }
    return results, codecs


@pytest.mark.parametrize(
    ("distances", "more", "verdict"),
    [
        ((1, 2, 3, 4), {}, "pass"),
        ((1, 2, 3, 0.5), {}, "pass"),  # squares may win: the claim is about pixels
        ((2, 1, 3, 4), {}, "fail"),
        ((2, 3, 1, 4), {}, "fail"),
        ((1, 2, 3, 4), {"valid": 0.7}, "fail"),
        ((1, 2, 3, 4), {"valid": 0.9}, "inconclusive"),
        ((1, 2, 3, 4), {"jpeg": 2.5}, "fail"),
        ((1, 2, 3, 4), {"jpeg": 1.4}, "inconclusive"),
    ],
)
def test_the_verdict_follows_its_rule(distances, more, verdict):
    assert judged(*outcome(distances, **more))[0] == verdict


def test_scrambled_files_are_the_same_files():
    """As long, and the same pictures; but where bytes were alike, they are not any more."""
    known, _ = sets(tiny())
    pictures = known.pictures[:40]
    plain, scrambled = (make_codec(tiny(), arm, known, 0) for arm in (JPEG, SCRAMBLED))
    assert isinstance(scrambled, ScrambledCodec)
    assert np.array_equal(repainted(plain, pictures), repainted(scrambled, pictures))
    codes = scrambled.encode(to_unit(pictures))
    assert scrambled.valid(codes).all()
    assert scrambled.files(codes) == plain.files(plain.encode(to_unit(pictures)))
    ours, theirs = plain.bodies(pictures), scrambled.bodies(pictures)
    assert [len(a) for a in ours] == [len(b) for b in theirs]
    assert all(b"\xff\xd0" in a for a in ours)
    assert sum(b"\xff\xd0" in b for b in theirs) < 5


def test_jpeg_bears_what_it_was_not_made_for_and_clusters_do_not(monkeypatch):
    """The spec's measurement: ratios near 1 for JPEG, far above for k-means on other digits. Of
    upright digits: where digits are turned, transposed ones are less unusual."""
    for most in ("TURN", "MOVE", "SIZE"):
        monkeypatch.setattr(f"arra.systems.jpeg_lm.arms.{most}", 0.0)
    recipe = replace(full(), variants=1, held_out_variants=1)
    jpeg, squares = (robustness(recipe, arm, 0) for arm in (JPEG, SQUARES))
    assert max(jpeg[key] for key in ("new", "transposed", "inverted")) < 1.3
    assert min(squares[key] for key in ("transposed", "inverted")) > 1.5


def test_the_claim_runs_and_keeps_what_it_made(tmp_path):
    result = reproduce("jpeg-lm", seeds=2, folder=tmp_path, budget="tiny", quiet=True)
    assert result.verdict in ("pass", "fail", "inconclusive")
    assert get_system("jpeg-lm").seeds >= 3
    names = [measure.name for measure in result.measures]
    assert any("whole" in name for name in names)
    assert len(set(names)) == len(names)
    for measure in result.measures:
        assert len(measure.system.per_seed) == 2


# ---- command line ------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def test_from_pictures_to_pictures(tmp_path, capsys):
    """Prepared, trained with alignment to patches, drawn and evaluated as with any codec."""
    store = tmp_path / "store"
    prepared = run(
        *("prepare", "scenes:40", "--out", store, "--train-codec", "jpeg"),
        *("--codec.vocabulary", "270", "--codec.quality", "10", "--codec.downsample", "8"),
        *("--train-encoder", "masked", "--encoder.steps", "2", "--encoder.width", "16"),
        *("--encoder.dim", "8", "--aggregations", "cls", "mean", "patches"),
    )
    assert prepared == 0
    opened = PreparedStore.open(store)
    codec = opened.codec()
    assert codec.grid == (3, 3)
    assert codec.valid(opened.rows(range(40)).codes).all()
    trained = run(
        *("train", store, "--out", tmp_path / "run", "--steps", "4", "--batch.size", "4"),
        *("--llama.width", "32", "--llama.depth", "2", "--llama.heads", "2"),
        *("--llama.feed-forward", "48", "--samples", "2", "--precision", "fp32"),
        *("--align.target", "patch", "--align.layers", "1", "--held-out-share", "0.2"),
    )
    assert trained == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert all(np.isfinite(row["alignment"]) for row in rows if "alignment" in row)
    assert any("alignment" in row for row in rows)
    asked = ("--count", "2", "--seed", "5", "--guidance", "1.5")
    assert run("generate", tmp_path / "run", "a red 3", "--out", tmp_path / "drawn", *asked) == 0
    found = sorted((tmp_path / "drawn").glob("a-red*.png"))
    assert [np.asarray(Image.open(path)).shape for path in found] == [(24, 24, 3)] * 2
    model = TextToImage.from_pretrained(tmp_path / "run", "cpu")
    assert torch.equal(model.codec.merges, codec.merges)
    assert model.generator.codes_shape == (codec.stream.longest,)
    evaluated = ("--out", tmp_path / "evaluated", "--count", "4", "--diversity-prompts", "1")
    assert run("evaluate", tmp_path / "run", *evaluated) == 0
    assert run("export", tmp_path / "run", "--out", tmp_path / "exported") == 0
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "the bytes of a file" in card
