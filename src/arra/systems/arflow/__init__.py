"""ARFlow (arXiv 2501.16085): a flow whose network remembers the noisier states before."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="arflow",
    title="ARFlow: Autoregressive Flow with Hybrid Linear Attention",
    arxiv="2501.16085",
    family="continuous tokens",
    summary=(
        "A flow's network also has a memory of noisier pictures: of others of the same class in "
        "training, of its own trajectory in drawing; attention inside a picture, a linear memory "
        "across."
    ),
    claim=deferred("arra.systems.arflow.claim:claim"),
    seeds=3,
)
