"""Codec, encoder and tokenizer of a preparation: loaded, or trained on the source's own pictures.

What is trained is kept in a folder beside the store with the digest of what it was trained from, so
that a preparation that was interrupted, or is asked for again, finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from arra.codecs import DiffusersCodec
from arra.codecs.base import Codec
from arra.codecs.measuring import CodecReport, evaluate_codec
from arra.codecs.native import native_codec
from arra.codecs.training import train_codec
from arra.data.tokenizer import TokenizerKind, load_text_tokenizer, train_text_tokenizer
from arra.encoders import (
    Encoder,
    EncoderTraining,
    OpenClipConfig,
    OpenClipEncoder,
    Preprocessing,
    PretrainedConfig,
    PretrainedEncoder,
    SmallConfig,
    openclip,
    train_encoder,
)
from arra.errors import InputError, ProvenanceError
from arra.files import atomic_folder, read_json, sha256_of_json, to_plain, write_json
from arra.jobs.codec_kinds import FITTERS, build_codec, codec_settings, fit_codec
from arra.jobs.options import CodecKind, CodecOptions, EncoderOptions, TokenizerOptions
from arra.jobs.sources import Sample
from arra.networks.language_model import load_causal_lm
from arra.pixels import stills
from arra.text_to_image import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OPEN_CLIP = "open_clip:"
RECORD = "made.json"
"""In the folder of a trained part: the digest of what it was made from, and a report."""


class PartsFolder:
    """The trained parts beside a store."""

    def __init__(self, folder: Path, basis: dict[str, Any], overwrite: bool = False):
        """`basis` is what all parts depend on: the source and how its pictures are fitted."""
        self.folder, self.basis, self.overwrite = folder, basis, overwrite

    def path(self, name: str) -> Path:
        """The folder of the part `name`."""
        return self.folder / name

    def make(self, name: str, settings: Any, train: Callable[[Path], dict[str, Any]]) -> Path:
        """The folder of the part `name`, made by `train(folder)` unless it is there already.

        `train` writes the part into a folder and returns a report. Raises `ProvenanceError` when a
        part is there that was made from something else, unless it may be overwritten.
        """
        target = self.folder / name
        basis = to_plain({**self.basis, "settings": settings})
        digest = sha256_of_json(basis)
        if target.is_dir():
            there = read_json(target / RECORD)
            if there.get("digest") == digest:
                return target
            if not self.overwrite:
                changed = [k for k, v in basis.items() if there.get("basis", {}).get(k) != v]
                raise ProvenanceError(
                    f"{target}: was made from something else (differs: {', '.join(changed)}); name "
                    "another store, or train it again with --overwrite"
                )
        try:
            with atomic_folder(target) as temporary:
                report = train(temporary)
                record = {"digest": digest, "basis": basis, "report": report}
                write_json(temporary / RECORD, record)
        except BaseException:
            with suppress(OSError):  # an empty folder is no use to anybody; one with parts stays
                self.folder.rmdir()
            raise
        return target

    def report(self, name: str) -> dict[str, Any]:
        """What training the part `name` reported."""
        return dict(read_json(self.folder / name / RECORD)["report"])


# ---- codec -------------------------------------------------------------------------------------


def train_own_codec(
    parts: PartsFolder,
    kind: CodecKind,
    options: CodecOptions,
    size: int,
    pictures: Callable[[], Sample],
    device: str,
    rate: float | None = None,
) -> Codec:
    """A codec trained on the sample, or the one that was trained earlier from the same.

    `rate` is how many frames a second clips have.
    """

    def train(folder: Path) -> dict[str, Any]:
        if kind in FITTERS:
            sample = pictures().pictures
            fitted = fit_codec(kind, options, size, sample, rate)
            fitted._save_pretrained(folder)
            measured = evaluate_codec(fitted, torch.from_numpy(sample))
            return {key: value for key, value in asdict(measured).items() if key != "history"}
        codec, training = build_codec(kind, options, size)
        data = torch.from_numpy(pictures().pictures)
        generator = torch.Generator().manual_seed(options.seed)
        report: CodecReport = train_codec(codec.to(device), data, training, generator=generator)
        codec.cpu()._save_pretrained(folder)
        return {key: value for key, value in asdict(report).items() if key != "history"}

    made = parts.make("codec", codec_settings(kind, options), train)
    return Codec.from_pretrained(made).to(device)


def load_codec(name: str, device: str) -> Codec:
    """A codec that arra saved, an `AutoencoderKL` of diffusers, or that of an image-native language
    model, by folder or hub name.

    `InputError` when there is neither.
    """
    file = Path(name) / "config.json"
    plain = read_json(file) if file.is_file() else {}
    if plain.get("_class_name") == "AutoencoderKL":
        return DiffusersCodec.load(name).to(device)
    if "model_type" not in plain:  # transformers writes it; arra does not
        return Codec.from_pretrained(name).to(device)
    codec = native_codec(load_language_model(name), name)
    if codec is None:
        raise InputError(
            f"{name}: a {plain['model_type']} has no codec of its own; leave --codec out to train "
            "one, or name the folder of one"
        )
    return codec.to(device)


# ---- encoder -----------------------------------------------------------------------------------


def load_encoder(name: str, options: EncoderOptions, device: str) -> Encoder:
    """An encoder that arra saved, a vision model of transformers, or one of open_clip.

    By folder or hub name; of open_clip as "open_clip:owner/name" or "open_clip:ViT-B-16@weights".
    """
    folder = Path(name)
    if (folder / "config.json").is_file() and "kind" in read_json(folder / "config.json"):
        return Encoder.from_pretrained(folder).to(device)
    if (named := open_clip_config(name)) is not None:
        config = replace(named, layer=options.layer, cls=options.cls)
        return OpenClipEncoder(config).to(device)
    pretrained = PretrainedConfig(name, layer=options.layer, cls=options.cls)
    with quiet_transformers():
        return PretrainedEncoder(pretrained).to(device)


def open_clip_config(name: str) -> OpenClipConfig | None:
    """What `name` asks of open_clip, None if it asks for something else."""
    if not (name.startswith(_OPEN_CLIP) or (Path(name) / openclip.CONFIG).is_file()):
        return None
    model, _, weights = name.removeprefix(_OPEN_CLIP).partition("@")
    return OpenClipConfig(model, weights or None)


def small_encoder(size: int, options: EncoderOptions) -> SmallConfig:
    """A small encoder for pictures of `size` pixels, with about 6 x 6 patches or more."""
    steps = [step for step in (16, 8, 4, 2) if size % step == 0]
    if not steps:
        raise InputError(f"size: {size} pixels; a small encoder needs an even number")
    downsample = next((step for step in steps if size // step >= 6), steps[-1])
    preprocessing = Preprocessing(size=size)
    return SmallConfig(
        width=options.width, dim=options.dim, downsample=downsample, preprocessing=preprocessing
    )


def train_own_encoder(
    parts: PartsFolder,
    objective: str,
    options: EncoderOptions,
    size: int,
    pictures: Callable[[], Sample],
    device: str,
) -> Encoder:
    """A small encoder trained on the sample, or the one that was trained earlier from the same.

    Trained with captions ("contrastive"), its caption tower lies in the subfolder `text/`.
    """
    training = EncoderTraining(
        objective, options.steps, options.seconds, options.batch, seed=options.seed
    )

    def train(folder: Path) -> dict[str, Any]:
        data = pictures()
        trained = train_encoder(
            small_encoder(size, options),
            torch.from_numpy(stills(data.pictures)),
            training,
            data.captions,
            device=device,
        )
        trained.encoder.cpu()._save_pretrained(folder)
        if trained.text is not None:
            trained.text.cpu().save_pretrained(folder / "text")
        last = trained.report.losses[-min(50, trained.report.steps) :]
        return {
            "objective": objective,
            "loss": float(np.mean(last)),
            "steps": trained.report.steps,
            "seconds": trained.report.seconds,
            "pictures": trained.report.pictures,
            "parameters": trained.report.parameters,
        }

    settings = {"objective": objective, **asdict(options)}
    return Encoder.from_pretrained(parts.make("encoder", settings, train)).to(device)


# ---- language model ------------------------------------------------------------------------------


def load_language_model(name: str) -> PreTrainedModel:
    """A causal language model by folder or hub name, in float32, from safetensors only."""
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise InputError(f"{name}: no such folder")
    try:
        with quiet_transformers():
            return load_causal_lm(name, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{name}: no causal language model that transformers can load: {first[0]}"
        ) from error


# ---- tokenizer ---------------------------------------------------------------------------------


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder (also that of a language model), or of a model on the hub."""
    if (Path(path) / "tokenizer.json").is_file():
        return load_text_tokenizer(path)
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(path)
    except Exception as error:  # the library raises many kinds
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: no tokenizer that transformers can load: {first[0]}") from error


def train_own_tokenizer(
    parts: PartsFolder, kind: TokenizerKind, vocabulary: int, pictures: Callable[[], Sample]
) -> PreTrainedTokenizerBase:
    """A tokenizer trained on the sample's captions and questions, or one trained earlier from
    the same."""

    def train(folder: Path) -> dict[str, Any]:
        tokenizer = train_text_tokenizer(pictures().texts, vocabulary, kind)
        tokenizer.save_pretrained(str(folder))
        return {"kind": kind, "vocabulary": len(tokenizer)}

    settings = {"kind": kind, "vocabulary": vocabulary}
    return load_text_tokenizer(parts.make("tokenizer", settings, train))


def tokenizer_kind(options: TokenizerOptions, scenes: bool) -> TokenizerKind:
    """The kind asked for, or the one that suits the source."""
    return options.kind or ("word" if scenes else "bpe")
