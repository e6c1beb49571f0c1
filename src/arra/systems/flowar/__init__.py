"""FlowAR (arXiv 2412.15205): next-scale generation of vectors, a scale drawn by flow at once."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="flowar",
    title="FlowAR: Scale-wise Autoregressive Image Generation Meets Flow Matching",
    arxiv="2412.15205",
    family="continuous tokens",
    summary=(
        "Scales are the latents of any autoencoder, averaged; a transformer says at every position "
        "what the next scale is about, and a small flow network, told so position by position, "
        "turns noise into the whole scale."
    ),
    claim=deferred("arra.systems.flowar.claim:claim"),
    seeds=3,
)
