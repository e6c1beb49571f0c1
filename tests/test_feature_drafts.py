"""Drafts of a network that predicts features: what it reads and when, the law of what comes out,
and its training."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

import arra.generators  # noqa: F401  (registers)
from arra.data.tokenizer import train_text_tokenizer
from arra.errors import InputError, ProvenanceError
from arra.experiments.digits import MemoryStore
from arra.generators.features import CodeTables, FeatureStudent, check_target, picture_features
from arra.generators.raster import RasterGenerator
from arra.networks.feature_predictor import FeaturePredictor, FeaturePredictorConfig
from arra.objectives.features import feature_objectives
from arra.objectives.laws import NextToken
from arra.orders.trees import Trees
from arra.registry import generators
from arra.samplers.ancestral import AncestralSampler
from arra.samplers.logits import SamplingConfig, law
from arra.samplers.speculative.drafts import Budget
from arra.samplers.speculative.feature_trees import DynamicFeatureDrafter, StaticFeatureDrafter
from arra.samplers.speculative.guided import UnitGuidance
from arra.samplers.speculative.rules import Match, Relaxed, RelaxedGreedy, Strict, nearest
from arra.samplers.speculative.sampler import SpeculativeSampler
from arra.samplers.speculative.tapes import enumerated
from arra.samplers.speculative.trees import TreeShape, best_nodes
from arra.settings import BatchConfig, LlamaSize
from arra.training.config import TrainConfig
from arra.training.loop import train
from lm_kit import ARCHITECTURES, CODES, save_language_model, word_tokenizer
from speculative_kit import TableStepper

CAPTIONS = ["a red 3", "a green 7 left of a blue 5", "a blue 5", None]
SEEDS = [11, 12, 13, 14]
CONFIGS = {
    "greedy": SamplingConfig(guidance=1.0, temperature=0.0),
    "greedy, guided": SamplingConfig(guidance=3.0, temperature=0.0),
    "sampled": SamplingConfig(guidance=1.0, temperature=0.8, top_k=9),
    "sampled, guided in part": SamplingConfig(guidance=2.5, guidance_until=0.6, top_p=0.9),
}
BRANCHED = TreeShape((-1, -1, -1, 0, 0, 1, 3, 3, 6))


def decided(generator):
    """The generator with laws that depend visibly on caption and history."""
    with torch.no_grad():
        for p in generator.parameters():
            p.mul_(6.0 if p.ndim == 2 else 1.0)
    return generator.eval()


@pytest.fixture(scope="module")
def generator():
    return decided(generators["raster"].tiny())


def predictor(generator, seed=0, depth=2):
    config = FeaturePredictorConfig(generator.width, generator.units, heads=2, depth=depth)
    network = FeaturePredictor.seeded(config, seed)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(3.0 if p.ndim == 2 else 1.0)
    return network.eval()


def drafters(generator, **given):
    network, tables = predictor(generator, **given), CodeTables(generator)
    return {
        "chain": StaticFeatureDrafter(network, tables, TreeShape.chain(4)),
        "static": StaticFeatureDrafter(network, tables, BRANCHED),
        "dynamic": DynamicFeatureDrafter(network, tables, depth=3, width=3),
    }


# ---- shapes -------------------------------------------------------------------------------------


def test_shapes_of_trees():
    assert TreeShape.chain(3).parents == (-1, 0, 1)
    assert TreeShape.likely(4, 4, acceptance=0.9) == TreeShape.chain(4)
    shape = TreeShape.likely(25, 5)
    assert len(shape) == 25
    assert max(shape.depths) == 3

    # the chance that a node is reached and stays, by its definition: no other node is likelier
    def chance(path):
        found = 1.0
        for rank in path:
            found *= 0.5 * 0.5**rank
        return found

    paths = {-1: ()}
    for node, parent in enumerate(shape.parents):
        rank = shape.children[parent + 1].index(node)
        paths[node] = (*paths[parent], rank)
    inside = {path for node, path in paths.items() if node >= 0}
    others = {(*p, r) for p in paths.values() if len(p) < 5 for r in range(26)} - inside
    assert min(map(chance, inside)) >= max(map(chance, others))
    assert BRANCHED.levels == ((0, 1), (3,), (6,))
    for parents in ((), (0,), (-1, 0, -1)):
        with pytest.raises(InputError, match="TreeShape"):
            TreeShape(parents)


def test_best_nodes_are_a_tree():
    values, depths = [-1.0, -2.0, -1.0, -1.5, -float("inf"), -1.2], [1, 1, 2, 2, 2, 3]
    assert best_nodes(values, depths, 3, 3) == [0, 2, 5]
    assert best_nodes(values, depths, 9, 2) == [0, 1, 2, 3]


# ---- the loop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("batch", [4, 3])
def test_pictures_are_those_of_ancestral_sampling(generator, name, batch):
    config = CONFIGS[name]
    plain = AncestralSampler(config)(generator, CAPTIONS, SEEDS)
    for kind, drafter in drafters(generator).items():
        sampler = SpeculativeSampler(config, drafter, Match(), Budget(7, 3))
        assert torch.equal(sampler(generator, CAPTIONS, SEEDS, batch=batch), plain), kind
        assert sampler.statistics.drafted > 0
        if batch == 3 and kind == "static":
            strict = SpeculativeSampler(config, drafter, Strict(), Budget(7, 3))
            together = strict(generator, CAPTIONS, SEEDS, batch=batch)
            alone = [strict(generator, [c], [s]) for c, s in zip(CAPTIONS, SEEDS, strict=True)]
            assert torch.equal(together, torch.cat(alone))
            assert config.temperature > 0.0 or torch.equal(together, plain)


def test_given_first_codes(generator):
    """Nothing is guessed before the target has read them; then all goes on as ever."""
    config = CONFIGS["sampled, guided in part"]
    prefix = (AncestralSampler(config)(generator, CAPTIONS, SEEDS)[:, :5] + 1) % 16
    prefix[1, 2:] = -1
    prefix[2] = -1
    plain = AncestralSampler(config)(generator, CAPTIONS, SEEDS, prefix=prefix)
    for drafter in drafters(generator).values():
        sampler = SpeculativeSampler(config, drafter, Match())
        assert torch.equal(sampler(generator, CAPTIONS, SEEDS, prefix=prefix), plain)


class Watched:
    """A drafter's laws and what it was told, as it drafts."""

    def __init__(self, drafter):
        self.drafter, self.draws = drafter, drafter.draws
        self.heard, self.drafts = {}, []

    def begin(self, pictures, config):
        self.heard = {id(picture): [] for picture in pictures}
        self.drafter.begin(pictures, config)

    def told(self, pictures, features):
        for picture, new in zip(pictures, features, strict=True):
            self.heard[id(picture)].append(new)
        self.drafter.told(pictures, features)

    def propose(self, pictures, budgets):
        drafts = self.drafter.propose(pictures, budgets)
        self.drafts += [
            (picture, tuple(picture.codes), draft)
            for picture, draft in zip(pictures, drafts, strict=True)
        ]
        return drafts


