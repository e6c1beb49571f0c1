"""What drafts pictures on the command line: tri-grams, a smaller checkpoint, a trained drafter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from arra.data.store import PreparedStore
from arra.errors import InputError, ProvenanceError
from arra.files import read_json, sha256_of_json, to_plain
from arra.generators.base import Generator
from arra.generators.fast import decoding
from arra.generators.features import CodeTables, check_target
from arra.generators.raster import RasterGenerator
from arra.jobs.draft_options import DraftOptions
from arra.networks.feature_predictor import FeaturePredictor
from arra.networks.part import tensors_fingerprint
from arra.progress import track
from arra.samplers.speculative import Speculation
from arra.samplers.speculative.drafts import Budget, Drafter
from arra.samplers.speculative.feature_trees import DynamicFeatureDrafter, StaticFeatureDrafter
from arra.samplers.speculative.features import FeatureDrafter
from arra.samplers.speculative.models import ModelDrafter
from arra.samplers.speculative.ngrams import NgramDrafter
from arra.samplers.speculative.paths import PathRule
from arra.samplers.speculative.rules import Match, Relaxed, RelaxedGreedy, nearest
from arra.samplers.speculative.sampler import SpeculativeSampler
from arra.samplers.speculative.trees import TreeShape
from arra.samplers.speculative.trigrams import FILE, Trigrams
from arra.samplers.speculative.vectors import PathConfig, SpeculativeVectorSampler
from arra.settings import Decoder, SamplingConfig
from arra.text_to_image import TextToImage, checkpoint_folder

DRAFTER = "drafter"
"""In a checkpoint's folder, that of its drafter."""
_ROWS = 4096  # pictures whose codes are read at once
_DEPTH = 5  # of a drafter's trees, as in EAGLE's released code
_NEIGHBOURS = 1000  # that may lend, as in LANTERN's


def speculative_sampler(
    model: TextToImage,
    checkpoint: Path,
    options: DraftOptions,
    sampling: SamplingConfig,
    decoder: Decoder = "auto",
) -> Speculation:
    """The sampler that these options ask for.

    Raises `InputError` where the model's codes cannot be drafted, or are to borrow and have no
    vectors, `ProvenanceError` where store, small model or drafter belong to other codes.
    """
    check_drafted(model, options.draft_nodes)
    if model.generator.dimensions:
        return _of_vectors(model, options, sampling)
    budget = Budget(options.draft_nodes, options.draft_nodes)
    rule = _relaxed(model, options, sampling) if options.relaxed else None
    drafter = _DRAFTERS[options.drafter](model, checkpoint, options, decoder)
    return SpeculativeSampler(sampling, drafter, rule, budget)


def _of_vectors(
    model: TextToImage, options: DraftOptions, sampling: SamplingConfig
) -> SpeculativeVectorSampler:
    """The small model draws in the steps and rounds of the large one: so cells have one order, and
    denoising paths as many steps."""
    if options.drafter != "model" or options.relaxed:
        raise InputError(
            f"--drafter {options.drafter}{', --relax' * options.relaxed}: for codes, and this "
            "model draws vectors; name a smaller one with --drafter model --draft-from"
        )
    small = _checkpoint(model, options)
    here, there = (
        f"a {one.registered_name} generator of {one.codes_shape} numbers"
        for one in (model.generator, small)
    )
    if here != there:
        raise InputError(
            f"{options.draft_from}: {there}, the model is {here}; expected two of one kind, which "
            "draw the cells of a picture in the same order"
        )
    chosen = model.generator.config.options
    paced: Any = small.paced(steps=chosen.steps, rounds=chosen.rounds)
    how = PathConfig(
        Budget(options.draft_nodes, options.draft_nodes),
        options.draft_prefill,
        options.draft_last,
        PathRule(options.draft_temperature),
    )
    return SpeculativeVectorSampler(sampling, paced, how)


def _checkpoint(model: TextToImage, options: DraftOptions) -> Generator:
    """The smaller model, of the same codes."""
    if options.draft_from is None:
        raise InputError("--drafter model: name its checkpoint with --draft-from")
    small = TextToImage.from_pretrained(options.draft_from, model.codec.device)
    check_drafted(small, options.draft_nodes)
    if small.generator.config.codec != model.generator.config.codec:
        raise ProvenanceError(
            f"{options.draft_from}: its codes are of another codec than the model's, so that "
            "its guesses mean nothing; train both on one store"
        )
    return small.generator


def _relaxed(model: TextToImage, options: DraftOptions, sampling: SamplingConfig) -> Relaxed:
    vectors = model.codec.code_vectors()
    wanted = _NEIGHBOURS if options.relax_neighbours is None else options.relax_neighbours
    neighbours = nearest(vectors, min(wanted, len(vectors) - 1))
    kind = RelaxedGreedy if sampling.temperature == 0.0 else Relaxed
    return kind(neighbours, options.relax_delta or 0.0, options.relax_ratio)


def _small(
    model: TextToImage, checkpoint: Path, options: DraftOptions, decoder: Decoder
) -> ModelDrafter:
    small = _checkpoint(model, options)
    if small.units != model.generator.units:
        raise InputError(
            f"{options.draft_from}: draws {small.units} codes, the model {model.generator.units}"
        )
    return ModelDrafter(decoding(small, small.units, decoder=decoder, trees=True).stepper)


