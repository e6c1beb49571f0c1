"""What drafters and the sampler pass to each other: pictures that are being drawn, and drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from arra.errors import InputError
from arra.samplers.logits import SamplingConfig
from arra.samplers.speculative.tapes import Tape


@dataclass(frozen=True)
class Budget:
    """How much may be drafted for one pass of the target."""

    nodes: int = 16
    """Nodes of the tree at most."""
    depth: int = 16
    """Nodes of its longest path at most."""

    def __post_init__(self) -> None:
        for name in ("nodes", "depth"):
            if (value := getattr(self, name)) < 0:
                raise InputError(f"Budget.{name}: {value}, expected 0 or more")

    def within(self, units: int) -> Budget:
        """The same where so many units are left to draw: a pass draws one that nobody drafted."""
        return Budget(self.nodes, min(self.depth, max(units - 1, 0)))


@dataclass
class Picture:
    """One picture (a text, a series) of which some units are drawn."""

    prompt: Sequence[int]
    """What was read before the first unit."""
    caption: str | None
    """The same in words."""
    tape: Tape
    """Its random numbers."""
    codes: list[int] = field(default_factory=list)
    """Units drawn or given, in their order."""
    pending: list[int] = field(default_factory=list)
    """The last of them, which the target has not read yet: at least one."""
    state: Any = None
    """What the drafter remembers of it."""


@dataclass(frozen=True)
class Draft:
    """A tree of guesses what comes after a picture's last unit."""

    tokens: Sequence[int] = ()
    """The guess at every node."""
    parents: Sequence[int] = ()
    """`parents[i]` < i, -1 where node i comes right after the last unit."""
    laws: Tensor | None = None
    """(n + 1, V): row i + 1 is the law that node i's children were drawn from, one after the other
    and without replacement; row 0 that of the first ones. None: guesses that nobody drew."""
    payload: Any = None
    """Whatever else the rule needs, such as the noise of continuous tokens."""

    def __len__(self) -> int:
        return len(self.tokens)

    def children(self, node: int) -> list[int]:
        """The nodes right after `node` (-1: after the last unit), in the order of drafting."""
        return [i for i, parent in enumerate(self.parents) if parent == node]

    def check(self, budget: Budget) -> None:
        """`InputError` unless this is a tree of different siblings within the budget."""
        depths: list[int] = []
        for node, parent in enumerate(self.parents):
            if not -1 <= parent < node:
                raise InputError(f"draft: parent of node {node} is {parent}, expected -1 or before")
            depths.append(1 if parent < 0 else depths[parent] + 1)
        pairs = set(zip(self.parents, self.tokens, strict=True))
        if len(pairs) != len(self.tokens):
            raise InputError("draft: siblings are alike, expected each guess once")
        if len(self) > budget.nodes or max(depths, default=0) > budget.depth:
            raise InputError(
                f"draft: {len(self)} nodes of depth {max(depths, default=0)}, expected at most "
                f"{budget.nodes} of depth {budget.depth}"
            )


NO_DRAFT = Draft()


class Drafter(Protocol):
    """Guesses what the target will draw."""

    draws: ClassVar[bool]
    """Whether its guesses are drawn from laws that come with them."""

    def begin(self, pictures: Sequence[Picture], config: SamplingConfig) -> None:
        """A batch begins: pictures of which nothing, or a given beginning, is drawn."""

    def propose(self, pictures: Sequence[Picture], budgets: Sequence[Budget]) -> list[Draft]:
        """A draft for each of those pictures of the batch that are not finished."""
        ...


@runtime_checkable
class ReadsFeatures(Protocol):
    """What a drafter has besides that wants to know what the target's head read."""

    def told(self, pictures: Sequence[Picture], features: Sequence[Tensor]) -> None:
        """After `begin`, and after every pass: features of each of these pictures, (1, n, D), or
        with guidance (2, n, D), those without caption behind the others.

        First there is one, after the prompt; then those at all units that the pass read and the
        picture keeps, so that altogether there is one before each of its units.
        """
        ...
