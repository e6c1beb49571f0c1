"""Bytes of an H.264 file as codes; skipped where PyAV is not installed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from arra.codecs import AvcCodec, AvcConfig
from arra.codecs.base import Codec
from arra.errors import InputError, ProvenanceError
from arra.pixels import stacked, to_unit, unstacked

pytest.importorskip("av", reason="needs PyAV (extra video)")


def moving(count: int = 3, frames: int = 4, side: int = 32) -> np.ndarray:
    """(count, frames, side, side, 3) uint8: a bright square on a slope, moving."""
    slope = np.add.outer(np.arange(side), np.arange(side)) * (160 // (2 * side))
    clips = np.repeat(slope[None, None], count, 0).repeat(frames, 1).astype(np.uint8)
    for n in range(count):
        for t in range(frames):
            clips[n, t, 4 * t + n : 4 * t + n + 10, 6 + 3 * n : 16 + 3 * n] = 230 - 20 * n
    return clips[..., None].repeat(3, axis=-1)


def unit(codec: AvcCodec, clips: np.ndarray) -> torch.Tensor:
    frames = [to_unit(clips[:, t]) for t in range(codec.config.frames)]
    return torch.cat(frames, dim=1)


def shown(pictures: torch.Tensor) -> np.ndarray:
    values = ((pictures + 1) * 127.5).round().to(torch.uint8)
    return unstacked(values.permute(0, 2, 3, 1).numpy())


@pytest.fixture(scope="module")
def codec() -> AvcCodec:
    return AvcCodec.fit(stacked(moving()), AvcConfig(4, (2, 2), vocabulary=300))


def test_a_clip_goes_there_and_back(codec):
    clips = moving()
    assert np.array_equal(unstacked(stacked(clips)), clips)
    codes = codec.encode(unit(codec, clips))
    assert torch.equal(codes, codec.encode(unit(codec, clips)))
    assert codec.valid(codes).all()
    found = shown(codec.decode(codes))
    assert found.shape == clips.shape
    still = np.repeat(clips[:, :1], 4, axis=1)  # not merely the first frame
    error = np.abs(found.astype(float) - clips).mean()
    assert error < 12
    assert error < 0.6 * np.abs(still.astype(float) - clips).mean()


def test_a_slice_is_a_macroblock_and_a_prompt_whole_frames(codec):
    """Cut behind frame 2 the first two frames are given, whatever follows."""
    codes = codec.encode(unit(codec, moving()))
    for body in codec.spell(codes):
        assert len(codec.stream.ends_of_blocks(body)) == 4 * 4 - 1
    completed = codec.stream.completed(codec.stream.content(codes[0].tolist()))
    assert [n for n in completed if n >= 0][-1] == 3
    whole = shown(codec.decode(codes))
    prompt = codec.prompts(codes, 2 * 4)
    other = codec.encode(unit(codec, moving()[::-1].copy()))
    for row in range(3):
        given = codec.bpe.decode([c for c in prompt[row].tolist() if c >= 0])
        assert codec.spell(codes)[row].startswith(given)
        rest = codec.spell(other)[row]
        joined = given + rest[codec.stream.ends_of_blocks(rest)[7] :]
        found = codec.read(joined)
        assert np.array_equal(unstacked(found[None])[0][:2], whole[row][:2])


def test_damage_leaves_the_size(codec):
    codes = codec.encode(unit(codec, moving()))
    body = codec.spell(codes)[0]
    rng = np.random.default_rng(0)
    assert codec.sound(body)
    for cut in (0, 1, len(body) // 3, len(body) - 3):
        assert codec.read(body[:cut]).shape == (32, 32, 12)
        assert not codec.sound(body[:cut])
    for _ in range(20):
        damaged = bytearray(body)
        damaged[int(rng.integers(len(body)))] ^= 1 << int(rng.integers(8))
        assert codec.read(bytes(damaged)).shape == (32, 32, 12)
    assert codec.read(bytes(rng.integers(0, 256, 200, dtype=np.uint8))).shape == (32, 32, 12)


def test_it_is_saved_with_its_header(codec, tmp_path):
    codec.save_pretrained(tmp_path / "codec")
    again = Codec.from_pretrained(tmp_path / "codec")
    codes = codec.encode(unit(codec, moving()))
    assert torch.equal(again.encode(unit(codec, moving())), codes)
    assert torch.equal(again.decode(codes), codec.decode(codes))
    changed = again.header.clone()
    changed[-1] ^= 1
    again.header = changed
    again._arrange()
    assert again.fingerprint() != codec.fingerprint()
    with pytest.raises(ProvenanceError, match="another header"):
        again.encode(unit(codec, moving()))


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"qp": 52}, {"grid": (0, 1)}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(InputError, match="AvcConfig"):
        AvcConfig(**wrong)


@pytest.mark.data
@pytest.mark.skipif("ARRA_DATA" not in os.environ, reason="ARRA_DATA names no folder")
def test_a_real_clip_is_an_eightieth_of_its_pixels():
    path = Path(os.environ["ARRA_DATA"]) / "video" / "carphone.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    clip = np.load(path)["frames"][:15:2, 32:96, 32:96]
    codec = AvcCodec.fit(stacked(clip[None]), AvcConfig(8, (4, 4)))
    codes = codec.encode(unit(codec, clip[None]))
    assert codec.valid(codes).all()
    assert np.abs(shown(codec.decode(codes))[0].astype(float) - clip).mean() < 10
    taken = int((codes != codec.stream.end).sum())
    assert taken < clip.size / 60
