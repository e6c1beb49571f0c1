"""The paper's ablations as studies: each row says what differs from the recipe's alignment.

The paper's numbers are FIDs of chest X-rays drawn by a model of seven billion parameters: another
scale, so only their order can be compared with what is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from arra.codecs.recipes import scene_codec
from arra.codecs.vq import VQConfig
from arra.data.scenes import SceneConfig
from arra.encoders.preprocessing import Preprocessing
from arra.encoders.training import EncoderTraining
from arra.errors import InputError
from arra.experiments.grid import Study, Variation, vary
from arra.experiments.scene_cells import SceneSetting
from arra.jobs.ablating import StoreSetting
from arra.jobs.model import StartingPoint
from arra.jobs.training import Training
from arra.settings import BatchConfig
from arra.systems.arra.recipe import ALIGNMENT, RECIPES
from arra.systems.arra.ways import VECTOR_WAYS, WAYS, Way
from arra.training.config import TrainConfig

STEPS = 300
"""Training steps of a cell: half of the claim's, so that a table takes minutes."""
EVALUATIONS = 12
"""Measurements of held-out bits in the course of a training."""

NONE = Variation("none", {"alignment": None})
_FID = "FID on MIMIC-CXR, ARRA (ARRA-Adapt)"


def base(budget: str = "full", steps: int | None = None) -> SceneSetting:
    """The recipe's alignment, trained for fewer steps and judged on fewer pictures."""
    recipe = RECIPES[budget]()
    count = steps if steps is not None else {"full": STEPS, "tiny": 24}[budget]
    return SceneSetting(
        bench=replace(recipe.bench, aggregations=("cls", "mean", "patches")),
        plan=replace(recipe.plan, train=_shorter(recipe.plan.train, count), watch=_watched(budget)),
        judge=replace(recipe.judge, **_JUDGED[budget]),
        alignment=ALIGNMENT,
    )


def base_of_store(store: Path, lm: str | None = None, steps: int | None = None) -> StoreSetting:
    """The recipe's alignment on a prepared store, with a small Llama or a language model `lm`."""
    count = steps if steps is not None else 2000
    train = TrainConfig(
        steps=count,
        learning_rate=1e-3 if lm is None else 1e-4,
        schedule="cosine",
        warmup=count // 20,
        validate_every=_every(count),
    )
    training = Training(
        store, Path(), StartingPoint(lm), training=train, batch=BatchConfig(size=32)
    )
    return StoreSetting(training, ALIGNMENT)


def _every(steps: int) -> int:
    if steps < EVALUATIONS:
        raise InputError(f"steps: {steps}, expected at least {EVALUATIONS}")
    return steps // EVALUATIONS


