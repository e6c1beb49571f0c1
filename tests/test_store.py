"""The prepared store: exact, resumable after any kill, honest about what made it."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import resource
import signal
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arra.codecs.base import Codec
from arra.codecs.multiscale import MultiScaleCodec
from arra.data import crew
from arra.data.blocks import ArrayPictures, ScenePictures
from arra.data.make import Maker
from arra.data.prepare import prepare, prepare_arrays
from arra.data.scenes import DigitScenes
from arra.data.store import PreparedStore
from arra.data.tokenizer import (
    SPECIAL_TOKENS,
    CaptionEncoder,
    load_text_tokenizer,
    tokenizer_fingerprint,
    train_text_tokenizer,
)
from arra.encoders.base import Features
from arra.errors import ArraError, InputError, ProvenanceError
from arra.pixels import to_unit
from arra.registry import codecs
from arra.settings import feature_name
from store_parts import BrokenRow, NoiseSource, PatchCodec, PatchEncoder, contents

CODEC = PatchCodec(PatchCodec.Config())
ENCODER = PatchEncoder(PatchEncoder.Config())


@pytest.fixture(scope="module")
def words():
    return train_text_tokenizer(["a picture of noise number 1 2 3"], 64)


@pytest.fixture(scope="module")
def bpe():
    return train_text_tokenizer(["a red three on black"] * 3, 300, "bpe")


@pytest.fixture(scope="module")
def encode_bpe(bpe):
    return CaptionEncoder.of(bpe)


def make(source: Any, folder: Path, tokenizer: Any, **options: Any) -> PreparedStore:
    settings = {"size": 8, "encoder": ENCODER, "shard_rows": 32, "batch": 8, "quiet": True}
    return prepare(
        source, folder, **{"codec": CODEC, "tokenizer": tokenizer, **settings, **options}
    )


# --- what a store holds ---------------------------------------------------------------------------


def test_codes_of_any_shape_are_stored(tmp_path, words):
    """A pyramid's codes come back as they are; what needs a grid says so."""
    codec = MultiScaleCodec.tiny().eval()
    store = make(NoiseSource(5), tmp_path / "s", words, codec=codec, encoder=None)
    pictures = np.stack([NoiseSource(5).picture(i) for i in range(5)])
    again = PreparedStore.open(tmp_path / "s")
    assert again.codes_shape == store.codes_shape == (codec.pyramid.length,)
    assert torch.equal(again.rows(range(5)).codes, codec.encode(to_unit(pictures)))
    assert again.codec().fingerprint() == codec.fingerprint()
    with pytest.raises(InputError, match=r"multiscale.*expected a grid"):
        again.grid  # noqa: B018


def test_round_trip_is_exact_and_features_agree_with_fresh_ones(tmp_path, words):
    source = NoiseSource(100)
    store = make(source, tmp_path / "s", words, aggregations=("patches", "cls", "mean"))
    pictures = np.stack([source.picture(i) for i in range(100)])
    captions = [source.caption(i) for i in range(100)]
    got = store.rows(range(100))
    assert len(store) == 100
    assert store.codes_shape == store.grid == (2, 2)
    assert got.codes.dtype == torch.int64
    assert torch.equal(got.codes, CODEC.encode(to_unit(pictures)))
    assert got.codes.max() > 255  # wider than a byte
    assert got.text_ids == words(captions, add_special_tokens=False)["input_ids"]
    assert store.captions(range(100)) == captions
    assert store.keys([3, 99, 3]) == ["noise/3.png", "noise/99.png", "noise/3.png"]
    fresh = ENCODER.encode(ENCODER.preprocess([Image.fromarray(p) for p in pictures]))
    expected = {"cls": fresh.cls, "mean": fresh.patches.mean(1), "patches": fresh.patches}
    assert set(got.features) == set(expected)
    for kind, values in expected.items():
        assert got.features[kind].dtype == torch.float32
        assert got.features[kind].shape == values.shape
        torch.testing.assert_close(got.features[kind], values.detach(), rtol=2**-10, atol=1e-6)
    assert store.captions([]) == []
    assert store.rows([]).codes.shape == (0, 2, 2)


