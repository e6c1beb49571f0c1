"""GEAR, guided end-to-end autoregression (arXiv 2606.32039): a codec tuned for its generator."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="gear",
    title="GEAR: Guided End-to-End AutoRegression for Image Synthesis",
    arxiv="2606.32039",
    family="lead",
    summary=(
        "Codec and generator learn together: the alignment loss alone reaches the codec, through "
        "soft codes, so that its codes become easier to predict."
    ),
    claim=deferred("arra.systems.gear.claim:claim"),
    seeds=5,
)
