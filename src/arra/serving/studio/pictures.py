"""Pictures as HTML: the sheet on which they appear, and those of this visit."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

from arra.serving.studio.settings import Wish

_SHARP = 160  # pictures of fewer pixels a side are enlarged with hard edges
_THUMB = 96  # pixels a side
_ITEMS, _BYTES = 24, 24 << 20  # of one visit


@dataclass(frozen=True)
class Shown:
    """One picture on the sheet."""

    model: str
    seed: int
    size: tuple[int, int]
    """Height and width."""
    png: bytes | None
    """None where nothing is drawn yet."""
    done: float
    """Share that is drawn."""
    note: str
    """What became of it."""
    whole: bool = False
    """Whether it can be kept."""


@dataclass(frozen=True)
class Kept:
    """The pictures of one wish that are whole."""

    number: int
    wish: Wish
    shown: tuple[Shown, ...]


@dataclass
class History:
    """What was drawn during one visit, the newest first; what is too much is forgotten."""

    items: list[Kept] = field(default_factory=list)
    made: int = 0

    def add(self, wish: Wish, shown: Iterable[Shown]) -> None:
        """Keep the pictures of a wish that are whole."""
        whole = tuple(one for one in shown if one.whole)
        if not whole:
            return
        self.made += 1
        self.items.insert(0, Kept(self.made, wish, whole))
        del self.items[_ITEMS:]
        while len(self.items) > 1 and sum(map(_weight, self.items)) > _BYTES:
            self.items.pop()

    def find(self, number: int) -> Kept | None:
        """The item of this number, if it is still there."""
        return next((item for item in self.items if item.number == number), None)


def _weight(item: Kept) -> int:
    return sum(len(one.png or b"") for one in item.shown)


def quick_png(picture: np.ndarray) -> bytes:
    """A PNG of (H, W, 3) uint8 that is made fast, for a picture that is shown for a moment; of a
    clip (H, W, 3 T) its first frame."""
    file = BytesIO()
    Image.fromarray(picture[..., :3]).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def sheet(shown: Sequence[Shown], prompt: str) -> str:
    """The pictures of a wish; those of the same seed stand side by side."""
    seeds = list(dict.fromkeys(one.seed for one in shown))
    cards = []
    for seed in seeds:
        figures = [_figure(one, prompt) for one in shown if one.seed == seed]
        cards.append(f'<div class="arra-card">{"".join(figures)}</div>')
    models = max(1, len(shown) // max(1, len(seeds)))
    return (
        f'<div class="arra-sheet" data-seeds="{min(len(seeds), 3)}" style="--models: {models}">'
        f"{''.join(cards)}</div>"
    )


def blank(models: Sequence[str], size: tuple[int, int]) -> str:
    """The sheet before anything is drawn."""
    frames = [
        f'<figure><div class="arra-frame" style="aspect-ratio: {size[1]} / {size[0]}"></div>'
        f"<figcaption><b>{escape(name)}</b></figcaption></figure>"
        for name in models
    ]
    return (
        f'<div class="arra-sheet" data-seeds="1" style="--models: {len(models)}">'
        f'<div class="arra-card">{"".join(frames)}</div></div>'
    )


def _figure(one: Shown, prompt: str) -> str:
    height, width = one.size
    alt = escape(f"{prompt}, drawn by {one.model} with seed {one.seed}", quote=True)
    inside = ""
    if one.png is not None:
        sharp = " arra-sharp" if max(one.size) < _SHARP else ""
        # decoded at once: a picture that takes the place of another one must not flicker
        inside = (
            f'<img class="arra-picture{sharp}" alt="{alt}" decoding="sync" src="{_uri(one.png)}">'
        )
    bar = ""
    if not one.whole:
        bar = (
            f'<progress value="{one.done:.3f}" max="1" aria-label="{escape(one.model)}"></progress>'
        )
    save = ""
    if one.whole and one.png is not None:
        name = f"{_plain(prompt)}-{_plain(one.model)}-{one.seed}.png"
        save = (
            f'<a class="arra-save" download="{name}" href="{_uri(one.png)}" '
            f'aria-label="Save the picture of {escape(one.model, quote=True)}, seed {one.seed}, as '
            'PNG">Save</a>'
        )
    return (
        f'<figure data-model="{escape(one.model, quote=True)}" data-seed="{one.seed}" '
        f'data-state="{"whole" if one.whole else "drawing"}">'
        f'<div class="arra-frame" style="aspect-ratio: {width} / {height}">{inside}{bar}</div>'
        f"<figcaption><div><b>{escape(one.model)}</b>{save}</div><span>{escape(one.note)}</span>"
        "</figcaption></figure>"
    )


def gallery(history: History) -> str:
    """Buttons with what was drawn, newest first."""
    if not history.items:
        return '<p class="arra-soft">What you draw is kept here until you leave the page.</p>'
    parts = []
    for item in history.items:
        prompt = escape(item.wish.prompt, quote=True)
        thumbs = "".join(_thumb(one) for one in item.shown[:4])
        more = f"<i>+{len(item.shown) - 4}</i>" if len(item.shown) > 4 else ""
        parts.append(
            f'<li><button type="button" data-item="{item.number}" title="{prompt}" '
            f'aria-label="Use the settings of: {prompt}, seed {item.wish.seed}">'
            f'<span class="arra-thumbs">{thumbs}{more}</span>'
            f'<span class="arra-words">{prompt}</span>'
            f'<span class="arra-soft">seed {item.wish.seed}</span></button></li>'
        )
    return f'<ul class="arra-album">{"".join(parts)}</ul>'


def _thumb(one: Shown) -> str:
    assert one.png is not None
    png, sharp = one.png, " arra-sharp" if max(one.size) < _SHARP else ""
    if max(one.size) > _THUMB:
        with Image.open(BytesIO(png)) as image:
            image.thumbnail((_THUMB, _THUMB))
            file = BytesIO()
            image.save(file, format="PNG")
            png = file.getvalue()
    return f'<img class="arra-picture{sharp}" alt="" src="{_uri(png)}">'


def chips(prompts: Sequence[str]) -> str:
    """Prompts that can be taken by a click."""
    buttons = (
        f'<button type="button" data-prompt="{escape(text, quote=True)}">{escape(text)}</button>'
        for text in prompts
    )
    return f'<div class="arra-chips"><span class="arra-soft">Try</span>{"".join(buttons)}</div>'


def message(text: str, wrong: bool = False) -> str:
    """A line that says how it stands, or what went wrong."""
    if not text:
        return ""
    role = "alert" if wrong else "status"
    style = "arra-wrong" if wrong else "arra-said"
    return f'<p class="{style}" role="{role}">{escape(text)}</p>'


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _plain(text: str) -> str:
    """A safe part of a file's name."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    return "-".join(part for part in kept.split("-") if part)[:48] or "picture"
