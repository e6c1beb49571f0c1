"""The tour's code blocks run as they stand, only smaller: those of docs/tour.md and README.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arra.text_to_image import TextToImage, quiet_transformers
from page_kit import blocks, commands, run_bash, run_python, smaller

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("docs/tour.md", "README.md")

_PYTHON = (
    (r"steps=[\d_]+", "steps=2"),
    (r"scenes:[\d_]+", "scenes:96"),
    (r"LlamaSize\([^)]*\)", "LlamaSize(width=32, depth=2, heads=2, feed_forward=48)"),
)


def tour(page: Path) -> str:
    """The text of the tour: of README.md its section."""
    text = page.read_text(encoding="utf-8")
    if page.name == "README.md":
        sections = re.split(r"^## ", text, flags=re.MULTILINE)
        text = "\n".join(s for s in sections if "tour" in s.partition("\n")[0].lower())
    return text


def make_pictures(folder: Path, count: int = 96) -> None:
    rng = np.random.default_rng(0)
    inks = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230)}
    folder.mkdir()
    for number in range(count):
        name, ink = list(inks.items())[number % 3]
        pixels = np.full((32, 40, 3), 245, dtype=np.uint8)
        shape, (height, width) = (("square", (14, 14)), ("bar", (6, 18)))[number // 3 % 2]
        row, column = rng.integers(2, 12, 2)
        pixels[row : row + height, column : column + width] = ink
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(f"a {name} {shape}")


def make_language_model(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from arra.data.tokenizer import train_text_tokenizer

    tokenizer = train_text_tokenizer(["a red square", "a blue bar"], 300, "bpe")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("page", PAGES)
def test_the_tour_runs(page, tmp_path, monkeypatch):
    path = ROOT / page
    if not path.is_file() or not (found := blocks(tour(path))):
        if page == "docs/tour.md":
            pytest.fail("the tour has no code")
        pytest.skip(f"{page} has no tour")
    monkeypatch.chdir(tmp_path)
    make_pictures(tmp_path / "my_pictures")
    make_language_model(tmp_path / "my_llm")
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        for language, block in found:
            if language == "bash":
                run_bash(block)
            else:
                run_python(block, names, _PYTHON, page)
    for folder in ("my_model", "runs/first", "runs/python"):
        if (tmp_path / folder).exists():
            assert TextToImage.from_pretrained(tmp_path / folder, "cpu").size[0] > 0
    if page == "docs/tour.md":
        drawn = names["drawn"]
        assert isinstance(drawn, np.ndarray)
        assert drawn.shape == (2, 32, 32, 3)
        assert len(list((tmp_path / "pictures").glob("*.png"))) == 5  # two prompts, two seeds, grid
        assert (tmp_path / "runs/first/evaluation/evaluation.json").is_file()


def test_blocks_are_found_and_foreign_lines_are_not_passed_over(tmp_path):
    page = tmp_path / "README.md"
    code = "```bash\narra info \\\n  --json  # versions\n\nmake demo\n```\n```python\nx = 1\n```\n"
    page.write_text(f"# t\n```bash\narra lost\n```\n## The five-minute tour\n{code}## End\n")
    assert [language for language, _ in blocks(tour(page))] == ["bash", "python"]
    assert commands(blocks(tour(page))[0][1]) == [["info", "--json"]]
    with pytest.raises(ValueError, match="rm -rf"):
        commands("rm -rf /")
    assert smaller(["train", "s", "--steps", "2000"])[:4] == ["train", "s", "--steps", "3"]
    assert "--llama.width" not in smaller(["train", "s", "--lm", "m"])
