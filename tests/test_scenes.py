"""Digit scenes: what captions say is what pictures show, and what is held out stays out."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from arra.data import scenes as module
from arra.data.scenes import (
    COLOURED,
    GROUNDS,
    INKS,
    UNSEEN_INK,
    WORDS,
    DigitScenes,
    SceneConfig,
    is_held_out,
    scans_of,
)
from arra.errors import InputError

CONFIGS = [SceneConfig(), SceneConfig(step=4), SceneConfig(size=36, step=3)]


def coloured(scene):
    return [COLOURED.index((d.value, d.colour)) for d in scene.digits]


def test_no_scan_is_in_two_splits():
    parts = [np.concatenate(scans_of(s)) for s in ("train", "validation", "test")]
    everything = np.concatenate(parts)
    assert len(everything) == len(set(everything.tolist())) == 1797
    assert all(len(scans) > 15 for split in ("validation", "test") for scans in scans_of(split))


@pytest.mark.parametrize("combinations", ["seen", "heldout", "inks", "all"])
def test_what_is_held_out_stays_out(combinations):
    found = DigitScenes(split="test", combinations=combinations)
    counts = [0, 0]
    for index in range(400):
        scene = found.prompt(index)
        new_ink = [(d.value, d.colour) in UNSEEN_INK for d in scene.digits]
        new = is_held_out(coloured(scene), tuple(GROUNDS).index(scene.ground))
        counts[new] += 1
        if combinations in ("seen", "heldout"):
            assert not any(new_ink)
            assert new == (combinations == "heldout")
        if combinations == "inks":
            assert all(new_ink)
        if combinations == "heldout" and len(scene.digits) == 1:
            assert scene.caption.endswith(f"on {scene.ground}")
    if combinations == "all":
        assert min(counts) > 40


def test_every_digit_and_ink_is_seen_in_training():
    seen = {(d.value, d.colour) for i in range(1500) for d in DigitScenes().prompt(i).digits}
    assert seen == set(COLOURED) - UNSEEN_INK
    for value in range(10):
        assert {colour for v, colour in seen if v == value} == set(INKS) - {
            colour for v, colour in UNSEEN_INK if v == value
        }


def holds(kind, a, b, config):
    """Whether digit `a` stands `kind` digit `b`, in pixels."""
    gap, aside = {
        "left of": (b.column - a.column, b.row - a.row),
        "right of": (a.column - b.column, b.row - a.row),
        "above": (b.row - a.row, b.column - a.column),
        "below": (a.row - b.row, b.column - a.column),
    }[kind]
    return gap >= config.digit and abs(aside) <= config.digit // 3


DIGIT, KIND = r"a (\w+) (\w+)", r"(left of|right of|above|below)"
SENTENCE = re.compile(
    rf"{DIGIT}(?: {KIND} {DIGIT}| and {DIGIT} , the \w+ one {KIND} the other)?"
    rf"(?: (and|which is) {KIND} {DIGIT})?(?: on \w+)?"
)


def test_the_grammar_says_where_every_digit_stands():
    """Read as a person reads it, without the truth beside it: every statement holds in pixels."""
    config, forms = SceneConfig(counts=(0.1, 0.2, 0.7)), set()
    for index in range(300):
        scene = DigitScenes(config)[index]
        found = SENTENCE.fullmatch(scene.caption)
        assert found, scene.caption
        one, two, other = found.group(1, 2), found.group(4, 5), found.group(6, 7)
        kind, link, third = found[3] or found[8], found[9], found.group(11, 12)
        by_name = {
            (d.colour, name): d for d in scene.digits for name in (str(d.value), WORDS[d.value])
        }
        subject, object_ = by_name[one], by_name.get(two) or by_name.get(other)
        said = 1 + (object_ is not None) + (link is not None)
        assert said == len(scene.digits)
        if object_ is not None:
            assert holds(kind, subject, object_, config), scene.caption
        if link is not None:
            anchor = subject if link == "and" else object_
            assert holds(found[10], anchor, by_name[third], config), scene.caption
        forms.add((bool(found[3]), bool(found[8]), link))
    assert len(forms) == 7  # one digit; two forms of two, alone and with both links


@pytest.mark.parametrize("config", CONFIGS)
def test_captions_tell_the_truth(config):
    """Every digit is named with its ink, relations hold in pixels, digits do not overlap."""
    for index in range(150):
        scene = DigitScenes(config)[index]
        words = scene.caption.split()
        for digit in scene.digits:
            names = {str(digit.value), WORDS[digit.value]}
            assert any(ink == digit.colour and name in names for ink, name in pairwise(words))
            assert 0 <= digit.row <= config.size - config.digit
            assert digit.row % config.step == digit.column % config.step == 0
        for relation in scene.relations:
            a, b = scene.digits[relation.first], scene.digits[relation.second]
            assert holds(relation.kind, a, b, config)
        assert len(scene.relations) == len(scene.digits) - 1
        for i, a in enumerate(scene.digits):
            for b in scene.digits[:i]:
                assert max(abs(a.row - b.row), abs(a.column - b.column)) >= config.digit


def test_pictures_are_what_a_loop_over_pixels_draws():
    config = SceneConfig()
    scene = next(s for s in (DigitScenes(config)[i] for i in range(50)) if len(s.digits) == 2)
    expected = np.empty((24, 24, 3))
    expected[:] = GROUNDS[scene.ground]
    for digit in scene.digits:
        mask = module._masks(config.digit)[digit.scan]
        for row in range(12):
            for column in range(12):
                place = (digit.row + row, digit.column + column)
                ink = mask[row, column]
                expected[place] = (1 - ink) * expected[place] + ink * np.array(INKS[digit.colour])
    assert np.abs(scene.picture - expected).max() <= 0.51


def test_scenes_are_functions_of_their_index():
    one, two = DigitScenes(seed=3), DigitScenes(seed=3)
    backwards = [two[i] for i in reversed(range(20))][::-1]
    for index in range(20):
        assert one[index] == backwards[index]
        assert np.array_equal(one[index].picture, backwards[index].picture)
    assert one[0] != DigitScenes(seed=4)[0]
    assert one[0] != DigitScenes(seed=3, split="test")[0]
    pictures, scenes = one.pictures(5, 9)
    assert scenes == [one.prompt(i) for i in range(5, 9)]
    assert np.array_equal(pictures[2], one[7].picture)


def test_redrawn_scenes_say_the_same_and_look_different():
    source = DigitScenes(split="test", combinations="heldout")
    scene = next(s for s in (source[i] for i in range(50)) if not s.ground_named)
    others = [source.redrawn(scene, seed) for seed in range(12)]
    assert {s.caption for s in others} == {scene.caption}
    assert len({s.digits for s in others}) > 8
    assert len({s.ground for s in others}) > 1
    test_scans = set(np.concatenate(scans_of("test")).tolist())
    assert all(d.scan in test_scans for s in others for d in s.digits)
    assert all(
        [(d.value, d.colour) for d in s.digits] == [(d.value, d.colour) for d in scene.digits]
        for s in others
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"most": 4}, "most"),
        ({"size": 20}, "size"),
        ({"step": 0}, "step"),
        ({"counts": (1.0,)}, "counts"),
    ],
)
def test_settings_are_checked(settings, named):
    with pytest.raises(InputError, match=named):
        SceneConfig(**settings)
    with pytest.raises(InputError, match="combinations"):
        DigitScenes(combinations="some")  # type: ignore[arg-type]
