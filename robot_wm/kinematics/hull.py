"""Few corners instead of a mesh's many, for those who watch where every part of an arm is."""

from __future__ import annotations

import numpy as np

from robot_wm.types import FloatArray

_FLAT_M = 1e-6  # thinner than this, a shape has no hull of its own
_OUTSIDE_M = 1e-3  # no side of a hull lies farther inside the corners that enclose it


def enclose(points: FloatArray, outside_m: float = _OUTSIDE_M) -> FloatArray:
    """Find a few corners whose convex hull holds every point.

    A bounding box is cut along the sides of the points' own hull, the one that lies deepest
    inside first. What keeps the corners in a box or below a speed keeps the points there too,
    since the farthest and the fastest point of a rigid hull is one of its corners.

    Args:
        points: `[N, 3]`, m.
        outside_m: by how much a corner may lie outside a side of the points' hull.

    Returns:
        Corners `[P, 3]`, m; the points themselves where they are flat or fewer than four.
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
