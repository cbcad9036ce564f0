"""The success figures of a task, checked and formatted for the page's table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from robot_wm.report.units import show
from robot_wm.report.values import Figures

_FINAL = re.compile(r"final_(.+)_([^_]+)_median")


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table: a method and its figures.

    Attributes:
        name: Name of the method.
        role: `""`, `"floor"` or `"ceiling"`.
        n: Number of episodes.
        success_final: Share of episodes solved at the end, 0 to 1.
        ci95: 95 % interval of that share.
        success_any: Share of episodes solved at any time, 0 to 1; None: it was not measured.
        final: Median of a measure at the end, with its unit; None: it was not measured.
    """

    name: str
    role: str
    n: int
    success_final: float
    ci95: tuple[float, float]
    success_any: float | None
    final: tuple[float, str] | None

    @property
    def percent(self) -> str:
        """`success_final` in percent."""
        return _percent(self.success_final, self.n)

    @property
    def interval(self) -> str:
        """`ci95` in percent."""
        low, high = (f"{100 * bound:.{_digits(self.n)}f}" for bound in self.ci95)
        return f"{low}–{high}\N{NO-BREAK SPACE}%"

    @property
    def passed_through(self) -> str:
        """`success_any` in percent."""
        return "–" if self.success_any is None else _percent(self.success_any, self.n)

    @property
    def median_final(self) -> str:
        """`final` with its unit."""
        return "–" if self.final is None else show(*self.final)


@dataclass(frozen=True, kw_only=True)
class TaskFigures:
    """What the page shows of one task.

    Attributes:
        name: Name of the task.
        methods: The model, then every floor and ceiling.
        floors: Each floor with its final share of success, formatted.
        measure: Name of the measure in the table's last column.
        plan_time: `median` and `p95` of the time of a plan, formatted; None: it was not measured.
        outcomes: How the controller says that its episodes ended, formatted; empty: it was not
            recorded.
    """

    name: str
    methods: tuple[Method, ...]
    floors: tuple[str, ...]
    measure: str
    plan_time: Mapping[str, str] | None
    outcomes: tuple[str, ...]


def read_task(task: str, figures: Figures) -> TaskFigures:
    """Reads and checks the figures of a task.

    Args:
        task: Name of the task.
        figures: Figures of the task, as in `Report.tasks`.

    Returns:
        The figures, formatted.

    Raises:
        ValueError: a figure is missing or no number, or a share is outside 0 to 1; the message
            names its key.
    """
    methods = _methods(figures, task)
    final = _final(figures)
    return TaskFigures(
        name=task,
        methods=methods,
        floors=tuple(f"{m.name} {m.percent}" for m in methods if m.role == "floor"),
        measure=final[1].replace("_", " ") if final else "measure",
        plan_time=_plan_time(figures, task),
        outcomes=_outcomes(figures, task),
    )


def _final(figures: Figures) -> re.Match[str] | None:
    """Finds the key of the first measure at the end; the match's groups are name and unit."""
    return next((match for key in figures if (match := _FINAL.fullmatch(key))), None)


def _plan_time(figures: Figures, task: str) -> Mapping[str, str] | None:
    if "plan_s" not in figures:
        return None
    seconds = _mapping(figures, "plan_s", task)
    return {key: _seconds(_number(seconds, key, f"{task}.plan_s")) for key in ("median", "p95")}


def _outcomes(figures: Figures, task: str) -> tuple[str, ...]:
    if "outcomes" not in figures:
        return ()
    counts = _mapping(figures, "outcomes", task)
    lines = []
    for kind in counts:
        where = f"{task}.outcomes"
        count = _mapping(counts, kind, where)
        n, success = (int(_number(count, key, f"{where}.{kind}")) for key in ("n", "success"))
        lines.append(f"{kind} {n} (success: {success})")
    return tuple(lines)


def _methods(figures: Figures, task: str) -> tuple[Method, ...]:
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
    return tuple(methods)


def _method(name: str, role: str, figures: Figures, n: int, where: str) -> Method:
    """Reads one row; a floor or ceiling without an n ran the model's own `n` episodes."""
    ci95 = figures.get("success_final_ci95")
    if not isinstance(ci95, list | tuple) or len(ci95) != 2:
        raise ValueError(f"tasks.{where}.success_final_ci95: got {ci95!r}, want [low, high]")
    low, high = ({"success_final_ci95": bound} for bound in ci95)
    final = _final(figures)
    return Method(
        name=name,
        role=role,
        n=int(_number(figures, "n", where)) if "n" in figures else n,
        success_final=_share(figures, "success_final", where),
        ci95=(_share(low, "success_final_ci95", where), _share(high, "success_final_ci95", where)),
        success_any=_share(figures, "success_any", where) if "success_any" in figures else None,
        final=(_number(figures, final[0], where), final[2]) if final else None,
    )


def _percent(share: float, n: int) -> str:
    return f"{100 * share:.{_digits(n)}f}\N{NO-BREAK SPACE}%"


def _digits(n: int) -> int:
    """Returns how many decimals of a percentage n episodes justify."""
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
