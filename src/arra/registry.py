"""Names under which parts are saved, listed and contract-tested.

A registry maps a short name to a class. It exists for two callers only: loading a saved part (the
name stands in its `config.json`) and the contract tests, which run over every entry. Code that
knows which part it wants imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from arra.errors import InputError

T = TypeVar("T", bound=type)


class Registry:
    """Classes of one kind by name, in the order in which they were registered."""

    def __init__(self, kind: str):
        self.kind = kind
        self._classes: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator: file the class under `name` and set `cls.registered_name`."""

        def file(cls: T) -> T:
            if name in self._classes:
                raise ValueError(f"two {self.kind}s are registered as {name!r}")
            self._classes[name] = cls
            cls.registered_name = name  # type: ignore[attr-defined]
            return cls

        return file

    def __getitem__(self, name: str) -> Any:
        try:
            return self._classes[name]
        except KeyError:
            known = ", ".join(self._classes)
            raise InputError(f"no {self.kind} is named {name!r}; there are: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


codecs = Registry("codec")
drafters = Registry("drafter")
encoders = Registry("encoder")
generators = Registry("generator")
objectives = Registry("objective")
samplers = Registry("sampler")
text_encoders = Registry("text encoder")
readers = Registry("reader")
