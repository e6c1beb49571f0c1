"""The claim of ACDiT: clips whose law is known, arms alike, and the rule of the verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from arra.experiments.digit_vectors import Greys
from arra.heads.processes import TIMES
from arra.systems.acdit.arms import make_generator, train_arm
from arra.systems.acdit.claim import judged
from arra.systems.acdit.clips import STEPS, clips, frame_distance, right, shifts, steady
from arra.systems.acdit.pictures import plot, strip
from arra.systems.acdit.recipe import ARMS, CLEAN, NOISED, WHOLE, Recipe, tiny


def test_true_clips_move_by_one_step():
    found, asked = clips(300, 4, 0, held_out=False)
    assert found.shape == (300, 4, 6, 6)
    assert set(asked.tolist()) == set(range(8))
    assert right(found, asked).mean() > 0.99
    assert right(found, (asked + 1) % 8).mean() == 0.0
    assert {tuple(step) for step in shifts(found)[:, 0].tolist()} == set(STEPS)


@pytest.mark.parametrize("step", [*STEPS, (0, 0), (1, -3)])
def test_shifts_are_found(step):
    frame = np.random.default_rng(0).random((6, 6))
    clip = np.stack([np.roll(frame, tuple(n * s for s in step), (0, 1)) for n in range(4)])
    assert (shifts(clip[None]) == np.array(step)).all()
    assert steady(clip[None]).tolist() == [step in STEPS]


def test_a_clip_that_turns_is_not_steady():
    found, _ = clips(100, 4, 0, held_out=False)
    turned = np.concatenate((found[:, :2], found[:, 1::-1]), axis=1)
    assert steady(turned).mean() < 0.01
    assert steady(np.random.default_rng(0).random((200, 4, 6, 6))).mean() < 0.02


def test_distance_of_frames():
    one, other = (clips(1000, 4, seed, held_out=False)[0] for seed in (0, 1))
    assert frame_distance(one, one) == pytest.approx(0.0, abs=1e-6)
    assert frame_distance(1.0 - one, one) > 50 * frame_distance(other, one)


def test_clips_become_vectors_and_come_back():
    found, _ = clips(20, 4, 0, held_out=False)
    codes = Greys(2).vectors(found)
    assert codes.shape == (20, 3, 3, 16)
    assert np.abs(Greys(2).clips(codes) - found).max() < 1e-6
    generator = make_generator(CLEAN, replace(Recipe(), patch=2), 0)
    frames = generator.entities.gather(codes.flatten(1, 2))
    second = Greys(2).vectors(found[:, 1:2]).flatten(1, 2)
    assert torch.equal(frames[:, generator.entities.slices[1]], second)


def test_arms_have_the_same_weights():
    generators = {arm: make_generator(arm, Recipe(), 0) for arm in ARMS}
    assert [generators[arm].units for arm in (CLEAN, NOISED, WHOLE)] == [4, 4, 1]
    for arm in (NOISED, WHOLE):
        pairs = zip(generators[CLEAN].parameters(), generators[arm].parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_contexts():
    """A clean past is the clip, told nothing; a noised one is as noisy as its times say; the only
    block has none."""
    target = torch.randn(500, 4, 36)
    past, time = make_generator(CLEAN, Recipe(), 0).context(target, None)
    assert torch.equal(past, target)
    assert time is None
    past, time = make_generator(NOISED, Recipe(), 0).context(target, None)
    share = (time / TIMES)[..., None]
    noise = (past - (1 - share) * target) / share
    assert float(noise[share.expand_as(noise) > 0.05].var()) == pytest.approx(1.0, abs=0.02)
    assert time.shape == (500, 4)
    assert make_generator(WHOLE, Recipe(), 0).context(target, None) is None


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_trained_once(arm, tmp_path):
    first = train_arm(tiny(), arm, 0, tmp_path, True)
    assert train_arm(tiny(), arm, 0, tmp_path, True) == first
    assert 0 <= first["right"] <= first["steady"] <= 1
    assert first["truth"] > 0.9


def results(clean=0.8, noised=0.6, whole=0.7):
    """Two seeds with nearly the same numbers."""

    def two(value):
        return [{"right": value, "steady": value}, {"right": value * 1.001, "steady": value}]

    return {CLEAN: two(clean), NOISED: two(noised), WHOLE: two(whole)}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"whole": 0.99}, "pass"),
        ({"noised": 0.79}, "fail"),
        ({"noised": 0.95}, "fail"),
        ({"noised": 0.74}, "inconclusive"),
        ({"clean": 0.2, "noised": 0.01}, "inconclusive"),
    ],
)
def test_the_rule_of_the_verdict(changes, verdict):
    assert judged(results(**changes))[0] == verdict


def test_one_seed_is_not_enough():
    assert judged({arm: found[:1] for arm, found in results().items()})[0] == "inconclusive"


# ---- the picture of the page -------------------------------------------------------------------


def test_a_strip_has_every_pixel_of_its_frames():
    clip = np.random.default_rng(0).integers(0, 256, (4, 6, 6), dtype=np.uint8)
    found = strip(clip, good=True)
    assert found.shape == (8, 29, 3)
    for number, frame in enumerate(clip):
        left = 1 + 7 * number
        assert np.array_equal(found[1:7, left : left + 6], np.repeat(frame[..., None], 3, axis=2))
    assert not np.array_equal(found[0, 0], strip(clip, good=False)[0, 0])


def test_the_picture_is_made_of_what_the_claim_drew(tmp_path):
    for arm in ARMS:
        train_arm(tiny(), arm, 0, tmp_path, True)
    plot(tmp_path, tmp_path / "clips.png", seeds=1)
    assert Image.open(tmp_path / "clips.png").width > 400