def test_float32_features_are_exact(tmp_path, words):
    source = NoiseSource(20)
    store = make(source, tmp_path / "s", words, feature_dtype="float32", aggregations=("cls",))
    images = [source.read(i).image for i in range(8)]
    fresh = ENCODER.encode(ENCODER.preprocess(images)).cls
    assert torch.equal(store.rows(range(8)).features["cls"], fresh.detach())


def test_random_access_equals_sequential(tmp_path, words):
    store = make(NoiseSource(150), tmp_path / "s", words)
    one_by_one = [store.rows([index]) for index in range(150)]
    order = np.random.default_rng(0).integers(0, 150, 400)
    got = store.rows(order)
    for place, index in enumerate(order):
        row = one_by_one[index]
        assert got.text_ids[place] == row.text_ids[0]
        assert torch.equal(got.codes[place], row.codes[0])
        assert torch.equal(got.features["mean"][place], row.features["mean"][0])
    assert store.captions(order) == [store.captions([i])[0] for i in order]
    for wrong in (-1, 150):
        with pytest.raises(IndexError, match=f"row {wrong} of a store of 150"):
            store.rows([0, wrong])


def test_store_travels_to_another_process(tmp_path, words):
    store = make(NoiseSource(10), tmp_path / "s", words)
    twin = pickle.loads(pickle.dumps(store))
    assert torch.equal(twin.rows(range(10)).codes, store.rows(range(10)).codes)


def test_several_encoders_stand_side_by_side(tmp_path, words):
    """Each with its name, its identity and those kinds of features that it has."""

    class Maps(PatchEncoder):
        def encode(self, pixels):
            return Features(cls=None, patches=super().encode(pixels).patches)

    wide = PatchEncoder(PatchEncoder.Config(width=24))
    encoders = {"": ENCODER, "wide": wide, "maps": Maps(Maps.Config())}
    store = make(NoiseSource(20), tmp_path / "s", words, encoder=encoders)
    found = store.rows(range(20)).features
    assert list(found) == ["cls", "mean", "wide/cls", "wide/mean", "maps/mean"]
    for name, one in (("", ENCODER), ("wide", wide)):
        alone = make(NoiseSource(20), tmp_path / f"of-{name}", words, encoder=one)
        for kind, tensor in alone.rows(range(20)).features.items():
            assert torch.equal(tensor, found[feature_name(name, kind)])
    some = store.rows([3, 1], ["wide/mean"]).features
    assert list(some) == ["wide/mean"]
    assert torch.equal(some["wide/mean"], found["wide/mean"][[3, 1]])
    store.check(encoder={"": ENCODER, "wide": wide})
    with pytest.raises(ProvenanceError, match="encoder wide: the store was made by"):
        store.check(encoder={"wide": ENCODER})
    with pytest.raises(ProvenanceError, match=r"encoders\.wide\.fingerprint: store"):
        make(NoiseSource(20), tmp_path / "s", words, encoder={**encoders, "wide": ENCODER})
    with pytest.raises(InputError, match="no CLS vector"):
        make(NoiseSource(9), tmp_path / "x", words, encoder=Maps(Maps.Config()))
    with pytest.raises(InputError, match="'a/b'; expected letters"):
        make(NoiseSource(9), tmp_path / "x", words, encoder={"a/b": ENCODER})
    assert not (tmp_path / "x").exists()


def test_large_vocabularies_are_stored_in_four_bytes(tmp_path, words):
    wide = PatchCodec(PatchCodec.Config(vocabulary=70_000))
    source = NoiseSource(40)
    store = make(source, tmp_path / "s", words, codec=wide, encoder=None)
    pictures = to_unit(np.stack([source.picture(i) for i in range(40)]))
    codes = store.rows(range(40)).codes
    assert torch.equal(codes, wide.encode(pictures))
    assert codes.max() > 65_535


