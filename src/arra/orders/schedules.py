"""Which scales a picture is drawn in, where that may differ from picture to picture.

As in FlexVAR (arXiv 2502.20313, section 3.3 and released code): training draws schedules at random,
inference may ask for any. A schedule is a growing list of sides; the last is that of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from arra.errors import InputError

Scales = tuple[tuple[int, int], ...]

DEFAULT = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""VAR's sides of a grid of 16 x 16."""
STEPS: dict[int, tuple[int, ...]] = {
    6: (1, 2, 4, 6, 10, 16),
    8: (1, 2, 3, 5, 7, 10, 13, 16),
    9: (1, 2, 3, 4, 5, 7, 10, 13, 16),
    10: DEFAULT,
    11: (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 16),
    12: (*range(1, 9), 10, 12, 14, 16),
    13: (*range(1, 11), 12, 14, 16),
    14: (*range(1, 13), 14, 16),
}
"""FlexVAR's schedules of 16 x 16 by their number of passes."""


def fitted(sides: Sequence[int], grid: tuple[int, int]) -> Scales:
    """Rows and columns of each scale of a picture of `grid`, at least 1 each.

    The last of `sides` stands for the whole grid: scale s has floor(rows s / last) rows, so that
    all scales have the picture's aspect ratio as nearly as whole cells allow.
    """
    if not sides or any(b <= a for a, b in zip((0, *sides), sides, strict=False)):
        raise InputError(f"schedule: {tuple(sides)}, expected growing sides from 1 on")
    if min(grid) < 1:
        raise InputError(f"grid: {grid}, expected at least 1 row and column")
    last = sides[-1]
    return tuple((max(1, grid[0] * s // last), max(1, grid[1] * s // last)) for s in sides)


def every_scale(grid: tuple[int, int]) -> Scales:
    """All scales that schedules of this grid choose from: one for each side up to the longer."""
    return fitted(range(1, max(grid) + 1), grid)


@dataclass(frozen=True)
class RandomSchedules:
    """The law of training's schedules; the defaults are those of FlexVAR's code, for 16 x 16.

    The paper's text differs: each step is left out with probability 0.05, at most four are.
    """

    default: tuple[int, ...] = DEFAULT
    """Sides that some draws start from; the last is that of the picture."""
    default_share: float = 0.05
    """The probability of that."""
    first: tuple[int, ...] = (1, 2)
    """Sides that every schedule begins with."""
    groups: tuple[tuple[int, int, int], ...] = ((3, 10, 5), (11, 15, 2))
    """(from, to, count): so many different sides from each range, ends included."""
    omit: tuple[float, ...] = (0.9, 0.95, 0.98, 0.99)
    """One interior side is left out for each of these that one uniform number exceeds."""
    most_cells: int = 680
    """While a schedule has more cells, one of its last four sides is left out."""
    keep_last: bool = False
    """Whether that spares the picture's own side; the released code does not spare it."""

    def __post_init__(self) -> None:
        sides = [*self.first]
        for low, high, count in self.groups:
            if not (sides[-1] if sides else 0) < low <= high or not 0 < count <= high - low + 1:
                raise InputError(
                    f"RandomSchedules.groups: {(low, high, count)}, expected growing ranges that "
                    "hold so many sides"
                )
            sides.append(high)
        fitted([*sides, self.default[-1]], (1, 1))  # grow
        fitted(self.default, (1, 1))
        if self.most_cells < self.default[-1] ** 2 + sum(side**2 for side in self.first):
            raise InputError(
                f"RandomSchedules.most_cells: {self.most_cells}, which not even "
                f"{(*self.first, self.default[-1])} has"
            )

    @classmethod
    def of_side(cls, side: int) -> RandomSchedules:
        """The paper's law where the picture has 16 rows, and one like it for other sides of at
        least 4: half of the sides between, the picture's own always there."""
        if side == DEFAULT[-1]:
            return cls()
        if side < 4:
            raise InputError(f"schedules of side {side}: expected at least 4, to choose from")
        between = max(1, (side - 3) // 2)
        default = tuple(2**n for n in range(side.bit_length()) if 2**n < side)
        return cls(
            (*default, side),
            groups=((3, side - 1, between),),
            most_cells=side * side * side,
            keep_last=True,
        )

    def draw(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Growing sides."""
        if rng.random() < self.default_share:
            sides = list(self.default)
        else:
            sides = list(self.first)
            for low, high, count in self.groups:
                chosen = rng.choice(np.arange(low, high + 1), size=count, replace=False)
                sides += sorted(int(side) for side in chosen)
            sides.append(self.default[-1])
        number = rng.random()
        for limit in self.omit:
            if number > limit and len(sides) > len(self.first) + 1:
                sides.pop(int(rng.integers(len(self.first), len(sides) - 1)))
        while sum(side**2 for side in sides) > self.most_cells:
            last = len(sides) - 1 if self.keep_last else len(sides)
            sides.pop(int(rng.integers(max(len(self.first), len(sides) - 4), last)))
        return tuple(sides)
