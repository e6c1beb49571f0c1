"""Language models of many kinds learn to draw, and are plain language models again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from arra.codecs import VQCodec
from arra.codecs.native import native_codec
from arra.data.prepare import prepare_arrays
from arra.errors import InputError, ProvenanceError
from arra.files import read_json
from arra.generators.batches import RasterBatches, collate, sequence
from arra.generators.raster import RasterGenerator
from arra.generators.vocabulary import add_image_tokens
from arra.jobs.exporting import export
from arra.jobs.model import StartingPoint, build_generator, check_window
from arra.jobs.parts import load_codec
from arra.jobs.training import Training, run_training
from arra.networks.language_model import (
    auto_class,
    embedding_table,
    llama_config,
    load_causal_lm,
)
from arra.objectives.alignment import Alignment
from arra.settings import AlignmentConfig, BatchConfig, LlamaSize, SamplingConfig
from arra.text_to_image import TextToImage
from arra.training.config import TrainConfig
from lm_kit import (
    ARCHITECTURES,
    CAPTIONS,
    NATIVE_TOKENS,
    TEXT_SIZE,
    native_config,
    pictures,
    save_language_model,
    save_native,
    word_tokenizer,
)
from store_parts import PatchEncoder

STEPS = TrainConfig(steps=2, learning_rate=0.01, precision="fp32", log_every=1)


@pytest.fixture(scope="module", autouse=True)
def _on_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "1")
        yield


def make_store(folder: Path, codec, tokenizer):
    captions = [CAPTIONS[i % 3] for i in range(12)]
    encoder = PatchEncoder(PatchEncoder.Config())
    return prepare_arrays(
        pictures(), captions, folder, codec=codec, tokenizer=tokenizer, encoder=encoder, quiet=True
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A store whose captions the models' common tokenizer has read; models are saved beside it."""
    root = tmp_path_factory.mktemp("lm")
    store = make_store(root / "store", VQCodec.tiny(), word_tokenizer())
    (root / "text.txt").write_text(
        "the cat sat on the mat .\n\nuser said hello and the model sat .\n"
    )
    return SimpleNamespace(root=root, store=store, text=root / "text.txt")


def language_model(work, name: str) -> Path:
    folder = work.root / name
    if not folder.is_dir():
        save_language_model(folder, ARCHITECTURES[name](), word_tokenizer())
    return folder


def job(store, out: Path, lm: Path, **changes) -> Training:
    given = Training(
        store=store.folder,
        out=out,
        start=StartingPoint(str(lm)),
        batch=BatchConfig(size=4),
        training=STEPS,
        held_out_share=0.0,
        samples=0,
    )
    return replace(given, **changes)