def truth(generator, caption, codes):
    """(1 + n, D) what the head reads at <boi> and after each code, read one after the other."""
    states = []
    _, cache = generator.prefill([generator.prompt_ids(caption)])
    states.append(cache.state[0])
    if codes:
        _, found = generator.step_tree(
            torch.tensor([codes]), Trees.of([range(-1, len(codes) - 1)]), cache
        )
        states += list(found[0])
    return torch.stack(states)


@pytest.mark.parametrize("guided", [False, True])
@torch.inference_mode()
def test_features_that_are_told_are_those_before_each_code(generator, guided):
    """Whatever was guessed wrongly in between, in batches of which rows leave: the features are
    those of reading the final codes, conditional and not."""
    config = SamplingConfig(guidance=2.0 if guided else 1.0)
    watched = Watched(drafters(generator)["static"])
    sampler = SpeculativeSampler(config, watched, budget=Budget(9, 4))
    sampler(generator, CAPTIONS, SEEDS)
    assert sampler.statistics.accepted < sampler.statistics.drafted
    pictures = {id(picture): picture for picture, _, _ in watched.drafts}
    for key, picture in pictures.items():
        heard = torch.cat(watched.heard[key], dim=1)
        captions = [picture.caption, None] if guided else [picture.caption]
        for mine, caption in zip(heard, captions, strict=True):
            codes = picture.codes[: len(mine) - 1]
            torch.testing.assert_close(mine, truth(generator, caption, codes), rtol=0, atol=2e-4)


