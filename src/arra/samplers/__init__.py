"""Decoding: from a step function to codes."""

from arra.samplers import ancestral as ancestral  # registers
from arra.samplers import backtracking as backtracking
from arra.samplers import flow as flow
from arra.samplers import masked as masked
from arra.samplers import scales as scales
from arra.samplers import speculative as speculative
from arra.samplers import vectors as vectors
