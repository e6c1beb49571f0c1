"""The alignment objective: what it is, where its gradient goes, and what must not change it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from arra.errors import InputError
from arra.generators.base import Output
from arra.generators.batches import collate, sequence
from arra.generators.raster import RasterGenerator
from arra.networks.language_model import decoder_blocks
from arra.objectives.alignment import Alignment, AlignmentConfig, _Cosine, alignments
from arra.objectives.base import Objective
from arra.objectives.targets import AttentionPool, on_grid, spatially_normalised
from arra.randomness import seeded
from arra.registry import objectives
from arra.training.joint import Joint

FEATURES = 6


@pytest.fixture
def generator():
    return RasterGenerator.tiny()


def batch_of(generator, order=(0, 1, 2), layout="right"):
    captions = ["a red 3", "a green 7 left of a blue 5", ""]
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(16, (3, generator.units), generator=rng)
    features = {
        "cls": torch.randn(3, FEATURES, generator=rng),
        "mean": torch.randn(3, FEATURES, generator=rng),
        "patches": torch.randn(3, 9, FEATURES, generator=rng),
        "other/mean": torch.randn(3, FEATURES, generator=rng),
    }
    samples = []
    for i in order:
        text = generator.tokenizer.encode(captions[i], add_special_tokens=False)
        samples.append(sequence(text, codes[i].tolist(), generator.config.vocabulary, False))
    chosen = {name: x[list(order)] for name, x in features.items()}
    return collate(samples, chosen, generator.config.vocabulary.pad, layout, packed_length=48)


def alignment(generator, **settings):
    config = AlignmentConfig(**settings)
    width = FEATURES * (2 if config.target == "both" else 1)
    return Alignment(config, generator.width, width, generator.config.grid, seed=1)


EVERY = [
    {},
    {"positions": "rep"},
    {"positions": "last", "target": "mean"},
    {"target": "both", "layers": (1, 2)},
    {"target": "patch", "projector": "linear"},
    {"projector": "pool", "similarity": "mse"},
    {"positions": "read", "target": "patch", "spatial_norm": 0.6, "projector": "mlp3", "hidden": 5},
    {"encoder": "other", "target": "mean", "hidden": 3},
    {"target": "attention", "positions": "read"},
]


@pytest.mark.parametrize("settings", EVERY)
def test_against_a_loop(generator, settings):
    """The definition of the paper, sample by sample and position by position."""
    objective, batch = alignment(generator, **settings), batch_of(generator)
    config = objective.config
    output = generator(batch, objective.layers)

    def normalised(patches):
        if config.spatial_norm is None:
            return patches
        spread = ((patches - patches.mean(0)) ** 2).mean(0).sqrt() + 1e-6
        return (patches - config.spatial_norm * patches.mean(0)) / spread

    total = 0.0
    for layer in config.layers:
        for i in range(3):
            places = range(9)
            if config.positions == "rep":
                places = [0]
            if config.positions == "last":
                places = [8]
            one = 0.0
            for place in places:
                about = batch.read if config.positions == "read" else batch.place
                where = int((about[i] == place).nonzero())
                projected = objective.projectors[str(layer)].projector(
                    output.hidden[layer][i, where][None]
                )[0]
                target = {
                    "cls": lambda i=i: batch.features["cls"][i],
                    "mean": lambda i=i: batch.features[f"{config.encoder}/mean".lstrip("/")][i],
                    "both": lambda i=i: torch.cat(
                        (batch.features["cls"][i], batch.features["mean"][i])
                    ),
                    "patch": lambda i=i, p=place: normalised(batch.features["patches"][i])[p],
                    "attention": lambda i=i: batch.features["patches"][i].mean(dim=0),
                }[config.target]()
                if config.similarity == "cosine":
                    one += 1 - (projected @ target) / projected.norm() / target.norm()
                else:
                    one += ((projected - target) ** 2).mean()
            total += one / len(places)
    expected = total / 3 / len(config.layers)
    torch.testing.assert_close(objective(output, batch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", EVERY)
def test_the_cheap_way_is_the_plain_one(generator, settings):
    """Loss and every gradient equal those of masks and `F.cosine_similarity`, to rounding."""
    objective, batch = alignment(generator, **settings), batch_of(generator, (0, 1, 2), "packed")
    hidden = {layer: state.detach().requires_grad_() for layer, state in
              generator(batch, objective.layers).hidden.items()}  # fmt: skip
    output = Output(torch.empty(0), torch.empty(0), hidden)

    def plain():
        chosen, places = objective._positions(batch)
        sample = batch.segment[chosen]
        target, _ = objective._target(batch, sample, places[chosen])
        losses = []
        for layer in objective.layers:
            projected = objective.projectors[str(layer)].projector(hidden[layer][chosen])
            if objective.config.similarity == "cosine":
                losses.append(1 - F.cosine_similarity(projected, target, dim=-1))
            else:
                losses.append((projected - target).square().mean(dim=-1))
        return torch.stack([x[sample == i].mean() for x in losses for i in range(3)]).mean()

    inputs = [*hidden.values(), *objective.projectors.parameters()]
    expected, found = plain(), objective(output, batch)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    for one, other in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("similarity", ["cosine", "mse"])
def test_compiled_as_plain(generator, similarity):
    """`compile_blocks` changes neither loss nor gradients beyond rounding, nor the weights' names;
    also when another number of positions comes."""
    batches = [batch_of(generator, rows, "rows") for rows in ((0, 1, 2), (0, 1))]
    found = []
    for compiled in (False, True):
        objective = alignment(generator, similarity=similarity)
        names = list(objective.state_dict())
        if compiled:
            objective.compile_blocks()
        assert list(objective.state_dict()) == names
        for batch in batches:
            loss = objective(generator(batch, objective.layers), batch)
            found.append([loss, *torch.autograd.grad(loss, list(objective.parameters()))])
    for plain, other in zip(found[:2], found[2:], strict=True):
        for one, two in zip(plain, other, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


def test_cosine_has_the_right_gradient_also_at_nothing():
    rows = torch.randn(5, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    units = F.normalize(rows.flip(0) + 1, dim=-1)
    assert torch.autograd.gradcheck(_Cosine.apply, (rows.requires_grad_(), units))
    nothing = torch.zeros(1, 4, requires_grad=True)
    for way in (lambda x: _Cosine.apply(x, units[:1].float()),
                lambda x: F.cosine_similarity(x, units[:1].float(), dim=-1)):  # fmt: skip
        (gradient,) = torch.autograd.grad(way(nothing).sum(), nothing)
        assert torch.isfinite(gradient).all()
        assert way(nothing).item() == 0


@pytest.mark.parametrize("layer", [1, 2])
def test_gradient_goes_where_the_paper_says(generator, layer):
    """Blocks up to the layer and the projector; nothing above, and not the head."""
    objective = alignment(generator, layers=(layer,))
    batch = batch_of(generator)
    objective(generator(batch, objective.layers), batch).backward()
    blocks = decoder_blocks(generator.lm)
    for number, block in enumerate(blocks, start=1):
        norms = [0.0 if p.grad is None else float(p.grad.norm()) for p in block.parameters()]
        if number <= layer:
            assert min(norms) > 0
        else:
            assert max(norms) == 0
    assert generator.lm.lm_head.weight.grad is None
    assert generator.lm.model.norm.weight.grad is None
    assert generator.lm.model.embed_tokens.weight.grad.norm() > 0
    assert all(p.grad.norm() > 0 for p in objective.parameters())


def test_target_gets_no_gradient(generator):
    batch = batch_of(generator)
    features = {name: x.requires_grad_() for name, x in batch.features.items()}
    batch = dataclasses.replace(batch, features=features)
    objective = alignment(generator)
    objective(generator(batch, (1,)), batch).backward()
    assert batch.features["cls"].grad is None


def test_perfect_and_opposite_projections(generator):
    """A projector that outputs the target has loss 0, its negative 2."""
    batch = batch_of(generator)
    objective = Alignment(AlignmentConfig(projector="linear"), FEATURES, FEATURES)
    with torch.no_grad():
        objective.projectors["1"].projector.weight.copy_(torch.eye(FEATURES))
        objective.projectors["1"].projector.bias.zero_()
    states = batch.features["cls"][batch.segment.clamp(min=0)]
    for sign, expected in ((1.0, 0.0), (-1.0, 2.0)):
        output = Output(torch.empty(0), torch.empty(0), {1: sign * states})
        assert abs(objective(output, batch).item() - expected) < 1e-6


@pytest.mark.parametrize("layout", ["left", "packed"])
@pytest.mark.parametrize("settings", EVERY[:3])
def test_padding_packing_and_order_change_nothing(generator, layout, settings):
    objective = alignment(generator, **settings)
    values = []
    for order, how in (((0, 1, 2), "right"), ((0, 1, 2), layout), ((2, 0, 1), "right")):
        batch = batch_of(generator, order, how)
        values.append(objective(generator(batch, objective.layers), batch).item())
    assert max(values) - min(values) < 1e-6


def test_schedules():
    def at(schedule, step):
        config = AlignmentConfig(weight=2.0, schedule=schedule, until=10)
        return Alignment(config, 4, 4).weight(step)

    assert [at("constant", s) for s in (0, 5, 99)] == [2.0, 2.0, 2.0]
    assert [at("stop", s) for s in (0, 9, 10)] == [2.0, 2.0, 0.0]
    assert [at("anneal", s) for s in (0, 5, 10, 20)] == [2.0, 1.0, 0.0, 0.0]


def test_schedules_at_their_boundaries():
    """The last step that counts is the one before `until`, whatever the kind."""
    for until in (1, 2, 7):
        stop, anneal = (
            Alignment(AlignmentConfig(weight=3.0, schedule=kind, until=until), 4, 4)
            for kind in ("stop", "anneal")
        )
        assert stop.weight(until - 1) == 3.0
        assert anneal.weight(until - 1) == pytest.approx(3.0 / until)
        assert stop.weight(until) == anneal.weight(until) == anneal.weight(until + 1) == 0.0
        assert anneal.weight(0) == 3.0


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_states_are_matched_with_the_patch_that_they_have_not_seen(generator, layout):
    """hidden k is independent of codes >= k (GEAR's shift by one); the states that read are not."""
    batch = batch_of(generator, layout=layout)
    predicts, reads = (
        alignment(generator, positions=positions, target="patch")._positions(batch)[1]
        for positions in ("hybnext", "read")
    )
    generator = generator.eval()
    with torch.no_grad():
        before = generator(batch, (1, 2)).hidden
        for k in range(9):
            tokens = batch.tokens.clone()
            now = batch.tokens[reads == k] - generator.config.vocabulary.offset
            tokens[reads == k] = generator.config.vocabulary.offset + (now + 1) % 16
            after = generator(dataclasses.replace(batch, tokens=tokens), (1, 2)).hidden
            for layer in (1, 2):
                moved = (after[layer] != before[layer]).any(dim=-1)
                assert not moved[(predicts >= 0) & (predicts <= k)].any()
                assert moved[predicts > k].all()
                assert moved[reads == k].all()
    objective = alignment(generator, target="patch")
    chosen = predicts >= 0
    target, _ = objective._target(batch, batch.segment[chosen], predicts[chosen])
    for row, (sample, k) in enumerate(
        zip(batch.segment[chosen].tolist(), predicts[chosen].tolist(), strict=True)
    ):
        assert torch.equal(target[row], batch.features["patches"][sample, k])


def test_reading_positions_must_be_told(generator):
    batch = dataclasses.replace(batch_of(generator), read=None)
    objective = alignment(generator, positions="read")
    with pytest.raises(InputError, match="read"):
        objective(generator(batch, (1,)), batch)


def test_spatial_normalisation_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(2, 9, 4, dtype=torch.double, generator=generator) * 3 + 5
    found = spatially_normalised(patches, 0.6)
    for picture, expected in zip(found, patches, strict=True):
        for channel in range(4):
            values = expected[:, channel].tolist()
            mean = sum(values) / len(values)
            deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
            naive = [(v - 0.6 * mean) / (deviation + 1e-6) for v in values]
            assert picture[:, channel].tolist() == pytest.approx(naive, rel=1e-12)


def test_projectors_have_the_published_shapes():
    def shapes(**settings):
        projector = Alignment(AlignmentConfig(**settings), 8, 6).projectors["1"].projector
        return [tuple(p.shape) for p in projector.parameters() if p.ndim == 2], projector

    assert shapes()[0] == [(6, 8), (6, 6)]
    assert shapes(hidden=10)[0] == [(10, 8), (6, 10)]
    weights, three = shapes(projector="mlp3")
    assert weights == [(2048, 8), (2048, 2048), (6, 2048)]
    assert [type(part).__name__ for part in three] == ["Linear", "SiLU"] * 2 + ["Linear"]


def test_attention_is_trained_by_redrawing_alone(generator):
    """Alignment's gradient never reaches the queries, nor the redrawing's the generator."""
    objective, batch = alignment(generator, target="attention"), batch_of(generator)
    with torch.no_grad():
        objective.attention.queries.normal_(generator=torch.Generator().manual_seed(2))
    pool, states = objective.attention, generator(batch, (1,)).hidden[1]
    pooled, redrawing = pool(batch.features["patches"])
    wanted = torch.autograd.grad(redrawing, list(pool.parameters()), retain_graph=True)
    loss = objective(Output(torch.empty(0), torch.empty(0), {1: states}), batch)
    found = torch.autograd.grad(loss, list(pool.parameters()), retain_graph=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, 0.01 * other)
        assert one.norm() > 0
    # what is left is alignment with the pooled vectors as constants, value and gradient
    fixed = alignment(generator, target="cls")
    same = dataclasses.replace(batch, features={"cls": pooled.detach()})
    plain = fixed(Output(torch.empty(0), torch.empty(0), {1: states}), same)
    assert plain.item() == pytest.approx(loss.item(), abs=1e-6)
    mine, theirs = (torch.autograd.grad(x, states, retain_graph=True)[0] for x in (loss, plain))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-8)


