"""Settings: values whose kind, range and choices stand on their fields, and are checked by them.

A settings type is a frozen dataclass or a `Settings` struct. Its annotations are the only place
that says what a value may be; `check_fields` holds an instance to them, `read_settings` makes one
of plain values, such as a command line or a file has.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta

from robot_wm.types.errors import UserError

_FINITE = 1.7e308
Count = Annotated[int, Meta(ge=1)]
Index = Annotated[int, Meta(ge=0)]
Number = Annotated[float, Meta(ge=-_FINITE, le=_FINITE)]
Positive = Annotated[float, Meta(gt=0, le=_FINITE)]
NonNegative = Annotated[float, Meta(ge=0, le=_FINITE)]
Share = Annotated[float, Meta(ge=0, le=1)]
ShareBelowOne = Annotated[float, Meta(ge=0, lt=1)]
InnerShare = Annotated[float, Meta(gt=0, lt=1)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Precision = Literal["auto", "float32", "bfloat16"]

_WORDS = (
    ("`int`", "a whole number"),
    ("`float`", "a number"),
    ("`str`", "text"),
    ("`bool`", "true or false"),
    ("`array`", "a list"),
    ("`object`", "a mapping"),
)
_BOUNDS = (("< ", "below "), ("<= ", "of at most "), ("> ", "above "), (">= ", "of at least "))


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings that are checked when they are made, by the constructor too.

    Raises:
        UserError: a value of the wrong kind, or out of range.
    """

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(settings: Any, name: str = "") -> None:
    """Holds the fields of a dataclass or a struct to their annotations.

    Args:
        settings: an instance.
        name: of the whole, such as `monitors`, for what is said of a wrong value; empty: none.

    Raises:
        UserError: a value of the wrong kind, or out of range; names the field.
    """
    for field, kind in kinds_of(type(settings)).items():
        value = getattr(settings, field)
        if isinstance(value, np.generic):
            value = value.item()
        read_settings(f"{name}.{field}" if name else field, value, kind)


@functools.cache
def kinds_of(settings_type: type) -> dict[str, Any]:
    """Returns the annotation of every field of a dataclass or a struct, by the field's name."""
    if dataclasses.is_dataclass(settings_type):
        names = {field.name for field in dataclasses.fields(settings_type)}
    else:
        names = set(settings_type.__struct_fields__)  # type: ignore[attr-defined]
    hints = get_type_hints(settings_type, include_extras=True)
    return {name: kind for name, kind in hints.items() if name in names}


def read_settings(name: str, values: object, kind: Any) -> Any:
    """Makes settings of plain values, as a command line or a file has them.

    Args:
        name: of the whole, such as `robot`, for what is said of a wrong one; empty: none.
        values: a mapping, or the value of a single setting.
        kind: a type of settings, or a union of them.

    Returns:
        An instance of `kind`.

    Raises:
        UserError: a value is missing, of the wrong kind, out of range, or not known.
    """
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        told, _, where = str(error).partition(" - at `$")
        where = where.rstrip("`") if name else where.rstrip("`").removeprefix(".")
        if isinstance(cause, UserError):  # a constructor's own complaint: of fields together
            field = re.match(r"[\w.\[\]]+: ", told)
            joint = "." if field and f"{name}{where}" else ""
            raise UserError(f"{name}{where}{joint}{told}" if joint else told) from error
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", told)
        if unknown:
            allowed = list(dict.fromkeys(_fields(kind, _keys(where))))
            raise UserError(_unknown(f"{name}{where}", unknown[1], allowed)) from error
        missing = re.fullmatch(r"Object missing required field `(.*)`", told)
        if missing:
            prefix = f"{name}{where}." if f"{name}{where}" else ""
            raise UserError(f"{prefix}{missing[1]}: must be given") from error
        if told.startswith("Invalid"):  # a word that is none of a few
            want = " or ".join(_choices(kind, _keys(where))) or told
        elif told.startswith("Expected "):
            want = _plain(told.removeprefix("Expected "))
        else:
            raise UserError(f"{name}{where}: {told}") from error
        raise UserError(f"{name}{where}: got {_at(values, where)!r}, want {want}") from error


def _plain(told: str) -> str:
    """Says in words what msgspec says that it expected."""
    wanted = told.partition(", got")[0]
    for mark, words in _BOUNDS:
        wanted = wanted.replace(mark, words)
    kinds = wanted[1:].partition("`")[0].split(" | ") if wanted.startswith("`") else []
    if not kinds:
        return wanted
    rest = wanted[1:].partition("`")[2]
    words = dict(_WORDS)
    return " or ".join(words.get(f"`{kind}`", kind) for kind in kinds) + rest


def _at(values: Any, where: str) -> Any:
    """Returns what stands at a path such as `.cameras.front[0]`; the whole where there is none."""
    for key in _keys(where):
        try:
            values = values[key]
        except (LookupError, TypeError):
            break
    return values


def _keys(where: str) -> list[str | int]:
    found = re.findall(r"\.([^.\[]+)|\[(\d+)\]", f".{where.lstrip('.')}")
    return [key or int(index) for key, index in found]


def _types_at(kind: Any, keys: Sequence[str | int]) -> list[Any]:
    """The types that a value at a path may have: of a union, each of its members."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return [own for member in get_args(kind) for own in _types_at(member, keys)]
    if not keys:
        return [kind]
    key, *rest = keys
    if is_settings(kind):
        return _types_at(own, rest) if (own := kinds_of(kind).get(str(key))) is not None else []
    inner = [own for own in get_args(kind) if own is not ...]
    return _types_at(inner[-1], rest) if inner else []


def is_settings(kind: Any) -> bool:
    """Whether a type has fields of its own: a dataclass or a struct."""
    return isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct)
    )


def _choices(kind: Any, keys: Sequence[str | int]) -> list[str]:
    """The words that a value at a path may be; none where any may."""
    found: list[str] = []
    for member in _types_at(kind, keys[:-1]) if keys else []:
        config = getattr(member, "__struct_config__", None)
        if config is not None and config.tag is not None and keys[-1] == config.tag_field:
            found.append(str(config.tag))
    for member in _types_at(kind, keys):
        found += [str(word) for word in get_args(member)] if get_origin(member) is Literal else []
    return list(dict.fromkeys(found))


def _fields(kind: Any, keys: Sequence[str | int]) -> list[str]:
    """The fields that a mapping at a path may have."""
    return [f for member in _types_at(kind, keys) if is_settings(member) for f in kinds_of(member)]


def _unknown(where: str, field: str, allowed: Sequence[str]) -> str:
    """Says that a key is unknown, which is near it, and which there are."""
    key = f"{where}.{field}" if where else field
    near = difflib.get_close_matches(field, allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    inside = f" in {where}" if where else ""
    return f"unknown key {key!r}{hint}; allowed{inside}: {', '.join(allowed) or 'nothing'}"
