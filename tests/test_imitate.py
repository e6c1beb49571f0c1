"""`arra imitate`: any raster checkpoint gets a backspace, on pictures and on texts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from arra import cli
from arra.errors import InputError
from arra.generators.backspacing import with_backspace
from arra.jobs.evaluation_parts import find_ground
from arra.jobs.imitating import ERASE, spelt
from arra.jobs.imitation_options import ImitationOptions
from arra.jobs.texts import read_lines, texts_of
from arra.labels import read_png
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage

PREPARE = (
    *("--size", 16, "--codec.vocabulary", 16, "--codec.width", 16, "--codec.steps", 2),
    *("--tokenizer.kind", "word"),
)
TRAIN = (
    *("--steps", 2, "--batch.size", 6, "--llama.width", 32, "--llama.depth", 1, "--no-align"),
    *("--llama.heads", 2, "--llama.feed-forward", 48, "--precision", "fp32", "--samples", 0),
)
TUNE = (
    *("--begin", 2, "--every", 2, "--rise", 1, "--texts", 4, "--own", 2, "--noise", 0.3),
    *("--batch.size", 4, "--schedule", "constant", "--precision", "fp32", "--warmup", 0),
    *("--checkpoint-every", 3, "--validate-every", 3, "--samples", 3, "--held-out-share", 0.2),
)
LINES = "a red 3\tleft of a blue 5\n\na green 7\tabove a red 1\na blue 5\na red\ta 3\n"


def run(*arguments):
    return cli.run([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A store of scenes, a checkpoint that draws them, and a file of texts."""
    folder = tmp_path_factory.mktemp("imitate")
    assert run("prepare", "scenes:40", "--out", folder / "store", *PREPARE) == 0
    assert run("train", folder / "store", "--out", folder / "run", *TRAIN) == 0
    (folder / "texts.tsv").write_text(LINES)
    return folder


def data(work, kind):
    return ("--store", work / "store") if kind == "pictures" else ("--text", work / "texts.tsv")


@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_a_checkpoint_is_tuned_whatever_interrupts_it(kind, work, tmp_path, capsys):
    def imitate(name, steps, *more):
        asked = (*TUNE, "--batch.size", 2) if kind == "texts" else TUNE
        out = ("--out", tmp_path / name, "--steps", steps)
        return run("imitate", work / "run", *out, *data(work, kind), *asked, *more)

    capsys.readouterr()
    assert imitate("straight", 6, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["validation"]["held_out_nats"] > 0
    assert told["validation"]["backspaces"] >= 0  # written after 2, 4 and 6 steps
    assert imitate("parts", 3) == imitate("parts", 6) == 0
    assert "taken back" in capsys.readouterr().out
    one, other = (TextToImage.from_pretrained(tmp_path / n, "cpu") for n in ("straight", "parts"))
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != TextToImage.from_pretrained(work / "run", "cpu").fingerprint()
    written = [sorted((tmp_path / n / "replay").iterdir()) for n in ("straight", "parts")]
    assert [f.name for f in written[0]] == [f.name for f in written[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*written, strict=True))
    suffix = "png" if kind == "pictures" else "txt"
    shown = sorted((tmp_path / "straight" / "samples").iterdir())
    assert [file.name for file in shown] == [f"step-0000000{n}.{suffix}" for n in (3, 6)]

    ground = find_ground(tmp_path / "straight", None, one)
    assert (ground.store is None) == (kind == "texts")  # what `arra evaluate` compares with

    out = tmp_path / "drawn"
    asked = ("--sampler", "backtracking", "--guidance", 1, "--out", out)
    assert run("generate", tmp_path / "straight", "a red 3", *asked) == 0
    (file,) = out.glob("a-red*.png")
    drawn = one.draw(["a red 3"], [0], SamplingConfig(guidance=1.0), sampler="backtracking")
    assert np.array_equal(read_png(file), drawn[0])
    # tuned once more, with the backspace that it has
    again = ("--out", tmp_path / "again", "--steps", 2, *data(work, kind), *TUNE)
    assert run("imitate", tmp_path / "straight", *again, "--batch.size", 2) == 0
    last = TextToImage.from_pretrained(tmp_path / "again", "cpu").generator
    assert last.config.backspace == one.generator.config.backspace
    capsys.readouterr()
    assert imitate("straight", 6, "--alpha", 0.5) == 2
    assert "alpha was 0.02 and is now 0.5" in capsys.readouterr().err


def test_texts_come_back_as_they_were_written(work, tmp_path):
    model = TextToImage.from_pretrained(work / "run", "cpu").generator
    lines = read_lines([work / "texts.tsv"])
    assert [line.prompt for line in lines] == ["a red 3", "a green 7", "", "a red"]
    with pytest.raises(InputError, match="no backspace"):
        texts_of(model, lines)
    texts, writing = texts_of(with_backspace(model), lines)
    end = len(writing.ids)
    assert writing.most == 5
    assert not {*writing.actions[:end]} & {writing.end, writing.backspace}
    rows = texts.rows([0, 1, 3], ())
    said = [spelt(model, writing, [c for c in row if c >= 0]) for row in rows.codes.tolist()]
    assert said == ["left of a blue 5", "above a red 1", "a 3"]
    first = [c for c in rows.codes[2].tolist() if c >= 0]
    assert spelt(model, writing, [*first, end + 1, end]) == f"a 3 {ERASE}"
    assert texts.subset([3]).text_lengths([0]).tolist() == [2]


def test_what_cannot_be_tuned(work, tmp_path, capsys):
    def refused(*arguments, code=2):
        capsys.readouterr()
        asked = ("--steps", 2, "--out", tmp_path / "no", *TUNE, *arguments)
        assert run("imitate", work / "run", *asked) == code
        return capsys.readouterr().err

    assert "--store" in refused()
    assert "multiple of --every" in refused(*data(work, "pictures"), "--begin", 3)
    dropped = ("--batch.drop-caption", 0.1)
    assert "keep their prompts" in refused(*data(work, "texts"), *dropped)
    assert "line 1: 5 tokens" in refused(*data(work, "texts"), "--most", 2)
    (tmp_path / "empty.txt").write_text("\n")
    assert "no text" in refused("--text", tmp_path / "empty.txt")
    with_ema = refused(*data(work, "pictures"), "--ema", 0.9)
    assert "ema" in with_ema
    assert (
        run("prepare", "scenes:40", "--out", tmp_path / "other", *PREPARE, "--codec.width", 8) == 0
    )
    assert "another codec" in refused("--store", tmp_path / "other", code=3)


def test_half_of_the_steps_are_likelihood_alone():
    assert ImitationOptions().start(1000) == 500
    assert ImitationOptions(every=40).start(1000) == 480
    assert ImitationOptions().start(60) == 50
    assert ImitationOptions(begin=100).start(1000) == 100
