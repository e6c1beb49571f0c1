"""How a server draws, whom it lets in, and how much of anything it takes. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from arra.errors import InputError
from arra.settings import Decoder, Precision, SamplingConfig

# Frozen, so that one object can be the default of every configuration.
_SAMPLING = SamplingConfig()


@dataclass(frozen=True)
class ServiceConfig:
    """How many pictures a service draws at once, and how many may wait."""

    slots: int = 64
    """Rows of the running batch; a guided picture has two. The cache is made for so many."""
    queue: int = 256
    """Pictures that may wait for a slot; more are refused."""
    prompt_tokens: int = 256
    """Longest prompt."""
    decoder: Decoder = "auto"
    """As in `arra generate`; "plain" draws in whole batches."""
    precision: Precision = "fp32"
    """As in `arra generate`."""

    def __post_init__(self) -> None:
        for name, low in {"slots": 2, "queue": 1, "prompt_tokens": 1}.items():
            if (value := getattr(self, name)) < low:
                raise InputError(f"ServiceConfig.{name}: {value}, expected {low} or more")


@dataclass(frozen=True)
class ServerConfig:
    """Where a server listens, whom it lets in, and its limits."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is all of the machine's, and wants --keys."""
    port: int = 8000
    """Port to listen at; 0 picks a free one."""
    keys: Path | None = None
    """A file with a key on each line, alone, behind a name and a space, or as sha256:HEX. Without
    the file everybody may draw."""
    rate: float = 0.0
    """Pictures a minute that one client (a key; without keys, an address) may ask for; 0: any."""
    burst: int = 20
    """Pictures that a client who has waited may ask for at once, with --rate."""
    pictures: int = 10
    """Most pictures of one request (n)."""
    prompt_characters: int = 2000
    """Longest prompt in characters."""
    body_bytes: int = 64 << 10
    """Largest body of a request."""
    body_seconds: float = 20.0
    """Longest time that the body of a request may take to arrive."""
    timeout: float = 300.0
    """Seconds after which a request that is not answered ends with an error."""
    patience: float = 30.0
    """Seconds that a server which was told to stop goes on drawing what it took."""
    threads: int = 0
    """Threads that compute each product of matrices; 0: one a core. Small models answer sooner with
    1, which leaves the other cores to clients and to the page."""
    connections: int = 1000
    """Connections at once; more are turned away."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may call the server from a browser, such as https://example.org."""
    save: Path | None = None
    """Folder to which every picture is written, too."""
    log_prompts: bool = False
    """Write prompts into the log."""
    studio: bool = False
    """Serve the page on which one sees the model draw."""
    studio_store: Path | None = None
    """A prepared store, with whose features the page measures the alignment."""
    studio_encoder: Path | None = None
    """Folder of the encoder that made these features, saved by arra: what is being drawn is scored
    with it. Default: the one that was trained with the store, in STORE.parts/encoder."""
    sampling: Annotated[SamplingConfig, arg(name="")] = _SAMPLING
    """How pictures are drawn where a request does not say."""

    def __post_init__(self) -> None:
        checks = (
            ("port", 0 <= self.port < 65536, "0 to 65535"),
            ("rate", 0.0 <= self.rate < 1e9, "0 (any) or more"),
            ("pictures", self.pictures >= 1, "1 or more"),
            ("prompt_characters", 1 <= self.prompt_characters <= 4096, "1 to 4096"),
            ("body_bytes", self.body_bytes >= 1024, "1024 or more"),
            ("body_seconds", 0.0 < self.body_seconds < 1e9, "more than 0"),
            ("timeout", 0.0 < self.timeout < 1e9, "more than 0"),
            ("patience", 0.0 <= self.patience < 1e9, "0 or more"),
            ("threads", self.threads >= 0, "0 (one a core) or more"),
            ("connections", self.connections >= 1, "1 or more"),
        )
        for name, fine, expected in checks:
            if not fine:  # NaN fails every comparison, and so lands here
                raise InputError(f"ServerConfig.{name}: {getattr(self, name)}, expected {expected}")
        if self.rate and self.burst < self.pictures:
            raise InputError(
                f"ServerConfig.burst: {self.burst}, expected --pictures ({self.pictures}) or more, "
                "or a request for as many could never be let in"
            )
        for origin in self.cors:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise InputError(f"ServerConfig.cors: {origin!r}, expected https://... or *")

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach the server."""
        return self.host not in ("localhost", "::1") and not self.host.startswith("127.")


@dataclass(frozen=True)
class ReplicaConfig:
    """How many replicas there are, and what each may take."""

    replicas: int = 2
    """Processes that draw."""
    replica_cpus: float = 1.0
    """Cores of each: that many threads draw, and Ray keeps as many free for it."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise InputError(f"replicas: {self.replicas}, expected 1 or more")
        if not 0.0 < self.replica_cpus < 1e4:
            raise InputError(f"replica_cpus: {self.replica_cpus}, expected more than 0")


__all__ = ["ReplicaConfig", "ServerConfig", "ServiceConfig"]
