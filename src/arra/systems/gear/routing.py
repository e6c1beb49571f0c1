"""Which loss reaches which weights (GEAR, arXiv 2606.32039).

One step has one forward pass of the codec and two readings of its codes. The *soft* reading carries
the alignment loss to the codec, through a generator that stands still. The *hard* reading trains
generator and projector, as at inference. The next-token loss never reaches the codec.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from arra.codecs.base import CodecOutput
from arra.codecs.losses import FeatureMaps, ReconstructionConfig, ReconstructionLoss
from arra.codecs.quantized import QuantizedCodec
from arra.errors import TrainingDiverged
from arra.generators.base import Batch, Output
from arra.generators.batches import with_codes
from arra.generators.raster import RasterGenerator
from arra.generators.vocabulary import ImageVocabulary
from arra.objectives.alignment import Alignment
from arra.objectives.laws import NextToken
from arra.precision import autocast
from arra.systems.gear.settings import GearConfig
from arra.systems.gear.views import View
from arra.training.config import TrainConfig
from arra.training.joint import Joint
from arra.training.optimizers import build_optimizers


@dataclass(frozen=True)
class Guide:
    """What guides a codec: a generator over its codes, and the alignment of its states."""

    generator: RasterGenerator
    alignment: Alignment
    """Its weight is that of the generator's own step."""


@contextmanager
def standing_still(*modules: nn.Module) -> Iterator[None]:
    """Within the block no weight of the modules asks for a gradient, and there is no dropout."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    asking = [p for module in modules for p in module.parameters() if p.requires_grad]
    for module in modules:
        module.eval()
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
        for part, mode in modes:
            part.training = mode


def read_softly(codec: QuantizedCodec, output: CodecOutput, config: GearConfig) -> Tensor:
    """(B, n, K) the codes as the generator reads them in the codec's step, with gradient."""
    assert output.latents is not None
    soft = codec.soft_assignment(output.latents, config.temperature)
    if config.read_out == "soft":
        return soft
    hard = F.one_hot(output.codes.flatten(1), codec.vocabulary).to(soft.dtype)
    return hard + (soft - soft.detach())  # in this order: what is added is exactly 0


def mixed_cross_entropy(
    output: Output, batch: Batch, soft: Tensor, vocabulary: ImageVocabulary
) -> Tensor:
    """Mean over picture tokens of -sum_k soft_k log p_k: with one-hot rows the next-token loss.

    The gradient reaches `soft` as target, too: codes move to where they are easily predicted.
    """
    image = batch.image[batch.target >= 0]
    first = vocabulary.offset
    logs = output.logits[image].float().log_softmax(dim=-1)
    wanted = soft[batch.segment[batch.image], batch.place[batch.image]]
    return -(wanted * logs[:, first : first + vocabulary.codes]).sum(dim=-1).mean()


class Routing:
    """Codec, discriminator (optional) and generator with projector: three optimisers, one step."""

    def __init__(
        self,
        codec: QuantizedCodec,
        guide: Guide | None,
        config: GearConfig,
        features: FeatureMaps | None = None,
    ):
        """Without a `guide` the codec is tuned for reconstruction alone: the control."""
        self.codec, self.guide, self.config = codec, guide, config
        terms = ReconstructionConfig(config.l1, config.l2, config.perceptual, config.adversarial)
        first = torch.Generator().manual_seed(config.seed)
        self.terms = ReconstructionLoss(terms, features, codec.device, first)
        self.codec_optimizer = torch.optim.AdamW(
            list(codec.named_parameters()),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=0.0,
        )
        self.joint: Joint | None = None
        self.generator_optimizers: list[Optimizer] = []
        if guide is not None:
            self.joint = Joint(guide.generator, [NextToken(), guide.alignment])
            plain = TrainConfig(
                learning_rate=config.learning_rate, betas=config.betas, weight_decay=0.0
            )
            self.generator_optimizers = build_optimizers(self.joint, plain)

    @property
    def optimizers(self) -> list[Optimizer]:
        """All of them, in a fixed order."""
        found: list[Optimizer] = [self.codec_optimizer, *self.generator_optimizers]
        if self.terms.adversary is not None:
            found.append(self.terms.adversary.optimizer)
        return found

    def step(self, step: int, view: View) -> dict[str, float]:
        """One update of everything that learns; the losses by name."""
        output, values = self.codec_step(step, view)
        if self.terms.adversary is not None:
            reconstruction = output.reconstruction.detach().float()
            values["discriminator"] = float(
                self.terms.adversary.update(view.pictures, reconstruction)
            )
        if self.joint is not None:
            values |= self.generator_step(step, view, output.codes.flatten(1))
        return values

    def codec_step(self, step: int, view: View) -> tuple[CodecOutput, dict[str, float]]:
        """Update the codec alone; its output, with the codes that the generator's step reads."""
        self.codec.train()
        with autocast(self.codec.device, self.config.precision == "bf16"):
            output = self.codec(view.pictures)
            guiding = self._guiding(output, view)
        reconstruction = output.reconstruction.float()
        losses = output.losses | self.terms(reconstruction, view.pictures, step) | guiding
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        values = {f"codec/{name}": float(loss.detach()) for name, loss in losses.items()}
        self._update(step, total, self.codec, [self.codec_optimizer], values)
        return output, values

    def generator_step(self, step: int, view: View, codes: Tensor) -> dict[str, float]:
        """Update generator and projector alone, on codes (B, n)."""
        assert self.joint is not None
        assert self.guide is not None
        assert view.dropped is not None
        batch = with_codes(view.dropped, codes, self.guide.generator.config.vocabulary)
        self.joint.train()
        with autocast(self.guide.generator.device, self.config.precision == "bf16"):
            total, losses = self.joint(batch, self.joint.weights(step))
        names = [objective.name for objective in self.joint.losses()]
        values = {f"generator/{names[index]}": float(loss) for index, loss in losses.items()}
        self._update(step, total, self.joint, self.generator_optimizers, values)
        return values

    def _guiding(self, output: CodecOutput, view: View) -> dict[str, Tensor]:
        """The losses that reach the codec through the generator, weighted."""
        config = self.config
        if self.guide is None or not (config.codec_alignment or config.next_token):
            return {}
        assert view.prompted is not None
        generator, alignment = self.guide.generator, self.guide.alignment
        vocabulary = generator.config.vocabulary
        soft = read_softly(self.codec, output, config)
        batch = with_codes(view.prompted, output.codes.flatten(1), vocabulary)
        losses: dict[str, Tensor] = {}
        with standing_still(generator, alignment):
            read = generator if config.next_token else generator.states
            states: Output = read(batch, alignment.layers, soft)
            if config.codec_alignment:
                losses["alignment"] = config.codec_alignment * alignment(states, batch)
            if config.next_token:
                loss = mixed_cross_entropy(states, batch, soft, vocabulary)
                losses["next_token"] = config.next_token * loss
        return losses

    def _update(
        self,
        step: int,
        total: Tensor,
        module: nn.Module,
        optimizers: list[Optimizer],
        values: dict[str, float],
    ) -> None:
        """Backward, clip and step, unless something is not finite."""
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = float(nn.utils.clip_grad_norm_(module.parameters(), self.config.clip))
        if not math.isfinite(norm + sum(values.values())):
            said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise TrainingDiverged(
                f"step {step}: a loss or gradient is not finite ({said}, gradient norm {norm:.4g});"
                " lower GearConfig.learning_rate, or raise its temperature"
            )
        for optimizer in optimizers:
            optimizer.step()
