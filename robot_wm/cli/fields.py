"""Reads settings types: their fields, defaults, choices, and what each means."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from robot_wm.deployment.parts import Part, annotations_of, part_defaults
from robot_wm.types import plain_settings
from robot_wm.types.settings import is_settings, kinds_of, tag_of, types_at

_PLAIN = (str, int, float, bool, type(None))
_UNITS = {"_s": "s", "_m": "m", "_rad": "rad", "_hz": "Hz", "_ms": "ms", "_mps": "m/s"}


def part_types(settings: Any, path: str = "") -> Iterator[tuple[str, Part]]:
    """Yields the dotted key of every part in some settings, and the part."""
    for name in kinds_of(type(settings)):
        value, where = getattr(settings, name), f"{path}.{name}" if path else name
        if isinstance(value, Part):
            yield where, value
        elif is_settings(type(value)):
            yield from part_types(value, where)


def default_of(settings_type: type, name: str) -> Any:
    """Returns the default of a field; msgspec.NODEFAULT if it must be given."""
    if dataclasses.is_dataclass(settings_type):
        field = {f.name: f for f in dataclasses.fields(settings_type)}[name]
        if field.default is not dataclasses.MISSING:
            return field.default
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
        return msgspec.NODEFAULT
    field = {f.name: f for f in msgspec.structs.fields(settings_type)}[name]
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def expand(settings_type: type) -> dict[str, Any]:
    """Returns a type's defaults as plain values, with `"???"` for those that must be given."""
    tag = tag_of(settings_type)
    values: dict[str, Any] = {tag[0]: tag[1]} if tag else {}
    for name, kind in kinds_of(settings_type).items():
        default = default_of(settings_type, name)
        if default is msgspec.NODEFAULT:
            nested = [member for member in types_at(kind, ()) if is_settings(member)]
            values[name] = expand(nested[0]) if nested else "???"
        else:
            values[name] = expand_value(name, default)
    return values


def expand_value(name: str, value: Any) -> Any:
    """Returns a default as plain values; a part with all arguments that it may be made with."""
    if isinstance(value, Part):
        return {**part_node(name, value.name), **plain_settings(value)}
    if not is_settings(type(value)):
        return plain_settings(value)
    plain = plain_settings(value)
    for field in kinds_of(type(value)):
        plain[field] = expand_value(field, getattr(value, field))
    return plain


def part_node(group: str, name: str) -> dict[str, Any]:
    """Returns a part's name and those defaults of its arguments that are plain values."""
    defaults = part_defaults(TABLES[group].table()[name])
    facts = TABLES[group].facts
    plain = {
        key: value
        for key, value in defaults.items()
        if isinstance(value, _PLAIN) and key not in facts
    }
    return {"name": name, **plain, **dict.fromkeys(TABLES[group].more)}


@dataclass(frozen=True)
class ChoiceTable:
    """The choices of a field.

    Attributes:
        kind: Name of the type that a field has if it is a choice from this table.
        module: Module of the table; imported only when it is needed, as torch takes a second.
        name: Name of the table in that module; the table maps names to classes, functions or
            settings.
        more: Further settings, null by default, that a part may have besides the arguments of its
            class, and what each means.
        facts: Arguments that whoever makes the part decides, and no setting.
    """

    kind: str
    module: str
    name: str
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)
    facts: tuple[str, ...] = ()

    def table(self) -> Mapping[str, Any]:
        """Imports the table and returns it."""
        table: Mapping[str, Any] = getattr(importlib.import_module(self.module), self.name)
        return table

    def fits(self, kind: Any) -> bool:
        """Returns whether a field with this annotation is a choice from this table."""
        return any(getattr(member, "__name__", "") == self.kind for member in types_at(kind, ()))

    def names(self, kind: Any) -> list[str]:
        """Lists the choices that fit a field: `train` takes no rendered clips."""
        types = types_at(kind, ())
        return [
            name
            for name, value in self.table().items()
            if self.kind == "Part" or (value if isinstance(value, type) else type(value)) in types
        ]

    def choices(self, group: str) -> dict[str, Any]:
        """Returns the choices by name, as hydra composes them."""
        if self.kind == "Part":
            return {name: part_node(group, name) for name in self.table()}
        return {
            name: expand(value) if isinstance(value, type) else expand_value(name, value)
            for name, value in self.table().items()
        }

    def default(self, group: str, values: Any) -> str | None:
        """Returns the name of the choice that is a field's default; None if the default is None."""
        names = [name for name, node in self.choices(group).items() if node == values]
        if values is not None and not names:
            raise LookupError(f"the default of {group} is none of {', '.join(self.table())}")
        return names[0] if names else None


_SIMULATION = "robot_wm.deployment.simulation"
TABLES = {
    "planner": ChoiceTable("Part", "robot_wm.planners", "PLANNERS"),
    "objective": ChoiceTable(
        "Part",
        "robot_wm.objectives",
        "OBJECTIVES",
        {"region": "Region that counts: [top, left, bottom, right], picture shares; null: all."},
    ),
    "encoder": ChoiceTable("Part", "robot_wm.encoders", "ENCODERS"),
    "predictor": ChoiceTable("PredictorShape", "robot_wm.predictor", "PREDICTORS"),
    "data": ChoiceTable("DatasetSettings", "robot_wm.workflows.pretrain", "DATA"),
    "robot": ChoiceTable("SimulatedRobot", "robot_wm.deployment.settings", "ROBOTS"),
    "env": ChoiceTable("SimulationSettings", "robot_wm.deployment.settings", "ENVS"),
    # Parts of an env or of a dataset: set as keys of those, not as groups of a command.
    "simulator": ChoiceTable("Part", _SIMULATION, "SIMULATORS"),
    "task": ChoiceTable("Part", _SIMULATION, "TASKS"),
    "demonstrator": ChoiceTable("Part", _SIMULATION, "DEMONSTRATORS", facts=("num_steps",)),
    "play": ChoiceTable("Part", _SIMULATION, "PLAYERS"),
}
GROUPS = ("planner", "objective", "encoder", "predictor", "data", "robot", "env")


