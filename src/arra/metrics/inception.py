"""The Inception network of 2015, in whose features FID and Inception score are defined.

Architecture and names of the weights are those of the PyTorch conversion that torch-fidelity and
pytorch-fid share (one file, `INCEPTION_FILES`), which differs from torchvision's Inception: average
pools leave the padding out, and the last block pools by maximum. Shapes: B pictures; 299 pixels.

Only features of the genuine file are FID features, so `Inception.genuine` compares its hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from arra.errors import InputError
from arra.files import sha256_of_file

SIDE, FEATURES, CLASSES = 299, 2048, 1008
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the converted weights of 2015-12-05, as torch-fidelity and pytorch-fid publish them."""
INCEPTION_FILES = (
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" + INCEPTION_FILES[0]
)
RESIZING = "Pillow bicubic with antialiasing, in floating point, clipped to 0-255 (as clean-fid)"

Kernel = tuple[int, int]


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU. At stride 1 it keeps the size unless `padding` is 0.

    `reads` is what the layer takes: the block's input, or the layer before it in its branch.
    """

    def __init__(
        self, reads: int, gives: int, kernel: Kernel, stride: int, padding: Kernel | None = None
    ):
        super().__init__()
        if padding is None:
            padding = (0, 0) if stride > 1 else (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(reads, gives, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(gives, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Layer:
    """A convolution of a branch: its name in the file of weights, channels, kernel, stride."""

    def __init__(self, name: str, channels: int, kernel: int | Kernel = 1, stride: int = 1):
        self.name, self.channels, self.stride = name, channels, stride
        self.kernel = (kernel, kernel) if isinstance(kernel, int) else kernel


_Step = str | _Layer | tuple[_Layer, ...]
"""A pool by name, a convolution, or convolutions side by side whose results are concatenated."""
_Branch = tuple[_Step, ...]


def _pool(kind: str, x: Tensor) -> Tensor:
    if kind == "average":
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return F.max_pool2d(x, 3, stride=2) if kind == "halve" else F.max_pool2d(x, 3, 1, padding=1)


class _Block(nn.Module):
    """Branches over one input; their results are concatenated."""

    def __init__(self, reads: int, branches: tuple[_Branch, ...]):
        super().__init__()
        self.branches, self.gives = branches, 0
        for branch in branches:
            last = reads
            for step in branch:
                if isinstance(step, str):
                    continue
                side_by_side = step if isinstance(step, tuple) else (step,)
                for one in side_by_side:
                    self.add_module(one.name, _Conv(last, one.channels, one.kernel, one.stride))
                last = sum(one.channels for one in side_by_side)
            self.gives += last

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._branch(branch, x) for branch in self.branches], dim=1)

    def _branch(self, branch: _Branch, x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, str):
                x = _pool(step, x)
            elif isinstance(step, tuple):
                x = torch.cat([self.get_submodule(one.name)(x) for one in step], dim=1)
            else:
                x = self.get_submodule(step.name)(x)
        return x


def _double(*sizes: tuple[int, int, int]) -> _Branch:
    """The branch with two 3 x 3 layers: channels, kernel and stride of each layer."""
    layers = (_Layer(f"branch3x3dbl_{i}", c, k, s) for i, (c, k, s) in enumerate(sizes, start=1))
    return tuple(layers)


def _small(pool: int) -> tuple[_Branch, ...]:
    return (
        (_Layer("branch1x1", 64),),
        (_Layer("branch5x5_1", 48), _Layer("branch5x5_2", 64, 5)),
        _double((64, 1, 1), (96, 3, 1), (96, 3, 1)),
        ("average", _Layer("branch_pool", pool)),
    )


def _factored(width: int) -> tuple[_Branch, ...]:
    def chain(name: str, kernels: tuple[Kernel, ...]) -> _Branch:
        layers: list[_Step] = [_Layer(f"{name}_1", width)]
        for i, kernel in enumerate(kernels, start=2):
            layers.append(_Layer(f"{name}_{i}", 192 if i > len(kernels) else width, kernel))
        return tuple(layers)

    across, down = (1, 7), (7, 1)
    return (
        (_Layer("branch1x1", 192),),
        chain("branch7x7", (across, down)),
        chain("branch7x7dbl", (down, across, down, across)),
        ("average", _Layer("branch_pool", 192)),
    )


def _wide(pool: str) -> tuple[_Branch, ...]:
    def split(name: str) -> _Step:
        return _Layer(f"{name}a", 384, (1, 3)), _Layer(f"{name}b", 384, (3, 1))

    return (
        (_Layer("branch1x1", 320),),
        (_Layer("branch3x3_1", 384), split("branch3x3_2")),
        (*_double((448, 1, 1), (384, 3, 1)), split("branch3x3dbl_3")),
        (pool, _Layer("branch_pool", 192)),
    )


_HALVE_35: tuple[_Branch, ...] = (
    (_Layer("branch3x3", 384, 3, 2),),
    _double((64, 1, 1), (96, 3, 1), (96, 3, 2)),
    ("halve",),
)
_HALVE_17: tuple[_Branch, ...] = (
    (_Layer("branch3x3_1", 192), _Layer("branch3x3_2", 320, 3, 2)),
    (
        _Layer("branch7x7x3_1", 192),
        _Layer("branch7x7x3_2", 192, (1, 7)),
        _Layer("branch7x7x3_3", 192, (7, 1)),
        _Layer("branch7x7x3_4", 192, 3, 2),
    ),
    ("halve",),
)
_BLOCKS = (
    ("Mixed_5b", 192, _small(32)),
    ("Mixed_5c", 256, _small(64)),
    ("Mixed_5d", 288, _small(64)),
    ("Mixed_6a", 288, _HALVE_35),
    ("Mixed_6b", 768, _factored(128)),
    ("Mixed_6c", 768, _factored(160)),
    ("Mixed_6d", 768, _factored(160)),
    ("Mixed_6e", 768, _factored(192)),
    ("Mixed_7a", 768, _HALVE_17),
    ("Mixed_7b", 1280, _wide("average")),
    ("Mixed_7c", 2048, _wide("maximum")),
)


class InceptionNetwork(nn.Module):
    """Inception v3 as TensorFlow shipped it in 2015, frozen in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        none = (0, 0)
        self.Conv2d_1a_3x3 = _Conv(3, 32, (3, 3), 2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, (3, 3), 1, none)
        self.Conv2d_2b_3x3 = _Conv(32, 64, (3, 3), 1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, (1, 1), 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, (3, 3), 1, none)
        for name, reads, branches in _BLOCKS:
            self.add_module(name, _Block(reads, branches))
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.requires_grad_(False).eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pool features (B, 2048) and logits without bias (B, 1008) of (B, 3, 299, 299) in 0-255.

        The Inception score is defined on the logits without their bias.
        """
        x = (pixels - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        for name, _, _ in _BLOCKS:
            x = self.get_submodule(name)(x)
        features = x.mean(dim=(2, 3))
        return features, features @ self.fc.weight.T


class Inception:
    """Features and class logits of pictures, and whether they are those of the published weights.

    Both are of float32 arithmetic, returned as float64 (statistics of float32 can go astray).
    """

    def __init__(self, path: str | Path, device: str = "cpu", batch: int = 16):
        self.path, self.batch, self.device = Path(path), batch, device
        digest, state = _read_weights(self.path)
        self.genuine = digest == INCEPTION_SHA256
        self.digest = digest
        self.name = f"inception-2015:{digest[:12]}" if self.genuine else f"inception:{digest[:12]}"
        self.network = InceptionNetwork()
        try:
            self.network.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(
                f"{self.path}: not the weights of the Inception network of 2015 in PyTorch's "
                f"names: {str(error).splitlines()[-1].strip()}"
            ) from error
        self.network.to(device)

    @torch.no_grad()
    def see(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, 2048) and logits (N, 1008), float64, of (N, H, W, 3) uint8."""
        features, logits = [np.zeros((0, FEATURES))], [np.zeros((0, CLASSES))]
        for pixels in _batches(pictures, self.batch):
            found = self.network(pixels.to(self.device))
            for rows, into in zip(found, (features, logits), strict=True):
                into.append(rows.double().cpu().numpy())
        return np.concatenate(features), np.concatenate(logits)


