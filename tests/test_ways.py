"""Generators by name beside the raster one: each is what its name says, with a codec that suits."""

from __future__ import annotations

import pytest

from arra.codecs.latent import KLConfig
from arra.codecs.multiscale import MultiScaleConfig
from arra.errors import InputError
from arra.systems.arra.corpora import CORPORA, SCALES, drawn_by
from arra.systems.arra.ways import VECTOR_WAYS, WAYS, way


def test_names_are_one_list():
    assert set(VECTOR_WAYS).isdisjoint(WAYS)
    for name, known in (WAYS | VECTOR_WAYS).items():
        assert way(name) is known
    with pytest.raises(InputError, match="masked-vectors"):
        way("no such generator")


@pytest.mark.parametrize(
    ("name", "codec", "top_p"),
    [("scales", MultiScaleConfig, 0.9), ("masked-vectors", KLConfig, 1.0),
     ("entities", KLConfig, 1.0)],
)  # fmt: skip
def test_a_corpus_is_drawn_by_the_generator_that_is_named(name, codec, top_p):
    corpus = drawn_by(CORPORA["emoji"](SCALES["small"]), name)
    assert corpus.name == f"emoji-{name}"
    assert isinstance(corpus.codec, codec)
    assert corpus.drawing.sampling.top_p == top_p
