"""The vision tower of any open_clip model as a frozen encoder; BioMedCLIP is one of them.

Only the vision tower is made and read: the text tower of BioMedCLIP alone would ask the hub for a
second model. Weights are read from safetensors; a checkpoint that exists as a pickle only has to be
converted once, which its `InputError` tells.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from arra.encoders.base import Features, check_pixels
from arra.encoders.preprocessing import Preprocessing
from arra.encoders.reference import HUB_NAME, ReferencedEncoder, block_number, check_digest
from arra.errors import InputError
from arra.files import read_json, write_json
from arra.networks.part import weights_fingerprint
from arra.randomness import seeded
from arra.registry import encoders

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_FIT = {"shortest": "crop", "squash": "stretch"}
_CONVERT = (
    "open_clip would have to unpickle it, which can run code. Convert it once, where you trust it: "
    "load it with torch.load(file, weights_only=True) and write its tensors with "
    f"safetensors.torch.save_file as {WEIGHTS[0]} into a folder beside {CONFIG} "
    "(docs/choosing.md has the lines)"
)


@dataclass(frozen=True)
class OpenClipConfig:
    """Which model, and what of it is read. Fields left open are filled in when the model loads."""

    model: str
    """A folder with `open_clip_config.json` and `open_clip_model.safetensors`, a repository of that
    form on the Hugging Face hub (owner/name), or an architecture of open_clip (ViT-B-16)."""
    pretrained: str | None = None
    """Of an architecture: open_clip's name of its weights, or a file of safetensors."""
    revision: str | None = None
    """Of a repository on the hub: branch, tag or commit."""
    layer: int | None = None
    """Output of which block: 1 is the first, -1 the last; no norm follows. None: the model's own
    final output with its final norm."""
    cls: Literal["pooled", "projected"] = "pooled"
    """"projected": the image embedding, in the space shared with captions. "pooled": the vector
    before that projection."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which the model computes; features are float32 always."""
    preprocessing: Preprocessing | None = None
    """None: as the model's own configuration says."""
    fingerprint: str | None = None
    """Digest of the weights; loading other weights under the same name raises `ProvenanceError`."""


@encoders.register("open_clip")
class OpenClipEncoder(ReferencedEncoder):
    """The vision tower of an open_clip model. Raises `InputError` where open_clip is missing."""

    Config = OpenClipConfig
    config: OpenClipConfig
    needs: ClassVar[tuple[str, ...]] = ("open_clip",)

    def __init__(self, config: OpenClipConfig):
        super().__init__(config)
        if config.cls == "projected" and config.layer is not None:
            raise InputError("OpenClipConfig.cls: only the final output is projected; drop `layer`")
        found = find_model(config)
        self.preprocessing = config.preprocessing or _own_preprocessing(found, config.model)
        self.architecture = dict(found.vision)
        self.visual = _vision_tower(found, self.preprocessing.size, config.model)
        self.visual.to(getattr(torch, config.dtype))
        if config.cls == "pooled":
            _drop_projection(self.visual)
        layer = block_number(
            config.layer, _depth(self.visual), "OpenClipConfig.layer", config.model
        )
        digest = weights_fingerprint(self)
        check_digest(config.model, config.fingerprint, digest)
        self.config = replace(
            config, layer=layer, preprocessing=self.preprocessing, fingerprint=digest
        )
        self.freeze()

    @classmethod
    def tiny(cls) -> Self:
        """A random two-block ViT in a temporary folder that is deleted with the encoder."""
        open_clip = library()
        folder = Path(tempfile.mkdtemp(prefix="arra-tiny-"))
        vision = {"image_size": 16, "patch_size": 8, "layers": 2, "width": 16, "head_width": 8}
        with seeded(0):
            tower = open_clip.model._build_vision_tower(8, dict(vision))
        _write(folder, tower, {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {}})
        encoder = cls(OpenClipConfig(str(folder)))
        weakref.finalize(encoder, shutil.rmtree, folder, ignore_errors=True)
        return encoder

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Features:
        """Features of pixels (B, 3, S, S), float32: cls (B, D) or None, patches (B, N, D)."""
        check_pixels(pixels, self.preprocessing.size)
        layer = self.config.layer
        pixels = pixels.to(self.device, next(self.parameters()).dtype)
        if layer is None:
            output = self.visual.forward_intermediates(
                pixels,
                indices=[_depth(self.visual) - 1],
                # after an attentional pool (CoCa) the last norm has another width
                normalize_intermediates=getattr(self.visual, "attn_pool", None) is None,
            )
            return Features(output["image_features"].float(), _rows(output["image_intermediates"]))
        extra = _has_class_token(self.visual)
        output = self.visual.forward_intermediates(
            pixels,
            indices=[layer - 1],
            intermediates_only=True,
            **({"output_extra_tokens": True} if extra else {}),
        )
        cls = output["image_intermediates_prefix"][0][:, 0].float() if extra else None
        return Features(cls, _rows(output["image_intermediates"]))

    def identity(self) -> dict[str, Any]:
        """Name of the model (not of a folder), architecture, digest of the weights, preprocessing.

        A folder's place is left out: the same weights elsewhere give the same features.
        """
        local = Path(self.config.model).is_dir()
        return {
            "encoder": self.registered_name,
            "model": None if local else self.config.model,
            "architecture": self.architecture,
            "weights": self.config.fingerprint,
            "layer": self.config.layer,
            "cls": self.config.cls,
            "dtype": self.config.dtype,
            "preprocessing": self.preprocessing.identity(),
        }


