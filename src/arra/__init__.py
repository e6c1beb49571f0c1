"""arra: autoregressive generation with representation alignment.

Importing the package is cheap: nothing heavy (torch, transformers) loads until a name that needs it is
used. The rooms (`arra.codecs`, `arra.encoders`, `arra.generators`, ...) are ordinary subpackages.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("arra")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0.0.0"

__all__ = ["__version__"]
