"""The recipe of ARRA on digit scenes: what is trained, how, and which arms are compared.

Cost: about five minutes for the full demo on two idle CPU cores. Bench and generator are as small
as pictures that a person reads at a glance allow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from arra.codecs.recipes import scene_codec, scene_training
from arra.data.scenes import SceneConfig
from arra.encoders.preprocessing import Preprocessing
from arra.encoders.small import SmallConfig
from arra.encoders.training import EncoderTraining
from arra.experiments.arms import Arm, JudgePlan, TrainingPlan
from arra.experiments.bench import BenchConfig
from arra.objectives.alignment import AlignmentConfig
from arra.precision import native_precision
from arra.samplers.logits import SamplingConfig
from arra.settings import BatchConfig, LlamaSize, Sizes
from arra.training.config import TrainConfig

ALIGNMENT = AlignmentConfig(layers=(2,), positions="hybnext", target="both", weight=1.0)
"""Every image-predicting position and lambda 1 as in the paper, which takes the first of 32 blocks
and the CLS vector. Of five blocks the second, with CLS and mean of the patches, learnt faster
here."""

BASELINE = Arm("baseline", "without alignment")
ALIGNED = Arm("aligned", "with alignment", ALIGNMENT)
SHUFFLED = Arm("shuffled", "aligned to the wrong pictures", ALIGNMENT, shuffled=True)

CLAIM_STEPS = 800
"""Training steps of an arm of the claim: fifteen of them must fit into half an hour."""


@dataclass(frozen=True)
class Recipe:
    """Bench, training and judgement of one size."""

    bench: BenchConfig
    plan: TrainingPlan
    judge: JudgePlan


def full() -> Recipe:
    """The demo: 24 x 24 pixels, 36 codes, a Llama of one million parameters."""
    scene = SceneConfig()
    bench = BenchConfig(
        scene=scene,
        # Three digits stand in a tenth of the test scenes; in training as rarely, their second
        # relation is what is learnt last and worst.
        training_counts=(0.25, 0.5, 0.25),
        pictures=30_080,
        codec=scene_codec(downsample=4, vocabulary=1024),
        codec_training=replace(scene_training(2600), quiet=False),
        encoder=SmallConfig(dim=64, preprocessing=Preprocessing(size=scene.size)),
        encoder_training=EncoderTraining(objective="masked+contrastive", steps=260),
        reader_steps=400,
    )
    plan = TrainingPlan(
        sizes=Sizes(
            LlamaSize(
                width=128,
                depth=5,
                heads=4,
                feed_forward=352,
                positions=128,
                rope_theta=100.0,
                tied=True,
            )
        ),
        # A step is 32 random samples in two halves, shorter and longer captions: less padding than
        # in one batch, and no step sees captions of one length only. (The rows of the store are a
        # multiple of 32, so that halves stay together in every epoch.)
        batch=BatchConfig(size=16, drop_caption=0.1, bucket=2, multiple=4),
        train=TrainConfig(
            steps=1400,
            learning_rate=2e-3,
            accumulation=2,
            optimizer="muon",
            muon_scale=3.0,
            warmup=100,
            schedule="wsd",
            decay_share=0.5,
            checkpoint_every=500,
            keep=1,
            log_every=20,
            precision=native_precision(),
            compile=True,
        ),
    )
    return Recipe(
        bench, plan, JudgePlan(prompts=256, sampling=SamplingConfig(guidance=2.0, top_p=0.8))
    )


def tiny() -> Recipe:
    """A minute of everything, to see that it runs; nobody should read its pictures."""
    recipe = full()
    bench = replace(
        recipe.bench,
        pictures=1536,
        codec_pictures=1000,
        codec_training=replace(recipe.bench.codec_training, steps=150),
        encoder_training=replace(recipe.bench.encoder_training, steps=20),
        reader_steps=40,
    )
    train = replace(recipe.plan.train, steps=60, warmup=5, compile=False)
    judge = JudgePlan(
        prompts=32, bits_scenes=128, real=128, diversity_prompts=4, diversity_pictures=2
    )
    return Recipe(bench, replace(recipe.plan, train=train), judge)


RECIPES = {"full": full, "tiny": tiny}
