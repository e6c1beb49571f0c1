"""The codecs of language models that draw by themselves, as transformers has them.

Chameleon (arXiv 2405.09818), Emu3 (arXiv 2409.18869) and Janus (arXiv 2410.13848) each come with a
vector-quantised autoencoder, which stays frozen while they learn. Here it is a codec like any
other: saved with its weights, fingerprinted, and, if somebody wants to, trained.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from arra.codecs.base import Codec, CodecOutput
from arra.codecs.quantized import most_similar
from arra.errors import InputError
from arra.registry import codecs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class NativeConfig:
    """The configuration of the autoencoder, as its class in transformers knows it."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Fields that differ from that class's defaults."""
    decoder: bool = True
    """Whether the weights include a decoder: without one pictures are read, but not drawn."""


class NativeCodec(Codec):
    """An autoencoder of transformers. Codes are the nearest rows of its codebook by distance."""

    Config = NativeConfig
    config: NativeConfig
    family: ClassVar[str]
    """The model type whose codec it is."""
    commitment = 0.25

    def __init__(self, config: NativeConfig):
        super().__init__(config)
        self.model: Any = self._build(config.settings)
        table = self.codebook
        self.vocabulary, self.width = table.shape
        settings: Any = self.model.config
        self.downsample = 2 ** (len(settings.channel_multiplier) - 1)

    @classmethod
    def of(cls, lm: PreTrainedModel) -> Self:
        """The codec of a language model: a copy of its weights."""
        theirs: Any = lm.base_model.vqmodel
        settings = {k: v for k, v in theirs.config.to_diff_dict().items() if k not in _NOTES}
        codec = cls.seeded(NativeConfig(json.loads(json.dumps(settings)), cls._has_decoder()), 0)
        codec.model.load_state_dict(theirs.state_dict())
        return codec.eval()

    @classmethod
    def _has_decoder(cls) -> bool:
        return True

    @abstractmethod
    def _build(self, settings: dict[str, Any]) -> nn.Module:
        """The autoencoder with random weights."""

    @property
    def codebook(self) -> nn.Parameter:
        """(K, width) one row a code."""
        return self.model.quantize.embedding.weight

    @abstractmethod
    def _latents(self, pictures: Tensor) -> Tensor:
        """(B, width, h, w) before quantisation."""

    @abstractmethod
    def _paint(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) of quantised latents (B, width, h, w)."""

    def nearest(self, latents: Tensor) -> Tensor:
        """Codes (B, h, w) of latents (B, width, h, w)."""
        table = self.codebook
        # -|z - e|^2 without |z|^2, which is the same for all e
        return most_similar(2 * latents.permute(0, 2, 3, 1), table, -table.square().sum(dim=1))

    def lookup(self, codes: Tensor) -> Tensor:
        """Latents (B, width, h, w) of codes (B, h, w)."""
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantised latents with straight-through gradient, codes, and weighted losses."""
        with torch.no_grad():
            codes = self.nearest(latents)
        nearest = self.lookup(codes)
        losses = {
            "codebook": F.mse_loss(nearest, latents.detach()),
            "commitment": self.commitment * F.mse_loss(latents, nearest.detach()),
        }
        # in this order: adding latents that are much larger than codes would round the codes
        return nearest.detach() + (latents - latents.detach()), codes, losses

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        self._check_pictures(pictures)
        return self.nearest(self._latents(pictures))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        self._check_codes(codes)
        self._check_decoder()
        return self._paint(self.lookup(codes)).clamp(-1.0, 1.0).contiguous()

    def forward(self, pictures: Tensor) -> CodecOutput:
        self._check_pictures(pictures)
        self._check_decoder()
        quantized, codes, losses = self.quantize(self._latents(pictures))
        return CodecOutput(self._paint(quantized), codes, losses)

    def _check_decoder(self) -> None:
        if not self.config.decoder:
            raise InputError(
                f"codec: this {self.family} codec has no decoder, so that codes cannot become "
                f"pictures; put its weights, as {DECODER_FILE}, beside those of the language model "
                "and prepare again"
            )


_NOTES = frozenset({"transformers_version", "_name_or_path", "architectures", "dtype"})
DECODER_FILE = "vqgan_decoder.safetensors"
"""Beside a Chameleon's weights: its decoder, which the class in transformers lacks."""


