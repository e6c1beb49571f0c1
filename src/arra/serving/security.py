"""Who may ask, and how much: keys that are compared in constant time, and a bucket of tokens for
each client."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from arra.errors import InputError

_SHORTEST = 16
_MOST_BYTES = 1 << 20
_MOST_BUCKETS = 10_000


class Keys:
    """Keys and the names of who has them. Only digests are kept."""

    def __init__(self, digests: Mapping[str, bytes]):
        """`digests` are SHA-256, by the names of the clients."""
        self._digests = dict(digests)

    def __len__(self) -> int:
        return len(self._digests)

    @classmethod
    def read(cls, path: Path) -> Keys:
        """The keys of a file, one on each line: KEY, or NAME KEY, or sha256:HEX in a key's place;
        blank lines and those that begin with # are skipped. `InputError` naming a bad line."""
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise InputError(f"{path}: more than {_MOST_BYTES} bytes, expected a key a line")
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text ({error})") from error
        digests: dict[str, bytes] = {}
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) > 2:
                raise InputError(f"{path} line {number}: expected KEY or NAME KEY")
            name = words[0] if len(words) == 2 else f"key-{number}"
            if name in digests:
                raise InputError(f"{path} line {number}: the name {name} is there twice")
            digests[name] = _digest_of(words[-1], f"{path} line {number}")
        if not digests:
            raise InputError(f"{path}: no key in it, so nobody could draw; write one on a line")
        return cls(digests)

    def client(self, authorization: str) -> str | None:
        """Whose key a header `Authorization` holds (Bearer, or Basic with the key as password)."""
        key = _presented(authorization)
        digest = hashlib.sha256(key).digest()
        found = None
        for name, known in self._digests.items():  # all of them, so that time tells nothing
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _digest_of(word: str, place: str) -> bytes:
    if word.startswith("sha256:"):
        if not re.fullmatch("[0-9a-fA-F]{64}", word[7:]):
            raise InputError(f"{place}: expected 64 hex digits behind sha256:")
        return bytes.fromhex(word[7:])
    if len(word) < _SHORTEST:
        raise InputError(
            f"{place}: a key of {len(word)} characters can be guessed, expected {_SHORTEST} or more"
        )
    return hashlib.sha256(word.encode("utf-8")).digest()


def _presented(authorization: str) -> bytes:
    """The key in a header; empty where there is none. Headers are latin-1, keys UTF-8."""
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


@dataclass
class _Bucket:
    tokens: float
    filled: float


class RateLimit:
    """A bucket of tokens for each client, which fills as time goes; a picture takes one.

    Clients whose bucket is full again are forgotten, so that memory is bounded by those who ask.
    """

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic):
        """`per_minute` 0 lets everybody in; `burst` tokens fit into a bucket."""
        self.rate, self.burst, self._clock = per_minute / 60.0, burst, clock
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def take(self, client: str, tokens: int) -> float:
        """0 where the client may go on; else the seconds after which it may, and nothing taken."""
        if not self.rate:
            return 0.0
        with self._lock:
            bucket = self._filled(client)
            if bucket.tokens < tokens:
                return (tokens - bucket.tokens) / self.rate
            bucket.tokens -= tokens
            return 0.0

    def give_back(self, client: str, tokens: int) -> None:
        """Tokens of a request that was not taken after all."""
        if self.rate:
            with self._lock:
                bucket = self._filled(client)
                bucket.tokens = min(bucket.tokens + tokens, self.burst)

    def _filled(self, client: str) -> _Bucket:
        now = self._clock()
        if client not in self._buckets and len(self._buckets) >= _MOST_BUCKETS:
            self._forget(now)
        bucket = self._buckets.setdefault(client, _Bucket(self.burst, now))
        bucket.tokens = min(bucket.tokens + (now - bucket.filled) * self.rate, self.burst)
        bucket.filled = now
        return bucket

    def _forget(self, now: float) -> None:
        """Drop the full buckets, and where there is none the one that was touched longest ago."""
        full = [
            client
            for client, bucket in self._buckets.items()
            if bucket.tokens + (now - bucket.filled) * self.rate >= self.burst
        ]
        oldest = min(self._buckets, key=lambda client: self._buckets[client].filled)
        for client in full or [oldest]:
            del self._buckets[client]
