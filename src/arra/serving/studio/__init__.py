"""The page on which one sees the model draw."""

from arra.serving.studio.page import mount_studio

__all__ = ["mount_studio"]
