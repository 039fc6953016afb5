"""Which grid of tiles an image is stretched over."""

from __future__ import annotations

import math

Grid = tuple[int, int]
"""Rows and columns."""


def nearest_shape(height: int, width: int, tile: Grid, least: int, most: int) -> Grid:
    """The grid whose shape is nearest, of several alike the largest that the image half fills.

    ``tile`` are height and width of one, of which a grid has ``least`` to ``most``.
    """
    sides = range(1, most + 1)
    shapes = [(rows, columns) for columns in sides for rows in sides]
    allowed = [s for s in shapes if least <= s[0] * s[1] <= most]
    best, nearest = (1, 1), math.inf
    for rows, columns in sorted(allowed, key=math.prod):
        distance = abs(width / height - columns / rows)
        half_filled = height * width > 0.5 * tile[0] * tile[1] * rows * columns
        if distance < nearest or (distance == nearest and half_filled):
            best, nearest = (rows, columns), distance
    return best
