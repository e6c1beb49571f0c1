"""Every random decision of speculative decoding goes through a tape.

The loop asks for decisions and not for numbers: so noise comes from outside, a picture's decisions
are those of its seed, and a tape that takes every decision both ways enumerates the output law of
the very loop that draws.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from arra.samplers.noise import PictureNoise, draw

T = TypeVar("T", bound=Hashable)


class Tape(Protocol):
    """The decisions of one picture."""

    def accept(self, probability: float) -> bool:
        """Yes with this probability."""
        ...

    def choose(self, law: Tensor, unit: int) -> int:
        """Unit number `unit` drawn from its law (V,); asked for at most once for each unit, in
        their order."""
        ...

    def guess(self, law: Tensor) -> int:
        """A drafter's guess, drawn from its law (V,); independent of all units."""
        ...


class PictureTape:
    """The decisions of a seed.

    What `choose` gives for a unit is what ancestral sampling with this seed draws of the same law.
    """

    def __init__(self, seed: int, units: int, width: int, device: torch.device):
        self._races = PictureNoise([seed]).ahead(units, width, device)
        self._next, self._width, self._device = 0, width, device
        # streams of their own, so that tests and guesses leave the units' noise alone
        self._tests = random.Random(f"{seed} tests")
        guesses = random.Random(f"{seed} guesses").getrandbits(62)
        self._guesses = torch.Generator().manual_seed(guesses)

    def accept(self, probability: float) -> bool:
        return self._tests.random() < probability

    def choose(self, law: Tensor, unit: int) -> int:
        for _ in range(self._next, unit):
            next(self._races)
        self._next = unit + 1
        return int(draw(law[None], next(self._races).to(law.dtype)))

    def guess(self, law: Tensor) -> int:
        race = torch.empty(law.shape[-1]).exponential_(generator=self._guesses)
        return int(draw(law, race.to(law.device, law.dtype)))


class ScriptedTape:
    """Decisions that are given: their numbers in order, then always the first possible one."""

    def __init__(self, script: tuple[int, ...] = ()):
        self.script = script
        self.weight = 1.0
        """Probability of all decisions so far."""
        self.taken: list[int] = []
        """Their numbers."""
        self.others: list[list[int]] = []
        """Of each, the possible ones with larger numbers."""

    def _decide(self, chances: list[float]) -> int:
        possible = [number for number, chance in enumerate(chances) if chance > 0.0]
        step = len(self.taken)
        number = self.script[step] if step < len(self.script) else possible[0]
        self.weight *= chances[number]
        self.taken.append(number)
        self.others.append([other for other in possible if other > number])
        return number

    def accept(self, probability: float) -> bool:
        return self._decide([1.0 - probability, probability]) == 1

    def choose(self, law: Tensor, unit: int) -> int:
        return self._decide(law.tolist())

    def guess(self, law: Tensor) -> int:
        return self._decide(law.tolist())


def enumerated(run: Callable[[ScriptedTape], T]) -> dict[T, float]:
    """The law of what `run` returns, exactly: it is run once for every sequence of decisions."""
    found: dict[T, float] = {}
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        script = scripts.pop()
        tape = ScriptedTape(script)
        result = run(tape)
        found[result] = found.get(result, 0.0) + tape.weight
        # what was decided beyond the script took the first way: the other ways are still to go
        for step in range(len(script), len(tape.taken)):
            before = tuple(tape.taken[:step])
            scripts += [(*before, other) for other in tape.others[step]]
    return found
