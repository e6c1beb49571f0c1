"""Decoding of single pictures: pixel-exact where it is possible, a named reason where it is not."""

from __future__ import annotations

import io
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from arra.data.decode import decode, fit
from arra.data.rows import BadRow, Limits
from arra.errors import InputError
from picture_kit import (
    BROKEN,
    FLOAT,
    FRAMES,
    GIF,
    GREY16,
    JPEG,
    PNG,
    RGB,
    chunk,
    encoded,
    exif,
    png,
)

pytestmark = pytest.mark.filterwarnings("ignore")
ALPHA = np.linspace(0, 255, 54).astype(np.uint8).reshape(6, 9)


def pixels(data: bytes, name: str = "x", **limits) -> np.ndarray:
    image, _ = decode(data, name, Limits(**limits))
    assert image.mode == "RGB"
    assert not image.info
    return np.asarray(image)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def over(colour: np.ndarray, alpha: np.ndarray, ground: tuple[int, int, int]) -> np.ndarray:
    share = alpha[..., None] / 255.0
    return colour * share + np.asarray(ground) * (1 - share)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_bytes_are_named_with_their_reason(name):
    data, reason = BROKEN[name]
    with pytest.raises(BadRow) as caught:
        decode(data, f"{name}.png")
    assert (caught.value.name, caught.value.reason) == (f"{name}.png", reason)
    assert str(caught.value).startswith(f"{name}.png: {reason}")


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_formats_keep_every_pixel(format):
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(pixels(encoded(RGB, format, **options)), RGB)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_not_clipped(format):
    expected = grey(np.rint(GREY16 / 257.0))
    np.testing.assert_array_equal(pixels(encoded(GREY16, format)), expected)


def test_16_bits_where_white_is_zero():
    data = encoded(GREY16, "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(pixels(data), grey(np.rint((65535 - GREY16.astype(int)) / 257)))


def test_float_tiff_from_0_to_1():
    np.testing.assert_array_equal(pixels(encoded(FLOAT, "TIFF")), grey(np.rint(FLOAT * 255)))


def test_cmyk():
    ink = np.zeros((2, 3, 4), np.uint8)
    ink[0, :, 0], ink[1, :, 3] = 255, 255  # a row of cyan, a row of black
    data = encoded(Image.fromarray(ink, "CMYK"), "TIFF")
    np.testing.assert_array_equal(pixels(data)[:, 0], [[0, 255, 255], [0, 0, 0]])


def test_palette_and_grey():
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(pixels(encoded(palette)), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(pixels(encoded(RGB[..., 0])), grey(RGB[..., 0]))
    bits = Image.fromarray(RGB[..., 0] > 127)
    np.testing.assert_array_equal(pixels(encoded(bits)), grey((RGB[..., 0] > 127) * 255))


@pytest.mark.parametrize("ground", [(255, 255, 255), (0, 0, 0), (10, 200, 90)])
def test_alpha_lies_over_the_background(ground):
    rgba = np.dstack([RGB, ALPHA])
    got = pixels(encoded(rgba), background=ground)
    assert np.abs(got - over(RGB, ALPHA, ground)).max() <= 1
    both = Image.fromarray(np.dstack([RGB[..., 0], ALPHA]), "LA")
    got = pixels(encoded(both), background=ground)
    assert np.abs(got - over(grey(RGB[..., 0]), ALPHA, ground)).max() <= 1


def test_palette_with_transparency():
    image = Image.fromarray(RGB).quantize(16)
    clear = image.getpixel((2, 3))
    got = pixels(encoded(image, transparency=clear), background=(1, 2, 3))
    hidden = np.asarray(image) == clear
    assert (got[hidden] == (1, 2, 3)).all()
    np.testing.assert_array_equal(got[~hidden], np.asarray(image.convert("RGB"))[~hidden])
    table = bytes(16 * [128])
    half = pixels(encoded(image, transparency=table), background=(0, 0, 0))
    assert np.abs(half - np.asarray(image.convert("RGB")) * (128 / 255)).max() <= 1


def test_16_bit_grey_with_a_transparent_value():
    raw = b"\0" + np.array([1000, 65535], ">u2").tobytes()
    data = png(2, 1, 16, 0, raw, chunk(b"tRNS", np.array([1000], ">u2").tobytes()))
    np.testing.assert_array_equal(pixels(data, background=(9, 8, 7)), [[[9, 8, 7], [255] * 3]])


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_every_orientation_is_made_upright(format):
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, 1),
    }
    options = {"lossless": True} if format == "WEBP" else {}
    for value, turned in upright.items():
        image, notes = decode(encoded(RGB, format, exif=exif(value), **options), "x")
        np.testing.assert_array_equal(np.asarray(image), turned(RGB), err_msg=str(value))
        assert notes == ()
        assert image.getexif().get(0x0112) is None


