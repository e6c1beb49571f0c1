"""Speculative decoding: one pass over a tree, the cut of the cache, and the loop's output."""

from __future__ import annotations

import pytest
import torch

import arra.generators  # noqa: F401  (registers)
from arra.errors import InputError
from arra.generators.raster import RasterGenerator
from arra.orders.trees import Trees
from arra.registry import generators, samplers
from arra.samplers.ancestral import AncestralSampler
from arra.samplers.logits import SamplingConfig
from arra.samplers.speculative.drafts import Budget, Draft
from arra.samplers.speculative.models import ModelDrafter
from arra.samplers.speculative.ngrams import NgramConfig, NgramDrafter
from arra.samplers.speculative.rules import Match, Strict
from arra.samplers.speculative.sampler import SpeculativeSampler
from arra.samplers.speculative.tapes import PictureTape, enumerated
from arra.samplers.speculative.trigrams import Trigrams
from lm_kit import ARCHITECTURES, CODES, save_language_model, word_tokenizer
from speculative_kit import LawDrafter, RandomDrafter, TableStepper

CAPTIONS = ["a red 3", "a green 7 left of a blue 5", "a blue 5", None]
SEEDS = [11, 12, 13, 14]


def decided(generator):
    """The generator with laws that depend visibly on caption and history."""
    with torch.no_grad():
        for p in generator.parameters():
            p.mul_(6.0 if p.ndim == 2 else 1.0)
    return generator.eval()


@pytest.fixture(scope="module")
def generator():
    return decided(generators["raster"].tiny())


def language_generator(name, folder):
    tokenizer = word_tokenizer()
    saved = save_language_model(folder / name, ARCHITECTURES[name](), tokenizer)
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(saved)
    return RasterGenerator.from_language_model(lm, tokenizer, CODES, (3, 3)).eval()


# ---- one pass over a tree -----------------------------------------------------------------------


def path_to(node, parents):
    found = []
    while node >= 0:
        found.insert(0, node)
        node = parents[node]
    return found


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@torch.inference_mode()
def test_a_tree_is_all_of_its_paths(name, tmp_path):
    """Logits at every node are those of its path read alone; what is kept of the cache is what
    reading the kept path alone leaves, and goes on alike."""
    generator = language_generator(name, tmp_path)
    prompts = [generator.prompt_ids(text) for text in ("a red bar", None)]
    parents = [[-1, 0, 0, 1, 1, 2, 4], [-1, 0, 1, 0]]
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 0, 0, 0]])
    kept = [[0, 1, 4, 6], [0, 3]]

    _, cache = generator.prefill(prompts)
    logits, states = generator.step_tree(codes, Trees.of(parents), cache)
    torch.testing.assert_close(generator.code_logits(states[0]), logits[0])
    keep = torch.zeros_like(codes, dtype=torch.bool)
    for row, path in enumerate(kept):
        keep[row, path] = True
    cache.keep(keep)
    after = generator.step(torch.tensor([3, 5]), cache)

    for row, prompt in enumerate(prompts):
        for node in range(len(parents[row])):
            _, alone = generator.prefill([prompt])
            for step in path_to(node, parents[row]):
                found = generator.step(codes[row, step : step + 1], alone)
            torch.testing.assert_close(logits[row, node], found[0], rtol=0, atol=1e-4)
        _, alone = generator.prefill([prompt])
        for node in kept[row]:
            generator.step(codes[row, node : node + 1], alone)
        found = generator.step(torch.tensor([[3, 5][row]]), alone)
        torch.testing.assert_close(after[row], found[0], rtol=0, atol=1e-4)
        assert cache.visible[row].sum() == alone.visible[0].sum()
        mine = cache.visible[row]
        for layer, other in zip(cache.past.layers, alone.past.layers, strict=True):
            torch.testing.assert_close(layer.keys[row][:, mine], other.keys[0], rtol=0, atol=1e-4)
            torch.testing.assert_close(
                layer.values[row][:, mine], other.values[0], rtol=0, atol=1e-4
            )


