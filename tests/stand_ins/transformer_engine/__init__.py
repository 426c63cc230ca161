"""A stand-in, see ../README.md."""

from . import common, pytorch

__version__ = "2.20.2"
__all__ = ["common", "pytorch"]
