"""Order, network and head together: what can be trained and sampled."""

from arra.generators import flexible as flexible  # registers
from arra.generators import raster as raster
from arra.generators import scales as scales