def test_attention_keeps_what_the_pictures_show():
    """One patch of nine tells the pictures apart. Redrawing looks at it; a pool that alignment
    trains itself, here with states that know nothing, looks away: that target is degenerate."""
    rng = torch.Generator().manual_seed(0)
    common = torch.randn(1, 9, 8, generator=rng)

    def draw():
        patches = common + 0.5 * torch.randn(64, 9, 8, generator=rng)
        patches[:, 4] = 4.0 * torch.eye(8)[torch.randint(1, 8, (64,), generator=rng)]
        patches[:, 4, 0] = 6.0  # by which a query can find it
        return patches

    def trained(steps, loss_of):
        with seeded(0):
            pool, guess = AttentionPool(8, (3, 3)), torch.nn.Parameter(torch.randn(8))
        optimiser = torch.optim.Adam([*pool.parameters(), guess], lr=0.03)
        losses = []
        for _ in range(steps):
            optimiser.zero_grad()
            loss = loss_of(*pool(draw()), guess)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses, pool.attention(draw()).mean(dim=(0, 1))[4].item()

    with torch.no_grad():
        patches = draw()
        assert torch.allclose(AttentionPool(8, (3, 3))(patches)[0], patches.mean(1), atol=1e-5)
    losses, looked = trained(200, lambda pooled, redrawing, guess: redrawing)
    assert losses[-1] < losses[0] / 2
    assert looked > 1.5 / 9
    _, looked = trained(
        120, lambda pooled, redrawing, guess: 1 - F.cosine_similarity(guess[None], pooled).mean()
    )
    assert looked < 0.5 / 9