def find_inception(where: str) -> Path:
    """The file of weights: `where` itself, or for "auto" torch hub's cached copy or a download.

    Raises `InputError` when there is neither the file nor a way to it.
    """
    if where != "auto":
        path = Path(where)
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; expected the Inception weights of torch-fidelity or "
                f"pytorch-fid ({INCEPTION_FILES[0]}), or the word auto"
            )
        return path
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in INCEPTION_FILES:
        if (folder / name).is_file():
            return folder / name
    path = folder / INCEPTION_FILES[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=INCEPTION_SHA256)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the Inception weights are neither in {folder} nor reachable ({error}): fetch "
            f"{INCEPTION_URL} elsewhere and give its path"
        ) from error
    return path


def _read_weights(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Digest of the file and its tensors, from safetensors or a PyTorch file of plain tensors."""
    digest = sha256_of_file(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return digest, load_file(str(path))
        # weights_only: tensors and containers, nothing that could run
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise many kinds
        raise InputError(f"{path}: cannot be read as weights ({error})") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: holds no plain table of weights (a state dict)")
    return digest, state


def resized(picture: np.ndarray) -> np.ndarray:
    """(299, 299, 3) float32 in 0-255 of one picture (H, W, 3) uint8: see `RESIZING`."""
    channels = []
    for channel in range(3):
        image = Image.fromarray(np.ascontiguousarray(picture[:, :, channel], dtype=np.float32))
        channels.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return np.stack(channels, axis=-1).clip(0, 255)


def _batches(pictures: np.ndarray, size: int) -> Iterator[Tensor]:
    for start in range(0, len(pictures), size):
        chunk = np.stack([resized(picture) for picture in pictures[start : start + size]])
        yield torch.from_numpy(chunk).permute(0, 3, 1, 2)
