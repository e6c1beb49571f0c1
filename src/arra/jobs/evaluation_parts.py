"""What an evaluation looks at, and with whose eyes: rows, pictures, encoders, the reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from arra.data.rows import BadRow
from arra.data.scenes import SceneConfig
from arra.data.store import PreparedStore
from arra.data.subset import Subset, split_rows
from arra.encoders import Encoder, SmallTextEncoder
from arra.errors import InputError, ProvenanceError
from arra.files import read_json
from arra.jobs.generation import MANIFEST
from arra.jobs.options import EncoderOptions
from arra.jobs.parts import PartsFolder, load_encoder
from arra.jobs.training import RUN
from arra.jobs.validation import Rows
from arra.metrics.reader import SceneReader
from arra.networks.part import config_from_plain
from arra.text_to_image import TextToImage, quiet_transformers

See = Callable[[np.ndarray], np.ndarray]
"""Pictures (N, H, W, 3) uint8 to features (N, d)."""


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
    run = next((p for p in (checkpoint, checkpoint.parent) if (p / RUN).is_file()), None)
    training: Rows | None = None
    held_out: Rows | None = None
    trained_on = False
    if run is not None:
        facts = read_json(run / RUN)
        source = Path(facts["store"])
        if (source / "store.json").is_file():
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
    """Pictures (n, H, W, 3) uint8 of up to `most` rows, evenly spread, as the codec paints them."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return model.paint(rows.rows(chosen).codes)


def read_pictures(folder: Path, size: tuple[int, int]) -> tuple[np.ndarray, list[str], list[int]]:
    """Pictures, prompts and seeds that `arra generate` left in a folder.

    Raises `InputError` where one is missing, damaged or of another size.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{folder}: no {MANIFEST} here; expected a folder that arra generate made")
    pictures, prompts, seeds = [], [], []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            path = folder / Path(str(entry["file"])).name
            with Image.open(path, formats=["PNG"]) as image:
                picture = np.asarray(image.convert("RGB"))
            prompts.append(str(entry["prompt"]))
            seeds.append(int(entry["seed"]))
        except (OSError, ValueError, KeyError, TypeError, BadRow) as error:
            raise InputError(f"{manifest} line {number}: {error!r}") from error
        if picture.shape[:2] != size:
            raise InputError(f"{path}: {picture.shape[:2]} pixels, the checkpoint draws {size}")
        pictures.append(picture)
    if not pictures:
        raise InputError(f"{manifest}: lists no picture")
    return np.stack(pictures), prompts, seeds


def seen_by(encoder: Encoder, batch: int = 64) -> tuple[str, See]:
    """The name of an encoder with its digest, and its features: CLS, or the mean of the patches."""
    identity = encoder.identity()
    name = identity.get("model") or identity.get("architecture") or encoder.registered_name
    digest = str(identity.get("weights") or encoder.fingerprint())[:12]

    def see(pictures: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(pictures), batch):
            images = [Image.fromarray(picture) for picture in pictures[start : start + batch]]
            with torch.inference_mode():
                found = encoder.encode(encoder.preprocess(images).to(encoder.device))
            parts.append(found.aggregate("cls" if found.cls is not None else "mean").double().cpu())
        return torch.cat(parts).numpy()

    return f"{name}:{digest}", see


@dataclass(frozen=True)
class Towers:
    """A picture tower and a caption tower that were trained together."""

    name: str
    see: See
    read: Callable[[list[str]], np.ndarray]
    """N captions to features (N, d)."""


def load_towers(name: str, device: str) -> Towers:
    """A CLIP model of transformers in a folder, or an encoder that arra trained with captions."""
    folder = Path(name)
    if (folder / "text" / "config.json").is_file():
        label, see = seen_by(load_encoder(name, EncoderOptions(), device))
        text = SmallTextEncoder.from_pretrained(folder / "text").to(device)

        def read(captions: list[str]) -> np.ndarray:
            with torch.no_grad():
                return text(captions).double().cpu().numpy()

        return Towers(label, see, read)
    from arra.metrics.image_text import ClipTowers

    with quiet_transformers():
        try:
            clip = ClipTowers(folder)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: no CLIP model that transformers can load") from error
    return Towers(clip.name, clip.picture_features, lambda texts: clip.text_features(texts))


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