@torch.inference_mode()
def laws_of(generator, network, caption, codes, path, config):
    """The drafter's law after `codes` and the guesses of a path, by reading all anew: true
    features before the codes, its own predictions before the guesses."""
    tables, logits = CodeTables(generator), []
    for one in [caption, None] if config.guided else [caption]:
        before = truth(generator, one, list(codes[:-1]))
        own = list(codes)
        for guess in [*path, None]:
            embedded, position = tables.embed(torch.tensor([own])), torch.arange(len(own))[None]
            predicted = network(embedded, before[None], position)[0]
            before = torch.cat((before, predicted[-1:]))
            own.append(guess)
        logits.append(tables.logits(predicted[-1:])[0])
    unit = torch.tensor([len(codes) + len(path)])
    found = UnitGuidance(config, generator.units)(torch.stack(logits), unit)
    return law(found, config)[0]


@pytest.mark.parametrize("name", ["sampled", "sampled, guided in part"])
def test_laws_with_a_cache_are_those_without(generator, name):
    """At every node of every tree, after any number of guesses that were wrong."""
    config = CONFIGS[name]
    drafter = drafters(generator)["static"]
    watched = Watched(drafter)
    SpeculativeSampler(config, watched, budget=Budget(9, 4))(generator, CAPTIONS, SEEDS, batch=3)
    checked = 0
    for picture, codes, draft in watched.drafts:
        for node in range(-1, len(draft)):
            if not draft.children(node):
                continue
            path, at = [], node
            while at >= 0:
                path.insert(0, draft.tokens[at])
                at = draft.parents[at]
            wanted = laws_of(generator, drafter.network, picture.caption, codes, path, config)
            torch.testing.assert_close(draft.laws[node + 1], wanted, rtol=0, atol=2e-4)
            checked += 1
    assert checked > 40


def test_dynamic_trees_are_the_likeliest_paths(generator):
    """As many nodes as wanted, of those that are considered the likeliest, by the drafter's laws
    of reading everything anew."""
    config = SamplingConfig(guidance=1.0)
    drafter = DynamicFeatureDrafter(predictor(generator), CodeTables(generator), depth=3, width=4)
    watched = Watched(drafter)
    SpeculativeSampler(config, watched, Match(), Budget(6, 3))(generator, CAPTIONS[:2], SEEDS[:2])
    for picture, codes, draft in watched.drafts[:6]:
        if len(codes) + 4 > generator.units:
            continue

        def after(path, picture=picture, codes=codes):
            return laws_of(generator, drafter.network, picture.caption, codes, path, config)

        level, every = [((), 1.0)], {}
        for _ in range(3):
            found = {}
            for path, chance in level:
                best = after(path).topk(4)
                for value, code in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                    found[(*path, code)] = chance * value
            every |= found
            level = sorted(found.items(), key=lambda item: -item[1])[:4]
        wanted = {path for path, _ in sorted(every.items(), key=lambda item: -item[1])[:6]}
        paths = {-1: ()}
        for node, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
            paths[node] = (*paths[parent], token)
        assert set(paths.values()) - {()} == wanted
    assert len(watched.drafts) > 6


# ---- the law of what comes out ------------------------------------------------------------------


def two_codes(units=3):
    """A target of three codes with laws in double precision."""
    size = LlamaSize(width=16, depth=1, heads=2, feed_forward=16, positions=32)
    tokenizer = train_text_tokenizer(["a red 3"])
    return decided(RasterGenerator.from_scratch(tokenizer, 3, (1, units), size, seed=1))


@pytest.mark.parametrize(("guidance", "residual"), [(1.0, "paper"), (2.0, "static")])
def test_static_trees_keep_the_law(guidance, residual):
    """Every decision both ways, through the loop, of a real network and a real target: `Strict`,
    and `Relaxed` with nothing to lend, draw the target's law; so does `Relaxed` by the released
    code's residual."""
    generator = two_codes()
    config = SamplingConfig(guidance=guidance)
    drafter = StaticFeatureDrafter(
        predictor(generator, depth=1), CodeTables(generator), TreeShape((-1, -1, 0, 0))
    )
    neighbours = nearest(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), 2)
    for rule in (Strict(), Relaxed(neighbours, 0.0, residual=residual)):

        def run(tape, rule=rule):
            sampler = SpeculativeSampler(config, drafter, rule, tape=lambda *_: tape)
            return tuple(sampler(generator, ["a red 3"], [0])[0].tolist())

        found = enumerated(run)
        assert len(found) == 27
        for codes, chance in found.items():
            assert chance == pytest.approx(probability(generator, codes, config), rel=2e-4)


@torch.inference_mode()
def probability(generator, codes, config):
    """Of a picture, by reading it code by code."""
    captions = ["a red 3", None] if config.guided else ["a red 3"]
    logits, cache = generator.prefill([generator.prompt_ids(c) for c in captions])
    found, guidance = 1.0, UnitGuidance(config, generator.units)
    for unit, code in enumerate(codes):
        found *= float(law(guidance(logits, torch.tensor([unit])), config)[0, code])
        if unit + 1 < len(codes):
            logits = generator.step(torch.tensor([code] * len(captions)), cache)
    return found


