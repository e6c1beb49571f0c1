"""Numbers for Prometheus: requests and times as they come, what engines did when they are asked."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from arra.serving.requests import Drawing
from arra.serving.service import Workshop

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# Of `Service.stats`: its name, what it is called here, and what it is.
_GAUGES = (
    ("waiting", "arra_waiting_pictures", "Pictures that wait for a slot."),
    ("drawing", "arra_drawing_pictures", "Pictures that are being drawn."),
)
_COUNTERS = (
    ("pictures", "arra_pictures", "Pictures that were finished."),
    ("units", "arra_units", "Units that were drawn."),
    ("steps", "arra_steps", "Passes over the running batch."),
    ("rows", "arra_rows", "Rows of all passes; a guided picture has two."),
    ("wasted", "arra_wasted_rows", "Rows of passes that belonged to nobody."),
    ("prompts", "arra_prompt_tokens", "Tokens of prompts that were read."),
)


class _Engines(Collector):
    """What the services of a workshop counted themselves."""

    def __init__(self, workshop: Workshop):
        self._workshop = workshop

    def describe(self) -> list[Metric]:
        return list(self._families({}))

    def collect(self) -> Iterator[Metric]:
        yield from self._families(self._workshop.stats())

    def _families(self, stats: dict[str, dict[str, int]]) -> Iterator[Metric]:
        for kind, table in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for key, name, said in table:
                family = kind(name, said, labels=["model"])
                for model, numbers in stats.items():
                    family.add_metric([model], numbers[key])
                yield family


class Metrics:
    """All numbers of one server, in a registry of their own."""

    def __init__(self, workshop: Workshop):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "arra_requests",
            "Requests that were answered; status 499: the client went away before.",
            ["route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "arra_request_seconds",
            "Time from the first byte of a request to the last of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.waiting_seconds = Histogram(
            "arra_waiting_seconds",
            "Time that pictures waited for a slot.",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.picture_seconds = Histogram(
            "arra_picture_seconds",
            "Time from a picture's arrival to its end, of those that were finished.",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.ended = Counter(
            "arra_ended_pictures",
            "Pictures by how they ended: done, failed or cancelled.",
            ["model", "state"],
            registry=self.registry,
        )
        self.save_errors = Counter(
            "arra_save_errors",
            "Pictures that could not be written to the folder of --save.",
            registry=self.registry,
        )
        self.open_requests = Gauge(
            "arra_open_requests", "Requests that are being answered.", registry=self.registry
        )
        self.registry.register(_Engines(workshop))
        self.answering = 0
        """Requests for pictures and models that are being answered; pages that are open stay so."""

    def end(self, model: str, drawing: Drawing) -> None:
        """A drawing ended."""
        self.ended.labels(model, drawing.state).inc()
        if drawing.state == "done":
            self.waiting_seconds.labels(model).observe(drawing.began - drawing.arrived)
            self.picture_seconds.labels(model).observe(drawing.ended - drawing.arrived)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
