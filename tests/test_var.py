"""The claim of VAR: pixels as codes without loss, the arms, and the rule of the verdict."""

from __future__ import annotations

import math

import pytest
import torch

from arra.codecs.pyramids import CodePyramid
from arra.experiments.digit_codes import Words
from arra.experiments.digits import digits
from arra.generators.batches import BatchConfig
from arra.orders.pyramid import Pyramid
from arra.samplers.scales import ScaleSampler
from arra.settings import SamplingConfig
from arra.systems.var.arms import drawing_seconds
from arra.systems.var.claim import judged
from arra.systems.var.models import LastUnit, decode, encode, make_generator, store_of
from arra.systems.var.pictures import draw, painted
from arra.systems.var.recipe import ARMS, BANDS, RASTER, SCALES, tiny


@pytest.mark.parametrize("arm", ARMS)
def test_codes_give_the_digits_back(arm):
    pictures = digits()[1].pictures[:100]
    codes = encode(arm, pictures)
    assert codes.shape == (100, Pyramid(ARMS[arm]).length)
    assert (decode(arm, codes) == pictures).all()


def test_a_unit_reads_the_codes_before_it():
    """The short way to all inputs is the long one, unit by unit."""
    pyramid, codes = Pyramid(((2, 2),) * 3), torch.randint(5, (2, 12))
    meaning = LastUnit(5)
    short = meaning.inputs(codes, pyramid)
    assert torch.equal(short, CodePyramid.inputs(meaning, codes, pyramid))
    assert torch.equal(short.argmax(dim=2), codes[:, :8])


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_draws_what_it_is_trained_on(arm):
    """Cached steps give the teacher-forced laws, in the baseline's orders too."""
    generator = make_generator(arm, tiny().size, 0).eval()
    store = store_of(arm, digits()[1])
    batch = generator.batches(store, BatchConfig(2, drop_caption=0.0)).batch(0)
    expected = generator(batch).logits.view(2, generator.pyramid.length, -1)
    codes = torch.stack([batch.tokens[i][batch.place[i] >= 0] for i in range(2)])
    with torch.no_grad():
        logits, cache = generator.prefill([[int(batch.tokens[i, 0])] for i in range(2)])
        found = [logits]
        for here in generator.pyramid.split(codes)[:-1]:
            found.append(generator.step(here, cache))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=0, atol=3e-6)


def test_arms_are_of_one_size_and_all_are_timed():
    counts = [
        sum(p.numel() for p in make_generator(arm, tiny().size, 0).parameters()) for arm in ARMS
    ]
    assert max(counts) < 1.25 * min(counts)
    times = drawing_seconds(tiny(), 2)
    assert [len(times[arm]) for arm in ARMS] == [1, 1, 1]


def results(ratio, gap, control):
    """Two seeds: scales so many times as far as raster, with `gap` more digits right."""
    rows = {
        RASTER: [(1.0, 0.7), (1.2, 0.72)],
        SCALES: [(ratio, 0.7 + gap), (1.2 * ratio * 1.001, 0.7201 + gap)],
        BANDS: [(control, 0.5), (1.2 * control, 0.5)],
    }
    return {arm: [{"frechet": f, "accuracy": a} for f, a in values] for arm, values in rows.items()}


@pytest.mark.parametrize(
    ("ratio", "gap", "control", "verdict"),
    [
        (1.1, 0.0, 4.0, "pass"),
        (2.0, 0.0, 4.0, "fail"),  # too far from real digits
        (1.1, -0.1, 4.0, "fail"),  # too few digits right
        (1.1, 0.0, 0.5, "fail"),  # bands do better
        (math.sqrt(2.25), 0.0, 4.0, "inconclusive"),  # just at the margin
    ],
)
def test_the_rule_of_the_verdict(ratio, gap, control, verdict):
    assert judged(results(ratio, gap, control))[0] == verdict


def test_one_seed_says_nothing():
    one = {arm: found[:1] for arm, found in results(1.0, 0.0, 4.0).items()}
    assert judged(one)[0] == "inconclusive"


def test_what_stands_is_kept_and_the_rest_is_drawn(tmp_path):
    """In-, out-painting and editing of the page: codes under the mask are those of the picture."""
    generator = make_generator(SCALES, tiny().size, 0).eval()
    draw(generator, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "samples.png",
        "painting.png",
        "mask.png",
    }
    real, words = digits()[1].pictures[:3], ["one", "two", "three"]
    everything = torch.ones(8, 8, dtype=torch.bool)
    assert (painted(generator, real, words, everything, [1, 2, 3]) == real).all()
    none = painted(generator, real, words, ~everything, [1, 2, 3])
    free = ScaleSampler(SamplingConfig(2.0, "linear"))(Words(generator), words, [1, 2, 3])
    assert (none == decode(SCALES, free)).all()