@pytest.mark.parametrize("settings", [*EVERY, {"positions": "read", "target": "patch"}])
def test_the_order_of_a_generator_does_not_matter(generator, settings):
    """All that is read of a generator is what a position is about: any order, any rows."""
    objective, batch = alignment(generator, **settings), batch_of(generator)
    states = generator(batch, objective.layers).hidden
    raster = objective(Output(torch.empty(0), torch.empty(0), states), batch)
    order = torch.randperm(batch.tokens.shape[1], generator=torch.Generator().manual_seed(3))

    def shuffled(tensor):  # positions in another order, and all samples in one row
        return tensor[:, order].flatten(0, 1)[None]

    names = ("tokens", "segment", "position", "target", "image", "place", "read")
    other = dataclasses.replace(batch, **{n: shuffled(getattr(batch, n)) for n in names})
    moved = {layer: shuffled(state) for layer, state in states.items()}
    found = objective(Output(torch.empty(0), torch.empty(0), moved), other)
    torch.testing.assert_close(found, raster, rtol=1e-6, atol=1e-6)


def test_codes_without_a_place_have_the_global_target(generator):
    """A tokenizer without a grid: places are -1, and only global targets have a meaning."""
    batch = batch_of(generator)
    objective, output = alignment(generator), generator(batch, (1,))
    bare = dataclasses.replace(batch, place=torch.full_like(batch.place, -1))
    assert objective(output, bare).item() == objective(output, batch).item()