def _eagle(
    model: TextToImage, checkpoint: Path, options: DraftOptions, decoder: Decoder
) -> FeatureDrafter:
    if not isinstance(model.generator, RasterGenerator):
        raise InputError(
            f"--drafter eagle: for raster generators, this is a {model.generator.registered_name} "
            "generator; take ngram or model"
        )
    folder = drafter_folder(checkpoint, options.draft_from)
    network = FeaturePredictor.from_pretrained(folder)
    check_target(network, model.generator, folder)
    ends = network.to(model.generator.device), CodeTables(model.generator)
    depth = options.draft_depth or _DEPTH
    if options.tree == "static":
        return StaticFeatureDrafter(*ends, TreeShape.likely(max(options.draft_nodes, 1), depth))
    return DynamicFeatureDrafter(*ends, depth)


def drafter_folder(checkpoint: Path, named: Path | None) -> Path:
    """Where the drafter lies: in a folder that is named, a run of `arra draft`, or beside the
    checkpoint; `InputError` where there is none."""
    places = (
        [checkpoint_folder(checkpoint) / DRAFTER]
        if named is None
        else [named, named / "model", named / DRAFTER]
    )
    for place in places:
        config = place / "config.json"
        saved = read_json(config) if config.is_file() else None
        if isinstance(saved, dict) and saved.get("kind") == FeaturePredictor.registry.kind:
            return place
    raise InputError(
        f"{named or places[0]}: no drafter here; train one with `arra draft {checkpoint} --store "
        "STORE --out RUN`"
    )


def _ngrams(
    model: TextToImage, checkpoint: Path, options: DraftOptions, decoder: Decoder
) -> NgramDrafter:
    return NgramDrafter(_trigrams(model, checkpoint, options.draft_from))


_DRAFTERS: dict[str, Callable[[TextToImage, Path, DraftOptions, Decoder], Drafter]] = {
    "ngram": _ngrams,
    "model": _small,
    "eagle": _eagle,
}


def check_drafted(model: TextToImage, nodes: int) -> None:
    """`InputError` naming the reason where the model's codes cannot be drafted and verified."""
    generator = model.generator
    if reason := generator.undraftable(len(generator.prompt_ids(None)) + nodes):
        raise InputError(
            f"--sampler speculative: not for a {generator.registered_name} generator; {reason}"
        )


def decisive(sampler: Speculation) -> dict[str, Any]:
    """Of drafter and rule what has a say in the pictures, by the names that records have for it:
    nothing where they are those of plain drawing."""
    if isinstance(sampler, SpeculativeVectorSampler):
        drafter: Any = sampler.drafter
        told = {"generator": drafter.fingerprint(), "how": to_plain(sampler.how)}
        return {"drafter": sha256_of_json(told)}
    rule, found = sampler.rule, dict[str, Any]()
    if isinstance(rule, Relaxed):
        # a digest of who may lend to whom, of which there may be millions
        lenders = tensors_fingerprint({"neighbours": rule.neighbours})
        bound = {"delta": rule.delta} if rule.ratio is None else {"ratio": rule.ratio}
        found["rule"] = {"relaxed": bound, "neighbours": lenders}
        found["drafter"] = sha256_of_json([_identity(sampler.drafter), to_plain(sampler.budget)])
    elif isinstance(sampler.drafter, ModelDrafter):
        found["drafter"] = sha256_of_json(_identity(sampler.drafter))
    elif not isinstance(rule, Match):
        found["drafter"] = sha256_of_json([_identity(sampler.drafter), to_plain(sampler.budget)])
    return found


def _identity(drafter: Drafter) -> Any:
    """What a drafter's guesses depend on, as plain values."""
    match drafter:
        case ModelDrafter():
            stepper = drafter.stepper
            generator = stepper if isinstance(stepper, Generator) else stepper.generator
            return {"generator": generator.fingerprint()}
        case StaticFeatureDrafter():
            return {"network": drafter.network.fingerprint(), "shape": drafter.shape.parents}
        case DynamicFeatureDrafter():
            grown = {"depth": drafter.depth, "width": drafter.width}
            return {"network": drafter.network.fingerprint(), **grown}
        case NgramDrafter():
            return {"table": drafter.table.fingerprint(), "config": to_plain(drafter.config)}
    raise InputError(f"{type(drafter).__name__}: a drafter that records do not know")


def _trigrams(model: TextToImage, checkpoint: Path, store: Path | None) -> Trigrams:
    """Those of a store, which are then kept beside the checkpoint; those that are; or none."""
    path = checkpoint_folder(checkpoint) / FILE
    notes = {"codec": model.generator.config.codec}
    if store is None:
        return Trigrams.load(path, notes) if path.is_file() else Trigrams.empty()
    opened = PreparedStore.open(store)
    opened.check(codec=model.codec)
    table = Trigrams.counted(_codes(opened), model.generator.codes)
    table.save(path, notes)
    return table


def _codes(store: PreparedStore) -> Iterator[np.ndarray]:
    """(n, units) codes of the pictures, some at a time."""
    with track("count", len(store)) as task:
        for start in range(0, len(store), _ROWS):
            rows = range(start, min(start + _ROWS, len(store)))
            yield store.rows(rows, features=[]).codes.flatten(1).numpy()
            task.advance(len(rows))
