"""What an evaluation looks at, and with whose eyes: rows, pictures, encoders, the reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from arra.data.scenes import SceneConfig
from arra.data.store import PreparedStore
from arra.data.subset import Subset, split_rows
from arra.encoders import Encoder, SmallTextEncoder
from arra.errors import InputError, ProvenanceError
from arra.files import read_json
from arra.jobs.options import EncoderOptions
from arra.jobs.parts import PartsFolder, load_encoder, open_clip_config
from arra.jobs.training import RUN
from arra.jobs.validation import Rows
from arra.metrics.frechet import Normalisation
from arra.metrics.image_text import PictureFeatures
from arra.metrics.reader import SceneReader
from arra.metrics.towers import HubTowers, OpenClipTowers, SmallTowers, Towers
from arra.networks.part import config_from_plain
from arra.pixels import stills
from arra.text_to_image import TextToImage, quiet_transformers


@dataclass(frozen=True)
class Ground:
    """The rows that an evaluation stands on."""

    held_out: Rows | None
    """Rows that training never saw, or that the caller names."""
    training: Rows | None
    """Rows that the checkpoint was trained on, where its run is known."""
    trained_on: bool = False
    """Whether `held_out` was trained on: there was nothing else."""

    @property
    def store(self) -> PreparedStore | None:
        """The store behind the rows."""
        rows = self.held_out if self.held_out is not None else self.training
        return rows.store if isinstance(rows, Subset) else rows


def find_ground(checkpoint: Path, store: Path | None, model: TextToImage) -> Ground:
    """Held-out and training rows of the run that `checkpoint` belongs to, or all rows of `store`.

    Raises `ProvenanceError` for a store of another codec than the checkpoint's, or one that changed
    since the run.
    """
    run = _run_of(checkpoint)
    training: Rows | None = None
    held_out: Rows | None = None
    trained_on = False
    if run is not None:
        facts = read_json(run / RUN)
        source = facts["store"]  # None of a run on texts
        if source is not None and (Path(source) / "store.json").is_file():
            whole = PreparedStore.open(source)
            kept, out = split_rows(len(whole), float(facts["held_out_share"]))
            training = Subset(whole, kept)
            held_out = Subset(whole, out) if len(out) else None
            if facts.get("held_out"):
                held_out = PreparedStore.open(facts["held_out"])
    if store is not None:
        named = PreparedStore.open(store)
        mine = training.store if isinstance(training, Subset) else None
        same = mine is not None and mine.provenance.shards == named.provenance.shards
        if not same:  # the run's own store was split already: only what was held out counts
            held_out = named
    if held_out is None and training is not None:
        held_out, trained_on = training, True
    ground = Ground(held_out, training, trained_on)
    if ground.store is not None:
        ground.store.check(codec=model.codec)
    return ground


def reconstructions(model: TextToImage, rows: Rows, most: int) -> np.ndarray:
    """Pictures (n, H, W, 3) uint8 of up to `most` rows, evenly spread, as the codec paints them; of
    clips the middle frames."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return stills(model.paint(rows.rows(chosen).codes))


@dataclass(frozen=True)
class Eye:
    """A network in whose features sets of pictures are compared."""

    name: str
    """With the first digits of its digest."""
    identities: frozenset[str]
    """Digests, and the hub name if it has one, by which an alignment teacher is recognised."""
    see: PictureFeatures
    resizing: str
    """How pictures come to the size that it reads."""
    normalise: Normalisation = "standardise"
    """How its features are scaled before distances."""
    fid: bool = False
    """Whether it is the Inception network with the published weights."""


def seen_by(encoder: Encoder, batch: int = 64) -> Eye:
    """An encoder as an eye: CLS, or the mean of the patches."""
    identity = encoder.identity()
    name = identity.get("model") or identity.get("architecture") or encoder.registered_name
    digest = str(identity.get("weights") or encoder.fingerprint())

    def see(pictures: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(pictures), batch):
            images = [Image.fromarray(picture) for picture in pictures[start : start + batch]]
            with torch.inference_mode():
                found = encoder.encode(encoder.preprocess(images).to(encoder.device))
            parts.append(found.aggregate("cls" if found.cls is not None else "mean").double().cpu())
        return torch.cat(parts).numpy()

    identities = frozenset(str(x) for x in (digest, identity.get("model")) if x)
    resizing = _resizing_words(identity.get("preprocessing") or {})
    return Eye(f"{name}:{digest[:12]}", identities, see, resizing)


