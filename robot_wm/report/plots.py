"""Plots as inline SVG that takes its text colour and font from the page around it.

Legends and titles are in the page, so that no user's text passes through matplotlib (which would
read `$` as mathematics) and small screens can wrap them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)

from robot_wm.report.units import shown, shown_unit
from robot_wm.report.values import Landscape, MeasureLabel
from robot_wm.types import FloatArray

COLORS = {
    "model": "#3f7fe0",
    "random": "#8b909a",
    "zero": "#d08c1d",
    "state oracle": "#2e9d6b",
    "latent oracle": "#2aa1b3",
    "behaviour cloning": "#9a6fd0",
    "nearest demonstration": "#d4567d",
    "true": "#3f7fe0",
    "shuffled": "#d4567d",
    "copy last": "#8b909a",
    "loss": "#3f7fe0",
    "teacher forcing": "#2e9d6b",
    "rollout": "#d08c1d",
    "held out": "#d4567d",
}
SPARE_COLORS = ("#9a6fd0", "#2aa1b3", "#d4567d", "#a3722b", "#6b8e23", "#5b6bbf")

# matplotlib wants real colours; these two become the page's own when the SVG is embedded.
_INK, _RULE = "#010203", "#020304"
_FIGURE_INCHES = (6.0, 3.1)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "path.simplify": True,
    "font.size": 8.5,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
}


def assign_colors(labels: Iterable[str]) -> dict[str, str]:
    """Returns a colour `#rrggbb` for each label; well-known labels always have the same one."""
    colors: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        name = label.lower().replace("_", " ").removesuffix(" actions").removesuffix(" action")
        spare = [c for c in SPARE_COLORS if c not in colors.values()]
        fallback = spare[0] if spare else SPARE_COLORS[len(colors) % len(SPARE_COLORS)]
        colors[label] = COLORS.get(name, fallback)
    return colors


def plot_measure(
    curves: Mapping[str, FloatArray],
    measure: MeasureLabel,
    colors: Mapping[str, str],
    *,
    salt: str,
) -> Markup:
    """Draws the median of a task's measure by step, with the 10-90 % band of the episodes.

    Args:
        curves: The measure by method, `[n, steps + 1]` each.
        measure: Name and unit of the measure, and its threshold, which is drawn as a dashed line.
        colors: Colour `#rrggbb` by method.
        salt: Text that is different for each plot of a page, so that their SVG ids differ.

    Returns:
        SVG element.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(_FIGURE_INCHES)
        axes = figure.subplots()
        for z, (label, values) in enumerate(reversed(list(curves.items()))):  # the first on top
            low, median, high = np.percentile(
                shown(1, measure.unit) * np.asarray(values), (10, 50, 90), axis=0
            )
            steps = np.arange(len(median))
            axes.fill_between(
                steps, low, high, color=colors[label], alpha=0.16, linewidth=0, zorder=2 + z
            )
            axes.plot(steps, median, color=colors[label], zorder=20 + z)
        if measure.enough is not None:
            enough = shown(measure.enough, measure.unit)
            axes.axhline(enough, color=_INK, linestyle=(0, (4, 3)), linewidth=1, zorder=50)
            axes.annotate(
                f"success: {measure.target}",
                (1, enough),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 3),
                textcoords="offset points",
                horizontalalignment="right",
                zorder=50,
            )
        label = f"{measure.name} ({shown_unit(measure.unit)})"
        axes.set(xlabel="step (actions taken)", ylabel=label)
        if min(np.min(values) for values in curves.values()) >= 0:
            axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        return _svg(figure, f"{measure.name.capitalize()} by step, by method", salt=salt)


def plot_energies(energies: Sequence[Sequence[float]], *, salt: str) -> Markup:
    """Draws energy by observation: the episodes, their median and their 10-90 % band.

    Args:
        energies: Energy of every observation, by episode; lengths may differ.
        salt: Text that is different for each plot of a page, so that their SVG ids differ.

    Returns:
        SVG element.
    """
    num_observations = max(map(len, energies))
    table = np.full((len(energies), num_observations), np.nan)
    for row, values in zip(table, energies, strict=True):
        row[: len(values)] = values
    low, median, high = np.nanpercentile(table, (10, 50, 90), axis=0)
    color = COLORS["model"]
    with mpl.rc_context(_STYLE):
        figure = Figure(_FIGURE_INCHES)
        axes = figure.subplots()
        steps = np.arange(num_observations)
        for row in table[:40]:
            axes.plot(steps, row, color=color, alpha=0.15, linewidth=0.6, zorder=2)
        axes.fill_between(steps, low, high, color=color, alpha=0.16, linewidth=0, zorder=3)
        axes.plot(steps, median, color=color, zorder=20)
        axes.set(xlabel="observation", ylabel="energy")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        return _svg(figure, "Energy by observation", salt=salt)


