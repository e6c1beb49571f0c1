"""ELM (arXiv 2410.16257): a plain language model over the split bits of a binary autoencoder."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="elm",
    title="Elucidating the design space of language models for image generation",
    arxiv="2410.16257",
    family="what comes next",
    summary=(
        "Codes are the bits of a binary autoencoder, split into sub-codes that several heads "
        "predict side by side: small tables, at the price of what sub-codes have in common."
    ),
    claim=deferred("arra.systems.elm.claim:claim"),
    seeds=3,
)
