"""Language models of vectors: both orders, what sees what, reading with a cache, saving."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from arra.errors import InputError
from arra.generators.batches import IGNORE
from arra.generators.interleaving import Mixed
from arra.generators.masked_language import MaskedLanguageGenerator
from arra.generators.raster_vectors import RasterVectorGenerator
from arra.metrics.understanding import exact_match, understanding
from arra.objectives.laws import NextToken, NextVector
from arra.samplers.noise import PictureNoise
from arra.settings import BatchConfig, VectorOptions
from language_kit import CAPTIONS, SomeStore, spoilt

KINDS = [RasterVectorGenerator, MaskedLanguageGenerator]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.registered_name)
def generator(request):
    return spoilt(request.param.tiny())


def batch_of(generator, **settings):
    store = SomeStore(generator)
    config = BatchConfig(len(store), drop_caption=0.0, **settings)
    batch = generator.batches(store, config, replay=[[6, 7, 8]] * 3).batch(0)
    return dataclasses.replace(batch, seed=torch.tensor(3))


def laws(generator, batch):
    output = generator(batch)
    return NextToken()(output, batch), NextVector()(output, batch)


# ---- batches -------------------------------------------------------------------------------------


def test_half_of_the_rows_are_read(generator):
    """A caption stands behind its picture there, and all of it is predicted."""
    batch, v = batch_of(generator), generator.vocabulary
    texts, read = SomeStore(generator).texts, 0
    for row, number in zip(range(4), batch.features["row"][:, 0].tolist(), strict=True):
        here = batch.segment[row] >= 0
        tokens, target = batch.tokens[row][here].tolist(), batch.target[row][here].tolist()
        cells = [v.offset] * 4
        if row < 2:
            assert tokens == [*v.prompt(texts[number]), *cells, v.end]
            assert target[: len(v.prompt(texts[number])) - 1] == [IGNORE] * (len(texts[number]) + 1)
            assert target[-1] == generator.end
        else:
            read += 1
            assert tokens == [*v.prompt([]), *cells, v.end, *texts[number]]
            after = tokens.index(v.end)
            assert target[after:] == [*texts[number], generator.end]
    assert read == 2


def test_which_rows_are_read_is_chance_not_length(generator):
    batches = generator.batches(SomeStore(generator), BatchConfig(4, drop_caption=0.0))
    seen = {tuple(batches.batch(step).features["row"][2:, 0].tolist()) for step in range(40)}
    assert {row for pair in seen for row in pair} == {0, 1, 2, 3}


def test_batches_are_functions_of_the_step(generator):
    def made(step):
        return generator.batches(SomeStore(generator), BatchConfig(4)).batch(step)

    one, other = made(7).tensors(), made(7).tensors()
    assert all(torch.equal(x, other[name]) for name, x in one.items())


def test_a_dropped_caption_is_not_predicted_to_be_none(generator):
    batches = generator.batches(SomeStore(generator), BatchConfig(4, drop_caption=1.0))
    batch = batches.batch(0)
    read = batch.target[2:]
    assert set(read[read >= 0].tolist()) <= {generator.vocabulary.end}


@pytest.mark.parametrize("layout", ["left", "packed"])
def test_where_rows_lie_changes_nothing(generator, layout):
    one = laws(generator, batch_of(generator))
    other = laws(generator, batch_of(generator, layout=layout))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_plain_text_is_what_the_language_model_says(generator):
    """Text-only rows: its own cross-entropy, and nothing reaches the head of vectors."""
    batch = batch_of(generator, replay=0.5)
    only = slice(4, None)
    assert len(batch.tokens[only]) >= 2
    text = dataclasses.replace(
        batch,
        **{name: x[only] for name, x in batch.tensors().items() if x.ndim == 2},
    )
    token, vector = laws(generator, text)
    real = text.segment >= 0
    logits = generator.lm(input_ids=text.tokens, attention_mask=real.long()).logits
    wanted = torch.nn.functional.cross_entropy(
        logits[text.target >= 0], text.target[text.target >= 0]
    )
    torch.testing.assert_close(token, wanted, rtol=1e-5, atol=1e-6)
    assert float(vector) == 0.0
    (token + vector).backward()
    grads = [p.grad for p in generator.head.parameters()]
    assert all(g is None or not bool(g.any()) for g in grads)


def test_the_weight_of_vectors_is_linear_in_the_backbone(generator):
    """grad(text + w vectors) = grad(text) + w grad(vectors)."""
    batch = batch_of(generator)
    weights = list(generator.lm.get_decoder().layers.parameters())

    def gradients(text, vectors):
        token, vector = laws(generator, batch)
        return torch.autograd.grad(text * token + vectors * vector, weights)

    both, one, other = gradients(1.0, 100.0), gradients(1.0, 0.0), gradients(0.0, 1.0)
    for x, a, b in zip(both, one, other, strict=True):
        torch.testing.assert_close(x, a + 100.0 * b, rtol=1e-3, atol=2e-3)


ASKED = [[("a red", "3"), ("how", "a blue 5")], [], [("left of", "7")], [("a", "red")]]


def asked_batches(generator, asking=1.0, questions=ASKED):
    options = dataclasses.replace(generator.config.options, asking=asking)
    generator.config = dataclasses.replace(generator.config, options=options)
    store = SomeStore(generator, questions=questions)
    return store, generator.batches(store, BatchConfig(4, drop_caption=0.0))


def test_a_question_is_read_and_its_answer_predicted(generator):
    """After the picture stands a question of this very row; of it nothing is predicted."""
    store, batches = asked_batches(generator)
    v, seen = generator.vocabulary, set()
    for step in range(12):
        batch = batches.batch(step)
        for row, number in enumerate(batch.features["row"][:, 0].tolist()):
            here = batch.segment[row] >= 0
            tokens, target = batch.tokens[row][here].tolist(), batch.target[row][here].tolist()
            if row < 2:
                assert tokens[: len(store.texts[number])] != v.prompt([])
                continue
            before = [*v.prompt([]), *[v.offset] * 4, v.end]
            assert tokens[: len(before)] == before
            if not store.questions[number]:  # a row without questions says its caption
                assert tokens[len(before) :] == store.texts[number]
                continue
            (found,) = [
                p for p in store.questions[number] if [*p[0], *p[1]] == tokens[len(before) :]
            ]
            question, answer = found
            after = target[len(before) - 1 :]
            assert after == [*[IGNORE] * len(question), *answer, generator.end]
            assert set(target[: len(before) - 1]) <= {IGNORE, v.end}
            seen.add((number, tuple(question)))
    assert len(seen) == 4  # all of them, in time


def test_only_answers_are_learnt(generator):
    """Another answer changes the loss of text, and so does another question that is read; but the
    question's own tokens are nobody's targets: no gradient pulls at their rows of the output."""
    _, batches = asked_batches(generator, questions=[[("a red", "7")]] * 4)
    batch = dataclasses.replace(batches.batch(0), seed=torch.tensor(3))
    read = dataclasses.replace(
        batch, **{n: x[2:] for n, x in batch.tensors().items() if x.ndim == 2}
    )
    output = generator(read)
    answer = generator.caption_ids("7")
    allowed = {*answer, generator.end, generator.vocabulary.end}
    assert set(output.targets.tolist()) <= allowed
    assert output.targets.tolist().count(answer[0]) == 2
    assert len(output.logits) == len(output.targets)


def test_asking_is_a_share_and_a_function_of_the_step(generator):
    def answered(asking, steps=40):
        _, batches = asked_batches(generator, asking, [[("how", "7")]] * 4)
        question = generator.caption_ids("how")[0]
        made = [batches.batch(step) for step in range(steps)]
        return sum(int((batch.tokens[2:] == question).any(dim=1).sum()) for batch in made), made

    (none, _), (half, some), (every, _) = answered(0.0), answered(0.5), answered(1.0)
    assert (none, every) == (0, 80)
    assert 20 < half < 60
    _, again = answered(0.5)
    for one, other in zip(some, again, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.target, other.target)


def test_without_questions_nothing_changes(generator):
    """Batches of a store without questions do not depend on the share."""
    made = [asked_batches(generator, asking, ())[1].batch(5).tensors() for asking in (0.0, 1.0)]
    assert all(torch.equal(x, made[1][name]) for name, x in made[0].items())


def test_answering_is_that_of_training(generator):
    """The law of an answer's first word is the same in a batch and behind a prefilled question."""
    _, batches = asked_batches(generator, questions=[[("how", "7")]] * 4)
    batch = dataclasses.replace(batches.batch(0), seed=torch.tensor(3))
    v, output = generator.vocabulary, generator(batch)
    question = generator.caption_ids("how")
    _, state = generator.prefill([Mixed.of([batch.latents[3], question], v)])
    row = batch.target >= 0
    at = torch.zeros_like(row)
    at[3, int((batch.tokens[3] == question[-1]).nonzero()[-1])] = True
    logits = output.logits[at[row]]
    cached = generator.lm.get_output_embeddings()(state)
    torch.testing.assert_close(cached, logits, rtol=1e-4, atol=1e-4)


