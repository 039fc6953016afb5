"""The stage ``load``: from what a user calls a model to an eager module with example inputs."""

from moe_export.load.sources import load

__all__ = ["load"]
