"""Tokens that are taken back: layouts, one pass against many, the cache, and the sampler."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arra.errors import InputError
from arra.generators.backspacing import BackspaceStepper, Writing, with_backspace
from arra.generators.base import DATA, MODEL, NOISE
from arra.generators.batches import IGNORE, collate
from arra.generators.raster import RasterGenerator
from arra.orders.backspaces import written
from arra.orders.layout import FOREVER
from arra.samplers.ancestral import AncestralSampler
from arra.samplers.backtracking import BacktrackingSampler, Limits, standing
from arra.settings import SamplingConfig

BACK = 99


@st.composite
def histories(draw, tokens=5, most=14):
    """Actions after a prompt of one token: no backspace without something to take back."""
    actions, depth = [], 0
    for _ in range(draw(st.integers(0, most))):
        back = depth > 0 and draw(st.booleans())
        actions.append(BACK if back else draw(st.integers(0, tokens - 1)))
        depth += -1 if back else 1
    return actions


def replayed(actions):
    """The text after every action, by a loop over a list."""
    text, texts = [], []
    for action in actions:
        text = text[:-1] if action == BACK else [*text, action]
        texts.append(text)
    return texts


@given(histories())
def test_every_position_sees_the_text_as_it_was(history):
    actions = [7, *history]
    found = written(actions, BACK)
    sees = found.layout().sees()
    for moment, text in enumerate(replayed(actions)):
        seen = sees[moment].nonzero().flatten().tolist()
        assert [found.tokens[k] for k in seen] == text
        assert [found.position[k] for k in seen] == list(range(len(text)))
        # what is seen saw exactly what is seen before it: hidden states agree
        for n, k in enumerate(seen):
            own = sees[k].nonzero().flatten().tolist()
            assert [found.tokens[i] for i in own] == text[: n + 1]
    assert found.live == replayed(actions)[-1]
    if BACK not in actions:
        assert found.dies == [FOREVER] * len(actions)


def test_what_cannot_be_taken_back():
    with pytest.raises(InputError, match="action 2"):
        written([1, 2, BACK], BACK, fixed=2)
    with pytest.raises(InputError, match="fixed"):
        written([], BACK)


@pytest.fixture(scope="module")
def generator():
    """A generator with a backspace whose laws depend visibly on history."""
    made = with_backspace(RasterGenerator.tiny(), seed=1).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(6.0 if p.ndim == 2 else 1.0)
    return made


@pytest.fixture(scope="module")
def stepper(generator):
    return BackspaceStepper.of_pictures(generator)


def fresh(generator, ids):
    """Final states (T, D) of a plain pass of transformers over these ids."""
    with torch.no_grad():
        return generator.lm.get_decoder()(input_ids=torch.tensor([ids])).last_hidden_state[0]


@settings(max_examples=15, deadline=None)
@given(st.lists(histories(most=10), min_size=1, max_size=3), st.sampled_from(["left", "packed"]))
def test_one_pass_equals_passes_over_what_is_left(generator, rows, layout):
    """Logits at every position, of several samples in a batch, in all layouts."""
    writing = Writing.of_text(generator, 20)
    end, back = len(writing.ids), len(writing.ids) + 1
    samples, expected = [], []
    for history in rows:
        actions = [back if a == BACK else a for a in history] + [end]
        samples.append(writing.sample([7, 8], actions, [MODEL] * len(actions)))
        prompt = writing.prompt([7, 8])
        for text in [[], *replayed(history)]:
            ids = [*prompt, *(writing.ids[a] for a in text)]
            expected.append(fresh(generator, ids)[-1])
    batch = collate(samples, {}, 0, layout, packed_length=64)
    generator.train()  # the way of training, which must not take the one without masks
    with torch.no_grad():
        output = generator(batch)
    generator.eval()
    wanted = generator.tables.logits(torch.stack(expected), torch.zeros(len(expected)) > 0)
    if layout == "left":  # packed rows may hold samples in another order
        torch.testing.assert_close(output.logits, wanted, rtol=1e-4, atol=1e-4)
    else:
        order = batch.segment[batch.target >= 0].argsort(stable=True)
        torch.testing.assert_close(output.logits[order], wanted, rtol=1e-4, atol=1e-4)


def test_a_sample_says_who_chose_what(generator):
    writing = Writing.of_pictures(generator)
    codes = [3, 5, 1, 0, 2, 2, 9, 4, 15]
    end, back = 16, 17
    actions = [*codes[:2], 8, back, *codes[2:], end]
    source = [DATA, DATA, NOISE, *[DATA] * 9]
    sample = writing.sample([7], actions, source)
    prompt = len(writing.prompt([7]))
    assert sample.place[prompt - 1 :] == [0, 1, -1, -1, 2, 3, 4, 5, 6, 7, 8, -1]
    assert sample.target[: prompt - 1] == [IGNORE] * (prompt - 1)
    batch = collate([sample], {}, 0)
    assert batch.samples == 1
    here = batch.target >= 0
    assert batch.source[here].tolist() == source
    assert batch.position[here][[2, 3, 4]].tolist() == [prompt + 1, prompt + 2, prompt + 1]
    with pytest.raises(InputError, match="does not end"):
        writing.sample([7], codes, [DATA] * 9)


def test_backspace_then_going_on_is_never_having_written(stepper):
    """Of a single row the very same numbers, and the same cache."""
    prompt = [stepper.prompt_ids("a red 3")]
    with torch.inference_mode():
        logits, draft = stepper.prefill(prompt)
        begin = logits
        for action in (3, 5):
            logits = stepper.step(torch.tensor([action]), draft)
        assert not torch.allclose(logits, begin)
        stored = draft.cache.stored
        for action in (9, 9, 17, 17):
            again = stepper.step(torch.tensor([action]), draft)
        assert torch.equal(again, logits)
        assert draft.cache.stored == stored
        straight, _ = stepper.prefill([[*prompt[0], *(stepper.writing.ids[a] for a in (3, 5))]])
        torch.testing.assert_close(again, straight, rtol=1e-4, atol=1e-4)
        for _ in range(2):
            logits = stepper.step(torch.tensor([17]), draft)
        assert torch.equal(logits, begin)


def test_rows_take_back_each_for_itself(stepper, generator):
    """Rows of other prompts, depths and numbers of backspaces, one that has ended: as alone."""
    captions, back = ["a red 3 left of a blue 5", "a green 7", None], 17
    histories = [[1, 2, back, 4, 5], [1, back, 2, back, 3], [6, 7, 8, -1, -1]]
    prompts = [stepper.prompt_ids(c) for c in captions]
    with torch.inference_mode():
        _, draft = stepper.prefill(prompts)
        for column in zip(*histories, strict=True):
            logits = stepper.step(torch.tensor(column), draft)
        for row, history in enumerate(histories):
            ids = prompts[row] + [
                stepper.writing.ids[a] for a in standing([a for a in history if a >= 0], 16)
            ]
            if -1 not in history:
                wanted = generator.tables.logits(fresh(generator, ids)[-1:], torch.tensor([True]))
                wanted = wanted[0, torch.tensor(stepper.writing.actions)]
                torch.testing.assert_close(logits[row], wanted, rtol=1e-4, atol=1e-4)
        with pytest.raises(InputError, match="take_back"):
            draft.cache.take_back(torch.tensor([0, 99, 0]))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_rows_are_as_alone(stepper, guidance):
    sampler = BacktrackingSampler(SamplingConfig(guidance=guidance, temperature=5.0))
    prompts = [stepper.prompt_ids(c) for c in ("a red 3", None, "a green 7 left of a blue 5")]
    empty = stepper.prompt_ids(None)
    seeds = [1, 2, 3]
    together = sampler.actions(stepper, prompts, seeds, unconditional=empty)
    alone = [
        sampler.actions(stepper, [p], [s], unconditional=empty)[0]
        for p, s in zip(prompts, seeds, strict=True)
    ]
    assert together == alone
    assert any(17 in row for row in together), "nothing was taken back: the test says nothing"
    for row in together:
        assert row[-1] == 16
        assert len(standing(row, 16)) == 9


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 99))
def test_limits_hold_and_units_are_told(stepper, in_a_row, each, seed):
    told = []
    sampler = BacktrackingSampler(SamplingConfig(guidance=1.0), Limits(in_a_row, each))
    prompts = [stepper.prompt_ids(None)] * 2
    rows = sampler.actions(stepper, prompts, [seed, seed + 1], on_unit=told.append)
    assert told == [2] * 9
    for row in rows:
        assert row.count(17) <= round(each * 9 + 0.5)
        runs = "".join("b" if a == 17 else "x" for a in row).split("x")
        assert max(map(len, runs)) <= in_a_row


def test_without_backspaces_it_is_the_ancestral_law(stepper, generator):
    """Greedy drawing, where both are without noise."""
    greedy = SamplingConfig(guidance=1.0, temperature=0.0)
    sampler = BacktrackingSampler(greedy, Limits(in_a_row=0))
    codes = sampler(stepper, ["a red 3", None], [1, 2])
    assert torch.equal(codes, AncestralSampler(greedy)(generator, ["a red 3", None], [1, 2]))


def test_given_actions_stand_first(stepper):
    sampler = BacktrackingSampler(SamplingConfig(guidance=1.0))
    prompts = [stepper.prompt_ids(None)] * 2
    rows = sampler.actions(stepper, prompts, [1, 2], given=[[3, 17, 4], [5]])
    assert rows[0][:3] == [3, 17, 4]
    assert rows[1][:1] == [5]


def test_texts_end_by_themselves(generator):
    writing = Writing.of_text(generator, 4, ("red", "blue"))
    stepper = BackspaceStepper(generator, writing)
    codes = BacktrackingSampler(SamplingConfig(guidance=1.0))(stepper, ["a", "a red"], [1, 5])
    assert codes.shape == (2, 4)
    assert int(codes.max()) <= 2
    with pytest.raises(InputError, match="'nope'"):
        Writing.of_text(generator, 4, ("nope",))


def test_a_model_keeps_what_it_could(tmp_path):
    """A backspace changes no row of what was there, is saved, and comes once."""
    plain, made = RasterGenerator.tiny(), RasterGenerator.tiny()
    assert with_backspace(with_backspace(made)) is made
    ids = torch.tensor([plain.prompt_ids("a red 3")])
    with torch.no_grad():
        one, other = (g.eval().lm(ids).logits for g in (plain, made))
    torch.testing.assert_close(other[..., : one.shape[-1]], one)
    made.save_pretrained(tmp_path / "made")
    again = RasterGenerator.from_pretrained(tmp_path / "made")
    assert again.config.backspace == made.config.backspace is not None
    assert again.fingerprint() == made.fingerprint() != plain.fingerprint()
    with pytest.raises(InputError, match="raster generator has no backspace"):
        BackspaceStepper.of_pictures(plain)
