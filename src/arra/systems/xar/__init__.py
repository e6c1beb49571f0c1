"""xAR (arXiv 2502.20388): entities of any shape, drawn by flow after noisy predecessors."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="xar",
    title=("Beyond Next-Token: Next-X Prediction for Autoregressive Visual Generation"),
    arxiv="2502.20388",
    family="continuous tokens",
    summary=(
        "The unit of prediction is any group of places, and it is learnt after noisy predecessors, "
        "so that one pass trains all of them and errors of what was drawn do no harm."
    ),
    claim=deferred("arra.systems.xar.claim:claim"),
    seeds=3,
)
