"""From a store to something that can be trained on it: the generator and its objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from arra.codecs.native import native_codec
from arra.data.store import PreparedStore
from arra.data.tokenizer import tokenizer_fingerprint
from arra.errors import InputError, ProvenanceError
from arra.files import read_json
from arra.generators.adapted import ADAPTER_FILE
from arra.generators.base import Generator
from arra.generators.raster import SIDE_FILE, RasterGenerator
from arra.jobs.parts import load_language_model, load_tokenizer
from arra.objectives.alignment import alignments
from arra.objectives.base import Objective
from arra.objectives.laws import own_objectives
from arra.registry import generators
from arra.settings import AdapterConfig, AlignmentConfig, RowInit, Sizes
from arra.text_to_image import CODEC

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StartingPoint:
    """Which language model learns to draw, and how much of it is trained."""

    lm: str | None = None
    """Folder or hub name of a pretrained causal language model; None begins with random weights."""
    generator: str = "raster"
    """Registered name of what learns to draw, where it is made; over `lm` it is raster."""
    sizes: Sizes = field(default_factory=Sizes)
    """Its size, if it is made."""
    rows: RowInit = "mean"
    """How rows of new tokens are made: near the mean of the old ones, or spread as they are."""
    chat: bool = False
    """Whether captions are a user's turn in the tokenizer's chat template."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """How the pretrained weights are adapted."""

    def __post_init__(self) -> None:
        asked = {f"adapter.kind {self.adapter.kind}": self.adapter.kind != "none"}
        asked["chat"] = self.chat
        for name, given in asked.items():
            if given and self.lm is None:
                raise InputError(
                    f"{name}: is for a pretrained language model; name one with --lm, or leave it "
                    "out"
                )
        if self.generator not in generators:
            raise InputError(
                f"generator: {self.generator!r}, expected one of {', '.join(generators)}"
            )
        if self.lm is not None and self.generator != "raster":
            raise InputError(
                f"generator {self.generator}: a pretrained language model (--lm) draws in raster "
                "order; leave one of the two out"
            )


def build_generator(store: PreparedStore, start: StartingPoint, seed: int) -> Generator:
    """A generator over the store's tokenizer and codes: `lm` extended, or one from scratch.

    Raises `ProvenanceError` when the store was prepared with another tokenizer than that of `lm`,
    or `lm` draws codes of another codec; `InputError` when `lm` cannot be loaded or is made for
    shorter sequences.
    """
    tokenizer = store.tokenizer()
    codec = str(store.provenance.settings.codec["fingerprint"])
    lm, longest = start.lm, store.longest_text()
    if lm is None:
        own = store.codec()
        grid = own.grid or store.grid
        kind = generators[start.generator]
        return kind.for_store(tokenizer, own, grid, start.sizes, seed=seed, longest=longest)
    if (Path(lm) / ADAPTER_FILE).is_file():
        raise InputError(f"{lm}: holds an adapter only; `arra export` makes a language model of it")
    theirs, recorded = load_tokenizer(lm), store.provenance.settings.tokenizer["fingerprint"]
    if tokenizer_fingerprint(theirs) != recorded:
        raise ProvenanceError(
            f"{store.folder}: its captions were read by another tokenizer than that of {lm}; "
            f"prepare it again with --tokenizer {lm}"
        )
    model = load_language_model(lm)
    _check_origin(store, model, start, codec)
    generator = RasterGenerator.from_language_model(
        model,
        tokenizer,
        store.vocabulary,
        store.grid,
        seed=seed,
        codec=codec,
        rows=start.rows,
        chat=start.chat,
    )
    _check_positions(model, generator.length(longest), lm)
    base = str(Path(lm).absolute()) if Path(lm).is_dir() else lm
    generator.adapt(start.adapter, base=base, rows=start.rows, seed=seed)
    return generator


def _check_origin(
    store: PreparedStore, model: PreTrainedModel, start: StartingPoint, codec: str
) -> None:
    """A model that draws already knows the codes of one codec, and captions in one setting."""
    lm = str(start.lm)
    own, side = native_codec(model, lm), Path(lm) / SIDE_FILE
    if own is not None:
        theirs, place = own.fingerprint(), lm
    elif side.is_file():
        theirs, place = str(read_json(side)["codec"]), str(Path(lm) / CODEC)
    else:
        return
    if theirs != codec:
        raise ProvenanceError(
            f"{store.folder}: its pictures were encoded by another codec ({codec[:12]}) than the "
            f"one whose codes {lm} draws ({theirs[:12]}); prepare it again with --codec {place}"
        )
    if side.is_file() and read_json(side)["vocabulary"].get("before") and not start.chat:
        raise InputError(f"{lm}: was trained with captions as turns of a chat; add --chat")


def build_objectives(
    store: PreparedStore,
    generator: Generator,
    align: Sequence[AlignmentConfig],
    z_loss: float,
    seed: int,
) -> list[Objective]:
    """What the generator's laws lose, and alignment and z-loss where their weights are not 0.

    Raises `InputError` when the store lacks the features that the alignment needs.
    """
    found = own_objectives(generator, z_loss)
    shapes = store.provenance.feature_shapes
    try:
        found += alignments(align, shapes, generator.width, generator.grids, seed=seed)
    except InputError as error:
        raise InputError(
            f"{store.folder}: {error}. Prepare it with --encoder or --train-encoder (and "
            "--aggregations cls mean patches, whichever are needed), or train with --no-align"
        ) from error
    return found


def _check_positions(model: PreTrainedModel, longest: int, name: str) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise InputError(
            f"{name}: made for {positions} positions, but the longest row of the store needs "
            f"{longest}: caption, control tokens and picture codes. Prepare the store with a "
            "coarser codec (--codec.downsample), a smaller --size or shorter captions"
        )


def check_window(generator: Generator, store: PreparedStore, layout: str) -> None:
    """`InputError` where samples are longer than the window of a model's sliding attention.

    Padding on the right leaves masks to the model; the other layouts write them out, whole.
    """
    if not isinstance(generator, RasterGenerator):
        return
    text = generator.lm.config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if "sliding_attention" not in (getattr(text, "layer_types", None) or ["sliding_attention"]):
        return
    longest = generator.length(store.longest_text())
    if layout != "right" and window and longest > window:
        raise InputError(
            f"BatchConfig.layout: {layout!r}, but the language model attends within {window} "
            f"positions only, and the longest row has {longest}; use --batch.layout right"
        )
