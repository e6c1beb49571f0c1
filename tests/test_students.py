"""Students: the map that they stand for, what of it depends on what, and `arra distill`."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import arra.generators
import arra.samplers  # noqa: F401  (registers)
from arra import cli
from arra.codecs import VQCodec
from arra.codecs.multiscale import MultiScaleCodec
from arra.data.subset import Subset
from arra.errors import InputError, ProvenanceError
from arra.generators.grid import GridConfig, GridGenerator
from arra.generators.students import StudentOptions, student_of
from arra.jobs import pairs as pairs_module
from arra.jobs.pairs import PairOptions, Pairs, make_pairs
from arra.labels import read_png
from arra.objectives.laws import own_objectives
from arra.registry import generators
from arra.samplers.flow import FlowSampler, NoiseSampler, TokenFlow, picture_noise
from arra.samplers.helped import Help, HelpedSampler
from arra.serving.requests import Request
from arra.serving.service import Service, ServiceConfig, Workshop
from arra.settings import AdapterConfig, BatchConfig, GridOptions, SamplingConfig
from arra.text_to_image import TextToImage

NAMES = [name for name in list(generators) if generators[name].taught]
CAPTIONS = ("a red 3", "a green 7 left of a blue 5", "a blue 5")
SEEDS = (1, 2, 3)
CODECS = {
    "grid-student": VQCodec,
    "raster-student": VQCodec,
    "scales-student": MultiScaleCodec,
}


@pytest.fixture(params=NAMES)
def student(request):
    """One whose predictions depend on everything."""
    made = generators[request.param].tiny().eval()
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(5.0 if p.ndim == 2 else 1.0)
    return made


def noise_of(student, seeds=SEEDS):
    return picture_noise(seeds, student.positions, student.config.dimensions)


class PairStore:
    """Captions, noise, and whatever codes."""

    def __init__(self, student, codes=None):
        self.texts = [student.tokenizer.encode(c, add_special_tokens=False) for c in CAPTIONS]
        random = torch.Generator().manual_seed(0)
        shape = (len(CAPTIONS), *student.codes_shape)
        made = torch.randint(student.codes, shape, generator=random)
        self.codes = made if codes is None else codes.view(shape)
        self.noise = noise_of(student)

    def __len__(self):
        return len(self.texts)

    def text_lengths(self, indices):
        return np.array([len(self.texts[i]) for i in indices])

    def rows(self, indices, features=None):
        chosen = list(indices)
        return SimpleNamespace(
            text_ids=[self.texts[i] for i in chosen],
            codes=self.codes[chosen],
            features={"noise": self.noise[chosen]},
        )


def batches(student, codes=None):
    return student.batches(PairStore(student, codes), BatchConfig(3, drop_caption=0.0))


def begun(student, rows=slice(None), noise=None):
    """A cache of the pictures of these rows."""
    made = (noise_of(student) if noise is None else noise)[rows]
    prompts = [student.prompt_ids(caption) for caption in CAPTIONS[rows]]
    return student.begin(prompts, lambda *_: made)


def test_a_student_begins_with_its_teachers_weights(student):
    teacher = student.teacher.tiny()
    vectors = torch.randn(teacher.codes, 4, generator=torch.Generator().manual_seed(0))
    made = student_of(teacher, vectors, SamplingConfig(), seed=0)
    theirs = teacher.state_dict()
    for name, values in made.body.state_dict().items():
        assert torch.equal(values, theirs[name])
    assert torch.equal(made.vectors, vectors)
    assert made.known[0] == 0
    assert made.units == 1


def test_training_reads_what_drawing_reads(student):
    """Of codes that it drew itself a student predicts each in training, from whatever is known."""
    with torch.no_grad():
        codes = NoiseSampler()(student.paced(steps=1), CAPTIONS, SEEDS)
        (batch,) = batches(student, codes).in_order()
        output = student(batch, layers=(1,))
        assert output.hidden[1].shape == (*batch.tokens.shape, student.width)
        assert torch.equal(output.logits.argmax(-1), output.targets)
        assert output.targets.view(3, -1).tolist() == codes.tolist()
        cache = begun(student)
        cache.codes = codes
        known = student.known[-1]
        later = batches(student, codes)._from(batch, np.full(3, known))
        expected = student.said(cache, known)[:, known:].flatten(0, 1)
        torch.testing.assert_close(student(later).logits, expected, rtol=1e-4, atol=1e-4)
        apart = student(later).losses
        assert apart.shape == (3 * (student.positions - known),)


def test_batches_know_as_much_as_a_start_says(student):
    made, seen = batches(student), set()
    for step in range(12):
        batch = made.batch(step)
        known = (batch.read >= 0).sum(dim=1)
        seen |= set(known.tolist())
        predicted = (batch.target >= 0).sum(dim=1)
        assert torch.equal(predicted + known, torch.full((3,), student.positions))
        assert torch.equal(batch.image, batch.target >= 0)
        assert torch.equal(batch.place >= 0, batch.image)
    assert seen == set(student.known)
    with pytest.raises(InputError, match="drop_caption"):
        student.batches(PairStore(student), BatchConfig(3)).batch(0)


def test_every_parameter_learns(student):
    made = batches(student)
    for step in range(2):
        batch = made._from(made.batch(step), np.full(3, student.known[step]))
        output = student.train()(batch)
        sum(objective(output, batch) for objective in own_objectives(student)).backward()
    assert [name for name, p in student.named_parameters() if p.grad is None] == []


def test_company_and_padding_change_nothing(student):
    with torch.no_grad():
        together = student.said(begun(student), 0)
        for row in range(3):
            alone = student.said(begun(student, slice(row, row + 1)), 0)
            torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-4)


def test_a_code_hears_of_what_its_teacher_drew_before_it_and_of_its_own_noise(student):
    length, levels = student.positions, getattr(student.body, "level", None)
    with torch.no_grad():
        before = student.said(begun(student), 0)
        for changed in (1, length // 2, length - 1):
            noise = noise_of(student)
            noise[:, changed] += 1.0
            after = student.said(begun(student, noise=noise), 0)
            moved = (after - before).abs().amax(dim=(0, 2)) > 1e-6
            later = torch.arange(length) >= changed
            if levels is not None:
                later = (levels > levels[changed]) | (torch.arange(length) == changed)
            assert torch.equal(moved, later)


def test_known_codes_are_kept_and_matter(student):
    with torch.no_grad():
        cache, codes = begun(student), batches(student).store.codes.flatten(1)
        cache.codes = codes
        student.go_on(cache, student.positions)
        assert torch.equal(student.drawn(cache), codes)  # all known: nothing is left to say
        known = student.known[-1]
        student.go_on(cache, known)
        assert torch.equal(cache.codes[:, :known], codes[:, :known])
        mine = student.said(cache, known)
        cache.codes = cache.codes.clone()
        cache.codes[:, 0] = (cache.codes[:, 0] + 1) % student.codes
        assert not torch.allclose(mine, student.said(cache, known))


def perfect(student, teacher, sampler, monkeypatch):
    """Put the teacher itself in the place of the student's network."""
    noise = noise_of(student)

    def predicted(prompts, x, known, layers=()):
        given = torch.cdist(x, student.vectors[None]).argmin(dim=-1)[:, : int(known[0].sum())]
        codes = sampler.follow(teacher, CAPTIONS, noise, given=given)
        return torch.nn.functional.one_hot(codes, student.codes).float(), x, {}

    monkeypatch.setattr(student, "_predicted", predicted)


