"""What a reconstruction is compared with: pixels, features, and a discriminator's opinion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from arra.codecs.base import CodecOutput
from arra.errors import InputError
from arra.randomness import seeded

FeatureMaps = Callable[[Tensor], Sequence[Tensor]]
"""Pictures (B, 3, H, W) in [-1, 1] to feature maps (B, C, h, w), one a layer."""


@dataclass(frozen=True)
class ReconstructionConfig:
    """Weights of the terms between picture and reconstruction."""

    l1: float = 0.0
    """Weight of the mean absolute difference of pixels."""
    l2: float = 1.0
    """Weight of the mean squared difference of pixels."""
    perceptual: float = 0.0
    """Weight of the distance of feature maps."""
    adversarial: float = 0.0
    """Weight of -mean D(reconstruction); 0 builds no discriminator. 0.5 is usual for photos."""
    adversarial_start: int = 0
    """Training step from which on the discriminator learns and counts."""
    discriminator_width: int = 64
    """Channels of the discriminator's first layer."""
    discriminator_layers: int = 3
    """Stride-2 convolutions of the discriminator."""
    discriminator_lr: float = 1e-4
    """Learning rate of the discriminator's own Adam."""
    smallest: int = 16
    """Of a codec that reconstructs at several resolutions: those of fewer pixels a side are
    compared by pixels alone, as features and discriminator have nothing to look at there."""

    def __post_init__(self) -> None:
        for name in ("l1", "l2", "perceptual", "adversarial"):
            if getattr(self, name) < 0:
                raise InputError(f"ReconstructionConfig.{name}: expected a weight of at least 0")
        if self.l1 + self.l2 + self.perceptual + self.adversarial == 0:
            raise InputError("ReconstructionConfig: every weight is 0, nothing would be learned")
        if self.discriminator_layers < 1 or self.discriminator_width < 1:
            raise InputError("ReconstructionConfig: expected a discriminator of at least one layer")


class RandomFeatures(nn.Module):
    """Feature maps of a small convolutional network with frozen random weights.

    It was never trained, so it knows nothing about what people notice: it compares local edges and
    textures at three scales, no more. Where a trained network is at hand, pass that instead.
    """

    def __init__(self, width: int = 16, layers: int = 3, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.convs = nn.ModuleList()
        inputs = 3
        for layer in range(layers):
            outputs, stride, fan = width * 2**layer, 1 + (layer > 0), inputs * 9
            # without the usual initialisation, which would draw from the global generator
            conv = skip_init(nn.Conv2d, inputs, outputs, 3, stride=stride, padding=1)
            conv.weight.data.normal_(0.0, (2.0 / fan) ** 0.5, generator=generator)
            conv.bias.data.zero_()
            self.convs.append(conv)
            inputs = outputs
        self.requires_grad_(False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        maps, x = [], pictures
        for conv in self.convs:
            x = F.silu(conv(x))
            maps.append(x)
        return maps


def perceptual_distance(features: FeatureMaps, first: Tensor, second: Tensor) -> Tensor:
    """Mean over layers of the squared distance of feature maps of unit length (LPIPS, unweighted).

    `second` is the target: no gradient flows to it. 0 when both are equal.
    """
    with torch.no_grad():
        targets = [F.normalize(x, dim=1) for x in features(second)]
    maps = [F.normalize(x, dim=1) for x in features(first)]
    distances = [
        (x - target).square().sum(dim=1).mean() for x, target in zip(maps, targets, strict=True)
    ]
    return torch.stack(distances).mean()


class PatchDiscriminator(nn.Module):
    """Real or reconstructed, judged for each patch: (B, 3, H, W) to scores (B, 1, h, w) (PatchGAN).

    Group instead of batch normalisation: it keeps no running statistics, so that asking the
    discriminator for an opinion never changes it.
    """

    def __init__(self, width: int = 64, layers: int = 3, channels: int = 3):
        super().__init__()
        self.smallest = 2**layers
        stack: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        inputs = width
        for layer in range(1, layers + 1):
            outputs = width * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            stack += [
                nn.Conv2d(inputs, outputs, 3 if stride == 1 else 4, stride, 1, bias=False),
                nn.GroupNorm(1, outputs),
                nn.LeakyReLU(0.2),
            ]
            inputs = outputs
        stack.append(nn.Conv2d(inputs, 1, 3, 1, 1))
        self.layers = nn.Sequential(*stack)
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, pictures: Tensor) -> Tensor:
        if min(pictures.shape[2:]) < self.smallest:
            raise InputError(
                f"pictures: {tuple(pictures.shape)}, too small for this discriminator, which needs "
                f"{self.smallest} pixels a side: lower ReconstructionConfig.discriminator_layers"
            )
        return self.layers(pictures)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss of its scores: half of mean relu(1 - real) + mean relu(1 + fake)."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


class Adversary:
    """A discriminator with its own optimiser; it and the codec never train each other's weights."""

    def __init__(
        self,
        config: ReconstructionConfig,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ):
        """`generator` (on the CPU) chooses the first weights."""
        self.config = config
        seed = int(torch.randint(2**62, (), generator=generator))
        with seeded(seed):
            self.discriminator = PatchDiscriminator(
                config.discriminator_width, config.discriminator_layers
            )
        self.discriminator.to(device)
        self.optimizer = torch.optim.Adam(
            self.discriminator.named_parameters(), lr=config.discriminator_lr, betas=(0.5, 0.9)
        )

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        """-mean D(reconstruction), weighted; its gradient reaches the reconstruction only."""
        self.discriminator.requires_grad_(False)
        try:
            return -self.config.adversarial * self.discriminator(reconstruction).mean()
        finally:
            self.discriminator.requires_grad_(True)

    def update(self, pictures: Tensor, reconstruction: Tensor) -> Tensor:
        """One step of the discriminator; returns its hinge loss. Nothing flows to the codec."""
        real = self.discriminator(pictures.detach())
        fake = self.discriminator(reconstruction.detach())
        loss = hinge_loss(real, fake)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.discriminator.parameters(), 1.0)
        self.optimizer.step()
        return loss.detach()


