"""Clips whose codes are vectors: pixels of all frames, and a generator drawing frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from arra import cli
from arra.codecs.latent import PixelCodec, PixelConfig
from arra.errors import InputError
from arra.experiments.moving_digits import moving_digits, write_videos
from arra.generators.blocks import BlockGenerator
from arra.jobs.codec_kinds import check_kind
from arra.pixels import to_unit
from arra.text_to_image import TextToImage

FRAMES, SIDE = 3, 16


@pytest.fixture(scope="module")
def clips():
    """(N, H, W, 3 T) uint8."""
    found = moving_digits(8, FRAMES, SIDE, speed=1).clips
    return np.ascontiguousarray(found.transpose(0, 2, 3, 1, 4).reshape(8, SIDE, SIDE, 3 * FRAMES))


def test_pixels_of_clips_come_back(clips):
    codec = PixelCodec.fit(clips, PixelConfig(4, FRAMES, rate=5.0))
    assert (codec.frames, codec.rate, codec.dimensions) == (FRAMES, 5.0, 48 * FRAMES)
    pictures = to_unit(clips, 3 * FRAMES)
    codes = codec.encode(pictures)
    assert codes.shape == (8, 4, 4, 48 * FRAMES)
    torch.testing.assert_close(codec.decode(codes), pictures, rtol=0, atol=1e-5)


def test_numbers_of_a_frame_lie_side_by_side(clips):
    """What the generator takes for a frame is that frame, and no other."""
    codec = PixelCodec(PixelConfig(4, FRAMES))
    pictures = to_unit(clips, 3 * FRAMES)
    codes = codec.encode(pictures).unflatten(3, (FRAMES, -1))
    alone = PixelCodec(PixelConfig(4))
    for frame in range(FRAMES):
        expected = alone.encode(pictures[:, 3 * frame : 3 * frame + 3])
        assert torch.equal(codes[:, :, :, frame], expected)


def test_pixels_take_clips_and_networks_do_not():
    check_kind("pixels", FRAMES)
    with pytest.raises(InputError, match="kl takes pictures"):
        check_kind("kl", FRAMES)


def test_clips_are_drawn_frame_by_frame(tmp_path, capsys):
    write_videos(moving_digits(24, FRAMES, SIDE, speed=1), tmp_path / "videos")

    def run(*arguments):
        assert cli.run([str(argument) for argument in arguments]) == 0

    source = (tmp_path / "videos", "--clips.frames", FRAMES, "--size", SIDE)
    run(
        *("prepare", *source, "--out", tmp_path / "store", "--train-codec", "pixels"),
        *("--codec.downsample", "4"),
    )
    said = capsys.readouterr().out
    assert "4 x 4 vectors of 144 numbers" in said
    assert "codes" not in said
    assert f"next: arra train {tmp_path / 'store'} --generator blocks --no-align" in said
    small = ("--llama.width", "32", "--llama.depth", "1", "--llama.heads", "2")
    run(
        *("train", tmp_path / "store", "--generator", "blocks", *small, "--no-align"),
        *("--llama.feed-forward", "32", "--vectors.steps", "2", "--batch.size", "4"),
        *("--precision", "fp32", "--steps", "2", "--samples", "1", "--out", tmp_path / "run"),
    )
    assert "loss of their vectors" in capsys.readouterr().out
    model = TextToImage.from_pretrained(tmp_path / "run", "cpu")
    assert isinstance(model.generator, BlockGenerator)
    assert model.generator.units == model.frames == FRAMES
    asked = ("--count", "1", "--out", tmp_path / "out")
    run("generate", tmp_path / "run", "a six moving left", *asked)
    (drawn,) = (tmp_path / "out").glob("a-six*.png")
    assert Image.open(drawn).n_frames == FRAMES
    assert Image.open(tmp_path / "out" / "grid.png").width > FRAMES * SIDE