def test_terms_add_up_and_keep_their_names(generator):
    """Global and patch targets, and two encoders, are one mechanism: objectives side by side."""
    batch = batch_of(generator)
    shapes = {name: tuple(x.shape[1:]) for name, x in batch.features.items()}
    terms = (
        AlignmentConfig(layers=(2,)),
        AlignmentConfig(target="mean", weight=0.0),
        AlignmentConfig(target="patch", weight=0.5),
        AlignmentConfig(encoder="other", target="mean", weight=0.25),
    )
    found = alignments(terms, shapes, generator.width, generator.config.grid, seed=0)
    assert [one.name for one in found] == ["alignment", "alignment_3", "alignment_4"]
    joint = Joint(generator, found)
    total, parts = joint(batch, joint.weights(0))
    assert total.item() == pytest.approx(
        (parts[0] + 0.5 * parts[1] + 0.25 * parts[2]).item(), abs=1e-6
    )
    with pytest.raises(InputError, match="'absent/cls', the store has cls, mean"):
        alignments([AlignmentConfig(encoder="absent")], shapes, 4, (3, 3), seed=0)


def test_patch_features_are_resampled_to_the_grid():
    rows = torch.arange(4.0)[:, None].expand(4, 4)
    patches = rows.reshape(1, 16, 1)
    fitted = on_grid(patches, (2, 2))
    assert fitted.shape == (1, 4, 1)
    assert fitted[0, 0] == fitted[0, 1] < fitted[0, 2] == fitted[0, 3]
    with pytest.raises(InputError, match="square"):
        on_grid(patches[:, :15], (2, 2))


