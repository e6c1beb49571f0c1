"""The alignment of the picture that is being drawn: by layer and position, as far as it is drawn.

A thread of its own looks at what is drawn, one pass over the codes so far at a time, and rests
longer than it works: whoever draws does not wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arra.data.store import StoredRows
from arra.encoders.base import Encoder
from arra.errors import ArraError, InputError
from arra.files import to_plain
from arra.generators.base import Generator
from arra.metrics.layers import picture_alignment
from arra.pixels import stills
from arra.report.heat import heat_map
from arra.serving.studio.alignment import Measuring, chosen_layers
from arra.serving.studio.drawing import Show
from arra.settings import BatchConfig

log = logging.getLogger("arra.serving")

_REST = 4.0
"""Seconds of rest for each second of work."""
_WAITING = 16
"""Pictures that wait to be looked at; more push the oldest out."""
_TOP = 1.0


@dataclass(frozen=True)
class Scores:
    """How well the encoder's view of a picture is read from the states that drew it."""

    values: np.ndarray
    """(L, P) cosine by layer and position; NaN where no code is drawn yet."""
    unit: int
    """Units that were drawn."""
    whole: bool
    """Whether the view is that of the whole picture; else of what was drawn, the rest in grey."""


class Live:
    """Scores the pictures that somebody looks at."""

    def __init__(self, measuring: Measuring, folder: Path | None = None):
        """`folder` is that of the encoder which made the store's features; None: the one that was
        trained with the store, where it is there. `InputError` where `folder` cannot be used."""
        self.measuring = measuring
        self.off = ""
        """Why nothing is scored; empty where pictures are."""
        self._encoder: Encoder | None = None
        self._waiting: deque[Show] = deque(maxlen=_WAITING)
        self._changed = threading.Condition()
        if measuring.folder is None:
            if folder is not None:
                raise InputError(
                    "--studio-encoder: needs the store whose features it made, --studio-store"
                )
            self.off = "start the server with --studio-store STORE"
            return
        own = measuring.folder.with_name(f"{measuring.folder.name}.parts") / "encoder"
        try:
            if folder is None and not own.is_dir():
                raise InputError(f"{own}: no encoder there; name the store's with --studio-encoder")
            self._encoder = Encoder.from_pretrained(folder or own)
            if to_plain(self._encoder.identity()) != to_plain(measuring.identity):
                raise InputError(f"{folder or own}: not the encoder of the store")
        except ArraError as error:
            if folder is not None:
                raise
            self._encoder, self.off = None, str(error)

    def start(self) -> None:
        """Begin; returns at once."""
        if self._encoder is not None:
            threading.Thread(target=self._run, name="arra-live", daemon=True).start()

    def look(self, shows: Sequence[Show]) -> None:
        """Score the first of these of each model when there is time; returns at once."""
        if self._encoder is None:
            return
        with self._changed:
            for show in first_of_each(shows):
                if self.due(show) and show not in self._waiting:
                    self._waiting.append(show)
            self._changed.notify()

    def due(self, show: Show) -> bool:
        """Whether there is, or will be, more to score of a picture than was scored."""
        if self.off or show.service.name not in self.measuring.found:
            return False
        drawing, scores = show.drawing, show.scores
        if drawing.state in ("failed", "cancelled") or (scores is not None and scores.whole):
            return False
        return drawing.state == "done" or scores is None or drawing.unit > scores.unit

    def _run(self) -> None:
        torch.set_num_threads(1)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                show = self._waiting.popleft()
            began = time.perf_counter()
            try:
                show.scores = self.scores(show) or show.scores
            except Exception as error:
                log.exception("%s: the picture's alignment could not be scored", show.service.name)
                self.off = str(error) if isinstance(error, ArraError) else "the log says why"
            del show  # nobody may wait for its pictures here
            time.sleep(_REST * (time.perf_counter() - began))

    def scores(self, show: Show) -> Scores | None:
        """Of what is drawn now; None where nothing can be seen yet."""
        drawing, found = show.drawing, self.measuring.found[show.service.name]
        whole = drawing.state == "done"
        now = drawing.preview or (0, None)
        unit, picture = (drawing.units, drawing.picture) if whole else now
        if picture is None:
            return None
        generator = self.measuring.apart[show.service.name]
        codes = drawing.codes
        caption = drawing.request.caption
        ids = generator.caption_ids(caption) if caption is not None else []
        with torch.no_grad():
            row = _Row(ids, (codes if codes.is_floating_point() else codes.clamp(min=0)), generator)
            (batch,) = generator.batches(row, BatchConfig(size=1), ()).in_order(1)
            values = picture_alignment(generator, batch, found, self.feature(picture))
        if not whole:  # the state that predicts a code has seen those before it, and no other
            values[:, unit:] = np.nan
        return Scores(values, unit, whole)

    def feature(self, picture: np.ndarray) -> Tensor:
        """(D_F,) what the encoder says of a picture (H, W, 3), as the store has it."""
        assert self._encoder is not None
        (still,) = stills(picture[None])
        said = self._encoder.encode(self._encoder.preprocess([Image.fromarray(still)]))
        kinds = [name.rpartition("/")[2] for name in self.measuring.names]
        return torch.cat([said.aggregate("cls" if k == "cls" else "mean")[0] for k in kinds])


