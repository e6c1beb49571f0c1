"""Muon: momentum whose matrix is made orthogonal before it is applied (Jordan et al., 2024).

torch has a Muon too, which computes in bfloat16 always and one matrix at a time. On a CPU without
bfloat16 units that costs more than the training step, so this one computes in float32 there, and
takes all matrices of one shape together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from arra.training.sharding import cut_like, is_cut, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a x + b x^3 + c x^5, which pushes singular values into about [0.7, 1.2]."""


def orthogonalize(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, m, n) matrices whose singular values are all brought near 1 (Newton-Schulz, `steps`)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.to(dtype)
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay, for matrices (2-D).

    The step of an m x n matrix is lr * scale * 0.2 * sqrt(max(m, n)), which for scale 1 gives it
    the size of AdamW's (Liu et al., 2025, section 2.2).

    A singular value is a matter of the whole matrix: sharded gradients are gathered, one matrix at
    a time, and every process computes the same update and keeps its rows of it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        scale: float = 1.0,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "scale": scale}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            shapes: dict[Any, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    # Sharded ones one by one: many whole matrices would need the room of the model.
                    alone = id(parameter) if is_cut(parameter) else None
                    shapes[parameter.shape, parameter.device, alone].append(parameter)
            for together in shapes.values():
                self._update(together, group)
        return loss

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Update matrices of one shape."""
        momentum = group["momentum"]
        directions = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer: Tensor = state["momentum_buffer"]
            assert parameter.grad is not None
            buffer.lerp_(parameter.grad, 1 - momentum)
            directions.append(whole(parameter.grad.lerp(buffer, momentum)))
        cuda = parameters[0].device.type == "cuda"
        updates = orthogonalize(
            torch.stack(directions), dtype=torch.bfloat16 if cuda else torch.float32
        )
        size = group["lr"] * group["scale"] * 0.2 * max(parameters[0].shape) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(cut_like(update, parameter), alpha=-size)
