"""What a generator's own law loses: the cross-entropy of the next token, with the penalty that
keeps the logits' normaliser small, and the loss of laws of vectors."""

from __future__ import annotations

from torch import Tensor

from arra.errors import InputError
from arra.generators.base import Batch, Generator, Output
from arra.objectives.base import Objective
from arra.registry import objectives


class _PerToken(Objective):
    """A mean over supervised positions with a constant weight."""

    def __init__(self, weight: float):
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise InputError(f"{type(self).__name__}: weight {weight}, expected at least 0")
        self._weight = float(weight)

    def weight(self, step: int) -> float:
        return self._weight

    def count(self, batch: Batch) -> int:
        return int((batch.target != -100).sum())


@objectives.register("cross_entropy")
class NextToken(_PerToken):
    """Mean over the M supervised positions of -log softmax(logits)[target], in nats.

    0 where the batch supervises nothing.
    """

    name = "cross_entropy"

    def __init__(self, weight: float = 1.0):
        super().__init__(weight)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        if batch.source is not None:
            raise InputError("NextToken: not all of this batch is data; use Cloning")
        normaliser, chosen = output.scores
        return (normaliser - chosen).sum() / max(output.targets.numel(), 1)


@objectives.register("z_loss")
class ZLoss(_PerToken):
    """Mean over the M supervised positions of logsumexp(logits)^2 [Chowdhery et al., 2022, sec. 5].

    It keeps the softmax's normaliser near 1, so that logits do not drift in low precision.
    """

    name = "z_loss"

    def __init__(self, weight: float = 1e-5):
        super().__init__(weight)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        normaliser, _ = output.scores
        return normaliser.square().sum() / max(output.targets.numel(), 1)


@objectives.register("vectors")
class NextVector(_PerToken):
    """Mean over the P positions that predict a vector of what its law loses there (MAR, arXiv
    2406.11838): squared errors of noise, velocity or v, as the generator's head has them.

    0 where the batch has none.
    """

    name = "vectors"

    def __init__(self, weight: float = 1.0):
        super().__init__(weight)

    def count(self, batch: Batch) -> int:
        return int(batch.image.sum())

    def forward(self, output: Output, batch: Batch) -> Tensor:
        if output.losses is None:
            raise InputError("NextVector: this generator's codes are no vectors; use NextToken")
        return output.losses.sum() / max(output.losses.numel(), 1)


def own_objectives(generator: Generator, z_loss: float = 0.0) -> list[Objective]:
    """What a generator's own predictions are trained with; the z-loss, if its weight is not 0, is
    for logits alone."""
    found: list[Objective] = [objectives[law]() for law in generator.laws]
    if z_loss and NextToken.registered_name in generator.laws:
        found.append(ZLoss(z_loss))
    return found
