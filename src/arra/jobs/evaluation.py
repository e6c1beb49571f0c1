"""The job of `arra evaluate`: what a checkpoint's pictures, or any pictures, are worth.

What is measured stands in the table of `arra.jobs.evaluation_metrics`. What cannot be measured (too
few pictures, no store, no towers) is listed with the reason; nothing is left out silently.
"""

from __future__ import annotations

import time
from typing import Any

from arra.environment import machine_info, versions
from arra.files import atomic_file, to_plain, write_json
from arra.jobs.console import choose_device, finite
from arra.jobs.evaluation_config import Evaluation
from arra.jobs.evaluation_metrics import METRICS
from arra.jobs.evaluation_report import as_markdown, notes_on, warnings_on
from arra.jobs.evidence import Evidence
from arra.metrics.measured import Measured
from arra.text_to_image import quiet_transformers

RESULT, PAGE = "evaluation.json", "evaluation.md"


def evaluate(job: Evaluation) -> dict[str, Any]:
    """Evaluate and write `evaluation.json` and `evaluation.md`; returns what the first holds.

    Raises `InputError` and `ProvenanceError` where checkpoint, store and pictures do not fit.
    """
    with quiet_transformers():
        result = _measure(Evidence(job, choose_device(job.device)))
    write_json(job.out / RESULT, result)
    with atomic_file(job.out / PAGE) as temporary:
        temporary.write_text(as_markdown(result), encoding="utf-8")
    return result


def _measure(evidence: Evidence) -> dict[str, Any]:
    """Every row of the table of measures, or the reason why it was skipped."""
    measures: list[Measured] = []
    skipped: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for metric in METRICS:
        start = time.monotonic()
        if (why := metric.missing(evidence)) is not None:
            skipped[metric.name] = why
        else:
            measures += metric.run(evidence, evidence.rng(metric.name))
        seconds[metric.name] = round(time.monotonic() - start, 3)
    model, drawn, real = evidence.model, evidence.found, evidence.real
    return finite(
        to_plain(
            {
                "kind": "evaluation",
                "checkpoint": None if model is None else model.fingerprint(),
                "settings": evidence.job,
                "pictures": len(drawn),
                "drawn": {"what": drawn.what, **drawn.facts},
                "real": {"what": real.what, "pictures": len(real), **real.facts},
                "sides": evidence.sides,
                "warnings": warnings_on(evidence),
                "notes": notes_on(evidence, measures),
                "measures": measures,
                "skipped": skipped,
                **evidence.extra,
                "seconds": seconds,
                "versions": versions(),
                "machine": dict(machine_info()),
            }
        )
    )


__all__ = ["PAGE", "RESULT", "Evaluation", "evaluate"]
