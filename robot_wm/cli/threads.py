"""How torch's threads wait for each other: in a loop on a quiet machine, asleep on a busy one.

Torch computes with GNU OpenMP, whose threads wait for each other by turning in a loop for some
milliseconds. On a quiet machine that is the fastest way. Where other processes want the cores, a
thread that turns keeps from its core the very thread that it waits for, and a step of training
takes several times as long as its share of the cores explains. How long they turn is read from the
environment once, when torch loads, and nobody knows then how busy the machine will be. But libgomp
turns for a moment only where it manages more threads than there are cores (its
`gomp_throttled_spin_count_var`). So while this process has to wait for the cores, a team of threads
that only sleep is kept beside those that compute. Results do not change: as many threads compute
as before. docs/log.md has the figures, scripts/measure_busy.py measures them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

_OF_THE_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_NAME = "share_cores"
_PERIOD_S = 0.25
_BUSY, _QUIET = 0.12, 0.06  # of the time, waiting for a core: more is busy, less is quiet
_NUM_BUSY = 3  # periods in a row, before the machine counts as busy: to load is a busy moment too
_NUM_QUIET = 4  # periods in a row, before the machine counts as quiet again


def share_cores(environ: Mapping[str, str] = os.environ) -> threading.Thread | None:
    """Watches from now on whether this process has to wait for the cores, and acts on it.

    Args:
        environ: where the user may have said how threads are to wait; then nothing is done.

    Returns:
        The thread that watches; None where nothing is done, as on systems that do not tell how
        long a process waits.
    """
    if any(name in environ for name in _OF_THE_USER) or waited_s() is None:
        return None
    for thread in threading.enumerate():
        if thread.name == _NAME:
            return thread
    watch = threading.Thread(target=_watch, args=(Sleepers(),), name=_NAME, daemon=True)
    watch.start()
    return watch


def waited_s() -> float | None:
    """Seconds that this process's threads could have computed and had no core; None: not told.

    Threads with a name of their own do not count: Mesa's, which render in software, are as many as
    there are cores, and wait for each other on a quiet machine too.
    """
    total_ns = 0
    with contextlib.suppress(OSError):  # another system, or a thread that ends meanwhile
        name = Path("/proc/self/comm").read_text()
        for task in Path("/proc/self/task").iterdir():
            if (task / "comm").read_text() == name:
                total_ns += int((task / "schedstat").read_text().split()[1])
        return total_ns / 1e9
    return None


def _watch(sleepers: Sleepers) -> None:
    before_s, begin_s, num_busy, num_quiet = waited_s(), time.monotonic(), 0, 0
    while True:
        time.sleep(_PERIOD_S)
        after_s, end_s = waited_s(), time.monotonic()
        if before_s is not None and after_s is not None:
            share = (after_s - before_s) / (end_s - begin_s)
            num_busy = num_busy + 1 if share > _BUSY else 0
            num_quiet = num_quiet + 1 if share < _QUIET else 0
            if num_busy >= _NUM_BUSY:
                sleepers.come()
            elif num_quiet >= _NUM_QUIET:
                sleepers.go()
        before_s, begin_s = after_s, end_s


class Sleepers:
    """A team of libgomp's threads that sleep, one more than there are cores."""

    def __init__(self) -> None:
        self._leave: threading.Event | None = None

    @property
    def are_there(self) -> bool:
        """Whether they are."""
        return self._leave is not None

    def come(self) -> None:
        """Makes them, unless they are there, or torch is not loaded and nothing computes."""
        if self.are_there:
            return
        libraries = []
        for path in _loaded_libgomp():
            with contextlib.suppress(OSError, AttributeError):  # another file, or another OpenMP
                library = ctypes.CDLL(path)
                _ = library.GOMP_parallel, library.omp_get_num_threads
                libraries.append(library)
        if not libraries:
            return
        there, self._leave = threading.Event(), threading.Event()
        threading.Thread(target=_stay, args=(libraries, there, self._leave), daemon=True).start()
        there.wait()

    def go(self) -> None:
        """Ends them; libgomp ends a team with the thread that made it."""
        if self._leave is not None:
            self._leave.set()
            self._leave = None


def _stay(libraries: list[ctypes.CDLL], there: threading.Event, leave: threading.Event) -> None:
    """Makes a team in each library, and stays until it may leave."""
    for library in libraries:
        # A parallel region in which nobody does anything; its threads then sleep until the next.
        nothing = ctypes.cast(library.omp_get_num_threads, ctypes.c_void_p)
        library.GOMP_parallel(nothing, None, ctypes.c_uint((os.cpu_count() or 1) + 1), 0)
    there.set()
    leave.wait()


def _loaded_libgomp() -> list[str]:
    """Paths of the libgomps in this process that torch brought along, or the system did for it."""
    if "torch" not in sys.modules:
        return []
    paths = {
        line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()
    }
    return sorted(path for path in paths if Path(path).name.startswith("libgomp"))