def test_a_perfect_student_draws_what_its_teacher_draws(student, monkeypatch):
    """From any start, and one code after the other."""
    teacher = student.teacher.tiny().eval()
    sampler = FlowSampler(student.vectors, SamplingConfig(guidance=1.0), TokenFlow(25))
    truth = sampler.follow(teacher, CAPTIONS, noise_of(student))
    perfect(student, teacher, sampler, monkeypatch)
    for starts in ([0], student.known, student.bounds[:-1]):
        cache = begun(student)
        for known in starts:
            student.go_on(cache, known)
        assert torch.equal(student.drawn(cache), truth)


def test_a_perfect_student_with_help_draws_what_its_teacher_draws(student, monkeypatch):
    """Whichever units the teacher draws between its two steps; guidance is part of the law."""
    teacher, flow = student.teacher.tiny().eval(), TokenFlow(25)
    sampler = FlowSampler(student.vectors, student.sampling, flow)
    truth = sampler(teacher, CAPTIONS, SEEDS)
    perfect(student, teacher, sampler, monkeypatch)
    units = teacher.units
    for first, until in ((0, 1), (1, 2), (0, units), (1, units)):
        helped = HelpedSampler(Help(teacher, first, until, flow))
        assert torch.equal(helped(student, CAPTIONS, SEEDS, batch=3), truth)


