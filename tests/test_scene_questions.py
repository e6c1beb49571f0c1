"""Questions about digit scenes have one answer, and captions are true or not by the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arra.data.scene_captions import is_true, read_caption
from arra.data.scene_questions import questions, some_questions
from arra.data.scenes import (
    GROUNDS,
    INKS,
    OPPOSITE,
    RELATIONS,
    WORDS,
    DigitScenes,
    SceneConfig,
    draw,
)
from arra.metrics.prompts import corrupted

MANY = (0.1, 0.3, 0.6)
VOCABULARY = ("a", "and", "the", "one", "other", ",", "on", "which is", "3", "two")
VOCABULARY += (*RELATIONS, *INKS, *GROUNDS)
# a canvas with room for three in a row, and one where digits stand out of line
CONFIGS = [SceneConfig(size=36, counts=MANY), SceneConfig(step=4, counts=MANY)]
SCENES = st.builds(
    lambda config, seed, index: (config, DigitScenes(config, seed=seed).prompt(index)),
    st.sampled_from(CONFIGS),
    st.integers(0, 50),
    st.integers(0, 5000),
)


def beside(kind, a, b, config):
    """Whether `a` stands `kind` `b`, from the pixels of their squares."""
    if kind in ("right of", "below"):
        return beside(OPPOSITE[kind], b, a, config)
    (along, across) = ("column", "row") if kind == "left of" else ("row", "column")
    return getattr(a, along) + config.digit <= getattr(b, along) and (
        abs(getattr(a, across) - getattr(b, across)) <= min(config.step, config.digit // 3)
    )


def every_answer(question, scene, config):
    """All answers that fit, read as a person reads the question."""
    words, digits = question.split(), scene.digits
    if question == "how many digits ?":
        return [WORDS[len(digits)]]
    if question == "what is the ground ?":
        return [scene.ground]
    if words[:4] == ["what", "colour", "is", "the"]:
        return [d.colour for d in digits if WORDS[d.value] == words[4]]
    if words[:3] == ["which", "digit", "is"]:
        return [WORDS[d.value] for d in digits if d.colour == words[3]]
    assert words[:2] == ["what", "stands"], question
    kind = next(k for k in RELATIONS if question.startswith(f"what stands {k} the "))
    (anchor,) = [d for d in digits if [d.colour, WORDS[d.value], "?"] == words[-3:]]
    there = [d for d in digits if d is not anchor and beside(kind, d, anchor, config)]
    return [f"a {d.colour} {WORDS[d.value]}" for d in there]


@settings(max_examples=150, deadline=None)
@given(SCENES)
def test_every_question_has_one_answer_and_it_is_the_truth(found):
    config, scene = found
    asked = questions(scene, config)
    for one in asked:
        assert every_answer(one.question, scene, config) == [one.answer], scene
    assert len({one.question for one in asked}) == len(asked) >= 3


def test_what_has_two_answers_is_not_asked():
    config = SceneConfig(counts=(0.0, 0.0, 1.0))
    scenes = [DigitScenes(config).prompt(i) for i in range(300)]
    doubled = 0
    for scene in scenes:
        asked = {one.question for one in questions(scene, config)}
        for digit in scene.digits:
            alike = [d for d in scene.digits if d.value == digit.value]
            assert (f"what colour is the {WORDS[digit.value]} ?" in asked) == (len(alike) == 1)
            doubled += len(alike) > 1
    assert doubled


def test_all_kinds_are_asked_and_some_are_a_function_of_the_seed():
    config = SceneConfig(counts=MANY)
    scenes = [DigitScenes(config).prompt(i) for i in range(100)]
    kinds = {one.question.split()[1] for s in scenes for one in some_questions(s, config, 4, (1,))}
    assert kinds == {"many", "is", "colour", "digit", "stands"}
    for scene in scenes:
        chosen = some_questions(scene, config, 4, (7, 3))
        assert chosen == some_questions(scene, config, 4, (7, 3))
        assert set(chosen) <= set(questions(scene, config))
        assert len(chosen) == 4
    different = [some_questions(scenes[0], config, 2, (seed,)) for seed in range(20)]
    assert len(set(different)) > 1
    assert some_questions(scenes[0], config, 0, (1,)) == ()


@settings(max_examples=150, deadline=None)
@given(SCENES)
def test_captions_of_the_generator_are_read_and_true(found):
    config, scene = found
    said = read_caption(scene.caption)
    assert said is not None
    assert sorted(said.digits) == sorted((d.value, d.colour) for d in scene.digits)
    assert len(said.relations) == len(scene.relations)
    assert said.ground == (scene.ground if scene.ground_named else None)
    assert is_true(scene.caption, scene, config)
    assert is_true(f"  {scene.caption.upper()} ", scene, config)


@settings(max_examples=150, deadline=None)
@given(SCENES, st.sampled_from(["digit", "colour", "relation", "ground"]), st.integers(0, 99))
def test_captions_of_something_else_are_false(found, attribute, seed):
    """One digit, ink, place or named ground changed makes a caption false."""
    config, scene = found
    rng = np.random.default_rng(seed)
    if attribute == "ground":
        other = next(ground for ground in GROUNDS if ground != scene.ground)
        assert is_true(scene.caption, replace(scene, ground=other), config) is (
            not scene.ground_named
        )
    elif attribute == "relation":
        for kind in RELATIONS:
            if kind in scene.caption:
                turned = scene.caption.replace(kind, OPPOSITE[kind])
                assert not is_true(turned, scene, config)
    else:
        wrong = corrupted(scene, attribute, rng)
        assert not is_true(scene.caption, wrong, config)


def pair():
    """A red 3 left of a blue 5 on navy, and what its scene looks like."""
    config = SceneConfig()
    for index in range(5000):
        scene = DigitScenes(config, combinations="all").prompt(index)
        if [r.kind for r in scene.relations] == ["left of"]:
            a, b = scene.digits
            digits = replace(a, value=3, colour="red"), replace(b, value=5, colour="blue")
            return config, replace(scene, digits=digits, ground="navy")
    raise AssertionError


@pytest.mark.parametrize(
    ("said", "true"),
    [
        ("a red 3 left of a blue 5", True),
        ("a blue five right of a red three", True),
        ("a red 3 and a blue 5 , the red one left of the other on navy", True),
        ("a red 3 and a blue 5 , the blue one right of the other", True),
        ("a red 3 and a blue 5 , the blue one left of the other", False),
        ("a red 3 and a blue 5 , the green one left of the other", False),
        ("a red 3 left of a blue 5 on black", False),
        ("a red 3 above a blue 5", False),
        ("a blue 5 left of a red 3", False),
        ("a red 3", False),
        ("a red 3 left of a red 3", False),
        ("a red 3 left of a blue 5 and above a green 1", False),
        ("red 3 left of a blue 5", False),
        ("", False),
        ("a picture of two digits", False),
    ],
)
def test_either_direction_and_an_open_ground_are_true(said, true):
    config, scene = pair()
    assert is_true(said, scene, config) is true


def test_links_say_who_is_meant():
    said = read_caption("a red 3 left of a blue 5 and above a green 1")
    assert [(r.first, r.kind, r.second) for r in said.relations] == [
        (0, "left of", 1),
        (0, "above", 2),
    ]
    said = read_caption("a red 3 left of a blue 5 which is above a green 1")
    assert (said.relations[1].first, said.relations[1].second) == (1, 2)
    said = read_caption(
        "a red 3 and a blue 5 , the blue one below the other which is above a red 1"
    )
    assert [(r.first, r.second) for r in said.relations] == [(1, 0), (0, 2)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY), max_size=16))
def test_any_words_are_read_or_refused(words):
    """Never an error; what is read has as many relations as further digits."""
    said = read_caption(" ".join(words))
    if said is not None:
        assert len(said.relations) == len(said.digits) - 1
        assert all(r.first != r.second for r in said.relations)


def test_the_picture_is_what_the_answers_are_about():
    """The ground and the number of inks, read from pixels."""
    config = SceneConfig()
    for index in range(20):
        scene = DigitScenes(config)[index]
        by_question = {one.question: one.answer for one in questions(scene, config)}
        ground = by_question["what is the ground ?"]
        assert (draw(scene, config) == np.array(GROUNDS[ground])).all(axis=2).any()