# ---- what sees what ------------------------------------------------------------------------------


def changed_states(generator, batch, sample, cell):
    """(T,) bool: where the last state of a sample changes with one vector of its picture."""
    latents = batch.latents.clone()
    latents[sample, cell] += 1.0
    depth = generator.depth
    before = generator(batch, layers=(depth,)).hidden[depth]
    after = generator(dataclasses.replace(batch, latents=latents), layers=(depth,)).hidden[depth]
    row = (batch.segment == sample).any(dim=1).nonzero()[0, 0]
    return (before != after).any(dim=2)[row]


def test_a_vector_changes_nothing_before_it():
    generator = spoilt(RasterVectorGenerator.tiny())
    batch = batch_of(generator)
    for sample in range(4):
        for cell in range(4):
            changed = changed_states(generator, batch, sample, cell)
            first = (batch.read[sample] == cell).nonzero()[0, 0]
            assert not bool(changed[:first].any())
            assert bool(changed[first])
            # it is predicted one position earlier, which does not see it
            assert int(batch.place[sample][first - 1]) == cell


def test_cells_see_each_other_and_text_does_not_look_ahead():
    generator = spoilt(MaskedLanguageGenerator.tiny())
    batch = batch_of(generator)
    cells = batch.read[3] >= 0
    assert int(cells.sum()) == 4  # a picture to be read is whole
    changed = changed_states(generator, batch, 3, 2)
    first = int(cells.nonzero()[0, 0])
    assert not bool(changed[:first].any())
    assert bool(changed[first : first + 4].all())
    assert len(set(batch.position[3][cells].tolist())) == 1
    after = batch.position[3][first + 4 :]
    assert after[0] == batch.position[3][first] + 1
    assert not bool(batch.image[3].any())


