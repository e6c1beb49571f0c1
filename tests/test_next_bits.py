"""Split bits from pictures to pictures on the command line, and the guidance that ELM ramps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from arra import cli
from arra.data.store import PreparedStore
from arra.samplers.logits import SamplingConfig
from arra.text_to_image import TextToImage

SMALL = (
    *("--llama.width", "32", "--llama.depth", "2", "--llama.heads", "2"),
    *("--llama.feed-forward", "48", "--batch.size", "4", "--samples", "2"),
)


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def test_a_store_of_split_bits_is_learnt_drawn_and_evaluated(tmp_path, capsys):
    store = tmp_path / "store"
    prepared = run(
        *("prepare", "scenes:40", "--out", store, "--train-codec", "binary"),
        *("--codec.vocabulary", "64", "--codec.split", "2", "--codec.width", "16"),
        *("--codec.steps", "12", "--train-encoder", "masked", "--encoder.steps", "3"),
        *("--encoder.width", "16", "--encoder.dim", "8"),
    )
    assert prepared == 0
    opened = PreparedStore.open(store)
    assert opened.codes_shape == (6, 6, 2)
    assert opened.grid == (6, 6)
    assert opened.codec().vocabulary == 8
    common = ("train", store, *SMALL, "--steps", "4", "--precision", "fp32")
    assert run(*common, "--generator", "grid", "--out", tmp_path / "run") == 0
    model = TextToImage.from_pretrained(tmp_path / "run", "cpu")
    assert model.generator.config.split == 2
    assert model.size == (24, 24)
    out = tmp_path / "drawn"
    guided = ("--guidance", "3", "--guidance-schedule", "steps", "--top-k", "4")
    assert run("generate", tmp_path / "run", "a red 3", "--out", out, *guided) == 0
    (path,) = out.glob("a-red*.png")
    assert np.asarray(Image.open(path)).shape == (24, 24, 3)
    assert run("evaluate", tmp_path / "run", "--out", tmp_path / "e", "--count", "4") == 0
    assert run(*common, "--generator", "raster", "--out", tmp_path / "other") != 0
    assert "its codes are no grid" in capsys.readouterr().err


def test_ramps_are_those_of_the_paper():
    """1 + (s - 1) f(j / n), j counted from 1; the root counts from 0."""
    ramps = {
        "steps": lambda r: r,
        "sine": lambda r: math.cos(-math.pi / 2 + r * math.pi / 2),
        "log": lambda r: math.log1p(r * (math.e - 1)) / math.log1p(math.e - 1),
        "square": lambda r: r**2,
    }
    for name, ramp in ramps.items():
        settings = SamplingConfig(4.0, name)
        for unit in range(256):
            assert settings.scale(unit, 256) == pytest.approx(1 + 3 * ramp((unit + 1) / 256))
    steps, root = SamplingConfig(4.0, "steps"), SamplingConfig(4.0, "root")
    assert steps.scale(0, 256) == 1 + 3 / 256
    assert steps.scale(255, 256) == 4.0
    assert [root.scale(unit, 4) for unit in range(4)] == pytest.approx(
        [1 + 3 * (unit / 4) ** 0.5 for unit in range(4)]
    )
    assert all(SamplingConfig(1.0, name).scale(3, 9) == 1.0 for name in ramps)


def test_a_binary_codec_needs_a_power_of_two(tmp_path, capsys):
    asked = ("--train-codec", "binary", "--codec.vocabulary", "48", "--codec.steps", "2")
    assert run("prepare", "scenes:8", "--out", tmp_path / "store", *asked) != 0
    assert "binary needs a power of two" in capsys.readouterr().err
