"""A rule that is looked at while it decides: how far what it decides is from the target's law."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from arra.samplers.logits import SamplingConfig
from arra.samplers.speculative.rules import Rule, output_law
from arra.samplers.speculative.tapes import Tape


class Observed(Rule):
    """Decides as another rule does; of every so many decisions the laws are kept."""

    def __init__(self, rule: Rule, every: int = 1):
        self.rule, self.every, self.decisions = rule, every, 0
        self.laws: list[tuple[Tensor, Tensor | None]] = []
        """The target's, and the drafter's; None where nothing was guessed, or guesses are given."""

    def judged(self, config: SamplingConfig) -> SamplingConfig:
        return self.rule.judged(config)

    def decide(
        self, p: Tensor, q: Tensor | None, guesses: Sequence[int], tape: Tape, unit: int
    ) -> tuple[int, int]:
        if self.decisions % self.every == 0:
            self.laws.append((p, q if guesses else None))
        self.decisions += 1
        return self.rule.decide(p, q, guesses, tape, unit)

    def variation(self) -> float:
        """Mean over the kept decisions of the total variation between the law of the unit that is
        decided, where one guess is drawn of the drafter's law, and the target's, exactly; 0 where
        nothing was guessed."""
        apart = [
            0.0
            if q is None
            else float(output_law(self.rule, p.double(), q.double()).sub(p).abs().sum()) / 2
            for p, q in self.laws
        ]
        return float(torch.tensor(apart).mean()) if apart else 0.0
