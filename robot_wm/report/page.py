"""Renders the page: computes the values that `templates/` shows."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from robot_wm.report import plots
from robot_wm.report.figures import report_figures
from robot_wm.report.success import read_task
from robot_wm.report.units import show
from robot_wm.report.values import EpisodeVideo, MeasureLabel, Report
from robot_wm.report.video import draw_imagined, encode_video

_LOSSES = ("loss", "teacher_forcing", "rollout")
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render_html(report: Report) -> str:
    """Renders one self-contained HTML page: no external requests, no scripts.

    Args:
        report: The report.

    Returns:
        The document.

    Raises:
        ValueError: a number is not finite, or a figure is missing; the message names its key.
    """
    report_figures(report)  # raises where a number is not finite
    chapters = [
        _chapter(chapter, f"chapter-{i}-" if i else "")
        for i, chapter in enumerate((report, *report.chapters))
    ]
    return _TEMPLATES.get_template("report.html.j2").render(report=report, chapters=chapters)


def _chapter(report: Report, prefix: str) -> dict[str, object]:
    """Computes what the page shows of one evaluation; `prefix` keeps its ids apart from others."""
    tasks = [read_task(name, figures) for name, figures in report.tasks.items()]
    methods = [method.name for task in tasks for method in task.methods]
    colors = plots.assign_colors([*methods, *report.curves])
    curves, energies, measure = report.curves, report.energies, report.measure
    measured = seen = None
    if curves:
        measured = plots.plot_measure(curves, measure, colors, salt=f"{prefix}measure")
    if any(energies):
        seen = plots.plot_energies(energies, salt=f"{prefix}energies")
    return {
        "title": report.title,
        "prefix": prefix,
        "measure": measure,
        "curves": curves,
        "settings": report.settings,
        "tasks": tasks,
        "colors": colors,
        "videos": [_video(video, measure) for video in report.videos],
        "measured": measured,
        "energies": seen,
        "landscapes": [
            {
                "title": landscape.title,
                "plot": plots.plot_landscape(landscape, salt=f"{prefix}landscape{index}"),
                "away": show(math.hypot(*landscape.toward_goal_m), "m"),
            }
            for index, landscape in enumerate(report.landscapes)
        ],
        "imagined": [
            {"title": each.title, "source": f"data:image/png;base64,{_base64(draw_imagined(each))}"}
            for each in report.imagined
        ],
        "held_out": _held_out(report, prefix),
        "training": _training(report, prefix),
    }


def _video(video: EpisodeVideo, measure: MeasureLabel) -> Mapping[str, str]:
    content = _base64(encode_video(video, measure))
    outcome = ""
    if video.measured is not None:
        first, last = (float(video.measured[index]) for index in (0, -1))
        ends = (show(value, measure.unit) for value in (first, last))
        outcome = ": {} at the start, {} at the end".format(*ends)
        if measure.enough is not None:
            outcome += f", {'success' if measure.reached(last) else 'no success'}"
    source = f"data:video/mp4;base64,{content}"
    return {"title": video.title, "source": source, "outcome": outcome}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _held_out(report: Report, prefix: str) -> Mapping[str, object] | None:
    errors = {label: [float(e) for e in values] for label, values in report.held_out.items()}
    if not any(errors.values()):
        return None
    colors = plots.assign_colors(errors)
    horizons = range(1, max(map(len, errors.values())) + 1)
    largest = max(abs(value) for values in errors.values() for value in values)
    digits = min(8, max(0, 2 - math.floor(math.log10(largest)))) if largest else 0
    cells = {
        label: [
            "–" if value is None else f"{value:.{digits}f}"
            for value, _ in itertools.zip_longest(values, horizons)
        ]
        for label, values in errors.items()
    }
    plot = plots.plot_horizon(errors, colors, salt=f"{prefix}horizon")
    return {"cells": cells, "horizons": horizons, "colors": colors, "plot": plot}


def _training(report: Report, prefix: str) -> Mapping[str, object] | None:
    names = dict.fromkeys(name for row in report.training for name in row)
    losses = [
        name
        for name in names
        if name in _LOSSES or name.endswith("_loss") or name.startswith(("loss_", "held_out"))
    ]
    if not losses:
        return None
    others = [name for name in names if name not in losses and name != "step"]
    colors = plots.assign_colors(losses)
    plot = plots.plot_training(report.training, losses, colors, salt=f"{prefix}training")
    return {"losses": losses, "others": others, "colors": colors, "plot": plot}
