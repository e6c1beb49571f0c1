"""LANTERN (arXiv 2410.03355): guesses borrow the probability of codes that look like them."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="lantern",
    title=("LANTERN: Accelerating Visual Autoregressive Models with Relaxed Speculative Decoding"),
    arxiv="2410.03355",
    family="decoding",
    summary=(
        "Where laws of codes are flat a guess is rarely the very code that is drawn, so it may "
        "borrow the probability of its nearest neighbours in the codebook: more guesses stay, and "
        "the law bends a little."
    ),
    claim=deferred("arra.systems.lantern.claim:claim"),
    seeds=3,
)