def reader_eye(reader: SceneReader) -> Eye:
    """The reader of digit scenes as an eye."""
    digest = reader.fingerprint()
    name = f"scene-reader:{digest[:12]}"
    return Eye(name, frozenset({digest}), reader.features, "none: it reads scenes at their size")


def _resizing_words(preprocessing: Mapping[str, Any]) -> str:
    values = {"fit": "?", "size": "?", "resample": "?", **preprocessing}
    return (
        f"{values['fit']} to {values['size']} pixels, Pillow {values['resample']} with "
        "antialiasing, 8 bits"
    )


def teachers(ground: Ground, checkpoint: Path | None) -> frozenset[str]:
    """Digests and hub names of the encoders that the checkpoint was aligned with.

    Those of its store that a term of its run's alignment names; all of them where the run is not
    known.
    """
    if ground.store is None:
        return frozenset()
    encoders = ground.store.provenance.settings.encoders
    run = None if checkpoint is None else _run_of(checkpoint)
    if run is not None:
        terms = read_json(run / RUN)["settings"]["align"]
        used = {term["encoder"] for term in terms if term["weight"]}
        encoders = {name: found for name, found in encoders.items() if name in used}
    return frozenset(_names_within(encoders))


def _names_within(identity: Any) -> Iterator[str]:
    """Digests and model names anywhere in the identities of encoders."""
    if isinstance(identity, Mapping):
        for key, value in identity.items():
            if key in ("weights", "model") and isinstance(value, str):
                yield value
            else:
                yield from _names_within(value)
    elif isinstance(identity, (list, tuple)):
        for value in identity:
            yield from _names_within(value)


def _run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint belongs to, where it lies in one."""
    return next((p for p in (checkpoint, checkpoint.parent) if (p / RUN).is_file()), None)


def load_towers(name: str, device: str) -> Towers:
    """An encoder that arra trained with captions, a CLIP or SigLIP model of transformers, or one of
    open_clip; by folder or hub name, of open_clip as `load_encoder` names them."""
    folder = Path(name)
    if (folder / "text" / "config.json").is_file():
        eye = seen_by(load_encoder(name, EncoderOptions(), device))
        text = SmallTextEncoder.from_pretrained(folder / "text").to(device)
        return SmallTowers(eye.name, eye.identities, eye.see, text)
    if (open_clip := open_clip_config(name)) is not None:
        return OpenClipTowers(open_clip, device=device)
    with quiet_transformers():
        return HubTowers(name, device=device)


def scene_config(ground: Ground, model: TextToImage) -> SceneConfig:
    """What the scenes of the store look like; the usual ones where there is no store.

    Raises `ProvenanceError` when the checkpoint draws pictures of another size.
    """
    config = SceneConfig()
    if ground.store is not None:
        identity = ground.store.provenance.settings.source.get("identity", {})
        if identity.get("kind") != "digit scenes":
            raise InputError(f"{ground.store.folder}: not made of digit scenes: drop --scenes")
        config = config_from_plain(SceneConfig, dict(identity["config"]), ground.store.folder)
    if model.size != (config.size, config.size):
        raise ProvenanceError(
            f"the checkpoint draws {model.size} pixels, digit scenes have {config.size}"
        )
    return config


def find_reader(
    path: Path | None, cache: Path, config: SceneConfig, seconds: float, steps: int | None
) -> SceneReader:
    """The reader at `path`, or one trained on the training split and kept in `cache`."""
    if path is not None:
        reader = SceneReader.from_pretrained(path)
        if reader.config.scene != config:
            raise ProvenanceError(f"{path}: reads other scenes than {config}")
        return reader
    from arra.metrics.reader_training import train_reader

    def train(folder: Path) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        limit = None if steps is not None else seconds
        reader, report = train_reader(config, generator=generator, seconds=limit, steps=steps)
        reader._save_pretrained(folder)
        return {"steps": report.steps, "seconds": report.seconds, "pictures": report.pictures}

    parts = PartsFolder(cache, {"scene": config}, overwrite=True)
    return SceneReader.from_pretrained(
        parts.make("reader", {"seconds": seconds, "steps": steps}, train)
    )