@codecs.register("chameleon")
class ChameleonCodec(NativeCodec):
    """Chameleon's. transformers has its encoder only; the decoder is that of its VQGAN."""

    family = "chameleon"

    def __init__(self, config: NativeConfig):
        super().__init__(config)
        if config.decoder:
            from arra.codecs.vqgan import VQGANDecoder

            self.decoder = VQGANDecoder(self.model.config)
        else:
            self.model.post_quant_conv.requires_grad_(False)

    @classmethod
    def tiny(cls) -> Self:
        small = {"embed_dim": 4, "latent_channels": 4, "num_embeddings": 16, "num_res_blocks": 1}
        return cls.seeded(
            NativeConfig({**small, "base_channels": 32, "channel_multiplier": [1, 1]}), 0
        )

    @classmethod
    def _has_decoder(cls) -> bool:
        return False

    def with_decoder(self, weights: dict[str, Tensor], where: str) -> Self:
        """The same codec with a decoder of these weights; `InputError` when they do not fit."""
        whole = type(self).seeded(NativeConfig(self.config.settings), 0)
        whole.model.load_state_dict(self.model.state_dict())
        kept = {k.removeprefix("decoder."): v for k, v in weights.items()}
        try:
            whole.decoder.load_state_dict(kept)
        except RuntimeError as error:
            raise InputError(f"{where}: not the decoder of this codec: {error}") from error
        return whole.eval()

    def _build(self, settings: dict[str, Any]) -> nn.Module:
        from transformers import ChameleonVQVAE, ChameleonVQVAEConfig

        return ChameleonVQVAE(ChameleonVQVAEConfig(**settings))

    def _latents(self, pictures: Tensor) -> Tensor:
        return self.model.quant_conv(self.model.encoder(pictures))

    def _paint(self, latents: Tensor) -> Tensor:
        return self.decoder(self.model.post_quant_conv(latents))


@codecs.register("emu3")
class Emu3Codec(NativeCodec):
    """Emu3's, which is made for video: a picture is a film of equal frames."""

    family = "emu3"

    @classmethod
    def tiny(cls) -> Self:
        small = {"codebook_size": 16, "num_res_blocks": 1, "base_channels": 32}
        more = {"channel_multiplier": [1, 1], "attn_resolutions": [1], "hidden_size": 32}
        return cls.seeded(NativeConfig({**small, **more, "temporal_downsample_factor": 2}), 0)

    def _build(self, settings: dict[str, Any]) -> nn.Module:
        from transformers import Emu3VQVAE, Emu3VQVAEConfig

        return Emu3VQVAE(Emu3VQVAEConfig(**settings))

    def _latents(self, pictures: Tensor) -> Tensor:
        frames = self.model.config.temporal_downsample_factor
        film = pictures[:, None].repeat(1, frames, 1, 1, 1)
        states = self.model.encoder(film).permute(0, 2, 1, 3, 4)
        return self.model.quant_conv(states)[:, :, 0]

    def _paint(self, latents: Tensor) -> Tensor:
        film = latents[:, :, None]
        states = self.model.post_quant_conv(film).permute(0, 2, 1, 3, 4)
        frames = self.model.decoder(states, film.permute(0, 2, 1, 3, 4))
        return frames.view(len(latents), -1, *frames.shape[-3:])[:, 0]


@codecs.register("janus")
class JanusCodec(NativeCodec):
    """Janus's, which is LlamaGen's: the decoder is given code vectors of unit length."""

    family = "janus"

    @classmethod
    def tiny(cls) -> Self:
        small = {"embed_dim": 4, "latent_channels": 8, "num_embeddings": 16, "num_res_blocks": 1}
        return cls.seeded(
            NativeConfig({**small, "base_channels": 32, "channel_multiplier": [1, 1]}), 0
        )

    def _build(self, settings: dict[str, Any]) -> nn.Module:
        from transformers import JanusVQVAE, JanusVQVAEConfig

        return JanusVQVAE(JanusVQVAEConfig(**settings))

    def _latents(self, pictures: Tensor) -> Tensor:
        return self.model.quant_conv(self.model.encoder(pictures))

    def _paint(self, latents: Tensor) -> Tensor:
        return self.model.decoder(self.model.post_quant_conv(F.normalize(latents, dim=1)))


_FAMILIES: dict[str, type[NativeCodec]] = {
    codec.family: codec for codec in (ChameleonCodec, Emu3Codec, JanusCodec)
}


def native_codec(lm: PreTrainedModel, folder: str | Path) -> Codec | None:
    """The codec of an image-native language model that was loaded from `folder`; None for others.

    `InputError` where a Chameleon's decoder lies beside it that does not fit.
    """
    family = _FAMILIES.get(lm.config.model_type)
    if family is None:
        return None
    codec, decoder = family.of(lm), Path(folder) / DECODER_FILE
    if isinstance(codec, ChameleonCodec) and decoder.is_file():
        return codec.with_decoder(load_file(str(decoder)), str(decoder))
    return codec