def test_a_drafter_that_is_the_target_is_always_right(generator):
    """q = p: without lending everything stays."""

    class Told(StaticFeatureDrafter):
        """Its laws are the target's, of the very codes."""

        def laws(self, features, unit):
            return self.law[unit]

    config = SamplingConfig(guidance=1.0)
    flat = torch.ones(generator.units + 1, 16).softmax(dim=-1)
    drafter = Told(predictor(generator), CodeTables(generator), TreeShape.chain(4))
    drafter.law = flat

    class Flat:
        """The target, indifferent."""

        def __getattr__(self, name):
            return getattr(generator, name)

        def step_tree(self, codes, trees, cache):
            logits, states = generator.step_tree(codes, trees, cache)
            return torch.zeros_like(logits), states

    for rule in (Strict(), Relaxed(nearest(torch.randn(16, 2), 4), 0.0)):
        sampler = SpeculativeSampler(config, drafter, rule, Budget(4, 4))
        sampler(Flat(), CAPTIONS, SEEDS)
        assert sampler.statistics.accepted == sampler.statistics.drafted


# ---- greedy, relaxed ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["greedy", "greedy, guided"])
def test_relaxed_greedy(generator, name):
    """Without neighbours the arg-max; with all of them, and nothing to bound them, every guess."""
    config = CONFIGS[name]
    plain = AncestralSampler(config)(generator, CAPTIONS, SEEDS)
    vectors = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
    for drafter in drafters(generator).values():
        alone = RelaxedGreedy(nearest(vectors, 0))
        sampler = SpeculativeSampler(config, drafter, alone, Budget(7, 3))
        assert torch.equal(sampler(generator, CAPTIONS, SEEDS), plain)
        strict = SpeculativeSampler(config, drafter, Strict(), Budget(7, 3))
        strict(generator, CAPTIONS, SEEDS)
        assert sampler.statistics == strict.statistics
        every = RelaxedGreedy(nearest(vectors, 15), 1.0)
        sampler = SpeculativeSampler(config, drafter, every, Budget(7, 3))
        sampler(generator, CAPTIONS, SEEDS)
        deepest = sampler.statistics.accepted
        assert sampler.statistics.units_per_pass > strict.statistics.units_per_pass
        assert deepest == sampler.statistics.drawn - sampler.statistics.passes


def test_relaxed_greedy_lends_to_the_guess_alone():
    p = torch.tensor([0.34, 0.3, 0.21, 0.15])
    neighbours = torch.tensor([[1, 2, 3], [2, 3, 0], [3, 1, 0], [2, 1, 0]])

    def decided(delta, guesses, most=3):
        return RelaxedGreedy(neighbours[:, :most], delta).decide(p, None, guesses, None, 0)

    assert decided(0.2, [3]) == (-1, 0)
    assert decided(0.25, [3, 1]) == (0, 3)  # 0.15 and 0.21 are more than 0.34
    assert decided(0.25, [2], most=1) == (0, 2)
    assert decided(0.1, [3, 2, 1]) == (-1, 0)
    assert decided(0.0, [3, 2, 0]) == (2, 0)
    # 3 kept what it lent to 2: only the guess is lifted
    assert decided(0.16, [2]) == (0, 2)


# ---- training -----------------------------------------------------------------------------------


def store_of(generator, count=24, seed=0):
    """A few pictures that can be learnt by heart."""
    numbers = torch.Generator().manual_seed(seed)
    codes = torch.randint(16, (count, 3, 3), generator=numbers)
    texts = [generator.caption_ids(f"a red {n % 4}") for n in range(count)]
    return MemoryStore(texts, codes)


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_what_training_reads(generator, layout):
    """Codes and features of every picture, in its order, are those of drawing it."""
    store = store_of(generator, 6)
    config = BatchConfig(size=5, drop_caption=0.0, layout=layout, packed_length=64)
    batch = generator.batches(store, config).batch(0)
    told = picture_features(generator, batch)
    assert told.real.all()
    assert told.codes.shape == (batch.samples, 9)
    every = {
        tuple(codes.flatten().tolist()): text
        for codes, text in zip(
            store.rows(range(6)).codes, store.rows(range(6)).text_ids, strict=True
        )
    }
    for codes, features in zip(told.codes, told.features, strict=True):
        text = every[tuple(codes.tolist())]
        prompt = generator.config.vocabulary.prompt(text)
        with torch.inference_mode():
            _, cache = generator.prefill([prompt])
            chain = Trees.of([range(-1, 7)])
            _, states = generator.step_tree(codes[None, :-1], chain, cache)
        wanted = torch.cat((cache.state, states[0]))
        torch.testing.assert_close(features, wanted, rtol=0, atol=2e-4)


