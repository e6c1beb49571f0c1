"""Order, network and head together: what can be trained and sampled."""

from arra.generators import blocks as blocks  # registers
from arra.generators import entities as entities
from arra.generators import features as features
from arra.generators import flexible as flexible
from arra.generators import grid as grid
from arra.generators import grid_student as grid_student
from arra.generators import masked as masked
from arra.generators import masked_language as masked_language
from arra.generators import masked_vectors as masked_vectors
from arra.generators import pyramid_flow as pyramid_flow
from arra.generators import raster as raster
from arra.generators import raster_student as raster_student
from arra.generators import raster_vectors as raster_vectors
from arra.generators import scale_flow as scale_flow
from arra.generators import scale_student as scale_student
from arra.generators import scales as scales
from arra.generators import scan_scales as scan_scales
from arra.generators import trajectory as trajectory
