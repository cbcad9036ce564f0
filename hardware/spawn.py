"""Starts the processes of a run: each gets its task on a descriptor, and what it shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Protocol

from hardware.messages import (
    SentMessage,
    encode,
)
from hardware.tasks import (
    AnyTask,
    decode_task,
)


class Shared(Protocol):
    """What a child is handed: memory, or one end of a wire."""

    def fileno(self) -> int: ...


def spawn(
    module: Iterable[str],
    task: SentMessage,
    shared: Iterable[Shared],
    *,
    stdin: int | None = subprocess.DEVNULL,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Runs `python -m MODULE... DESCRIPTOR`.

    Args:
        module: its name, and words before the descriptor.
        task: what it is to do.
        shared: whose descriptors, named in `task`, stay open for it.
        stdin, stderr: as subprocess has them.
    """
    descriptor = os.memfd_create("task", 0)
    try:
        os.write(descriptor, encode(task))
        os.lseek(descriptor, 0, os.SEEK_SET)
        return subprocess.Popen(
            [sys.executable, "-m", *module, str(descriptor)],
            pass_fds=[descriptor, *(item.fileno() for item in shared)],
            stdin=stdin,
            stderr=stderr,
        )
    finally:
        os.close(descriptor)


def read_task(descriptor: int, kind: type[AnyTask]) -> AnyTask:
    """What this process was started with.

    Args:
        descriptor: the last word of its command line.
        kind: of task that it is for.
    """
    with os.fdopen(descriptor, "rb") as file:
        return decode_task(file.read(), kind)