def test_training_teaches(tmp_path):
    """On pictures that the target knows by heart both losses fall, more guesses stay, and the
    trained network is what is saved; the target does not change."""
    generator = generators["raster"].tiny()
    store = store_of(generator)
    settings = TrainConfig(150, 5e-3, schedule="linear", precision="fp32")
    batches = generator.batches(store, BatchConfig(size=24, drop_caption=0.0, multiple=1))
    train(generator, [NextToken()], batches, settings, tmp_path / "target")
    before = generator.fingerprint()
    student = FeatureStudent.of(generator, heads=2, seed=3)
    tables, config = CodeTables(generator), SamplingConfig(guidance=1.0)

    def accepted():
        drafter = StaticFeatureDrafter(student.network, tables, TreeShape.chain(4))
        sampler = SpeculativeSampler(config, drafter, budget=Budget(4, 4))
        sampler(generator, ["a red 1", "a red 2"] * 8, range(16))
        return sampler.statistics.units_per_pass

    untrained = accepted()
    batches = student.batches(store, BatchConfig(size=24, drop_caption=0.0, multiple=1))
    report = train(student, feature_objectives(), batches, settings, tmp_path / "run")
    first, last = report.history[0], report.history[-1]
    assert last["features"] < 0.5 * first["features"]
    assert last["soft_cross_entropy"] < first["soft_cross_entropy"]
    assert accepted() > 1.3 * untrained
    assert generator.fingerprint() == before
    again = FeaturePredictor.from_pretrained(tmp_path / "run" / "model")
    assert again.fingerprint() == student.network.fingerprint()
    check_target(again, generator)
    saved = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert saved == {"config.json", "model.safetensors"}
    other = generators["raster"].seeded(generator.config, 4)
    with pytest.raises(ProvenanceError, match="arra draft"):
        check_target(again, other)


def test_training_goes_on_where_it_stopped(generator, tmp_path):
    """Noise and all: the same weights as without a stop."""
    store = store_of(generator)

    def run(folder, steps):
        student = FeatureStudent.of(generator, heads=2, seed=3)
        batches = student.batches(store, BatchConfig(size=8))
        config = TrainConfig(steps, 1e-3, precision="fp32", checkpoint_every=3)
        train(student, feature_objectives(), batches, config, tmp_path / folder)
        return student.network.fingerprint()

    run("stopped", 3)
    assert run("stopped", 6) == run("whole", 6)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_any_language_model_is_drafted(name, tmp_path):
    """Embeddings and head are the model's own, scaled and capped as it does."""
    tokenizer = word_tokenizer()
    saved = save_language_model(tmp_path / name, ARCHITECTURES[name](), tokenizer)
    lm = AutoModelForCausalLM.from_pretrained(saved)
    generator = RasterGenerator.from_language_model(lm, tokenizer, CODES, (3, 3)).eval()
    student = FeatureStudent.of(generator, heads=2)
    drafter = StaticFeatureDrafter(student.network, student.tables, TreeShape.likely(6, 3))
    config = SamplingConfig(guidance=1.5)
    plain = AncestralSampler(config)(generator, ["a red bar", None], [1, 2])
    sampler = SpeculativeSampler(config, drafter, Match(), Budget(6, 3))
    assert torch.equal(sampler(generator, ["a red bar", None], [1, 2]), plain)
    assert sampler.statistics.drafted > 0


def test_students_say_what_they_cannot_learn(generator):
    with pytest.raises(InputError, match="raster ones"):
        FeatureStudent.of(generators["masked"].tiny())
    with pytest.raises(InputError, match="heads: 5"):
        FeaturePredictorConfig(32, 9, heads=5)
    with pytest.raises(InputError, match="noise"):
        FeatureStudent(generator, predictor(generator), -1.0)
    drafter = drafters(generator)["chain"]
    stepper = TableStepper(lambda *_: torch.ones(16) / 16, 9)
    with pytest.raises(InputError, match="reads features"):
        SpeculativeSampler(SamplingConfig(guidance=1.0), drafter)(stepper, [None], [1])
