"""Tests marked `alone` have the machine to themselves, whatever other pytest-xdist workers do."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("a") as file:  # closing lets go
        fcntl.flock(file, how)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Holds what all tests share around each, its fixtures too, but those that want it alone."""
    if not hasattr(item.config, "workerinput"):  # no worker: it is alone
        return (yield)
    folder = Path(item.config.option.basetemp).parent  # the workers' own are beside each other
    how = fcntl.LOCK_SH if item.get_closest_marker("alone") is None else fcntl.LOCK_EX
    with contextlib.ExitStack() as stack:
        # Whoever waits to be alone keeps the door shut: others do not slip in before it for ever.
        with _locked(folder / "door", fcntl.LOCK_EX):
            stack.enter_context(_locked(folder / "room", how))
        return (yield)