def plot_horizon(
    errors: Mapping[str, Sequence[float]], colors: Mapping[str, str], *, salt: str
) -> Markup:
    """Draws the latent error by horizon.

    Args:
        errors: Errors at horizon 1, 2, ... H, by what the predictor was given.
        colors: Colour `#rrggbb` by the same keys.
        salt: Text that is different for each plot of a page, so that their SVG ids differ.

    Returns:
        SVG element.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(_FIGURE_INCHES)
        axes = figure.subplots()
        for z, (label, values) in enumerate(reversed(list(errors.items()))):
            horizon = np.arange(1, len(values) + 1)
            axes.plot(horizon, values, color=colors[label], marker="o", markersize=4, zorder=3 + z)
        axes.set(xlabel="horizon (actions ahead)", ylabel="latent error")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        return _svg(figure, "Latent error by horizon", salt=salt)


def plot_training(
    rows: Sequence[Mapping[str, float]],
    metrics: Sequence[str],
    colors: Mapping[str, str],
    *,
    salt: str,
) -> Markup:
    """Draws losses by step: raw thin, smoothed thick, on a log axis where all are positive.

    Args:
        rows: Rows with `step` and metrics; a row may lack a metric.
        metrics: Names of the metrics to draw.
        colors: Colour `#rrggbb` by metric.
        salt: Text that is different for each plot of a page, so that their SVG ids differ.

    Returns:
        SVG element.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(_FIGURE_INCHES)
        axes = figure.subplots()
        drawn = []
        for metric in metrics:
            steps = np.array([row["step"] for row in rows if metric in row], np.float64)
            values = np.array([row[metric] for row in rows if metric in row], np.float64)
            drawn.append(values)
            if len(values) < 20:  # a sparse metric is its own summary
                axes.plot(steps, values, color=colors[metric], marker="o", markersize=3.5)
                continue
            axes.plot(steps, values, color=colors[metric], linewidth=0.6, alpha=0.35)
            axes.plot(steps, _smooth(values), color=colors[metric])
        axes.set(xlabel="training step", ylabel="loss")
        axes.margins(x=0.01)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        low, high = min(v.min() for v in drawn), max(v.max() for v in drawn)
        if low > 0:
            axes.set(yscale="log", ylabel="loss (log scale)")
            narrow = high < 4 * low
            axes.yaxis.set_major_locator(
                MaxNLocator(5) if narrow else LogLocator(subs=(1, 2, 5), numticks=12)
            )
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_minor_formatter(NullFormatter())
        return _svg(figure, "Losses by training step", salt=salt)


