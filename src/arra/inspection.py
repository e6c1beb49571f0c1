"""What a folder or file is: a saved part, a language model, a run, a result, or Arrow data."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from arra.errors import InputError
from arra.files import read_json

_LARGEST_HEADER = 100 << 20  # bytes; safetensors itself allows no longer header
_LARGEST_SIDE_FILE = 1 << 20  # bytes; larger JSON (tokenizers, histories) is listed, not shown


def describe(path: str | Path) -> dict[str, Any]:
    """What `path` is, as plain values: always `path` and `kind`, and more by kind.

    Only headers and small JSON files are read: weights are never loaded.
    """
    path = Path(path)
    if path.is_file():
        return {"path": str(path), **_describe_file(path)}
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    found = _describe_folder(path)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {"path": str(path), **found, "bytes": size}


def _describe_file(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return {"kind": "weights", **_weights([path])}
    if path.suffix == ".json":
        values = read_json(path)
        if isinstance(values, dict) and {"verdict", "measures"} <= values.keys():
            return {"kind": "result of a claim", **values}
        if isinstance(values, dict) and {"arms", "seconds"} <= values.keys():
            return {"kind": "report of a run", **_summary_of_report(values)}
    raise InputError(
        f"{path}: not a file that arra knows; expected .safetensors, result.json or report.json"
    )


def _describe_folder(folder: Path) -> dict[str, Any]:
    # By the file that only this kind of folder has; report.json, say, stands in stores and runs.
    for name, describer in _BY_FILE.items():
        if (folder / name).is_file():
            values = read_json(folder / name)
            if isinstance(values, dict):
                return describer(folder, values)
    if (folder / ".work").is_dir():
        return {"kind": "prepared store, not finished", "next": "run the same arra prepare again"}
    if (folder / "report.json").is_file():
        report = read_json(folder / "report.json")
        return {"kind": "run", **_summary_of_report(report if isinstance(report, dict) else {})}
    weights = _weights(sorted(folder.glob("*.safetensors")))
    arrow = sorted(folder.rglob("*.arrow"))
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        if not isinstance(config, dict):
            raise InputError(f"{folder / 'config.json'}: expected an object")
        if {"kind", "name", "config"} <= config.keys():
            return {**config, **weights}
        if "model_type" in config:
            kept = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")
            shown = {key: config[key] for key in kept if key in config}
            return {"kind": "language model", **shown, **weights, "files": _side_files(folder)}
    if arrow:
        rows = {str(file.relative_to(folder)): _arrow_rows(file) for file in arrow}
        return {"kind": "prepared data", "rows": rows, "files": _side_files(folder)}
    if weights["parameters"]:
        return {"kind": "weights", **weights, "files": _side_files(folder)}
    raise InputError(
        f"{folder}: not a folder that arra knows; expected a saved codec, encoder or generator, a "
        "checkpoint, a prepared store, a run, generated pictures or an evaluation"
    )


def _describe_store(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    settings = values.get("settings") or {}
    codec, encoders = settings.get("codec") or {}, settings.get("encoders") or {}
    return {
        "kind": "prepared store",
        "rows": values.get("rows"),
        "bad_rows": values.get("bad_rows"),
        "picture": settings.get("picture"),
        "source": _short((settings.get("source") or {}).get("identity")),
        "codes": values.get("codes_shape"),
        "codec": {name: codec.get(name) for name in ("name", "vocabulary", "fingerprint")},
        "features": values.get("feature_shapes"),
        "encoders": {
            name or "(unnamed)": {key: encoder.get(key) for key in ("encoder", "model", "weights")}
            for name, encoder in encoders.items()
        },
        "tokenizer": settings.get("tokenizer"),
        "arra": values.get("arra"),
    }


def _describe_checkpoint(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    codec = folder / "codec" / "config.json"
    kept = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "dtype")
    return {
        "kind": "checkpoint",
        "generator": values.get("generator"),
        "grid": values.get("grid"),
        "tokens": values.get("vocabulary"),
        "codec": {
            "name": read_json(codec).get("name") if codec.is_file() else None,
            "fingerprint": values.get("codec"),
        },
        "language_model": {key: config[key] for key in kept if key in config},
        "adapter": values.get("adapted"),
        **_weights(sorted(folder.glob("*.safetensors"))),
    }


def _describe_run(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    steps = sorted(path.name for path in folder.glob("checkpoints/step-*"))
    finished = (folder / "model" / "arra.json").is_file()
    return {
        "kind": "run",
        "finished": finished,
        "store": values.get("store"),
        "checkpoints": steps,
        "log": _last_line(folder / "log.jsonl"),
        "settings": values.get("decides"),
        **({"model": _describe_folder(folder / "model")} if finished else {}),
    }


def _describe_generated(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    manifest = folder / "manifest.jsonl"
    count = len(manifest.read_bytes().splitlines()) if manifest.is_file() else 0
    return {**values, "kind": "generated pictures", "pictures": count}


def _describe_benchmark(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    kept = ("kind", "layout", "prompts", "samples", "seeds", "side", "complete", "score_with")
    return {key: values.get(key) for key in kept}


def _describe_evaluation(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    measures = values.get("measures") or []
    shown = {m["name"]: m.get("value") for m in measures if isinstance(m, dict) and "name" in m}
    return {"kind": "evaluation", "checkpoint": values.get("checkpoint"), "measures": shown}


_BY_FILE = {
    "store.json": _describe_store,
    "run.json": _describe_run,
    "arra.json": _describe_checkpoint,
    "evaluation.json": _describe_evaluation,
    "benchmark.json": _describe_benchmark,
    "generation.json": _describe_generated,
}


def _short(identity: Any) -> Any:
    """The source of a store without its nested settings."""
    if not isinstance(identity, dict):
        return identity
    return {key: value for key, value in identity.items() if not isinstance(value, (dict, list))}


def _last_line(path: Path) -> Any:
    """The last whole entry of a JSON-lines file, or None; only its end is read."""
    if not path.is_file():
        return None
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - 65536))
        lines = handle.read().splitlines()
    for line in reversed(lines):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return None


def _weights(files: Iterable[Path]) -> dict[str, Any]:
    """How many parameters lie in safetensors files, and of which types."""
    parameters, types = 0, set()
    for file in files:
        for name, entry in _safetensors_header(file).items():
            if name != "__metadata__":
                parameters += prod(entry["shape"])
                types.add(entry["dtype"])
    return {"parameters": parameters, "dtypes": sorted(types)}


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The header: eight bytes of length (little-endian), then JSON. `InputError` if damaged."""
    with open(path, "rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_LARGEST_HEADER, path.stat().st_size - 8):
            raise InputError(f"{path}: damaged or truncated: not a safetensors header")
        text = handle.read(length)
    try:
        header = json.loads(text)
        for name, entry in header.items():
            if name != "__metadata__":
                prod(entry["shape"]), str(entry["dtype"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged: the safetensors header is not as expected") from error
    return header


def _arrow_rows(path: Path) -> int:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        for opener in (pa.ipc.open_file, pa.ipc.open_stream):
            try:
                reader = opener(source)
            except pa.ArrowInvalid:
                source.seek(0)
                continue
            if hasattr(reader, "num_record_batches"):
                batches = range(reader.num_record_batches)
                return sum(reader.get_batch(index).num_rows for index in batches)
            return sum(batch.num_rows for batch in reader)
    raise InputError(f"{path}: damaged or truncated: not an Arrow file")


def _side_files(folder: Path) -> dict[str, Any]:
    """The small JSON files of a folder but for `config.json`; None stands for a large one."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.json")):
        if file.name != "config.json":
            small = file.stat().st_size <= _LARGEST_SIDE_FILE and "tokenizer" not in file.name
            found[file.name] = read_json(file) if small else None
    return found


def _summary_of_report(report: dict[str, Any]) -> dict[str, Any]:
    kept = ("seconds", "arms", "reader_error", "versions", "machine")
    return {key: report[key] for key in kept if key in report}
