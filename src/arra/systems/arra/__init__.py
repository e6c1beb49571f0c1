"""ARRA: autoregressive representation alignment (arXiv 2503.07334), the system arra is named after."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="arra",
    title=(
        "Unleashing the Potential of LLMs for Text-to-Image Generation through Autoregressive "
        "Representation Alignment"
    ),
    arxiv="2503.07334",
    family="lead",
    summary=(
        "A language model learns to draw while its hidden states are pulled towards a frozen "
        "encoder's view of the whole picture; at inference it is a plain language model."
    ),
    claim=deferred("arra.systems.arra.claim:claim"),
    seeds=5,
)