class ReconstructionLoss:
    """The weighted terms between pictures and reconstructions, by name."""

    def __init__(
        self,
        config: ReconstructionConfig,
        features: FeatureMaps | None = None,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ):
        """`features` gives the maps of the perceptual term; the default is `RandomFeatures`.

        `generator` chooses the discriminator's first weights; the default is seed 0.
        """
        self.config = config
        if config.perceptual and features is None:
            features = RandomFeatures().to(device)
        self.features = features
        self.adversary: Adversary | None = None
        if config.adversarial:
            generator = generator or torch.Generator().manual_seed(0)
            self.adversary = Adversary(config, generator, device)

    def adversarial_at(self, step: int) -> bool:
        """Whether the adversarial term counts at training step `step` (from 0)."""
        return self.adversary is not None and step >= self.config.adversarial_start

    def looks_at(self, pictures: Tensor) -> bool:
        """Whether a smaller resolution is large enough for features and discriminator."""
        least = self.config.smallest
        if self.adversary is not None:
            least = max(least, self.adversary.discriminator.smallest)
        return min(pictures.shape[2:]) >= least

    def of_all(self, output: CodecOutput, pictures: Tensor, step: int) -> dict[str, Tensor]:
        """The terms of the reconstruction and of all smaller ones, summed over resolutions."""
        losses = self(output.reconstruction.float(), pictures, step)
        for made, target in output.smaller:
            terms = self(made.float(), target, step, pixels_only=not self.looks_at(target))
            for name, value in terms.items():
                losses[name] = losses[name] + value
        return losses

    def __call__(
        self, reconstruction: Tensor, pictures: Tensor, step: int, pixels_only: bool = False
    ) -> dict[str, Tensor]:
        """Weighted scalars; their sum is to be minimised by the codec."""
        config, losses = self.config, {}
        if config.l1:
            losses["l1"] = config.l1 * F.l1_loss(reconstruction, pictures)
        if config.l2:
            losses["l2"] = config.l2 * F.mse_loss(reconstruction, pictures)
        if pixels_only:
            return losses
        if config.perceptual:
            assert self.features is not None
            distance = perceptual_distance(self.features, reconstruction, pictures)
            losses["perceptual"] = config.perceptual * distance
        if self.adversary is not None and self.adversarial_at(step):
            losses["adversarial"] = self.adversary.generator_loss(reconstruction)
        return losses
