"""Memory that a process frees stays with it: what repeated large tensors cost without that."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# of mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST = 1 << 30


@cache
def keep_freed_memory() -> bool:
    """Let the C library reuse what is freed, instead of giving it back; whether it can be told to.

    glibc returns large blocks to the system at once. Every tensor of some megabytes is then made of
    pages that the system has to clear at their first touch, which can cost a third of the time of
    a small network on large batches. Peak memory is the same; it only is not lower in between. For
    processes that are arra's own, as the setting holds for all code in them.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    told = [mallopt(what, _LARGEST) for what in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)]
    # The areas that other threads get are given back whatever these say.
    return all([*told, mallopt(_ARENA_MAX, 1)])
