"""Settings: values whose kind, range and choices are annotated on their fields, and checked.

A settings type is a frozen dataclass or a `Settings` struct. Its annotations are the only place
that defines what a value may be; `check_fields` checks an instance against them, `read_settings`
makes one from plain values, such as those of a command line or a file.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import numpy as np
from msgspec import Meta

from robot_wm.types.errors import UserError

_P = ParamSpec("_P")
_T = TypeVar("_T")

_FINITE = 1.7e308
Count = Annotated[int, Meta(ge=1)]
Several = Annotated[int, Meta(ge=2)]
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
    """Settings that are checked whenever they are made.

    Raises:
        UserError: a value is of the wrong kind or out of range.
    """

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(settings: Any, name: str = "") -> None:
    """Checks the fields of a dataclass or a struct against their annotations.

    What an annotation can be made of becomes it: a mapping settings, a list a tuple.

    Args:
        settings: The instance; its fields may be replaced.
        name: Name of the whole, such as `monitors`, for error messages; empty: none.

    Raises:
        UserError: a value is of the wrong kind or out of range; the message names the field.
    """
    for field, kind in kinds_of(type(settings)).items():
        value = getattr(settings, field)
        read = read_settings(f"{name}.{field}" if name else field, _plain_number(value), kind)
        if read is not value:  # a mapping for settings, a list for a tuple, numpy's number
            if isinstance(settings, msgspec.Struct):
                msgspec.structs.force_setattr(settings, field, read)
            else:
                object.__setattr__(settings, field, read)


def checked(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Makes a function check its arguments against their annotations, before it runs.

    Only annotations with a range or choices count, such as `Positive` or a `Literal`; all others
    are what a type checker sees.

    Args:
        function: A function, or a constructor.

    Returns:
        The function with the check, which raises UserError and names the argument.
    """
    signature = inspect.signature(function)
    kinds: dict[str, Any] = {}

    @functools.wraps(function)
    def checking(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        if not kinds:  # annotations may name what the module defines later
            hints = get_type_hints(function, include_extras=True)
            kinds.update({name: kind for name, kind in hints.items() if _is_narrow(kind)})
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in kinds:
                read_settings(name, _plain_number(value), kinds[name])
        return function(*args, **kwargs)

    return checking


def _is_narrow(kind: Any) -> bool:
    """Tells whether an annotation has a range or choices."""
    if get_origin(kind) in (Union, UnionType):
        return any(map(_is_narrow, get_args(kind)))
    if get_origin(kind) is Annotated:
        return any(isinstance(part, Meta) for part in kind.__metadata__)
    return get_origin(kind) is Literal


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
    """Makes settings from plain values, such as those of a command line or a file.

    Args:
        name: Name of the whole, such as `robot`, for error messages; empty: none.
        values: A mapping, or the value of a single setting.
        kind: A settings type, or a union of several.

    Returns:
        An instance of `kind`.

    Raises:
        UserError: a value is missing, of the wrong kind, out of range, or unknown.
    """
    refuse_unknown(name, values, kind)
    try:
        return msgspec.convert(values, kind, dec_hook=_read_custom)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        message, _, place = str(error).partition(" - at `")
        where = place.partition("$")[2].rstrip("`")
        where = where if name else where.removeprefix(".")
        mapping, inside, _ = where.partition("[...]")
        if inside or place.startswith("key"):
            types = types_at(kind, _keys(mapping))
            _read_members(f"{name}{mapping}", _at(values, mapping), types)
        if isinstance(cause, UserError):  # raised by a constructor, about several fields together
            field = re.match(r"[\w.\[\]]+: ", message)
            place = f"{name}{where}"
            joint = "" if not place else "." if field else ": "
            raise UserError(f"{place}{joint}{message}") from error
        missing = re.fullmatch(r"Object missing required field `(.*)`", message)
        if missing:
            prefix = f"{name}{where}." if f"{name}{where}" else ""
            raise UserError(f"{prefix}{missing[1]}: must be given") from error
        if message.startswith("Invalid"):  # a word that is not among the choices
            want = " or ".join(_choices(kind, _keys(where))) or message
        elif message.startswith("Expected "):
            want = _plain(message.removeprefix("Expected "))
        else:
            raise UserError(f"{name}{where}: {message}") from error
        raise UserError(f"{name}{where}: got {_at(values, where)!r}, want {want}") from error


def _read_members(name: str, mapping: Any, kinds: Sequence[Any]) -> None:
    """Reads a mapping's members one by one: msgspec does not tell which of them is wrong."""
    for kind in kinds:
        if get_origin(kind) is dict:
            key_kind, value_kind = get_args(kind)
            for key, value in mapping.items():
                read_settings(f"a key of {name}", key, key_kind)
                read_settings(f"{name}.{key}", value, value_kind)


def _plain_number(value: object) -> object:
    """Returns Python's own number for one of numpy's, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def plain_settings(settings: object) -> Any:
    """Returns settings as plain values, from which `read_settings` makes the same settings.

    Args:
        settings: A dataclass, a struct, or an object with the methods `read` and `plain`.

    Returns:
        The plain values.
    """
    return _lists(msgspec.to_builtins(settings, enc_hook=_plain_custom))


def _plain_custom(value: Any) -> Any:
    if hasattr(value, "plain"):
        return value.plain()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)  # a path, a type


def _lists(value: Any) -> Any:
    """Turns tuples into lists, as a file has them."""
    if isinstance(value, dict):
        return {key: _lists(member) for key, member in value.items()}
    return [_lists(member) for member in value] if isinstance(value, list | tuple) else value


def _read_custom(kind: Any, values: Any) -> Any:
    return values if isinstance(values, kind) else kind.read(values)


def _plain(told: str) -> str:
    """Puts the part of msgspec's message that says what it expected into plain words."""
    text = told.partition(", got")[0]
    for mark, words in _BOUNDS:
        text = text.replace(mark, words)
    kinds = text[1:].partition("`")[0].split(" | ") if text.startswith("`") else []
    if not kinds:
        return text
    rest = text[1:].partition("`")[2]
    words = dict(_WORDS)
    return " or ".join(words.get(f"`{kind}`", kind) for kind in kinds) + rest


def _at(values: Any, where: str) -> Any:
    """Returns the value at a path such as `.cameras.front[0]`; the whole if there is none."""
    for key in _keys(where):
        try:
            values = values[key]
        except (LookupError, TypeError):
            break
    return values


def _keys(where: str) -> list[str | int]:
    found = re.findall(r"\.([^.\[]+)|\[(\d+)\]", f".{where.lstrip('.')}")
    return [key or int(index) for key, index in found]


def types_at(kind: Any, keys: Sequence[str | int]) -> list[Any]:
    """Returns the types that a value at a path may have: for a union, each of its members."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return [found for member in get_args(kind) for found in types_at(member, keys)]
    if not keys:
        return [kind]
    key, *rest = keys
    if is_settings(kind):
        field = kinds_of(kind).get(str(key))
        return [] if field is None else types_at(field, rest)
    inner = [member for member in get_args(kind) if member is not ...]
    return types_at(inner[-1], rest) if inner else []


def is_settings(kind: Any) -> bool:
    """Returns whether a type is a dataclass or a struct."""
    return isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct)
    )


def _choices(kind: Any, keys: Sequence[str | int]) -> list[str]:
    """Returns the words that a value at a path may be; empty if any text is allowed."""
    words: list[str] = []
    for member in types_at(kind, keys[:-1]) if keys else []:
        tag = tag_of(member)
        if tag and keys[-1] == tag[0]:
            words.append(tag[1])
    for member in types_at(kind, keys):
        words += [str(word) for word in get_args(member)] if get_origin(member) is Literal else []
    return list(dict.fromkeys(words))


def refuse_unknown(name: str, values: object, kind: Any) -> None:
    """Refuses a mapping with a key that the settings do not have.

    msgspec itself ignores keys that a dataclass does not have.

    Args:
        name: As in `read_settings`.
        values: A mapping or a list; anything else has no keys.
        kind: A settings type, or a union of several.

    Raises:
        UserError: there is such a key, at any depth; the message names it and the most similar key.
    """
    if not isinstance(values, dict | list | tuple):
        return
    members = [member for member in types_at(kind, ()) if is_settings(member)]
    if not isinstance(values, dict) or not members:
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            inner = types_at(kind, (key,))
            if inner:
                refuse_unknown(_member(name, key), value, Union[tuple(inner)])  # noqa: UP007
        return
    tags = {member: tag for member in members if (tag := tag_of(member))}
    tagged = [member for member, (field, word) in tags.items() if values.get(field) == word]
    if tags and not tagged and any(field in values for field, _ in tags.values()):
        return  # of no kind in the union, which msgspec reports next
    allowed: dict[str, Any] = {}
    for member in tagged or members:
        allowed |= kinds_of(member)
        if member in tags:
            allowed.setdefault(tags[member][0], Any)
    for key, value in values.items():
        if key not in allowed:
            raise UserError(unknown_key(name, str(key), list(allowed)))
        refuse_unknown(_member(name, key), value, allowed[key])


def _member(name: str, key: str | int) -> str:
    """Returns the dotted name of a member of settings or a mapping, or of a list."""
    if isinstance(key, int):
        return f"{name}[{key}]"
    return f"{name}.{key}" if name else key


def tag_of(kind: Any) -> tuple[str, str] | None:
    """Returns the field and the word that identify a struct in a union; None if it has none."""
    config = getattr(kind, "__struct_config__", None)
    return (config.tag_field, config.tag) if config is not None and config.tag else None


def unknown_key(where: str, field: str, allowed: Sequence[str]) -> str:
    """Writes the error message for an unknown key, with the most similar key and all keys.

    Args:
        where: Dotted name of the settings that contain the key; empty: none.
        field: The key.
        allowed: The keys that exist.

    Returns:
        The message.
    """
    key = f"{where}.{field}" if where else field
    near = difflib.get_close_matches(field, allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    inside = f" in {where}" if where else ""
    return f"unknown key {key!r}{hint}; allowed{inside}: {', '.join(allowed) or 'nothing'}"