@dataclass(frozen=True)
class OpenClipModel:
    """A model before it is made."""

    vision: dict[str, Any]
    """embed_dim, quick_gelu, and the fields of open_clip's CLIPVisionCfg."""
    preprocess: Mapping[str, Any]
    weights: Path
    source: str
    """How open_clip itself names it: local-dir:FOLDER, hf-hub:OWNER/NAME, or an architecture."""


def library() -> Any:
    """open_clip itself; `InputError` where it is missing."""
    try:
        import open_clip
    except ImportError as error:
        raise InputError(
            f"open_clip cannot be imported ({error}); install it with pip install 'arra[open-clip]'"
        ) from error
    return open_clip


def find_model(config: OpenClipConfig) -> OpenClipModel:
    """Configuration and file of weights, from a folder, the hub, or open_clip's own lists."""
    if config.dtype not in ("float32", "bfloat16", "float16"):
        raise InputError(
            f"OpenClipConfig.dtype: {config.dtype!r}, expected float32, bfloat16, float16"
        )
    if config.cls not in ("pooled", "projected"):
        raise InputError(f"OpenClipConfig.cls: {config.cls!r}, expected pooled or projected")
    open_clip, folder = library(), Path(config.model)
    if folder.is_dir():
        plain = read_json(folder / CONFIG)
        weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if weights is None:
            raise InputError(f"{folder}: no {WEIGHTS[0]}; if it holds a .bin or .pt, {_CONVERT}")
        return _described(plain, weights, f"local-dir:{config.model}")
    if config.model in open_clip.list_models():
        return _builtin(open_clip, config)
    if not HUB_NAME.fullmatch(config.model):
        raise InputError(
            f"{config.model}: no such folder, nor a hub name (owner/name), nor an architecture of "
            "open_clip (open_clip.list_models())"
        )
    plain = read_json(_download(config.model, (CONFIG,), config.revision))
    weights = _download(config.model, WEIGHTS, config.revision)
    return _described(plain, weights, f"hf-hub:{config.model}")


def _described(plain: Any, weights: Path, source: str) -> OpenClipModel:
    model = plain.get("model_cfg") if isinstance(plain, dict) else None
    model = model if isinstance(model, dict) else {}
    if not (isinstance(model.get("vision_cfg"), dict) and isinstance(model.get("embed_dim"), int)):
        name = source.partition(":")[2]
        raise InputError(f"{name}: its {CONFIG} has no model_cfg with embed_dim and vision_cfg")
    preprocess = plain.get("preprocess_cfg") or {}
    return OpenClipModel(_vision_settings(model), preprocess, weights, source)


def _vision_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **model["vision_cfg"],
        "embed_dim": model["embed_dim"],
        "quick_gelu": bool(model.get("quick_gelu")),
    }


def _builtin(open_clip: Any, config: OpenClipConfig) -> OpenClipModel:
    """An architecture that open_clip knows, with weights by its name for them or from a file."""
    name, tag = config.model, config.pretrained
    vision = _vision_settings(open_clip.get_model_config(name))
    known = open_clip.list_pretrained_tags_by_model(name)
    if tag is not None and tag.endswith(".safetensors"):
        if not Path(tag).is_file():
            raise InputError(f"OpenClipConfig.pretrained: {tag}: no such file")
        return OpenClipModel(vision, {}, Path(tag), name)
    if tag is None or tag not in known:
        raise InputError(
            f"OpenClipConfig.pretrained: {tag!r} for {name}, expected a file of safetensors or one "
            f"of {', '.join(known)}"
        )
    about = open_clip.get_pretrained_cfg(name, tag)
    if bool(about.get("quick_gelu")) != vision["quick_gelu"]:
        other = name.removesuffix("-quickgelu") if vision["quick_gelu"] else f"{name}-quickgelu"
        raise InputError(f"{name}: the weights {tag!r} are those of {other}")
    if not about.get("hf_hub"):
        raise InputError(f"{name}: the weights {tag!r} are a pickle. {_CONVERT}")
    repository, _, file = about["hf_hub"].rpartition("/")
    own = (Path(file).with_suffix(".safetensors").name,) if file else ()
    return OpenClipModel(vision, about, _download(repository, (*own, *WEIGHTS), None), name)


