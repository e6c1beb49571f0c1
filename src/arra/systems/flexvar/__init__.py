"""FlexVAR (arXiv 2502.20313): every scale shows the picture itself, so any schedule will do."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="flexvar",
    title="FlexVAR: Flexible Visual Autoregressive Modeling without Residual Prediction",
    arxiv="2502.20313",
    family="next-scale",
    summary=(
        "Every scale shows the picture itself and not what coarser ones left over, so that a model "
        "that saw random schedules draws in any number of steps, at any size and aspect ratio."
    ),
    claim=deferred("arra.systems.flexvar.claim:claim"),
    seeds=8,
)
