"""Attention in a chunk and a gated memory across: both forms, naive references, limits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from arra.errors import InputError
from arra.networks.gated_memory import Carried, Chunks, GatedMemory, in_sequences, recalled

WIDTH, HEADS, CELLS = 8, 2, 5
DECAYS = ("chunk", "raster")


def mixer_of(decay: str = "chunk") -> GatedMemory:
    torch.manual_seed(0)
    return GatedMemory(WIDTH, HEADS, decay)  # type: ignore[arg-type]


def rows(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """States and conditions."""
    random = torch.Generator().manual_seed(seed)
    states = torch.randn(count, CELLS, WIDTH, generator=random)
    return states, torch.randn(count, WIDTH, generator=random)


def line(count: int) -> Chunks:
    """One sequence of so many chunks."""
    return Chunks(torch.arange(count)[None])


def naive(mixer: GatedMemory, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """One sequence, head by head, position by position, with no state: every earlier position is
    weighed by the product of the gates between."""
    size = WIDTH // HEADS
    q, k, v, g = (x @ w.T for w in mixer.inputs.weight.chunk(4))
    q, k, v = (F.rms_norm(t, (WIDTH,), eps=1e-6) for t in (q, k, v))
    a = F.logsigmoid((x + c[:, None]) @ mixer.gate.weight.T) / 16
    found = torch.zeros_like(x)
    for i in range(len(x)):
        for h in range(HEADS):
            here = slice(h * size, (h + 1) * size)
            for n in range(CELLS):
                logits = torch.stack([q[i, n, here] @ k[i, m, here] for m in range(CELLS)])
                weights = (logits / size**0.5).softmax(dim=0)
                o = sum(weights[m] * v[i, m, here] for m in range(CELLS))
                read = a[i, :, h].mean() if mixer.decay == "chunk" else a[i, : n + 1, h].sum()
                for j in range(i):
                    kept = sum((a[m, :, h].mean() for m in range(j + 1, i)), torch.zeros(()))
                    share = (read + kept).exp() / size**0.5
                    for m in range(CELLS):
                        o = o + share * (q[i, n, here] @ k[j, m, here]) * v[j, m, here]
                found[i, n, here] = o * torch.rsqrt(o.square().mean() + 1e-6)
    return (F.silu(g) * found) @ mixer.out.weight.T


@pytest.mark.parametrize("decay", DECAYS)
@torch.no_grad()
def test_it_is_the_sum_over_all_earlier_positions(decay):
    mixer, (x, c) = mixer_of(decay), rows(4)
    torch.testing.assert_close(mixer(x, c, line(4)), naive(mixer, x, c), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("count", [1, 2, 7])
@torch.no_grad()
def test_chunks_at_once_are_chunks_one_by_one(decay, count):
    """Two sequences, whose rows stand in any order."""
    mixer, (x, c) = mixer_of(decay), rows(2 * count)
    order = torch.randperm(2 * count).view(2, count)
    together, carried = Carried(), Carried()
    whole = mixer(x, c, Chunks(order), together)
    for number in range(count):
        here = order[:, number]
        one = mixer(x[here], c[here], Chunks(torch.arange(2)[:, None]), carried)
        torch.testing.assert_close(one, whole[here], rtol=1e-5, atol=1e-5)
    assert together.state is not None
    torch.testing.assert_close(together.state, carried.state, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_sequences_of_any_lengths_do_not_know_each_other():
    mixer, (x, c) = mixer_of(), rows(6)
    order = in_sequences(torch.tensor([7, 3, 7, 7, 3, 9]))
    assert order.tolist() == [[1, 4, -1], [0, 2, 3], [5, -1, -1]]
    carried = Carried()
    together = mixer(x, c, Chunks(order), carried)
    for number, members in enumerate(([1, 4], [0, 2, 3], [5])):
        own = Carried()
        alone = mixer(x[members], c[members], line(len(members)), own)
        torch.testing.assert_close(together[members], alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(carried.state[number], own.state[0], rtol=1e-5, atol=1e-5)


def test_chunks_see_earlier_ones_and_all_of_themselves():
    mixer, (x, c) = mixer_of(), rows(3)
    found = torch.autograd.functional.jacobian(lambda x: mixer(x, c, line(3)), x)
    seen = found.abs().amax(dim=(2, 5))  # chunk, position, chunk, position
    for i in range(3):
        for j in range(3):
            assert bool((seen[i, :, j] > 0).all()) == (j <= i)
            assert bool((seen[i, :, j] == 0).all()) == (j > i)


@pytest.mark.parametrize("decay", DECAYS)
@torch.no_grad()
def test_permuted_cells_are_permuted_where_all_read_alike(decay):
    """Those of earlier chunks in any order, too: their memory is a sum."""
    mixer, (x, c) = mixer_of(decay), rows(3)
    before = mixer(x, c, line(3))
    order = torch.tensor([2, 0, 4, 1, 3])
    moved = x.clone()
    moved[1] = x[1, order]
    after = mixer(moved, c, line(3))
    torch.testing.assert_close(after[2], before[2], rtol=1e-5, atol=1e-5)
    assert torch.allclose(after[1], before[1, order], atol=1e-5) == (decay == "chunk")


@pytest.mark.parametrize("decay", DECAYS)
@torch.no_grad()
def test_closed_gates_are_no_memory(decay):
    """A first chunk is plain attention; with gates of 0 every chunk is a first one."""
    mixer, (x, c) = mixer_of(decay), rows(4)
    alone = mixer(x, c, Chunks(torch.arange(4)[:, None]))
    assert not torch.allclose(mixer(x, c, line(4)), alone, atol=1e-3)
    x[..., 0], c[:, 0] = 1.0, 0.0  # a number that is always there closes the gates
    mixer.gate.weight.zero_()
    mixer.gate.weight[:, 0] = -1e4
    alone = mixer(x, c, Chunks(torch.arange(4)[:, None]))
    torch.testing.assert_close(mixer(x, c, line(4)), alone, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_open_gates_forget_nothing():
    left = torch.randn(4, HEADS, 3, 3, generator=torch.Generator().manual_seed(0))
    states = recalled(left, torch.zeros(4, HEADS), line(4))
    for i in range(4):
        naive_sum = sum((left[j] for j in range(i)), torch.zeros_like(left[0]))
        torch.testing.assert_close(states[i], naive_sum)


@torch.no_grad()
def test_words_are_attended_to_and_not_remembered():
    mixer, (x, c) = mixer_of("raster"), rows(2)
    written = torch.tensor([[False, False, True, True, True]]).expand(2, -1)
    seen = torch.tensor([[False, True, True, True, True]]).expand(2, -1)
    chunks = Chunks(torch.tensor([[0, 1]]), seen, written)
    before = mixer(x, c, chunks)
    padding, word = x.clone(), x.clone()
    padding[0, 0] += 1.0
    word[0, 1] += 1.0
    torch.testing.assert_close(mixer(padding, c, chunks)[:, 1:], before[:, 1:])
    after = mixer(word, c, chunks)
    assert not torch.allclose(after[0], before[0])
    torch.testing.assert_close(after[1], before[1])


def test_gradients_pass_through_the_memory():
    mixer, (x, c) = mixer_of(), rows(3)
    x.requires_grad_()
    mixer(x, c, line(3))[2].sum().backward()
    assert bool((x.grad[0].abs() > 0).all())
    assert all(p.grad is not None and bool(p.grad.any()) for p in mixer.parameters())


def test_a_width_that_has_no_such_heads():
    with pytest.raises(InputError, match="multiple of 3 heads"):
        GatedMemory(8, 3)
