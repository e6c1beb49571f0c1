"""The tour's code blocks run as they stand, only smaller: those of docs/tour.md and README.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arra import cli
from arra.text_to_image import TextToImage, quiet_transformers

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("docs/tour.md", "README.md")

# What a newcomer's machine does in minutes a test must do in seconds.
_SMALLER = {
    "prepare": {"--codec.steps": "2", "--codec.width": "16", "--encoder.steps": "2"},
    "train": {"--steps": "3", "--llama.width": "32", "--llama.depth": "2", "--llama.heads": "2",
              "--samples": "2", "--precision": "fp32"},
    "generate": {"--count": "2"},
    "evaluate": {"--diversity-prompts": "2", "--reader-steps": "2", "--count": "8"},
}  # fmt: skip
_PYTHON = (
    (r"steps=[\d_]+", "steps=2"),
    (r"scenes:[\d_]+", "scenes:96"),
    (r"LlamaSize\([^)]*\)", "LlamaSize(width=32, depth=2, heads=2, feed_forward=48)"),
)
# Commands of a page that are for a person's shell and not for this test.
_ELSEWHERE = ("pip ", "make ", "git ", "cd ", "python ", "accelerate ", "open ")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the code blocks of the tour: of README.md, of its section "tour"."""
    text = page.read_text(encoding="utf-8")
    if page.name == "README.md":
        sections = re.split(r"^## ", text, flags=re.MULTILINE)
        text = "\n".join(s for s in sections if "tour" in s.partition("\n")[0].lower())
    return re.findall(r"^```(python|bash)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[list[str]]:
    """The arra commands of a block of bash; `ValueError` for a line that is something else."""
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or line.lstrip().startswith(_ELSEWHERE):
            continue
        if words[0] != "arra":
            raise ValueError(f"not a command of arra: {line}")
        if words[1] != "demo":  # has a test of its own
            found.append(words[1:])
    return found


def smaller(command: list[str]) -> list[str]:
    """The command with its work cut down, otherwise as it stands."""
    words = [re.sub(r"scenes:[\d_]+", "scenes:96", word) for word in command]
    for flag, value in _SMALLER.get(words[0], {}).items():
        if flag in words:
            words[words.index(flag) + 1] = value
        elif not (flag.startswith("--llama") and "--lm" in words):
            words += [flag, value]
    return words


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
    if not path.is_file() or not (found := blocks(path)):
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
                for command in commands(block):
                    assert cli.run(smaller(command)) == 0, " ".join(command)
            else:
                for pattern, replacement in _PYTHON:
                    block = re.sub(pattern, replacement, block)
                exec(compile(block, str(path), "exec"), names)
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
    tour = "```bash\narra info \\\n  --json  # versions\n\nmake demo\n```\n```python\nx = 1\n```\n"
    page.write_text(f"# t\n```bash\narra lost\n```\n## The five-minute tour\n{tour}## End\n")
    assert [language for language, _ in blocks(page)] == ["bash", "python"]
    assert commands(blocks(page)[0][1]) == [["info", "--json"]]
    with pytest.raises(ValueError, match="rm -rf"):
        commands("rm -rf /")
    assert smaller(["train", "s", "--steps", "2000"])[:4] == ["train", "s", "--steps", "3"]
    assert "--llama.width" not in smaller(["train", "s", "--lm", "m"])
