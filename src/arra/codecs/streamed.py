"""Codecs without weights whose codes are the bytes of a standard file, merged by frequency."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from arra.codecs.base import Codec, CodecOutput
from arra.codecs.byte_bpe import ByteBPE
from arra.codecs.streams import ByteStream
from arra.errors import InputError
from arra.pixels import to_uint8, to_unit

ROOM = 1.25
"""Codes that a file may take, in those of the longest that was seen when the codec was made."""


class StreamCodec(Codec):
    """Codes (B, L) of the body of a file: what differs from picture to picture.

    What all files of a configuration have in common (headers, tables) is kept here, as buffers that
    are saved and part of the fingerprint: tables of another encoder would make noise of the codes.
    A configuration of a subclass has the fields `vocabulary` (bytes, merges and the end), `longest`
    and `across` (whether merges may span blocks).
    """

    codes_axes = ("L",)
    separators: tuple[str, ...] = ()
    """See `ByteStream.separators`."""
    merges: Tensor
    stream: ByteStream

    def __init__(self, config: Any):
        super().__init__(config)
        if config.vocabulary < 257:
            raise InputError(
                f"{type(config).__name__}.vocabulary: {config.vocabulary}, expected 257 or more: "
                "256 bytes and the end"
            )
        self.register_buffer("merges", torch.empty(0, 2, dtype=torch.int64))
        self._arrange()

    def _arrange(self) -> None:
        """Make what follows from the buffers."""
        self.bpe = ByteBPE([(a, b) for a, b in self.merges.tolist()])
        pieces = (*(piece.hex() for piece in self.bpe.pieces), "")
        assert self.grid is not None
        cells = self.grid[0] * self.grid[1]
        self.stream = ByteStream(pieces, self.config.longest, self.separators, cells)
        self.vocabulary = len(pieces)

    def _load_weights(self, folder: Path) -> None:
        for name, tensor in load_file(str(folder / "model.safetensors")).items():
            if name in dict(self.named_buffers()):  # how long they are is content, not form
                setattr(self, name, torch.empty_like(tensor))
        super()._load_weights(folder)
        self._arrange()

    @classmethod
    def fit(cls, pictures: np.ndarray, config: Any) -> Self:
        """A codec of `config` whose merges, and whose longest file, are those of `pictures`.

        (N, H, W, channels) uint8; a file may take `ROOM` times the codes of the longest of them.
        """
        codec = cls.seeded(config, 0)
        bodies = codec.bodies(pictures)
        parts = [part for body in bodies for part in codec._parts(body)]
        bpe = ByteBPE.learn(parts, config.vocabulary - 1)

        merges = torch.tensor(bpe.merges, dtype=torch.int64).view(-1, 2)
        codec._learnt(merges)
        most = max((len(row) for row in codec.merged(bodies)), default=1)
        codec = cls.seeded(replace(config, longest=int(most * ROOM) + 1), 0)
        codec._learnt(merges)
        return codec.eval()

    def _learnt(self, merges: Tensor) -> None:
        self.merges = merges
        self._arrange()

    def _parts(self, body: bytes) -> list[bytes]:
        """What is merged by itself: the whole body, or each of its blocks."""
        return [body] if self.config.across else self.stream.blocks(body)

    def merged(self, bodies: Sequence[bytes]) -> list[list[int]]:
        """The codes of each body, without an end."""
        parts = [self._parts(body) for body in bodies]
        codes = self.bpe.encode([part for some in parts for part in some])
        following = iter(codes)
        return [[code for _ in some for code in next(following)] for some in parts]

    # ---- files ---------------------------------------------------------------------------------

    @abstractmethod
    def bodies(self, pictures: np.ndarray) -> list[bytes]:
        """What is particular to the file of each picture (N, H, W, channels) uint8."""

    @abstractmethod
    def file(self, body: bytes) -> bytes:
        """A whole file, as any reader of the format takes it, of a body, which may be damaged."""

    @abstractmethod
    def read(self, body: bytes) -> np.ndarray:
        """(H, W, channels) uint8 of a body, however damaged: what can be read, grey elsewhere."""

    @abstractmethod
    def sound(self, body: bytes) -> bool:
        """Whether a reader has nothing to object to in this body."""

    def files(self, codes: Tensor) -> list[bytes]:
        """The file of each picture, to be written to the disk."""
        return [self.file(body) for body in self.spell(codes)]

    def spell(self, codes: Tensor) -> list[bytes]:
        """The body of each picture of codes (B, L)."""
        self._check_codes(codes)
        return [self.stream.spell(row) for row in codes.tolist()]

    def coded(self, bodies: Sequence[bytes]) -> Tensor:
        """Codes (B, L) int64 of bodies; `InputError` where one has no room."""
        rows, longest, end = self.merged(bodies), self.config.longest, self.stream.end
        codes = torch.full((len(rows), longest), end, dtype=torch.int64)
        for number, row in enumerate(rows):
            if len(row) >= longest:
                raise InputError(
                    f"picture {number}: its file takes {len(row) + 1} codes, this codec has room "
                    f"for {longest} ({type(self.config).__name__}.longest); make the codec with "
                    "pictures like this one, or with a lower quality"
                )
            codes[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
        return codes

    def valid(self, codes: Tensor) -> Tensor:
        """(B,) bool: the file is whole: it ends, and a reader objects to nothing in it."""
        bodies, end = self.spell(codes), self.stream.end
        ended = (codes[:, -1] == end) & ~((codes[:, :-1] == end) & (codes[:, 1:] != end)).any(1)
        sound = torch.tensor([self.sound(body) for body in bodies], dtype=torch.bool)
        return ended.cpu() & sound

    # ---- the codec -----------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        self._check_pictures(pictures)
        return self.coded(self.bodies(to_uint8(pictures, self.channels))).to(pictures.device)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        found = [self.read(body) for body in self.spell(codes)]
        rows, columns = self.size
        shape = (len(found), rows, columns, self.channels)
        values = np.stack(found) if found else np.empty(shape, np.uint8)
        return to_unit(values, self.channels).to(codes.device)

    def forward(self, pictures: Tensor) -> CodecOutput:
        """There is nothing to train: the reconstruction's gradient is that of the picture."""
        codes = self.encode(pictures)
        gap = (self.decode(codes) - pictures).detach()
        return CodecOutput(pictures + gap, codes, {})

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture in pixels."""
        assert self.grid is not None
        rows, columns = self.grid
        return rows * self.downsample, columns * self.downsample

    def prompts(self, codes: Tensor, blocks: int) -> Tensor:
        """(B, p) int64: codes of the first `blocks` blocks of each picture, -1 behind shorter ones.

        The file is cut right behind a separator and coded anew, so that no code spans the cut
        (official `build_prompt`); a picture's pixels there are then given, whatever follows. Where
        merges may span blocks, its last codes can be others than a model has seen there.
        """
        if not self.separators:
            raise InputError(
                f"prompts: the blocks of a {self.registered_name} cannot be told apart"
            )
        cut = []
        for body in self.spell(codes):
            ends = [0, *self.stream.ends_of_blocks(body)]
            if not 0 <= blocks < len(ends):
                raise InputError(f"blocks: {blocks}, expected 0 to {len(ends) - 1}")
            cut.append(body[: ends[blocks]])
        return padded(self.merged(cut))

    def appearance(self) -> Tensor:
        """(vocabulary, 18): the bits of the first and of the last byte of each code, how many bytes
        it spells, and whether it is the end; standardised. Bytes have no looks of their own."""
        rows = []
        for piece in self.stream.spelled:
            ends = (piece[0], piece[-1]) if piece else (0, 0)
            bits = [byte >> place & 1 for byte in ends for place in range(8)]
            rows.append([*bits, len(piece), int(not piece)])
        looks = torch.tensor(rows, dtype=torch.float32, device=self.device)
        return (looks - looks.mean(dim=0)) / looks.std(dim=0).clamp(min=1e-6)


def padded(rows: Iterable[Sequence[int]]) -> Tensor:
    """(B, p) int64 of rows of any lengths, -1 behind shorter ones."""
    found = [torch.tensor(list(row), dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-1)
