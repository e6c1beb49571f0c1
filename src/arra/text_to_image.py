"""Captions in, pictures out: a generator of codes together with the codec that paints them.

A checkpoint is a generator's folder with the codec in its subfolder `codec/`. A raster generator's
is that of a plain language model (`AutoModelForCausalLM` and `AutoTokenizer` load it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

import arra.codecs as _registers_codecs  # noqa: F401 - saved parts are found by their names
import arra.generators as _registers_generators  # noqa: F401
import arra.samplers as _registers_samplers  # noqa: F401
from arra.codecs.base import Codec
from arra.data.captions import clean_caption
from arra.data.store import codec_identity
from arra.data.tokenizer import tokenizer_fingerprint
from arra.errors import InputError, ProvenanceError
from arra.files import atomic_folder, read_json, sha256_of_json
from arra.generators.backspacing import BackspaceStepper
from arra.generators.base import CodeGenerator, Generator
from arra.generators.fast import decoding
from arra.generators.language_vectors import LanguageVectorGenerator
from arra.generators.raster import SIDE_FILE
from arra.generators.students import Student
from arra.orders.schedules import fitted
from arra.pixels import to_uint8, to_unit
from arra.registry import generators, samplers
from arra.samplers.helped import Help, HelpedSampler
from arra.samplers.speculative import Speculation, SpeculativeSampler, SpeculativeVectorSampler
from arra.settings import Decoder, Precision, Sampler, SamplingConfig

CODEC = "codec"
# Pictures that are painted together: with small ones most of the time is calls, not arithmetic;
# with large ones there is nothing to win, and filling up a single one would cost.
_TOGETHER, _PIXELS = 16, 1 << 14


class TextToImage:
    """A trained generator and the codec whose codes it draws."""

    def __init__(self, generator: Generator, codec: Codec):
        """`ProvenanceError` unless the generator was trained on the codes of this very codec."""
        found = codec.fingerprint()
        if generator.config.codec != found:
            recorded = generator.config.codec[:12] or "no codec"
            raise ProvenanceError(
                f"the generator was trained on codes of {recorded}, but this "
                f"{codec.registered_name} codec is {found[:12]}: its codes mean other pictures. "
                "Use the codec in the checkpoint's folder codec/, or that of the store"
            )
        if generator.codes != codec.vocabulary:
            raise ProvenanceError(
                f"the generator has {generator.codes} picture tokens, the codec {codec.vocabulary} "
                "codes"
            )
        if generator.dimensions != codec.dimensions:
            raise ProvenanceError(
                f"the generator draws vectors of {generator.dimensions} numbers, the codec has "
                f"{codec.dimensions}"
            )
        self.generator, self.codec = generator.eval(), codec.eval()
        self.chosen: dict[str, Any] = {}
        """How it draws where that is not as in training, by the names that labels have for it."""
        self.help: Help | None = None
        """Whose units stand between two steps of a student."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str | None = None) -> Self:
        """Load a checkpoint folder, or the finished `model/` of a run folder.

        `device` None is CUDA where there is one, else the CPU. Raises `InputError` when there is no
        checkpoint, `ProvenanceError` when its codec is another one.
        """
        path = checkpoint_folder(folder)
        with quiet_transformers():
            generator = load_generator(path)
        model = cls(generator, Codec.from_pretrained(path / CODEC))
        return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def to(self, device: torch.device | str) -> Self:
        """Move generator and codec."""
        self.generator.to(device)
        self.codec.to(device)
        return self

    @property
    def frames(self) -> int:
        """Frames of a picture: more than one where it draws clips."""
        return self.codec.frames

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture in pixels."""
        rows, columns = self.generator.grids[-1]
        return rows * self.codec.downsample, columns * self.codec.downsample

    def scheduled(self, sides: Sequence[int], grid: tuple[int, int] | None = None) -> Self:
        """The same model drawing in another schedule, or at another size.

        `sides` grow; the last stands for the whole picture, whose rows and columns of codes are
        `grid`, those of training unless given. Raises `InputError` where that cannot be chosen.
        """
        grid = grid or self.generator.grids[-1]
        scales = fitted(sides, grid)
        other = type(self)(self.generator.scheduled(scales), self.codec.at(grid))
        other.chosen = {"scales": [list(size) for size in scales]}
        return other

    def paced(
        self, steps: int | None = None, rounds: int | None = None, solver: str | None = None
    ) -> Self:
        """The same model drawing in another number of passes; see `Generator.paced`."""
        given: dict[str, Any] = {"steps": steps, "rounds": rounds, "solver": solver}
        other = type(self)(self.generator.paced(**given), self.codec)
        other.chosen = {name: value for name, value in given.items() if value is not None}
        return other

    def helped(self, teacher: TextToImage, first: int, until: int) -> Self:
        """The same student drawing in two steps, between which its teacher draws the units `first`
        (from 0) up to `until` itself; the student says those before and after them.

        Raises `InputError` for a model that is no student, or has not learnt to go on from `until`,
        `ProvenanceError` for a teacher of another kind than it learnt from.
        """
        student = self.generator
        if not isinstance(student, Student):
            raise InputError(
                f"teacher: a {student.registered_name} generator is no student; `arra distill` "
                "makes one"
            )
        if not student.learnt_from(teacher.generator):
            raise ProvenanceError(
                "teacher: another kind of generator, or of another codec, than the one that this "
                "student was distilled from; name that one"
            )
        if until not in (known := (*student.config.starts[1:], teacher.generator.units)):
            raise InputError(
                f"teacher's units: {first} to {until}, but this student goes on from "
                f"{', '.join(map(str, known))} (`arra distill --starts`)"
            )
        other = type(self)(student, self.codec)
        assert isinstance(teacher.generator, CodeGenerator)
        other.help = Help(teacher.generator, first, until)
        other.chosen = {"teacher": teacher.fingerprint(), "teacher_units": [first, until]}
        return other

    def fingerprint(self) -> str:
        """Hex digest of weights, token layout, codec and tokenizer: what decides a picture."""
        tokenizer = self.generator.tokenizer
        parts = {
            "generator": self.generator.fingerprint(),
            "codec": codec_identity(self.codec),
            "tokenizer": None if tokenizer is None else tokenizer_fingerprint(tokenizer),
        }
        return sha256_of_json(parts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write generator and codec to one folder, both or neither."""
        with atomic_folder(folder) as temporary:
            self.write(temporary)

    def write(self, folder: Path) -> None:
        """Write into an existing folder; for callers that make it whole themselves."""
        with quiet_transformers():
            self.generator._save_pretrained(folder)
        self.codec.save_pretrained(folder / CODEC)

    def draw(
        self,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        sampling: SamplingConfig | None = None,
        *,
        batch: int = 64,
        decoder: Decoder = "auto",
        precision: Precision = "fp32",
        sampler: Sampler = "auto",
        on_unit: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Pictures (N, H, W, 3) uint8, one for each caption and seed; clips of T frames are (N, H,
        W, 3 T), frame after frame (`arra.pixels.unstacked` gives (N, T, H, W, 3)).

        A caption of None draws whatever the model likes. A picture depends on its caption, its seed
        and `sampling` only, not on the `batch` it is drawn in; where codes are vectors a value may
        differ by one for the rounding of matrix products. `on_unit` is called with the number
        of pictures whenever that many have got one more unit; a picture has `generator.units`.

        `decoder` "auto" draws the fastest way that gives the pictures of "plain" (the language
        model's own forward); "fast" insists on a decoder of ours, even where building it takes
        longer than it saves. `precision` bf16 or int8 (weights) is faster for large models, and
        draws other pictures; see `arra.generators.fast.decoding`. `sampler` "backtracking"
        may take codes back while it draws, and wants a model that has learnt a backspace.

        Raises `InputError` for an empty or unreadable caption, other numbers of seeds, or a
        precision in which the model cannot be drawn.
        """
        codes = self.draw_codes(
            captions,
            seeds,
            sampling,
            batch=batch,
            decoder=decoder,
            precision=precision,
            sampler=sampler,
            on_unit=on_unit,
        )
        return self.paint(codes)

    def draw_codes(
        self,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        sampling: SamplingConfig | None = None,
        *,
        batch: int = 64,
        decoder: Decoder = "auto",
        precision: Precision = "fp32",
        sampler: Sampler = "auto",
        speculation: Speculation | None = None,
        on_unit: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """The codes (N, ...) that `draw` paints: int64, or float32 where they are vectors.

        `sampler` "speculative" draws several codes a pass, with `speculation`, whose settings are
        its own, or with what it knows of the picture itself.
        """
        if isinstance(captions, str):
            raise InputError("captions: a single string, expected several: [caption]")
        texts = [
            None if caption is None else clean_caption(caption, f"prompt {number}")
            for number, caption in enumerate(captions, start=1)
        ]
        if sampler == "backtracking":
            if decoder == "fast" or precision != "fp32":
                raise InputError("sampler backtracking: draws at fp32, without a fast decoder")
            eraser = BackspaceStepper.of_pictures(self.generator)
            codes = samplers[sampler](sampling)(eraser, texts, seeds, batch=batch, on_unit=on_unit)
            return codes.view(len(codes), *self.generator.codes_shape)
        longest = max((len(self.generator.prompt_ids(text)) for text in set(texts)), default=0)
        if sampler == "auto":
            own = samplers[self.generator.sampler]
            draw: Any = own(sampling) if self.help is None else HelpedSampler(self.help, sampling)
        else:
            draw = speculation or SpeculativeSampler(sampling)
            if reason := self.generator.undraftable(longest + draw.budget.nodes):
                raise InputError(f"speculative decoding: {reason}")
            if bool(self.generator.dimensions) != isinstance(draw, SpeculativeVectorSampler):
                raise InputError(
                    "speculative decoding: codes are drafted by a SpeculativeSampler, vectors by a "
                    "SpeculativeVectorSampler and a smaller generator (--drafter model)"
                )
        steps = -(-len(texts) // max(batch, 1)) * self.generator.units
        stepper = decoding(
            self.generator,
            steps,
            prompt=longest,
            decoder=decoder,
            precision=precision,
            trees=sampler == "speculative",
        ).stepper
        codes = draw(stepper, texts, seeds, batch=batch, on_unit=on_unit)
        return codes.view(len(codes), *self.generator.codes_shape)

    @property
    def can_read(self) -> bool:
        """Whether it says what a picture shows, and not only draws."""
        return isinstance(self.generator, LanguageVectorGenerator)

    @property
    def reader(self) -> LanguageVectorGenerator:
        """The generator as one that reads; `InputError` where it only draws."""
        if not isinstance(self.generator, LanguageVectorGenerator):
            raise InputError(
                f"a {self.generator.registered_name} generator draws and does not read; "
                "raster-vectors and masked-language do both"
            )
        return self.generator

    @torch.inference_mode()
    def describe(
        self, pictures: np.ndarray, prompts: Sequence[str] | None = None, *, most: int = 48
    ) -> list[str]:
        """Captions of pictures (N, H, W, 3) uint8, or how each goes on after a prompt of its own: a
        question, or the beginning of a caption. `most` tokens at most.

        Raises `InputError` for a generator that only draws, or pictures of another size.
        """
        generator = self.reader
        expected = (*self.size, 3)
        if pictures.dtype != np.uint8 or pictures.shape[1:] != expected:
            raise InputError(
                f"pictures: {pictures.dtype} {pictures.shape}, expected uint8 (N, *{expected})"
            )
        codes = self.codec.encode(to_unit(pictures).to(self.codec.device))
        return generator.describe(codes.to(generator.device), prompts, most)

    def paint(self, codes: torch.Tensor) -> np.ndarray:
        """Pictures (N, H, W, 3), or clips (N, H, W, 3 T), uint8 of codes (N, ...), each the same in
        any company."""
        return paint(self.codec, codes)


@torch.inference_mode()
def paint(codec: Codec, codes: torch.Tensor) -> np.ndarray:
    """Pictures (N, H, W, 3), or clips (N, H, W, 3 T), uint8 of codes (N, ...).

    Always as many at a time, the last ones filled up: convolutions round differently in batches of
    other sizes, and norms where threads part a picture among them; the same codes should give the
    same bytes in any company.
    """
    height, width = codec.size_of(codes)
    together = max(1, min(_TOGETHER, _PIXELS // (height * width)))
    if together > 1 and codec.device.type == "cpu":  # one picture is always parted alike
        together = math.ceil(together / torch.get_num_threads()) * torch.get_num_threads()
    pictures = np.empty((len(codes), height, width, codec.channels), dtype=np.uint8)
    for start in range(0, len(codes), together):
        part = codes[start : start + together].to(codec.device)
        filler = part[-1:].expand(together - len(part), *part.shape[1:])
        painted = to_uint8(codec.decode(torch.cat([part, filler])), codec.channels)
        pictures[start : start + together] = painted[: len(part)]
    return pictures


def load_generator(folder: str | Path) -> Generator:
    """The generator saved in a folder, whichever it is; `InputError` where there is none."""
    folder = Path(folder)
    side = folder / SIDE_FILE
    if not side.is_file():
        return Generator.from_pretrained(folder)
    saved = read_json(side)
    return generators[str(saved.get("generator"))].from_pretrained(folder)


def _holds_generator(folder: Path) -> bool:
    """Whether a generator lies in `folder`: a language model that draws, or a part of ours."""
    if (folder / SIDE_FILE).is_file():
        return True
    config = folder / "config.json"
    saved = read_json(config) if config.is_file() else None
    return isinstance(saved, dict) and saved.get("kind") == generators.kind


def checkpoint_folder(folder: str | Path) -> Path:
    """The folder with the checkpoint: `folder` itself, or its `model/`; `InputError` otherwise."""
    folder = Path(folder)
    for path in (folder, folder / "model"):
        if _holds_generator(path):
            if not (path / CODEC / "config.json").is_file():
                raise InputError(
                    f"{path}: holds no codec ({CODEC}/), without which codes are no pictures; if "
                    "it is a run's model, run the same `arra train` again to complete it"
                )
            return path
    if (folder / "checkpoints").is_dir():
        raise InputError(
            f"{folder}: its training is not finished; run the same `arra train` again, which goes "
            "on where it stopped"
        )
    raise InputError(
        f"{folder}: no checkpoint here; expected the folder of a generator (with {SIDE_FILE} or "
        "config.json), or a run with model/"
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No "Loading weights" bars and no notes of transformers within the block."""
    from transformers.utils import logging

    def empty(factory: object, arguments: tuple, options: dict) -> object:
        return logging.EmptyTqdm(*arguments, **options)

    verbosity = logging.get_verbosity()
    previous = logging.set_tqdm_hook(empty)  # bars of downloads are not transformers' and stay
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)
        logging.set_verbosity(verbosity)
