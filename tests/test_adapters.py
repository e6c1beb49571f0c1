"""LoRA, DoRA and RandLoRA: what trains and what cannot move, saved, resumed, merged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from arra import cli
from arra.adapters.lora import adapters_off, is_adapted
from arra.errors import InputError, ProvenanceError
from arra.files import read_json
from arra.generators.adapted import ADAPTER_FILE
from arra.generators.raster import RasterGenerator
from arra.jobs.evaluation import Evaluation, evaluate
from arra.jobs.exporting import export
from arra.jobs.model import StartingPoint, build_generator
from arra.jobs.parts import load_codec
from arra.jobs.training import run_training
from arra.metrics.text import text_likelihood
from arra.networks.language_model import embedding_table, load_causal_lm
from arra.settings import AdapterConfig, BatchConfig
from arra.text_to_image import TextToImage
from arra.training.config import TrainConfig
from lm_kit import CAPTIONS, TEXT_SIZE, save_native, word_tokenizer
from test_language_models import _on_cpu, job, language_model, make_store, work  # noqa: F401

# Conv1D and Linear, tied and untied heads, scaled embeddings
PAIRS = [
    ("lora", "llama"),
    ("lora", "gpt2"),
    ("dora", "gemma3"),
    ("randlora", "qwen3"),
]
STEPS = TrainConfig(steps=4, learning_rate=0.02, precision="fp32", checkpoint_every=2, ema=0.9)

FEW = {"count": 2, "diversity_prompts": 0, "device": "cpu"}


def adapted(lm, kind: str, **settings) -> StartingPoint:
    settings = {"rank": 4, "save": "adapter", **settings}
    return StartingPoint(str(lm), adapter=AdapterConfig(kind, **settings))


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_an_adapter_trains_beside_frozen_weights(work, tmp_path, kind, name):  # noqa: F811
    """Old rows and weights keep their bits under AdamW with decay, and text its perplexity."""
    lm = language_model(work, name)
    asked = job(
        work.store, tmp_path / "run", lm, start=adapted(lm, kind), training=STEPS, text=(work.text,)
    )
    trained = run_training(asked)
    text = trained.text
    assert text["adapter_off"] == text["before"] != text["after"]
    if kind == "lora":
        looked = Evaluation(tmp_path / "looked", tmp_path / "run", text=(work.text,), **FEW)
        found = {one["name"]: one["value"] for one in evaluate(looked)["measures"]}
        assert found["text perplexity"] == pytest.approx(text["after"], rel=1e-9)
        assert found["text perplexity, adapter off"] == pytest.approx(text["before"], rel=1e-9)
    pretrained = load_causal_lm(lm)
    generator = RasterGenerator.from_pretrained(tmp_path / "run" / "model")
    state = generator.lm.state_dict()
    for key, weight in pretrained.state_dict().items():
        head, _, last = key.rpartition(".")
        found = next(
            state[k]
            for k in (key, f"{head}.base_layer.{last}", f"{head}.base.{last}")
            if k in state
        )
        assert torch.equal(found[: len(weight)][:TEXT_SIZE], weight[:TEXT_SIZE]), key
        if "embed" not in key and "wte" not in key and "lm_head" not in key:
            assert torch.equal(found, weight), key
    fresh = build_generator(work.store, asked.start, 0)
    rows, first = generator.lm.get_input_embeddings().embed_rows, fresh.lm.get_input_embeddings()
    assert (rows != first.embed_rows).any(dim=1).sum() > 5  # those that the batches had
    names = {n for n, p in fresh.lm.named_parameters() if p.requires_grad}
    assert all("lora_" in n or n.endswith("embed_rows") for n in names)
    assert set(load_file(tmp_path / "run" / "model" / ADAPTER_FILE)) == names

    # in one go or in two, the same bits
    run_training(replace(asked, out=tmp_path / "two", training=replace(STEPS, steps=2)))
    again = run_training(replace(asked, out=tmp_path / "two"))
    assert again.report.resumed_from == 2
    files = [tmp_path / run / "model" / ADAPTER_FILE for run in ("run", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()

    # merged: a plain language model that says the same within rounding
    ids = torch.tensor([generator.prompt_ids(CAPTIONS[2])])
    with torch.no_grad():
        unmerged = generator.eval().lm(ids).logits
    export(TextToImage.from_pretrained(tmp_path / "run", "cpu"), tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    assert plain.state_dict().keys() == pretrained.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, unmerged, rtol=1e-4, atol=2e-5)


def test_a_run_ends_as_a_plain_model_unless_told_otherwise(work, tmp_path):  # noqa: F811
    lm = language_model(work, "llama")
    run_training(job(work.store, tmp_path / "run", lm, start=adapted(lm, "lora", save="merged")))
    folder = tmp_path / "run" / "model"
    assert not (folder / ADAPTER_FILE).exists()
    assert read_json(folder / "arra.json")["adapted"] is None
    model = TextToImage.from_pretrained(folder, "cpu")
    assert not is_adapted(model.generator.lm)
    assert model.draw([CAPTIONS[0]], [0]).shape == (1, 8, 8, 3)


def test_with_the_adapter_off_text_is_what_it_was_bit_for_bit(work):  # noqa: F811
    """Whatever adapter and picture rows became."""
    lm = language_model(work, "gemma3")
    generator = build_generator(work.store, adapted(lm, "lora"), 0).eval()
    ids = torch.tensor([generator.tokenizer.encode("the cat sat on the mat")])
    with torch.no_grad():
        before = generator.text_logits(ids)[..., :TEXT_SIZE].clone()
        asked = {n: p for n, p in generator.lm.named_parameters() if p.requires_grad}
        for parameter in asked.values():
            parameter.normal_()
        assert not torch.equal(generator.text_logits(ids)[..., :TEXT_SIZE], before)
        with adapters_off(generator.lm):
            assert torch.equal(generator.text_logits(ids)[..., :TEXT_SIZE], before)
    assert {n for n, p in generator.lm.named_parameters() if p.requires_grad} == asked.keys()


def test_the_embedding_of_a_trained_row_is_that_of_its_table(work):  # noqa: F811
    """Scaled as Gemma scales; a tied head shares the trained rows."""
    lm = language_model(work, "gemma3")
    plain = build_generator(work.store, StartingPoint(str(lm)), 0).eval()
    wrapped = build_generator(work.store, adapted(lm, "lora"), 0).eval()
    ids = torch.arange(len(embedding_table(plain.lm)))[None]
    with torch.no_grad():
        assert torch.equal(plain.lm(ids[:, :40]).logits, wrapped.lm(ids[:, :40]).logits)
        embedded = [g.lm.get_input_embeddings()(ids) for g in (plain, wrapped)]
    assert torch.equal(*embedded)
    head, embedding = wrapped.lm.get_output_embeddings(), wrapped.lm.get_input_embeddings()
    assert head.embed_rows is embedding.embed_rows


def test_an_adapter_knows_what_it_stands_on(work, tmp_path):  # noqa: F811
    lm = language_model(work, "llama")
    generator = build_generator(work.store, adapted(lm, "lora"), 0)
    generator.save_pretrained(tmp_path / "model")
    again = RasterGenerator.from_pretrained(tmp_path / "model")
    assert again.fingerprint() == generator.fingerprint()
    side = read_json(tmp_path / "model" / "arra.json")
    changed = load_causal_lm(lm)
    with torch.no_grad():
        changed.model.norm.weight.add_(1.0)
    changed.save_pretrained(tmp_path / "other")
    word_tokenizer().save_pretrained(tmp_path / "other")
    side["adapted"]["base"] = str(tmp_path / "other")
    (tmp_path / "model" / "arra.json").write_text(json.dumps(side))
    with pytest.raises(ProvenanceError, match="was trained on other weights"):
        RasterGenerator.from_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"targets: no layer is named 'wq'; there are .*q_proj"):
        build_generator(work.store, adapted(lm, "lora", targets=("wq",)), 0)
    for asked in ({"adapter": AdapterConfig("lora")}, {"chat": True}):
        with pytest.raises(InputError, match="name one with --lm"):
            StartingPoint(**asked)
    with pytest.raises(InputError, match="holds an adapter only"):
        build_generator(work.store, StartingPoint(str(tmp_path / "model")), 0)


def test_an_adapted_janus_trains_what_it_draws_with(tmp_path):
    lm = save_native(tmp_path / "lm", "janus")
    store = make_store(
        tmp_path / "store", load_codec(str(lm), "cpu"), AutoTokenizer.from_pretrained(lm)
    )
    run_training(job(store, tmp_path / "run", lm, start=adapted(lm, "lora", targets=("q_proj",))))
    state = load_file(tmp_path / "run" / "model" / ADAPTER_FILE)
    parts = ("lora_", "embed_rows", "generation_head", "generation_embeddings", "generation_align")
    assert {next(part for part in parts if part in name) for name in state} == set(parts)
    assert {n.split(".lora_")[0].rsplit(".", 1)[-1] for n in state if "lora_" in n} == {"q_proj"}
    export(TextToImage.from_pretrained(tmp_path / "run", "cpu"), tmp_path / "plain")


def test_the_command_line(work, tmp_path, capsys):  # noqa: F811
    """An adapter, replay and perplexity, as the guide to starting points names them."""
    lm = language_model(work, "llama")
    asked = [
        *("train", work.store.folder, "--out", tmp_path / "run", "--lm", lm, "--chat"),
        *("--adapter.kind", "lora", "--adapter.rank", "4", "--adapter.targets", "q_proj"),
        *("--text", work.text, "--replay-text", work.text, "--batch.replay", "0.2"),
        *("--batch.size", "4", "--steps", "2", "--precision", "fp32", "--samples", "0"),
    ]
    assert cli.run([str(one) for one in asked]) == 0
    assert "perplexity of plain text: before" in capsys.readouterr().out
    assert cli.run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "plain")]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "plain").config.model_type == "llama"


def test_perplexity_is_that_of_transformers(work):  # noqa: F811
    generator = build_generator(
        work.store, StartingPoint(str(language_model(work, "llama"))), 0
    ).eval()
    rows = [[5, 6, 7], [8, 9, 10, 11, 12]]
    found = text_likelihood(generator, rows, batch=2)
    lm = load_causal_lm(language_model(work, "llama")).eval()
    for row, nats, tokens in zip(rows, found.nats, found.tokens, strict=True):
        ids = torch.tensor([[generator.text_start, *row]])
        with torch.no_grad():
            logits = lm(ids).logits[0, :-1]
        # the free rows, of which pictures take 18, are no text
        logits[:, TEXT_SIZE : TEXT_SIZE + 18] = float("-inf")
        expected = -logits.log_softmax(dim=-1).gather(1, ids[0, 1:, None]).sum()
        assert tokens == len(row)
        assert nats == pytest.approx(float(expected), rel=1e-5)
    assert BatchConfig().replayed == 0
