"""The main job on the command line: a folder of pictures becomes a model that draws.

One tiny run, in this process, whose folders the tests share; what interrupts it has its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from arra import cli
from arra.data.store import PreparedStore
from arra.data.subset import Subset, split_rows
from arra.encoders import Encoder
from arra.files import read_json
from arra.generators.batches import RasterBatches
from arra.inspection import describe
from arra.jobs import generation
from arra.jobs.generation import Wanted
from arra.text_to_image import TextToImage

INKS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230)}
BROKEN = {
    "broken/empty.png": "the file is empty",
    "broken/words.png": "not a picture in a format that is read, or its header is damaged",
    "broken/blank.txt": "the caption is empty",
    "broken/lonely.png": "the picture has no caption",
}
PREPARE = (
    *("--size", "16", "--codec.vocabulary", "32", "--codec.width", "16", "--codec.steps", "12"),
    *("--train-encoder", "contrastive+masked", "--encoder.steps", "4", "--encoder.width", "16"),
    *("--encoder.dim", "8", "--tokenizer.kind", "word", "--limits.bad-share", "0.3"),
)
TRAIN = (
    *("--steps", "12", "--batch.size", "6", "--llama.width", "32", "--llama.depth", "2"),
    *("--llama.heads", "2", "--llama.feed-forward", "48", "--precision", "fp32"),
    *("--validate-every", "6", "--checkpoint-every", "4", "--samples", "2"),
    *("--held-out-share", "0.2", "--log-every", "1"),
)


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


@pytest.fixture
def run_json(capsys):
    """Run a command that prints JSON; its exit code must be 0."""

    def call(*arguments: object):
        capsys.readouterr()
        assert run(*arguments, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return call


def picture(ink: str, shape: str, rng: np.random.Generator) -> Image.Image:
    pixels = np.full((20, 20, 3), 250, dtype=np.uint8)
    row, column = rng.integers(2, 8, 2)
    down, across = {"square": (10, 10), "bar": (4, 12), "tower": (12, 4)}[shape]
    pixels[row : row + down, column : column + across] = INKS[ink]
    return Image.fromarray(pixels)


def make_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = ("square", "bar", "tower")
    for number in range(24):
        ink, shape = list(INKS)[number % 3], shapes[number // 3 % 3]
        path = folder / f"{number:02d}-{ink}.png"
        path.parent.mkdir(exist_ok=True)
        picture(ink, shape, rng).save(path)
        path.with_suffix(".txt").write_text(f"a {ink}  {shape}\n")
    (folder / "broken").mkdir()
    good = (folder / "00-red.png").read_bytes()
    contents = {"empty": b"", "words": b"no picture", "blank": good, "lonely": good}
    for name, data in contents.items():
        (folder / "broken" / f"{name}.png").write_bytes(data)
    for name, text in {"empty": "a", "words": "a", "blank": " \n"}.items():
        (folder / "broken" / f"{name}.txt").write_text(text)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Pictures, the store prepared from them and a run trained on it."""
    root = tmp_path_factory.mktemp("work")
    found = SimpleNamespace(
        root=root, pictures=root / "pictures", store=root / "store", run=root / "run"
    )
    found.parts = root / "store.parts"
    make_pictures(found.pictures)
    assert run("prepare", found.pictures, "--out", found.store, *PREPARE) == 0
    assert run("train", found.store, "--out", found.run, *TRAIN) == 0
    found.model = TextToImage.from_pretrained(found.run, "cpu")
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# prepare


def test_every_broken_row_is_named_and_the_others_are_used(work):
    store = PreparedStore.open(work.store)
    report = read_json(work.store / "report.json")
    assert len(store) == report["good"] == 24
    found = {row["name"]: row["reason"] for row in report["rows"]}
    assert found.keys() == BROKEN.keys()
    for name, reason in BROKEN.items():
        assert reason in found[name]
    assert store.captions([0, 1]) == ["a red square", "a green square"]
    assert store.codes_shape == (4, 4)


def test_preparing_again_changes_nothing_and_keeps_trained_parts(work, run_json):
    before = {**files_of(work.store), **files_of(work.parts)}
    times = {path: path.stat().st_mtime_ns for path in work.parts.rglob("model.safetensors")}
    summary = run_json("prepare", work.pictures, "--out", work.store, *PREPARE)
    assert {**files_of(work.store), **files_of(work.parts)} == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert summary["rows"] == 24
    assert summary["bad_rows"] == 4
    assert sum(summary["reasons"].values()) == 4
    assert summary["features"] == {"cls": [8], "mean": [16]}
    assert summary["trained"].keys() == {"codec", "encoder", "tokenizer"}


