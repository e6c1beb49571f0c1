"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.training import CodecTraining
from arra.codecs.vq import VQConfig
from arra.settings import BatchConfig, LlamaSize
from arra.training.config import TrainConfig

NORMALISED, PLAIN = "normalised", "plain"
FEW, MANY = 4, 128
"""Dimensions of a code that are compared."""
CODECS: tuple[tuple[str, int], ...] = (
    (NORMALISED, FEW),
    (NORMALISED, 8),
    (NORMALISED, 32),
    (NORMALISED, MANY),
    (PLAIN, FEW),
    (PLAIN, 32),
)
"""Tokenizers: whether latents and codes are scaled to unit length, and dimensions of a code."""
GUIDED = 1.5
"""The scale of guidance that was chosen with other seeds (100 and 101)."""
SCALES = (1.0, GUIDED, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Recipe:
    """Tokenizers of 4 x 4 codes for digits of 8 x 8 pixels, and a generator on one of them."""

    autoencoder: AutoencoderConfig
    codes: int
    """K of the compared tokenizers."""
    tokenizer: CodecTraining
    generator_codes: int
    """K of the tokenizer whose codes the generator draws."""
    generator_tokenizer: CodecTraining
    size: LlamaSize
    batch: BatchConfig
    train: TrainConfig
    crop: int = 1
    """Pixels by which training pictures are moved."""
    drawn: int = 1000
    """Pictures drawn of each generator at each scale."""
    scales: tuple[float, ...] = field(default=SCALES)

    def codec(self, width: int, codes: int | None = None) -> VQConfig:
        """A tokenizer with codes of `width` dimensions, none of which is moved by hand."""
        return VQConfig(self.autoencoder, codes or self.codes, width, dead_below=0.0)


def full() -> Recipe:
    """What the result comes from."""
    return Recipe(
        autoencoder=AutoencoderConfig(
            2, width=32, blocks=1, decoder_blocks=1, kernels=(3, 1), stem="patch"
        ),
        codes=512,
        tokenizer=CodecTraining(steps=400, batch=64, lr=2e-3, quiet=True),
        generator_codes=64,
        generator_tokenizer=CodecTraining(steps=600, batch=64, lr=3e-3, quiet=True),
        size=LlamaSize(width=64, depth=3, heads=4, feed_forward=176, rope_theta=100.0),
        batch=BatchConfig(size=64, drop_caption=0.1, multiple=1),
        train=TrainConfig(
            steps=800,
            learning_rate=3e-3,
            weight_decay=0.05,
            warmup=50,
            schedule="linear",
            precision="fp32",
            checkpoint_every=800,
            keep=1,
            log_every=100,
        ),
    )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    recipe = full()
    brief = replace(recipe.tokenizer, steps=3, warmup=1)
    return replace(
        recipe,
        autoencoder=replace(recipe.autoencoder, width=8),
        codes=16,
        tokenizer=brief,
        generator_codes=16,
        generator_tokenizer=brief,
        size=LlamaSize(width=16, depth=1, heads=2, feed_forward=16),
        batch=replace(recipe.batch, size=8),
        train=replace(recipe.train, steps=3, warmup=1, checkpoint_every=3, log_every=1),
        drawn=60,
    )


RECIPES = {"full": full, "tiny": tiny}