# ---- the loop -----------------------------------------------------------------------------------

CONFIGS = {
    "greedy": SamplingConfig(guidance=1.0, temperature=0.0),
    "greedy, guided": SamplingConfig(guidance=3.0, temperature=0.0),
    "one": SamplingConfig(guidance=2.0, guidance_schedule="linear", top_k=1),
    "sampled": SamplingConfig(guidance=1.0, temperature=0.8, top_k=9),
    "sampled, guided in part": SamplingConfig(guidance=2.5, guidance_until=0.6, top_p=0.9),
}


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("batch", [4, 3, 1])
def test_pictures_are_those_of_ancestral_sampling(generator, name, batch):
    """Token for token, whatever is guessed: by one who mostly knows, by tri-grams, by nobody."""
    config = CONFIGS[name]
    plain = AncestralSampler(config)(generator, CAPTIONS, SEEDS)
    table = Trigrams.counted([plain.numpy()], generator.codes)
    drafters = {
        "knowing": RandomDrafter(generator.codes, plain.tolist()),
        "random": RandomDrafter(generator.codes),
        "search": NgramDrafter(table),
        "chain": NgramDrafter(table, NgramConfig(method="chain", step=0.0)),
        "nothing": NgramDrafter(),
    }
    passes = {}
    for drafter, made in drafters.items():
        if drafter == "knowing" and batch != 4:
            continue  # it knows its pictures by their number in the batch
        sampler = SpeculativeSampler(config, made, budget=Budget(8, 4))
        assert torch.equal(sampler(generator, CAPTIONS, SEEDS, batch=batch), plain), drafter
        counted = sampler.statistics
        assert counted.drawn == plain.numel()
        assert counted.drawn == counted.passes + counted.accepted
        passes[drafter] = counted.passes
    assert passes["search"] < passes["random"]
    assert passes["chain"] < passes["nothing"]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_small_model_drafts(generator, name):
    """Of pictures in batches: at temperature 0, and with `Match`, those of ancestral sampling; with
    `Strict` those of each picture alone. The target itself is right about everything."""
    config, other = CONFIGS[name], decided(generators["raster"].seeded(generator.config, 4))
    other.tokenizer = generator.tokenizer
    plain = AncestralSampler(config)(generator, CAPTIONS, SEEDS)

    def sampler(stepper, rule=None):
        return SpeculativeSampler(config, ModelDrafter(stepper), rule, Budget(3, 3))

    assert torch.equal(sampler(other, Match())(generator, CAPTIONS, SEEDS, batch=3), plain)
    together = sampler(other)(generator, CAPTIONS, SEEDS, batch=3)
    alone = [sampler(other)(generator, [c], [s]) for c, s in zip(CAPTIONS, SEEDS, strict=True)]
    assert torch.equal(together, torch.cat(alone))
    if config.temperature == 0.0 or config.top_k == 1:
        assert torch.equal(together, plain)
    same = sampler(generator)
    same(generator, CAPTIONS, SEEDS)
    assert same.statistics.accepted == same.statistics.drafted
    assert same.statistics.batches == 3  # 1 + 4 + 4 units


def test_strict_is_greedy_where_the_law_is_certain(generator):
    config = CONFIGS["greedy, guided"]
    plain = AncestralSampler(config)(generator, CAPTIONS, SEEDS)
    drafter = RandomDrafter(generator.codes, plain.tolist())
    assert torch.equal(
        SpeculativeSampler(config, drafter, Strict())(generator, CAPTIONS, SEEDS), plain
    )


def test_what_nobody_guesses_takes_a_pass_each(generator):
    sampler = SpeculativeSampler(CONFIGS["greedy"], NgramDrafter(), budget=Budget(0, 0))
    sampler(generator, CAPTIONS, SEEDS)
    assert sampler.statistics.units_per_pass == 1.0
    assert sampler.statistics.passes == 4 * generator.units
    assert sampler.statistics.batches == generator.units


