"""Rules of acceptance: which guess stays, and what is drawn where none does.

At a node with target law p, guesses x_1, x_2, ... are tried in turn. `Match` draws from p and looks
whether a guess was it. `Strict` (Leviathan et al., arXiv 2211.17192; for siblings, SpecInfer,
arXiv 2305.09781, with guesses drawn without replacement) tests p(x) / q(x). Both keep the law p;
`Relaxed` (LANTERN, arXiv 2410.03355) does not. At temperature 0 laws are certain, and `Match` and
`Strict` compare with the arg-max.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from arra.errors import InputError
from arra.samplers.logits import SamplingConfig, untempered
from arra.samplers.speculative.drafts import Drafter
from arra.samplers.speculative.tapes import ScriptedTape, Tape, enumerated

_MOST_ORDERS = 1 << 20
Residual = Literal["paper", "static", "dynamic"]


class Rule(ABC):
    """Decides the unit after a node."""

    lossless: ClassVar[bool] = True
    """Whether what is decided has the target's law, whatever was guessed."""

    def judged(self, config: SamplingConfig) -> SamplingConfig:
        """How the laws are made that it decides by, of how pictures are drawn."""
        return config

    @abstractmethod
    def decide(
        self, p: Tensor, q: Tensor | None, guesses: Sequence[int], tape: Tape, unit: int
    ) -> tuple[int, int]:
        """Which of the guesses stays (-1: none), and the unit.

        `p` (V,) is the target's law, `q` (V,) the law of which the guesses, all different, were
        drawn one after the other without replacement; None: they are given.
        """


class Match(Rule):
    """The unit is drawn from p; a guess that says the same is right.

    No guess is ever taken more often than so where guesses are given, and the picture is the one
    that ancestral sampling draws with the same noise.
    """

    def decide(
        self, p: Tensor, q: Tensor | None, guesses: Sequence[int], tape: Tape, unit: int
    ) -> tuple[int, int]:
        drawn = tape.choose(p, unit)
        return (guesses.index(drawn) if drawn in guesses else -1), drawn


class Strict(Rule):
    """A guess x stays with probability min(1, p(x) / q(x)); after one that does not, p is
    [p - q]_+ normalised, and q without x normalised."""

    def decide(
        self, p: Tensor, q: Tensor | None, guesses: Sequence[int], tape: Tape, unit: int
    ) -> tuple[int, int]:
        for number, guess in enumerate(guesses):
            if tape.accept(self.acceptance(p, q, guess)):
                return number, guess
            p, q = self.rejected(p, q, guess)
        return -1, tape.choose(p, unit)

    def acceptance(self, p: Tensor, q: Tensor | None, guess: int) -> float:
        """Probability that the guess stays."""
        return _ratio(float(p[guess]), q, guess)

    def rejected(self, p: Tensor, q: Tensor | None, guess: int) -> tuple[Tensor, Tensor | None]:
        """The laws of target and guesses after this one was rejected."""
        return _residual(p, _law_of(q, guess, p), p), _without(q, guess)


class Relaxed(Strict):
    """A guess borrows the probability of codes that look like it (LANTERN, section 4).

    Of the neighbours of x by distance as many lend theirs as together have at most `delta`, or,
    where `ratio` is given, (ratio - 1) p(x) (LANTERN++, arXiv 2502.06352). That bounds how far p is
    bent for one guess, not how far the output's law is from p: measure that with `output_law`.
    """

    lossless = False

    def __init__(
        self,
        neighbours: Tensor,
        delta: float = 0.1,
        ratio: float | None = None,
        residual: Residual = "paper",
    ):
        """`neighbours` (V, k) int64 of `nearest`. `residual` "static" and "dynamic" are those of
        the released code, with only the codes that did lend in the place of all k; "dynamic" takes
        every guess as given, whatever it was drawn of."""
        if not 0.0 <= delta <= 1.0:
            raise InputError(f"Relaxed.delta: {delta}, expected 0 to 1")
        if ratio is not None and not 1.0 <= ratio < 1e6:
            raise InputError(f"Relaxed.ratio: {ratio}, expected 1 or more")
        self.neighbours, self.delta, self.ratio = neighbours, delta, ratio
        self.residual = residual

    def lenders(self, p: Tensor, guess: int) -> Tensor:
        """(m,) the codes that lend to the guess: none where delta is 0, or nobody has anything."""
        near = self.neighbours[guess].to(p.device)
        lent = p[near].cumsum(dim=0)
        bound = self.delta if self.ratio is None else (self.ratio - 1.0) * float(p[guess])
        return near[: int((lent <= bound).sum())]

    def bent(self, p: Tensor, guess: int) -> Tensor:
        """(V,) p with the lenders' probability at the guess."""
        lenders = self.lenders(p, guess)
        bent = p.clone()
        bent[lenders] = 0.0
        bent[guess] = p[guess] + p[lenders].sum()
        return bent

    def acceptance(self, p: Tensor, q: Tensor | None, guess: int) -> float:
        return _ratio(float(self.bent(p, guess)[guess]), self._drawn(q), guess)

    def rejected(self, p: Tensor, q: Tensor | None, guess: int) -> tuple[Tensor, Tensor | None]:
        q = self._drawn(q)
        law, rest = _law_of(q, guess, p), _without(q, guess)
        if self.residual == "paper":
            return _residual(self.bent(p, guess), law, p), rest
        gone = self.lenders(p, guess)
        if self.residual == "static":
            law = law.clone()
            law[gone] = 0.0
            return _residual(p, law, p), rest
        law = torch.zeros_like(p)
        law[gone], law[guess] = 1.0, 1.0
        return _residual(p, law, p), rest

    def _drawn(self, q: Tensor | None) -> Tensor | None:
        return None if self.residual == "dynamic" else q


