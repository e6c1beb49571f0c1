"""The view of the alignment: measured once, behind the drawing, and shown as it comes."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arra.data.store import PreparedStore
from arra.data.subset import Subset
from arra.errors import ArraError, InputError
from arra.generators.base import Batch, Generator
from arra.metrics.layers import FEWEST, LayerAlignment, alignment_by_layer
from arra.report.charts import Series, line_chart
from arra.report.heat import heat_grid, heat_map
from arra.serving.service import Service, Workshop
from arra.settings import BatchConfig, feature_name

log = logging.getLogger("arra.serving")

_PICTURES, _BATCH = 360, 16
_PAUSE = 2.0  # seconds for which a batch waits for a moment in which nothing is drawn
_ROWS = 12  # layers that are shown


class Measuring:
    """Measures every model that is served on pictures of a store, in a thread of its own.

    In small batches, between which it waits for pauses of the workshop: who draws comes first.
    """

    def __init__(self, workshop: Workshop, folder: Path | None):
        self.workshop, self.folder = workshop, folder
        self.found: dict[str, LayerAlignment] = {}
        self.failed: dict[str, str] = {}
        self.finished = folder is None
        self.progress = ""
        self.seconds = 0.0
        self.captions: list[str] = []
        """Some of the store's, to try."""
        self.encoder = ""
        self.names: list[str] = []
        """Of the features."""
        self.identity: dict[str, Any] = {}
        """Of the encoder that made them, as the store has it."""
        self.apart: dict[str, Generator] = {}
        """What is measured, by the names of the models."""
        self._store: PreparedStore | None = None
        if folder is not None:
            self._store = PreparedStore.open(folder)
            self.names = self._features(self._store)
            self.captions = _prompts(self._store)

    def _features(self, store: PreparedStore) -> list[str]:
        """The global features of the store's first encoder that has some."""
        shapes = store.provenance.feature_shapes
        for encoder, identity in store.provenance.settings.encoders.items():
            names = [feature_name(encoder, kind) for kind in ("cls", "mean")]
            if there := [name for name in names if name in shapes]:
                self.identity = dict(identity)
                self.encoder = encoder or str(identity.get("model") or identity.get("encoder"))
                return there
        raise InputError(
            f"{store.folder}: holds no features (cls, mean); prepare it with an encoder, such as "
            "`arra prepare ... --train-encoder masked`"
        )

    def start(self) -> None:
        """Begin; returns at once."""
        if not self.finished:
            threading.Thread(target=self._run, name="arra-alignment", daemon=True).start()

    def _run(self) -> None:
        began = time.monotonic()
        for name, service in self.workshop.services.items():
            try:
                self.found[name] = self._measured(name, service)
            except ArraError as error:
                self.failed[name] = str(error)
            except Exception:
                log.exception("%s: the alignment could not be measured", name)
                self.failed[name] = "could not be measured; the server's log says why"
        self.seconds = time.monotonic() - began
        self.finished = True

    def _measured(self, name: str, service: Service) -> LayerAlignment:
        store, generator = self._store, _apart(service.model.generator)
        self.apart[name] = generator
        assert store is not None
        store.check(codec=service.model.codec)
        count = min(_PICTURES, len(store))
        if count < FEWEST:
            raise InputError(f"{store.folder}: {count} pictures, expected {FEWEST} or more")
        rows = np.random.default_rng(0).permutation(len(store))[:count]
        (caption,), (ids,) = store.captions(rows[:1]), store.rows(rows[:1], ()).text_ids
        if generator.tokenizer is not None and generator.caption_ids(caption) != list(ids):
            raise InputError(f"{store.folder}: made with another tokenizer than this model's")
        stored = store.rows(rows, self.names)
        features = torch.cat([stored.features[name] for name in self.names], dim=1)
        batches = generator.batches(Subset(store, rows), BatchConfig(size=1), ())
        paused = _InPauses(list(batches.in_order(_BATCH)), self, name)
        return alignment_by_layer(generator, paused, features)

    def wait(self) -> None:
        """Until nothing is drawn, but not for long."""
        until = time.monotonic() + _PAUSE
        while not self.workshop.idle and time.monotonic() < until:
            time.sleep(0.02)