def test_who_knows_all_needs_one_more_pass(generator):
    """A chain of all units: one pass for the first, one for the others."""
    config = CONFIGS["greedy"]
    plain = AncestralSampler(config)(generator, CAPTIONS, SEEDS).tolist()

    class Oracle(RandomDrafter):
        def _draft(self, picture, budget):
            rest = plain[picture.state][len(picture.codes) :][: budget.depth]
            return Draft(rest, range(-1, len(rest) - 1))

    sampler = SpeculativeSampler(config, Oracle(16))
    assert sampler(generator, CAPTIONS, SEEDS).tolist() == plain
    assert sampler.statistics.batches == 2


def test_given_first_units(generator):
    """Rows with beginnings of several lengths go on as ancestral sampling does."""
    config = CONFIGS["sampled, guided in part"]
    free = AncestralSampler(config)(generator, CAPTIONS, SEEDS)
    prefix = (free[:, :5] + 1) % 16
    prefix[1, 2:] = -1
    prefix[2] = -1
    plain = AncestralSampler(config)(generator, CAPTIONS, SEEDS, prefix=prefix)
    drafter = RandomDrafter(generator.codes, plain.tolist())
    sampler = SpeculativeSampler(config, drafter)
    assert torch.equal(sampler(generator, CAPTIONS, SEEDS, prefix=prefix), plain)
    assert sampler.statistics.drawn == plain.numel() - 12
    assert torch.equal(sampler(generator, CAPTIONS, SEEDS, prefix=plain), plain)
    with pytest.raises(InputError, match="row 1 goes on behind a gap"):
        sampler(generator, CAPTIONS[:2], SEEDS[:2], prefix=torch.tensor([[1, 2], [-1, 2]]))
    with pytest.raises(InputError, match="prefix: 10"):
        sampler(generator, [None], [1], prefix=torch.zeros(1, 10, dtype=torch.int64))


def test_progress_counts_units_that_all_pictures_have(generator):
    heard = []
    sampler = SpeculativeSampler(CONFIGS["sampled"])
    sampler(generator, CAPTIONS, SEEDS, batch=3, on_unit=heard.append)
    assert heard == [3] * generator.units + [1] * generator.units


# ---- the law of what comes out ------------------------------------------------------------------


def law_of(seed, size):
    """A law of the history, the same each time."""
    known = {}

    def law(history):
        if history not in known:
            text = hash((seed, history)) % 2**32
            numbers = torch.Generator().manual_seed(text)
            logits = 1.5 * torch.randn(size, generator=numbers, dtype=torch.float64)
            known[history] = logits.softmax(dim=-1).float().double()
        return known[history]

    return law


@pytest.mark.parametrize("rule", [Match(), Strict()], ids=["match", "strict"])
@pytest.mark.parametrize(
    ("size", "units", "siblings", "depth"), [(2, 4, 1, 2), (3, 3, 1, 2), (2, 3, 2, 2)]
)
def test_the_loop_keeps_the_law(rule, size, units, siblings, depth):
    """Every decision of the sampler both ways: the exact law of whole pictures is the target's."""
    target, draft = law_of(0, size), law_of(1, size)

    def run(tape):
        stepper = TableStepper(lambda _, history: target(history), units)
        sampler = SpeculativeSampler(
            SamplingConfig(guidance=1.0),
            LawDrafter(draft, siblings, depth),
            rule,
            tape=lambda *_: tape,
        )
        return tuple(sampler(stepper, [None], [0])[0].tolist())

    found = enumerated(run)
    assert len(found) == size**units
    for codes, chance in found.items():
        wanted = 1.0
        for unit, code in enumerate(codes):
            wanted *= float(target(codes[:unit])[code])
        # laws pass through float32 logits on their way
        assert chance == pytest.approx(wanted, rel=1e-5)