class RelaxedGreedy(Relaxed):
    """`Relaxed` at temperature 0: a guess stays if with what it borrows it is the likeliest code.

    Laws are those before the arg-max. Lenders keep what they have, and where no guess stays the
    unit is the plain arg-max.
    """

    def judged(self, config: SamplingConfig) -> SamplingConfig:
        return untempered(config)

    def decide(
        self, p: Tensor, q: Tensor | None, guesses: Sequence[int], tape: Tape, unit: int
    ) -> tuple[int, int]:
        for number, guess in enumerate(guesses):
            lent = p.clone()
            lent[guess] += p[self.lenders(p, guess)].sum()
            if int(lent.argmax()) == guess:
                return number, guess
        return -1, int(p.argmax())


def rule_for(drafter: Drafter) -> Rule:
    """The lossless rule that takes the most of what this drafter guesses."""
    return Strict() if drafter.draws else Match()


def nearest(codebook: Tensor, count: int) -> Tensor:
    """(V, count) int64: of every code vector (V, d) the others, by increasing distance.

    Give the vectors that the decoder sees, normalised if it normalises.
    """
    if not 0 <= count < len(codebook):
        raise InputError(f"nearest: {count} neighbours, expected 0 to {len(codebook) - 1}")
    found = []
    for rows in torch.arange(len(codebook), device=codebook.device).split(1024):
        distance = torch.cdist(codebook[rows].double(), codebook.double())
        distance[torch.arange(len(rows)), rows] = float("inf")
        found.append(distance.argsort(dim=1, stable=True)[:, :count])
    return torch.cat(found)


def output_law(rule: Rule, p: Tensor, q: Tensor | None, guesses: int | Sequence[int] = 1) -> Tensor:
    """(V,) the law of the unit that the rule decides, exactly, where so many guesses are drawn of
    `q` without replacement, or where these are given: how far from p it is says how far a rule is
    from lossless. `InputError` where there are too many orders of guesses to try them all."""
    found = torch.zeros_like(p)
    if isinstance(guesses, int) and q is not None:
        orders = math.perm(int((q > 0).sum()), guesses)
        if orders > _MOST_ORDERS:
            raise InputError(
                f"output_law: {orders} orders of {guesses} guesses, expected at most "
                f"{_MOST_ORDERS}; ask for fewer guesses"
            )

    def run(tape: ScriptedTape) -> None:
        whole = _Undrawn(tape)
        if isinstance(guesses, int):
            tried = [] if q is None else without_replacement(q, guesses, whole)
        else:
            tried = list(guesses)
        unit = rule.decide(p, q, tried, whole, 0)[1]
        if whole.law is None:
            found[unit] += tape.weight
        else:
            found.add_(whole.law, alpha=tape.weight)

    enumerated(run)
    return found


class _Undrawn:
    """A tape of which all is decided but the unit: its law says enough."""

    def __init__(self, tape: ScriptedTape):
        self.accept, self.guess = tape.accept, tape.guess
        self.law: Tensor | None = None

    def choose(self, law: Tensor, unit: int) -> int:
        self.law = law
        return 0


def without_replacement(law: Tensor, count: int, tape: Tape) -> list[int]:
    """Up to `count` different guesses of a law (V,), drawn as rules expect them."""
    drawn: list[int] = []
    for _ in range(min(count, int((law > 0).sum()))):
        drawn.append(tape.guess(law))
        rest = _without(law, drawn[-1])
        assert rest is not None
        law = rest
    return drawn


def _ratio(p: float, q: Tensor | None, guess: int) -> float:
    law = 1.0 if q is None else float(q[guess])
    return min(1.0, p / law) if law > 0.0 else 1.0


def _law_of(q: Tensor | None, guess: int, like: Tensor) -> Tensor:
    """(V,) q; of a guess that is given the law that is certain of it."""
    if q is not None:
        return q
    certain = torch.zeros_like(like)
    certain[guess] = 1.0
    return certain


def _residual(p: Tensor, q: Tensor, otherwise: Tensor) -> Tensor:
    """[p - q]_+ normalised; `otherwise` where rounding left nothing (p = q is never rejected)."""
    rest = (p - q).clamp(min=0.0)
    total = rest.sum()
    return rest / total if float(total) > 0.0 else otherwise


def _without(q: Tensor | None, guess: int) -> Tensor | None:
    """q without a guess, normalised; zeros where nothing else could be guessed."""
    if q is None:
        return None
    rest = q.clone()
    rest[guess] = 0.0
    total = rest.sum()
    return rest / total if float(total) > 0.0 else rest
