"""Reads binary STL meshes, and reduces detail that a small picture would not show."""

from __future__ import annotations

import numpy as np

from robot_wm.types import FloatArray

_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_HEADER = 80


def triangles(stl: bytes) -> FloatArray:
    """Returns the corners of a binary STL's triangles `[n, 3, 3]`, in the file's unit."""
    count = int(np.frombuffer(stl, "<u4", 1, _HEADER)[0])
    return np.frombuffer(stl, _TRIANGLE, count, _HEADER + 4)["corners"].astype(np.float64)


def coarsen(stl: bytes, cell_m: float) -> bytes:
    """Merges all corners of a mesh that are in the same cell of a grid into their mean.

    Args:
        stl: Binary STL in metres.
        cell_m: Edge of the grid's cells, m.

    Returns:
        The coarser mesh as binary STL; the mesh itself where nothing solid would be left.
    """
    corners = triangles(stl).reshape(-1, 3)
    _, cell = np.unique(np.floor(corners / cell_m).astype(np.int64), axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    count = np.bincount(cell)
    merged = np.stack([np.bincount(cell, corners[:, i]) / count for i in range(3)], axis=1)
    faces = cell.reshape(-1, 3)
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (a != c)]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    solid = merged[np.unique(faces)]
    if len(first) < 4 or np.linalg.svd(solid - solid.mean(0), compute_uv=False).min() < 1e-6:
        return stl
    out = np.zeros(len(first), _TRIANGLE)
    out["corners"] = merged[faces[np.sort(first)]]
    return bytes(_HEADER) + np.uint32(len(out)).tobytes() + out.tobytes()
