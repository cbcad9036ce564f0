"""Formats measured values for people."""

from __future__ import annotations

import math

# Factor and display unit, by unit; other units are shown as they are.
_SHOWN = {"m": (100.0, "cm"), "share": (100.0, "%"), "rad": (180 / math.pi, "°")}


def shown(value: float, unit: str) -> float:
    """Returns a value in the unit in which people read it."""
    return value * _SHOWN.get(unit, (1.0, unit))[0]


def shown_unit(unit: str) -> str:
    """Returns the unit in which people read a value: `"cm"` for `"m"`."""
    return _SHOWN.get(unit, (1.0, unit))[1]


def show(value: float, unit: str, digits: int = 1) -> str:
    """Returns a value with its unit, such as `"4.0 cm"`."""
    return f"{shown(value, unit):.{digits}f} {shown_unit(unit)}"


def show_enough(enough: float, unit: str) -> str:
    """Returns a threshold with its unit, in no more digits than it has."""
    return f"{shown(enough, unit):g} {shown_unit(unit)}"