def test_other_settings_are_refused_and_say_what_differs(work, capsys):
    other = ("prepare", work.pictures, "--out", work.store, *PREPARE, "--fit", "stretch")
    before = files_of(work.parts)
    assert run(*other) == 3
    assert "differs: picture" in capsys.readouterr().err
    assert files_of(work.parts) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "no such file or folder"),
        (("scenes:many",), "expected scenes:NUMBER"),
        (("scenes:9", "--size", "25"), "does not divide"),
        (("scenes:9", "--encoder", "a", "--train-encoder", "masked"), "NAME=masked"),
        (("scenes:9", "--encoder", "b=a", "--encoder", "b=c"), "two encoders b"),
        (("scenes:9", "--train-codec", "lfq", "--codec.vocabulary", "100"), "power of two"),
        (("scenes:9", "--limits.bad-share", "2"), "expected a share"),
        (("scenes:9", "--device", "abacus"), "cannot be used here"),
    ],
)
def test_wrong_preparations_are_explained(tmp_path, capsys, arguments, message):
    assert run("prepare", *arguments, "--out", tmp_path / "store") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_too_many_bad_rows_stop_the_preparation(work, tmp_path, capsys):
    settings = [*PREPARE[:-1], "0.1"]
    assert run("prepare", work.pictures, "--out", tmp_path / "store", *settings) == 2
    error = capsys.readouterr().err
    assert "of 28 rows cannot be used" in error  # it stops at the first that is too many
    assert "broken/lonely.png" in error
    assert not (tmp_path / "store.parts").exists()


# train


def test_a_run_has_everything_and_its_model_is_a_plain_language_model(work):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = {path.name for path in work.run.iterdir()}
    assert names == {"checkpoints", "log.jsonl", "samples", "model", "run.json"}
    log = [json.loads(line) for line in (work.run / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 13))
    assert all(entry["alignment"] > 0 for entry in steps)
    marks = [entry for entry in log if "validation" in entry]
    assert [entry["step"] for entry in marks] == [6, 12]
    assert all(entry["validation"]["held_out_bits"] > 0 for entry in marks)
    drawn = sorted(path.name for path in (work.run / "samples").iterdir())
    assert drawn == ["step-00000006.png", "step-00000012.png"]
    lm = AutoModelForCausalLM.from_pretrained(work.run / "model")
    tokenizer = AutoTokenizer.from_pretrained(work.run / "model")
    assert lm.get_input_embeddings().weight.shape[0] == len(tokenizer)
    last = load_file(work.run / "checkpoints" / "step-00000012" / "generator.safetensors")
    assert torch.equal(last["lm.lm_head.weight"], lm.lm_head.weight)


def test_a_run_that_crashed_ends_with_the_same_weights(work, tmp_path, monkeypatch):
    batch = RasterBatches.batch

    def crash(self, step, part=0, parts=1):
        if step == 10:
            raise MemoryError
        return batch(self, step, part, parts)

    monkeypatch.setattr(RasterBatches, "batch", crash)
    with pytest.raises(MemoryError):
        run("train", work.store, "--out", tmp_path / "run", *TRAIN)
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.undo()
    assert run("train", work.store, "--out", tmp_path / "run", *TRAIN) == 0
    assert files_of(tmp_path / "run" / "model") == files_of(work.run / "model")
    assert files_of(tmp_path / "run" / "samples") == files_of(work.run / "samples")


def test_held_out_rows_are_never_trained_on(work):
    store = PreparedStore.open(work.store)
    kept, out = split_rows(len(store), 0.2)
    assert len(out) == 5
    assert sorted([*kept, *out]) == list(range(24))
    rows, vocabulary = Subset(store, kept), work.model.generator.config.vocabulary
    assert rows.captions([0, 3]) == store.captions(kept[[0, 3]])
    assert torch.equal(rows.rows([2]).codes, store.rows([int(kept[2])]).codes)
    with pytest.raises(IndexError):
        rows.rows([len(kept)])
    with pytest.raises(IndexError):
        rows.rows([-1])
    from arra.settings import BatchConfig

    batches = RasterBatches(rows, vocabulary, BatchConfig(size=6, drop_caption=0.0))
    hidden = {tuple(grid.flatten().tolist()) for grid in store.rows(out).codes}
    shown = {tuple(grid.flatten().tolist()) for grid in store.rows(kept).codes}
    for step in range(12):
        batch = batches.batch(step)
        codes = batch.tokens[batch.tokens >= vocabulary.offset].view(6, -1) - vocabulary.offset
        seen = {tuple(row) for row in codes.tolist()}
        assert seen <= shown
        assert not seen & (hidden - shown)


