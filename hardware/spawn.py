"""Starts the processes of a run and hands each its task and its shared memory, by descriptor."""

from __future__ import annotations

import os
import signal
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


def ignore_interrupts() -> None:
    """Ignores SIGINT and SIGHUP, by which an operator stops a run: the arm server acts on them."""
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


class Shared(Protocol):
    """What a child process is handed: shared memory, or one end of a wire."""

    def fileno(self) -> int:
        """Returns the descriptor."""
        ...


def spawn(
    module: Iterable[str],
    task: SentMessage,
    shared: Iterable[Shared],
    *,
    stdin: int | None = subprocess.DEVNULL,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process, `python -m MODULE... DESCRIPTOR`.

    Args:
        module: Name of the module, and arguments before the descriptor.
        task: The task that the process is handed.
        shared: Objects that the task names by descriptor, which stay open in the child.
        stdin: Standard input, as in subprocess.Popen.
        stderr: Standard error, as in subprocess.Popen.

    Returns:
        The process.
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
    """Reads the task that this process was started with.

    Args:
        descriptor: Descriptor of the task, the last argument of the command line.
        kind: Type of the task.

    Returns:
        The task.
    """
    with os.fdopen(descriptor, "rb") as file:
        return decode_task(file.read(), kind)
