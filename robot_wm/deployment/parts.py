"""A part is a component that is chosen by name: a planner, an objective, an encoder, a task.

Ours are in tables of their packages. A dotted name is the caller's own, and is imported.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from robot_wm.deployment.extensions import find_attribute
from robot_wm.types import UserError, read_settings
from robot_wm.types.settings import is_settings, kinds_of, unknown_key

Makers = Mapping[str, Callable[..., Any]]


class Part:
    """The name of a part, and the settings that it is made with. Never changed in place.

    Args:
        name: Name in the table of its kind, or the dotted name of the caller's own class or
            function.
        **settings: Keyword arguments of the class or function.
    """

    def __init__(self, name: str, /, **settings: Any) -> None:
        self.name, self.settings = name, settings

    @classmethod
    def read(cls, values: object) -> Part:
        """Reads a part from its name, or from a mapping of its name (or `_target_`) and settings.

        Args:
            values: The name or the mapping.

        Returns:
            The part.

        Raises:
            UserError: there is no name.
        """
        if isinstance(values, str):
            return cls(values)
        if not isinstance(values, Mapping):
            raise UserError(f"got {values!r}, want a mapping with a name")
        settings = dict(values)
        target, name = settings.pop("_target_", None), settings.pop("name", None)
        if not isinstance(target or name, str):
            raise UserError(f"got {dict(values)!r}, want a name in it")
        hidden = [str(key) for key in settings if not str(key).isidentifier()]
        hidden += [str(key) for key in settings if str(key).startswith("_")]
        if hidden:
            raise UserError(f"unknown key {hidden[0]!r}")
        # Beside a class of the caller's own, a name says which of ours it replaces.
        return cls(str(target or name), **{str(key): value for key, value in settings.items()})

    def plain(self) -> dict[str, Any]:
        """Returns the mapping that `read` takes."""
        key = "_target_" if self.is_outside else "name"
        return {key: self.name, **self.settings}

    @property
    def is_outside(self) -> bool:
        """Whether the part is the caller's own."""
        return "." in self.name

    def resolved(self, table: Makers) -> Part:
        """Returns the same part with every plain default filled in: equal parts compare equal."""
        if self.name not in table:
            return self
        defaults = part_defaults(table[self.name])
        plain = {k: v for k, v in defaults.items() if isinstance(v, str | int | float | None)}
        told = {**plain, **self.settings}
        return Part(self.name, **{key: v for key, v in told.items() if v is not None})

    def find(
        self,
        table: Makers,
        what: str,
        *,
        also: Collection[str] = (),
        without: Collection[str] = (),
    ) -> Callable[..., Any]:
        """Finds the class or function that makes the part, and checks the settings.

        Args:
            table: Makers of the part's kind.
            what: Name of the kind, such as `planner`, for error messages.
            also: Names of further settings that the part may have.
            without: Names of arguments that are no settings.

        Returns:
            The class or function.

        Raises:
            UserError: there is none of that name that can be called, or it does not take a setting.
        """
        if self.is_outside:
            attribute: Any = find_attribute(self.name)
            try:
                inspect.signature(attribute)
            except (TypeError, ValueError) as error:  # of something else than a class or function
                raise UserError(f"{what} {self.name}: {error}") from error
            return attribute
        if self.name not in table:
            raise UserError(f"{what}: got {self.name!r}, want one of {', '.join(table)}")
        build = table[self.name]
        allowed = [key for key in (*part_defaults(build), *also) if key not in without]
        annotations = annotations_of(build)
        for key, value in self.settings.items():
            if key not in allowed:
                raise UserError(unknown_key(what, key, allowed))
            if key in annotations and is_plain(value):
                with contextlib.suppress(TypeError, NameError):  # of types that are no settings
                    read_settings(f"{what}.{key}", value, annotations[key])
        return build

    def make(self, table: Makers, what: str, *first: Any, **facts: Any) -> Any:
        """Makes the component.

        Args:
            table: As in `find`.
            what: As in `find`.
            *first: Positional arguments, before the settings.
            **facts: Settings that replace those of the part.

        Returns:
            The component.

        Raises:
            UserError: there is none of that name, or it does not take its settings.
        """
        build = self.find(table, what)
        settings = {**self.settings, **facts}
        try:
            inspect.signature(build).bind(*first, **settings)
        except TypeError as error:
            raise UserError(f"{what} {self.name}: {error}") from error
        return build(*first, **settings)

    def get(self, table: Makers, what: str, name: str) -> Any:
        """Returns a setting or its default; None if the part has no such setting."""
        build = self.find(table, what)
        return self.settings.get(name, part_defaults(build).get(name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self.plain() == other.plain()

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"Part({self.name!r}{settings})"


def part_defaults(build: Callable[..., Any]) -> dict[str, Any]:
    """Returns the keyword arguments that a part may be made with, and their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def needs(build: Callable[..., Any], name: str) -> bool:
    """Returns whether a part cannot be made without an argument of that name."""
    parameter = inspect.signature(build).parameters.get(name)
    return parameter is not None and parameter.default is inspect.Parameter.empty


def takes(build: Callable[..., Any], name: str) -> bool:
    """Returns whether a part may be made with an argument of that name."""
    parameters = inspect.signature(build).parameters
    return name in parameters or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def annotations_of(build: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of the arguments that a part is made with, by name."""
    if isinstance(build, functools.partial):
        build = build.func
    if is_settings(build):
        return kinds_of(build)  # type: ignore[arg-type]
    made_by = build.__init__ if isinstance(build, type) else build
    return get_type_hints(made_by, include_extras=True)


def is_plain(value: object) -> bool:
    """Returns whether a command line or a file can hold a value."""
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, list):
        return all(map(is_plain, value))
    return isinstance(value, str | int | float | None)
