"""MAR, continuous tokens (arXiv 2406.11838): a small diffusion model is each token's law."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="mar",
    title="Autoregressive Image Generation without Vector Quantization",
    arxiv="2406.11838",
    family="continuous tokens",
    summary=(
        "Tokens are vectors, and the law of the next one is a small diffusion model that is told "
        "the network's state: no codebook is needed."
    ),
    claim=deferred("arra.systems.mar.claim:claim"),
    seeds=3,
)
