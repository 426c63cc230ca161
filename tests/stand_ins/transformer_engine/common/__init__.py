"""A stand-in, see ../../README.md."""

from . import recipe

__all__ = ["recipe"]
