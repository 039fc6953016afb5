"""Bundling: a model of one target becomes a folder on disk, whole or absent."""

from __future__ import annotations

from moe_export.bundle.stage import bundle

__all__ = ["bundle"]
