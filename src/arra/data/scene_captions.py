"""What a caption of a digit scene says, and whether it is true of a scene.

The grammar is that of `arra.data.scenes`: digits, how the first two stand to each other, how a
third stands to one of them, and the ground or not. One scene has many true captions, for the ground
may be left open, and "a left of b" is "b right of a".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from arra.data.scenes import GROUNDS, INKS, RELATIONS, WORDS, Relation, Scene, SceneConfig, holds

_NUMBERS = {name: value for value, word in enumerate(WORDS) for name in (word, str(value))}
_INK, _KIND = f"({'|'.join(INKS)})", f"({'|'.join(RELATIONS)})"
_DIGIT = rf"a {_INK} ({'|'.join(_NUMBERS)})"
_CAPTION = re.compile(
    rf"{_DIGIT}"
    rf"(?:(?: {_KIND} {_DIGIT}| and {_DIGIT} , the {_INK} one {_KIND} the other)"
    rf"(?: (and|which is) {_KIND} {_DIGIT})?)?"
    rf"(?: on ({'|'.join(GROUNDS)}))?"
)


@dataclass(frozen=True)
class Said:
    """What a caption states."""

    digits: tuple[tuple[int, str], ...]
    """Value and ink of each, in the order of the sentence."""
    relations: tuple[Relation, ...]
    """Between these digits."""
    ground: str | None
    """None where it is left open."""


def read_caption(text: str) -> Said | None:
    """What `text` states; None where it is no sentence of the grammar. Case does not matter."""
    found = _CAPTION.fullmatch(" ".join(text.lower().split()))
    if found is None:
        return None
    parts = found.groups()
    digits = [_digit(*parts[0:2])]
    relations = []
    subject = 0
    if parts[2] is not None:  # a KIND b
        digits.append(_digit(*parts[3:5]))
        relations.append(Relation(0, parts[2], 1))
    elif parts[5] is not None:  # a and b , the INK one KIND the other
        digits.append(_digit(*parts[5:7]))
        inks = [ink for _, ink in digits]
        if inks.count(parts[7]) != 1:
            return None  # which one is not said
        subject = inks.index(parts[7])
        relations.append(Relation(subject, parts[8], 1 - subject))
    if parts[9] is not None:
        digits.append(_digit(*parts[11:13]))
        # "and" goes on about the digit that the sentence is about, "which" about the one just named
        relations.append(Relation(subject if parts[9] == "and" else 1 - subject, parts[10], 2))
    return Said(tuple(digits), tuple(relations), parts[13])


def _digit(ink: str, name: str) -> tuple[int, str]:
    return _NUMBERS[name], ink


def is_true(text: str, scene: Scene, config: SceneConfig) -> bool:
    """Whether a caption names every digit of a scene and no other, and whatever else it says (where
    they stand, the ground) is so."""
    said = read_caption(text)
    if said is None:
        return False
    corners = {(d.value, d.colour): (d.row, d.column) for d in scene.digits}
    if len(said.digits) != len(corners) or set(said.digits) != corners.keys():
        return False
    placed = [corners[digit] for digit in said.digits]
    return said.ground in (None, scene.ground) and all(
        holds(r.kind, placed[r.first], placed[r.second], config) for r in said.relations
    )
