"""A data folder in the layouts of the real corpora, of made-up pictures: fast to learn from."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from arra.experiments.corpora.corpus import Corpus
from arra.settings import BatchConfig
from arra.systems.arra.corpora import CORPORA, SCALES, Scale, _llama

COLOURS = {"red": (220, 40, 30), "green": (30, 160, 60), "blue": (40, 80, 220)}


def picture(size: int, colour: str, rng: np.random.Generator) -> np.ndarray:
    """A coloured square somewhere on white."""
    canvas = np.full((size, size, 3), 255, np.uint8)
    side = size // 2
    top, left = rng.integers(0, size - side + 1, 2)
    canvas[top : top + side, left : left + side] = COLOURS[colour]
    return canvas


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + (array.astype(np.uint8).tobytes())
    )


def add(archive: tarfile.TarFile, name: str, data: bytes, **header) -> None:
    """Put a file (or, with `header`, something else) into an archive."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in header.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def splits(count: int) -> list[str]:
    return [("train", "train", "val", "test")[i % 4] for i in range(count)]


def write_emoji(folder: Path, count: int, size: int, rng: np.random.Generator) -> None:
    names = [list(COLOURS)[i] for i in rng.integers(0, 3, count)]
    folder.mkdir(parents=True)
    np.savez(folder / "made.npz", images=np.stack([picture(size, n, rng) for n in names]))
    rows = zip(names, splits(count), strict=True)
    lines = [
        json.dumps({"index": i, "caption": f"a {name} square, number {i % 7}", "split": split})
        for i, (name, split) in enumerate(rows)
    ]
    (folder / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")


def write_xray(folder: Path, count: int, size: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    lines = []
    with tarfile.open(folder / "pictures.tar", "w") as archive:
        for i, split in enumerate(splits(count)):
            grey = picture(size, list(COLOURS)[i % 3], rng).mean(axis=2).astype(np.uint8)
            add(archive, f"{i:04d}.jpg", jpeg(grey))
            caption = f"view {i % 3} of a chest, {'no ' * (i % 2)}finding"
            lines.append(json.dumps({"image": f"{i:04d}.jpg", "caption": caption, "split": split}))
    (folder / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")


def write_cifar(folder: Path, count: int, size: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {"class_names": np.array(list(COLOURS))}
    for split in ("train", "test"):
        labels = rng.integers(0, 3, count)
        arrays[f"x_{split}"] = np.stack([picture(size, list(COLOURS)[n], rng) for n in labels])
        arrays[f"y_{split}"] = labels.astype(np.uint8)
    np.savez_compressed(folder / "made.npz", **arrays)


def write_fashion(folder: Path, count: int, size: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        labels = rng.integers(0, 10, count)
        images = rng.integers(0, 25, (count, size, size)) + 20 * labels[:, None, None]
        for role, array, form in (("images", images, 3), ("labels", labels, 1)):
            path = folder / f"{split}-{role}-idx{form}-ubyte.gz"
            path.write_bytes(gzip.compress(idx(array)))


def write_all(data: Path, count: int = 48, size: int = 16) -> Path:
    """All four folders below `data`; X-rays are twice as large."""
    rng = np.random.default_rng(0)
    write_emoji(data / "emoji", count, size, rng)
    write_xray(data / "chest_xray", count, 2 * size, rng)
    write_cifar(data / "cifar10", count, size, rng)
    write_fashion(data / "fashion_mnist", count, size, rng)
    return data


TINY: Scale = replace(
    SCALES["small"],
    size=replace(_llama(32, 2, 2), positions=96),
    batch=BatchConfig(size=8, bucket=1, multiple=4),
    steps=6,
    codec=30,
    codec_width=16,
    towers=6,
    towers_batch=16,
    look=16,
)


def tiny_corpus(name: str, size: int = 16) -> Corpus:
    """The recipe `name`, so small that seconds are enough, for the pictures of `write_all`."""
    corpus = CORPORA[name](TINY)
    start = corpus.start
    if start is not None:
        start = replace(start, corpus=tiny_corpus(start.corpus.name, size))
        size *= 2
    drawing = replace(
        corpus.drawing, prompts=24, diversity_prompts=2, diversity_pictures=2, shown=3
    )
    seen = replace(corpus.encoder.preprocessing, size=16)
    autoencoder = replace(corpus.codec.autoencoder, downsample=4)
    return replace(
        corpus,
        size=size,
        start=start,
        codec=replace(corpus.codec, autoencoder=autoencoder, vocabulary=32),
        encoder=replace(corpus.encoder, width=16, dim=8, downsample=4, preprocessing=seen),
        judge=replace(corpus.judge, width=8, dim=8, downsample=4, preprocessing=seen),
        vocabulary=300,
        drawing=drawing,
    )
