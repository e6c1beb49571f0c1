"""LlamaGen (arXiv 2406.06525): a plain Llama over the codes of a good tokenizer draws pictures."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="llamagen",
    title="Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation",
    arxiv="2406.06525",
    family="what comes next",
    summary=(
        "An unmodified Llama predicts the codes of a picture in raster order; the tokenizer has "
        "many normalised codes of few dimensions, and guidance makes the pictures."
    ),
    claim=deferred("arra.systems.llamagen.claim:claim"),
    seeds=5,
)