def test_help_is_what_the_teacher_makes_of_what_its_student_began(student):
    """Before it stand the student's codes, after it what the student says of all of these."""
    teacher, flow, told = student.teacher.tiny().eval(), TokenFlow(25), []
    help = Help(teacher, 1, 2, flow)
    found = HelpedSampler(help)(student, CAPTIONS, SEEDS, on_unit=told.append)
    first, until = student.bounds[1], student.bounds[2]
    with torch.no_grad():
        cache = begun(student)
        student.go_on(cache, 0)
        begin = student.drawn(cache)[:, :first]
        sampler = FlowSampler(student.vectors, student.sampling, flow)
        codes = sampler.follow(teacher, CAPTIONS, noise_of(student), given=begin, units=2)
        student.take(cache, codes)
        student.go_on(cache, until)
    assert torch.equal(found[:, :first], begin)
    assert torch.equal(found[:, :until], codes)
    assert torch.equal(found, student.drawn(cache))
    one_by_one = HelpedSampler(help, student.sampling)(student, CAPTIONS, SEEDS, batch=1)
    assert torch.equal(one_by_one, found)
    assert told == [3] * student.units
    assert help.passes(teacher.units) == 4
    with pytest.raises(InputError, match=r"guidance 2\.0 and not 3"):
        HelpedSampler(help, SamplingConfig(guidance=3.0))(student, CAPTIONS, SEEDS)
    for wrong in ((1, 1), (-1, 2), (0, teacher.units + 1)):
        with pytest.raises(InputError, match="growing pair"):
            Help(teacher, *wrong)


def test_codes_may_be_read_from_vectors(student):
    with torch.no_grad():
        config = dataclasses.replace(student.config, split=1)
        other = type(student)(config, student.tokenizer)
        other.load_state_dict(student.state_dict())
        first, cache = student.bounds[1], begun(student)
        other.eval().go_on(cache, 0)
        logits, vectors, _ = student._read(begun(student), student._given(cache, 0))
        nearest = torch.cdist(vectors, student.vectors[None]).argmin(dim=-1)
        assert torch.equal(cache.codes[:, :first], logits.argmax(-1)[:, :first])
        assert torch.equal(cache.codes[:, first:], nearest[:, first:])


def test_a_student_draws_with_its_teachers_settings(student):
    assert torch.equal(
        NoiseSampler(student.sampling)(student, CAPTIONS, SEEDS),
        NoiseSampler()(student, CAPTIONS, SEEDS),
    )
    with pytest.raises(InputError, match=r"guidance 2\.0 and not 3"):
        NoiseSampler(SamplingConfig(guidance=3.0))(student, CAPTIONS, SEEDS)
    with pytest.raises(InputError, match="steps: 3"):
        student.paced(steps=3)


def test_a_student_does_not_remember_where_its_teacher_lay(tmp_path):
    """Of a language model: runs that read it from another folder are the same run."""
    made = []
    for name in ("here", "there"):
        generators["raster"].tiny().save_pretrained(tmp_path / name)
        teacher = generators["raster"].from_pretrained(tmp_path / name)
        made.append(student_of(teacher, torch.randn(16, 4), SamplingConfig(), seed=0).config)
    assert made[0] == made[1]


def test_who_can_have_no_student():
    vectors = torch.randn(16, 4)
    with pytest.raises(InputError, match="students of grid, raster, scales"):
        student_of(generators["masked"].tiny(), vectors, SamplingConfig(), seed=0)
    raster = generators["raster"].tiny()
    raster.adapt(AdapterConfig("lora"), base="", rows="mean", seed=0)
    with pytest.raises(InputError, match="merge it first"):
        student_of(raster, vectors, SamplingConfig(), seed=0)
    split = GridGenerator.seeded(GridConfig((2, 2), 4, 2, options=GridOptions("class")), 0)
    with pytest.raises(InputError, match="2 codes a cell"):
        student_of(split, vectors[:4], SamplingConfig(), seed=0)
    late = StudentOptions(starts=(0, 9))
    with pytest.raises(InputError, match="starts"):
        student_of(GridGenerator.tiny(), vectors, SamplingConfig(), late, seed=0)
    for wrong in (StudentOptions(starts=(1, 2)), StudentOptions(starts=(0, 2), steps=3)):
        with pytest.raises(InputError, match="StudentOptions"):
            student_of(GridGenerator.tiny(), vectors, SamplingConfig(), wrong, seed=0)


# ---- pairs and the command ---------------------------------------------------------------------