def test_rows_are_fast(tmp_path, words):
    """Target: 3 ms for 96 rows of 36 codes and a vector of 128; the bound leaves room for CI."""
    wide = PatchEncoder(PatchEncoder.Config(width=128))
    pictures = np.random.default_rng(0).integers(0, 256, (3000, 24, 24, 3), dtype=np.uint8)
    options = {"encoder": wide, "aggregations": ("cls",), "shard_rows": 512, "quiet": True}
    captions = ["a picture of noise"] * 3000
    store = prepare_arrays(
        pictures, captions, tmp_path / "s", codec=CODEC, tokenizer=words, **options
    )
    assert store.codes_shape == (6, 6)
    times = []
    for seed in range(30):
        order = np.random.default_rng(seed).integers(0, 3000, 96)
        start = time.perf_counter()
        store.rows(order)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.010


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, words):
    """2 000 rows hold 16 MB of features; making and reading them takes a few shards' worth."""
    wide = PatchEncoder(PatchEncoder.Config(width=4096))
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    try:
        source = NoiseSource(2000)
        store = make(source, tmp_path / "s", words, encoder=wide, aggregations=("cls",), batch=64)
        for start in range(0, 2000, 50):
            store.rows(range(start, start + 50))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(path.stat().st_size for path in (tmp_path / "s/shards").iterdir()) > 16e6
    assert peak < 4e6
    assert pa.total_allocated_bytes() - before < 1e6


# --- provenance -----------------------------------------------------------------------------------


def test_check_names_the_culprit_and_both_identities(tmp_path, words, bpe):
    store = make(NoiseSource(10), tmp_path / "s", words)
    store.check(CODEC, ENCODER, words)
    store.check(tokenizer=store.tokenizer())
    other_codec = PatchCodec(PatchCodec.Config(seed=1))
    other_encoder = PatchEncoder(PatchEncoder.Config(gain=2.0))
    cases = {
        "codec": (other_codec, CODEC.fingerprint(), other_codec.fingerprint()),
        "encoder": (other_encoder, ENCODER.fingerprint(), other_encoder.fingerprint()),
        "tokenizer": (bpe, tokenizer_fingerprint(words), tokenizer_fingerprint(bpe)),
    }
    parts = {"codec": CODEC, "encoder": ENCODER, "tokenizer": words}
    for name, (other, mine, yours) in cases.items():
        with pytest.raises(ProvenanceError) as caught:
            store.check(**{**parts, name: other})
        text = str(caught.value)
        assert mine in text
        assert yours in text
        assert [n for n in parts if f"\n  {n}: " in text] == [name]
    bare = make(NoiseSource(10), tmp_path / "bare", words, encoder=None)
    with pytest.raises(ProvenanceError, match="encoder: the store was made by None"):
        bare.check(encoder=ENCODER)


def test_provenance_says_what_made_the_store(tmp_path, words, monkeypatch):
    folder = tmp_path / "s"
    store = make(NoiseSource(70, bad=(5,)), folder, words)
    plain = json.loads((folder / "store.json").read_text())
    assert plain["settings"]["codec"]["config"] == {"vocabulary": 300, "seed": 0}
    assert plain["settings"]["encoders"][""]["size"] == [8, 8]
    picture = {"size": 8, "fit": "crop", "resample": "lanczos"}
    assert plain["settings"]["picture"] == picture
    assert [(s["start"], s["stop"], s["rows"]) for s in plain["shards"]] == [
        (0, 32, 31),
        (32, 64, 32),
        (64, 70, 6),
    ]
    assert (store.provenance.rows, store.provenance.bad_rows) == (69, 1)
    monkeypatch.setitem(codecs._classes, "store-test-codec", PatchCodec)
    assert Codec.registry is codecs
    assert store.codec().fingerprint() == CODEC.fingerprint()


def test_verify_finds_a_changed_shard_and_preparing_again_mends_it(tmp_path, words):
    folder = tmp_path / "s"
    store = make(NoiseSource(100, bad=(40,)), folder, words)
    store.verify()
    good = contents(folder)
    shard = folder / "shards/000001.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ProvenanceError, match=r"000001\.arrow"):
        PreparedStore.open(folder).verify()
    make(NoiseSource(100, bad=(40,)), folder, words)
    assert contents(folder) == good


