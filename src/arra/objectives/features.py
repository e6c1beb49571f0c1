"""What a network loses that drafts features (EAGLE, arXiv 2401.15077, section 3.2, and the released
code of LANTERN): their distance from the target's, and that of the laws which the head makes."""

from __future__ import annotations

from abc import abstractmethod

import torch.nn.functional as F
from torch import Tensor

from arra.errors import InputError
from arra.generators.base import Batch, FeatureOutput, Output
from arra.objectives.base import Objective


class _OfFeatures(Objective):
    """A mean over the codes whose features are predicted, with a constant weight."""

    def __init__(self, weight: float):
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise InputError(f"{type(self).__name__}: weight {weight}, expected at least 0")
        self._weight = float(weight)

    def weight(self, step: int) -> float:
        return self._weight

    def count(self, batch: Batch) -> int:
        return int(batch.image.sum()) - batch.samples

    def forward(self, output: Output, batch: Batch) -> Tensor:
        if not isinstance(output, FeatureOutput):
            raise InputError(f"{type(self).__name__}: this generator predicts no features")
        return self.loss(output)

    @abstractmethod
    def loss(self, output: FeatureOutput) -> Tensor:
        """The unweighted loss, a scalar."""


class FeatureRegression(_OfFeatures):
    """Smooth L1 between features and the target's, a mean over dimensions, too."""

    name = "features"

    def __init__(self, weight: float = 1.0):
        super().__init__(weight)

    def loss(self, output: FeatureOutput) -> Tensor:
        return F.smooth_l1_loss(output.features, output.true_features)


class SoftCrossEntropy(_OfFeatures):
    """Mean of -sum p log q over the target's law p and the network's q, in nats."""

    name = "soft_cross_entropy"

    def __init__(self, weight: float = 0.1):
        super().__init__(weight)

    def loss(self, output: FeatureOutput) -> Tensor:
        law = output.true_logits.float().softmax(dim=-1)
        return F.cross_entropy(output.logits.float(), law)


def feature_objectives(regression: float = 1.0, laws: float = 0.1) -> list[Objective]:
    """Both losses with their weights."""
    return [FeatureRegression(regression), SoftCrossEntropy(laws)]
