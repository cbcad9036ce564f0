"""Computes the statistics that LeRobot stores per episode and per dataset.

`robot_wm` never trains on them (`DataStats` in windows.py is fitted on the sampled actions), but
LeRobot's own policies do. LeRobot's picture statistics overflow (lerobot issue 3682); these do not.
"""

from __future__ import annotations

import numpy as np

from robot_wm.types import ImageArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
FeatureStats = dict[str, np.ndarray]
Stats = dict[str, FeatureStats]
_PIXEL_STRIDE = 4  # every 16th pixel is plenty for five quantiles over an episode


def vector_stats(values: np.ndarray) -> FeatureStats:
    """Returns statistics of `values` `[T, K]` or `[T]` over time, each `[K]` or `[1]`."""
    values = values.reshape(len(values), -1)
    wide = values.astype(np.float64)
    stats = {
        "min": values.min(0),
        "max": values.max(0),
        "mean": wide.mean(0),
        "std": wide.std(0),
        "count": np.array([len(values)]),
    }
    quantiles = np.quantile(wide, list(QUANTILES.values()), axis=0)
    return stats | dict(zip(QUANTILES, quantiles, strict=True))


def histogram(image: ImageArray) -> np.ndarray:
    """Counts the values of uint8 RGB `[height, width, 3]` on a coarse grid, `[3, 256]`."""
    pixels = image[::_PIXEL_STRIDE, ::_PIXEL_STRIDE].reshape(-1, 3)
    return np.stack([np.bincount(pixels[:, c], minlength=256) for c in range(3)])


def image_stats(counts: np.ndarray, num_frames: int) -> FeatureStats:
    """Returns statistics `[3, 1, 1]` in [0, 1] from summed `histogram` counts `[3, 256]`."""
    levels = np.arange(256) / 255
    weights = counts / counts.sum(1, keepdims=True)
    mean = weights @ levels
    std = np.sqrt(np.maximum(weights @ levels**2 - mean**2, 0))
    cumulative = weights.cumsum(1)
    present = counts > 0
    stats = {
        "min": levels[present.argmax(1)],
        "max": levels[255 - present[:, ::-1].argmax(1)],
        "mean": mean,
        "std": std,
    }
    for name, q in QUANTILES.items():
        stats[name] = levels[(cumulative >= q - 1e-12).argmax(1)]
    shaped = {name: value.reshape(3, 1, 1) for name, value in stats.items()}
    return shaped | {"count": np.array([num_frames])}


def merge_stats(total: Stats, new: Stats) -> Stats:
    """Merges a dataset's statistics with those of one more episode."""
    # Quantiles are averaged, weighted by count, as LeRobot does; everything else is exact.
    if not total:
        return new
    merged: Stats = {}
    for key, b in new.items():
        a = total[key]
        n = a["count"] + b["count"]
        share = b["count"][0] / n[0]
        mean = a["mean"] + (b["mean"] - a["mean"]) * share
        variance = (
            a["std"] ** 2 * (1 - share)
            + b["std"] ** 2 * share
            + (b["mean"] - a["mean"]) ** 2 * share * (1 - share)
        )
        merged[key] = {
            "min": np.minimum(a["min"], b["min"]),
            "max": np.maximum(a["max"], b["max"]),
            "mean": mean,
            "std": np.sqrt(variance),
            "count": n,
        } | {q: a[q] * (1 - share) + b[q] * share for q in QUANTILES}
    return merged