@pytest.mark.parametrize("damage", ["cut", "gone", "other", "manifest", "escape"])
def test_damaged_stores_are_refused(tmp_path, words, damage):
    folder = tmp_path / "s"
    make(NoiseSource(40), folder, words)
    shard, manifest = folder / "shards/000000.arrow", folder / "store.json"
    plain = json.loads(manifest.read_text())
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "gone":
        shard.unlink()
    elif damage == "other":
        shard.write_bytes((folder / "shards/000001.arrow").read_bytes())
    elif damage == "manifest":
        del plain["settings"]["codec"]["vocabulary"]
        manifest.write_text(json.dumps(plain))
    else:
        plain["shards"][0]["file"] = "../shards/000000.arrow"
        manifest.write_text(json.dumps(plain))
    with pytest.raises(InputError, match=r"000000\.arrow|store\.json"):
        PreparedStore.open(folder)


def test_opening_nothing_says_so(tmp_path):
    with pytest.raises(InputError, match="no prepared store here"):
        PreparedStore.open(tmp_path)


# --- settings -------------------------------------------------------------------------------------


def test_other_settings_are_refused_by_name_or_replace_the_store(tmp_path, words, bpe):
    folder = tmp_path / "s"
    make(NoiseSource(50), folder, words)
    good = contents(folder)
    changes: dict[str, dict[str, Any]] = {
        "codec.fingerprint": {"codec": PatchCodec(PatchCodec.Config(seed=1))},
        "encoders.fingerprint": {"encoder": PatchEncoder(PatchEncoder.Config(gain=2.0))},
        "aggregations": {"aggregations": ("cls",)},
        "tokenizer.fingerprint": {"tokenizer": bpe},
        "feature_dtype": {"feature_dtype": "float32"},
        "picture.size": {"size": 12},
        "picture.fit": {"fit": "pad"},
        "shard_rows": {"shard_rows": 64},
        "batch": {"batch": 4},
    }
    for name, change in changes.items():
        with pytest.raises(ProvenanceError, match=rf"\n  {name}: store .*, now "):
            make(NoiseSource(50), folder, **{"tokenizer": words, **change})
    with pytest.raises(ProvenanceError, match=r"source\.identity.*'seed': 3"):
        make(NoiseSource(50, seed=3), folder, words)
    assert contents(folder) == good
    make(NoiseSource(50, seed=3), folder, words, overwrite=True)
    make(NoiseSource(50, seed=3), tmp_path / "fresh", words)
    assert contents(folder) == contents(tmp_path / "fresh")


def test_foreign_folders_are_left_alone(tmp_path, words):
    (tmp_path / "thesis.tex").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds other files \(thesis\.tex\)"):
            make(NoiseSource(10), tmp_path, words, overwrite=overwrite)
    assert contents(tmp_path) == {"thesis.tex": b"dear"}


def test_wrong_arguments_are_named_before_anything_is_written(tmp_path, words):
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("size", {"size": 10}),
        ("aggregations", {"aggregations": ("max",)}),
        ("feature_dtype", {"feature_dtype": "int8"}),
        ("batch", {"batch": 0}),
        ("workers", {"workers": -1}),
        ("fit", {"fit": "squeeze"}),
        ("no rows", {"source": NoiseSource(0)}),
    ]
    for name, change in wrong:
        with pytest.raises(InputError, match=name):
            make(
                **{"source": NoiseSource(9), "folder": tmp_path / "s", "tokenizer": words, **change}
            )
    assert not (tmp_path / "s").exists()


def test_features_too_large_for_half_precision_are_refused(tmp_path, words):
    loud = PatchEncoder(PatchEncoder.Config(gain=1e6))
    with pytest.raises(InputError, match=r"noise/0\.png.*feature_dtype='float32'"):
        make(NoiseSource(10), tmp_path / "s", words, encoder=loud)
    store = make(NoiseSource(10), tmp_path / "t", words, encoder=loud, feature_dtype="float32")
    assert store.rows([0]).features["cls"].abs().max() > 65_504


# --- bad rows -------------------------------------------------------------------------------------