class _Row:
    """A store of one picture."""

    def __init__(self, ids: Sequence[int], codes: Tensor, generator: Generator):
        self.codes_shape = tuple(generator.codes_shape)
        self._row = StoredRows([list(ids)], codes.view(1, *self.codes_shape), {})

    def __len__(self) -> int:
        return 1

    def rows(self, indices: Sequence[int], features: Sequence[str] | None = None) -> StoredRows:
        """The row."""
        return self._row

    def text_lengths(self, indices: np.ndarray) -> np.ndarray:
        """(1,)."""
        return np.array([len(self._row.text_ids[0])])


def first_of_each(shows: Sequence[Show]) -> list[Show]:
    """The first picture of each model."""
    return list({show.service.name: show for show in reversed(shows)}.values())[::-1]


# ---- as a page -----------------------------------------------------------------------------------


def live_view(live: Live, shows: Sequence[Show]) -> str:
    """The scores of the pictures that are shown, as far as they are shown, as HTML."""
    if live.off:
        return _soft(f"The alignment of what is drawn is not shown: {live.off}.")
    parts = [_figure(show) for show in first_of_each(shows)]
    if not any(parts):
        if shows and not live.measuring.finished:
            return _soft("The alignment of what is drawn is shown once the store's is measured.")
        return ""
    return (
        '<section class="arra-view arra-live"><h3>What the states know of it</h3>'
        f'<div class="arra-charts">{"".join(parts)}</div>{_soft(_WHAT)}</section>'
    )


def _figure(show: Show) -> str:
    scores = show.scores
    if scores is None:
        return ""
    name, found = show.service.name, scores.values.copy()
    if show.stepwise:  # no further than the picture beside it
        found[:, show.unit :] = np.nan
    seen = np.isfinite(found).any(axis=0)
    if not seen.any():
        return ""
    by_layer = np.nanmean(found, axis=1)
    rows, best = chosen_layers(len(found)), int(np.nanargmax(by_layer))
    drawn = heat_map(
        found[rows],
        [str(row + 1) for row in rows],
        _TOP,
        f"{name}: agreement by layer and position, so far",
        "position of the code",
        "layer",
    )
    what = "the whole picture" if scores.whole else f"the picture at {scores.unit} codes"
    each = " · ".join(f"{row + 1}: {by_layer[row]:.2f}" for row in rows)
    return (
        f'<figure class="arra-chart" data-model="{escape(name, quote=True)}" '
        f'data-positions="{int(seen.sum())}" data-whole="{str(scores.whole).lower()}"><figcaption>'
        f"<b>{escape(name)}</b> best so far: layer {best + 1}, {by_layer[best]:.2f}</figcaption>"
        f'{drawn}<p class="arra-soft">Against {what}. By layer: {each}</p></figure>'
    )


def _soft(text: str) -> str:
    return f'<p class="arra-soft">{escape(text)}</p>'


_WHAT = (
    "The cosine between the encoder's view of this picture and what the map fitted to the store's "
    "pictures reads from each state, both from the mean picture's: 1 is the same, 0 is chance. "
    "Each state has seen the caption and the codes before its own."
)