def test_hidden_cells_are_not_read():
    generator = spoilt(MaskedLanguageGenerator.tiny())
    batch = batch_of(generator)
    where = batch.image[0].nonzero()[0, 0]
    changed = changed_states(generator, batch, 0, int(batch.place[0][where]))
    assert not bool(changed.any())


def test_reading_has_no_noise_and_hides_nothing():
    """Gradients and values of the text's loss do not depend on the head's draws."""
    generator = spoilt(MaskedLanguageGenerator.tiny()).train()
    found = []
    for seed in (3, 4):
        batch = dataclasses.replace(batch_of(generator), seed=torch.tensor(seed))
        only = dataclasses.replace(
            batch, **{n: x[2:] for n, x in batch.tensors().items() if x.ndim == 2}
        )
        token, _ = laws(generator, only)
        weights = list(generator.lm.parameters())
        found.append((token, *torch.autograd.grad(token, weights)))
        generator.zero_grad()
        token, _ = laws(generator, only)
        token.backward()
        assert generator.hidden.grad is None or not bool(generator.hidden.grad.any())
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_hidden_picture_without_text_is_the_unconditional_one():
    generator = spoilt(MaskedLanguageGenerator.tiny())
    reading, _ = generator.prefill([Mixed(generator.prompt_ids(None))] * 2)
    hidden = torch.ones(2, 4, dtype=torch.bool)
    latents = torch.randn(2, 4, 3)
    states = generator.seen(latents, hidden, reading)
    assert torch.equal(states[0], states[1])