def test_seeds_draw_by_the_law():
    """The same with real noise: a chi-squared test over many seeds of sampled, guided chains."""
    target, draft, count = law_of(2, 3), law_of(3, 3), 1000
    stepper = TableStepper(lambda _, history: target(history), 2)
    sampler = SpeculativeSampler(SamplingConfig(guidance=1.0), LawDrafter(draft, 2, 1))
    codes = sampler(stepper, [None] * count, list(range(count)), batch=count)
    seen = torch.bincount(codes[:, 0] * 3 + codes[:, 1], minlength=9).double()
    wanted = torch.stack([target(())[a] * target((a,)) for a in range(3)]).flatten() * count
    assert float(((seen - wanted) ** 2 / wanted).sum()) < 26.1  # 0.1 % point at 8 degrees


def test_nothing_is_drawn_behind_the_end():
    """A code that ends a picture ends it, also in the middle of a draft that would go on."""
    target = law_of(5, 3)

    def law(caption, history):
        # a number: words have another hash in every process
        return target((int(caption.split()[1]), *history)).roll(len(history))

    captions = [f"text {n}" for n in range(40)]
    seeds = list(range(40))
    config = SamplingConfig(guidance=1.0)
    plain = AncestralSampler(config)(TableStepper(law, 7, end=2), captions, seeds)
    assert (plain[:, -1] == 2).any()
    assert (plain[:, -1] != 2).any()
    for batch in (40, 7):
        sampler = SpeculativeSampler(config, RandomDrafter(3))
        assert torch.equal(
            sampler(TableStepper(law, 7, end=2), captions, seeds, batch=batch), plain
        )
        ended = plain == 2
        first = (ended.cumsum(dim=1) == 1) & ended
        assert sampler.statistics.drawn == int((~ended | first).sum())


def test_a_tape_leaves_the_noise_of_units_alone():
    """What is tested and guessed in between changes no unit's noise; units may be passed over."""
    law = torch.full((8,), 1 / 8)
    device = torch.device("cpu")
    one, other = (PictureTape(5, 6, 8, device) for _ in range(2))
    drawn = [one.choose(law, unit) for unit in range(6)]
    other.guess(law)
    assert other.choose(law, 1) == drawn[1]
    other.accept(0.5)
    other.guess(law)
    assert [other.choose(law, unit) for unit in (3, 5)] == [drawn[3], drawn[5]]


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (Draft([1, 2], [-1, 1]), "parent of node 1"),
        (Draft([1, 1], [-1, -1]), "alike"),
        (Draft([1, 2, 3], [-1, 0, 1]), "3 nodes of depth 3"),
    ],
)
def test_drafts_are_checked(draft, message):
    with pytest.raises(InputError, match=message):
        draft.check(Budget(3, 2))


def test_generators_say_why_nothing_can_be_drafted():
    reasons = {name: generators[name].tiny().undraftable(8) for name in generators}
    drafted = {name for name, reason in reasons.items() if not reason}
    assert drafted == {"raster", "grid"}
    for name in drafted:
        assert hasattr(generators[name].tiny().tree_stepper(), "step_tree")


@torch.inference_mode()
def test_a_grid_is_drafted_as_it_is_drawn():
    """Pictures of `ScaleSampler`, code for code, whatever is guessed; and a smaller one drafts."""
    generator = generators["grid"].tiny().eval()
    for p in generator.parameters():
        p.mul_(4.0 if p.ndim == 2 else 1.0)
    captions, seeds = ["a red 3", "a blue 5", None, "a green 7 left of a blue 5"], [1, 2, 3, 4]
    for config in CONFIGS.values():
        plain = samplers["scales"](config)(generator, captions, seeds).flatten(1)
        for batch in (4, 3):
            drafter = RandomDrafter(generator.codes, plain.tolist())
            sampler = SpeculativeSampler(config, drafter)
            found = sampler(generator.tree_stepper(), captions, seeds, batch=batch)
            assert torch.equal(found, plain)
            assert batch == 3 or sampler.statistics.accepted > 0
    alone = SpeculativeSampler(
        SamplingConfig(temperature=0.0), ModelDrafter(generator.tree_stepper())
    )
    alone(generator.tree_stepper(), captions, seeds)
    assert alone.statistics.accepted == alone.statistics.drafted > 0
