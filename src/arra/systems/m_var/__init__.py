"""M-VAR, decoupled scale-wise autoregression (arXiv 2411.10433): a scan between the scales."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="m-var",
    title="M-VAR: Decoupled Scale-wise Autoregressive Modeling for High-Quality Image Generation",
    arxiv="2411.10433",
    family="next-scale",
    summary=(
        "Next-scale prediction whose attention stays within a scale; what coarser scales say is "
        "carried by a linear-time scan over all of them."
    ),
    claim=deferred("arra.systems.m_var.claim:claim"),
    seeds=4,
)