def test_damaged_exif_keeps_the_picture_as_stored():
    image, notes = decode(encoded(RGB, exif=exif(77)), "x")
    np.testing.assert_array_equal(np.asarray(image), RGB)
    assert notes == ("the EXIF orientation is not one; the picture is used as stored",)
    for junk in (b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0garbagegarbage", b"Exif\0\0"):
        data = encoded(RGB, "JPEG", exif=junk)
        np.testing.assert_array_equal(pixels(data), pixels(encoded(RGB, "JPEG")))


def test_animations():
    image, notes = decode(GIF, "x.gif")
    np.testing.assert_array_equal(
        np.asarray(image), np.asarray(Image.open(io.BytesIO(GIF)).convert("RGB"))
    )
    assert notes == ("only the first of several frames or pages is used",)
    pages = encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:])
    np.testing.assert_array_equal(pixels(pages), RGB)
    for data in (GIF, pages):
        with pytest.raises(BadRow, match="several frames"):
            decode(data, "x", Limits(animation="refuse"))
    # What phones write (a JPEG and its preview) is a still picture all the same.
    phone = encoded(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:])
    assert decode(phone, "x.jpg", Limits(animation="refuse"))[1] == ()


def test_wrong_ending_is_noted():
    assert decode(PNG, "x.JPG")[1] == ("the content is PNG, the name says JPEG",)
    assert decode(PNG, "x.png")[1] == decode(PNG, "table#3")[1] == ()


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1)])
def test_odd_sizes(shape):
    strip = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(encoded(strip)), strip)
    for how in ("crop", "pad", "stretch"):
        assert fit(decode(encoded(strip), "x")[0], 8, how).size == (8, 8)


def test_limits_are_exact():
    assert pixels(PNG, max_pixels=54, min_side=6, max_bytes=len(PNG)).shape == (6, 9, 3)
    for limits, reason in (
        ({"max_pixels": 53}, "more pixels than allowed"),
        ({"min_side": 7}, "smaller than allowed"),
        ({"max_bytes": len(PNG) - 1}, "larger than allowed"),
    ):
        with pytest.raises(BadRow, match=reason):
            pixels(PNG, **limits)


def test_bad_limits_name_the_field():
    for values in (
        {"max_pixels": 0},
        {"bad_share": 1.5},
        {"bad_share": float("nan")},
        {"background": (0, 0, 300)},
        {"animation": "all"},
    ):
        with pytest.raises(InputError, match=next(iter(values))):
            Limits(**values)


