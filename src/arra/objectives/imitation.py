"""Imitation of sequences: the model's own texts, not only its next tokens, come to follow the law
of the data (SequenceMatch, arXiv 2306.05426, section 3; after IQ-Learn, Garg et al. 2021).

Text is a state s, the next token or a backspace an action a. Logits l(a|s) are Q-values, so that
V(s) = logsumexp of them, and r = l(a|s) - gamma V(s') is the reward which they imply, with V = 0
after the action that ends. To be maximised is, in sums over the actions of a sequence,

    J = E_data[phi(r)] - 1/2 E_data[V(s) - gamma V(s')] - 1/2 E_model[V(s) - gamma V(s')]

where phi depends on the divergence between data and model. Logits are taken as they are: a constant
that is added to them changes J.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from arra.errors import InputError
from arra.generators.base import DATA, MODEL, Batch, Output
from arra.objectives.base import Objective
from arra.registry import objectives

Divergence = Literal["chi2-mixture", "chi2", "kl", "js"]
_LEAST = -0.5
"""Where phi of the Jensen-Shannon divergence goes on along its tangent: it ends at -log 2."""


@dataclass(frozen=True)
class Ramp:
    """A weight beta that is 0 up to step `start`, then rises to `most` within `steps`."""

    start: int = 0
    steps: int = 0
    most: float = 1.0

    def __post_init__(self) -> None:
        if self.start < 0 or self.steps < 0 or not 0 <= self.most <= 1:
            raise InputError(f"Ramp: {self}; expected steps of at least 0 and a weight of 0 to 1")

    def __call__(self, step: int) -> float:
        """beta at training step `step` (from 0)."""
        if step < self.start:
            return 0.0
        return self.most * min(1.0, (step - self.start + 1) / (self.steps + 1))


@dataclass(frozen=True)
class ImitationConfig:
    """What is to be maximised beside, and then instead of, the likelihood of the data."""

    divergence: Divergence = "chi2-mixture"
    """Of data and model; that of data and their mixture is the paper's best."""
    gamma: float = 1.0
    """Discount of the value of the next state."""
    alpha: float = 0.05
    """Temperature of the divergence: phi(alpha r) / alpha. Large ones smooth the law."""
    ramp: Ramp = field(default_factory=Ramp)
    """The share of J in the loss; the likelihood has the rest."""

    def __post_init__(self) -> None:
        if self.divergence not in get_args(Divergence):
            known = ", ".join(get_args(Divergence))
            raise InputError(
                f"ImitationConfig.divergence: {self.divergence!r}, expected one of {known}"
            )
        for name, holds, expected in (
            ("gamma", 0 < self.gamma <= 1, "above 0 and at most 1"),
            ("alpha", 0 < self.alpha < float("inf"), "a finite number above 0"),
        ):
            if not holds:
                value = getattr(self, name)
                raise InputError(f"ImitationConfig.{name}: {value}, expected {expected}")


def _chi2(x: Tensor) -> Tensor:
    return x - x.square() / 4


def _js(x: Tensor) -> Tensor:
    inside = x.clamp(min=_LEAST)
    at = torch.as_tensor(_LEAST, dtype=x.dtype, device=x.device).neg().exp()
    return torch.log(2 - torch.exp(-inside)) + (x - inside) * at / (2 - at)


PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "chi2-mixture": _chi2,
    "chi2": _chi2,
    "kl": lambda x: x,
    "js": _js,
}
"""By divergence, a concave function with phi(0) = 0 and slope 1 there."""


def follows(batch: Batch) -> Tensor:
    """(M,) bool, of the positions with a target in row-major order: whether the next one of them is
    the state that its target leads to. Otherwise its target ends the sequence."""
    asked = batch.target >= 0
    inside = asked[:, 1:] & (batch.segment[:, 1:] == batch.segment[:, :-1])
    return torch.nn.functional.pad(inside, (0, 1))[asked]


def sources(batch: Batch) -> Tensor:
    """(M,) int64, of the positions with a target: who chose it."""
    asked = batch.target >= 0
    return (
        torch.full_like(batch.target, DATA)[asked] if batch.source is None else batch.source[asked]
    )


class _Imitating(Objective):
    """A mean over the actions of the data, without those that are noise."""

    def __init__(self, config: ImitationConfig | None = None):
        super().__init__()
        self.config = config or ImitationConfig()

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **asdict(self.config)}

    def count(self, batch: Batch) -> int:
        return int((sources(batch) == DATA).sum())


@objectives.register("cloning")
class Cloning(_Imitating):
    """Mean of -log softmax(logits)[target] over what the data chose, with the weight 1 - beta."""

    name = "cloning"

    def weight(self, step: int) -> float:
        return 1.0 - self.config.ramp(step)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        normaliser, chosen = output.scores
        mine = sources(batch) == DATA
        return (normaliser - chosen)[mine].sum() / mine.sum().clamp(min=1)


@objectives.register("imitation")
class Imitation(_Imitating):
    """-J for each action of the data, with the weight beta.

    Of an action that is noise phi is left out, but not V(s) - gamma V(s'): the state that it leads
    to is one of the data's, from which the next action leads back. The sequences of the model count
    by their mean, however many there are; without any the data's own values take their place.
    """

    name = "imitation"

    def weight(self, step: int) -> float:
        return self.config.ramp(step)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        config, (value, chosen) = self.config, output.scores
        source, after = sources(batch), follows(batch)
        reached = torch.where(after, value.roll(-1), torch.zeros_like(value))
        reward = chosen - config.gamma * reached
        fall = value - config.gamma * reached
        model = source == MODEL
        data, mine = source == DATA, ~model
        # every sequence has one action that nothing follows
        sequences, drawn = ((some & ~after).sum() for some in (mine, model))
        share = sequences / drawn.clamp(min=1)
        phi = PHI[config.divergence](config.alpha * reward[data]) / config.alpha
        own = fall[mine].sum()
        other = torch.where(drawn > 0, share * fall[model].sum(), own)
        total = phi.sum() - 0.5 * own - 0.5 * other
        if config.divergence == "chi2-mixture":
            total = total - 0.25 * config.alpha * share * reward[model].square().sum()
        return -total / data.sum().clamp(min=1)


def blended(config: ImitationConfig) -> list[Objective]:
    """The loss (1 - beta) (-log likelihood) + beta (-J)."""
    return [Cloning(config), Imitation(config)]
