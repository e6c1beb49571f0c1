"""Facts about the real parts together: language model, objectives and batches in the training loop,
and a folder of broken pictures through preparation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from arra.errors import InputError
from arra.generators.batches import RasterBatches
from arra.generators.raster import RasterGenerator
from arra.objectives.alignment import Alignment
from arra.objectives.laws import NextToken, ZLoss
from arra.settings import AlignmentConfig, BatchConfig
from arra.training.config import TrainConfig
from arra.training.loop import train

FEATURES = 6
WORDS = ["a red 3 left of a blue 5", "a green 7 above it", "a blue 5", ""]
FIVE = TrainConfig(
    steps=5, learning_rate=0.01, precision="fp32", checkpoint_every=2, log_every=1, warmup=1
)


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


class MemoryStore:
    """What batches need of a store, for 24 captioned pictures of noise."""

    def __init__(self, generator: RasterGenerator):
        encode = generator.tokenizer.encode
        self.ids = [encode(WORDS[i % 4], add_special_tokens=False) for i in range(24)]
        rng = torch.Generator().manual_seed(1)
        codes = generator.config.vocabulary.codes
        self.codes = torch.randint(codes, (24, *generator.config.grid), generator=rng)
        self.features = {
            "cls": torch.randn(24, FEATURES, generator=rng),
            "mean": torch.randn(24, FEATURES, generator=rng),
        }

    def __len__(self):
        return 24

    def text_lengths(self, indices):
        return np.array([len(self.ids[i]) for i in indices])

    def rows(self, indices, features=None):
        features = {name: values[indices] for name, values in self.features.items()}
        ids = [self.ids[i] for i in indices]
        return SimpleNamespace(text_ids=ids, codes=self.codes[indices], features=features)


def aligned(generator, **settings):
    return Alignment(AlignmentConfig(**settings), generator.width, FEATURES, seed=1)


def data(generator, **settings):
    config = BatchConfig(**{"size": 6, "packed_length": 48, **settings})
    return RasterBatches(MemoryStore(generator), generator.config.vocabulary, config)


def exported(folder):
    return load_file(folder / "model" / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_alignment_of_weight_zero_is_no_alignment_bit_for_bit(tmp_path):
    runs = {"none": [], "zero": [{"weight": 0.0}], "one": [{"weight": 1.0}]}
    for name, settings in runs.items():
        generator = RasterGenerator.tiny()
        objectives = [NextToken(), ZLoss(), *(aligned(generator, **s) for s in settings)]
        train(generator, objectives, data(generator), FIVE, tmp_path / name)
    assert same(exported(tmp_path / "none"), exported(tmp_path / "zero"))
    assert not same(exported(tmp_path / "none"), exported(tmp_path / "one"))


def test_alignment_is_learned_and_leaves_no_trace_in_the_model(tmp_path):
    generator = RasterGenerator.tiny()
    names = generator.state_dict().keys()
    objective = aligned(generator, layers=(2,))
    config = replace(FIVE, steps=60, checkpoint_every=60)
    report = train(generator, [NextToken(), objective], data(generator), config, tmp_path)
    values = [entry["alignment"] for entry in report.history]
    assert sum(values[-4:]) / 4 < sum(values[:4]) / 4 - 0.1  # 4 batches are an epoch
    assert report.objective_parameters == sum(p.numel() for p in objective.parameters())
    assert RasterGenerator.from_pretrained(tmp_path / "model").state_dict().keys() == names


@pytest.mark.parametrize("accumulation", [1, 3])
def test_padding_packing_and_accumulation_give_the_same_losses(tmp_path, accumulation):
    """The same samples, however they lie in rows and however a step is cut."""
    seen, weights = {}, {}
    for layout in ("right", "left", "packed"):
        generator = RasterGenerator.tiny()
        batches = data(generator, layout=layout, size=6 // accumulation, bucket=1)
        objectives = [NextToken(), ZLoss(), aligned(generator)]
        config = replace(FIVE, steps=2, accumulation=accumulation)
        report = train(generator, objectives, batches, config, tmp_path / layout)
        seen[layout] = report.history
        weights[layout] = exported(tmp_path / layout)
    for layout in ("left", "packed"):
        for a, b in zip(seen["right"], seen[layout], strict=True):
            for name in ("loss", "cross_entropy", "z_loss", "alignment", "grad_norm"):
                assert a[name] == pytest.approx(b[name], rel=1e-4), (layout, name)
        for name, value in weights["right"].items():
            torch.testing.assert_close(weights[layout][name], value, rtol=0, atol=1e-4)


CHANGES = {
    "objectives.alignment.target": {"alignment": {"target": "mean"}},
    "objectives.alignment.similarity": {"alignment": {"similarity": "mse"}},
    "objectives.alignment.schedule": {"alignment": {"schedule": "stop", "until": 3}},
    "generator.language_model.attention_dropout": {"dropout": 0.2},
    "first_batch": {"batches": {"shuffle_features": True}},
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run of five steps that ended after the fourth."""
    folder = tmp_path_factory.mktemp("interrupted")
    generator = RasterGenerator.tiny()
    batches = data(generator)
    real = batches.batch

    def batch(step, *place):
        if step == 4:
            raise KeyboardInterrupt
        return real(step, *place)

    batches.batch = batch
    objectives = [NextToken(), aligned(generator)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        with pytest.raises(KeyboardInterrupt):
            train(generator, objectives, batches, FIVE, folder)
    return folder


@pytest.mark.parametrize("field", CHANGES)
def test_another_objective_model_or_data_is_refused_by_name(interrupted, field):
    change = CHANGES[field]
    generator = RasterGenerator.tiny()
    if "dropout" in change:
        generator.lm.config.attention_dropout = change["dropout"]
    objectives = [NextToken(), aligned(generator, **change.get("alignment", {}))]
    batches = data(generator, **change.get("batches", {}))
    with pytest.raises(InputError, match=f"cannot resume, {field}"):
        train(generator, objectives, batches, FIVE, interrupted)


def test_the_same_run_is_resumed_to_the_same_weights(interrupted, tmp_path):
    for folder in (interrupted, tmp_path):
        generator = RasterGenerator.tiny()
        objectives = [NextToken(), aligned(generator)]
        report = train(generator, objectives, data(generator), FIVE, folder)
        assert report.resumed_from == (4 if folder == interrupted else 0)
    assert same(exported(interrupted), exported(tmp_path))