def test_training_again_is_a_summary_and_other_settings_are_refused(work, run_json, capsys):
    summary = run_json("train", work.store, "--out", work.run, *TRAIN)
    assert summary["resumed_from"] == summary["steps"] == 12
    assert summary["validation"]["held_out_bits"] > 0
    for change, named in (
        (("--learning-rate", "0.5"), "training.learning_rate"),
        (("--align.layers", "2"), "align.layers"),
        (("--batch.seed", "1"), "batch.seed"),
        (("--no-align",), "align"),
    ):
        assert run("train", work.store, "--out", work.run, *TRAIN, *change) == 2
        assert named in capsys.readouterr().err


def test_no_align_and_weight_zero_are_the_same_run(work, tmp_path):
    short = [*TRAIN[2:], "--steps", "3", "--samples", "0"]
    assert run("train", work.store, "--out", tmp_path / "a", *short, "--no-align") == 0
    assert run("train", work.store, "--out", tmp_path / "b", *short, "--align.weight", 0) == 0
    assert files_of(tmp_path / "a" / "model") == files_of(tmp_path / "b" / "model")
    log = (tmp_path / "a" / "log.jsonl").read_text()
    assert "alignment" not in log
    assert read_json(tmp_path / "a" / "run.json")["decides"]["align"] is None


def test_the_loop_alone_decides_about_processes(work, tmp_path, monkeypatch):
    """Accelerate keeps the first state that is made: made too early, two processes are two runs."""
    from accelerate import PartialState

    from arra.jobs import training

    def train(*arguments, **options):
        assert PartialState._shared_state == {}
        raise KeyboardInterrupt

    PartialState._reset_state()
    monkeypatch.setattr(training, "train", train)
    assert run("train", work.store, "--out", tmp_path / "run", *TRAIN) == 130
    # Of several processes only the first writes what all share.
    assert (tmp_path / "run" / "run.json").is_file()
    monkeypatch.setenv("RANK", "1")
    assert run("train", work.store, "--out", tmp_path / "other", *TRAIN) == 130
    assert not (tmp_path / "other").exists()