def _smooth(values: FloatArray) -> FloatArray:
    """Computes a centred moving average over a twenty-fifth of the values.

    The window narrows toward the start, where a loss falls too steeply to be averaged.

    Args:
        values: Values `[N]`.

    Returns:
        `[N]`.
    """
    index, half = np.arange(len(values)), max(1, len(values) // 50)
    start = index - np.minimum(index, half)
    stop = np.minimum(index + np.minimum(index, half) + 1, len(values))
    total = np.concatenate(([0.0], np.cumsum(values)))
    return (total[stop] - total[start]) / (stop - start)


def plot_landscape(landscape: Landscape, *, salt: str) -> Markup:
    """Draws the predicted cost over a first action, the goal's direction and the plan.

    Args:
        landscape: The landscape.
        salt: Text that is different for each plot of a page, so that their SVG ids differ.

    Returns:
        SVG element.
    """
    dx, dy = 100 * np.asarray(landscape.dx_m), 100 * np.asarray(landscape.dy_m)
    energy = np.asarray(landscape.energy, np.float64)
    goal = 100 * np.asarray(landscape.toward_goal_m, np.float64)
    planned = 100 * np.asarray(landscape.planned_m, np.float64)
    outline = [withStroke(linewidth=3, foreground="black")]
    with mpl.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure((3.1, 2.6))
        axes = figure.subplots()
        mesh = axes.pcolormesh(dx, dy, energy, shading="nearest", cmap="viridis", rasterized=True)
        if np.ptp(energy) > 0:
            axes.contour(dx, dy, energy, levels=8, colors="white", linewidths=0.5, alpha=0.6)
        bar = figure.colorbar(mesh, ax=axes, shrink=0.85, pad=0.02)
        bar.set_label("predicted cost (low is good)")
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        bar.locator = MaxNLocator(4)
        bar.update_ticks()
        x_range, y_range = axes.get_xlim(), axes.get_ylim()
        _arrow_to(axes, goal, x_range, y_range)
        row, column = np.unravel_index(np.argmin(energy), energy.shape)
        axes.plot(dx[column], dy[row], "+", color="white", markersize=9, path_effects=outline)
        axes.plot(*planned, "o", color="#ff5a4f", markersize=6, markeredgecolor="white")
        axes.set(xlim=_with(x_range, planned[0]), ylim=_with(y_range, planned[1]), aspect="equal")
        axes.set(xlabel="first action dx (cm)", ylabel="first action dy (cm)")
        axes.locator_params(nbins=5)
        return _svg(figure, "Predicted cost over the first action", salt=salt)


def plot_pretraining(rows: Sequence[Mapping[str, float]]) -> str:
    """Draws learning curve and collapse statistics of a pretraining run, on white.

    Args:
        rows: The logged rows: `step`, `std`, `effective_rank` and the parts of the loss.

    Returns:
        An SVG document.
    """
    steps = [row["step"] for row in rows]
    not_losses = ("step", "loss", "std", "effective_rank", "elapsed_s")
    parts = [name for name in rows[0] if name not in not_losses]
    with mpl.rc_context({**_STYLE, "svg.fonttype": "path"}):
        figure = Figure((8.0, 3.0))
        losses, spread = figure.subplots(1, 2)
        colors = assign_colors(parts)
        for name in parts:
            values = np.array([row[name] for row in rows])
            losses.plot(steps, values, color=colors[name], alpha=0.25, linewidth=0.8)
            losses.plot(steps, _smooth(values), color=colors[name], label=name)
        losses.set(xlabel="step", ylabel="parts of the loss", yscale="log")
        losses.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        losses.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        losses.yaxis.set_minor_formatter(NullFormatter())
        losses.legend(frameon=False)
        spread.plot(steps, [row["std"] for row in rows], color=SPARE_COLORS[0])
        spread.set(xlabel="step", ylabel="std of layer-normed features")
        spread.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        spread.set_ylim(bottom=0)
        spread.yaxis.label.set_color(SPARE_COLORS[0])
        rank = spread.twinx()
        rank.plot(steps, [row["effective_rank"] for row in rows], color=SPARE_COLORS[1])
        rank.set_ylabel("effective rank")
        rank.set_ylim(bottom=0)
        rank.yaxis.label.set_color(SPARE_COLORS[1])
        rank.grid(visible=False)
        buffer = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": "pretraining"}):
            figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue().replace(_INK, "#1f2328").replace(_RULE, "#d0d7de")


def plot_planners(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draws regret by number of evaluations and by time, for each planner, on white.

    Args:
        rows: Rows with `planner`, `num_evaluated`, `plan_s_median` and `regret_mean`, a share.

    Returns:
        An SVG document.
    """
    names = list(dict.fromkeys(str(row["planner"]) for row in rows))
    palette = (*SPARE_COLORS, "#3f7fe0", "#d08c1d", "#8b909a", "#2e9d6b")
    with mpl.rc_context({**_STYLE, "svg.fonttype": "path"}):
        figure = Figure((9.0, 3.6))
        by_samples, by_time = figure.subplots(1, 2, sharey=True)
        for i, name in enumerate(names):
            selected = [row for row in rows if row["planner"] == name]
            regret = [100 * max(float(row["regret_mean"]), 1e-6) for row in selected]
            color = palette[i % len(palette)]
            for axes, key in ((by_samples, "num_evaluated"), (by_time, "plan_s_median")):
                values = [row[key] for row in selected]
                axes.plot(values, regret, "o-", color=color, label=name, ms=3)
        by_samples.set(
            xlabel="evaluated samples", ylabel="cost above the best plan, % of doing nothing's"
        )
        by_time.set(xlabel="seconds a plan, encoding included")
        for axes in (by_samples, by_time):
            axes.set(xscale="log", yscale="log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        by_time.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        buffer = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": "planners"}):
            figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue().replace(_INK, "#1f2328").replace(_RULE, "#d0d7de")


def _arrow_to(
    axes: Axes, goal: FloatArray, x_range: tuple[float, float], y_range: tuple[float, float]
) -> None:
    """Draws an arrow from no motion to the goal, cut at the edge; a star where the goal shows."""
    outline = [withStroke(linewidth=3.5, foreground="black")]
    if not goal.any():
        axes.plot(0, 0, "*", color="white", markersize=13, path_effects=outline)
        return
    room = [
        (high if way > 0 else low) * 0.92 / way
        for way, (low, high) in zip(goal, (x_range, y_range), strict=True)
        if way
    ]
    reach = min(room)
    tip = goal * (min(1.0, reach) if reach > 0 else 1.0)
    arrow = FancyArrowPatch(
        (0, 0), (tip[0], tip[1]), arrowstyle="->", mutation_scale=12, shrinkA=0, shrinkB=0
    )
    arrow.set(color="white", linewidth=1.8, path_effects=outline)
    axes.add_patch(arrow)
    if reach >= 1:
        axes.plot(*goal, "*", color="white", markersize=13, path_effects=outline)


def _with(limits: tuple[float, float], value: float) -> tuple[float, float]:
    """Returns limits widened to show `value`, with a margin where it lies outside."""
    margin = 0.05 * (limits[1] - limits[0])
    low, high = limits
    return (
        min(low, value - margin) if value < low else low,
        max(high, value + margin) if value > high else high,
    )


def _svg(figure: Figure, what: str, *, salt: str) -> Markup:
    """Returns the figure as an SVG element: the same figure gives the same bytes."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=144, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None
    rest = rest.replace(_INK, "currentColor").replace(_RULE, "var(--rule)")
    tag = Markup('<svg class="plot" role="img" aria-label="{}" {}>')
    return tag.format(what, Markup(view_box.group())) + Markup(rest.strip())
