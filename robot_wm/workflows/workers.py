"""Runs a simulator's work, demonstrations and rendering, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from robot_wm.deployment.extensions import import_extensions

In = TypeVar("In")
Out = TypeVar("Out")


def map_in_order(
    make: Callable[[In], Out], items: Sequence[In], *, num_workers: int
) -> Iterator[Out]:
    """Yields the result for every item, in their order, whichever process makes it.

    Args:
        make: Makes the result of an item; must be picklable.
        items: The items; must be picklable.
        num_workers: Number of processes; one or fewer: the work is done in this process.
    """
    workers = min(num_workers, len(items))
    if workers <= 1:
        yield from map(make, items)
        return
    # A fresh interpreter per worker: an OpenGL context does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_quiet) as pool:
        yield from pool.map(make, items)


def _quiet() -> None:
    """Sets up a worker: one thread of each kind, no Ctrl-C, and an end with its parent."""
    for library in ("LP_NUM_THREADS", "OMP_NUM_THREADS"):  # rendering; torch, loaded later
        os.environ.setdefault(library, "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import_extensions()
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Ends a worker with its parent; a killed parent closes no queue, so it would wait."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