def test_accumulation_has_one_source(work, tmp_path):
    """Two micro-batches of three see the rows, in the order, that two steps of three see."""
    from dataclasses import fields

    from arra.settings import BatchConfig

    assert "accumulation" not in {field.name for field in fields(BatchConfig)}
    store, vocabulary = PreparedStore.open(work.store), work.model.generator.config.vocabulary
    batches = RasterBatches(store, vocabulary, BatchConfig(size=3))
    for number in range(6):
        halves = batches.batch(number // 2, number % 2, 2)
        assert torch.equal(halves.tokens, batches.batch(number).tokens)


def test_two_encoders_and_their_terms_of_alignment(work, tmp_path, run_json, capsys):
    """One store holds both; global and patch alignment with either are terms side by side."""
    parts = ("--codec", work.store / "codec", "--tokenizer", work.store / "tokenizer")
    small = work.parts / "encoder"
    both = ("--encoder", small, "--encoder", f"again={small}", "--limits.bad-share", 0.3)
    kinds = ("--aggregations", "cls", "mean", "patches", "--feature-dtype", "float32")
    store = ("prepare", work.pictures, "--out", tmp_path / "store", "--size", 16)
    summary = run_json(*store, *parts, *both, *kinds)
    features = summary["features"]
    assert features.keys() == {
        *("cls", "mean", "patches"),
        *("again/cls", "again/mean", "again/patches"),
    }
    opened = PreparedStore.open(tmp_path / "store")
    found = opened.rows(range(len(opened))).features
    for kind in ("cls", "mean", "patches"):
        assert torch.equal(found[kind], found[f"again/{kind}"])
    encoder = Encoder.from_pretrained(small)
    opened.check(encoder={"": encoder, "again": encoder})
    assert opened.provenance.settings.encoders.keys() == {"", "again"}
    train = ("train", tmp_path / "store", "--out", tmp_path / "run", *TRAIN[2:], "--steps", 2)
    also = ("--also", "target=patch,weight=0.5,projector=mlp3,hidden=16",
            "--also", "encoder=again,target=attention,layers=2")  # fmt: skip
    last = run_json(*train, *also)["last"]
    assert {"alignment", "alignment_2", "alignment_3"} <= last.keys()
    plain = read_json(tmp_path / "run" / "run.json")["decides"]["align"]
    assert plain["target"] == "cls"
    assert plain["also 1"]["target"] == "patch"
    assert plain["also 2"]["encoder"] == "again"
    for wrong, words in (("encoder=third", "'third/cls'"), ("colour=red", "FIELD=VALUE"),
                         ("weight=much", "a number"), ("target=sum", "target: 'sum'")):  # fmt: skip
        command = ("train", tmp_path / "store", "--out", tmp_path / "x", *TRAIN[2:])
        assert run(*command, "--also", wrong) == 2
        assert words in capsys.readouterr().err


def test_a_store_without_features_says_how_to_train(work, tmp_path, capsys):
    bare = ("--codec", work.store / "codec", "--tokenizer", work.store / "tokenizer")
    plain = ("prepare", work.pictures, "--out", tmp_path / "bare", "--size", 16, *bare)
    assert run(*plain, "--limits.bad-share", 0.3) == 0
    assert not (tmp_path / "bare.parts").exists()
    assert run("train", tmp_path / "bare", "--out", tmp_path / "run", *TRAIN) == 2
    error = capsys.readouterr().err
    assert "--no-align" in error
    assert "--train-encoder" in error
    assert not (tmp_path / "run").exists()
    # The same rows by the same parts: it can serve as held-out data of the other store.
    held = (*TRAIN[2:], "--steps", 2, "--held-out", tmp_path / "bare", "--samples", 0)
    assert run("train", work.store, "--out", tmp_path / "run", *held) == 0
    assert run("train", tmp_path / "bare", "--out", tmp_path / "x", *TRAIN[2:], "--no-align",
               "--held-out", tmp_path / "nowhere") == 2  # fmt: skip


# a pretrained language model


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A tiny GPT-2 with a tokenizer of its own, as a folder."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from arra.data.tokenizer import train_text_tokenizer

    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = train_text_tokenizer(["a red square", "a blue bar"], 300, "bpe")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=48, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=1, eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_pretrained_language_model_is_extended_and_learns(work, language_model, tmp_path, capfd):
    from transformers import AutoModelForCausalLM

    parts = ("--codec", work.store / "codec", "--encoder", work.parts / "encoder")
    store = ("prepare", work.pictures, "--out", tmp_path / "store", "--size", 16, *parts)
    given = (*store, "--limits.bad-share", 0.3, "--tokenizer", language_model)
    assert run(*given) == 0
    train = ("--lm", language_model, "--out", tmp_path / "run", *TRAIN[2:], "--steps", 4)
    assert run("train", work.store, *train) == 3
    assert f"--tokenizer {language_model}" in capfd.readouterr().err
    assert run("train", tmp_path / "store", *train) == 0
    assert "Loading weights" not in capfd.readouterr().err
    before = AutoModelForCausalLM.from_pretrained(language_model)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert after.config.model_type == "gpt2"
    assert after.config.vocab_size == before.config.vocab_size + 32  # one for each code
    old = before.transformer.wte.weight
    assert not torch.equal(after.transformer.wte.weight[: len(old)], old)
    model = TextToImage.from_pretrained(tmp_path / "run", "cpu")
    assert model.draw(["a red square"], [0]).shape == (1, 16, 16, 3)


def test_a_language_model_for_shorter_sequences_is_refused(language_model, tmp_path, capsys):
    options = ("--codec.downsample", 3, "--codec.steps", 2, "--codec.vocabulary", 8)
    store = ("prepare", "scenes:12", "--out", tmp_path / "store", *options)
    assert run(*store, "--tokenizer", language_model) == 0
    train = ("train", tmp_path / "store", "--out", tmp_path / "run", "--no-align")
    assert run(*train, "--batch.size", 4, "--lm", language_model) == 2
    assert "made for 48 positions" in capsys.readouterr().err
    assert run(*train, "--batch.size", 4, "--lm", tmp_path / "nowhere") == 2


# generate


def test_pictures_carry_their_labels(work, tmp_path, run_json):
    prompts = ["a red square", "../ein größer  Kreis/"]
    made = run_json("generate", work.run, *prompts, "--out", tmp_path, "--count", 2, "--seed", 5)
    assert [entry["seed"] for entry in made] == [5, 6, 5, 6]
    assert made[2]["prompt"] == "../ein größer Kreis/"
    drawn = work.model.draw([entry["prompt"] for entry in made], [5, 6, 5, 6])
    for entry, expected in zip(made, drawn, strict=True):
        path = Path(entry["file"])
        assert path.parent == tmp_path
        assert path.name.isascii()
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), expected)
            assert image.text["prompt"] == entry["prompt"]
            assert image.text["seed"] == str(entry["seed"])
            assert image.text["checkpoint"] == work.model.fingerprint()
            assert json.loads(image.text["sampling"])["guidance"] == 2.0
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [5, 6, 5, 6]
    assert (tmp_path / "grid.png").is_file()
    assert describe(tmp_path)["pictures"] == 4


