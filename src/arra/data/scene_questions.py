"""Questions about digit scenes, with answers that the truth gives and no second answer that fits.

A pure function of the scene: "how many digits ?", "what is the ground ?", "what colour is the
three ?", "which digit is blue ?", "what stands left of the red three ?". Digits are named in words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from arra.data.rows import Question
from arra.data.scenes import RELATIONS, WORDS, Scene, SceneConfig, SceneDigit, holds


def questions(scene: Scene, config: SceneConfig) -> tuple[Question, ...]:
    """All questions that have exactly one answer, in a fixed order."""
    digits = scene.digits
    found = [
        Question("how many digits ?", WORDS[len(digits)]),
        Question("what is the ground ?", scene.ground),
    ]
    for digit in digits:
        if sum(other.value == digit.value for other in digits) == 1:
            asked = f"what colour is the {WORDS[digit.value]} ?"
            found.append(Question(asked, digit.colour))
        if sum(other.colour == digit.colour for other in digits) == 1:
            found.append(Question(f"which digit is {digit.colour} ?", WORDS[digit.value]))
    for digit in digits:
        for kind in RELATIONS:
            there = _standing(kind, digit, digits, config)
            if len(there) == 1:
                asked = f"what stands {kind} the {_name(digit)} ?"
                found.append(Question(asked, f"a {_name(there[0])}"))
    return tuple(found)


def some_questions(
    scene: Scene, config: SceneConfig, count: int, seed: Sequence[int]
) -> tuple[Question, ...]:
    """At most `count` different ones of `questions`, chosen by chance: a function of the seed."""
    everything = questions(scene, config)
    order = np.random.default_rng(list(seed)).permutation(len(everything))[:count]
    return tuple(everything[number] for number in sorted(order.tolist()))


def _standing(
    kind: str, digit: SceneDigit, digits: Sequence[SceneDigit], config: SceneConfig
) -> list[SceneDigit]:
    """The digits that stand `kind` this one, as captions mean it."""
    here = digit.row, digit.column
    others = (other for other in digits if other is not digit)
    return [other for other in others if holds(kind, (other.row, other.column), here, config)]


def _name(digit: SceneDigit) -> str:
    return f"{digit.colour} {WORDS[digit.value]}"
