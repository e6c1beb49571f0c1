"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, replace

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.losses import ReconstructionConfig
from arra.codecs.training import CodecTraining
from arra.codecs.vq import VQConfig
from arra.encoders.preprocessing import Preprocessing
from arra.encoders.small import SmallConfig
from arra.encoders.training import EncoderTraining
from arra.settings import AlignmentConfig, BatchConfig, LlamaSize
from arra.systems.gear.settings import GearConfig
from arra.training.config import TrainConfig

WARM_UP, CONTROL, GEAR, COLLAPSING = "warm-up", "reconstruction", "guided", "straight-through"
TOKENIZERS = (WARM_UP, CONTROL, GEAR, COLLAPSING)
"""The codecs: trained for reconstruction; as many steps more of that; GEAR; next-token and
alignment loss through straight-through codes."""
PLAIN, PATCH, GLOBAL = "plain", "patch", "global"
"""How a fresh generator is trained: next-token prediction alone; with patches aligned (LlamaGen-
REPA, of weight 0.5); with the whole picture's feature aligned (ARRA)."""
ARMS = (
    *((tokenizer, PATCH) for tokenizer in TOKENIZERS),
    *((tokenizer, how) for tokenizer in (CONTROL, GEAR) for how in (PLAIN, GLOBAL)),
)


@dataclass(frozen=True)
class Recipe:
    """Codecs of 4 x 4 codes among 64 for digits of 8 x 8 pixels, and fresh generators on them."""

    codec: VQConfig
    warm_up: CodecTraining
    teacher: SmallConfig
    """The encoder whose patch features guide codec and generator; a seed trains its own."""
    teacher_training: EncoderTraining
    size: LlamaSize
    """Of the generator that learns beside the codec, and of the fresh ones."""
    tuning: GearConfig
    """Of GEAR's codec."""
    patch: AlignmentConfig
    whole: AlignmentConfig
    batch: BatchConfig
    train: TrainConfig
    """Of fresh generators."""
    drawn: int = 1000
    """Pictures drawn at each validation."""
    guidance: float = 1.5
    """Scale of classifier-free guidance of the pictures that are drawn a second time at the end."""

    def tuned(self, tokenizer: str) -> GearConfig:
        """How the codec of this name goes on after the warm-up."""
        if tokenizer == CONTROL:
            return replace(self.tuning, codec_alignment=0.0)
        if tokenizer == COLLAPSING:
            return replace(self.tuning, read_out="straight-through", next_token=1.0)
        return self.tuning

    def alignment(self, how: str) -> AlignmentConfig | None:
        """The alignment of a fresh generator."""
        return {PLAIN: None, PATCH: self.patch, GLOBAL: self.whole}[how]


def full() -> Recipe:
    """What the result comes from."""
    return Recipe(
        codec=VQConfig(
            AutoencoderConfig(
                2, width=32, blocks=1, decoder_blocks=1, kernels=(3, 1), stem="patch"
            ),
            vocabulary=64,
            width=4,
            # as in GEAR: an entropy term keeps codes in use, none is moved by hand
            entropy=0.05,
            dead_below=0.0,
        ),
        warm_up=CodecTraining(
            steps=500, lr=3e-3, reconstruction=ReconstructionConfig(l1=1.0, l2=0.0)
        ),
        teacher=SmallConfig(width=32, downsample=2, dim=64, preprocessing=Preprocessing(size=8)),
        teacher_training=EncoderTraining(objective="masked+contrastive", steps=300, batch=64),
        size=LlamaSize(
            width=64, depth=3, heads=4, feed_forward=176, positions=32, rope_theta=100.0
        ),
        tuning=GearConfig(steps=400, batch=32, learning_rate=1e-3, ema=0.99),
        patch=AlignmentConfig(
            layers=(1,), target="patch", projector="mlp3", hidden=128, weight=0.5
        ),
        whole=AlignmentConfig(layers=(1,), target="cls", weight=1.0),
        batch=BatchConfig(size=32, drop_caption=0.1, multiple=4),
        train=TrainConfig(
            steps=500,
            learning_rate=1e-3,
            weight_decay=0.0,
            precision="fp32",
            ema=0.99,
            checkpoint_every=500,
            keep=1,
            validate_every=125,
            log_every=25,
        ),
    )


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    recipe = full()
    return replace(
        recipe,
        warm_up=replace(recipe.warm_up, steps=20),
        teacher_training=replace(recipe.teacher_training, steps=5),
        tuning=replace(recipe.tuning, steps=3, batch=16),
        train=replace(recipe.train, steps=4, validate_every=2, checkpoint_every=4, log_every=2),
        batch=replace(recipe.batch, size=16),
        drawn=60,
    )


RECIPES = {"full": full, "tiny": tiny}
