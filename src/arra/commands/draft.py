"""`arra draft`: a checkpoint learns to foretell itself, for speculative decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from arra.settings import BatchConfig, SamplingConfig
from arra.training.config import TrainConfig

_SAMPLINGCONFIG = SamplingConfig()
_BATCHCONFIG = BatchConfig()
_TRAINING = TrainConfig(
    steps=2000,
    learning_rate=1e-3,
    weight_decay=0.0,
    schedule="cosine",
    clip=0.5,
    checkpoint_every=250,
    validate_every=500,
)


def command(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    store: Annotated[Path, arg(metavar="STORE")],
    out: Annotated[Path, arg(metavar="RUN")],
    drawn: int = 0,
    depth: int = 1,
    heads: int = 4,
    feed_forward: int = 0,
    noise: float = 0.2,
    feature_weight: float = 1.0,
    law_weight: float = 0.1,
    held_out_share: float = 0.05,
    device: str = "auto",
    json: bool = False,
    sampling: Annotated[SamplingConfig, arg(name="")] = _SAMPLINGCONFIG,
    training: Annotated[TrainConfig, arg(name="")] = _TRAINING,
    batch: BatchConfig = _BATCHCONFIG,
) -> None:
    """Train a drafter for a checkpoint: a block or two that foretell it (EAGLE, arXiv 2401.15077).

    The checkpoint, a raster generator, is frozen; the drafter learns, of a store of its codec and
    tokenizer, to predict what its head reads at the next code. With it `arra generate --sampler
    speculative --drafter eagle` draws several codes a pass.

    The drafter is kept in the checkpoint's folder, as drafter/. RUN gets what `arra train` writes:
    checkpoints/, log.jsonl, run.json and, as model/, the drafter again. Killed or interrupted at
    any moment, the same command goes on and ends with the same weights.

    Args:
        checkpoint: A run folder, its model/, or an exported checkpoint.
        store: A prepared store, such as the checkpoint was trained on.
        out: Folder of the run.
        drawn: Learn of so many pictures that the checkpoint draws itself, of the store's captions,
            in the place of the store's.
        depth: Decoder blocks of the drafter.
        heads: Their attention heads.
        feed_forward: Their inner width; 0 is eight thirds of the checkpoint's width.
        noise: Width of the uniform noise on the features that the drafter reads in training.
        feature_weight: Weight of the smooth L1 between its features and the checkpoint's.
        law_weight: Weight of the cross-entropy between the laws that the head makes of both.
        held_out_share: Share of the pictures on which both are compared, at most 2048.
        device: Where the checkpoint draws, with --drawn: auto, cpu, cuda, cuda:1, mps.
        json: Print the summary as JSON for programs.
        sampling: How the checkpoint draws, with --drawn.
        training: The training loop. The seed is also that of the drafter's first weights.
        batch: How pictures become batches.
    """
    from arra.jobs.console import choose_device, print_run
    from arra.jobs.draft_training import DraftNetwork, DraftTraining, run_draft_training

    job = DraftTraining(
        target=checkpoint,
        store=store,
        out=out,
        drawn=drawn,
        sampling=sampling,
        network=DraftNetwork(depth, heads, feed_forward, noise, feature_weight, law_weight),
        batch=batch,
        training=training,
        held_out_share=held_out_share,
        device=choose_device(device),
    )
    print_run(run_draft_training(job), json, lambda told: _lines(told, checkpoint))


def _lines(summary: dict[str, Any], checkpoint: Path) -> list[str]:
    lines = []
    if told := summary["validation"]:
        lines.append(
            f"held out: {told['accepted']:.1%} of single guesses would stay, the likeliest code is "
            f"the checkpoint's in {told['same_likeliest']:.1%}"
        )
    draw = f'arra generate {checkpoint} "your prompt" --out pictures'
    lines.append(f"next: {draw} --sampler speculative --drafter eagle")
    return lines