# ---- mask ratio ----------------------------------------------------------------------------------


def counts(generator, least, widened, steps):
    options = dataclasses.replace(generator.config.options, least=least, widened=widened, reading=0)
    generator.config = dataclasses.replace(generator.config, options=options)
    batches = generator.batches(SomeStore(generator), BatchConfig(4, drop_caption=0.0))
    return [batches.batch(step).image.sum(dim=1).tolist() for step in steps]


def test_all_pictures_of_a_batch_hide_as_many_cells():
    found = counts(MaskedLanguageGenerator.tiny(), 0.7, 0, range(30))
    assert all(len(set(row)) == 1 for row in found)
    assert {row[0] for row in found} == {3, 4}  # of four cells, a share of 0.7 or more


def test_the_second_stage_hides_any_number():
    generator = MaskedLanguageGenerator.tiny()
    found = counts(generator, 0.7, 50, range(50, 350))
    assert {row[0] for row in found} == {1, 2, 3, 4}
    assert min(row[0] for row in counts(generator, 0.7, 50, range(50))) >= 3


def test_options_of_the_schedule_are_checked():
    for name, value in (("reading", 1.0), ("asking", -0.1), ("least", 1.5), ("widened", -1)):
        with pytest.raises(InputError, match=f"VectorOptions.{name}"):
            VectorOptions(**{name: value})


# ---- drawing and reading -------------------------------------------------------------------------


def test_cached_drawing_is_what_the_whole_row_says():
    """Each drawn vector's state is that of a forward pass over the row so far."""
    generator = spoilt(RasterVectorGenerator.tiny())
    prompts = [generator.prompt_ids(c) for c in CAPTIONS[:3]]
    noise = PictureNoise([1, 2, 3]).normal
    cache, states = generator.begin(prompts, noise), []
    with torch.no_grad():
        for _ in range(generator.units):
            states.append(cache.state)
            generator.unit(cache, noise, 1.0, 1.0)
        drawn = generator.drawn(cache)
        for row, prompt in enumerate(prompts):
            for count in range(generator.units):
                tokens = [*prompt, *[generator.vocabulary.offset] * count]
                x = generator.lm.get_input_embeddings()(torch.tensor(tokens))[None]
                if count:
                    x[0, len(prompt) :] = generator.reader(drawn[row, :count])
                whole = generator._decode(x, None, None)[0, -1]
                torch.testing.assert_close(states[count][row], whole, rtol=1e-4, atol=1e-4)


def test_rounds_are_what_the_whole_row_says():
    """A round over the cells alone, the prompt cached, gives the states of training."""
    generator = spoilt(MaskedLanguageGenerator.tiny())
    batch, depth = batch_of(generator), generator.depth
    for row in (0, 1):
        cells = batch.tokens[row] == generator.vocabulary.offset
        hidden = batch.image[row][cells][None]
        first = int(cells.nonzero()[0, 0])
        reading, _ = generator.prefill([Mixed(batch.tokens[row][:first].tolist())])
        with torch.no_grad():
            states = generator.seen(batch.latents[row][None], hidden, reading)[0]
            layer = generator(batch, layers=(depth,)).hidden[depth][row][cells]
            wanted = generator.lm.get_decoder().norm(layer)
        torch.testing.assert_close(states, wanted, rtol=1e-4, atol=1e-4)
        again = generator.seen(batch.latents[row][None], hidden, reading)[0]
        torch.testing.assert_close(again, states, rtol=1e-5, atol=1e-5)


