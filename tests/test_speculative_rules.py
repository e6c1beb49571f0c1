"""Rules of speculative decoding: the law of what comes out, by exact enumeration."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arra.errors import InputError
from arra.samplers.speculative.rules import (
    Match,
    Relaxed,
    Strict,
    nearest,
    output_law,
    without_replacement,
)
from arra.samplers.speculative.tapes import enumerated

LOSSLESS = [Match(), Strict()]


def laws(seed, size, count=2, sharp=1.5):
    """Random laws (count, V) in double precision."""
    numbers = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, size, generator=numbers, dtype=torch.float64) * sharp
    return logits.softmax(dim=-1)


def variation(p, q):
    """Total variation distance of two laws."""
    return 0.5 * float((p - q).abs().sum())


@pytest.mark.parametrize("rule", LOSSLESS, ids=["match", "strict"])
@pytest.mark.parametrize(("size", "guesses"), [(2, 1), (4, 1), (8, 1), (3, 2), (5, 2), (4, 3)])
def test_lossless_rules_keep_the_law(rule, size, guesses):
    for seed in range(5):
        p, q = laws(seed, size)
        torch.testing.assert_close(output_law(rule, p, q, guesses), p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", LOSSLESS, ids=["match", "strict"])
def test_laws_with_holes_are_kept(rule):
    """Codes that filters took out of one law or the other; more guesses than there are codes."""
    p = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64)
    q = torch.tensor([0.0, 0.6, 0.4, 0.0, 0.0], dtype=torch.float64)
    for guesses in (1, 2, 4):
        torch.testing.assert_close(output_law(rule, p, q, guesses), p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", LOSSLESS, ids=["match", "strict"])
def test_given_guesses_keep_the_law_and_are_taken_as_often_as_they_are_right(rule):
    """Guesses that nobody drew: kept with the sum of their probabilities, by either rule."""
    p = laws(3, 6)[0]
    for guesses in ([], [2], [4, 0], [0, 1, 2, 3, 4, 5]):
        found = enumerated(lambda tape, g=guesses: rule.decide(p, None, g, tape, 0))
        output = torch.zeros_like(p)
        for (_, code), chance in found.items():
            output[code] += chance
        torch.testing.assert_close(output, p, rtol=0, atol=1e-12)
        taken = sum(chance for (which, _), chance in found.items() if which >= 0)
        assert taken == pytest.approx(float(p[guesses].sum()), abs=1e-12)


def test_a_guess_stays_as_often_as_the_laws_overlap():
    p, q = laws(4, 6)

    def run(tape):
        return Strict().decide(p, q, without_replacement(q, 1, tape), tape, 0)[0] >= 0

    assert enumerated(run)[True] == pytest.approx(1.0 - variation(p, q), abs=1e-12)
    assert enumerated(lambda tape: Strict().decide(p, p, [2], tape, 0)) == {(0, 2): 1.0}


def table(order, size, seed):
    """Laws of every history of up to `order` units."""
    numbers = torch.Generator().manual_seed(seed)
    found, histories = {}, [()]
    for _ in range(order):
        for history in histories:
            logits = torch.randn(size, generator=numbers, dtype=torch.float64) * 1.5
            found[history] = logits.softmax(dim=-1)
        histories = [(*h, c) for h in histories for c in range(size)]
    return found


@pytest.mark.parametrize("rule", LOSSLESS, ids=["match", "strict"])
@pytest.mark.parametrize(
    ("size", "siblings", "depth"), [(3, 1, 3), (3, 2, 2), (2, 2, 3), (4, 2, 1)]
)
def test_trees_keep_the_law_of_sequences(rule, size, siblings, depth):
    """Walk a tree with so many siblings at each node, drawn from a draft law of each history; what
    comes out, completed from the target's law, is distributed as the target's sequences."""
    target, draft = table(depth + 1, size, 0), table(depth + 1, size, 1)

    def run(tape):
        history = ()
        while len(history) < depth:
            q = draft[history]
            guesses = without_replacement(q, siblings, tape)
            found, code = rule.decide(target[history], q, guesses, tape, len(history))
            history += (code,)
            if found < 0:
                break
        while len(history) < depth:
            history += (tape.choose(target[history], len(history)),)
        return history

    found = enumerated(run)
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-12)
    for history, chance in found.items():
        wanted = 1.0
        for unit, code in enumerate(history):
            wanted *= float(target[history[:unit]][code])
        assert chance == pytest.approx(wanted, abs=1e-12)


# ---- relaxed ----------------------------------------------------------------------------------


def codebook(size, seed=0):
    return torch.randn(size, 3, generator=torch.Generator().manual_seed(seed))


def test_neighbours_are_the_nearest():
    vectors = codebook(7)
    found = nearest(vectors, 6)
    for code, near in enumerate(found.tolist()):
        assert sorted([*near, code]) == list(range(7))
        distance = (vectors[near] - vectors[code]).norm(dim=1)
        assert bool((distance.diff() >= 0).all())
    assert torch.equal(nearest(vectors, 2), found[:, :2])
    with pytest.raises(InputError, match="7 neighbours"):
        nearest(vectors, 7)


@given(st.integers(0, 1000), st.integers(2, 9), st.floats(0, 1), st.booleans())
def test_what_is_borrowed_against_the_loop(seed, size, bound, multiple):
    p = laws(seed, size)[0]
    near = nearest(codebook(size, seed), size - 1)
    rule = Relaxed(near, ratio=1.0 + bound) if multiple else Relaxed(near, bound)
    for guess in range(size):
        limit, total, lenders = bound * float(p[guess]) if multiple else bound, 0.0, []
        for code in near[guess].tolist():
            if total + float(p[code]) > limit:
                break
            total += float(p[code])
            lenders.append(code)
        assert rule.lenders(p, guess).tolist() == lenders
        bent = rule.bent(p, guess)
        assert variation(p, bent) == pytest.approx(total, abs=1e-12)
        assert float(bent.sum()) == pytest.approx(1.0, abs=1e-12)


def test_acceptance_grows_with_delta_and_neighbours():
    p, q = laws(5, 8)
    near = nearest(codebook(8), 7)
    for guess in range(8):
        by_delta = [Relaxed(near, d).acceptance(p, q, guess) for d in (0.0, 0.1, 0.2, 0.4, 1.0)]
        by_count = [Relaxed(near[:, :k], 0.4).acceptance(p, q, guess) for k in range(8)]
        assert by_delta == sorted(by_delta)
        assert by_count == sorted(by_count)
    both = torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert Relaxed(torch.tensor([[1], [0]]), 0.7).acceptance(both, both.flip(0), 0) == 1.0


@pytest.mark.parametrize("residual", ["paper", "static", "dynamic"])
@pytest.mark.parametrize("guesses", [1, 2])
def test_without_delta_the_rule_is_strict(residual, guesses):
    p, q = laws(6, 6)
    p[2] = 0.0  # neighbours that have nothing lend it
    p /= p.sum()
    rule = Relaxed(nearest(codebook(6), 5), 0.0, residual=residual)
    torch.testing.assert_close(output_law(rule, p, q, guesses), p, rtol=0, atol=1e-12)
    rule = Relaxed(nearest(codebook(6), 5), ratio=1.0, residual=residual)
    torch.testing.assert_close(output_law(rule, p, q, guesses), p, rtol=0, atol=1e-12)


def test_delta_bounds_the_bent_law_and_not_the_output():
    """A flat draft of which every guess is accepted: the output's law becomes the draft's."""
    p = laws(7, 32, sharp=1.0)[0]
    q = torch.full_like(p, 1 / 32)
    rule = Relaxed(nearest(codebook(32), 31), 0.05)
    assert all(variation(p, rule.bent(p, guess)) <= 0.05 for guess in range(32))
    assert variation(output_law(rule, p, q), p) > 0.15
    assert variation(output_law(Strict(), p, q), p) < 1e-12


@pytest.mark.parametrize(("field", "value"), [("delta", 1.5), ("ratio", 0.5)])
def test_settings_are_checked(field, value):
    with pytest.raises(InputError, match=field):
        Relaxed(torch.zeros(2, 1, dtype=torch.int64), **{field: value})


def test_laws_of_too_many_orders_are_refused():
    flat = torch.full((200,), 1 / 200, dtype=torch.float64)
    with pytest.raises(InputError, match="orders of 3 guesses"):
        output_law(Strict(), flat, flat, 3)
