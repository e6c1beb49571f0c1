"""Distilled Decoding (arXiv 2412.17153): a picture's codes in a step or two, from its noise."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="distilled-decoding",
    title=(
        "Distilled Decoding 1: One-step Sampling of Image Auto-regressive Models with Flow Matching"
    ),
    arxiv="2412.17153",
    family="decoding",
    summary=(
        "A flow without a network makes every drawn code a function of noise, so that a student "
        "can learn, from pairs that its teacher makes, to draw all codes in one or two passes."
    ),
    claim=deferred("arra.systems.distilled_decoding.claim:claim"),
    seeds=3,
)
