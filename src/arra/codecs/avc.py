"""The bytes of an H.264 file as codes, for short clips (AVC-LM in arXiv 2408.08459, section 3.2).

Baseline profile, constant quantiser, no B-frames, one slice a macroblock: a slice is then what an
interval between restart markers is in a JPEG file. Needs PyAV (`pip install arra[video]`), whose
wheels bring FFmpeg and x264; nothing of it is imported before a codec is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from arra.codecs.streamed import StreamCodec
from arra.errors import InputError, ProvenanceError
from arra.pixels import unstacked
from arra.registry import codecs

_SLICE = b"\x00\x00\x01"
_KINDS = (1, 5)
"""NAL units that are slices: of a frame that refers to earlier ones, and of one that does not."""


@dataclass(frozen=True)
class AvcConfig:
    """Settings of all files of a codec; the defaults are the paper's, at 15 frames of 256 x 144."""

    frames: int = 15
    """Frames of a clip."""
    grid: tuple[int, int] = (9, 16)
    """Rows and columns of macroblocks, 16 x 16 pixels each."""
    qp: int = 37
    """Constant quantiser, 0 (fine) to 51."""
    rate: int = 3
    """Frames a second; it stands in the header and changes nothing else."""
    vocabulary: int = 1024
    """Codes: 256 bytes, merged ones, and the end."""
    longest: int = 32_768
    """Codes of the longest file, its end included; `AvcCodec.fit` finds it."""
    across: bool = True
    """Whether merges may span blocks, as in the paper; if not, a prompt that is cut behind a block
    is a beginning of the picture's own codes, and every block has a code that completes it."""

    def __post_init__(self) -> None:
        if self.frames < 1 or min(self.grid) < 1 or self.rate < 1:
            raise InputError(
                f"AvcConfig: frames {self.frames}, grid {self.grid}, rate {self.rate}; expected 1 "
                "or more"
            )
        if not 0 <= self.qp <= 51:
            raise InputError(f"AvcConfig.qp: {self.qp}, expected 0 to 51")


@codecs.register("avc")
class AvcCodec(StreamCodec):
    """Codes (B, L): the slices of a file, from behind its first start code.

    A clip is a picture of 3 x frames channels, frame after frame (see `arra.pixels`).
    """

    Config = AvcConfig
    config: AvcConfig
    needs = ("av",)
    downsample = 16
    separators = (_SLICE.hex(),)
    header: Tensor

    def __init__(self, config: AvcConfig):
        self.grid, self.channels = config.grid, 3 * config.frames
        self.rate = float(config.rate)
        super().__init__(config)

    @classmethod
    def tiny(cls) -> Self:
        noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 6), dtype=np.uint8)
        return cls.fit(noise, AvcConfig(2, (2, 2), vocabulary=270))

    def _arrange(self) -> None:
        if not hasattr(self, "header"):
            own = torch.frombuffer(bytearray(self._own()), dtype=torch.uint8)
            self.register_buffer("header", own)
        super()._arrange()
        self._header = bytes(self.header.tolist())

    def _own(self) -> bytes:
        """The header that the encoder of this machine writes: parameter sets, and the comment with
        its version."""
        file = self._save(np.zeros((*self.size, self.channels), dtype=np.uint8))
        for start, kind in _units(file):
            if kind in _KINDS:
                return file[:start]
        raise InputError("avc: the encoder wrote no picture")

    def _save(self, picture: np.ndarray) -> bytes:
        av = _av()
        encoder = av.CodecContext.create("libx264", "w")
        encoder.height, encoder.width = self.size
        encoder.pix_fmt, encoder.thread_count = "yuv420p", 1
        encoder.framerate = Fraction(self.config.rate)
        encoder.time_base = 1 / encoder.framerate
        encoder.options = {
            "profile": "baseline",
            "preset": "medium",
            "qp": str(self.config.qp),
            "x264-params": "slice-max-mbs=1:bframes=0:keyint=infinite:scenecut=0:annexb=1:"
            "threads=1:sliced-threads=0:aud=0:repeat-headers=1",
        }
        parts = []
        for frame in unstacked(picture[None])[0]:
            plain = np.ascontiguousarray(frame)
            parts += encoder.encode(av.VideoFrame.from_ndarray(plain, format="rgb24"))
        parts += encoder.encode(None)
        return b"".join(map(bytes, parts))

    def bodies(self, pictures: np.ndarray) -> list[bytes]:
        """The slices of each clip. `ProvenanceError` where the encoder here is another one."""
        found = []
        for picture in pictures:
            file = self._save(picture)
            if not file.startswith(self._header):
                raise ProvenanceError(
                    "avc: the H.264 encoder of this machine writes another header than the codec "
                    "has; use the PyAV with which the codec was made (decoding works everywhere)"
                )
            found.append(file.removeprefix(self._header))
        return found

    def file(self, body: bytes) -> bytes:
        return self._header + body

    def read(self, body: bytes) -> np.ndarray:
        shape = (*self.size, 3)
        frames: list[np.ndarray] = []
        for frame in self._decoded(body, strict=False):
            if frame.shape == shape and len(frames) < self.config.frames:
                frames.append(frame)
        last = frames[-1] if frames else np.full(shape, 128, dtype=np.uint8)
        frames += [last] * (self.config.frames - len(frames))  # what is missing stands still
        return np.concatenate(frames, axis=-1)

    def _decoded(self, body: bytes, strict: bool) -> Iterator[np.ndarray]:
        """The frames that can be read; with `strict` an error where one cannot."""
        av = _av()
        decoder = av.CodecContext.create("h264", "r")
        decoder.thread_count = 1
        if strict:
            decoder.options = {"err_detect": "explode"}
        packets = [*decoder.parse(self.file(body)), *decoder.parse(b""), None]
        for packet in packets:
            try:
                for frame in decoder.decode(packet):
                    yield frame.to_ndarray(format="rgb24")
            except (av.FFmpegError, ValueError):
                if strict:
                    raise

    def sound(self, body: bytes) -> bool:
        """As many slices as macroblocks, and FFmpeg objects to nothing."""
        rows, columns = self.config.grid
        slices = sum(kind in _KINDS for _, kind in _units(_SLICE + body))
        if slices != rows * columns * self.config.frames:
            return False
        try:
            count = sum(1 for _ in self._decoded(body, strict=True))
        except (_av().FFmpegError, ValueError):
            return False
        return count == self.config.frames


def _units(file: bytes) -> Iterator[tuple[int, int]]:
    """Where the content of each NAL unit begins (behind its start code), and its kind."""
    place = file.find(_SLICE)
    while 0 <= place < len(file) - len(_SLICE):
        start = place + len(_SLICE)
        yield start, file[start] & 31
        place = file.find(_SLICE, start)


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise InputError("avc: needs PyAV: pip install arra[video]") from None
    return av