def test_pillow_is_left_as_it_was():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    for data, _ in BROKEN.values():
        with pytest.raises(BadRow):
            decode(data, "x")
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    assert before == after
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_large_jpegs_may_be_decoded_at_a_part_of_their_size():
    gradient = np.add.outer(np.arange(96), np.arange(128))[..., None].repeat(3, axis=2)
    data = encoded(Image.fromarray(gradient.astype(np.uint8)), "JPEG", quality=95, exif=exif(6))
    whole, _ = decode(data, "a.jpg")
    assert whole.size == (96, 128)
    for least, size in ((96, (96, 128)), (48, (48, 64)), (47, (48, 64)), (24, (24, 32))):
        part, _ = decode(data, "a.jpg", Limits(reduced=least))
        assert part.size == size  # turned upright, and never below what was asked for
        apart = np.asarray(fit(part, 16), int) - np.asarray(fit(whole, 16), int)
        assert abs(apart).max() <= 3
    png = encoded(RGB, "PNG")
    np.testing.assert_array_equal(np.asarray(decode(png, "a.png", Limits(reduced=1))[0]), RGB)
    assert Limits().identity() == Limits(reduced=0).identity()
    assert "reduced" not in Limits().identity()  # stores that were prepared before stay valid
    assert Limits(reduced=48).identity()["reduced"] == 48
    with pytest.raises(InputError, match="reduced"):
        Limits(reduced=-1)


SAMPLES = [PNG, JPEG, GIF, encoded(RGB, "TIFF", exif=exif(6)), encoded(RGB, "WEBP"),
           encoded(GREY16), encoded(RGB, "BMP"), encoded(RGB, "PPM")]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=12),
    st.integers(0, 40),
)
def test_damage_never_escapes_as_another_error(data, changes, cut):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    damaged = damaged[: len(damaged) - cut]
    try:
        image, _ = decode(bytes(damaged), "x", Limits(max_pixels=100_000))
    except BadRow as error:
        bad = error
    else:
        bad = None
    if bad is not None:
        assert bad.name == "x"
        assert bad.reason
        assert pickle.loads(pickle.dumps(bad)).args == bad.args
    else:
        assert image.mode == "RGB"
        assert image.width * image.height <= 100_000


def test_fit_keeps_what_it_says():
    image = Image.fromarray(np.kron(RGB, np.ones((8, 8, 1), np.uint8)))  # 72 wide, 48 high
    wide = np.asarray(image)
    np.testing.assert_array_equal(np.asarray(fit(image, (72, 48))), wide)
    np.testing.assert_array_equal(np.asarray(fit(image, 48)), wide[:, 12:60])
    box = Image.Resampling.BOX
    mean = wide[:, 12:60].reshape(6, 8, 6, 8, 3).mean((1, 3))
    assert np.abs(np.asarray(fit(image, 6, "crop", box)) - mean).max() <= 0.51
    mean = wide.reshape(6, 8, 6, 12, 3).mean((1, 3))
    assert np.abs(np.asarray(fit(image, 6, "stretch", box)) - mean).max() <= 0.51
    padded = np.asarray(fit(image, 72, "pad", background=(1, 2, 3)))
    np.testing.assert_array_equal(padded[12:60], wide)
    assert (padded[:12] == (1, 2, 3)).all()
    assert (padded[60:] == (1, 2, 3)).all()


def test_fit_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([[0], [255]], np.uint8), (32, 64))).convert("RGB")
    for how in ("crop", "pad", "stretch"):
        small = np.asarray(fit(stripes, 8, how)).astype(int)
        assert np.abs(small - 127).max() < 20  # without a filter it would be 0 or 255


@settings(max_examples=60, deadline=None)
@given(*[st.integers(1, 70)] * 4, st.sampled_from(["crop", "pad", "stretch"]))
def test_fit_gives_the_size_asked_for(width, height, to_width, to_height, how):
    image = Image.new("RGB", (width, height), (9, 9, 9))
    fitted = fit(image, (to_width, to_height), how, background=(9, 9, 9))
    assert fitted.size == (to_width, to_height)
    assert (np.asarray(fitted) == 9).all()


def test_fit_refuses_nonsense():
    image = Image.new("RGB", (4, 4))
    for size, how in ((0, "crop"), ((4, -1), "crop"), (4, "squeeze")):
        with pytest.raises(InputError):
            fit(image, size, how)
