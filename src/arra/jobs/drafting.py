"""What drafts pictures on the command line: tri-grams of a store, or a smaller checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from arra.data.store import PreparedStore
from arra.errors import InputError, ProvenanceError
from arra.files import sha256_of_json, to_plain
from arra.generators.base import Generator
from arra.generators.fast import decoding
from arra.jobs.draft_options import DraftOptions
from arra.progress import track
from arra.samplers.speculative import Speculation
from arra.samplers.speculative.drafts import Budget
from arra.samplers.speculative.models import ModelDrafter
from arra.samplers.speculative.ngrams import NgramDrafter
from arra.samplers.speculative.paths import PathRule
from arra.samplers.speculative.sampler import SpeculativeSampler
from arra.samplers.speculative.trigrams import FILE, Trigrams
from arra.samplers.speculative.vectors import PathConfig, SpeculativeVectorSampler
from arra.settings import Decoder, SamplingConfig
from arra.text_to_image import TextToImage, checkpoint_folder

_ROWS = 4096  # pictures whose codes are read at once


def speculative_sampler(
    model: TextToImage,
    checkpoint: Path,
    options: DraftOptions,
    sampling: SamplingConfig,
    decoder: Decoder = "auto",
) -> Speculation:
    """The sampler that these options ask for.

    Raises `InputError` where the model's codes cannot be drafted, `ProvenanceError` where store or
    small model have other codes.
    """
    check_drafted(model, options.draft_nodes)
    budget = Budget(options.draft_nodes, options.draft_nodes)
    if options.drafter == "model":
        if options.draft_from is None:
            raise InputError("--drafter model: name its checkpoint with --draft-from")
        small = TextToImage.from_pretrained(options.draft_from, model.codec.device)
        check_drafted(small, options.draft_nodes)
        if small.generator.config.codec != model.generator.config.codec:
            raise ProvenanceError(
                f"{options.draft_from}: its codes are of another codec than the model's, so that "
                "its guesses mean nothing; train both on one store"
            )
        if model.generator.dimensions:
            return _of_vectors(model.generator, small.generator, options, sampling)
        if small.generator.units != model.generator.units:
            raise InputError(
                f"{options.draft_from}: draws {small.generator.units} codes, the model "
                f"{model.generator.units}"
            )
        units = small.generator.units
        fast = decoding(small.generator, units, decoder=decoder, trees=True).stepper
        return SpeculativeSampler(sampling, ModelDrafter(fast), budget=budget)
    if model.generator.dimensions:
        raise InputError(
            "--drafter ngram: guesses codes, and this model draws vectors; name a smaller one with "
            "--drafter model --draft-from"
        )
    return SpeculativeSampler(
        sampling, NgramDrafter(_trigrams(model, checkpoint, options.draft_from)), budget=budget
    )


def _of_vectors(
    model: Generator, small: Generator, options: DraftOptions, sampling: SamplingConfig
) -> SpeculativeVectorSampler:
    """The small model draws in the steps and rounds of the large one: so cells have one order, and
    denoising paths as many steps."""
    here, there = (
        f"a {one.registered_name} generator of {one.codes_shape} numbers" for one in (model, small)
    )
    if here != there:
        raise InputError(
            f"{options.draft_from}: {there}, the model is {here}; expected two of one kind, which "
            "draw the cells of a picture in the same order"
        )
    chosen = model.config.options
    paced: Any = small.paced(steps=chosen.steps, rounds=chosen.rounds)
    how = PathConfig(
        Budget(options.draft_nodes, options.draft_nodes),
        options.draft_prefill,
        options.draft_last,
        PathRule(options.draft_temperature),
    )
    return SpeculativeVectorSampler(sampling, paced, how)


def check_drafted(model: TextToImage, nodes: int) -> None:
    """`InputError` naming the reason where the model's codes cannot be drafted and verified."""
    generator = model.generator
    if reason := generator.undraftable(len(generator.prompt_ids(None)) + nodes):
        raise InputError(
            f"--sampler speculative: not for a {generator.registered_name} generator; {reason}"
        )


def small_model(sampler: Speculation) -> str:
    """A digest of the weights that have a say in the pictures, and of what else changes these;
    empty where none has."""
    if isinstance(sampler, SpeculativeVectorSampler):
        drafter: Any = sampler.drafter
        return sha256_of_json({"generator": drafter.fingerprint(), "how": to_plain(sampler.how)})
    if not isinstance(sampler.drafter, ModelDrafter):
        return ""
    stepper = sampler.drafter.stepper
    generator = stepper if isinstance(stepper, Generator) else stepper.generator
    return sha256_of_json({"generator": generator.fingerprint()})


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
