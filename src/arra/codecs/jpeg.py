"""The bytes of a JPEG file as codes (JPEG-LM, arXiv 2408.08459, section 3.1).

All files of a codec have the same settings: quality, subsampling, fixed Huffman tables, a restart
marker behind every unit (MCU), so that an error stays where it is. What they share is kept once:
the tables, and the header before the scan. A file without them is some ten bytes a unit.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arra.codecs.jpeg_scan import ScanReader, cleaned
from arra.codecs.streamed import StreamCodec
from arra.errors import InputError, ProvenanceError
from arra.registry import codecs

_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
Subsampling = Literal["4:2:0", "4:4:4", "grey"]


@dataclass(frozen=True)
class JpegConfig:
    """Settings of all files of a codec."""

    grid: tuple[int, int] = (16, 16)
    """Rows and columns of units (MCUs): 16 x 16 pixels each at 4:2:0, else 8 x 8."""
    quality: int = 25
    """Of the quantisation tables, 1 to 100."""
    subsampling: Subsampling = "4:2:0"
    """Colour at half the resolution, at the whole, or none at all."""
    vocabulary: int = 320
    """Codes: 256 bytes, merged ones, and the end."""
    longest: int = 8192
    """Codes of the longest file, its end included; `JpegCodec.fit` finds it."""
    across: bool = True
    """Whether merges may span blocks, as in the paper; if not, a prompt that is cut behind a block
    is a beginning of the picture's own codes, and every block has a code that completes it."""

    def __post_init__(self) -> None:
        if min(self.grid) < 1 or max(self.grid) * self.unit > 65_535:
            raise InputError(f"JpegConfig.grid: {self.grid}, expected 1 to 65535 pixels a side")
        if not 1 <= self.quality <= 100:
            raise InputError(f"JpegConfig.quality: {self.quality}, expected 1 to 100")
        if self.subsampling not in ("4:2:0", "4:4:4", "grey"):
            raise InputError(
                f"JpegConfig.subsampling: {self.subsampling!r}, expected 4:2:0, 4:4:4 or grey"
            )

    @property
    def unit(self) -> int:
        """Pixels along each side of a unit."""
        return 16 if self.subsampling == "4:2:0" else 8


@codecs.register("jpeg")
class JpegCodec(StreamCodec):
    """Codes (B, L): the scan of a JPEG file, from behind its header to before its end."""

    Config = JpegConfig
    config: JpegConfig
    separators = tuple(f"ffd{n}" for n in range(8))
    tables: Tensor
    header: Tensor

    def __init__(self, config: JpegConfig):
        self.downsample, self.grid = config.unit, config.grid
        super().__init__(config)

    @classmethod
    def tiny(cls) -> Self:
        config = JpegConfig((2, 2), quality=50, subsampling="grey", vocabulary=270)
        slope = np.arange(16, dtype=np.uint8) * 15
        some = np.stack([np.add.outer(slope // 2, slope // 2), np.tile(slope, (16, 1))])
        noise = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
        pictures = np.concatenate([some.astype(np.uint8), noise])[..., None].repeat(3, axis=-1)
        return cls.fit(pictures, config)

    def _arrange(self) -> None:
        if not hasattr(self, "tables"):
            for name, data in zip(("tables", "header"), self._own(), strict=True):
                self.register_buffer(name, torch.frombuffer(bytearray(data), dtype=torch.uint8))
        super()._arrange()
        self._tables, self._header = (bytes(x.tolist()) for x in (self.tables, self.header))
        rows, columns = self.config.grid
        self._reader = ScanReader(self._header, self._tables, rows * columns)

    def _own(self) -> tuple[bytes, bytes]:
        """Tables and header as the encoder of this machine writes them."""
        blank = np.zeros((*self.size, 3), dtype=np.uint8)
        file = self._save(blank, streamtype=2)
        scan = file.index(_SCAN)
        length = int.from_bytes(file[scan + 2 : scan + 4], "big")
        tables = self._save(blank, streamtype=1)
        return tables.removeprefix(_START).removesuffix(_END), file[: scan + 2 + length]

    def _save(self, picture: np.ndarray, streamtype: int) -> bytes:
        """A file (H, W, 3) uint8 is written to; `streamtype` 1: tables alone, 2: all but tables."""
        grey = self.config.subsampling == "grey"
        image = Image.fromarray(picture)
        out = io.BytesIO()
        # optimised and progressive files have tables of their own
        image.convert("L" if grey else "RGB").save(
            out,
            "JPEG",
            quality=self.config.quality,
            subsampling="4:4:4" if grey else self.config.subsampling,
            optimize=False,
            progressive=False,
            restart_marker_blocks=1,
            streamtype=streamtype,
        )
        return out.getvalue()

    def bodies(self, pictures: np.ndarray) -> list[bytes]:
        """The scan of each picture. `ProvenanceError` where the encoder here has other tables or
        another header than that with which the codec was made."""
        if self._own() != (self._tables, self._header):
            raise ProvenanceError(
                "jpeg: the JPEG encoder of this machine writes other tables than the codec has; "
                "use the Pillow with which the codec was made (decoding works everywhere)"
            )
        found = [self._save(picture, streamtype=2) for picture in pictures]
        return [file.removeprefix(self._header).removesuffix(_END) for file in found]

    def file(self, body: bytes) -> bytes:
        """The tables come back behind the start of the file, as official `save_byte_image` does."""
        parts = (_START, self._tables, self._header.removeprefix(_START), body, _END)
        return b"".join(parts)

    def read(self, body: bytes) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(self.file(cleaned(body)))) as image:
                found = np.array(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError):  # Pillow raises all of them
            found = np.empty(0, dtype=np.uint8)
        blank = np.full((*self.size, 3), 128, dtype=np.uint8)
        return found if found.shape == blank.shape else blank

    def sound(self, body: bytes) -> bool:
        return self._reader.whole(body)

    def opens(self, codes: Tensor) -> Tensor:
        """(B,) bool: Pillow opens the file without tolerance, and it has the right size.

        Weaker than `valid`: libjpeg repairs much in silence.
        """
        found = []
        for file in self.files(codes):
            try:
                with Image.open(io.BytesIO(file)) as image:
                    image.load()
                    found.append(image.size == self.size[::-1])
            except (OSError, SyntaxError, ValueError):
                found.append(False)
        return torch.tensor(found, dtype=torch.bool)
