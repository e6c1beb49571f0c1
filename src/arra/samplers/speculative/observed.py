"""A rule that is looked at while it decides: how far what it decides is from the target's law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from arra.samplers.logits import SamplingConfig
from arra.samplers.speculative.rules import Rule, output_law
from arra.samplers.speculative.tapes import Tape


class Observed(Rule):
    """Decides as another rule does; of every so many decisions the laws are kept."""

    def __init__(self, rule: Rule, every: int, drawn: bool):
        """`drawn`: whether guesses are drawn, one at a node, or given."""
        self.rule, self.every, self.drawn, self.decisions = rule, every, drawn, 0
        self.kept: list[tuple[Tensor, Tensor | None, list[int]]] = []
        """The target's law, the drafter's, and what was guessed."""

    def judged(self, config: SamplingConfig) -> SamplingConfig:
        return self.rule.judged(config)

    def decide(
        self, p: Tensor, q: Tensor | None, guesses: Sequence[int], tape: Tape, unit: int
    ) -> tuple[int, int]:
        if self.decisions % self.every == 0:
            self.kept.append((p.double(), None if q is None else q.double(), list(guesses)))
        self.decisions += 1
        return self.rule.decide(p, q, guesses, tape, unit)

    def variation(self) -> float:
        """Mean over the kept decisions of the total variation between the law of the unit that is
        decided and the target's, exactly; 0 where nothing was guessed."""
        apart = [0.0 if not guesses else self._apart(p, q, guesses) for p, q, guesses in self.kept]
        return float(np.mean(apart)) if apart else 0.0

    def _apart(self, p: Tensor, q: Tensor | None, guesses: list[int]) -> float:
        # over all guesses that might have been drawn, or of these
        decided = output_law(self.rule, p, q, len(guesses) if self.drawn else guesses)
        return 0.5 * float((decided - p).abs().sum())
