"""SequenceMatch (arXiv 2306.05426): imitation of whole sequences, with a token that takes back."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="sequencematch",
    title=(
        "SequenceMatch: Imitation Learning for Autoregressive Sequence Modelling with Backtracking"
    ),
    arxiv="2306.05426",
    family="objectives",
    summary=(
        "A language model learns from what it wrote itself that its texts should follow the law of "
        "the data, and may take back a token that led it astray."
    ),
    claim=deferred("arra.systems.sequencematch.claim:claim"),
    seeds=3,
    first_seed=1,
)