def test_errors_name_the_field(generator):
    batch = dataclasses.replace(batch_of(generator), features={})
    objective = alignment(generator, target="both")
    with pytest.raises(InputError, match="'cls'"):
        objective(generator(batch, (1,)), batch)
    wrong = Alignment(AlignmentConfig(), generator.width, FEATURES + 1)
    batch = batch_of(generator)
    with pytest.raises(InputError, match=f"{FEATURES + 1} channels"):
        wrong(generator(batch, (1,)), batch)
    for settings, name in (
        ({"layers": (0,)}, "layers"),
        ({"weight": -1.0}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"schedule": "stop"}, "until"),
        ({"target": "pooled"}, "target: 'pooled', expected one of cls"),
        ({"spatial_norm": 0.6}, "spatial_norm"),
        ({"target": "patch", "spatial_norm": 2.0}, "spatial_norm"),
        ({"projector": "linear", "hidden": 8}, "hidden"),
    ):
        with pytest.raises(InputError, match=name):
            AlignmentConfig(**settings)


@pytest.mark.parametrize("name", list(objectives))
def test_contract_of_every_objective(generator, name):
    """Named, finite, deterministic, and with a gradient for each of its own parameters."""
    cls = objectives[name]
    batch = batch_of(generator)
    objective = cls.tiny(generator.width, FEATURES)
    assert isinstance(objective, Objective)
    assert objective.name
    output = generator(batch, objective.layers)
    if name == "vectors":  # of generators without logits: any losses do
        with pytest.raises(InputError, match="no vectors"):
            objective(output, batch)
        output = dataclasses.replace(output, losses=output.logits[:, 0])
    value = objective(output, batch)
    assert value.shape == ()
    assert torch.isfinite(value)
    assert value.item() == objective(output, batch).item()
    value.backward()
    assert all(p.grad is not None for p in objective.parameters())
    assert objective.weight(0) >= 0


def test_feature_of_the_mean_is_what_it_says(generator):
    """`both` is CLS and mean side by side, which a pooled target must match channel by channel."""
    batch = batch_of(generator)
    objective = alignment(generator, target="both")
    chosen = batch.image
    target, _ = objective._target(batch, batch.segment[chosen], batch.place[chosen])
    assert torch.equal(target[0, :FEATURES], batch.features["cls"][0])
    assert torch.equal(target[0, FEATURES:], batch.features["mean"][0])
    assert F.cosine_similarity(target[:1], target[:1]).item() == pytest.approx(1.0)
