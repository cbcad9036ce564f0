"""The page: sections in the order in which a reader asks, each with how to read it."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterable, Mapping
from html import escape

from robot_wm.report import plots
from robot_wm.report.figures import report_figures
from robot_wm.report.style import CSS
from robot_wm.report.success import headline, method_names, outcomes, plan_time, success_table
from robot_wm.report.units import show
from robot_wm.report.values import EpisodeVideo, Landscape, MeasureLabel, Report
from robot_wm.report.video import encode_video

_LOSSES = ("loss", "teacher_forcing", "rollout")


def render_html(report: Report) -> str:
    """One HTML page with everything inside it: no request leaves it, and it runs no script.

    Args:
        report: what to show.

    Returns:
        The document.

    Raises:
        ValueError: a number is not finite, or a figure is missing; names its key.
    """
    report_figures(report)  # refuses what no plot should have to draw
    methods = [
        name for task, figures in report.tasks.items() for name in method_names(figures, task)
    ]
    colors = plots.assign_colors([*methods, *report.curves])
    sections = [
        _success(report, colors),
        _videos(report),
        _distances(report, colors),
        _energies(report),
        _landscapes(report),
        _held_out(report),
        _training(report),
        _settings(report),
    ]
    headlines = [headline(f, task, report.measure) for task, f in report.tasks.items()]
    title = escape(report.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n<h1>{title}</h1>\n{''.join(headlines)}\n</header>\n"
        + "\n".join(section for section in sections if section)
        + "\n<footer>Every figure of this page is in report.json, which was written beside it."
        "</footer>\n</main>\n</body>\n</html>\n"
    )


def _section(name: str, heading: str, how_to_read: str, body: str) -> str:
    return (
        f'<section id="{name}">\n<h2>{heading}</h2>\n<p class="how">{how_to_read}</p>\n{body}\n'
        "</section>"
    )


def _success(report: Report, colors: Mapping[str, str]) -> str:
    if not report.tasks:
        return ""
    body = ""
    for task, figures in report.tasks.items():
        body += f"<h3>{escape(task)}</h3>" if len(report.tasks) > 1 else ""
        body += success_table(figures, task, colors) + plan_time(figures, task)
        body += outcomes(figures, task)
    how = (
        "Each row is one way of choosing actions, tried on the same list of episodes. An episode "
        f"succeeds by how it <em>ends</em>,{_target(report)}, measured on the true "
        "state and not on the picture; <em>passed through</em> also counts those that did so on "
        "the way and left again. The bracket on each bar is the 95 % Wilson interval, where "
        "the true rate plausibly lies: brackets that are clear of each other show a difference, "
        "brackets that overlap leave it open. A <em>floor</em> is a simple method that must be "
        "beaten; a <em>ceiling</em> plans with the true simulator and shows what the task allows."
    )
    return _section("success", "Does it reach the goal?", how, body)


def _target(report: Report) -> str:
    """Such as " with the distance below 4 cm"; empty where the measure alone decides nothing."""
    target = report.measure.target
    return f" with the {escape(target)}" if target else ""


def _videos(report: Report) -> str:
    if not report.videos:
        return ""
    how = (
        "Left is what the camera saw, right the goal picture: the only thing the planner was told. "
        f"The bar is the true {escape(report.measure.name)}, which the planner never sees; it "
        "turns green beyond the tick, if there is one. The last frame stays for a second."
    )
    cards = "".join(_video(video, report.measure) for video in report.videos)
    return _section("videos", "Episodes", how, f'<div class="cards wide">{cards}</div>')


def _video(video: EpisodeVideo, measure: MeasureLabel) -> str:
    content = base64.b64encode(encode_video(video, measure)).decode("ascii")
    outcome = ""
    if video.measured is not None:
        first, last = (float(video.measured[index]) for index in (0, -1))
        ends = (show(value, measure.unit) for value in (first, last))
        outcome = ": {} at the start, {} at the end".format(*ends)
        if measure.enough is not None:
            outcome += f", {'success' if measure.reached(last) else 'no success'}"
    return (
        "<figure><video controls autoplay loop muted playsinline "
        f'src="data:video/mp4;base64,{content}"></video><figcaption><strong>{escape(video.title)}'
        f"</strong>{outcome}</figcaption></figure>"
    )


def _distances(report: Report, colors: Mapping[str, str]) -> str:
    curves = report.curves
    if not curves:
        return ""
    how = (
        "The line is the median episode, the band holds the middle 80 % of episodes (10th to 90th "
        "percentile). A method that works crosses the dashed line, if there is one, and stays "
        "there; a line that crosses it and comes back passes the goal without stopping."
    )
    plot = plots.plot_measure(curves, report.measure, colors)
    return _section("distances", "How it gets there", how, _legend(curves, colors) + _scroll(plot))


def _energies(report: Report) -> str:
    if not any(report.energies):
        return ""
    how = (
        "The energy is the distance of what the model saw to the goal picture, in its latent "
        "space: all that the controller has to tell whether it is getting there. Where it falls "
        "as the true distance above does, it can be trusted; an episode whose energy stays high "
        "though the arm arrives sees something else that differs from the goal picture."
    )
    plot = plots.plot_energies(report.energies)
    return _section("energies", "What it saw of that", how, _scroll(plot))


def _landscapes(report: Report) -> str:
    if not report.landscapes:
        return ""
    how = (
        "Each map is the cost that the model predicts for a first action of dx, dy, with the rest "
        "held still: dark is good. The arrow is the true way to the goal, which the model is never "
        "told. A bowl whose bottom lies along the arrow means that the model knows which way to "
        "move; a flat or ragged map means that it does not, and no planner can help it then."
    )
    legend = (
        '<p class="legend"><span><span class="glyph">➔</span> true way to the goal (★ the goal, '
        'where it is on the map)</span><span><span class="glyph">+</span> lowest predicted cost'
        '</span><span><span class="chip dot"></span> the planner’s first action</span></p>'
    )
    cards = "".join(_landscape(land, index) for index, land in enumerate(report.landscapes))
    body = f'{legend}<div class="cards">{cards}</div>'
    return _section("landscapes", "Which way does the model want to go?", how, body)


def _landscape(landscape: Landscape, index: int) -> str:
    away_cm = 100 * math.hypot(*landscape.toward_goal_m)
    plot = plots.plot_landscape(landscape, salt=f"landscape{index}")
    return (
        f"<figure>{plot}<figcaption><strong>{escape(landscape.title)}</strong>: the goal is "
        f"{away_cm:.1f} cm away in this plane</figcaption></figure>"
    )


def _held_out(report: Report) -> str:
    errors = {label: [float(e) for e in values] for label, values in report.held_out.items()}
    if not any(errors.values()):
        return ""
    how = (
        "How far the imagined latents are from the real ones, on episodes the model was not "
        "trained on, one action to several actions ahead. Below <em>copy last</em> (nothing "
        "changes) the model predicts something; below <em>shuffled</em> or <em>zero</em> actions "
        "it really listens to the actions it is given, which is what planning needs. Errors "
        "may grow with the horizon, but should not catch up with the others."
    )
    colors = plots.assign_colors(errors)
    horizons = range(1, max(map(len, errors.values())) + 1)
    largest = max(abs(value) for values in errors.values() for value in values)
    digits = min(8, max(0, 2 - math.floor(math.log10(largest)))) if largest else 0
    head = "".join(f'<th class="num">{horizon}</th>' for horizon in horizons)
    rows = "".join(
        f"<tr><td>{_chip(colors[label])}{_name(label)}</td>"
        + "".join(
            f'<td class="num">{value:.{digits}f}</td>'
            if value is not None
            else '<td class="num">–</td>'
            for value, _ in itertools.zip_longest(values, horizons)
        )
        + "</tr>"
        for label, values in errors.items()
    )
    table = f"<table><thead><tr><th>latent error at horizon</th>{head}</tr></thead>{rows}</table>"
    plot = plots.plot_horizon(errors, colors)
    body = _legend(errors, colors) + _scroll(plot) + _scroll(table)
    return _section("held-out", "Does the model listen to its actions?", how, body)


def _training(report: Report) -> str:
    names = dict.fromkeys(name for row in report.training for name in row)
    losses = [
        name
        for name in names
        if name in _LOSSES or name.endswith("_loss") or name.startswith(("loss_", "held_out"))
    ]
    if not losses:
        return ""
    others = [name for name in names if name not in losses and name != "step"]
    how = (
        "What training minimises, by step: thin as measured on each batch, thick as a moving "
        "average. It should fall quickly and then flatten. A low loss alone proves little, since "
        "a model that ignores its actions can have one; the sections above are the proof."
    )
    if others:
        how += f" Not drawn, but in report.json: {', '.join(map(escape, others))}."
    colors = plots.assign_colors(losses)
    plot = plots.plot_training(report.training, losses, colors)
    return _section("training", "Training", how, _legend(losses, colors) + _scroll(plot))


def _settings(report: Report) -> str:
    if not report.settings:
        return ""
    rows = "".join(
        f"<tr><th>{escape(str(key))}</th><td>{escape(str(value))}</td></tr>"
        for key, value in report.settings.items()
    )
    how = (
        "What the numbers depend on. With the same settings on the same machine, the same command "
        "gives the same numbers."
    )
    return _section("settings", "Settings", how, f'<table class="settings">{rows}</table>')


def _legend(labels: Iterable[str], colors: Mapping[str, str]) -> str:
    items = "".join(f"<span>{_chip(colors[label])}{_name(label)}</span>" for label in labels)
    return f'<p class="legend">{items}</p>'


def _chip(color: str) -> str:
    return f'<span class="chip" style="background:{color}"></span>'


def _name(label: str) -> str:
    return escape(label.replace("_", " "))


def _scroll(content: str) -> str:
    return f'<div class="scroll">{content}</div>'
