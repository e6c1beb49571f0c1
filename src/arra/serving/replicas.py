"""The same server in several processes, on one machine or many: replicas behind Ray Serve.

Each replica loads the checkpoints and draws with a workshop of its own. Ray Serve sends requests to
the replica with fewer of them, starts replicas that die again, and lets them finish what they took
when the server stops. A picture is a function of its request, so any replica may draw it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from arra.errors import ArraError, InputError
from arra.serving.config import ReplicaConfig
from arra.serving.front import FRONT
from arra.serving.service import Workshop

if TYPE_CHECKING:
    from arra.jobs.serving import Serving

Build = Callable[[], tuple[Workshop, Any]]
"""What a replica makes in its process: a workshop that is not started yet, and the ASGI application
that asks it."""
NAME = "arra"
_SPARE = 64
"""Requests to a replica that are not for pictures: /healthz, /metrics, refusals."""
_PERIOD, _PATIENCE = 2.0, 30.0
"""Seconds between looks at a replica's health, and within which it has to answer."""


class Replica:
    """What runs in a replica's process; made and asked by Ray Serve."""

    def __init__(self, build: Build, cpus: float):
        import torch

        torch.set_num_threads(max(1, int(cpus)))
        self.workshop, self._made = build()  # Ray has an attribute `app` of its own
        self.workshop.start()

    def __serve_build_asgi_app__(self) -> Any:
        return self._made

    def check_health(self) -> None:
        """Raises where the thread that draws has ended: Ray then starts another replica."""
        if not self.workshop.alive:
            raise ArraError("the thread that draws has ended")

    def __del__(self) -> None:
        # Called by Ray when all requests are answered, or the patience has ended.
        workshop = getattr(self, "workshop", None)
        if workshop is not None:
            workshop.stop(0)


def serve_on_ray(job: Serving, config: ReplicaConfig | None = None) -> None:
    """Serve until the process is told to stop (SIGTERM, SIGINT); then finish what was taken.

    The cluster is that of RAY_ADDRESS, otherwise one of this machine alone, which ends with the
    call. All machines must see the checkpoints under the same paths.

    Raises `InputError` where Ray Serve is not installed, a checkpoint is bad or the port is taken.
    """
    config, server = config or ReplicaConfig(), job.server
    job.named()  # complains here rather than in each replica
    port = _free_port(server.host, server.port)
    with _Cluster(server.host, port):
        stopped = _on_signal()  # after Ray has set its own handlers, which abort
        deploy(
            partial(_build, job),
            config,
            most=job.service.slots + job.service.queue,
            gpus=int(job.device.startswith("cuda")),
            patience=server.patience,
        )
        print(f"{config.replicas} replicas, listening at http://{server.host}:{port}", flush=True)
        stopped.wait()


def _build(job: Serving) -> tuple[Workshop, Any]:
    from arra.jobs.serving import open_workshop
    from arra.serving.api import create_app

    workshop = open_workshop(job)
    return workshop, create_app(workshop, job.server)


def deploy(
    build: Build, config: ReplicaConfig, *, most: int, gpus: int = 0, patience: float = 30.0
) -> None:
    """Start replicas in the cluster that this process is connected to, and wait until they answer.

    A replica gets `most` requests for pictures at once, which is what it draws and what may wait
    there, and a few others; as many again wait before all replicas, and more are refused. When it
    has to stop, it has `patience` seconds to answer them.
    """
    from ray import serve

    # what a replica cannot take its own queue refuses, in words that say so
    taken = most + _SPARE
    deployment: Any = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.replica_cpus, "num_gpus": gpus},
        max_ongoing_requests=taken,
        max_queued_requests=taken,
        health_check_period_s=_PERIOD,
        health_check_timeout_s=_PATIENCE,
        graceful_shutdown_timeout_s=patience,
        graceful_shutdown_wait_loop_s=0.2,
        max_constructor_retry_count=2,
    )
    try:
        serve.run(deployment.bind(build, config.replica_cpus), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ArraError(f"the replicas could not be started: {_why() or error}") from error


def _why() -> str:
    """What Ray Serve says of replicas that do not start."""
    from ray import serve

    told = serve.status().applications[NAME].deployments.values()
    return "; ".join(one.message for one in told if one.message)


class _Cluster:
    """Connected to Ray, with its HTTP proxies listening, while a block runs."""

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port

    def __enter__(self) -> None:
        # read by the processes that Ray starts
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] = FRONT
        try:
            import ray
            from ray import serve
        except ImportError:
            raise InputError(
                "engine 'ray': Ray Serve is not installed; run `pip install 'arra[replicas]'`"
            ) from None
        self._mine = not ray.is_initialized()
        if self._mine:
            ray.init(include_dashboard=False, log_to_driver=False)
        serve.start(http_options={"host": self.host, "port": self.port})

    def __exit__(self, *_: object) -> None:
        import ray
        from ray import serve

        serve.delete(NAME)  # waits until the replicas have answered what they took
        if self._mine:  # a cluster that was there before may serve others
            ray.shutdown()


def _free_port(host: str, port: int) -> int:
    """`port`, or a free one for 0; `InputError` where nobody can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as listener:
            return listener.getsockname()[1]
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror or error}); "
            "--port 0 picks a free port"
        ) from error


def _on_signal() -> threading.Event:
    """Set when the process is told to stop; told a second time it ends at once."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopped
