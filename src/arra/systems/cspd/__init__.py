"""Continuous Speculative Decoding (arXiv 2411.11925): drafts of tokens whose law is a diffusion."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="cspd",
    title="Continuous Speculative Decoding for Autoregressive Image Generation",
    arxiv="2411.11925",
    family="decoding",
    summary=(
        "A small model drafts vectors by the noise that the large one will see, so that two "
        "denoising paths can be compared by their last steps, and one pass judges several vectors."
    ),
    claim=deferred("arra.systems.cspd.claim:claim"),
    seeds=3,
)
