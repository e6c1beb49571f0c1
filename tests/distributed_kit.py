"""What the processes of tests/test_distributed.py do; a module, so that they can import it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from arra.data.tokenizer import train_text_tokenizer
from arra.generators.base import Batch
from arra.generators.batches import collate, sequence
from arra.generators.raster import RasterGenerator
from arra.objectives.alignment import Alignment
from arra.objectives.laws import NextToken
from arra.settings import AdapterConfig, AlignmentConfig, LlamaSize
from arra.training.config import TrainConfig
from arra.training.loop import train
from arra.training.report import TrainReport

CONFIG = TrainConfig(
    steps=4,
    learning_rate=0.01,
    precision="fp32",
    checkpoint_every=2,
    keep=9,
    log_every=1,
    ema=0.9,
    accumulation=2,
)
"""Four steps of four micro-batches: two for each of two processes."""
MUON = replace(CONFIG, optimizer="muon", steps=2, ema=None)
LORA = replace(CONFIG, steps=2, activation_checkpointing=True)
CAPTIONS = ["a red 3 left of a blue 5", "a green 7 above it", "a blue 1"]
PARTS = 4


def tiny(tied: bool = True) -> RasterGenerator:
    """A Llama of two blocks with dropout in its attention and an odd number of rows."""
    size = LlamaSize(width=16, depth=2, heads=2, feed_forward=24, positions=64, tied=tied)
    tokenizer = train_text_tokenizer(CAPTIONS)
    codes = 17 + len(tokenizer) % 2
    generator = RasterGenerator.from_scratch(tokenizer, codes, (2, 3), size, seed=0)
    for block in generator.decoder_blocks():
        block.self_attn.attention_dropout = 0.2
    return generator


class Rows:
    """Eight made-up samples a step with encoder features of one number each."""

    def __init__(self, generator: RasterGenerator):
        vocabulary = generator.config.vocabulary
        texts = [generator.tokenizer.encode(text) for text in CAPTIONS]
        self.vocabulary, self.texts = vocabulary, texts

    def batch(self, step: int, part: int, parts: int) -> Batch:
        rng = torch.Generator().manual_seed(step)
        codes = torch.randint(self.vocabulary.codes, (8, 6), generator=rng)
        feature = torch.randn(8, 1, generator=rng)
        rows = range(part * 8 // parts, (part + 1) * 8 // parts)
        samples = [
            sequence(self.texts[(step + row) % 3], codes[row].tolist(), self.vocabulary, False)
            for row in rows
        ]
        return collate(samples, {"cls": feature[list(rows)]}, self.vocabulary.pad)


def run(
    folder: Path,
    config: TrainConfig,
    tied: bool = True,
    validators: Sequence = (),
    adapter: str = "none",
):
    """Train the tiny generator, or an adapter on it, with alignment after its first block."""
    generator = tiny(tied)
    generator.adapt(AdapterConfig(adapter, rank=2), base="nowhere", rows="random", seed=0)
    config_ = AlignmentConfig(similarity="mse")
    objectives = [NextToken(), Alignment(config_, generator.width, 1, (2, 3), seed=1)]
    report: TrainReport = train(
        generator, objectives, Rows(generator), config, folder, validators=validators
    )
    return generator, report


def weigh(generator: RasterGenerator, step: int, folder: Path) -> dict[str, float]:
    """A validator that needs whole weights: what the generator says first after a prompt."""
    logits, _ = generator.prefill([generator.prompt_ids("a red 3")])
    return {"logit": float(logits[0, 0]), "training": float(generator.training)}


def work(rank: int, port: int, folder: Path) -> None:
    """What each of two processes does: several runs, one after the other."""
    os.environ |= {
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "CUDA_VISIBLE_DEVICES": "",
    }
    torch.set_num_threads(1)
    run(folder / "ddp", CONFIG, validators=[weigh])
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    generator, report = run(folder / "fsdp", CONFIG, validators=[weigh])
    assert all(type(p.data) is torch.Tensor for p in generator.parameters())
    assert not generator.training
    assert report.parameters == sum(p.numel() for p in generator.parameters())
    run(folder / "muon", MUON, tied=False)
    run(folder / "lora", LORA, adapter="lora")
    run(folder / "two-one", replace(CONFIG, steps=2))
    run(folder / "one-two", replace(CONFIG, activation_checkpointing=True))
    torch.distributed.destroy_process_group()