def test_bad_rows_are_skipped_counted_and_named(tmp_path, words):
    bad = (0, 31, 32, 70)
    store = make(NoiseSource(100, bad=bad), tmp_path / "s", words)
    kept = [index for index in range(100) if index not in bad]
    assert store.keys(range(96)) == [f"noise/{index}.png" for index in kept]
    report = json.loads((tmp_path / "s/report.json").read_text())
    assert (report["good"], report["bad"]) == (96, 4)
    assert report["reasons"] == {"is not a picture": 4}
    assert [(row["row"], row["name"]) for row in report["rows"]] == [
        (index, f"noise/{index}.png") for index in bad
    ]


def test_problems_of_the_listing_and_notes_are_reported_also_after_damage(tmp_path, words):
    problems = (BrokenRow("lost \udcff.png", "has no caption"),)
    source = NoiseSource(70, bad=(1,), noted=(2, 69), problems=problems)
    store = make(source, tmp_path / "s", words)
    assert store.provenance.bad_rows == 2
    report = json.loads((tmp_path / "s/report.json").read_text())
    assert report["reasons"] == {"has no caption": 1, "is not a picture": 1}
    assert report["rows"][0]["row"] is None
    assert report["rows"][0]["name"] == "lost \\udcff.png"
    assert [note["row"] for note in report["notes"]] == [2, 69]
    whole = contents(tmp_path / "s")
    (tmp_path / "s/shards/000000.arrow").unlink()
    make(source, tmp_path / "s", words)
    assert contents(tmp_path / "s") == whole


def test_a_shard_of_bad_rows_only_is_empty(tmp_path, words):
    store = make(NoiseSource(96, bad=tuple(range(32, 64))), tmp_path / "s", words, bad_share=0.5)
    assert len(store) == 64
    assert store.keys([31, 32]) == ["noise/31.png", "noise/64.png"]


def test_too_many_bad_rows_stop_the_work(tmp_path, words):
    source = NoiseSource(100, bad=tuple(range(11)))
    with pytest.raises(InputError, match=r"11 of 100 rows.*noise/0\.png: is not a picture"):
        make(source, tmp_path / "s", words)
    with pytest.raises(InputError, match="did not finish"):
        PreparedStore.open(tmp_path / "s")
    assert len(make(source, tmp_path / "s", words, bad_share=0.2)) == 89


def test_captions_that_are_not_unicode_are_bad_rows(tmp_path, words):
    pictures = np.zeros((20, 8, 8, 3), dtype=np.uint8)
    captions = ["a picture"] * 19 + ["broken \udcff"]
    store = prepare_arrays(
        pictures, captions, tmp_path / "s", codec=CODEC, tokenizer=words, quiet=True
    )
    assert len(store) == 19
    assert json.loads((tmp_path / "s/report.json").read_text())["rows"][0]["row"] == 19


# --- interruptions --------------------------------------------------------------------------------