def _download(repository: str, names: tuple[str, ...], revision: str | None) -> Path:
    """The first of `names` that the repository has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision))
        except (EntryNotFoundError, OSError, ValueError) as error:
            # a hub that cannot be reached also counts as an entry that is not found
            unreachable = isinstance(error, LocalEntryNotFoundError)
            if isinstance(error, EntryNotFoundError) and not unreachable:
                continue
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"{repository}: cannot be had from the hub: {first[0]}") from error
    if names == (CONFIG,):
        raise InputError(f"{repository}: no model of open_clip, it has no {CONFIG}")
    raise InputError(f"{repository}: none of {', '.join(names)}. If it has a .bin, {_CONVERT}")


def _own_preprocessing(found: OpenClipModel, name: str) -> Preprocessing:
    """What the model's configuration says, else open_clip's defaults.

    PIL resizes as open_clip's own transform does, since that works on PIL pictures.
    """
    from open_clip.transform import PreprocessCfg

    defaults = PreprocessCfg()
    said = {k: v for k, v in found.preprocess.items() if v is not None}
    size = found.vision.get("image_size", 224)
    mode = said.get("resize_mode", defaults.resize_mode)
    if isinstance(size, (list, tuple)):
        if len(set(size)) != 1:
            raise InputError(f"{name}: reads pictures of {size} pixels, expected a square")
        size = size[0]
    if mode not in _FIT:
        raise InputError(
            f"{name}: resize_mode {mode!r}; pass OpenClipConfig.preprocessing yourself"
        )
    return Preprocessing(
        size=int(size),
        fit=_FIT[mode],  # type: ignore[arg-type]
        mean=tuple(said.get("mean", defaults.mean)),
        std=tuple(said.get("std", defaults.std)),
        resample=said.get("interpolation", defaults.interpolation),
    )


def _vision_tower(found: OpenClipModel, size: int, name: str) -> Any:
    """The tower with its weights, for pictures of `size` pixels."""
    from safetensors import SafetensorError, safe_open

    open_clip = library()
    settings = dict(found.vision)
    trained_at, is_timm = settings.get("image_size", 224), bool(settings.get("timm_model_name"))
    if is_timm:
        settings["timm_model_pretrained"] = False
    else:
        settings["image_size"] = size
    holder: Any = nn.Module()
    try:
        with seeded(0):  # random weights, all of which are replaced
            holder.visual = open_clip.model._build_vision_tower(
                settings.pop("embed_dim"),
                quick_gelu=settings.pop("quick_gelu"),
                vision_cfg=settings,
            )
        with safe_open(found.weights, framework="pt") as file:
            kept = [key for key in file.keys() if key.startswith("visual.")]  # noqa: SIM118
            state = {key: file.get_tensor(key) for key in kept}
        open_clip.model.resize_pos_embed(state, holder)
        holder.load_state_dict(state)
        if is_timm and size != trained_at:
            holder.visual.set_input_size(size)
    except (RuntimeError, TypeError, ValueError, AssertionError, SafetensorError, OSError) as error:
        raise InputError(f"{name}: cannot make its vision tower: {error}") from error
    return holder.visual


def _drop_projection(visual: Any) -> None:
    """Leave out what maps the pooled vector into the space of captions."""
    if hasattr(visual, "trunk"):
        visual.head = nn.Identity()
    elif hasattr(visual, "proj"):
        visual.proj = None
    else:
        raise InputError(
            "OpenClipConfig.cls: the pooled vector of this tower is always projected; use "
            "'projected'"
        )


def _depth(visual: Any) -> int:
    """Number of blocks; of a convolutional tower, of stages."""
    if hasattr(visual, "transformer"):
        return len(visual.transformer.resblocks)
    trunk = getattr(visual, "trunk", None)
    if trunk is None:
        return 5  # stem and four stages of open_clip's ResNet
    return len(trunk.blocks if hasattr(trunk, "blocks") else trunk.stages)


def _has_class_token(visual: Any) -> bool:
    trunk = getattr(visual, "trunk", None)
    return (
        hasattr(visual, "transformer")
        if trunk is None
        else bool(getattr(trunk, "num_prefix_tokens", 0))
    )


def _rows(maps: list[Tensor]) -> Tensor:
    """(B, D, h, w) as (B, h * w, D) float32, in raster order."""
    square = maps[0]
    if square.shape[2] != square.shape[3] or not math.prod(square.shape[2:]):
        raise InputError(f"patches: a map of {tuple(square.shape[2:])}, expected a square")
    return square.flatten(2).transpose(1, 2).float()


def _write(folder: Path, tower: nn.Module, model: dict[str, Any]) -> None:
    """A folder as open_clip writes it, with a vision tower alone."""
    from safetensors.torch import save_file

    state = {f"visual.{k}": v.detach().clone() for k, v in tower.state_dict().items()}
    save_file(state, str(folder / WEIGHTS[0]))
    write_json(folder / CONFIG, {"model_cfg": model, "preprocess_cfg": {}})
