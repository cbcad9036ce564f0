"""The success table: a row per method, with its interval drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from robot_wm.report.units import show
from robot_wm.report.values import Figures, MeasureLabel

_BAR_PX = 150


@dataclass(frozen=True, kw_only=True)
class _Method:
    """One row.

    Shares are 0 to 1; None where the figure was not measured; `final` is the median of a measure at
    the end, with its unit.
    """

    name: str
    role: str
    n: int
    success_final: float
    ci95: tuple[float, float]
    success_any: float | None
    final: tuple[float, str] | None


def method_names(figures: Figures, task: str) -> list[str]:
    """The model and every floor and ceiling of a task, in the order of its table."""
    return [method.name for method in _methods(figures, task)]


def success_table(figures: Figures, task: str, colors: Mapping[str, str]) -> str:
    """The table of one task as HTML.

    Args:
        figures: of the task, as in `Report.tasks`.
        task: its name, for error messages.
        colors: method -> `#rrggbb`.

    Raises:
        ValueError: a figure is missing, no number, or a share outside 0 to 1; names its key.
    """
    rows = "".join(_row(method, colors[method.name]) for method in _methods(figures, task))
    return (
        '<div class="scroll"><table class="success"><thead><tr><th>method</th>'
        '<th class="num">episodes</th><th class="num">success at the end</th>'
        f'<th><span class="axis" style="width:{_BAR_PX}px"><span>0</span><span>50</span>'
        '<span>100 %</span></span></th><th class="num">95 % interval</th>'
        '<th class="num">passed through</th>'
        f'<th class="num">median final {escape(_measure_name(figures))}</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def headline(figures: Figures, task: str, measure: MeasureLabel) -> str:
    """The result in one sentence, as HTML."""
    model, *others = _methods(figures, task)
    floors = ", ".join(
        f"{escape(m.name)} {_percent(m.success_final, m.n)}" for m in others if m.role == "floor"
    )
    compared = f"; floors: {floors}" if floors else ""
    return (
        f'<p class="headline"><strong>{_percent(model.success_final, model.n)}</strong> of '
        f"{model.n} episodes of {escape(task)} ended {_ended(measure)} "
        f"(95 % interval {_interval(model)}{compared}).</p>"
    )


def _ended(measure: MeasureLabel) -> str:
    return f"with the {escape(measure.target)}" if measure.target else "in success"


_FINAL = re.compile(r"final_(.+)_([^_]+)_median")


def _final(figures: Figures, where: str) -> tuple[float, str] | None:
    """The median of the first measure at the end, and its unit."""
    for key in figures:
        if match := _FINAL.fullmatch(key):
            return _number(figures, key, where), match[2]
    return None


def _measure_name(figures: Figures) -> str:
    for key in figures:
        if match := _FINAL.fullmatch(key):
            return match[1].replace("_", " ")
    return "measure"


def plan_time(figures: Figures, task: str) -> str:
    """Seconds per action in one sentence, as HTML; empty where it was not measured."""
    if "plan_s" not in figures:
        return ""
    seconds = _mapping(figures, "plan_s", task)
    median = _number(seconds, "median", f"{task}.plan_s")
    p95 = _number(seconds, "p95", f"{task}.plan_s")
    return (
        f"<p>Choosing one action took {_seconds(median)} (median; 95 of 100 actions took at most "
        f"{_seconds(p95)}).</p>"
    )


def outcomes(figures: Figures, task: str) -> str:
    """How the controller says that its episodes ended, as HTML; empty where it was not asked."""
    if "outcomes" not in figures:
        return ""
    counts = _mapping(figures, "outcomes", task)
    said = []
    for kind in counts:
        where = f"{task}.outcomes"
        count = _mapping(counts, kind, where)
        n, success = (int(_number(count, key, f"{where}.{kind}")) for key in ("n", "success"))
        said.append(f"{escape(kind)} {n} (success: {success})")
    return (
        f"<p>How the model says that its episodes ended, from its pictures alone: "
        f"{', '.join(said)}.</p>"
    )


def _methods(figures: Figures, task: str) -> list[_Method]:
    n = int(_number(figures, "n", task))
    methods = [_method("model", "", figures, n, task)]
    for group, role in (("floors", "floor"), ("ceilings", "ceiling")):
        if group not in figures:
            continue
        members = _mapping(figures, group, task)
        for name in members:
            where = f"{task}.{group}"
            methods.append(
                _method(name, role, _mapping(members, name, where), n, f"{where}.{name}")
            )
    return methods


def _method(name: str, role: str, figures: Figures, n: int, where: str) -> _Method:
    """Floors and ceilings run the model's own episodes: where they name no n, it is the model's."""
    ci95 = figures.get("success_final_ci95")
    if not isinstance(ci95, list | tuple) or len(ci95) != 2:
        raise ValueError(f"tasks.{where}.success_final_ci95: got {ci95!r}, want [low, high]")
    low, high = ({"success_final_ci95": bound} for bound in ci95)
    return _Method(
        name=name,
        role=role,
        n=int(_number(figures, "n", where)) if "n" in figures else n,
        success_final=_share(figures, "success_final", where),
        ci95=(_share(low, "success_final_ci95", where), _share(high, "success_final_ci95", where)),
        success_any=_share(figures, "success_any", where) if "success_any" in figures else None,
        final=_final(figures, where),
    )


def _row(method: _Method, color: str) -> str:
    role = f' <span class="role">{method.role}</span>' if method.role else ""
    passed = "–" if method.success_any is None else _percent(method.success_any, method.n)
    final = "–" if method.final is None else show(*method.final)
    return (
        f'<tr{"" if method.role else " class=ours"}><td><span class="chip" '
        f'style="background:{color}"></span>{escape(method.name.replace("_", " "))}{role}</td>'
        f'<td class="num">{method.n}</td>'
        f'<td class="num"><strong>{_percent(method.success_final, method.n)}</strong></td>'
        f'<td>{_bar(method, color)}</td><td class="num">{_interval(method)}</td>'
        f'<td class="num">{passed}</td><td class="num">{final}</td></tr>'
    )


def _bar(method: _Method, color: str) -> str:
    """The share as a bar, its interval as a bracket over it."""
    end, low, high = (_BAR_PX * share for share in (method.success_final, *method.ci95))
    return (
        f'<svg class="bar" width="{_BAR_PX + 2}" height="16" viewBox="-1 0 {_BAR_PX + 2} 16" '
        f'role="img" aria-label="{_percent(method.success_final, method.n)}, 95 % interval '
        f'{_interval(method)}"><rect y="3" width="{_BAR_PX}" height="10" fill="var(--track)"/>'
        f'<rect y="3" width="{end:.1f}" height="10" fill="{color}" opacity="0.75"/>'
        f'<path d="M{low:.1f} 8H{high:.1f}M{low:.1f} 4v8M{high:.1f} 4v8" '
        f'stroke="currentColor" stroke-width="1.5" fill="none"/></svg>'
    )


def _percent(share: float, n: int) -> str:
    return f"{100 * share:.{_digits(n)}f}\N{NO-BREAK SPACE}%"


def _interval(method: _Method) -> str:
    low, high = (f"{100 * bound:.{_digits(method.n)}f}" for bound in method.ci95)
    return f"{low}–{high}\N{NO-BREAK SPACE}%"


def _digits(n: int) -> int:
    """Decimals of a percentage that n episodes can carry."""
    return 0 if n <= 100 else 1


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def _mapping(figures: Figures, key: str, where: str) -> Figures:
    value = figures[key]
    if not isinstance(value, Mapping):
        raise ValueError(f"tasks.{where}.{key}: got {value!r}, want named figures")
    return value


def _number(figures: Figures, key: str, where: str) -> float:
    value = figures.get(key)
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        raise ValueError(f"tasks.{where}.{key}: got {value!r}, want a number") from None


def _share(figures: Figures, key: str, where: str) -> float:
    value = _number(figures, key, where)
    if not 0 <= value <= 1:
        raise ValueError(f"tasks.{where}.{key}: got {value}, want a share from 0 to 1")
    return value
