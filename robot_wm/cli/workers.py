"""Many processes for what a simulator does: demonstrations, rendering."""

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
    """`make` of every item, in their order, whoever makes them.

    Args:
        make: picklable.
        items: as picklable.
        num_workers: processes; one or fewer: this one.
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
    """One software-rendering thread per worker, Ctrl-C left to the parent, and its end followed."""
    os.environ.setdefault("LP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import_extensions()
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """A parent that is killed closes no queue: its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
