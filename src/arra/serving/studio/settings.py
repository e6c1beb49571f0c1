"""What the page asks for and what it lets through: one wish, checked, as requests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from arra.data.captions import clean_caption
from arra.errors import InputError
from arra.files import to_plain
from arra.labels import label_of
from arra.settings import GuidanceSchedule, SamplingConfig

SCHEDULES: tuple[str, ...] = get_args(GuidanceSchedule)
SEEDS = 2**53
"""Seeds of the page are below this: browsers count no further exactly."""
_MOST = 8
_FILE_BYTES = 32 << 20
_UNREADABLE = (
    *(OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError),
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class StudioSettings:
    """The part of a server's configuration that the page needs."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """What the fields hold at first."""
    pictures: int = _MOST
    """Most pictures of one wish, of each model."""
    prompt_characters: int = 2000
    """Longest prompt."""
    timeout: float = 300.0
    """Seconds after which pictures that are not drawn yet are given up."""
    studio_store: Path | None = None
    """A prepared store, whose features the view of the alignment is measured with."""
    studio_encoder: Path | None = None
    """The encoder that made these features; None: the one in STORE.parts."""

    @classmethod
    def of(cls, config: Any) -> StudioSettings:
        """The fields of `config` that have the same names; the others as they are here."""
        names = cls.__dataclass_fields__
        values = {name: getattr(config, name) for name in names if hasattr(config, name)}
        made = cls(**values)
        return cls(**{**vars(made), "pictures": min(made.pictures, _MOST)})


@dataclass(frozen=True)
class Wish:
    """What somebody wants to see: `count` pictures of each model, with seeds that follow."""

    prompt: str
    models: tuple[str, ...]
    seed: int
    count: int
    sampling: SamplingConfig
    slow: bool = True
    """Show every step, for long enough to be seen."""


def wish(values: Mapping[str, Any], settings: StudioSettings, models: tuple[str, ...]) -> Wish:
    """The wish in the fields of the page; `models` are those that are served.

    Raises `InputError` naming the field that cannot be taken.
    """
    raw = values["prompt"]
    if not isinstance(raw, str) or not raw.strip():
        raise InputError("Write a prompt first: say what the picture should show")
    if len(raw) > settings.prompt_characters:
        raise InputError(
            f"prompt: {len(raw)} characters, expected {settings.prompt_characters} at most"
        )
    prompt = clean_caption(raw, "prompt")
    chosen = tuple(name for name in models if name in (values["models"] or ()))
    if not chosen:
        raise InputError("Models: choose one at least")
    count = _whole(values["count"], "Pictures", 1, settings.pictures)
    seed = _whole(values["seed"], "Seed", 0, SEEDS - count)
    sampling = SamplingConfig(
        guidance=_number(values["guidance"], "Guidance"),
        guidance_schedule=_schedule(values["guidance_schedule"]),
        temperature=_number(values["temperature"], "Temperature"),
        top_k=_whole(values["top_k"], "Top-k", 0, 1 << 20),
        top_p=_number(values["top_p"], "Top-p"),
    )
    return Wish(prompt, chosen, seed, count, sampling, bool(values["slow"]))


def file_label(
    prompt: str, seed: int, sampling: SamplingConfig, model: str, checkpoint: str, precision: str
) -> dict[str, Any]:
    """What a downloaded picture says of itself."""
    return {
        "prompt": prompt,
        "seed": seed,
        "sampling": to_plain(sampling),
        "checkpoint": checkpoint,
        "model": model,
        "precision": precision,
    }


def settings_in(file: Path) -> tuple[str, int, SamplingConfig, str]:
    """(prompt, seed, sampling, model) of a PNG that arra made; `InputError` for another file."""
    import json

    none = InputError(f"{file.name}: not a picture that arra drew, or its settings were removed")
    try:
        if file.stat().st_size > _FILE_BYTES:
            raise none
        label = label_of(file)
        plain = json.loads(label["sampling"])
        known = SamplingConfig.__dataclass_fields__
        sampling = SamplingConfig(**{k: v for k, v in plain.items() if k in known})
        _schedule(sampling.guidance_schedule)
        return label["prompt"], int(label["seed"]), sampling, label.get("model", "")
    except InputError as error:
        raise none from error
    except _UNREADABLE as error:
        raise none from error


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name}: expected a number")
    return float(value)


def _whole(value: Any, name: str, low: int, high: int) -> int:
    number = _number(value, name)
    if not low <= number <= high or number != int(number):
        raise InputError(f"{name}: {value}, expected a whole number from {low} to {high}")
    return int(value)


def _schedule(value: Any) -> Any:
    if value not in SCHEDULES:
        raise InputError(f"Schedule: {value!r}, expected {', '.join(SCHEDULES)}")
    return value
