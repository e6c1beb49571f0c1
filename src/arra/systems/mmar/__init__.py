"""MMAR (arXiv 2410.10798): one language model answers about pictures and draws them in rounds."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="mmar",
    title="MMAR: Towards Lossless Multi-Modal Auto-Regressive Probabilistic Modeling",
    arxiv="2410.10798",
    family="continuous tokens",
    summary=(
        "A language model sees clean vectors of pictures, reads them, and draws hidden ones with a "
        "diffusion head whose objective v keeps errors small in low precision."
    ),
    claim=deferred("arra.systems.mmar.claim:claim"),
    seeds=3,
)
