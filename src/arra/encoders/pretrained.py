"""Any vision model of `transformers` as a frozen encoder.

Four shapes of output cover the field: a class token before the patches (ViT, DINOv2, DINOv3, where
register tokens stand between the two and are dropped), a class token that is normalised, and
perhaps projected, apart (CLIP), an attention-pooled vector beside the patches (SigLIP, SigLIP 2),
and a feature map without any global vector (SAM).
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from arra.encoders.base import Features, check_pixels
from arra.encoders.preprocessing import Preprocessing
from arra.encoders.reference import ReferencedEncoder, block_number, check_digest
from arra.errors import InputError
from arra.networks.part import weights_fingerprint
from arra.progress import without_library_bars
from arra.randomness import seeded
from arra.registry import encoders


@dataclass(frozen=True)
class PretrainedConfig:
    """Which model, and what of it is read. Fields left open are filled in when the model loads."""

    model: str
    """Name on the Hugging Face hub (owner/name), or a folder written by `save_pretrained`."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit once it is known."""
    layer: int | None = None
    """Output of which block: 1 is the first, -1 the last; no norm follows. None: the model's own
    final output with its final norm."""
    cls: Literal["pooled", "projected"] = "pooled"
    """"pooled": the model's own pooled vector or normalised class token. "projected": that,
    projected into the space shared with captions (CLIP)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which the model computes; features are float32 always."""
    preprocessing: Preprocessing | None = None
    """None: as the model's own image processor says."""
    fingerprint: str | None = None
    """Digest of the weights; loading other weights under the same name raises `ProvenanceError`."""


@encoders.register("transformers")
class PretrainedEncoder(ReferencedEncoder):
    """A vision model of `transformers`."""

    Config = PretrainedConfig
    config: PretrainedConfig

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        model, missing, commit = _load(config)
        self.tower, self.projection = _vision_part(model, config)
        _refuse_random_weights(self, model, missing, config.model)
        layers = _depth(self.tower.config)
        layer = block_number(config.layer, layers, "PretrainedConfig.layer", config.model)
        if layer is not None and config.cls == "projected":
            raise InputError(
                "PretrainedConfig.cls: only the final output is projected; drop `layer`"
            )
        self.preprocessing = config.preprocessing or _own_preprocessing(config)
        self._sides = _grid(self.tower.config, self.preprocessing.size, config.model)
        found = weights_fingerprint(self)
        check_digest(config.model, config.fingerprint, found)
        self.config = replace(
            config,
            layer=layer,
            revision=commit or config.revision,
            preprocessing=self.preprocessing,
            fingerprint=found,
        )
        self.freeze()

    @classmethod
    def tiny(cls) -> Self:
        """A random two-block ViT in a temporary folder that is deleted with the encoder."""
        from transformers import ViTConfig, ViTModel

        folder = tempfile.mkdtemp(prefix="arra-tiny-")
        with seeded(0):
            model = ViTModel(
                ViTConfig(
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    image_size=16,
                    patch_size=8,
                )
            )
        with without_library_bars():
            model.save_pretrained(folder)
        encoder = cls(PretrainedConfig(folder, preprocessing=Preprocessing(size=16)))
        weakref.finalize(encoder, shutil.rmtree, folder, ignore_errors=True)
        return encoder

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Features:
        """Features of pixels (B, 3, S, S), float32: cls (B, D) or None, patches (B, N, D)."""
        check_pixels(pixels, self.preprocessing.size)
        inputs = self._inputs(pixels.to(self.device, next(self.parameters()).dtype))
        layer = self.config.layer
        output = self.tower(**inputs, output_hidden_states=layer is not None)
        if layer is not None:
            return self._split(output.hidden_states[layer], pooled=None, channels_last=True)
        pooled = getattr(output, "pooler_output", None)
        features = self._split(output.last_hidden_state, pooled, channels_last=False)
        if self.projection is None:
            return features
        assert features.cls is not None
        return replace(features, cls=self.projection(pooled).float())

    def _inputs(self, pixels: Tensor) -> dict[str, Any]:
        kind, patch = self.tower.config.model_type, getattr(self.tower.config, "patch_size", 0)
        if kind.startswith("siglip2"):
            # NaFlex reads rows of flattened patches (row, column, channel) with their grid
            batch, _, size, _ = pixels.shape
            side = size // patch
            blocks = pixels.view(batch, 3, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1)
            return {
                "pixel_values": blocks.reshape(batch, side * side, patch * patch * 3),
                "pixel_attention_mask": pixels.new_ones(batch, side * side, dtype=torch.long),
                "spatial_shapes": torch.full((batch, 2), side, device=pixels.device),
            }
        trained_at = getattr(self.tower.config, "image_size", None)
        resized = trained_at not in (None, pixels.shape[-1], [pixels.shape[-1]] * 2)
        if (
            resized
            and "interpolate_pos_encoding" in inspect.signature(self.tower.forward).parameters
        ):
            return {"pixel_values": pixels, "interpolate_pos_encoding": True}
        return {"pixel_values": pixels}

    def _split(self, states: Tensor, pooled: Tensor | None, channels_last: bool) -> Features:
        """Patches, and the global vector where there is one, of the states of one layer."""
        states = states.float()
        if states.ndim == 4:  # a feature map; inside SAM channels come last, at its end second
            states = states if channels_last else states.permute(0, 2, 3, 1)
            return Features(cls=None, patches=states.flatten(1, 2))
        places = self._sides**2
        extra = states.shape[1] - places
        if extra < 0:
            raise InputError(
                f"{self.config.model}: gave {states.shape[1]} tokens for {places} patches; models "
                "that merge or drop patches are not supported"
            )
        cls = states[:, 0] if pooled is None and extra else pooled
        return Features(cls=None if cls is None else cls.float(), patches=states[:, extra:])

    def identity(self) -> dict[str, Any]:
        """Name and commit (of a hub model), digest of the weights, layer, type, preprocessing.

        A folder's place is left out: the same weights elsewhere give the same features.
        """
        local = Path(self.config.model).is_dir()
        return {
            "encoder": self.registered_name,
            "architecture": type(self.tower).__name__,
            "model": None if local else self.config.model,
            "revision": None if local else self.config.revision,
            "weights": self.config.fingerprint,
            "layer": self.config.layer,
            "cls": self.config.cls,
            "dtype": self.config.dtype,
            "preprocessing": self.preprocessing.identity(),
        }