def test_texts_of_a_batch_are_those_of_each_alone(generator):
    pictures = torch.randn(3, *generator.codes_shape, generator=torch.Generator().manual_seed(4))
    asked = ["a red", "", "a green 7 left of"]
    together = generator.describe(pictures, asked, most=8)
    alone = [
        generator.describe(picture[None], [prompt], most=8)[0]
        for picture, prompt in zip(pictures, asked, strict=True)
    ]
    assert together == alone
    with pytest.raises(InputError, match="2 prompts for 3"):
        generator.describe(pictures, ["a", "b"])


def test_what_is_said_is_what_a_whole_pass_finds_likeliest(generator):
    """Word by word, without a cache, through the forward of training."""
    picture = torch.randn(1, *generator.codes_shape, generator=torch.Generator().manual_seed(5))
    said = generator.describe(picture, most=3)[0]
    v, ids = generator.vocabulary, []
    for _ in range(3):
        row = Mixed.of([picture.view(-1, 3), ids], v)
        _, state = generator.prefill([row])
        found = int(generator.text_logits(state.detach()).argmax())
        if found in (generator.end, v.begin):
            break
        ids.append(found)
    assert said == generator.tokenizer.decode(ids)


def test_reading_is_that_of_training(generator):
    """The law of a caption's first word is the same in a batch and behind a prefilled picture."""
    batch = batch_of(generator)
    v, output = generator.vocabulary, generator(batch)
    sample = int(batch.segment[3].max())
    _, state = generator.prefill([Mixed.of([batch.latents[sample]], v)])
    row = batch.target >= 0
    at = (batch.tokens == v.end) & (torch.arange(len(batch.tokens)) == 3)[:, None]
    logits = output.logits[at[row]]
    cached = generator.lm.get_output_embeddings()(state)
    torch.testing.assert_close(cached, logits, rtol=1e-4, atol=1e-4)


# ---- saving --------------------------------------------------------------------------------------


def test_the_folder_is_that_of_a_language_model(generator, tmp_path):
    generator.save_pretrained(tmp_path / "model")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = torch.tensor([tokenizer("a red 3")["input_ids"]])
    assert torch.equal(lm(ids).logits, generator.lm(ids).logits)
    again = type(generator).from_pretrained(tmp_path / "model")
    assert again.fingerprint() == generator.fingerprint()
    side = json.loads((tmp_path / "model" / "arra.json").read_text())
    assert side["generator"] == generator.registered_name
    with pytest.raises(InputError, match="does not describe"):
        next(kind for kind in KINDS if not isinstance(generator, kind)).from_pretrained(
            tmp_path / "model"
        )


# ---- measuring -----------------------------------------------------------------------------------


def test_exact_match_counts_words_not_case():
    found = exact_match(["A red 3", "a  red 3", "a red"], ["a red 3", "a red 3", "a red 3"])
    assert found.tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(InputError, match="2 texts for 1"):
        exact_match(["a", "b"], ["a"])


def test_understanding_asks_in_batches():
    class Parrot:
        def describe(self, codes, prompts=None):
            return [f"{prompt} {int(code)}" for prompt, code in zip(prompts, codes, strict=True)]

    codes = torch.arange(5)
    wanted = ["is 0", "is 1", "is 7", "is 3", "is 4"]
    found = understanding(
        Parrot(), codes, wanted, ["is"] * 5, rng=np.random.default_rng(0), batch=2
    )
    assert math.isclose(found.value, 0.8)
    assert found.n == 5
    assert found.interval.low <= 0.8 <= found.interval.high
