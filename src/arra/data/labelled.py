"""Pictures with class labels, whose captions are made from the names of the classes.

Two layouts: IDX files, as MNIST and its successors have them (`train-images-idx3-ubyte.gz` with
`train-labels-idx1-ubyte.gz`), and one `.npz` with `x_train`, `y_train`, `x_test`, `y_test` and,
where they are known, `class_names`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import struct
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arra.data.arrays import MOST_BYTES, array_header, load_array
from arra.data.captions import clean_caption
from arra.data.rows import BadRow, Classes, Limits, PictureSource, Row
from arra.errors import InputError

_IDX_NAME = re.compile(r"(.+?)[-.](images|labels)[-.]idx[13]-ubyte(\.gz)?")
_TEST = {"t10k": "test"}  # how MNIST names its ten thousand test pictures
_BYTE = 8  # the type code of unsigned bytes in an IDX header


class LabelledSource(PictureSource):
    """Row i is picture i of an array; its caption is the template with the name of its class."""

    kind = ""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        labels: np.ndarray,
        names: Sequence[str],
        template: str,
        limits: Limits,
    ):
        """`shape` (N, H, W) or (N, H, W, C) of the pictures, `labels` (N,) whole numbers.

        Without `names` a class is called by its number.
        """
        self.path, self.limits = path, limits
        if labels.ndim != 1 or len(labels) != shape[0]:
            raise InputError(
                f"{path}: {shape[0]} pictures, but labels of shape {labels.shape}; "
                "expected one whole number a picture"
            )
        if shape[1] * shape[2] > limits.max_pixels or min(shape[1:3]) < limits.min_side:
            raise InputError(f"{path}: pictures of {shape[2]} x {shape[1]} pixels are not allowed")
        self.side = shape[1] if shape[1] == shape[2] else None
        self.captions = _captions(labels, names, template, path, limits)
        self.rows: list[tuple[int, int]] = []
        problems = []
        for index, label in enumerate(labels.tolist()):
            if label in self.captions:
                self.rows.append((index, label))
            else:
                detail = f"label {label}, names for 0 to {len(names) - 1}"
                problems.append(BadRow(self._key(index), "its class has no name", detail))
        self.problems = tuple(problems)
        status = path.stat()
        self._status = (status.st_size, status.st_mtime_ns)
        self._pictures: np.ndarray | None = None

    @abstractmethod
    def _load(self) -> np.ndarray:
        """All pictures (N, H, W) or (N, H, W, C) uint8."""

    def _key(self, index: int) -> str:
        return f"{self.path.name}#{index}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pictures": None}

    def labels(self) -> np.ndarray:
        """(N,) int64: the class of every row."""
        return np.asarray([label for _, label in self.rows], dtype=np.int64)

    def read(self, index: int) -> Row:
        place, label = self.rows[self._checked(index)]
        if self._pictures is None:
            self._pictures = self._load()
        picture = self._pictures[place]
        if picture.ndim == 3 and picture.shape[2] == 1:
            picture = picture[..., 0]
        image = Image.fromarray(picture).convert("RGB")
        return Row(self._key(place), image, self.captions[label])

    def identity(self) -> dict[str, Any]:
        listing = [self._status, self.rows, sorted(self.captions.items())]
        return {
            "kind": self.kind,
            "path": str(self.path),
            "rows": len(self),
            "sha256": hashlib.sha256(json.dumps(listing).encode("ascii")).hexdigest(),
            "limits": self.limits.identity(),
        }


def _captions(
    labels: np.ndarray, names: Sequence[str], template: str, path: Path, limits: Limits
) -> dict[int, str]:
    """Class -> caption, for the classes that have a name."""
    classes = range(len(names)) if names else sorted({int(label) for label in labels.tolist()})
    called = list(names) if names else [str(label) for label in classes]
    found = {}
    for number, name in zip(classes, called, strict=True):
        text = template.replace("{label}", name)
        found[number] = clean_caption(text, f"{path.name}, class {number}", limits)
    return found


# ---- IDX ---------------------------------------------------------------------------------------


class IdxSource(LabelledSource):
    """Pictures and labels in a pair of IDX files."""

    kind = "idx"

    def __init__(self, images: Path, labels: Path, classes: Classes, limits: Limits):
        shape = idx_shape(images)
        if len(shape) != 3:
            raise InputError(f"{images}: an array of shape {shape}, expected pictures (N, H, W)")
        found = read_idx(labels).astype(np.int64)
        super().__init__(images, shape, found, classes.names, classes.template, limits)

    def _load(self) -> np.ndarray:
        return read_idx(self.path)


def idx_files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> (images, labels) of the pairs of IDX files in a folder; `t10k` is called `test`.

    Raises `InputError` where only one file of a pair is there, or a file is there twice.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _IDX_NAME.fullmatch(path.name):
            split, role = _TEST.get(match[1], match[1]), match[2]
            if (first := found.setdefault(split, {}).get(role)) is not None:
                raise InputError(f"{folder}: {first.name} and {path.name}; keep one of them")
            found[split][role] = path
    for split, roles in found.items():
        if missing := {"images", "labels"} - set(roles):
            raise InputError(f"{folder}: no IDX file with the {missing.pop()} of split {split!r}")
    return {split: (roles["images"], roles["labels"]) for split, roles in found.items()}


def idx_shape(path: Path) -> tuple[int, ...]:
    """The shape that the header of an IDX file of bytes promises."""
    return _read(path, header=True)[0]


def read_idx(path: Path) -> np.ndarray:
    """The array uint8 of an IDX file, packed with gzip or not.

    Raises `InputError` where it is damaged, of another type, or too large for memory.
    """
    shape, data = _read(path, header=False)
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _read(path: Path, header: bool) -> tuple[tuple[int, ...], bytes]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= 4:
                raise InputError(f"{path}: not an IDX file, it begins with {magic!r}")
            if magic[2] != _BYTE:
                raise InputError(f"{path}: IDX of type {magic[2]:#04x}, expected bytes (0x08)")
            sizes = file.read(4 * magic[3])
            if len(sizes) < 4 * magic[3]:
                raise InputError(f"{path}: its header is cut off")
            shape = struct.unpack(f">{magic[3]}I", sizes)
            count = math.prod(shape)
            if not 0 < count <= MOST_BYTES:
                raise InputError(f"{path}: an array of shape {shape}, empty or too large")
            # one byte more than there should be: a file that goes on is not what it says
            data = b"" if header else file.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not header and len(data) != count:
        more = "more than" if len(data) > count else f"{len(data)} of"
        raise InputError(f"{path}: holds {more} the {count} bytes of its shape {shape}")
    return shape, data


# ---- .npz --------------------------------------------------------------------------------------


class LabelledArraySource(LabelledSource):
    """Pictures `x_SPLIT` and labels `y_SPLIT` of an `.npz`."""

    kind = "labelled npz"

    def __init__(self, path: Path, split: str, classes: Classes, limits: Limits):
        self.split = split
        shape, dtype = array_header(path, f"x_{split}")
        if dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape or shape[3:] not in (
            (), (1,), (3,),
        ):  # fmt: skip
            expected = "uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
            raise InputError(f"{path}: x_{split} is {dtype} {shape}, expected {expected}")
        labels = load_array(path, f"y_{split}")
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.dtype.kind not in "iu":
            raise InputError(f"{path}: y_{split} is {labels.dtype}, expected whole numbers")
        names = classes.names or _class_names(path)
        labels = labels.astype(np.int64)
        super().__init__(path, shape, labels, names, classes.template, limits)

    def _key(self, index: int) -> str:
        return f"{self.path.name}#{self.split}-{index}"

    def _load(self) -> np.ndarray:
        return load_array(self.path, f"x_{self.split}")


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        array_header(path, "class_names")
    except InputError:  # names are not required
        return ()
    names = load_array(path, "class_names")
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(f"{path}: class_names is {names.dtype} {names.shape}, expected texts (C,)")
    return tuple(names.tolist())


def array_splits(path: Path) -> tuple[str, ...]:
    """The splits of an `.npz` that have both pictures and labels; none for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile):
        return ()
    found = [name[2:] for name in names if name.startswith("x_") and f"y_{name[2:]}" in names]
    return tuple(sorted(found))


def choose_split(there: Sequence[str], split: str | None, place: Path) -> str:
    """`split`, or the only one there is; `InputError` where that is not to be told."""
    if split is None and len(there) == 1:
        return there[0]
    if split is None or split not in there:
        raise InputError(f"{place}: split={split!r}; choose one of: {', '.join(there)}")
    return split
