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
    found = "".join(block for language, block in blocks(page) if language == "bash")
    for line in found.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["arra"]:
            assert words[1] in cli.command_names(), line
            known = {*re.findall(r"--[\w.-]+", help_of(words[1])), "--debug"}
            assert {w.partition("=")[0] for w in words if w.startswith("--")} <= known, line


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
    """Answers as a server of language models does: the ids that the fields of the request allow."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/completions"
        assert asked["return_token_ids"]
        drawn = (asked["allowed_token_ids"] * asked["max_tokens"])[: asked["max_tokens"]]
        self.server.prompts.append(asked["prompt"])
        body = json.dumps({"choices": [{"text": "", "token_ids": drawn}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def test_the_bridge_page_runs_and_plain_transformers_draws_what_arra_draws(checkpoint):
    server = HTTPServer(("127.0.0.1", 0), Server)
    server.prompts = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names: dict = {}
    for language, block in blocks(DOCS / "serving.md"):
        if language == "bash":
            for command in commands(block):
                assert cli.run(command) == 0, " ".join(command)
        else:
            block = block.replace("localhost:8000", f"127.0.0.1:{server.server_port}")
            exec(compile(block, "docs/serving.md", "exec"), names)
    server.shutdown()
    server.server_close()
    assert server.prompts == [checkpoint.generator.prompt_ids("a red square")]
    for name in ("plain", "paired", "served"):
        assert Image.open(f"{name}.png").size == checkpoint.size[::-1]

    captions, seeds = ["a red 3", "a green 7 above it", "it"], [3, 1, 4]
    offset = checkpoint.generator.config.vocabulary.offset
    for scale in (1.0, 2.0, 7.5):
        sampler = AncestralSampler(SamplingConfig(guidance=scale))
        expected = sampler(checkpoint.generator, captions, seeds)
        tokens = names["draw"](captions, seeds, scale)
        assert torch.equal(tokens - offset, expected)
        pictures = np.stack([names["paint"](row) for row in tokens])
        assert np.array_equal(pictures, checkpoint.draw(captions, seeds, sampler.config))


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
