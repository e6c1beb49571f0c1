"""Rows of text and pictures: built and parsed, written in one pass, guided two and three ways."""

from __future__ import annotations

import pytest
import torch

from arra.errors import InputError
from arra.generators.interleaving import Mixed, interleave, parts_of
from arra.generators.raster_vectors import RasterVectorGenerator
from arra.heads.base import guided, steered
from arra.samplers.noise import PictureNoise
from arra.samplers.vectors import VectorSampler
from arra.settings import SamplingConfig
from language_kit import spoilt


@pytest.fixture(scope="module")
def generator():
    return spoilt(RasterVectorGenerator.tiny())


def picture(seed):
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


def written(generator, prompts, seeds, **settings):
    return interleave(generator, prompts, PictureNoise(seeds).normal, **settings)


def same(one, other):
    assert one.tokens == other.tokens
    for a, b in zip(one.vectors, other.vectors, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "parts",
    [
        [[6, 7]],
        [picture(0)],
        [[6, 7], picture(1), [8], picture(2), [6, 6, 6]],
        [picture(3), picture(4), [9]],
    ],
    ids=len,
)
def test_the_parser_inverts_the_builder(generator, parts):
    v = generator.vocabulary
    row = Mixed.of(parts, v)
    found = parts_of(Mixed([*row.tokens, generator.end, 7], row.vectors), v, generator.end)
    assert len(found) == len(parts)
    for a, b in zip(found, parts, strict=True):
        assert torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b
    assert max(row.places(v)) == (3 if row.vectors else -1)


def test_a_picture_has_all_of_its_vectors_and_then_ends(generator):
    v = generator.vocabulary
    prompts = [Mixed.of([[6, 7]], v, draw=True), Mixed.of([[8], picture(0), [7]], v, draw=True)]
    for row, prompt in zip(
        written(generator, prompts, [1, 2], pictures=2, most=5), prompts, strict=True
    ):
        rest = row.tokens[len(prompt.tokens) :]
        assert rest[:5] == [v.offset] * 4 + [v.end]
        assert all(len(vectors) == 4 for vectors in row.vectors)
        assert row.tokens.count(v.begin) == row.tokens.count(v.end) == len(row.vectors)


def test_a_prompted_picture_is_that_of_the_sampler(generator):
    """One pass that could write text too draws what the sampler of pictures does."""
    v, noise = generator.vocabulary, PictureNoise([5]).normal
    (row,) = written(generator, [Mixed(generator.prompt_ids("a red 3"))], [5], most=0)
    cache = generator.begin([generator.prompt_ids("a red 3")], noise)
    for _ in range(generator.units):
        generator.unit(cache, noise, 1.0, 1.0)
        noise(1)  # the number that a word would have taken
    torch.testing.assert_close(row.vectors[0], generator.drawn(cache)[0], rtol=1e-3, atol=1e-3)
    assert row.tokens[-1] == v.end


@pytest.mark.parametrize("scales", [(), (2.0,), (3.0, 1.5)])
def test_rows_have_modes_of_their_own(generator, scales):
    """A row that writes and one that draws, together, are what each is alone."""
    v = generator.vocabulary
    prompts = [
        Mixed.of([[6, 7]], v),
        Mixed.of([[8, 9, 10], picture(7)], v, draw=True),
        Mixed.of([[7]], v, draw=True),
    ]
    settings = {"scales": scales, "pictures": 2, "most": 6}
    together = written(generator, prompts, [1, 2, 3], **settings)
    for number, row in enumerate(together):
        same(row, *written(generator, prompts[number : number + 1], [number + 1], **settings))


def test_text_begins_pictures_by_itself(generator):
    """With <boi> the likeliest word, pictures follow one another until there are enough."""
    v = generator.vocabulary
    wanted, plain = 3, generator.text_logits
    generator.text_logits = lambda states: plain(states).index_fill(1, torch.tensor([v.begin]), 1e6)
    try:
        (row,) = written(
            generator, [Mixed.of([[6]], v)], [1], temperature=0.0, pictures=wanted, most=6
        )
    finally:
        del generator.text_logits
    picture_ids = [v.begin, *[v.offset] * 4, v.end]
    begun = 1 + (v.start is not None)
    assert row.tokens[begun : begun + 6 * wanted] == picture_ids * wanted
    assert len(row.vectors) == wanted
    assert v.begin not in row.tokens[begun + 6 * wanted :]


def test_guidance_of_one_is_none(generator):
    v = generator.vocabulary
    prompts = [Mixed.of([[8, 9], picture(7), [6]], v, draw=True)]
    plain = written(generator, prompts, [1], most=0)
    for scales in ((1.0,), (1.0, 1.0)):
        same(*plain, *written(generator, prompts, [1], most=0, scales=scales))


def test_equal_scales_of_three_ways_are_two_ways(generator):
    v = generator.vocabulary
    prompts = [Mixed.of([[8, 9], picture(7), [6]], v, draw=True)]
    two = written(generator, prompts, [1], most=0, scales=(2.5,))
    three = written(generator, prompts, [1], most=0, scales=(2.5, 2.5))
    same(*two, *three)
    other = written(generator, prompts, [1], most=0, scales=(2.5, 1.0))
    assert not torch.allclose(other[0].vectors[-1], two[0].vectors[-1], atol=1e-2)


def test_guidance_is_that_of_the_sampler(generator):
    """What knows nothing is <boi> alone, also for the second picture of a row."""
    v = generator.vocabulary
    (row,) = written(
        generator, [Mixed(generator.prompt_ids("a red 3"))], [5], most=0, scales=(2.0,)
    )
    noise = PictureNoise([5]).normal
    cache = generator.begin([generator.prompt_ids("a red 3"), generator.prompt_ids(None)], noise)
    for _ in range(generator.units):
        generator.unit(cache, noise, 2.0, 1.0)
        noise(1)
    torch.testing.assert_close(row.vectors[0], generator.drawn(cache)[0], rtol=1e-3, atol=1e-3)
    assert v.start is not None


def test_the_way_to_each_condition_is_weighed():
    """u + w_image (image - u) + w_text (all - image), and what `guided` does of a pair."""
    torch.manual_seed(0)
    said = torch.randn(3, 2, 4)
    predict = lambda x, time, hidden: said[: len(hidden) // 2].flatten(0, 1)  # noqa: E731
    x, time = torch.zeros(2, 4), torch.zeros(2)
    found = steered(predict, torch.zeros(6, 1), (5.0, 2.0), 4)(x, time)
    everything, image, nothing = said
    wanted = nothing + 2.0 * (image - nothing) + 5.0 * (everything - image)
    torch.testing.assert_close(found, wanted)
    pair = guided(predict, torch.zeros(4, 1), 2, 3.0, 4)(x, time)
    torch.testing.assert_close(pair, said[1] + 3.0 * (said[0] - said[1]))


def test_strings_and_codes_go_in_and_out(generator):
    image = picture(9).view(2, 2, 3)
    noise = PictureNoise([3]).normal
    (parts,) = generator.interleave([["a red 3", image, "a"]], noise, draw=True, most=4)
    assert parts[0] == "a red 3"
    assert torch.equal(parts[1], image)
    assert parts[3].shape == (2, 2, 3)
    with pytest.raises(InputError, match="3 scales"):
        generator.interleave([["a"]], noise, scales=(1.0, 2.0, 3.0))


def test_the_sampler_draws_these_too(generator):
    drawn = VectorSampler(SamplingConfig(1.0))(generator, ["a red 3"], [0])
    assert drawn.shape == (1, 12)
