"""Flover, temporal fusion of requests (arXiv 2305.13484): who arrives joins the running batch."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="flover",
    title=(
        "Flover: A Temporal Fusion Framework for Efficient Autoregressive Model Parallel Inference"
    ),
    arxiv="2305.13484",
    family="decoding",
    summary=(
        "Requests that arrive at different times share one pass a token: they join the running "
        "batch at once, leave when done, and what stays is kept side by side."
    ),
    claim=deferred("arra.systems.flover.claim:claim"),
    seeds=5,
)
