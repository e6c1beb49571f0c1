"""JPEG-LM (arXiv 2408.08459): an ordinary language model writes the bytes of image files."""

from arra.systems.base import System, deferred

SYSTEM = System(
    slug="jpeg-lm",
    title="JPEG-LM: LLMs as Image Generators with Canonical Codec Representations",
    arxiv="2408.08459",
    family="what comes next",
    summary=(
        "The bytes of JPEG files of fixed settings, merged by frequency, are the vocabulary of a "
        "plain language model; no tokenizer is trained, and none can fail on rare pictures."
    ),
    claim=deferred("arra.systems.jpeg_lm.claim:claim"),
    seeds=3,
)
