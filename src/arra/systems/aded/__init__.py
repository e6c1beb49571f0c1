"""ADED (arXiv 2407.12021): drafts from tri-grams that adapt to the text being written."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="aded",
    title="Adaptive Draft-Verification for Efficient Large Language Model Decoding",
    arxiv="2407.12021",
    family="decoding",
    summary=(
        "A table of tri-grams, searched by Monte-Carlo tree search and adapted to what was just "
        "written, drafts trees that one pass of the model judges: no draft model, same output."
    ),
    claim=deferred("arra.systems.aded.claim:claim"),
    seeds=3,
)
