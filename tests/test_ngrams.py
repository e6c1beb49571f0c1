"""Drafts of tri-grams: counting, adaptation, search, the pruned tree, the saved table."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from arra.errors import InputError
from arra.samplers.logits import SamplingConfig
from arra.samplers.speculative.drafts import NO_DRAFT, Budget, Picture
from arra.samplers.speculative.ngrams import (
    AdaptedTrigrams,
    NgramConfig,
    NgramDrafter,
    likeliest,
    trie,
)
from arra.samplers.speculative.search import SearchConfig, search, sequences
from arra.samplers.speculative.trigrams import Trigrams

texts = st.lists(st.lists(st.integers(0, 4), max_size=20), max_size=6)


def counted(found, most=12, codes=5):
    return Trigrams.counted([np.array(row, dtype=np.int64) for row in found], codes, most)


def naive(found):
    rows = defaultdict(Counter)
    for text in found:
        for a, b, c in zip(text, text[1:], text[2:], strict=False):
            rows[a, b][c] += 1
    return rows


@given(texts)
def test_counting_against_the_loop(found):
    table, rows = counted(found), naive(found)
    table.check("here")
    assert len(table.pairs) == len(rows)
    for pair, seen in rows.items():
        row = table.row(*pair)
        assert sum(row.values()) == pytest.approx(1.0, abs=1e-6)
        assert row == pytest.approx({c: n / seen.total() for c, n in seen.items()}, abs=1e-6)
        assert list(row.values()) == sorted(row.values(), reverse=True)
    assert table.row(4, 4) == {} or (4, 4) in rows


@given(texts, st.integers(1, 3))
def test_pruning_keeps_the_likeliest(found, most):
    whole, table = counted(found), counted(found, most)
    for pair in naive(found):
        assert table.row(*pair) == dict(list(whole.row(*pair).items())[:most])


def test_rows_of_an_array_are_counted_by_themselves(monkeypatch):
    rows = np.random.default_rng(0).integers(0, 5, (7, 3, 9))
    table = counted(rows.reshape(-1, 9).tolist())
    monkeypatch.setattr("arra.samplers.speculative.trigrams._CHUNK", 10)
    other = Trigrams.counted(rows, 5)
    for name in ("pairs", "starts", "successors", "chances"):
        assert np.array_equal(getattr(table, name), getattr(other, name))
    with pytest.raises(InputError, match="0 to 4"):
        Trigrams.counted([np.array([1, 5, 2])], 5)


@given(texts)
def test_a_table_comes_back(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("table") / "trigrams.safetensors"
    table = counted(found)
    table.save(path, {"codec": "x"})
    again = Trigrams.load(path, {"codec": "x"})
    for name in ("codes", "pairs", "starts", "successors", "chances"):
        assert np.array_equal(getattr(table, name), getattr(again, name))


def test_damaged_tables_are_refused(tmp_path):
    path = tmp_path / "trigrams.safetensors"
    table = counted([[0, 1, 2, 3, 0, 1, 4]])
    table.save(path, {"codec": "x"})
    with pytest.raises(InputError, match="codec x, expected y"):
        Trigrams.load(path, {"codec": "y"})
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"trigrams\.safetensors"):
            Trigrams.load(path)
    arrays = {n: getattr(table, n) for n in ("pairs", "starts", "successors", "chances")}
    for changes in (
        {"pairs": table.pairs[::-1].copy()},
        {"pairs": table.pairs + 100},
        {"starts": table.starts[:-1]},
        {"starts": table.starts + 1},
        {"successors": table.successors - 1},
        {"successors": table.successors.astype(np.int32)},
        {"chances": table.chances * 9},
        {"chances": table.chances[:, None]},
        {"surplus": table.chances},
    ):
        save_file({**arrays, **changes}, path, {"codes": "5"})
        with pytest.raises(InputError, match="tri-grams"):
            Trigrams.load(path)
    save_file(arrays, path, {"codes": "many"})
    with pytest.raises(InputError, match="tri-grams"):
        Trigrams.load(path)


# ---- adaptation ---------------------------------------------------------------------------------


def test_what_a_trigram_gains():
    """After k looks at the same codes an entry is min(cap, p + 0.04 k); its row is not scaled."""
    table = counted([[0, 1, 2, 0, 1, 3]])
    adapted = AdaptedTrigrams(table, NgramConfig())
    for looks in range(1, 80):
        adapted.adapt([4, 0, 1, 2])
        assert adapted.row(0, 1)[2] == pytest.approx(min(3.0, 0.5 + 0.04 * looks))
        assert adapted.row(0, 1)[3] == 0.5
        assert adapted.row(4, 0) == pytest.approx({1: min(3.0, 0.04 * looks)})
    assert table.row(0, 1) == {2: 0.5, 3: 0.5}
    assert AdaptedTrigrams(table, NgramConfig()).row(4, 0) == {}


def test_only_the_last_codes_gain():
    adapted = AdaptedTrigrams(counted([]), NgramConfig(window=4))
    adapted.adapt([0, 1, 2, 3, 4, 0])
    assert adapted.row(1, 2) == {}
    assert adapted.row(2, 3) == {4: 0.04}
    assert adapted.row(3, 4) == {0: 0.04}


def test_rows_that_stay_laws():
    adapted = AdaptedTrigrams(counted([[0, 1, 2, 0, 1, 3]]), NgramConfig(renormalised=True))
    adapted.adapt([0, 1, 2])
    assert adapted.row(0, 1) == pytest.approx({2: 0.54 / 1.04, 3: 0.5 / 1.04})


def picture(codes):
    return Picture([], None, None, list(codes), list(codes[-1:]))


@pytest.mark.parametrize("kept", [False, True])
def test_what_one_picture_taught_another(kept):
    drafter = NgramDrafter(counted([]), NgramConfig(kept=kept))
    one, other = picture([0, 1, 2, 0, 1]), picture([0, 1])
    drafter.begin([one, other], SamplingConfig())
    budget = Budget(4, 4)
    assert list(drafter.propose([one], [budget])[0].tokens) == [2, 0, 1, 2]
    assert bool(len(drafter.propose([other], [budget])[0])) == kept
    assert drafter.propose([picture_of(drafter, [3])], [budget]) == [NO_DRAFT]


def picture_of(drafter, codes):
    made = picture(codes)
    drafter.begin([made], SamplingConfig())
    return made


# ---- search -------------------------------------------------------------------------------------


def nodes(root):
    yield root
    for child in root.children:
        yield from nodes(child)


def test_the_only_chain_is_found():
    table = counted([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]])
    adapted = AdaptedTrigrams(table, NgramConfig())
    for iterations in (4, 150):
        root = search(0, 1, adapted.row, SearchConfig(iterations=iterations))
        drafted = sequences(root, adapted.row, 24)
        assert max(drafted, key=len) == [2, 3, 4, 0]
        assert trie(drafted, Budget()).tokens == [2, 3, 4, 0]
    assert likeliest(0, 1, adapted, 7) == [2, 3, 4, 0, 1, 2, 3]


@pytest.mark.parametrize("released", [False, True])
def test_visits_add_up(released):
    """A walk that visits a node visits one of its children too, but for the walk that made the
    node and went no further. The search is the same each time."""
    rows = np.random.default_rng(1).integers(0, 5, (20, 30))
    adapted = AdaptedTrigrams(Trigrams.counted(rows, 5), NgramConfig())
    config = SearchConfig(iterations=100, released_scores=released)
    root = search(1, 2, adapted.row, config)
    assert root.visits == 100 == sum(child.visits for child in root.children)
    for node in nodes(root):
        if node.children:
            assert node.visits - sum(child.visits for child in node.children) in (0, 1)
            last = node.children[-1]
            assert last.prior == max(child.prior for child in node.children)
    again = search(1, 2, adapted.row, config)
    assert [(n.second, n.visits, n.value) for n in nodes(again)] == [
        (n.second, n.visits, n.value) for n in nodes(root)
    ]


def test_scores_are_sums_of_chances():
    """Of a pair with one successor that has none: every walk scores 1 + the chance."""
    row = {(0, 1): {2: 0.25}}.get
    found = search(0, 1, lambda a, b: row((a, b), {}), SearchConfig(iterations=10))
    assert found.value == pytest.approx(10 * 1.25)
    wrong = SearchConfig(iterations=10, released_scores=True)
    assert search(0, 1, lambda a, b: row((a, b), {}), wrong).value == pytest.approx(10.0)


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=8),
    st.integers(0, 9),
    st.integers(0, 5),
)
def test_the_tree_of_sequences(found, most, depth):
    """Parents come first, siblings differ, the budget holds; large ones leave nothing out."""
    budget = Budget(most, depth)
    draft = trie(found, budget)
    draft.check(budget)
    whole = trie(found, Budget(1000, depth))
    assert list(whole.tokens[:most]) == list(draft.tokens)
    begins = {tuple(s[:n]) for s in found for n in range(1, min(len(s), depth) + 1)}
    assert len(whole) == len(begins)


def test_settings_are_checked():
    with pytest.raises(InputError, match="step"):
        NgramConfig(step=4.0)
    with pytest.raises(InputError, match="window"):
        NgramConfig(window=2)
