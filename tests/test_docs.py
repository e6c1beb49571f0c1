"""The documentation holds: menus, links, modules and options exist; the bridge page's code runs."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shlex
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from arra import cli
from arra.codecs import VQCodec
from arra.generators.raster import RasterGenerator
from arra.samplers.ancestral import AncestralSampler
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage
from test_tour import blocks, commands

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ROOT_PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]


@functools.cache
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """What a link may name behind its #: the headings, as mkdocs and GitHub write them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", t.lower()).strip()) for t in titles}


def test_the_menu_shows_every_page_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    config = SimpleNamespace(nav=nav, docs_dir=str(DOCS), watch=[])
    shown = hooks().files_of(hooks().on_config(config).nav)
    assert len(shown) == len(set(shown))
    assert {name for name in shown if (DOCS / name).is_file()} == {page.name for page in PAGES}
    assert set(shown) - {page.name for page in PAGES} == hooks().made_pages()


@pytest.mark.parametrize("page", [*PAGES, *ROOT_PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    made = hooks().made_pages()
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"(https?|mailto):", target):
            continue
        name, _, anchor = target.partition("#")
        if page.parent == DOCS and name in made:
            continue
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


def test_the_api_has_every_public_module_once():
    listed = re.findall(r"^::: ([\w.]+)$", "".join(hooks().reference().values()), re.MULTILINE)
    source = ROOT / "src"
    public = {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for path in (source / "arra").rglob("*.py")
        if path.stem == "__init__" or not path.stem.startswith("_")
    }
    assert sorted(listed) == sorted(n for n in public if not n.startswith("arra.commands"))


@functools.cache
def help_of(command: str) -> str:
    return hooks().help_of(command)


def test_help_becomes_a_section_with_its_options():
    assert help_of("export").startswith("usage: arra export")
    assert "\n\noptions:\n  -h, --help" in help_of("export")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_on_the_pages_have_the_options_that_are_shown(page):
    found = "".join(
        block for language, block in blocks(page.read_text("utf-8")) if language == "bash"
    )
    for line in found.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["arra"]:
            assert words[1] in cli.command_names(), line
            known = {*re.findall(r"--[\w.-]+", help_of(words[1])), "--debug"}
            assert {w.partition("=")[0] for w in words if w.startswith("--")} <= known, line


def test_troubleshooting_quotes_what_the_program_says():
    """Of every message that is quoted there, four words in a row stand in a string of the code."""
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # a string that goes on in the next line
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    messages = [" ".join(quoted.split()) for quoted in re.findall(r"\*\*`([^`]+)`", page)]
    assert len(messages) > 10
    for message in messages:
        words = message.split()
        runs = (" ".join(words[i : i + 4]) for i in range(len(words) - 3))
        assert any(run in code for run in runs), message


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A folder with the run `runs/mine`, whose model is random but far from indifferent."""
    generator, codec = RasterGenerator.tiny(), VQCodec.tiny()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():  # fresh logits hardly depend on the prompt: guidance would change nothing
        for weights in generator.lm.parameters():
            weights += 0.3 * torch.randn(weights.shape, generator=random)
    generator.config = replace(generator.config, codec=codec.fingerprint())
    TextToImage(generator, codec).save_pretrained(tmp_path / "runs/mine/model")
    monkeypatch.chdir(tmp_path)
    return TextToImage(generator, codec)


class Server(BaseHTTPRequestHandler):
    """A stand-in for vLLM: greedy completions of token ids under a mask, and their laws."""

    lm: torch.nn.Module

    @torch.no_grad()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/completions"
        many = isinstance(asked["prompt"][0], list)
        rows = asked["prompt"] if many else [asked["prompt"]]
        body = json.dumps({"choices": [self.choice(row, asked) for row in rows]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def choice(self, row, asked):
        allowed = torch.tensor(asked["allowed_token_ids"])
        drawn, laws = [], []
        for _ in range(asked["max_tokens"]):
            law = self.lm(torch.tensor([row + drawn])).logits[0, -1, allowed].log_softmax(-1)
            drawn.append(int(allowed[law.argmax()]))
            best = law.topk(asked.get("logprobs", 0))
            pairs = zip(allowed[best.indices].tolist(), best.values.tolist(), strict=True)
            laws.append({f"token_id:{token}": value for token, value in pairs})
        return {"token_ids": drawn, "logprobs": {"top_logprobs": laws}}

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(checkpoint):
    """Where the stand-in serves the checkpoint's language model."""
    handler = type("Handler", (Server,), {"lm": checkpoint.generator.lm})
    with HTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_the_bridge_page_runs_and_everybody_draws_what_arra_draws(checkpoint, server):
    names: dict = {}
    for language, block in blocks((DOCS / "serving-llm.md").read_text("utf-8")):
        if language == "bash":
            for command in commands(block):
                assert cli.run(command) == 0, " ".join(command)
        else:
            block = block.replace("localhost:8000", server)
            exec(compile(block, "docs/serving-llm.md", "exec"), names)
    for name in ("plain", "paired", "served", "guided"):
        assert Image.open(f"{name}.png").size == checkpoint.size[::-1]

    captions, seeds = ["a red 3", "a green 7 above it", "it"], [3, 1, 4]
    offset = checkpoint.generator.config.vocabulary.offset

    def arra(guidance, temperature=1.0):
        sampler = AncestralSampler(SamplingConfig(guidance=guidance, temperature=temperature))
        return sampler(checkpoint.generator, captions, seeds)

    for scale in (1.0, 2.0, 7.5):
        tokens = names["draw"](captions, seeds, scale)
        assert torch.equal(tokens - offset, arra(scale))
    painted = np.stack([names["paint"](row) for row in tokens])
    assert np.array_equal(painted, checkpoint.draw(captions, seeds, SamplingConfig(guidance=7.5)))
    # from the server, which is greedy: without guidance, and with guidance by the client
    for number, caption in enumerate(captions):
        plain = names["complete"](names["prompt"](caption), temperature=0.0)
        assert torch.equal(plain - offset, arra(1.0, temperature=0.0)[number])
    guided = names["guided"](captions[1], seeds[1])
    assert torch.equal(guided - offset, arra(2.0)[1])


def test_the_guidance_of_transformers_is_ours(checkpoint):
    """Greedy `generate(guidance_scale=s)` takes the codes of the sampler at temperature 0."""
    generator = checkpoint.generator
    v = generator.config.vocabulary
    prompt = torch.tensor([generator.prompt_ids("a green 7 above it")])
    drawn = []
    for scale in (1.0, 2.0, 7.5):
        out = generator.lm.generate(
            prompt,
            guidance_scale=scale,
            negative_prompt_ids=torch.tensor([generator.prompt_ids(None)]),
            prefix_allowed_tokens_fn=lambda row, seen: [*range(v.offset, v.offset + v.codes)],
            max_new_tokens=generator.units,
            do_sample=False,
            pad_token_id=v.pad,
        )
        sampler = AncestralSampler(SamplingConfig(guidance=scale, temperature=0.0))
        drawn.append(out[:, prompt.shape[1] :] - v.offset)
        assert torch.equal(drawn[-1], sampler(generator, ["a green 7 above it"], [0]))
    assert len({tuple(codes[0].tolist()) for codes in drawn}) == 3  # guidance does something here