def _shorter(train: TrainConfig, steps: int) -> TrainConfig:
    return replace(
        train,
        steps=steps,
        warmup=steps // 6,
        validate_every=_every(steps),
        checkpoint_every=max(1, steps // 3),
        compile=False,  # takes longer than it saves in so few steps
    )


def _watched(budget: str) -> int:
    return {"full": 256, "tiny": 32}[budget]


_JUDGED: dict[str, dict] = {
    "full": {"prompts": 128, "real": 512, "diversity_prompts": 8, "diversity_pictures": 2},
    "tiny": {"prompts": 16},
}


def _encoder(objective: str) -> dict[str, object]:
    return {"bench.encoder_training.objective": objective}


_UNTRAINED = {
    # one step of size zero: the encoder keeps the random weights that it began with
    "bench.encoder_training": EncoderTraining(objective="masked", steps=1, learning_rate=0.0)
}
_LARGE = {
    "bench.scene": SceneConfig(size=48, digit=24, step=24),
    "bench.encoder.preprocessing": Preprocessing(size=48),
    "plan.sizes.llama.positions": 256,
}
COARSE = scene_codec(downsample=6, vocabulary=2048)
"""Sixteen codes a picture: also for the generators of vectors, of which there are many."""
_COARSE = {"bench.codec": COARSE}


def _generators() -> tuple[Variation, ...]:
    """Every generator without and with alignment, at equal parameters."""
    rows = _pair("raster", {})
    for name, way in WAYS.items():
        rows += _pair(name, changes_of(way))
    # the control stands where alignment was found to help: is it the target that helps?
    return (*rows, _shuffled("bits", rows[-1]))


_CONTROLLED = ("masked-vectors", "entities")
"""A law of single vectors, and one of entities."""


def _vector_generators() -> tuple[Variation, ...]:
    """Every generator of vectors without alignment and with it; some also with that to wrong
    pictures, as the control."""
    rows: tuple[Variation, ...] = ()
    for name, way in VECTOR_WAYS.items():
        alone, aligned = _pair(name, changes_of(way, COARSE))
        rows += (alone, aligned)
        if name in _CONTROLLED:
            rows += (_shuffled(name, aligned),)
    return rows


def changes_of(way: Way, codec: VQConfig | None = None) -> dict[str, Any]:
    """What differs from the recipe of the raster generator, or from that with another codec."""
    recipe = RECIPES["full"]()
    codec, llama = codec or recipe.bench.codec, recipe.plan.sizes.llama
    side = recipe.bench.scene.size // codec.autoencoder.downsample
    changes = dict(way.changes(codec, side, llama))
    return {"bench.codec": changes.pop("codec"), **changes}


def _shuffled(name: str, aligned: Variation) -> Variation:
    return replace(aligned, name=f"{name}, shuffled", changes={**aligned.changes, "shuffled": True})


def _pair(name: str, changes: Mapping[str, Any]) -> tuple[Variation, ...]:
    """A generator without and with alignment."""
    alone = f"{name}, none"
    return (
        Variation(alone, {**changes, "alignment": None}, baseline=alone),
        Variation(f"{name}, aligned", changes, baseline=alone),
    )


_STUDIES = (
    Study(
        "mechanism",
        "Which positions are aligned, and with what?",
        (
            replace(NONE, paper="7.11 (5.10)"),
            Variation("rep", {"alignment.positions": "rep"}, paper="6.26 (4.85)"),
            Variation("hybnext", paper="5.30 (4.15)"),
            Variation("patch", {"alignment.target": "patch"}),
            Variation("shuffled", {"shuffled": True}),
        ),
        _FID,
    ),
    Study(
        "aggregation",
        "Which feature of the picture is the target?",
        (
            replace(NONE, paper="7.11"),
            Variation("cls", {"alignment.target": "cls"}, paper="5.30"),
            Variation("mean", {"alignment.target": "mean"}, paper="6.56"),
            Variation("both", {"alignment.target": "both"}, paper="5.93"),
            Variation("attention", {"alignment.target": "attention"}),
        ),
        "FID on MIMIC-CXR, ARRA",
    ),
    Study(
        "encoder",
        "What did the encoder learn?",
        (
            replace(NONE, paper="7.11 (5.10)"),
            Variation("masked", _encoder("masked"), paper="Med-SAM 6.54 (4.08)"),
            Variation("contrastive", _encoder("contrastive"), paper="BioMedCLIP 5.30 (4.15)"),
            Variation("instance", _encoder("instance")),
            Variation("masked+contrastive", _encoder("masked+contrastive")),
            Variation("untrained", _UNTRAINED),
        ),
        f"{_FID}; CLIP-L 5.16 (4.63)",
    ),
    Study(
        "projector",
        "Which network carries hidden states to the feature's space?",
        (
            replace(NONE, paper="7.11"),
            Variation("mlp", {"alignment.projector": "mlp"}, paper="5.30"),
            Variation("linear", {"alignment.projector": "linear"}),
            Variation("pool", {"alignment.projector": "pool"}, paper="5.37"),
            Variation("mlp3", {"alignment.projector": "mlp3"}),
        ),
        "FID on MIMIC-CXR, ARRA",
    ),
    Study(
        "weight",
        "How much does the alignment weigh (lambda)?",
        (
            replace(NONE, paper="7.11"),
            *(
                replace(variation, paper=paper)
                for variation, paper in zip(
                    vary("alignment.weight", (0.25, 0.5, 1.0, 2.0)),
                    ("", "6.22", "5.30", "6.12"),
                    strict=True,
                )
            ),
        ),
        "FID on MIMIC-CXR, ARRA (0.8: 5.38, 1.5: 5.87)",
    ),
    Study(
        "similarity",
        "How are projection and feature compared?",
        (
            replace(NONE, paper="7.11"),
            Variation("cosine", {"alignment.similarity": "cosine"}, paper="5.30"),
            Variation("mse", {"alignment.similarity": "mse"}, paper="5.32"),
        ),
        "FID on MIMIC-CXR, ARRA",
    ),
    Study(
        "depth",
        "After which of the blocks? (The paper: of 32; here of 5.)",
        (
            replace(NONE, paper="7.11 (5.10)"),
            *(
                Variation(str(layer), {"alignment.layers": (layer,)}, paper=paper)
                for layer, paper in (
                    (1, "layer 1: 5.30 (4.15)"),
                    (2, "layer 5: 6.21 (4.58)"),
                    (3, "layer 20: 5.70 (4.46)"),
                    (4, "layer 30: 5.04 (4.51)"),
                    (5, "layer 31: 5.71 (4.53)"),
                )
            ),
        ),
        _FID,
    ),
    Study(
        "resolution",
        "How many codes has a picture? (144: 48 pixels instead of 24. The paper: 512 and 256.)",
        (
            replace(NONE, paper="512 px: 7.11"),
            Variation("36 codes", paper="512 px: 5.30"),
            Variation(
                "none (16 codes)",
                {**_COARSE, "alignment": None},
                baseline="none (16 codes)",
                paper="256 px: 9.42",
            ),
            Variation("16 codes", _COARSE, baseline="none (16 codes)", paper="256 px: 6.11"),
            Variation(
                "none (144 codes)",
                {**_LARGE, "alignment": None},
                baseline="none (144 codes)",
            ),
            Variation("144 codes", _LARGE, baseline="none (144 codes)"),
        ),
        "FID on MIMIC-CXR, ARRA",
    ),
    Study(
        "generators",
        "Does alignment help whatever is drawn next?",
        _generators(),
    ),
    Study(
        "vectors",
        "Does alignment help where what is drawn next are vectors?",
        _vector_generators(),
        law="loss of vectors",
    ),
)
STUDIES: dict[str, Study] = {study.name: study for study in _STUDIES}
"""The studies by name. A new table is a new entry, a new row a new `Variation`."""


def choose(names: Sequence[str]) -> list[Study]:
    """The studies of these names, "all" for all of them; `InputError` with those that exist."""
    if list(names) == ["all"]:
        return list(STUDIES.values())
    for name in names:
        if name not in STUDIES:
            raise InputError(f"no study is named {name!r}; there are: {', '.join(STUDIES)}, all")
    return [STUDIES[name] for name in dict.fromkeys(names)]