def _load(config: PretrainedConfig) -> tuple[Any, set[str], str | None]:
    """The whole model, the names of weights that its files lack, and its commit on the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id
    from transformers import AutoConfig, AutoModel, CLIPVisionModelWithProjection

    if config.dtype not in ("float32", "bfloat16", "float16"):
        raise InputError(
            f"PretrainedConfig.dtype: {config.dtype!r}, expected float32, bfloat16, float16"
        )
    if config.cls not in ("pooled", "projected"):
        raise InputError(f"PretrainedConfig.cls: {config.cls!r}, expected pooled or projected")
    if not Path(config.model).is_dir():
        try:
            validate_repo_id(config.model)
        except HFValidationError:
            raise InputError(
                f"{config.model}: no such folder, nor a hub name (owner/name)"
            ) from None
    try:
        kind = AutoConfig.from_pretrained(config.model, revision=config.revision).model_type
        towers = {"clip_vision_model": CLIPVisionModelWithProjection}
        loader: Any = towers.get(kind, AutoModel) if config.cls == "projected" else AutoModel
        # use_safetensors: the other format is a pickle, which can run code
        with without_library_bars() if Path(config.model).is_dir() else nullcontext():
            model, info = loader.from_pretrained(
                config.model,
                revision=config.revision,
                dtype=getattr(torch, config.dtype),
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{config.model}: cannot load it with transformers: {error}") from error
    return model, set(info["missing_keys"]), getattr(model.config, "_commit_hash", None)


def _vision_part(model: Any, config: PretrainedConfig) -> tuple[Any, nn.Module | None]:
    """The vision tower, and CLIP's projection where asked for; the rest of the model is dropped."""
    tower: Any = model
    for name in ("vision_model", "vision_encoder"):
        tower = getattr(tower, name, tower)
    pooler = getattr(tower, "pooler", None)
    if isinstance(getattr(pooler, "dense", None), nn.Linear):
        # ViT's tanh pooler is missing from most checkpoints; the class token itself is the standard
        tower.pooler = None
    if config.cls == "pooled":
        return tower, None
    projection = getattr(model, "visual_projection", None)
    if projection is None:
        raise InputError(
            f"{config.model}: a {type(model).__name__} has no image projection; use cls 'pooled'"
        )
    return tower, projection


def _refuse_random_weights(
    encoder: nn.Module, model: nn.Module, missing: set[str], name: str
) -> None:
    """`transformers` fills what a file lacks with noise, which a frozen encoder must not use."""
    used = {id(tensor) for tensor in encoder.parameters()}
    for key, tensor in model.named_parameters(remove_duplicate=False):
        if key in missing and id(tensor) in used:
            raise InputError(f"{name}: the checkpoint lacks {key!r}, which the encoder needs")


def _own_preprocessing(config: PretrainedConfig) -> Preprocessing:
    """What the model's image processor does, read from its settings.

    The processor itself is not called: some exist only for torchvision, whose resizing differs.
    """
    from transformers import AutoImageProcessor
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        try:
            processor = AutoImageProcessor.from_pretrained(config.model, revision=config.revision)
            settings = processor.to_dict()
        except ImportError:
            settings, _ = BaseImageProcessor.get_image_processor_dict(
                config.model, revision=config.revision
            )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{config.model}: no image processor to read the preprocessing from ({error}); "
            "pass PretrainedConfig.preprocessing"
        ) from error
    return Preprocessing.from_processor(settings, where=config.model)


def _depth(config: Any) -> int:
    return int(getattr(config, "num_hidden_layers", 0) or 0)


def _grid(config: Any, size: int, name: str) -> int:
    """Patches along one side."""
    patch = getattr(config, "patch_size", None)
    if isinstance(patch, (list, tuple)):
        if len(set(patch)) != 1:
            raise InputError(f"{name}: patches of {patch} pixels, expected squares")
        patch = patch[0]
    if not patch:
        return 0
    if size % patch:
        raise InputError(
            f"Preprocessing.size: {size}, expected a multiple of {name}'s patch {patch}"
        )
    return size // int(patch)
