"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.binary import BinaryConfig
from arra.codecs.training import CodecTraining
from arra.settings import BatchConfig, LlamaSize
from arra.systems.elm.synthetic import BITS, Ties
from arra.training.config import TrainConfig

SPLITS = (1, 2, 4, 8)
"""Sub-codes of a cell's eight bits."""
TIES: tuple[Ties, ...] = ("free", "near", "far")
KEPT = (1, 4, 16, 64, 128, 256)
"""Most likely codes that are drawn from (top-k), of 256."""
GREEDY, FEW, HALF = 1, 4, 128
GRID = (4, 4)


@dataclass(frozen=True)
class Recipe:
    """Sequences of known law, and digits of 8 x 8 pixels as 4 x 4 cells of eight bits."""

    size: LlamaSize
    batch: BatchConfig
    synthetic: TrainConfig
    """Of a model of the known sequences."""
    sequences: int
    """To train on."""
    tested: int
    """Sequences on which laws are compared."""
    codec: BinaryConfig
    codec_training: CodecTraining
    train: TrainConfig
    """Of a generator of digits."""
    crop: int = 1
    """Pixels by which training pictures are moved."""
    drawn: int = 1000
    """Pictures drawn of each generator with each setting."""


def full() -> Recipe:
    """What the result comes from."""
    # AdamW needs three times as many steps until a class counts, and the fewer the larger the split
    # is: then it is the speed of learning that splits are compared by
    train = TrainConfig(
        steps=320,
        optimizer="muon",
        muon_scale=3.0,
        learning_rate=3e-3,
        weight_decay=0.05,
        warmup=50,
        schedule="linear",
        precision="fp32",
        checkpoint_every=320,
        keep=1,
        log_every=100,
    )
    return Recipe(
        size=LlamaSize(width=64, depth=3, heads=4, feed_forward=176, rope_theta=100.0),
        batch=BatchConfig(size=64, drop_caption=0.1, multiple=1),
        synthetic=replace(train, steps=120, checkpoint_every=120),
        sequences=20000,
        tested=400,
        codec=BinaryConfig(
            AutoencoderConfig(
                2, width=32, blocks=1, decoder_blocks=1, kernels=(3, 1), stem="patch"
            ),
            bits=BITS,
            width=32,
        ),
        codec_training=CodecTraining(steps=800, batch=64, lr=4e-3, quiet=True),
        train=train,
    )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    recipe = full()
    brief = replace(recipe.train, steps=3, warmup=1, checkpoint_every=3, log_every=1)
    autoencoder = replace(recipe.codec.autoencoder, width=8)
    return replace(
        recipe,
        size=LlamaSize(width=16, depth=1, heads=2, feed_forward=16),
        batch=replace(recipe.batch, size=8),
        synthetic=brief,
        sequences=40,
        tested=8,
        codec=replace(recipe.codec, autoencoder=autoencoder, width=8),
        codec_training=replace(recipe.codec_training, steps=3, warmup=1),
        train=brief,
        drawn=60,
    )


RECIPES = {"full": full, "tiny": tiny}
