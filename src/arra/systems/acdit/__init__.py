"""ACDiT (arXiv 2412.07720): blocks denoised one after another, each after a clean past."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="acdit",
    title=("ACDiT: Interpolating Autoregressive Conditional Modeling and Diffusion Transformer"),
    arxiv="2412.07720",
    family="continuous tokens",
    summary=(
        "One transformer denoises a picture or clip block by block, at every step reading clean "
        "earlier blocks from a cache; a clean copy beside the noisy one trains all blocks at once."
    ),
    claim=deferred("arra.systems.acdit.claim:claim"),
    seeds=3,
)
