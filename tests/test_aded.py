"""The claim of ADED: documents whose law is known, outputs that drafts leave alone, the verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from arra.samplers.speculative.trigrams import Trigrams
from arra.systems.aded.arms import compare
from arra.systems.aded.claim import ALL, DRAFTED, judged, measures, scale
from arra.systems.aded.documents import documents, language
from arra.systems.aded.recipe import ADAPTED, CHAIN, SEARCH, Recipe, tiny


def test_documents_speak_the_language_each_in_its_way():
    recipe = replace(Recipe(), documents=400)
    found, successors = documents(recipe, 0, held_out=False), language(recipe, 0)
    a, b, c = found[:, :-2], found[:, 1:-1], found[:, 2:]
    which = (successors[a, b] == c[..., None]).nonzero()
    assert len(which[2]) == c.size  # each successor is one of the language's, once
    assert np.bincount(which[2]) / c.size == pytest.approx(recipe.chances, abs=0.03)
    seen = repeated = same = 0
    for text in found[:100].tolist():
        habits = {}
        for triple in zip(text, text[1:], text[2:], strict=False):
            seen += 1
            if triple[:2] in habits:
                repeated += 1
                same += habits[triple[:2]] == triple[2]
            habits[triple[:2]] = triple[2]
    assert repeated > 0.4 * seen
    assert same / repeated > 0.9
    assert not np.array_equal(found[:32], documents(recipe, 0, held_out=True))
    assert np.array_equal(found, documents(recipe, 0, held_out=False))


def test_tri_grams_know_the_language():
    recipe = Recipe()
    table = Trigrams.counted([documents(recipe, 0, held_out=False)], recipe.codes)
    successors = language(recipe, 0)
    for pair in ((0, 1), (5, 20)):
        row = table.row(*pair)
        assert set(row) == set(successors[pair].tolist())
        expected = dict(zip(successors[pair].tolist(), recipe.chances, strict=True))
        assert row == pytest.approx(expected, abs=0.12)


def test_an_arm_is_trained_once_and_drafts_change_nothing(tmp_path):
    first = compare(tiny(), ALL, 0, tmp_path, True)
    assert compare(tiny(), ALL, 0, tmp_path, True) == first
    both = [first, compare(tiny(), ALL, 1, tmp_path, True)]
    names = [found.name for found in measures(both)]
    assert len(names) == len(set(names)) == 14
    assert "2 paired seeds" in scale(tiny(), both)
    assert judged(both)[0] in ("pass", "inconclusive")
    assert 0.0 <= first["foretold"] <= 1.0
    for arm in DRAFTED:
        assert first[arm]["identical"] == 1.0
        assert 1.0 <= first[arm]["units per pass"] <= 17.0
        assert first[arm]["nodes"] <= 16.0


def results(chain=2.0, search=2.5, adapted=3.5, identical=1.0, foretold=0.7):
    """Two seeds with nearly the same numbers."""

    def one(factor):
        values = {CHAIN: chain, SEARCH: search, ADAPTED: adapted}
        return {"foretold": foretold} | {
            arm: {"units per pass": values.get(arm, 2.0) * factor(arm), "identical": identical}
            for arm in DRAFTED
        }

    return [one(lambda arm: 1.0), one(lambda arm: 1.001 if arm == ADAPTED else 1.0005)]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"adapted": 2.4}, "fail"),
        ({"identical": 0.99}, "fail"),
        ({"adapted": 2.6}, "inconclusive"),
        ({"chain": 2.45}, "inconclusive"),
        ({"chain": 3.0}, "inconclusive"),
        ({"foretold": 0.42}, "inconclusive"),
        ({"foretold": 0.42, "identical": 0.99}, "fail"),
    ],
)
def test_the_rule_of_the_verdict(changes, verdict):
    assert judged(results(**changes))[0] == verdict


def test_one_seed_is_not_enough():
    assert judged(results()[:1])[0] == "inconclusive"
