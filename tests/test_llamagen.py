"""The claim of LlamaGen: the tokenizer without normalisation, and the rule of the verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.vq import VQConfig
from arra.experiments.digit_grids import LabelStepper, draw_labels, label_generator
from arra.experiments.digits import digits, judged, train_judge
from arra.settings import SamplingConfig
from arra.systems.base import ClaimRun
from arra.systems.llamagen.claim import claim, verdict_of
from arra.systems.llamagen.recipe import CODECS, SCALES, tiny
from arra.systems.llamagen.tokenizers import PlainVQ


def plain():
    config = VQConfig(
        AutoencoderConfig(2, width=8, blocks=1, decoder_blocks=1, groups=2), 16, 4, dead_below=0.0
    )
    return PlainVQ.seeded(config, 0)


def test_the_plain_tokenizer_takes_the_nearest_code_and_lengths_count():
    codec = plain()
    codec.codebook.data.normal_(generator=torch.Generator().manual_seed(0))
    latents = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    naive = torch.cdist(latents.permute(0, 2, 3, 1).reshape(-1, 4), codec.codebook).argmin(1)
    assert torch.equal(codec.nearest(latents).flatten(), naive)
    assert torch.equal(codec.distances(latents).argmin(-1).flatten(), naive)
    assert not torch.equal(codec.nearest(9.0 * latents), codec.nearest(latents))
    codes = torch.arange(16).view(1, 4, 4)
    assert torch.equal(codec.nearest(codec.lookup(codes)), codes)


@pytest.mark.parametrize(("loss", "reaches"), [("codebook", "codebook"), ("commitment", "latents")])
def test_each_loss_of_the_plain_tokenizer_trains_one_side(loss, reaches):
    codec = plain()
    latents = torch.randn(1, 4, 3, 3, requires_grad=True)
    quantized, codes, losses = codec.quantize(latents)
    torch.testing.assert_close(quantized.detach(), codec.lookup(codes).detach())
    losses[loss].backward()
    assert (codec.codebook.grad is not None) == (reaches == "codebook")
    assert (latents.grad is not None) == (reaches == "latents")


def test_classes_are_asked_for_by_their_words():
    known, held_out = digits()
    codec = plain().eval()
    generator = label_generator(codec, (4, 4), tiny().size, 0).eval()
    stepper = LabelStepper(generator)
    assert stepper.prompt_ids("seven") == [7]
    assert stepper.prompt_ids(None) == [10]
    pictures = draw_labels(generator, codec, SamplingConfig(1.0), 40, 0)
    assert pictures.shape == (40, 8, 8, 3)
    judge = train_judge(known, held_out, 0)
    found = judged(judge, pictures)
    assert set(found) == {"frechet", "class frechet", "accuracy"}
    real = [held_out.pictures[held_out.labels == digit][:40] for digit in range(10)]
    turn = torch.arange(400)
    right = [real[n % 10][n // 10] for n in turn.tolist()]
    wrong = [real[(n + 1) % 10][n // 10] for n in turn.tolist()]
    good, bad = (judged(judge, np.stack(p)) for p in (right, wrong))
    assert good["class frechet"] < 0.1 * bad["class frechet"]
    assert abs(good["frechet"] - bad["frechet"]) < 0.05 * bad["class frechet"]
    assert good["accuracy"] > 0.9 > 0.1 > bad["accuracy"]


def some_results(used=0.9, error=0.01, best=0.4, right=0.8):
    """Two seeds in which everything holds by far, but for what is told."""
    codecs, guided = [], []
    for wobble in (1.0, 1.01):
        tokenizers = {
            f"{kind} {width}": {"usage": 0.05 * wobble, "mse": 0.08 * wobble}
            for kind, width in CODECS
        }
        tokenizers["normalised 4"] = {"usage": used * wobble, "mse": error * wobble}
        codecs.append(tokenizers)
        drawn = {}
        for scale in SCALES:
            far = {"frechet": scale, "class frechet": scale * wobble, "accuracy": 0.7 * wobble}
            drawn[f"sharpened {scale:g}"] = drawn[f"guided {scale:g}"] = far
        chosen = {"frechet": best, "class frechet": best * wobble, "accuracy": right * wobble}
        drawn[f"guided {SCALES[1]:g}"] = chosen
        guided.append(drawn)
    return codecs, guided


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        ({}, "pass"),
        ({"used": 0.08}, "fail"),  # less than twice as many codes
        ({"error": 0.2}, "fail"),
        ({"best": 1.4}, "fail"),  # no guidance is better
        ({"right": 0.6}, "fail"),
        ({"right": 0.7}, "inconclusive"),
    ],
)
def test_the_rule_of_the_verdict(told, verdict):
    assert verdict_of(*some_results(**told))[0] == verdict


def test_one_seed_says_nothing():
    codecs, guided = some_results()
    assert verdict_of(codecs[:1], guided[:1])[0] == "inconclusive"


def test_the_claim_runs(tmp_path):
    found = claim(ClaimRun((0, 1), tmp_path, "tiny", quiet=True))
    names = [measure.name for measure in found.measures]
    assert len(names) == len(set(names))
    assert any(name.startswith("A: codes used") for name in names)
