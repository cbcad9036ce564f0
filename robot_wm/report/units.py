"""Measured values as people read them."""

from __future__ import annotations

import math

# unit -> factor, and what it is then shown as; others are shown as they are
_SHOWN = {"m": (100.0, "cm"), "share": (100.0, "%"), "rad": (180 / math.pi, "°")}


def shown(value: float, unit: str) -> float:
    """A value in the unit that people read it in."""
    return value * _SHOWN.get(unit, (1.0, unit))[0]


def shown_unit(unit: str) -> str:
    """The unit that people read a value in: `"cm"` of `"m"`."""
    return _SHOWN.get(unit, (1.0, unit))[1]


def show(value: float, unit: str, digits: int = 1) -> str:
    """A value with its unit, such as `"4.0 cm"`."""
    return f"{shown(value, unit):.{digits}f} {shown_unit(unit)}"


def show_enough(enough: float, unit: str) -> str:
    """A threshold with its unit, in no more digits than it has."""
    return f"{shown(enough, unit):g} {shown_unit(unit)}"
