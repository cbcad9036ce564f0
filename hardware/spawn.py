"""Starts the processes of a run: each gets its task as JSON on a descriptor, and what it shares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hardware.flight import chain_message
from hardware.wire import Wire
from robot_wm.kinematics import Chain
from robot_wm.kinematics.limits import Limits


class Shared(Protocol):
    """What a child is handed: memory, or one end of a wire."""

    def fileno(self) -> int: ...


def spawn(
    module: Iterable[str],
    spec: Mapping[str, Any],
    shared: Iterable[Shared],
    *,
    stdin: int | None = subprocess.DEVNULL,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Runs `python -m MODULE... DESCRIPTOR`.

    Args:
        module: its name, and words before the descriptor.
        spec: what it is to do.
        shared: whose descriptors, named in `spec`, stay open for it.
        stdin, stderr: as subprocess has them.
    """
    descriptor = os.memfd_create("spec", 0)
    try:
        os.write(descriptor, json.dumps(spec).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        return subprocess.Popen(
            [sys.executable, "-m", *module, str(descriptor)],
            pass_fds=[descriptor, *(item.fileno() for item in shared)],
            stdin=stdin,
            stderr=stderr,
        )
    finally:
        os.close(descriptor)


def limits_message(limits: Limits) -> dict[str, Any]:
    """What `Limits(**message)` makes the same limits of."""
    return {name: np.asarray(value).tolist() for name, value in vars(limits).items()}


def controller_spec(
    *,
    chain: Chain,
    limits: Limits,
    settings: Mapping[str, Any],
    rest: Any,
    arm: Mapping[str, Any],
    planner: Wire,
    human: Wire,
    watchdog: Wire,
    record: Path,
    about: Mapping[str, Any],
    keys: bool,
    dry_run: bool,
    park: bool = False,
) -> dict[str, Any]:
    """The controller's task (hardware.__main__.control)."""
    return {
        "chain": chain_message(chain),
        "limits": limits_message(limits),
        "settings": dict(settings),
        "rest": rest,
        "arm": dict(arm),
        "planner": planner.fileno(),
        "human": human.fileno(),
        "watchdog": watchdog.fileno(),
        "record": str(record),
        "about": dict(about),
        "keys": keys,
        "dry_run": dry_run,
        "park": park,
    }
