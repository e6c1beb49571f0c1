"""VAR, visual autoregressive modelling (arXiv 2404.02905): the next unit is the next scale."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="var",
    title="Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction",
    arxiv="2404.02905",
    family="next-scale",
    summary=(
        "A picture is drawn as grids of growing size, each in one pass from all coarser ones: as "
        "many passes as there are scales instead of as many as there are codes."
    ),
    claim=deferred("arra.systems.var.claim:claim"),
    seeds=4,
)