def _killed_child(source: Any, folder: Path, tokenizer: Any, arm: Any) -> int:
    """Prepare in a forked child in which `arm()` has set a trap; the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            arm()
            make(source, folder, tokenizer)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_kill_at_any_step_loses_only_unfinished_shards(tmp_path, words, monkeypatch):
    """SIGKILL before every single rename, and after those that matter, in a new folder each."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    source = NoiseSource(60, bad=(3, 40))
    make(source, tmp_path / "whole", words)
    whole = contents(tmp_path / "whole")
    real, moments, survived = os.replace, 0, False
    while not survived:
        folder = tmp_path / f"killed-{moments}"

        def arm(moment: int = moments) -> None:
            calls = [0]

            def replace(*paths: Any) -> None:
                def here() -> None:
                    if calls[0] == moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                    calls[0] += 1

                here()
                real(*paths)
                if Path(paths[1]).name in ("store.json", "000000.arrow", "settings.json"):
                    here()

            os.replace = replace

        survived = _killed_child(source, folder, words, arm) == 0
        if not survived and not (folder / "store.json").exists():
            with pytest.raises(InputError, match="did not finish"):
                PreparedStore.open(folder)
        kept = {p.name: p.stat().st_mtime_ns for p in (folder / "shards").glob("[!.]*")}
        noted = {p.stem for p in (folder / ".work/done").glob("[!.]*.json")}
        store = make(source, folder, words)
        assert contents(folder) == whole
        assert len(store) == 58
        for name, made in kept.items():
            if Path(name).stem in noted:
                assert (folder / "shards" / name).stat().st_mtime_ns == made
        moments += 1
    assert moments >= 11  # settings, parts, two shards and their notes, report, store; three after


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_kill_in_the_middle_of_a_shard(tmp_path, words, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    make(NoiseSource(100), tmp_path / "whole", words)
    folder, marker = tmp_path / "s", str(tmp_path / "marker")
    source = NoiseSource(100, killer=80, marker=marker)
    assert _killed_child(source, folder, words, lambda: None) == signal.SIGKILL
    assert any(folder.glob("shards/.*.tmp"))  # the half-written shard
    with pytest.raises(InputError, match="did not finish"):
        PreparedStore.open(folder)
    make(source, folder, words)
    assert contents(folder) == contents(tmp_path / "whole")


def test_workers_write_the_same_bytes_and_one_may_die(tmp_path, words, caplog):
    bad = (3, 50)
    several = {"": ENCODER, "loud": PatchEncoder(PatchEncoder.Config(width=3, gain=2.0))}
    make(NoiseSource(150, bad), tmp_path / "alone", words, encoder=several)
    source = NoiseSource(150, bad, killer=70, marker=str(tmp_path / "marker"))
    with caplog.at_level(logging.WARNING):
        make(source, tmp_path / "crew", words, workers=2, encoder=several)
    assert (tmp_path / "marker").exists()
    assert "a worker died (exit code -9): rows 64 to 95 are made again" in caplog.text
    assert contents(tmp_path / "crew") == contents(tmp_path / "alone")


@pytest.mark.filterwarnings("ignore:.*fork")
def test_what_goes_wrong_in_workers_is_said(tmp_path, words, monkeypatch, caplog):
    loud = PatchEncoder(PatchEncoder.Config(gain=1e6))
    monkeypatch.setattr(crew, "_START", "fork")  # quicker, and safe with one worker
    with pytest.raises(InputError, match=r"noise/0\.png.*feature_dtype"):
        make(NoiseSource(9), tmp_path / "a", words, encoder=loud, workers=1)
    with pytest.raises(ArraError, match="workers died 3 times over rows 32 to 39"):
        make(NoiseSource(40, killer=35), tmp_path / "b", words, workers=1)
    assert caplog.text.count("a worker died") == 2
    assert [path.name for path in (tmp_path / "b/shards").glob("[!.]*")] == ["000000.arrow"]
    monkeypatch.setattr(Maker, "load", lambda job: os._exit(3))
    with pytest.raises(ArraError, match=r"before it could start \(exit code 3\).*__main__"):
        make(NoiseSource(9), tmp_path / "c", words, workers=1)


def test_a_source_that_cannot_travel_is_refused(tmp_path, words):
    class Local(NoiseSource):
        pass

    with pytest.raises(InputError, match=r"cannot be sent to worker processes.*workers=0"):
        make(Local(9), tmp_path / "s", words, workers=1)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, words):
    folder = tmp_path / "s"
    wide = PatchEncoder(PatchEncoder.Config(width=2048))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    try:
        with pytest.raises(ArraError, match=f"{os.strerror(errno.EFBIG)}.*Make room"):
            make(NoiseSource(40), folder, words, encoder=wide)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((folder / "shards").iterdir()) == []
    make(NoiseSource(40), folder, words, encoder=wide).verify()


def test_two_preparations_of_one_folder_do_not_meet(tmp_path, words):
    folder = tmp_path / "s"

    class Nosy(NoiseSource):
        def read(self, index: int) -> Any:
            with pytest.raises(InputError, match="another process is preparing"):
                make(NoiseSource(5), folder, words)
            return super().read(index)

    make(Nosy(5), folder, words)


# --- arrays and scenes ----------------------------------------------------------------------------


def test_the_fast_path_equals_reading_row_by_row(tmp_path, words):
    scenes = ScenePictures(DigitScenes(), 50)

    class Slow:
        def __len__(self) -> int:
            return 50

        read, identity = staticmethod(scenes.read), staticmethod(scenes.identity)

    make(scenes, tmp_path / "fast", words, size=24)
    make(Slow(), tmp_path / "slow", words, size=24)
    assert contents(tmp_path / "fast") == contents(tmp_path / "slow")
    store = PreparedStore.open(tmp_path / "fast")
    assert store.captions([49]) == [DigitScenes()[49].caption]


