"""Tests marked `alone` have the machine to themselves, whatever other pytest-xdist workers do."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("a") as file:  # closing lets go
        fcntl.flock(file, how)
        yield


@pytest.fixture(autouse=True)
def _machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Shared by all tests but those that want it alone."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the workers' own are beside each other in it
    alone = request.node.get_closest_marker("alone") is not None
    with contextlib.ExitStack() as stack:
        # Whoever waits to be alone keeps the door shut: others do not slip in before it for ever.
        with _locked(folder / "door", fcntl.LOCK_EX):
            room = _locked(folder / "room", fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            stack.enter_context(room)
        yield