_KILLED = """
import os, signal, sys
import arra.jobs.generation as generation
from arra import cli
write, left = generation.write_png, [{after}]
def killed(*arguments):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    write(*arguments)
generation.write_png = killed
sys.exit(cli.run(sys.argv[1:]))
"""


def test_killed_and_run_again_gives_the_files_of_an_undisturbed_run(work, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("a red square\n\n a blue bar\na green tower\n")
    settings = ("--prompts", tmp_path / "prompts.txt", "--count", 3, "--batch", 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = ["generate", work.run, "--out", broken, *settings]
    code = _KILLED.format(after=5)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(broken.glob("*.png"))) == 5
    assert not (broken / "manifest.jsonl").exists()
    (broken / ".half.png.12345678.tmp").write_bytes(b"half a picture")
    (broken / Wanted("a red square", 0).file).write_bytes(b"damaged since")

    assert run("generate", work.run, "--out", whole, *settings) == 0
    writes = []
    monkeypatch.setattr(
        generation,
        "write_png",
        lambda *a, write=generation.write_png: (writes.append(a[0]), write(*a)),
    )
    assert run(*arguments) == 0
    assert len(writes) == 9 - 5 + 1
    assert files_of(whole) == files_of(broken)


def test_a_folder_takes_more_pictures_but_no_other_settings(work, tmp_path, capsys):
    first = ("generate", work.run, "a red square", "--out", tmp_path)
    assert run(*first) == 0
    before = files_of(tmp_path)
    assert run("generate", work.run, "a blue bar", "--out", tmp_path, "--count", 2) == 0
    names = {Wanted("a red square", 0).file, *(Wanted("a blue bar", s).file for s in (0, 1))}
    manifest = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert {json.loads(line)["file"] for line in manifest} == names
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items()
               if name in names)  # fmt: skip

    assert run(*first, "--guidance", 3, "--top-k", 4) == 3
    error = capsys.readouterr().err
    assert "sampling.guidance: 2.0 there, 3.0 now" in error
    assert "sampling.top_k" in error
    (tmp_path / "mine.png").write_bytes(b"not yours")
    assert run(*first, "--guidance", 3, "--overwrite") == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {
        Wanted("a red square", 0).file,
        "grid.png",
        "mine.png",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no prompt"),
        (("a\x07b",), "prompt 1: the caption holds control characters"),
        (("a", "--count", "0"), "expected 1 or more"),
        (("a", "--temperature", "-1"), "SamplingConfig.temperature"),
        (("--prompts", "nowhere.txt"), "cannot be read"),
        (("a", "--seed", "-1"), "expected 0 or more"),
        (("a", "--drafter", "model"), "only with --sampler speculative"),
        (("a", "--sampler", "speculative", "--drafter", "model"), "with --draft-from"),
        (("a", "--relax-delta", "0.1"), "only with --sampler speculative"),
        (("a", "--sampler", "speculative", "--relax-delta", "2"), "relax_delta: 2.0"),
        (("a", "--sampler", "speculative", "--relax-ratio", "0.5"), "relax_ratio: 0.5"),
        (("a", "--sampler", "speculative", "--relax-neighbours", "5"), "only with --relax-delta"),
        (("a", "--sampler", "speculative", "--tree", "static"), "only with --drafter eagle"),
        (("a", "--sampler", "speculative", "--drafter", "eagle"), "train one with `arra draft"),
    ],
)
def test_wrong_generations_are_explained(work, tmp_path, capsys, arguments, message):
    assert run("generate", work.run, *arguments, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.png"))


def test_drafts_draw_the_same_pictures(work, tmp_path, capsys):
    """Tri-grams of the store, kept beside the checkpoint; and a model, here the same one."""
    model = shutil.copytree(work.run / "model", tmp_path / "model")
    wanted = ("a red square", "--count", 2, "--out")
    assert run("generate", model, *wanted, tmp_path / "plain") == 0
    plain = {path.name: path.read_bytes() for path in (tmp_path / "plain").glob("*.png")}
    draft = ("--sampler", "speculative", "--draft-nodes", 6)
    fast = ("--decoder", "fast")
    for folder, more in (("none", ()), ("store", ("--draft-from", work.store)), ("kept", fast)):
        capsys.readouterr()
        assert run("generate", model, *wanted, tmp_path / folder, *draft, *more) == 0
        assert "codes a pass of the model" in capsys.readouterr().out
        found = {path.name: path.read_bytes() for path in (tmp_path / folder).glob("*.png")}
        assert found == plain
        assert (model / "trigrams.safetensors").is_file() == (folder != "none")
    small = ("--drafter", "model", "--draft-from", model)
    assert run("generate", model, *wanted, tmp_path / "small", *draft, *small) == 0
    assert " 1.00 codes" not in capsys.readouterr().out
    assert run("generate", model, *wanted, tmp_path / "plain", *draft, *small) == 3
    assert "drawn otherwise" in capsys.readouterr().err


DRAFT = ("--steps", 8, "--batch.size", 6, "--heads", 2, "--precision", "fp32", "--device", "cpu")


def test_a_drafter_is_trained_and_draws(work, tmp_path, run_json, capsys):
    """Beside the checkpoint: a dynamic tree draws the same pictures, a static one others, relaxed
    guesses yet others, of which the folder knows. Another checkpoint refuses the drafter."""
    model = shutil.copytree(work.run / "model", tmp_path / "model")
    told = run_json("draft", model, "--store", work.store, "--out", tmp_path / "run", *DRAFT)
    assert 0.0 <= told["validation"]["accepted"] <= 1.0
    assert {path.name for path in (model / "drafter").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    wanted = ("a red square", "--count", 2, "--out")
    draft = ("--sampler", "speculative", "--drafter", "eagle", "--draft-nodes", 6)

    def drawn(folder, *more):
        assert run("generate", model, *wanted, tmp_path / folder, *more) == 0
        record = read_json(tmp_path / folder / "generation.json")
        pictures = {p.name: p.read_bytes() for p in (tmp_path / folder).glob("*.png")}
        return pictures, record

    plain, record = drawn("plain")
    assert drawn("dynamic", *draft, "--draft-depth", 3) == (plain, record)
    _, static = drawn("static", *draft, "--tree", "static", "--draft-from", tmp_path / "run")
    assert static["drafter"]
    assert "rule" not in static
    relaxed = (*draft, "--relax-delta", 0.3, "--relax-neighbours", 4)
    _, lossy = drawn("relaxed", *relaxed)
    assert lossy["rule"]["relaxed"] == {"delta": 0.3}
    _, ratio = drawn("ratio", *draft, "--relax-ratio", 1.5, "--temperature", 0)
    assert ratio["rule"]["relaxed"] == {"ratio": 1.5}
    drawn("ngrams", "--sampler", "speculative", "--relax-delta", 0.3)
    assert run("generate", model, *wanted, tmp_path / "plain", *relaxed) == 3
    assert "drawn otherwise" in capsys.readouterr().err
    for more in (("--tree", "static"), ("--relax-delta", 0.2), ("--relax-neighbours", 5)):
        assert run("generate", model, *wanted, tmp_path / "relaxed", *relaxed, *more) == 3

    capsys.readouterr()
    there = ("--draft-from", model / "drafter")
    other = ("train", work.store, "--out", tmp_path / "other", *TRAIN, "--steps", 1)
    assert run(*other) == 0
    assert run("generate", tmp_path / "other", *wanted, tmp_path / "no", *draft, *there) == 3
    assert "features of another checkpoint" in capsys.readouterr().err
    assert run("generate", tmp_path / "other", *wanted, tmp_path / "no", *draft) == 2
    assert "train one with `arra draft" in capsys.readouterr().err


def test_a_drafter_learns_what_the_checkpoint_draws(work, tmp_path, run_json):
    """In two parts as in one, and with the pictures drawn once."""
    model = shutil.copytree(work.run / "model", tmp_path / "model")

    def learnt(folder, steps):
        run_json(
            *("draft", model, "--store", work.store, "--out", tmp_path / folder, *DRAFT),
            *("--drawn", 20, "--schedule", "constant", "--warmup", 0, "--steps", steps),
        )
        return load_file(tmp_path / folder / "model" / "model.safetensors")

    one = learnt("whole", 6)
    learnt("parts", 3)
    drawn = tmp_path / "parts" / "drawn.safetensors"
    before = drawn.stat().st_mtime_ns
    other = learnt("parts", 6)
    assert drawn.stat().st_mtime_ns == before
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_of_somebody_elses_is_left_alone(work, tmp_path, capsys):
    (tmp_path / "grid.png").write_bytes(b"mine")
    assert run("generate", work.run, "a", "--out", tmp_path) == 2
    assert "holds another grid.png" in capsys.readouterr().err
    assert (tmp_path / "grid.png").read_bytes() == b"mine"


# evaluate


def test_evaluation_names_every_measure_or_the_reason(work, tmp_path, run_json, capsys):
    settings = ("--count", 5, "--diversity-prompts", 2, "--diversity-seeds", 2)
    encoder = ("--encoders", work.parts / "encoder", "--towers", work.parts / "encoder")
    arguments = ("evaluate", work.run, "--out", tmp_path, *settings, *encoder)
    result = run_json(*arguments)
    assert result == read_json(tmp_path / "evaluation.json")
    values = {measure["name"]: measure for measure in result["measures"]}
    held = [json.loads(line) for line in (work.run / "log.jsonl").read_text().splitlines()][-1]
    bits = values["bits per image token"]
    assert bits["value"] == pytest.approx(held["validation"]["held_out_bits"], rel=1e-6)
    assert bits["interval"]["low"] <= bits["value"] <= bits["interval"]["high"]
    assert bits["n"] == 5
    cosine = values["image-text cosine"]
    assert cosine["encoder"].startswith("small:")
    assert -1 <= cosine["value"] <= 1
    assert 0 <= values["share nearer than held-out"]["value"] <= 1
    assert "MS-SSIM, generated" in values
    assert any("is circular" in text for text in result["warnings"])
    assert "CLIP-score" not in values  # these towers are no CLIP
    assert any("expected 8" in reason for reason in result["skipped"].values())  # so few pictures
    drawn = len(list((tmp_path / "pictures").glob("*-0.png")))
    assert result["pictures"] == drawn >= 4

    assert run(*arguments, "--unguided", "--reference", "training") == 0
    assert "bits per image token" in capsys.readouterr().out
    again = read_json(tmp_path / "evaluation.json")
    assert again["real"]["split"] == "training"
    both = {m["name"]: m["value"] for m in again["measures"]}
    assert "image-text cosine, without guidance" in both
    assert both["bits per image token"] == bits["value"]


def test_sets_of_pictures_are_compared_in_a_named_encoder(work, tmp_path, run_json):
    prompts = [f"a {ink} {shape}" for ink in INKS for shape in ("square", "bar", "tower")]
    pictures, model = tmp_path / "pictures", work.run / "model"
    assert run("generate", model, *prompts, "--out", pictures, "--count", 2) == 0
    settings = ("--diversity-seeds", 0, "--limits.bad-share", 0.3)
    encoder = ("--encoders", work.parts / "encoder", *settings[:2])
    real = ("--source", work.pictures, "--pictures", pictures, "--store", work.store)
    arguments = ("evaluate", model, "--out", tmp_path / "out", *encoder, *real)
    assert run(*arguments, "--json") == 2  # four of the source's rows are bad
    result = run_json(*arguments, *settings[2:])
    values = {measure["name"]: measure for measure in result["measures"]}
    distance, floor = values["Fréchet distance"], values["Fréchet distance, floor"]
    assert distance["encoder"] == floor["encoder"]
    assert distance["n"] == floor["n"] == 12
    assert distance["value"] > floor["value"]
    assert "Fréchet distance, n -> infinity" in values
    assert {"precision", "recall", "density", "coverage"} <= values.keys()
    assert result["real"]["pictures"] == 24
    assert "copies of training pictures" not in result["skipped"]
    assert {"kernel distance", "MS-SSIM, generated against real"} <= values.keys()
    # the very encoder that the run was aligned with
    assert any("aligned with this encoder" in text for text in result["warnings"])
    assert "Guidance: 2, constant" in " ".join(result["notes"])


def test_scenes_are_read_by_a_reader_whose_error_is_told(tmp_path, run_json, capsys):
    scenes = ("--codec.steps", 8, "--codec.vocabulary", 16, "--codec.width", 16)
    encoder = ("--train-encoder", "masked", "--encoder.steps", 3)
    assert run("prepare", "scenes:64", "--out", tmp_path / "store", *scenes, *encoder) == 0
    train = ("train", tmp_path / "store", "--out", tmp_path / "run", *TRAIN[2:], "--steps", 2)
    assert run(*train, "--samples", 0, "--batch.size", 8) == 0
    settings = ("--scenes", "--count", 10, "--reader-steps", 2, "--diversity-seeds", 0)
    result = run_json("evaluate", tmp_path / "run", "--out", tmp_path / "out", *settings)
    names = {measure["name"] for measure in result["measures"]}
    for what in ("", ", shuffled prompts", ", chance level", ", real test scenes"):
        assert f"prompt accuracy, digit{what}" in names
    judge = next(m for m in result["measures"] if m["name"] == "Fréchet distance")
    assert judge["encoder"].startswith("scene-reader:")
    assert result["reader_error"]["pictures"] == 1000
    assert result["reader_error"]["true_positive"].keys() >= {"digit", "colour", "relation", "all"}
    reader = tmp_path / "out" / "parts" / "reader" / "model.safetensors"
    before = reader.stat().st_mtime_ns
    run_json("evaluate", tmp_path / "run", "--out", tmp_path / "out", *settings)
    assert reader.stat().st_mtime_ns == before


def test_evaluation_of_what_does_not_fit_is_refused(work, tmp_path, capsys):
    shutil.copytree(work.run / "model", tmp_path / "model")
    assert run("evaluate", tmp_path / "model", "--out", tmp_path / "out") == 2
    assert "--store" in capsys.readouterr().err
    assert run("evaluate", work.run, "--out", tmp_path / "out", "--scenes") == 2
    assert "not made of digit scenes" in capsys.readouterr().err
    other = ("prepare", "scenes:8", "--size", 16, "--out", tmp_path / "store", "--codec.steps", 1)
    assert run(*other, "--codec.vocabulary", 32) == 0
    command = ("evaluate", tmp_path / "model", "--out", tmp_path / "out")
    assert run(*command, "--store", tmp_path / "store") == 3
    assert "codec" in capsys.readouterr().err


# export, info


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_loads_with_plain_transformers_and_draws(work, tmp_path, run_json, dtype):
    from transformers import AutoModelForCausalLM

    summary = run_json("export", work.run, "--out", tmp_path / "x", "--dtype", dtype)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "x")
    assert str(lm.dtype) == f"torch.{dtype}"
    assert summary["parameters"] == sum(p.numel() for p in lm.parameters())
    model = TextToImage.from_pretrained(tmp_path / "x", "cpu")
    assert summary["fingerprint"] == model.fingerprint()
    if dtype == "float32":
        assert model.fingerprint() == work.model.fingerprint()
    assert model.draw(["a red bar"], [0]).shape == (1, 16, 16, 3)


def test_the_snippet_of_the_model_card_runs(work, tmp_path):
    assert run("export", work.run, "--out", tmp_path / "x") == 0
    card = (tmp_path / "x" / "README.md").read_text()
    snippets = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    for snippet in snippets:
        names: dict[str, object] = {}
        exec(snippet.replace("PATH_OF_THIS_FOLDER", str(tmp_path / "x")), names)
        if "grid" in names:
            grid = names["grid"]
            assert grid.shape == (1, 4, 4)
            assert 0 <= int(grid.min()) <= int(grid.max()) < 32
        else:
            assert names["pictures"].shape == (1, 16, 16, 3)
    assert len(snippets) == 2


def test_a_differing_export_is_not_written(work, tmp_path, monkeypatch, capsys):
    from arra.jobs import exporting

    logits = exporting._logits
    monkeypatch.setattr(exporting, "_logits", lambda generator, n=[0]: (
        n.append(1), logits(generator) + len(n))[1])  # fmt: skip
    assert run("export", work.run, "--out", tmp_path / "x") == 1
    assert "logits differ" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("")
    assert run("export", work.run, "--out", tmp_path / "x") == 2
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["mine"]


def test_info_knows_every_folder_of_the_main_job(work, run_json):
    kinds = {
        work.store: "prepared store",
        work.run: "run",
        work.run / "model": "checkpoint",
        work.run / "model" / "codec": "codec",
        work.parts / "encoder": "encoder",
    }
    for folder, kind in kinds.items():
        assert run_json("info", folder)["kind"] == kind
    store = run_json("info", work.store)
    assert (store["rows"], store["bad_rows"]) == (24, 4)
    found = run_json("info", work.run)
    assert found["finished"] is True
    assert found["checkpoints"][-1] == "step-00000012"
    assert found["model"]["codec"]["fingerprint"] == work.model.codec.fingerprint()


def test_interrupting_says_how_to_go_on(work, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "write_png", interrupt)
    assert run("generate", work.run, "a red bar", "--out", tmp_path) == 130
    assert "run the same command again" in capsys.readouterr().err


# real data


@pytest.mark.data
def test_emoji_are_prepared_and_trained_on(tmp_path, run_json):
    if "ARRA_DATA" not in os.environ:
        pytest.skip("ARRA_DATA does not name the folder of real data")
    source = Path(os.environ["ARRA_DATA"]) / "emoji"
    small = ("--size", 16, "--codec.steps", 5, "--codec.vocabulary", 32, "--codec.width", 16)
    encoder = ("--train-encoder", "masked", "--encoder.steps", 3)
    store = ("prepare", source, "--split", "test", "--out", tmp_path / "store")
    summary = run_json(*store, *small, *encoder)
    assert summary["rows"] > 100
    train = ("train", tmp_path / "store", "--out", tmp_path / "run", *TRAIN[2:], "--steps", 3)
    assert run_json(*train, "--batch.size", 8)["validation"]["held_out_bits"] > 0
    made = run_json("generate", tmp_path / "run", "grinning face", "--out", tmp_path / "out")
    assert Path(made[0]["file"]).is_file()
