"""How fast pictures become a prepared store, beside the loop that one would write."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arra.experiments.speed.counted import operations, peak_memory
from arra.experiments.speed.measure import Case, Contender, Work

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from arra.codecs.vq import VQCodec
    from arra.data.rows import Limits
    from arra.data.tokenizer import CaptionEncoder
    from arra.encoders.small import SmallEncoder

QUESTION = "How many pictures a second are decoded, resized, encoded and stored?"
_BATCH = 64
_PROCESSES = 2


def cases(budget: str, folder: Path) -> Iterator[Callable[[], Case]]:
    """Large JPEGs (decoding counts), small PNGs (networks count), and memory over many rows."""
    tiny = budget == "tiny"
    shapes = [
        _Pictures("JPEG", (512, 384), 64, 4 if tiny else 768),
        _Pictures("PNG", (64, 64), 64, 4 if tiny else 1536),
    ]
    for pictures in shapes:
        yield partial(_throughput, pictures, folder)
    rows = (32, 64) if tiny else (1_000, 10_000, 100_000)
    yield partial(_memory, rows, folder)


@dataclass(frozen=True)
class _Pictures:
    format: str
    size: tuple[int, int]
    side: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.format} of {self.size[0]} x {self.size[1]}"


def _photo(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise of all scales, as photographs have it: their files are about as large."""
    import numpy as np
    from PIL import Image

    total = np.zeros((height, width, 3))
    for octave in range(2, 8):
        cells = 2**octave
        coarse = rng.integers(0, 256, (max(2, cells * height // width), cells, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(smooth, dtype=np.float64) - 128) * 0.6 / 2 ** (0.8 * (octave - 2))
    return Image.fromarray(np.clip(128 + total, 0, 255).astype(np.uint8))


def _write(pictures: _Pictures, folder: Path) -> Path:
    """A folder of picture files with a `captions.jsonl`."""
    import numpy as np

    root = folder / f"{pictures.format}-{pictures.size[0]}-{pictures.count}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    rng = np.random.default_rng(0)
    photos = [_photo(rng, *pictures.size) for _ in range(min(pictures.count, 16))]
    lines = []
    for number, photo in zip(range(pictures.count), itertools.cycle(photos), strict=False):
        name = f"{number:05d}.{pictures.format.lower()}"
        photo.save(root / name, quality=90)  # which a PNG does not have, and ignores
        lines.append(json.dumps({"image": name, "caption": f"picture number {number % 97}"}))
    (root / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return root


@dataclass
class _Parts:
    """Codec, encoder and tokenizer, with random weights: speed does not depend on them."""

    side: int
    codec: VQCodec = field(init=False)
    encoder: SmallEncoder = field(init=False)
    tokenizer: Any = field(init=False)
    captions: CaptionEncoder = field(init=False)

    def __post_init__(self) -> None:
        from arra.codecs.recipes import scene_codec
        from arra.codecs.vq import VQCodec
        from arra.data.tokenizer import CaptionEncoder, train_text_tokenizer
        from arra.encoders.preprocessing import Preprocessing
        from arra.encoders.small import SmallConfig, SmallEncoder

        self.codec = VQCodec.seeded(scene_codec(), 0).eval()
        preprocessing = Preprocessing(size=self.side)
        self.encoder = SmallEncoder.seeded(SmallConfig(preprocessing=preprocessing), 0)
        texts = [f"picture number {number}" for number in range(97)]
        self.tokenizer = train_text_tokenizer(texts, kind="word")
        self.captions = CaptionEncoder.of(self.tokenizer)

    def encode(self, images: list[Image.Image], captions: list[str]) -> dict[str, Any]:
        """What the store holds of fitted pictures, by the simplest calls."""
        import numpy as np
        import torch

        from arra.pixels import to_unit

        with torch.inference_mode():
            codes = self.codec.encode(to_unit(np.stack([np.asarray(image) for image in images])))
            features = self.encoder.encode(self.encoder.preprocess(images))
        return {
            "codes": codes.numpy().astype(np.uint16).reshape(len(images), -1),
            "cls": features.aggregate("cls").numpy().astype(np.float16),
            "mean": features.aggregate("mean").numpy().astype(np.float16),
            "text_ids": self.captions(captions),
        }

    def work(self) -> Work:
        """Operations of one picture."""
        import torch

        pixels = torch.zeros(1, 3, self.side, self.side)
        encoded = operations(lambda: (self.codec.encode(pixels), self.encoder.encode(pixels)))
        return Work(operations=encoded)


def _fitted(path: Path, side: int) -> Image.Image:
    from PIL import Image

    from arra.data.decode import fit

    with Image.open(path) as image:
        return fit(image.convert("RGB"), side)


def _throughput(pictures: _Pictures, folder: Path) -> Case:
    import torch

    from arra.allocation import keep_freed_memory

    keep_freed_memory()  # as the command does; the peers have it, too
    root, parts = _write(pictures, folder), _Parts(pictures.side)
    paths = sorted(root.glob(f"*.{pictures.format.lower()}"))
    work = replace(parts.work(), operations=parts.work().operations * len(paths))
    threads = torch.get_num_threads()
    contenders: tuple[Contender, ...] = (
        Contender(
            "plain loop",
            f"Pillow one by one, networks on {_BATCH} at a time with all threads, np.savez",
            partial(_loop, paths, parts, _BATCH, folder / "loop"),
            work=work,
        ),
        Contender(
            "plain loop, one by one",
            "as it is first written: every picture through everything, np.savez",
            partial(_loop, paths, parts, 1, folder / "loop"),
            work=work,
        ),
        Contender(
            "datasets.map",
            f"map(batched=True, batch_size={_BATCH}), one process with all threads, not hashed",
            partial(_mapped, paths, parts, folder / "mapped", None),
            work=work,
        ),
        Contender(
            f"datasets.map, {_PROCESSES} processes",
            f"the same with num_proc={_PROCESSES} of one thread each",
            partial(_mapped, paths, parts, folder / "mapped", _PROCESSES),
            work=work,
        ),
        Contender(
            "Pillow alone",
            f"decoding and resizing by {threads} threads and nothing else: a bound for all others",
            partial(_only_fitted, paths, pictures.side, threads),
        ),
        Contender(
            "arra prepare",
            f"workers=0: reading, fitting, encoding and storing overlap in threads, batch {_BATCH}",
            partial(_prepared, root, parts, folder / "store"),
            work=work,
        ),
    )
    if pictures.format == "JPEG":
        contenders += (_reduced(root, paths, parts, folder, work),)
    return Case(
        f"{pictures.name} to {pictures.side} pixels",
        "picture",
        len(paths),
        contenders,
        peers=("plain loop", "datasets.map", f"datasets.map, {_PROCESSES} processes"),
        targets={"arra prepare": 2.0},
        note="A small codec and a small encoder, both trained by `arra prepare` itself elsewhere. "
        "The peers use the same networks and get the same codes; arra also checks every file, "
        "names bad ones, hashes its shards and could be killed at any time.",
    )


def _reduced(root: Path, paths: list[Path], parts: _Parts, folder: Path, work: Work) -> Contender:
    """Preparation that decodes JPEGs at a part of their size."""
    from arra.data.rows import Limits

    limits = Limits(reduced=2 * parts.side)

    def facts() -> dict[str, float]:
        return {"levels of 255 apart": _apart(paths[0], parts.side, limits)}

    return Contender(
        "arra prepare, reduced",
        f"the same with --limits.reduced {limits.reduced}: slightly other pixels, so other codes",
        partial(_prepared, root, parts, folder / "reduced", limits),
        work=work,
        facts=facts,
    )


def _apart(path: Path, side: int, limits: Limits) -> float:
    """Mean difference of a picture that was decoded in part from the same decoded whole."""
    import numpy as np

    from arra.data.decode import decode, fit

    image, _ = decode(path.read_bytes(), path.name, limits)
    one, other = (np.asarray(i, dtype=float) for i in (fit(image, side), _fitted(path, side)))
    return float(abs(one - other).mean())


def _captions(count: int) -> list[str]:
    return [f"picture number {number % 97}" for number in range(count)]


def _loop(paths: list[Path], parts: _Parts, batch: int, out: Path) -> None:
    import numpy as np

    columns: dict[str, list[Any]] = {}
    captions = _captions(len(paths))
    for start in range(0, len(paths), batch):
        here = slice(start, start + batch)
        images = [_fitted(path, parts.side) for path in paths[here]]
        for name, values in parts.encode(images, captions[here]).items():
            columns.setdefault(name, []).extend(values)
    ids = columns.pop("text_ids")
    arrays: Any = {name: np.stack(values) for name, values in columns.items()}
    lengths = np.array([len(row) for row in ids])
    np.savez(out, text_ids=np.concatenate([*map(np.array, ids)]), lengths=lengths, **arrays)


def _mapped(paths: list[Path], parts: _Parts, out: Path, processes: int | None) -> None:
    import datasets
    import torch

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    table = datasets.Dataset.from_dict(
        {"image": [str(path) for path in paths], "caption": _captions(len(paths))}
    )

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        if processes is not None:
            torch.set_num_threads(1)
        images = [_fitted(Path(path), parts.side) for path in rows["image"]]
        return parts.encode(images, rows["caption"])

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        table.map(
            encode,
            batched=True,
            batch_size=_BATCH,
            num_proc=processes,
            remove_columns=["image"],
            cache_file_name=str(out / "rows.arrow"),
            load_from_cache_file=False,
            new_fingerprint="bench",
        )
    finally:
        if bars:
            datasets.enable_progress_bars()


def _only_fitted(paths: list[Path], side: int, threads: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda path: _fitted(path, side), paths):
            pass


def _prepared(root: Path, parts: _Parts, out: Path, limits: Limits | None = None) -> None:
    from arra.data.pictures import open_pictures
    from arra.data.prepare import prepare
    from arra.data.rows import Limits

    shutil.rmtree(out, ignore_errors=True)
    prepare(
        open_pictures(root, limits=limits or Limits()),
        out,
        codec=parts.codec,
        tokenizer=parts.tokenizer,
        size=parts.side,
        encoder=parts.encoder,
        batch=_BATCH,
        quiet=True,
    )


def _memory(rows: tuple[int, ...], folder: Path) -> Case:
    """Peak memory of whole preparations, each in a process of its own."""

    def facts() -> dict[str, float]:
        return {
            f"peak memory of {count} rows (MiB)": peak_memory(prepare_many, str(folder), str(count))
            for count in rows
        }

    one = Contender(
        "arra prepare",
        "a Parquet file of small PNGs, workers=0; the peaks are of processes of their own",
        partial(prepare_many, str(folder), str(rows[0])),
        facts=facts,
    )
    return Case("memory over many rows", "picture", rows[0], (one,))


def prepare_many(folder: str, count: str) -> None:
    """Prepare `count` small pictures of a table that is written first."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    side, path = 16, Path(folder) / f"table-{count}.parquet"
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(256):
        buffer = io.BytesIO()
        _photo(rng, side, side).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    with pq.ParquetWriter(
        path, pa.schema([("image", pa.binary()), ("text", pa.string())])
    ) as writer:
        for start in range(0, int(count), 1000):
            numbers = range(start, min(start + 1000, int(count)))
            columns = {
                "image": [pictures[number % 256] for number in numbers],
                "text": [f"picture number {number % 97}" for number in numbers],
            }
            writer.write_table(pa.table(columns, schema=writer.schema))
    _prepared(path, _Parts(side), Path(folder) / f"store-{count}")
