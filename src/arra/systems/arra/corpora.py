"""Recipes on real corpora: the language model of the demo, on pictures that somebody made.

"small" is what two CPU cores run in minutes for each arm; "full" takes a few hours there, or
minutes on a GPU. The teacher learns masked patches and captions; the judge has another shape and
seed, and learns to tell pictures apart, and captions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from arra.codecs.recipes import scene_autoencoder, scene_training
from arra.codecs.vq import VQConfig
from arra.data.rows import Classes
from arra.encoders.preprocessing import Preprocessing
from arra.encoders.small import SmallConfig
from arra.encoders.training import EncoderTraining
from arra.errors import InputError
from arra.experiments.corpora.corpus import Corpus, Drawing, Source, Start
from arra.experiments.grid import changed
from arra.precision import native_precision
from arra.samplers.logits import SamplingConfig
from arra.settings import BatchConfig, LlamaSize, Sizes
from arra.systems.arra.recipe import ALIGNED, BASELINE, SHUFFLED
from arra.systems.arra.recipe import full as scenes
from arra.systems.arra.ways import way

ARMS = {arm.name: arm for arm in (BASELINE, ALIGNED, SHUFFLED)}

EMOJI = Source("emoji")
XRAY = Source("chest_xray", words=24)
CIFAR = Source("cifar10", held_out=("test",), classes=Classes("a photo of a {label}"))
# as the makers of the set name them, in lower case
GARMENTS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
            "ankle boot")  # fmt: skip
FASHION = Source(
    "fashion_mnist", held_out=("test",), classes=Classes("{label}", GARMENTS), most=10_000
)


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    size: LlamaSize
    """The language model."""
    batch: BatchConfig
    """Its batches."""
    accumulation: int
    """Batches in a step."""
    steps: int
    """Its training steps on emoji; other corpora take a share of them."""
    codec: int
    """Training steps of the codec on emoji."""
    codec_width: int
    """Its channels."""
    towers: int
    """Training steps of teacher and judge on emoji."""
    towers_batch: int
    """Pictures in each of these steps."""
    look: int
    """Most pixels a side that teacher and judge look at."""
    compile: bool
    """Whether the language model is compiled."""


def _llama(width: int, depth: int, heads: int) -> LlamaSize:
    return LlamaSize(
        width=width,
        depth=depth,
        heads=heads,
        feed_forward=width * 11 // 4,
        positions=256,
        rope_theta=100.0,
        tied=True,
    )


SCALES = {
    # one micro-batch of random samples a step: half of the demo's step
    "small": Scale(
        size=_llama(96, 4, 4),
        batch=BatchConfig(size=16, bucket=1, multiple=4),
        accumulation=1,
        steps=400,
        codec=800,
        codec_width=64,
        towers=240,
        towers_batch=32,
        look=32,
        compile=False,
    ),
    "full": Scale(
        size=_llama(256, 8, 8),
        batch=BatchConfig(size=32, bucket=2, multiple=4),
        accumulation=2,
        steps=6000,
        codec=12_000,
        codec_width=128,
        towers=2000,
        towers_batch=128,
        look=64,
        compile=True,
    ),
}


def _corpus(
    scale: Scale,
    name: str,
    title: str,
    source: Source,
    size: int,
    *,
    share: float = 1.0,
    downsample: int = 4,
    vocabulary: int = 1024,
) -> Corpus:
    """What the recipes share; `share` is that of the scale's steps."""
    steps = round(scale.steps * share)
    towers = round(scale.towers * share)
    seen = Preprocessing(size=min(size, scale.look))
    plan = scenes().plan
    train = replace(
        plan.train,
        steps=steps,
        accumulation=scale.accumulation,
        warmup=max(1, steps // 10),
        validate_every=max(1, steps // 6),
        checkpoint_every=max(1, steps // 4),
        compile=scale.compile,
        # measuring whether bfloat16 is faster takes as long as many of these steps
        precision="fp32" if not scale.compile else native_precision(),
    )
    patch = 8 if seen.size > 32 else 4
    return Corpus(
        name=name,
        title=title,
        source=source,
        size=size,
        codec=VQConfig(replace(scene_autoencoder(downsample), width=scale.codec_width), vocabulary),
        codec_training=scene_training(scale.codec),
        encoder=SmallConfig(width=48, dim=96, downsample=patch, preprocessing=seen),
        encoder_training=EncoderTraining("masked+contrastive", towers, batch=scale.towers_batch),
        judge=SmallConfig(width=32, depth=2, dim=32, downsample=patch, preprocessing=seen),
        judge_training=EncoderTraining(
            "instance+contrastive", towers, batch=scale.towers_batch, seed=1_000_003
        ),
        plan=replace(plan, sizes=Sizes(scale.size), batch=scale.batch, train=train),
        drawing=Drawing(sampling=SamplingConfig(guidance=2.0, top_p=0.9)),
    )


def drawn_by(corpus: Corpus, generator: str) -> Corpus:
    """The same corpus with another generator than the raster one, and a codec that suits it.

    `InputError` where the corpus goes on from a raster model.
    """
    if corpus.start is not None:
        raise InputError(f"{corpus.name}: goes on from a raster model; leave --generator out")
    side = corpus.size // corpus.codec.autoencoder.downsample
    changes = dict(way(generator).changes(corpus.codec, side, corpus.plan.sizes.llama, "drawing"))
    name, title = f"{corpus.name}-{generator}", f"{corpus.title}, {generator}"
    return changed(replace(corpus, name=name, title=title), changes)


def emoji(scale: Scale) -> Corpus:
    """Emoji with their names and keywords; the codec and the tokenizer also learn from X-rays, for
    the model will move to them."""
    made = _corpus(
        scale, "emoji", "emoji with their names and keywords, 64 pixels", EMOJI, 64, downsample=8
    )
    return replace(made, also=(XRAY,))


def xray(scale: Scale) -> Corpus:
    """ARRA-Adapt: the emoji model goes on, with chest X-rays of twice the size and their notes."""
    made = _corpus(
        scale,
        "xray",
        "chest X-rays with clinical notes, 128 pixels, from the emoji model",
        XRAY,
        128,
        share=1 / 3,
    )
    painter = scene_training(max(200, scale.codec // 4))
    # a model that can draw already is changed more gently
    train = replace(made.plan.train, learning_rate=1e-3)
    return replace(
        made,
        start=Start(emoji(scale), painter),
        plan=replace(made.plan, train=train),
    )


def cifar(scale: Scale) -> Corpus:
    """CIFAR-10 by the names of its classes."""
    made = _corpus(scale, "cifar10", "CIFAR-10 by class, 32 pixels", CIFAR, 32, share=2 / 3)
    return replace(made, labelled=True, tokenizer="word")


def fashion(scale: Scale) -> Corpus:
    """Fashion-MNIST by the names of its classes, at its own 28 pixels."""
    made = _corpus(
        scale, "fashion", "Fashion-MNIST by class, 28 pixels", FASHION, 28, share=2 / 3,
        vocabulary=512,
    )  # fmt: skip
    return replace(made, labelled=True, tokenizer="word")


CORPORA: dict[str, Callable[[Scale], Corpus]] = {
    "emoji": emoji,
    "xray": xray,
    "cifar10": cifar,
    "fashion": fashion,
}
