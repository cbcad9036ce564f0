"""Detects when the model is wrong: novel pictures, large prediction errors, no progress."""

from robot_wm.monitors.reference import (
    FILE,
    ReferenceStatistics,
    fit_reference,
    load_reference,
    prediction_error,
)
from robot_wm.monitors.watching import (
    MonitorError,
    MonitorGuard,
    Monitors,
    MonitorSettings,
    NoveltySettings,
)

__all__ = [
    "FILE",
    "MonitorError",
    "MonitorGuard",
    "MonitorSettings",
    "Monitors",
    "NoveltySettings",
    "ReferenceStatistics",
    "fit_reference",
    "load_reference",
    "prediction_error",
]
