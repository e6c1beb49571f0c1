"""Orthus (arXiv 2412.00127): a model of codes becomes one of vectors that writes text too."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="orthus",
    title="Orthus: Autoregressive Interleaved Image-Text Generation with Modality-Specific Heads",
    arxiv="2412.00127",
    family="continuous tokens",
    summary=(
        "A model of picture codes reads vectors as mixtures of its codes' embeddings and draws "
        "them with a diffusion head: text and pictures in one causal stream."
    ),
    claim=deferred("arra.systems.orthus.claim:claim"),
    seeds=3,
)