@dataclass(frozen=True)
class Setting:
    """One key of a command line.

    Attributes:
        key: The dotted key.
        default: The default as a plain value; `"???"` if it must be given.
        meaning: What the setting means, a sentence.
        values: The values that it may have, in words.
    """

    key: str
    default: Any
    meaning: str
    values: str


def settings_of(
    settings_type: type, prefix: str = "", defaults: Mapping[str, Any] | None = None
) -> Iterator[Setting]:
    """Yields every key of a settings type, also those of the arguments of its parts.

    Args:
        settings_type: The type.
        prefix: What its keys begin with.
        defaults: Plain values of its fields; the type's own where None.

    Yields:
        Setting: A key after the other, a group before what is in it.
    """
    meanings = meanings_of(settings_type)
    defaults = {**expand(settings_type), **(defaults or {})}
    for name, kind in kinds_of(settings_type).items():
        key, default = f"{prefix}{name}", defaults[name]
        inside = [member for member in types_at(kind, ()) if is_settings(member)]
        if Part in types_at(kind, ()) and isinstance(default, dict):
            chosen = default.get("name", default.get("_target_"))
            yield Setting(key, chosen, meanings.get(name, ""), _part_names(name))
            build = TABLES[name].table().get(str(chosen))
            if build is None:  # the caller's own
                continue
            meanings_inside = {**meanings_of(build), **TABLES[name].more}
            kinds = annotations_of(build)
            for argument, value in default.items():
                if argument != "name":
                    values = describe(kinds[argument], argument) if argument in kinds else ""
                    meaning = meanings_inside.get(argument, "")
                    yield Setting(f"{key}.{argument}", value, meaning, values)
        elif inside:
            yield Setting(key, None, meanings.get(name, ""), "")
            chosen = _chosen(inside, default)
            if chosen is not None:
                yield from settings_of(chosen, f"{key}.", default)
        else:
            yield Setting(key, default, meanings.get(name, ""), describe(kind, name))


def part_kinds(key: str) -> list[Any]:
    """Lists the types that a setting of a part of ours may have, by its dotted key."""
    owner, _, name = key.rpartition(".")
    table = TABLES.get(owner.rpartition(".")[2])
    if table is None or table.kind != "Part":
        return []
    annotations = (annotations_of(build) for build in table.table().values())
    return [kind for own in annotations if name in own for kind in types_at(own[name], ())]


def _part_names(field: str) -> str:
    return "one of " + ", ".join(TABLES[field].table()) + ", or a class of yours"


def _chosen(members: list[Any], default: Any) -> Any:
    """Returns the type, of several, that a default belongs to; None if it is no mapping."""
    if not isinstance(default, dict):
        return None
    for member in members:
        tag = tag_of(member)
        if tag and default.get(tag[0]) == tag[1]:
            return member
    return members[0]


def describe(kind: Any, name: str = "") -> str:
    """Describes in words the values that a field may have, with the unit that its name ends in."""
    unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
    return f"{_describe(kind)}, {unit}" if unit else _describe(kind)


def _describe(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        bounds = [meta for meta in get_args(kind)[1:] if isinstance(meta, Meta)]
        limits = [f"{word} {value:g}" for meta in bounds for word, value in _limits(meta)]
        return " ".join((_describe(get_args(kind)[0]), ", ".join(limits))).strip()
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_describe, get_args(kind))))
    if get_origin(kind) is Literal:
        return " or ".join(str(word) for word in get_args(kind))
    if get_origin(kind) in (tuple, list, Sequence):
        inner = [member for member in get_args(kind) if member is not ...]
        return f"a list of {_describe(inner[0])}" if inner else "a list"
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    words |= {str: "text", Path: "text", type(None): "null"}
    return words.get(kind, "a mapping")


def _limits(meta: Meta) -> Iterator[tuple[str, float]]:
    for name, word in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below")):
        value = getattr(meta, name)
        if value is not None and abs(value) < 1e300:
            yield word, value


def meanings_of(documented: Any) -> dict[str, str]:
    """Reads the meaning of each field or argument from the docstrings of a type and its bases."""
    meanings: dict[str, str] = {}
    if isinstance(documented, functools.partial):
        documented = documented.func
    for base in reversed(getattr(documented, "__mro__", (documented,))):
        text = inspect.cleandoc(base.__doc__ or "")
        section = re.search(r"^(?:Attributes|Args):\n((?:[ ]{4}.*\n?|\n)+)", text, re.M)
        entries = re.split(r"\n(?= {4}\w)", section[1]) if section else []
        for entry in entries:
            names, _, meaning = entry.strip().partition(":")
            for name in names.split(","):
                meanings[name.strip()] = " ".join(meaning.split())
    return meanings