def check_cache(generator: RasterGenerator) -> None:
    """Decoding with a cache, prompts of unequal lengths side by side, is the training pass."""
    vocabulary, captions = generator.config.vocabulary, [CAPTIONS[0], CAPTIONS[2], None]
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(vocabulary.codes, (3, generator.units), generator=rng)
    prompts = [generator.prompt_ids(caption) for caption in captions]
    with torch.no_grad():
        logits, cache = generator.prefill(prompts)
        steps = [logits]
        for unit in range(generator.units - 1):
            steps.append(generator.step(codes[:, unit], cache))
        for row, caption in enumerate(captions):
            words = [] if caption is None else generator.tokenizer.encode(caption)
            sample = sequence(words, codes[row].tolist(), vocabulary, supervise_text=False)
            batch = collate([sample], {}, vocabulary.pad)
            assert batch.tokens[0, : len(prompts[row])].tolist() == prompts[row]
            output = generator(batch)
            drawn = output.logits[batch.image[batch.target >= 0]]
            expected = drawn[:, vocabulary.offset : vocabulary.offset + vocabulary.codes]
            got = torch.stack(steps, dim=1)[row]
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_from_a_store_to_a_plain_language_model(work, tmp_path, name):
    """prepare -> train, aligned -> generate -> export -> transformers alone."""
    lm = language_model(work, name)
    trained = run_training(job(work.store, tmp_path / "run", lm))
    assert trained.report.history[-1]["alignment"] > 0
    model = TextToImage.from_pretrained(tmp_path / "run", "cpu")
    check_cache(model.generator)
    drawn = model.draw([CAPTIONS[0]], [0], SamplingConfig(guidance=2.0))
    assert drawn.shape == (1, 8, 8, 3)
    export(model, tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    ids = torch.tensor([model.generator.prompt_ids(CAPTIONS[2])])
    with torch.no_grad():
        again, here = plain(ids).logits, model.generator.lm(ids).logits
    torch.testing.assert_close(again, here, rtol=0, atol=2e-6)
    vocabulary = model.generator.config.vocabulary
    code = f"<|image:{vocabulary.codes - 1}|>"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert tokenizer.convert_tokens_to_ids(code) == vocabulary.offset + vocabulary.codes - 1
    # free rows are used first; none is dropped, none is added that is not needed
    rows = len(embedding_table(plain))
    assert rows == max(len(embedding_table(load_causal_lm(lm))), TEXT_SIZE + vocabulary.codes + 2)
    assert len(plain.get_output_embeddings().weight) == rows


@pytest.mark.parametrize("how", ["mean", "random"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox"])
def test_old_rows_stay_and_new_ones_are_of_their_kind(work, name, how):
    lm = load_causal_lm(language_model(work, name)).eval()
    tokenizer = word_tokenizer()
    ids = torch.tensor([tokenizer.encode("the cat sat on the mat")])
    old = embedding_table(lm).detach()[:TEXT_SIZE].clone()
    head = lm.get_output_embeddings().weight.detach()[:TEXT_SIZE].clone()
    with torch.no_grad():
        before = lm(ids).logits[..., :TEXT_SIZE]
        RasterGenerator.from_language_model(lm, tokenizer, 16, (4, 4), rows=how, seed=3)
        after = lm(ids).logits[..., :TEXT_SIZE]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    for kept, table in ((old, embedding_table(lm)), (head, lm.get_output_embeddings().weight)):
        assert torch.equal(table[:TEXT_SIZE], kept)
        new = table[TEXT_SIZE : TEXT_SIZE + 18]
        assert len(new.unique(dim=0)) == 18
        new, kept = new.detach(), kept.detach()
        ratio = float((new - kept.mean(dim=0)).std() / (kept - kept.mean(dim=0)).std())
        assert ratio == pytest.approx(0.05 if how == "mean" else 1.0, rel=0.25)


def test_texts_without_a_beginning_and_rows_without_padding():
    tokenizer = word_tokenizer(bos=False)
    vocabulary = add_image_tokens(tokenizer, 4)
    assert vocabulary.prompt([5, 6]) == [5, 6, vocabulary.begin]
    assert vocabulary.pad == tokenizer.eos_token_id


def test_chat_is_the_template_in_training_and_drawing(work, tmp_path):
    lm = language_model(work, "llama")
    start = StartingPoint(str(lm), chat=True)
    run_training(job(work.store, tmp_path / "run", lm, start=start))
    generator = RasterGenerator.from_pretrained(tmp_path / "run" / "model")
    turn = [{"role": "user", "content": "a red bar"}]
    text = generator.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    expected = generator.tokenizer.encode(text, add_special_tokens=False)
    vocabulary = generator.config.vocabulary
    assert generator.prompt_ids("a red bar") == [*expected, vocabulary.begin]
    batches = RasterBatches(work.store, vocabulary, BatchConfig(size=4, drop_caption=0.0))
    row = batches.batch(0).tokens[0].tolist()
    words = row[row.index(vocabulary.begin) - 1]
    assert generator.tokenizer.convert_ids_to_tokens(words) == "model"
    with pytest.raises(InputError, match=r"cannot resume, chat was True"):
        run_training(job(work.store, tmp_path / "run", lm))
    store = make_store(
        tmp_path / "again", load_codec(str(work.store.folder / "codec"), "cpu"), generator.tokenizer
    )
    with pytest.raises(InputError, match="add --chat"):
        build_generator(store, StartingPoint(str(tmp_path / "run" / "model")), 0)
    tokenizer = word_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        RasterGenerator.from_language_model(load_causal_lm(lm), tokenizer, 4, (2, 2), chat=True)


def test_a_model_that_is_too_short_or_reads_otherwise_is_refused(work, tmp_path):
    config = ARCHITECTURES["gpt2"]()
    config.n_positions = 16
    short = save_language_model(tmp_path / "short", config, word_tokenizer())
    with pytest.raises(InputError, match="made for 16 positions"):
        build_generator(work.store, StartingPoint(str(short)), 0)
    other = ARCHITECTURES["llama"]()
    save_language_model(tmp_path / "other", other, word_tokenizer(["more"]))
    with pytest.raises(ProvenanceError, match="another tokenizer"):
        build_generator(work.store, StartingPoint(str(tmp_path / "other")), 0)


def test_a_window_shorter_than_a_picture_needs_padding_on_the_right(work, tmp_path):
    config = ARCHITECTURES["mistral"]()
    config.sliding_window = 8
    lm = save_language_model(tmp_path / "lm", config, word_tokenizer())
    generator = build_generator(work.store, StartingPoint(str(lm)), 0)
    check_window(generator, work.store, "right")
    with pytest.raises(InputError, match="attends within 8 positions only"):
        check_window(generator, work.store, "packed")


def test_a_trained_model_is_a_starting_point_for_its_own_codes(work, tmp_path):
    """ARRA-Adapt: rows of codes are kept, and another codec is refused by name."""
    lm = language_model(work, "llama")
    run_training(job(work.store, tmp_path / "run", lm))
    first = tmp_path / "run" / "model"
    tokenizer = AutoTokenizer.from_pretrained(first)
    same = make_store(tmp_path / "same", load_codec(str(first / "codec"), "cpu"), tokenizer)
    generator = build_generator(same, StartingPoint(str(first)), 1)
    assert torch.equal(embedding_table(generator.lm), embedding_table(load_causal_lm(first)))
    changed = VQCodec.seeded(VQCodec.tiny().config, 9)
    other = make_store(tmp_path / "other", changed, tokenizer)
    with pytest.raises(ProvenanceError, match=r"another codec .* prepare it again with --codec"):
        build_generator(other, StartingPoint(str(first)), 1)


# ---- models that draw by themselves ------------------------------------------------------------


@pytest.mark.parametrize("family", NATIVE_TOKENS)
def test_an_image_native_model_keeps_its_own_codes(tmp_path, family):
    lm = save_native(tmp_path / "lm", family)
    codec = load_codec(str(lm), "cpu")
    store = make_store(tmp_path / "store", codec, AutoTokenizer.from_pretrained(lm))
    start = StartingPoint(str(lm))
    generator, original = build_generator(store, start, 0), load_causal_lm(lm)
    for name, weight in original.state_dict().items():
        assert torch.equal(generator.lm.state_dict()[name], weight), name  # nothing zeroed
    named, vocabulary = generator.tokenizer.get_vocab(), generator.config.vocabulary
    if family == "janus":
        assert vocabulary.offset == len(generator.tokenizer) == generator.tables.text
    else:
        assert vocabulary.offset == named[NATIVE_TOKENS[family][0]]
    check_cache(generator.eval())
    run_training(job(store, tmp_path / "run", lm))
    model = TextToImage.from_pretrained(tmp_path / "run", "cpu")
    assert model.draw([CAPTIONS[0]], [0]).shape == (1, 8, 8, 3)
    export(model, tmp_path / "plain")
    again = auto_class(original.config).from_pretrained(tmp_path / "plain").eval()
    ids = torch.tensor([model.generator.prompt_ids(CAPTIONS[2])])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model.generator.lm(ids).logits)
    moved = {
        n for n, w in again.state_dict().items() if not torch.equal(original.state_dict()[n], w)
    }
    assert not any("vqmodel" in name or "vision_model" in name for name in moved)
    assert any("generation_head" in name for name in moved) == (family == "janus")
    assert any("layers.1." in name for name in moved)


def test_the_layout_of_an_emu_has_its_size_and_ends_its_rows(tmp_path):
    lm = save_native(tmp_path / "lm", "emu3")
    original = load_causal_lm(lm)
    tokenizer = AutoTokenizer.from_pretrained(lm)
    generator = RasterGenerator.from_language_model(original, tokenizer, 16, (4, 4))
    prompt = tokenizer.convert_ids_to_tokens(generator.prompt_ids("a red bar"))
    assert prompt == ["<s>", "a", "red", "bar", "<|image start|>", "4*4", "<|image token|>"]
    codes = torch.arange(16).view(4, 4)
    expected = original.vocabulary_mapping.convert_img2bpe(codes).flatten().tolist()
    assert generator.config.vocabulary.picture(range(16)) == expected
    sample = sequence([], list(range(16)), generator.config.vocabulary, False)
    assert sample.target[-1] == tokenizer.convert_tokens_to_ids("<|extra_201|>")
    assert [place for place in sample.place if place >= 0] == list(range(16))


def test_a_code_of_janus_is_predicted_among_codes(tmp_path):
    """Its loss is that of its own generation head; text keeps the head of text."""
    lm = save_native(tmp_path / "lm", "janus")
    tokenizer = AutoTokenizer.from_pretrained(lm)
    generator = RasterGenerator.from_language_model(load_causal_lm(lm), tokenizer, 16, (4, 4))
    vocabulary = generator.config.vocabulary
    sample = sequence(tokenizer.encode("a red bar"), list(range(16)), vocabulary, True)
    batch = collate([sample], {}, vocabulary.pad)
    output, inner = generator.eval()(batch), generator.lm.model
    tokens = batch.tokens[0, batch.segment[0] >= 0]
    text = generator.lm.get_input_embeddings()(tokens.clamp(max=vocabulary.offset - 1))
    codes = inner.generation_aligner(
        inner.generation_embeddings((tokens - vocabulary.offset).clamp(min=0))
    )
    embedded = torch.where((tokens >= vocabulary.offset)[:, None], codes, text)
    states = inner.language_model(inputs_embeds=embedded[None]).last_hidden_state[0]
    image = batch.image[batch.target >= 0]
    probabilities = output.logits.softmax(dim=-1)
    expected = inner.generation_head(states[image]).softmax(dim=-1)
    torch.testing.assert_close(probabilities[image][:, vocabulary.offset :], expected)
    expected = generator.lm.lm_head(states[~image]).softmax(dim=-1)
    torch.testing.assert_close(probabilities[~image][:, : vocabulary.offset], expected)


def test_a_chameleon_without_decoder_reads_and_says_why_it_cannot_draw(tmp_path):
    lm = save_native(tmp_path / "lm", "chameleon")
    whole = load_codec(str(lm), "cpu")
    (lm / "vqgan_decoder.safetensors").unlink()
    codec = load_codec(str(lm), "cpu")
    seen = torch.rand(2, 3, 8, 8) * 2 - 1
    assert torch.equal(codec.encode(seen), whole.encode(seen))
    with pytest.raises(InputError, match="no decoder"):
        codec.decode(codec.encode(seen))


@pytest.mark.parametrize("family", NATIVE_TOKENS)
def test_a_native_codec_is_the_models_own(family):
    config = native_config(family)
    with torch.random.fork_rng(devices=[]):
        lm = auto_class(config).from_config(config).eval()
    codec, seen = native_codec(lm, "nowhere"), torch.rand(2, 3, 8, 8) * 2 - 1
    vq = lm.base_model.vqmodel
    with torch.no_grad():
        if family == "emu3":
            tokens = torch.stack(vq.encode(seen, torch.tensor([[8, 8]] * 2)).image_tokens)
            painted = vq.decode(tokens)
        else:
            tokens = vq.encode(seen).image_tokens.view(2, 4, 4)
            painted = None if family == "chameleon" else vq.decode(tokens.flatten(1))
    assert torch.equal(codec.encode(seen), tokens)
    if painted is not None:
        torch.testing.assert_close(codec.decode(tokens), painted.clamp(-1, 1))


# ---- from scratch, text, sizes -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["111M", "343M", "775M", "1.4B", "3.1B"])
def test_named_sizes_have_the_parameters_that_they_are_named_after(name):
    size = LlamaSize.named(name)
    with torch.device("meta"):
        lm = LlamaForCausalLM(llama_config(size, 16384))
    # LlamaGen has a class embedding (1000 classes and none) beside the codes
    count = sum(p.numel() for p in lm.parameters()) + 1001 * size.width
    named = float(name[:-1]) * (1e9 if name.endswith("B") else 1e6)
    assert count == pytest.approx(named, rel=0.01)


def test_replayed_text_is_supervised_and_leaves_alignment_alone(work):
    generator = build_generator(work.store, StartingPoint(str(language_model(work, "llama"))), 0)
    vocabulary, text = generator.config.vocabulary, [[3, 4, 5, 6], [7, 8, 9]]
    plain = RasterBatches(work.store, vocabulary, BatchConfig(size=4)).batch(0)
    config = BatchConfig(size=4, replay=0.34)
    mixed = RasterBatches(work.store, vocabulary, config, replay=text).batch(0)
    assert len(mixed.tokens) == 6
    assert mixed.samples == plain.samples == 4
    assert torch.equal(mixed.tokens[:4], plain.tokens)
    start, *words = mixed.tokens[4, : (mixed.segment[4] >= 0).sum()].tolist()
    assert start == vocabulary.start
    assert words in text
    assert mixed.target[4, : len(words)].tolist() == words
    assert not mixed.image[4:].any()
    objective = Alignment(AlignmentConfig(), generator.width, 16)
    losses = [objective(generator.eval()(b, (1,)), b) for b in (plain, mixed)]
    torch.testing.assert_close(losses[0], losses[1])
    with pytest.raises(InputError, match="no text to replay"):
        RasterBatches(work.store, vocabulary, config)


def test_arra_json_of_earlier_models_is_still_read(tmp_path):
    generator = RasterGenerator.tiny()
    generator.save_pretrained(tmp_path)
    side = read_json(tmp_path / "arra.json")
    for name in ("before", "after", "row_end", "columns"):
        del side["vocabulary"][name]
    del side["adapted"]
    (tmp_path / "arra.json").write_text(json.dumps(side))
    assert RasterGenerator.from_pretrained(tmp_path).fingerprint() == generator.fingerprint()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("layout", ["left", "packed"])
def test_padding_and_packing_change_nothing_for_any_architecture(architecture, layout):
    """Some compute attention themselves, where a mask is added to the logits and not applied."""
    from test_generators import by_sample, some_batch

    tokenizer = word_tokenizer()
    lm = auto_class(config := ARCHITECTURES[architecture]()).from_config(config)
    generator = RasterGenerator.from_language_model(lm, tokenizer, 16, (4, 4)).eval()
    with torch.no_grad():  # weights that are nearly zero would hide what is looked at
        for parameter in generator.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    captions = ("a red bar", "a green square left of a blue bar", "the cat")
    right = some_batch(generator, captions)
    other = some_batch(generator, captions, layout=layout)
    pairs = zip(by_sample(generator(right), right), by_sample(generator(other), other), strict=True)
    for x, y in pairs:
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
