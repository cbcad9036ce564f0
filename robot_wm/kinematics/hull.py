"""Encloses a mesh in a few corners, so that checking every part of an arm is fast."""

from __future__ import annotations

import numpy as np

from robot_wm.types import FloatArray

_FLAT_M = 1e-6  # a shape that is thinner than this has no hull
_OUTSIDE_M = 1e-3  # the largest distance of a corner from a side of the hull that it encloses


def enclose(points: FloatArray, outside_m: float = _OUTSIDE_M) -> FloatArray:
    """Finds a few corners whose convex hull contains every point.

    A bounding box is cut along sides of the points' own hull, beginning with the deepest one. If
    the corners are within a box or below a speed, then so are the points, since the farthest and
    the fastest point of a rigid hull are among its corners.

    Args:
        points: Positions of the points, `[N, 3]`, m.
        outside_m: The largest distance by which a corner may be outside a side of the points' hull.

    Returns:
        Corners `[P, 3]`, m; the points themselves if they are flat or fewer than four.
    """
    from scipy.spatial import ConvexHull, HalfspaceIntersection  # slow to import

    points = np.unique(points, axis=0)
    spread = np.linalg.svd(points - points[:1], compute_uv=False) if len(points) > 3 else (0.0,)
    if min(spread) <= _FLAT_M:
        return points
    hull = ConvexHull(points)
    sides = np.unique(hull.equations, axis=0)  # [S, 4]: normal and offset, <= 0 inside
    normals = np.concatenate((np.eye(3), -np.eye(3)))
    cuts = np.c_[normals, -(points @ normals.T).max(axis=0)]
    inside = points[hull.vertices].mean(axis=0)
    while True:
        corners = HalfspaceIntersection(cuts, inside).intersections
        outside = corners @ sides[:, :3].T + sides[:, 3]
        if outside.max() <= outside_m:
            return np.unique(corners, axis=0)
        cuts = np.r_[cuts, sides[[outside.max(axis=0).argmax()]]]
