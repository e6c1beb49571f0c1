"""E-CAR (arXiv 2412.14170): a flow in stages of growing resolution, each after a transformer's
word."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="e-car",
    title="E-CAR: Efficient Continuous Autoregressive Image Generation via Multistage Modeling",
    arxiv="2412.14170",
    family="continuous tokens",
    summary=(
        "A picture is drawn in stages of growing resolution: at each a transformer says what the "
        "map is about, and a flow leads a part of the way from noise to data, so that most steps "
        "are taken where they are cheap."
    ),
    claim=deferred("arra.systems.e_car.claim:claim"),
    seeds=3,
)