def checkpoint(name, folder):
    """A teacher with its codec, far from indifferent."""
    generator = generators[name].teacher.tiny()
    codec = CODECS[name].tiny()
    with torch.no_grad():
        for p in generator.parameters():
            p.mul_(5.0 if p.ndim == 2 else 1.0)
    generator.config = dataclasses.replace(generator.config, codec=codec.fingerprint())
    model = TextToImage(generator, codec)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_what_the_teacher_draws_whatever_interrupts_it(name, tmp_path, monkeypatch):
    model, sampling = checkpoint(name, tmp_path / "teacher"), SamplingConfig(guidance=1.5)
    options = PairOptions(count=10, seed=7, batch=3, flow_steps=20)

    def made(folder):
        given = (model, CAPTIONS, tmp_path / folder, options, sampling)
        return make_pairs(*given, shard_rows=4, quiet=True)

    whole, write, calls = made("whole"), pairs_module.write_shard, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(pairs_module, "write_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        made("parts")
    with pytest.raises(InputError, match="did not finish"):
        Pairs.open(tmp_path / "parts")
    parts = made("parts")
    assert len(calls) == 4  # the first shard was not made again
    assert parts.provenance.shards == whole.provenance.shards
    found = whole.rows(range(10))
    assert found.codes.shape == (10, *model.generator.codes_shape)
    sampler = FlowSampler(model.codec.code_vectors(), sampling, TokenFlow(20))
    expected = sampler(model.generator, [CAPTIONS[4 % 3]], [11])
    assert torch.equal(found.codes[4].flatten(), expected[0])
    assert whole.captions([4]) == [CAPTIONS[1]]
    subset = Subset(whole, [4, 2]).rows([0], ["noise"])
    assert torch.equal(subset.features["noise"], found.features["noise"][4:5])
    assert whole.rows([1], ()).features == {}


@pytest.mark.parametrize("name", NAMES)
def test_arra_distill_makes_a_checkpoint_like_any_other(name, tmp_path, capsys):
    checkpoint(name, tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("\n".join(CAPTIONS))

    def run(*arguments):
        return cli.run([str(argument) for argument in arguments])

    def distill(folder, steps, *more):
        return run(
            *("distill", tmp_path / "teacher", "--prompts", tmp_path / "prompts.txt"),
            *("--out", tmp_path / folder, "--pairs", 12, "--flow-steps", 10, "--samples", 2),
            *("--batch.size", 4, "--held-out-share", 0.25, "--schedule", "constant"),
            *("--starts", 0, 2, "--device", "cpu", "--precision", "fp32"),
            *("--steps", steps, *more),
        )

    assert distill("straight", 4, "--json") == 0
    told = json.loads(capsys.readouterr().out)["validation"]
    assert 0 <= told["teachers_codes_1"] <= 1
    assert 0 <= told["teachers_codes_2"] <= 1
    assert distill("parts", 2) == distill("parts", 4) == 0
    one, other = (TextToImage.from_pretrained(tmp_path / n, "cpu") for n in ("straight", "parts"))
    assert one.fingerprint() == other.fingerprint()
    assert type(one.generator) is generators[name]
    assert list((tmp_path / "straight" / "samples").glob("*.png"))
    capsys.readouterr()

    for steps in (1, 2):
        out = tmp_path / f"drawn-{steps}"
        asked = ("--steps", steps, "--count", 2, "--out", out)
        assert run("generate", tmp_path / "straight", "a red 3", *asked) == 0
        assert len(list(out.glob("a-red*.png"))) == 2
    wrong = run("generate", tmp_path / "parts", "a 3", "--guidance", 4, "--out", tmp_path / "no")
    assert wrong == 2
    assert "guidance 2.0 and not 4.0" in capsys.readouterr().err

    help = ("--teacher", tmp_path / "teacher", "--teacher-units")
    asked = ("generate", tmp_path / "straight", "a red 3", "--out", tmp_path / "helped", *help)
    assert run(*asked, 1, 2) == 0
    teacher = TextToImage.from_pretrained(tmp_path / "teacher", "cpu")
    helped = one.helped(teacher, 1, 2)
    (file,) = (tmp_path / "helped").glob("a-red*.png")
    assert np.array_equal(read_png(file), helped.draw(["a red 3"], [0])[0])
    assert run(*asked, 0, 2) == 3  # the folder holds pictures that were drawn otherwise
    assert run(*asked[:-1], "--overwrite") == 2
    assert run(*asked, 1, 2, "--steps", 1) == 2
    capsys.readouterr()
    assert run(*asked[:-3], *help, 0, 1) == 2
    assert "goes on from 2, " in capsys.readouterr().err
    with pytest.raises(InputError, match="no student"):
        teacher.helped(teacher, 1, 2)
    with pytest.raises(ProvenanceError, match="distilled from"):
        one.helped(one, 1, 2)

    service = Service(one, ServiceConfig(slots=4))
    workshop = Workshop([service]).start()
    (drawing,) = service.submit([Request("a red 3", 5, SamplingConfig())])
    assert workshop.stop(60)
    assert drawing.error is None
    assert np.array_equal(drawing.picture, one.draw(["a red 3"], [5])[0])