def test_source_identity_follows_content():
    pictures = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    base = ArrayPictures(pictures, ["a"] * 4).identity()
    changed = pictures.copy()
    changed[3, 7, 7, 2] = 1
    assert ArrayPictures(pictures.copy(), ["a"] * 4).identity() == base
    assert ArrayPictures(changed, ["a"] * 4).identity() != base
    assert ArrayPictures(pictures, ["a", "a", "a", "b"]).identity() != base
    first = ScenePictures(DigitScenes(), 5).identity()
    assert first == ScenePictures(DigitScenes(), 5).identity()
    assert first != ScenePictures(DigitScenes(seed=1), 5).identity()
    for wrong in (pictures[:, :4], pictures.astype(np.float32), pictures[..., 0]):
        with pytest.raises(InputError, match="pictures"):
            ArrayPictures(wrong, ["a"] * 4)
    with pytest.raises(InputError, match="captions: 3"):
        ArrayPictures(pictures, ["a"] * 3)


# --- tokenizer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_tokenizers_are_deterministic_and_load_with_auto_tokenizer(tmp_path, kind):
    from transformers import AutoTokenizer

    captions = [DigitScenes().prompt(i).caption for i in range(300)]
    tokenizer = train_text_tokenizer(captions, 320, kind)
    again = train_text_tokenizer(iter(captions), 320, kind)
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(again)
    assert tokenizer_fingerprint(tokenizer) != tokenizer_fingerprint(
        train_text_tokenizer(captions[:9], 320, kind)
    )
    tokenizer(captions[:2], padding=True, truncation=True, max_length=4)
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(again)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_text_tokenizer(tmp_path)):
        assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)
        assert loaded.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4, 5]
        assert (loaded.boi_token, loaded.eoi_token) == ("<|boi|>", "<|eoi|>")
        ids = loaded(captions, add_special_tokens=False)["input_ids"]
        assert ids == CaptionEncoder.of(tokenizer)(captions)
        assert ids == CaptionEncoder.load(tmp_path)(captions)
        assert loaded.batch_decode(ids) == captions
        assert len(loaded) <= 320


def test_words_of_digit_scenes_are_one_token_each():
    captions = [DigitScenes(combinations="all").prompt(i).caption for i in range(400)]
    tokenizer = train_text_tokenizer(captions)
    encode = CaptionEncoder.of(tokenizer)
    for caption, ids in zip(captions, encode(captions), strict=True):
        assert len(ids) == len(caption.split())
        assert tokenizer.unk_token_id not in ids
    assert encode(["A red 3, left of"]) == encode(["a red 3 , left of"])
    assert encode(["zebra"]) == [[tokenizer.unk_token_id]]


def test_rare_words_go_first_and_ties_follow_the_alphabet():
    tokenizer = train_text_tokenizer(["b a c c", "d d"], len(SPECIAL_TOKENS) + 3)
    assert tokenizer.convert_ids_to_tokens([6, 7, 8]) == ["c", "d", "a"]


@settings(max_examples=200, deadline=None)
@given(text=st.text() | st.lists(st.sampled_from(["<|boi|>", "<|pad|>", " ", "a"])).map("".join))
def test_bpe_gives_back_any_text_and_never_a_control_token(bpe, encode_bpe, text):
    (ids,) = encode_bpe([text])
    assert bpe.decode(ids) == text
    assert not set(ids) & set(range(len(SPECIAL_TOKENS)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "char"}, "kind"),
        ({"vocabulary": 6}, "vocabulary"),
        ({"captions": "a"}, "captions"),
    ],
)
def test_wrong_tokenizer_arguments_are_named(change, named):
    with pytest.raises(InputError, match=named):
        train_text_tokenizer(**{"captions": ["a"], **change})


def test_a_missing_or_broken_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="no tokenizer here"):
        load_text_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    for load in (load_text_tokenizer, CaptionEncoder.load):
        with pytest.raises(InputError, match="cannot be read"):
            load(tmp_path)
