"""Prompt accuracy on scenes made by hand, and on true scenes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from arra.data.scenes import DigitScenes, Relation, Scene, SceneConfig, SceneDigit
from arra.errors import InputError
from arra.metrics.prompts import (
    ATTRIBUTES,
    PromptScores,
    ReaderError,
    chance_level,
    corrupted,
    prompt_accuracy,
    reader_error,
    relation_holds,
    shuffled_control,
)
from arra.metrics.readings import ReadDigit, Reading, true_reading

CONFIG = SceneConfig()


def _scene(*digits: tuple[int, str], kind: str = "left of", named: bool = True) -> Scene:
    placed = tuple(SceneDigit(v, c, 0, 12 * i) for i, (v, c) in enumerate(digits))
    relations = (Relation(0, kind, 1),) if len(digits) > 1 else ()
    return Scene("", placed, relations, "navy", named)


def _reading(*digits: tuple[int, str, float, float], ground: str = "navy") -> Reading:
    return Reading(tuple(ReadDigit(*d) for d in digits), ground)


def _score(reading: Reading, scene: Scene) -> dict[str, float]:
    return prompt_accuracy([reading], [scene]).values()


PAIR = _scene((3, "red"), (5, "blue"))


def test_a_perfect_reading_in_either_order() -> None:
    digits = [(3, "red", 0.0, 0.0), (5, "blue", 1.0, 12.5)]
    for order in (digits, digits[::-1]):
        assert set(_score(_reading(*order), PAIR).values()) == {1.0}


def test_swapped_inks_are_wrong_in_ink_or_digit_but_not_both() -> None:
    got = _score(_reading((3, "blue", 0, 0), (5, "red", 0, 12)), PAIR)
    # both assignments get two of four attributes; the one in which the relation holds is taken
    assert got == pytest.approx(
        {"digit": 1, "colour": 0, "count": 1, "relation": 1, "ground": 1, "all": 0}
    )


def test_swapped_places_fail_the_relation_only() -> None:
    got = _score(_reading((5, "blue", 0, 0), (3, "red", 0, 12)), PAIR)
    assert got == {"digit": 1, "colour": 1, "count": 1, "relation": 0, "ground": 1, "all": 0}


def test_a_missing_digit_costs_its_attributes_and_the_relation() -> None:
    got = _score(_reading((5, "blue", 0, 12)), PAIR)
    assert got == {"digit": 0.5, "colour": 0.5, "count": 0, "relation": 0, "ground": 1, "all": 0}
    nothing = _score(_reading(), PAIR)
    assert nothing == {"digit": 0, "colour": 0, "count": 0, "relation": 0, "ground": 1, "all": 0}


def test_a_superfluous_digit_costs_the_whole() -> None:
    got = _score(_reading((8, "white", 12, 0), (3, "red", 0, 0), (5, "blue", 0, 12)), PAIR)
    assert got == {"digit": 1, "colour": 1, "count": 0, "relation": 1, "ground": 1, "all": 0}


def test_the_same_ink_twice_is_matched_by_digit() -> None:
    scene = _scene((3, "red"), (5, "red"))
    assert _score(_reading((5, "red", 0, 12), (3, "red", 0, 0)), scene)["all"] == 1
    wrong = _score(_reading((5, "red", 0, 0), (3, "red", 0, 12)), scene)
    assert (wrong["digit"], wrong["colour"], wrong["relation"]) == (1, 1, 0)


def test_relations_break_ties_but_never_buy_a_wrong_digit() -> None:
    scene = _scene((3, "red"), (3, "blue"))
    # Exchanging the two would make the relation hold, at the price of both inks.
    got = _score(_reading((3, "blue", 0, 0), (3, "red", 0, 12)), scene)
    assert (got["digit"], got["colour"], got["relation"]) == (1, 1, 0)
    # Two equal readings: of the two assignments that are as good, the relation decides.
    twins = _reading((7, "red", 0, 12), (7, "red", 0, 0))
    assert _score(twins, scene)["relation"] == 1


def test_grounds_and_relations_count_only_where_they_are_asked() -> None:
    single = _scene((3, "red"), named=False)
    got = _score(_reading((3, "red", 4, 4), ground="black"), single)
    assert got["all"] == 1
    assert math.isnan(got["ground"])
    assert math.isnan(got["relation"])
    named = _score(_reading((3, "red", 4, 4), ground="black"), _scene((3, "red")))
    assert (named["ground"], named["all"]) == (0, 0)


@pytest.mark.parametrize("kind", ["left of", "right of", "above", "below"])
def test_relations_need_clear_places(kind: str) -> None:
    down, across = {"left of": (0, 1), "right of": (0, -1), "above": (1, 0), "below": (-1, 0)}[kind]

    def holds(along: float, beside: float) -> bool:
        first = ReadDigit(1, "red", 20.0, 20.0)
        second = ReadDigit(
            2, "red", 20 + down * along + across * beside, 20 + across * along + down * beside
        )
        return relation_holds(kind, first, second, CONFIG)

    assert holds(12, 0)
    assert holds(10.5, 5.5)
    assert not holds(9.5, 0)
    assert not holds(12, 6.5)
    assert not holds(12, -6.5)
    assert not holds(-12, 0)


def test_truth_scores_one_and_every_falsified_attribute_zero() -> None:
    rng = np.random.default_rng(0)
    scenes = [DigitScenes(split="test").prompt(i) for i in range(150)]
    readings = [true_reading(scene) for scene in scenes]
    scores = prompt_accuracy(readings, scenes)
    assert set(scores.values().values()) == {1.0}
    assert set(scores.values()) == set(ATTRIBUTES)
    for attribute in ("digit", "colour", "count", "relation", "ground"):
        wrong = [corrupted(scene, attribute, rng) for scene in scenes]
        values = prompt_accuracy(readings, wrong).values()
        if attribute != "relation":  # an opposite relation can be met by no other matching here
            assert values[attribute] == 0.0
        assert values[attribute] < 0.02
    measured = scores.measured("truth", rng)
    assert measured["all"].n == 150
    bounds = measured["all"].interval
    assert bounds is not None
    assert bounds.low == pytest.approx(0.025 ** (1 / 150))  # 150 of 150 does not prove 100 %
    assert bounds.high == 1.0
    half = prompt_accuracy([*readings[:75], *[_reading()] * 75], scenes).measured("half", rng)
    assert half["all"].interval is not None
    assert 0.4 < half["all"].interval.low < 0.5 < half["all"].interval.high < 0.6
    assert measured["ground"].n == sum(scene.ground_named for scene in scenes)


def test_shuffled_control_is_near_chance() -> None:
    rng = np.random.default_rng(1)
    scenes = [DigitScenes(split="test").prompt(i) for i in range(600)]
    readings = [true_reading(scene) for scene in scenes]
    shuffled, chance = shuffled_control(readings, scenes, rng), chance_level(scenes, rng)
    for attribute, value in shuffled.values().items():
        assert value == pytest.approx(chance.values()[attribute], abs=0.07)
    assert shuffled.all.value < 0.02
    assert 0.08 < shuffled.digit.value < 0.3
    assert 0.25 < shuffled.ground.value < 0.42
    with pytest.raises(InputError, match="at least two"):
        shuffled_control(readings[:1], scenes[:1], rng)
    with pytest.raises(InputError, match="600 readings for 599 prompts"):
        prompt_accuracy(readings, scenes[:-1])


class _Careless:
    """Reads the truth, but takes a share of the digits for the next one."""

    def __init__(self, share: float, scenes: DigitScenes):
        self.share, self.scenes = share, scenes

    def read(self, pictures: np.ndarray) -> list[Reading]:
        rng = np.random.default_rng(5)
        out = []
        for index in range(len(pictures)):
            truth = true_reading(self.scenes.prompt(index))
            digits = tuple(
                replace(d, value=(d.value + (rng.random() < self.share)) % 10) for d in truth.digits
            )
            out.append(Reading(digits, truth.ground))
        return out


def test_the_readers_error_is_measured_and_corrected_for() -> None:
    rng = np.random.default_rng(2)
    scenes = DigitScenes(split="test", seed=3, combinations="all")
    error = reader_error(_Careless(0.2, scenes), rng, count=300, seed=3)
    true = error.scores.values()
    assert true["digit"] == pytest.approx(0.8, abs=0.05)
    assert true["colour"] == 1.0
    assert error.false_positive["digit"] == pytest.approx(0.2 / 9, abs=0.03)
    assert error.false_positive["colour"] == 0.0
    # A generator that draws 60 % of the digits right is read as 0.6 t + 0.4 f.
    read = 0.6 * true["digit"] + 0.4 * error.false_positive["digit"]
    assert error.corrected("digit", read) == pytest.approx(0.6)
    assert error.corrected("digit", 1.0) == 1.0
    blind = ReaderError(error.scores, {**error.false_positive, "digit": 0.9}, 300)
    assert math.isnan(blind.corrected("digit", 0.5))
    assert isinstance(error.scores, PromptScores)
