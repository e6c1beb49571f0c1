"""Which slots of a cache are taken: join, leave, and close the gaps.

Flover (arXiv 2305.13484) keeps the rows that are drawn in one dense range of slots, so that one
pass over the range computes all of them, whatever step each is at.
"""

from __future__ import annotations

from arra.errors import InputError


class SlotTable:
    """`slots` places, of which some are taken. The taken ones lie in a range, perhaps with gaps."""

    def __init__(self, slots: int):
        if slots < 1:
            raise InputError(f"SlotTable.slots: {slots}, expected 1 or more")
        self._taken = [False] * slots
        self._first = self._end = 0

    def __len__(self) -> int:
        return len(self._taken)

    @property
    def free(self) -> int:
        """How many slots can be joined."""
        return self._taken.count(False)

    @property
    def range(self) -> range:
        """The smallest range that holds all taken slots."""
        return range(self._first, self._end)

    @property
    def taken(self) -> list[int]:
        """The taken slots, in order."""
        return [slot for slot in self.range if self._taken[slot]]

    @property
    def gaps(self) -> list[int]:
        """Slots within the range that are not taken."""
        return [slot for slot in self.range if not self._taken[slot]]

    def join(self) -> int:
        """Take a slot: the first gap, else the one behind the range, else the one before it."""
        if not self.free:
            raise InputError(f"SlotTable.join: all {len(self)} slots are taken")
        gaps = self.gaps
        if gaps:
            slot = gaps[0]
        elif self._end < len(self):
            slot = self._end
        else:
            slot = self._first - 1
        self._taken[slot] = True
        self._shrink(min(slot, self._first), max(slot + 1, self._end))
        return slot

    def leave(self, slot: int) -> None:
        """Give a slot back."""
        if not (0 <= slot < len(self) and self._taken[slot]):
            raise InputError(f"SlotTable.leave: slot {slot} is not taken")
        self._taken[slot] = False
        self._shrink(self._first, self._end)

    def compact(self) -> dict[int, int]:
        """Close all gaps by as few moves as can be; where each slot that moves goes to.

        Of all windows as long as there are taken slots the first that holds most of them stays; the
        others move into its gaps, in order.
        """
        count, slots = sum(self._taken), len(self)
        inside = best = sum(self._taken[:count])
        start = 0
        for first in range(1, slots - count + 1):
            inside += self._taken[first + count - 1] - self._taken[first - 1]
            if inside > best:
                best, start = inside, first
        window = range(start, start + count)
        outside = [slot for slot in self.taken if slot not in window]
        moves = dict(zip(outside, (s for s in window if not self._taken[s]), strict=True))
        for old, new in moves.items():
            self._taken[old], self._taken[new] = False, True
        self._shrink(0, slots)
        return moves

    def _shrink(self, first: int, end: int) -> None:
        """The range, from within `first` to `end`, without free slots at its ends."""
        while end > first and not self._taken[end - 1]:
            end -= 1
        while first < end and not self._taken[first]:
            first += 1
        self._first, self._end = (first, end) if end > first else (0, 0)
