"""Plain text beside pictures: what a language model could say before it learned to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arra.adapters.lora import adapters_off
from arra.data.tokenizer import CaptionEncoder
from arra.errors import InputError
from arra.generators.base import Generator
from arra.generators.raster import RasterGenerator
from arra.metrics.text import text_likelihood

PIECE = 256
"""Tokens of a piece of text, at most."""


def speaks(generator: Generator) -> RasterGenerator:
    """The generator, if it is a language model; `InputError` otherwise."""
    if not isinstance(generator, RasterGenerator):
        raise InputError(
            f"plain text: a {generator.registered_name} generator is no language model; leave out "
            "--text and --replay-text"
        )
    return generator


def pieces(generator: Generator, files: Sequence[Path]) -> list[list[int]]:
    """Paragraphs (separated by empty lines) of UTF-8 files as ids, long ones cut up.

    `InputError` for a file that cannot be read or has no text, or a generator without language.
    """
    if not files:
        return []
    generator = speaks(generator)
    assert generator.tokenizer is not None
    encode = CaptionEncoder.of(generator.tokenizer)
    longest = min(PIECE, generator.positions - 1)
    found: list[list[int]] = []
    for path in files:
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: no text that can be read ({error})") from error
        paragraphs = [part.strip() for part in content.split("\n\n") if part.strip()]
        if not paragraphs:
            raise InputError(f"{path}: the file has no text")
        for ids in encode(paragraphs):
            found += [ids[start : start + longest] for start in range(0, len(ids), longest)]
    return [piece for piece in found if len(piece) > 1]


class TextAbility:
    """Perplexity of plain text before training, and again after it."""

    def __init__(self, generator: Generator, files: Sequence[Path]):
        self.pieces = pieces(generator, files)
        self.before = self._perplexity(generator) if files else None

    def _perplexity(self, generator: Generator) -> float:
        return text_likelihood(speaks(generator), self.pieces).perplexity

    def after(self, generator: Generator) -> dict[str, float]:
        """Perplexities "before", "after" and, with an adapter, "adapter_off"; {} without files."""
        if self.before is None:
            return {}
        generator = speaks(generator)
        found = {"before": self.before, "after": self._perplexity(generator)}
        if generator.config.adapted is not None:
            with adapters_off(generator.lm):
                found["adapter_off"] = self._perplexity(generator)
        return found
