"""`arra serve`: draw for whoever asks over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from tyro.conf import Positional, arg

from arra.serving.config import ReplicaConfig, ServerConfig, ServiceConfig

# Frozen, so that one object can be the default of every call.
_SERVER = ServerConfig()
_SERVICE = ServiceConfig()
_REPLICAS = ReplicaConfig()


def command(
    checkpoints: Annotated[Positional[tuple[str, ...]], arg(metavar="CHECKPOINT...")] = (),
    *,
    device: str = "auto",
    engine: Literal["local", "ray"] = "local",
    server: Annotated[ServerConfig, arg(name="")] = _SERVER,
    service: Annotated[ServiceConfig, arg(name="")] = _SERVICE,
    replicas: Annotated[ReplicaConfig, arg(name="")] = _REPLICAS,
) -> None:
    """Serve checkpoints over HTTP, in the language of OpenAI's clients.

    POST /v1/images/generations draws, whole or as a stream of previews. Many requests are drawn in
    one running batch, and the same seed gives the same picture whatever the company. /v1/models,
    /healthz, /readyz, /metrics and /docs say how things are. On SIGTERM or Ctrl-C the server takes
    no more requests, finishes those that it took, and ends.

    Args:
        checkpoints: Run folders, their model/, or exported checkpoints, as PATH or NAME=PATH. The
            folder's name is the model's unless it is given.
        device: Where to draw: auto, cpu, cuda, cuda:1, mps.
        engine: Local draws in this process; ray in several, on one or many machines.
        server: Where to listen, whom to let in, and how much to take.
        service: How much is drawn at once.
        replicas: The processes of the engine ray.
    """
    from arra.jobs.console import choose_device
    from arra.jobs.serving import Serving, serve

    job = Serving(checkpoints, choose_device(device), server, service)
    if engine == "ray":
        from arra.serving.replicas import serve_on_ray

        serve_on_ray(job, replicas)
    else:
        serve(job)
