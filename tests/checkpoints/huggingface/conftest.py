"""Fixtures of the tests of models by name."""

from helpers.hub_models import cache, files

__all__ = ["cache", "files"]
