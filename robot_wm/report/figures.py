"""The figures of a report as plain, finite JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from robot_wm.report.values import Report


def report_figures(report: Report) -> dict[str, object]:
    """Returns every figure of a report, as plain JSON values; pictures are left out.

    Args:
        report: The report.

    Returns:
        Figures by name.

    Raises:
        ValueError: a number is not finite; the message names its key.
        TypeError: JSON cannot hold a value; the message names its key.
    """
    measure = report.measure
    figures = {
        "title": report.title,
        "tasks": report.tasks,
        f"success_{measure.unit}": measure.enough,
        "measure": asdict(measure),
        "settings": report.settings,
        f"{measure.name}_curves": report.curves,
        "energies": report.energies,
        "outcomes": report.outcomes,
        "episodes": report.episodes,
        "training": report.training,
        "held_out": report.held_out,
        "landscapes": [
            {
                "title": landscape.title,
                "dx_m": landscape.dx_m,
                "dy_m": landscape.dy_m,
                "energy": landscape.energy,
                "toward_goal_m": landscape.toward_goal_m,
                "planned_m": landscape.planned_m,
            }
            for landscape in report.landscapes
        ],
        "videos": [
            {
                "title": video.title,
                "fps": video.fps,
                f"{measure.name}s_{measure.unit}": video.measured,
            }
            for video in report.videos
        ],
        "imagined": [
            {"title": each.title, "steps": each.steps, "horizon": each.horizon}
            for each in report.imagined
        ],
    }
    plain = {key: _plain(value, key) for key, value in figures.items()}
    return {**plain, "chapters": [report_figures(chapter) for chapter in report.chapters]}


def _plain(value: object, key: str) -> object:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"report: {key} is {value}, want a finite number")
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item, f"{key}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"report: {key} is a {type(value).__name__}, which JSON cannot hold")
