"""What a report says and shows: the format of `report.json`, the pictures, and their checks.

Accuracies and errors are shares between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import numpy as np

from arra.errors import InputError

PARTS = ("digit", "colour", "relation", "all")
"""What of a prompt is read from a picture; "all" is everything that the prompt says."""


class Interval(TypedDict):
    """A value with the ends of its interval; None where it could not be computed."""

    value: float | None
    low: float | None
    high: float | None


class Accuracy(TypedDict):
    """Shares of prompts, part by part."""

    digit: Interval
    colour: Interval
    relation: Interval
    all: Interval


class Frechet(Interval):
    """A Fréchet distance, in the features of one named encoder."""

    floor: float | None
    """The distance between two samples of real pictures of the same size."""
    encoder: str
    n: int
    """How many pictures were compared."""


class Point(TypedDict):
    """Losses by name at one step of training."""

    step: int
    losses: dict[str, float]


class Arm(TypedDict):
    """One trained model."""

    prompt_accuracy: Accuracy
    frechet: Frechet
    held_out_bits: float | Interval
    """Cross-entropy of held-out pictures, in bits per image token."""
    step_seconds: float | Interval
    """Time of one training step."""
    label: NotRequired[str]
    """How the page names the arm; by default "without alignment" and "with alignment"."""
    more: NotRequired[dict[str, float | Interval]]
    """Further measures, by the name under which the table shows them."""


class Trained(TypedDict):
    """One part that the run trained."""

    name: str
    """What it is, such as "codec"."""
    what: str
    """How it is built, in a phrase."""
    parameters: int
    steps: int


class Report(TypedDict):
    """Everything in `report.json`."""

    seconds: dict[str, float]
    """Wall-clock time of each stage, in order. If there is a "total", it is taken as their sum."""
    arms: dict[str, Arm]
    """At least "baseline" and "aligned"."""
    reader_error: Accuracy
    """How often the reader is wrong about real test scenes."""
    versions: dict[str, str]
    machine: dict[str, Any]
    settings: dict[str, Any]
    """The configuration, nested as it is."""
    history: dict[str, list[Point]]
    """Losses during training, for each arm."""
    prompts: NotRequired[int]
    """How many prompts the accuracies come from."""
    differences: NotRequired[dict[str, Interval]]
    """Aligned minus baseline on the same prompts and seeds, by part of the prompt; "all" is used by
    the page's first sentence."""
    trained: NotRequired[list[Trained]]


@dataclass(frozen=True)
class Pictures:
    """The pictures of a report. Every array is (N, H, W, 3) uint8."""

    captions: Sequence[str]
    """The N prompts."""
    arms: Mapping[str, np.ndarray]
    """What each arm drew of them, in the order in which the page shows the arms."""
    real: np.ndarray | None = None
    """Real scenes of the same prompts."""
    right: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    """For each arm, whether the reader found everything that the prompt says."""
    read: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For each arm, what the reader read, in words."""
    originals: np.ndarray | None = None
    """Real pictures that went through the codec, ..."""
    reconstructions: np.ndarray | None = None
    """... and what came out."""


def check_report(report: Mapping[str, Any]) -> None:
    """`InputError` with the path of the first key that `report` lacks or that has a wrong type."""
    for key in ("seconds", "arms", "reader_error", "versions", "machine", "settings", "history"):
        _object(report, key, "report")
    for stage, seconds in report["seconds"].items():
        _number(seconds, f"report.seconds.{stage}")
    for name in ("baseline", "aligned"):
        _object(report["arms"], name, "report.arms")
    for name, arm in report["arms"].items():
        where = f"report.arms.{name}"
        _accuracy(_object(arm, "prompt_accuracy", where), f"{where}.prompt_accuracy")
        frechet = _object(arm, "frechet", where)
        _interval(frechet, f"{where}.frechet")
        for key in ("floor", "encoder", "n"):
            _member(frechet, key, f"{where}.frechet")
        for key in ("held_out_bits", "step_seconds"):
            _number_or_interval(_member(arm, key, where), f"{where}.{key}")
        for key, value in arm.get("more", {}).items():
            _number_or_interval(value, f"{where}.more.{key}")
    _accuracy(report["reader_error"], "report.reader_error")
    for key, value in report.get("differences", {}).items():
        _interval(value, f"report.differences.{key}")


def labels(report: Report, pictures: Pictures) -> dict[str, str]:
    """How the arms are named for people."""
    usual = {
        "baseline": "without alignment",
        "aligned": "with alignment",
        "shuffled": "aligned to the wrong pictures",
    }
    names = [*report["arms"], *(name for name in pictures.arms if name not in report["arms"])]
    given = {name: arm["label"] for name, arm in report["arms"].items() if "label" in arm}
    return {name: given.get(name, usual.get(name, name)) for name in names}


def check_pictures(pictures: Pictures) -> None:
    """`InputError` when an array is not (N, H, W, 3) uint8 or numbers of pictures differ."""
    n = len(pictures.captions)
    arrays = {"real": pictures.real}
    arrays |= {f"arms[{name!r}]": array for name, array in pictures.arms.items()}
    for name, array in arrays.items():
        _picture_array(array, f"pictures.{name}", n)
    for kind, verdicts in (("right", pictures.right), ("read", pictures.read)):
        for name, values in verdicts.items():
            if len(values) != n:
                raise InputError(f"pictures.{kind}[{name!r}]: {len(values)} values, expected {n}")
    before, after = pictures.originals, pictures.reconstructions
    if (before is None) != (after is None):
        raise InputError("pictures: originals and reconstructions belong together, one is missing")
    if before is not None:
        _picture_array(before, "pictures.originals", len(before))
        _picture_array(after, "pictures.reconstructions", len(before))


def _picture_array(array: np.ndarray | None, where: str, n: int) -> None:
    if array is None:
        return
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or len(array) != n:
        shape = f"{array.dtype} {array.shape}"
        raise InputError(f"{where}: {shape}, expected uint8 ({n}, height, width, 3)")


def _member(values: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in values:
        raise InputError(f"{where}.{key}: missing")
    return values[key]


def _object(values: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = _member(values, key, where)
    if not isinstance(value, dict):
        raise InputError(f"{where}.{key}: expected an object, found {type(value).__name__}")
    return value


def _number(value: Any, where: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise InputError(f"{where}: expected a number, found {value!r}")


def _interval(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with value, low and high, found {value!r}")
    for key in ("value", "low", "high"):
        _number(_member(value, key, where), f"{where}.{key}")


def _number_or_interval(value: Any, where: str) -> None:
    (_interval if isinstance(value, dict) else _number)(value, where)


def _accuracy(values: dict[str, Any], where: str) -> None:
    for part in PARTS:
        _interval(_member(values, part, where), f"{where}.{part}")