class _InPauses:
    """Batches that come when nobody draws."""

    def __init__(self, batches: Sequence[Batch], measuring: Measuring, name: str):
        self.batches, self.measuring, self.name, self.turn = batches, measuring, name, 0

    def __iter__(self) -> Iterator[Batch]:
        self.turn += 1
        for number, batch in enumerate(self.batches):
            share = (number + len(self.batches) * (self.turn - 1)) / (2 * len(self.batches))
            self.measuring.progress = f"{self.name}: {share:.0%}"
            self.measuring.wait()
            yield batch


def _apart(generator: Generator) -> Generator:
    """The same weights in modules of their own: what is hung on these is not seen by the workshop,
    which may be drawing with the others."""
    shared = [*generator.parameters(), *generator.buffers()]
    return copy.deepcopy(generator, {id(tensor): tensor for tensor in shared})


def _prompts(store: PreparedStore) -> list[str]:
    """A few captions of different lengths."""
    found = dict.fromkeys(store.captions(range(min(64, len(store)))))
    texts = sorted((text for text in found if len(text) <= 60), key=len)
    return [texts[i * (len(texts) - 1) // 3] for i in range(4)] if len(texts) > 3 else texts


# ---- as a page -----------------------------------------------------------------------------------


def alignment_page(measuring: Measuring) -> str:
    """What is known so far, as HTML."""
    if measuring.folder is None:
        return _HOW
    parts = [f'<div class="arra-view"><p>{_WHAT}</p>']
    if not measuring.finished:
        share = escape(measuring.progress or "about to begin")
        parts.append(f'<p role="status" class="arra-said">Measuring in the pauses. {share}</p>')
    for name, why in measuring.failed.items():
        parts.append(f'<p class="arra-wrong" role="alert">{escape(name)}: {escape(why)}</p>')
    if measuring.found:
        parts += _figures(measuring)
    return "".join([*parts, "</div>"])


def _figures(measuring: Measuring) -> list[str]:
    found = list(measuring.found.items())
    layers = [Series(n, f.layers, f.by_layer.tolist()) for n, f in found]
    chance = Series("wrong pictures", found[0][1].layers, found[0][1].control.tolist())
    places = []
    for name, one in found:
        best = int(one.by_layer.argmax())
        places.append(
            Series(
                f"{name}, layer {one.layers[best]}",
                range(1, one.by_place.shape[1] + 1),
                one.by_place[best].tolist(),
            )
        )
    parts = [
        '<div class="arra-charts">',
        _chart("By layer", [*layers, chance], "layer, all positions together"),
        _chart("By position, in the best layer of each", places, "position of the code"),
        "</div>",
    ]
    top = max(0.05, max(float(np.nanmax(one.by_place)) for _, one in found))
    parts.append('<h3>Layer by layer, position by position</h3><div class="arra-charts">')
    for name, one in found:
        parts.append(_map(name, one, top))
    parts.append("</div>")
    for name, one in found:
        parts.append(_grids(name, one, top, measuring.workshop.services[name]))
    parts.append(_legend(top))
    parts.append(_numbers(found))
    one = found[0][1]
    took = f", in {measuring.seconds:.0f} s" if measuring.finished else ""
    store = escape(measuring.folder.name if measuring.folder else "")
    parts.append(
        f'<p class="arra-soft">{one.pictures} pictures of the store “{store}”, {one.tested} '
        f"of them held back for the score; features of the encoder {escape(measuring.encoder)}"
        f"{took}. The dotted line is what a map to the features of other pictures reaches.</p>"
    )
    return parts


def _chart(title: str, series: Sequence[Series], x_label: str) -> str:
    keys = "".join(
        f'<li><i class="arra-key arm-{i}"></i>{escape(s.label)}</li>' for i, s in enumerate(series)
    )
    drawn = line_chart(series, title, x_label, outliers=True)
    return (
        f'<figure class="arra-chart"><figcaption><b>{escape(title)}</b></figcaption>{drawn}'
        f'<ul class="arra-keys">{keys}</ul></figure>'
    )


def _map(name: str, one: LayerAlignment, top: float) -> str:
    rows = chosen_layers(len(one.layers))
    labels = [str(one.layers[row]) for row in rows]
    drawn = heat_map(
        one.by_place[rows],
        labels,
        top,
        f"{name}: score by layer and position",
        "position of the code",
        "layer",
    )
    return (
        f'<figure class="arra-chart"><figcaption><b>{escape(name)}</b></figcaption>{drawn}</figure>'
    )


def _grids(name: str, one: LayerAlignment, top: float, service: Service) -> str:
    """The score where the code stands in the picture, layer after layer."""
    grids = service.model.generator.grids
    if len(grids) != 1:
        return ""
    cells = [
        f"<figure>{heat_grid(one.by_place[row].reshape(grids[0]), top, f'{name}, layer {n}')}"
        f"<figcaption>layer {n}: {one.by_layer[row]:.2f}</figcaption></figure>"
        for row in chosen_layers(len(one.layers), 6)
        for n in [one.layers[row]]
    ]
    return (
        f'<div class="arra-chart"><b>{escape(name)}, where the codes stand</b>'
        f'<div class="arra-grids">{"".join(cells)}</div></div>'
    )


def _legend(top: float) -> str:
    squares = "".join(
        f'<rect class="heat" x="{20 * i}" y="0" width="19" height="12" '
        f'fill-opacity="{0.05 + 0.95 * i / 7:.2f}"/>'
        for i in range(8)
    )
    return (
        '<p class="arra-legend"><span>0</span><svg viewBox="0 0 160 12" width="160" height="12" '
        f'aria-hidden="true">{squares}</svg><span>{top:.2f}</span></p>'
    )


def _numbers(found: Sequence[tuple[str, LayerAlignment]]) -> str:
    head = "".join(f'<th scope="col">{escape(n)}</th><th scope="col">chance</th>' for n, _ in found)
    layers = max((one.layers for _, one in found), key=len)
    rows = []
    for row, layer in enumerate(layers):
        cells = "".join(
            f"<td>{one.by_layer[row]:.3f}</td><td>{one.control[row]:.3f}</td>"
            if row < len(one.layers)
            else "<td></td><td></td>"
            for _, one in found
        )
        rows.append(f'<tr><th scope="row">{layer}</th>{cells}</tr>')
    return (
        '<details><summary>The numbers</summary><div class="arra-scroll"><table><thead><tr>'
        f'<th scope="col">layer</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        "</details>"
    )


def chosen_layers(count: int, most: int = _ROWS) -> list[int]:
    """At most so many of `count` rows, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


_WHAT = (
    "How much of the frozen encoder's view of the <em>whole</em> picture can be read from the "
    "model's hidden states, by a linear map that is fitted to some pictures and scored on others "
    "(R²: 1 is all of it, 0 is nothing). The model has never seen the picture that it is about to "
    "draw: it knows the caption and the codes so far."
)
_HOW = (
    '<div class="arra-view"><p>'
    + _WHAT
    + "</p><p>To see it, start the server with a prepared store. The one that the models were "
    "trained on has all that is needed; one of other pictures, with the same codec, tokenizer and "
    "encoder, says more.</p><pre>arra serve CHECKPOINT --studio --studio-store STORE</pre>"
    '<p class="arra-soft">It is measured once, in the pauses between drawings.</p></div>'
)
