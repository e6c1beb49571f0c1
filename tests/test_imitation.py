"""Imitation of sequences: the identities that hold exactly, and where the optimum lies."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from arra.errors import InputError
from arra.generators.backspacing import Writing
from arra.generators.base import DATA, MODEL, NOISE, Output
from arra.generators.batches import collate
from arra.objectives.imitation import PHI, Cloning, Imitation, ImitationConfig, Ramp
from arra.objectives.laws import NextToken

WRITING = Writing((1,), (), (2, 3, 4), 5, 6, 0, 4)
"""Three tokens, an end, a backspace, after a prompt of one token; ids below 8."""
END, BACK, IDS = 3, 4, 8


def batch_of(rows):
    """Rows of (actions, sources) as a batch."""
    samples = [WRITING.sample([], actions, source) for actions, source in rows]
    return collate(samples, {}, 0, multiple=1)


def data(actions):
    return actions, [DATA] * len(actions)


def model(actions):
    return actions, [MODEL] * len(actions)


DATA_ROWS = [data([0, 1, END]), data([2, END]), data([1, 1, 2, BACK, 0, END])]
MODEL_ROWS = [model([0, BACK, 2, END]), model([END]), model([1, 0, 0, BACK, BACK, 2, 2, END])]


def by_history(batch, seed=0, scale=1.0):
    """Output whose logits are a function of the text: as a causal model gives them."""
    states, rows = {}, []
    generator = torch.Generator().manual_seed(seed)
    asked = batch.target >= 0
    for r, t in asked.nonzero().tolist():
        # what is left is told by tokens that are alive here
        alive = [k for k in range(t + 1) if batch.dies is None or int(batch.dies[r, k]) > t]
        text = tuple(batch.tokens[r, alive].tolist())
        if text not in states:
            states[text] = scale * torch.randn(IDS, generator=generator, dtype=torch.float64)
        rows.append(states[text])
    return Output(torch.stack(rows).requires_grad_(), batch.target[asked], {})


def log_likelihood(output, batch, chosen):
    """Mean log pi over the positions `chosen` (M,) bool."""
    return -F.cross_entropy(output.logits[chosen], output.targets[chosen])


@pytest.mark.parametrize("rows", [MODEL_ROWS, MODEL_ROWS[1:2], [MODEL_ROWS[2]] * 5, []])
def test_kl_is_the_likelihood_whatever_the_model_wrote(rows):
    batch = batch_of([*DATA_ROWS, *rows])
    output = by_history(batch)
    here = batch.source[batch.target >= 0] == DATA
    loss = Imitation(ImitationConfig("kl"))(output, batch)
    torch.testing.assert_close(
        -loss.double(), log_likelihood(output, batch, here), rtol=0, atol=2e-6
    )


def test_values_telescope_also_with_backspaces():
    """With phi = 0 what is left of J is the value of the first state, once for each sequence."""
    batch = batch_of([*DATA_ROWS, *MODEL_ROWS])
    output = by_history(batch)
    first = output.logits[0].logsumexp(dim=0)
    PHI["none"] = torch.zeros_like
    try:
        config = ImitationConfig("kl")
        object.__setattr__(config, "divergence", "none")
        total = Imitation(config)(output, batch).double()
    finally:
        del PHI["none"]
    count = sum(len(actions) for actions, _ in DATA_ROWS)
    torch.testing.assert_close(total, first * len(DATA_ROWS) / count, rtol=1e-5, atol=1e-6)


def test_without_beta_the_gradient_is_that_of_cross_entropy():
    rows = DATA_ROWS
    plain, told = batch_of(rows), batch_of(rows)
    object.__setattr__(plain, "source", None)
    gradients = []
    for batch, loss in ((plain, NextToken()), (told, Cloning())):
        output = by_history(batch)
        loss(output, batch).backward()
        gradients.append(output.logits.grad)
    assert torch.equal(*gradients)
    config = ImitationConfig(ramp=Ramp(start=3, steps=3))
    assert [Imitation(config).weight(s) for s in range(8)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert [Cloning(config).weight(s) for s in (0, 2, 3, 9)] == [1, 1, 0.75, 0]
    with pytest.raises(InputError, match="Cloning"):
        NextToken()(by_history(told), told)


def naive(output, batch, config):
    """J by loops over sequences, as it is written."""
    asked = (batch.target >= 0).nonzero().tolist()
    sums = {DATA: [], MODEL: []}
    phi_sum, squares, count = 0.0, [], 0
    at = {tuple(place): n for n, place in enumerate(asked)}
    value = output.logits.logsumexp(dim=1)
    for row in sorted({r for r, _ in asked}):
        places = [t for r, t in asked if r == row]
        kind = MODEL if int(batch.source[row, places[-1]]) == MODEL else DATA
        falls = square = 0.0
        for n, t in enumerate(places):
            here = at[row, t]
            after = value[at[row, places[n + 1]]] if n + 1 < len(places) else 0.0
            reward = output.logits[here, output.targets[here]] - config.gamma * after
            falls = falls + value[here] - config.gamma * after
            if kind == MODEL:
                square = square + reward**2
            elif int(batch.source[row, t]) == DATA:
                a = config.alpha
                phi_sum = (
                    phi_sum
                    + {
                        "kl": lambda x: x,
                        "chi2": lambda x: x - x**2 / 4,
                        "chi2-mixture": lambda x: x - x**2 / 4,
                        "js": lambda x: torch.log(2 - torch.exp(-x)),
                    }[config.divergence](a * reward)
                    / a
                )
                count += 1
        sums[kind].append(falls)
        if kind == MODEL:
            squares.append(square)
    own, other = sum(sums[DATA]), sum(sums[MODEL]) / len(sums[MODEL]) * len(sums[DATA])
    total = phi_sum - own / 2 - other / 2
    if config.divergence == "chi2-mixture":
        total = total - config.alpha / 4 * sum(squares) / len(squares) * len(sums[DATA])
    return total / count


@pytest.mark.parametrize("divergence", ["kl", "chi2", "chi2-mixture", "js"])
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_against_loops(divergence, gamma):
    noise = ([0, 1, BACK, 2, END], [DATA, NOISE, DATA, DATA, DATA])
    batch = batch_of([*DATA_ROWS, noise, *MODEL_ROWS])
    output = by_history(batch)
    config = ImitationConfig(divergence, gamma, alpha=0.1)
    loss = Imitation(config)(output, batch)
    torch.testing.assert_close(
        -loss.double(), naive(output, batch, config).detach(), rtol=1e-5, atol=1e-6
    )
    loss.backward()
    assert torch.isfinite(output.logits.grad).all()


def test_a_mistake_is_not_learnt_but_its_undoing_is():
    noise = ([0, 1, BACK, 2, END], [DATA, NOISE, DATA, DATA, DATA])
    batch = batch_of([noise])
    output = by_history(batch)
    loss = Cloning()
    assert loss.count(batch) == 4
    loss(output, batch).backward()
    moved = output.logits.grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [True, False, True, True, True]


@given(st.floats(-2, 2))
def test_a_constant_on_all_logits(shift):
    """Cross-entropy does not see it. With gamma = 1 every reward but the last ones stays, which
    grow by it, and so do the values of first states."""
    batch = batch_of([*DATA_ROWS, *MODEL_ROWS])
    output = by_history(batch)
    moved = Output(output.logits + shift, output.targets, {})
    config = ImitationConfig("chi2", alpha=0.2)
    before, after = (float(-Imitation(config)(o, batch).detach()) for o in (output, moved))
    last = _last_actions(batch)
    reward = output.logits[last, output.targets[last]]
    phi = PHI["chi2"]
    gain = (phi(0.2 * (reward + shift)) - phi(0.2 * reward)).sum() / 0.2
    count = sum(len(actions) for actions, _ in DATA_ROWS)
    assert after - before == pytest.approx(float(gain.detach() - 3 * shift) / count, abs=1e-5)
    same = [float(Cloning()(o, batch).detach()) for o in (output, moved)]
    assert same[0] == pytest.approx(same[1], abs=1e-5)


def _last_actions(batch):
    """Numbers of the positions where sequences of the data end."""
    asked = batch.target >= 0
    ends = (batch.target[asked] == 5) & (batch.source[asked] == DATA)
    return ends.nonzero().flatten().tolist()


@given(st.floats(-20, 20))
def test_phi(x):
    for phi in PHI.values():
        value = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(phi(value), value)
        assert math.isfinite(float(slope))
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for phi in PHI.values():
        assert float(phi(zero)) == pytest.approx(0.0)
        assert float(torch.autograd.grad(phi(zero), zero)[0]) == pytest.approx(1.0)


def test_a_table_comes_to_the_law_of_the_data():
    """Sequences of two of three tokens: for small alpha the law that J prefers is the data's, for
    large ones a smoother one."""
    counts = {(0, 0): 8, (0, 1): 4, (1, 2): 6, (2, 2): 2}
    found = {}
    for alpha in (0.02, 2.0):
        torch.manual_seed(0)
        table = torch.zeros(4, IDS, requires_grad=True)  # by the first token; 3 is the beginning
        optimiser = torch.optim.Adam([table], lr=0.2)
        loss = Imitation(ImitationConfig(alpha=alpha))
        rows = [data([*text, END]) for text, count in counts.items() for _ in range(count)]
        for _ in range(100):
            law = table[:, 2:5].detach().softmax(dim=1)
            first = torch.multinomial(law[3], 40, replacement=True)
            second = torch.multinomial(law[first], 1)[:, 0]
            drawn = [
                model([a, b, END]) for a, b in zip(first.tolist(), second.tolist(), strict=True)
            ]
            batch = batch_of([*rows, *drawn])
            output = _tabled(table, batch)
            optimiser.zero_grad()
            loss(output, batch).backward()
            optimiser.step()
        with torch.no_grad():
            law = table[:, 2:5].log_softmax(dim=1)
            found[alpha] = sum(
                n / 20 * (math.log(n / 20) - float(law[3, a] + law[a, b]))
                for (a, b), n in counts.items()
            )
    assert found[0.02] < 0.02
    assert found[2.0] > 3 * found[0.02]


def _tabled(table, batch):
    """After one token its row, after two a certain end; other ids are as good as impossible."""
    never = torch.full((4, 2), -30.0)
    certain = torch.full((1, IDS), -30.0)
    certain[0, 5] = 0.0
    rows = torch.cat((torch.cat((never, table[:, 2:5], never, never[:, :1]), dim=1), certain))
    asked = batch.target >= 0
    depth, token = batch.position[asked], batch.tokens[asked]
    index = torch.where(depth == 0, 3, torch.where(depth == 1, token - 2, 4))
    return Output(rows[index], batch.target[asked], {})


@pytest.mark.parametrize(
    "wrong", [{"divergence": "tv"}, {"gamma": 0.0}, {"alpha": -1.0}, {"alpha": math.inf}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ImitationConfig(**wrong)
    with pytest.raises(InputError, match="Ramp"):
        Ramp(most=2.0)
