"""Losses over the named outputs of a generator."""

from arra.objectives import alignment as alignment  # registers
from arra.objectives import imitation as imitation
