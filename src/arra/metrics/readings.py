"""What is seen in a picture of a digit scene: the record between the reader and the scores."""

from __future__ import annotations

from dataclasses import dataclass

from arra.data.scenes import Scene


@dataclass(frozen=True)
class ReadDigit:
    """One digit that was read. `row` and `column` are its upper left corner, in pixels."""

    value: int
    colour: str
    row: float
    column: float
    confidence: float = 1.0
    """In [0, 1]: how sure the reader is that a digit stands here."""


@dataclass(frozen=True)
class Reading:
    """Everything that was read in one picture, the surest digit first."""

    digits: tuple[ReadDigit, ...]
    ground: str


def true_reading(scene: Scene) -> Reading:
    """The reading that a perfect reader gives of the true picture of `scene`."""
    digits = tuple(ReadDigit(d.value, d.colour, d.row, d.column) for d in scene.digits)
    return Reading(digits, scene.ground)
