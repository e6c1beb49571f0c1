"""From pictures to pictures on the command line, for every registered generator."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import arra.generators as _registers  # noqa: F401
from arra import cli
from arra.data.store import PreparedStore
from arra.errors import InputError
from arra.jobs.validation import plain_batches
from arra.metrics.likelihood import held_out_bits, held_out_loss
from arra.registry import generators
from arra.serving.requests import Request
from arra.serving.service import Service, ServiceConfig, Workshop
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage

SMALL = (
    *("--llama.width", "32", "--llama.depth", "2", "--llama.heads", "2"),
    *("--llama.feed-forward", "48", "--scale.width", "32", "--scale.depth", "2"),
    *("--scale.heads", "2", "--scale.feed-forward", "48", "--scale.gate", "1"),
)
SMALL_VECTORS = {"inner": "16", "inner_depth": "1", "steps": "3"}


def small(name: str) -> tuple[str, ...]:
    """Options that make it small: those of vectors that it reads."""
    read = getattr(generators[name], "reads", ())
    options = (
        (f"--vectors.{n.replace('_', '-')}", v) for n, v in SMALL_VECTORS.items() if n in read
    )
    return (*SMALL, *(word for option in options for word in option))


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


NAMES = [name for name in sorted(generators) if not generators[name].taught]
PAIRS = [(name, generators[name].default_codec) for name in NAMES]
PAIRS += [("raster", "jpeg"), ("raster", "patches"), ("grid", "binary")]
"""Every generator that learns from pictures with the codec that it is at home with, and further
pairs. Students learn from their teachers (test_students.py)."""


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def work(request, tmp_path_factory):
    """A store for this generator, and two runs: one of eight steps, one interrupted after four."""
    root, (name, codec) = tmp_path_factory.mktemp("every"), request.param
    store = root / "store"
    vocabulary = "300" if codec == "jpeg" else "32"
    prepared = run(
        *("prepare", "scenes:48", "--out", store, "--train-codec", codec),
        *("--codec.vocabulary", vocabulary, "--codec.width", "16", "--codec.steps", "12"),
        *("--train-encoder", "masked", "--encoder.steps", "3", "--encoder.width", "16"),
        *("--encoder.dim", "8", "--aggregations", "cls", "mean", "patches"),
    )
    assert prepared == 0
    common = (
        "train",
        store,
        "--generator",
        name,
        *small(name),
        "--batch.size",
        "4",
        "--samples",
        "2",
    )
    common += ("--precision", "fp32", "--checkpoint-every", "4", "--held-out-share", "0.2")
    assert run(*common, "--out", root / "run", "--steps", "8", "--validate-every", "4") == 0
    for steps in ("4", "8"):  # stopped and gone on
        again = ("--out", root / "again", "--steps", steps, "--schedule", "constant")
        assert run(*common, *again) == 0
    straight = ("--out", root / "straight", "--steps", "8", "--schedule", "constant")
    assert run(*common, *straight) == 0
    return SimpleNamespace(root=root, name=name, store=PreparedStore.open(store))


def alike(work, one, other) -> bool:
    """Whether two pictures are the same; drawn from vectors, up to the rounding of products, which
    no argmax takes away."""
    apart = int(np.abs(one.astype(int) - other.astype(int)).max())
    return apart <= (1 if generators[work.name].sampler == "vectors" else 0)


def test_a_run_that_was_stopped_ends_with_the_same_weights(work):
    one, other = (
        TextToImage.from_pretrained(work.root / name, "cpu") for name in ("again", "straight")
    )
    assert type(one.generator) is generators[work.name]
    assert one.fingerprint() == other.fingerprint()


def test_pictures_are_those_of_prompt_and_seed(work, capsys):
    drawn = {}
    for batch in (1, 3):
        out = work.root / f"drawn-{batch}"
        asked = ("--count", "3", "--seed", "5", "--batch", batch, "--guidance", "1.5")
        assert run("generate", work.root / "run", "a red 3", "--out", out, *asked) == 0
        drawn[batch] = [np.asarray(Image.open(p)) for p in sorted(out.glob("a-red*.png"))]
    assert len(drawn[1]) == 3
    assert drawn[1][0].shape == (24, 24, 3)
    assert all(alike(work, a, b) for a, b in zip(drawn[1], drawn[3], strict=True))
    assert not np.array_equal(drawn[1][0], drawn[1][1])


def test_samples_and_bits_are_watched_and_alignment_learns(work):
    rows = [json.loads(line) for line in (work.root / "run" / "log.jsonl").open()]
    losses = [row for row in rows if "alignment" in row]
    assert losses
    assert all(np.isfinite(row["alignment"]) for row in losses)
    measure = "held_out_loss" if generators[work.name].sampler == "vectors" else "held_out_bits"
    assert any(measure in json.dumps(row) for row in rows)
    assert list((work.root / "run" / "samples").glob("*.png"))


def test_the_checkpoint_is_evaluated(work, capsys):
    out = work.root / "evaluated"
    asked = ("--count", "6", "--diversity-prompts", "1", "--json")
    capsys.readouterr()
    assert run("evaluate", work.root / "run", "--out", out, *asked) == 0
    measure = "vectors" if generators[work.name].sampler == "vectors" else "bits"
    assert measure in capsys.readouterr().out


def test_held_out_rows_count_once_and_in_any_batch(work):
    generator = TextToImage.from_pretrained(work.root / "run", "cpu").generator
    if generator.dimensions:  # a loss with noise: the same rows in the same batches meet the same
        losses = [
            held_out_loss(generator, plain_batches(work.store, generator, size, 10)).values
            for size in (3, 3, 10)
        ]
        assert np.array_equal(losses[0], losses[1])
        assert losses[0].shape == losses[2].shape == (10,)
        return
    with torch.no_grad():
        bits = [
            held_out_bits(generator, plain_batches(work.store, generator, size, 10)).per_picture
            for size in (3, 10)
        ]
    assert bits[0] == pytest.approx(bits[1], rel=1e-5)


def test_served_pictures_are_those_that_are_drawn(work):
    model = TextToImage.from_pretrained(work.root / "run", "cpu")
    service = Service(model, ServiceConfig(slots=6))
    wanted = [
        Request(caption, seed, SamplingConfig(guidance))
        for seed, (caption, guidance) in enumerate([("a red 3", 1.5), (None, 1.0), ("a 7", 1.5)])
    ]
    if model.generator.dimensions:  # told when it is asked for, not when its turn has come
        with pytest.raises(InputError, match="top_k"):
            service.submit([Request("a red 3", 0, SamplingConfig(top_k=5))])
    workshop = Workshop([service]).start()
    drawings = service.submit(wanted)
    assert workshop.stop(60)
    for drawing, request in zip(drawings, wanted, strict=True):
        assert drawing.error is None
        (alone,) = model.draw([request.caption], [request.seed], request.sampling)
        assert alike(work, drawing.picture, alone)
