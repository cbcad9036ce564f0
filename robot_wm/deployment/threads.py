"""How torch's threads share the cores: all of them on a quiet machine, fewer on a busy one.

Torch computes with GNU OpenMP, whose threads wait for each other by turning in a loop for some
milliseconds. On a quiet machine that is the fastest way. Where other processes want the cores, a
thread that turns keeps from its core the very thread that it waits for, and a step of training
takes several times as long as its share of the cores explains. How long they turn is read from the
environment once, when torch loads, and nobody knows then how busy the machine will be.

So this process is watched, and two things are done while it has to wait for the cores:

- The threads sleep where they wait. libgomp turns for a moment only where it manages more threads
  than there are cores (its `gomp_throttled_spin_count_var`): a team of threads that only sleep is
  kept beside those that compute.
- They stay on as many cores as the other processes leave. Threads that wait for each other get
  nowhere while only one of them has a core; where they have one together, one always computes.

Results do not change: as many threads compute as before. docs/log.md has the figures,
scripts/measure_busy.py measures them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

_OF_THE_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_PERIOD_S = 0.25
_BUSY, _QUIET = 0.12, 0.06  # of the time, waiting for a core: more is busy, less is quiet
_NUM_BUSY = 3  # periods in a row, before the machine counts as busy: to load is a busy moment too
_NUM_QUIET = 4  # periods in a row, before the machine counts as quiet again
_LEFT = 0.75  # of a core that the others no longer use, before it is taken back


def share_cores(environ: Mapping[str, str] = os.environ) -> Watch | None:
    """Watches from now on whether this process has to wait for the cores, and acts on it.

    Args:
        environ: where the user may have said how threads are to wait; then nothing is done.

    Returns:
        The thread that watches; None where nothing is done, as on systems that do not tell how
        long a process waits.
    """
    if any(name in environ for name in _OF_THE_USER):
        return None
    cores = Cores()
    counts = Counts(cores.all)
    told = counts.look() is not None
    counts.close()
    if not told:
        return None
    for thread in threading.enumerate():
        if isinstance(thread, Watch):
            return thread
    watch = Watch(Sleepers(), cores)
    watch.start()
    return watch


@dataclass(frozen=True)
class Look:
    """What the system has counted so far.

    Attributes:
        time_s: when.
        waited_s: how long this process's threads could have computed and had no core. Threads with
            a name of their own do not count: Mesa's, which render in software, are as many as there
            are cores, and wait for each other on a quiet machine too.
        others_s: how long other processes have computed, on the cores that are this process's too.
    """

    time_s: float
    waited_s: float
    others_s: float


class Counts:
    """What the system counts, looked at with few calls: every one costs the others a moment.

    Args:
        cores: those that this process may use.
    """

    def __init__(self, cores: Collection[int]) -> None:
        self._cores = cores
        self._files: dict[str, int] = {}  # of a thread's waits; -1: it does not count
        self._stat = -1

    def look(self) -> Look | None:
        """Reads the counts; None where the system does not tell them."""
        try:
            if self._stat < 0:
                self._stat = os.open("/proc/stat", os.O_RDONLY)
            waits_ns = list(self._waits_ns())
            used_ticks = sum(self._used_ticks())
        except OSError:
            return None
        if not waits_ns:
            return None
        others_s = used_ticks / os.sysconf("SC_CLK_TCK") - time.process_time()
        return Look(time.monotonic(), sum(waits_ns) / 1e9, others_s)

    def close(self) -> None:
        """Closes what it reads from."""
        for file in (self._stat, *self._files.values()):
            if file >= 0:
                os.close(file)
        self._files, self._stat = {}, -1

    def _waits_ns(self) -> Iterator[int]:
        tasks = os.listdir("/proc/self/task")
        for task in self._files.keys() - set(tasks):
            self._forget(task)
        for task in tasks:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ends meanwhile
                if task not in self._files:
                    at = f"/proc/self/task/{task}"
                    own = Path(at, "comm").read_text() == Path("/proc/self/comm").read_text()
                    self._files[task] = os.open(f"{at}/schedstat", os.O_RDONLY) if own else -1
                if self._files[task] >= 0:
                    yield int(os.pread(self._files[task], 100, 0).split()[1])

    def _forget(self, task: str) -> None:
        file = self._files.pop(task)
        if file >= 0:
            os.close(file)

    def _used_ticks(self) -> Iterator[int]:
        for line in os.pread(self._stat, 1 << 16, 0).splitlines()[1:]:
            core, *ticks = line.split()
            if not core.startswith(b"cpu"):
                return
            if int(core[3:]) in self._cores:
                user, nice, system, _, _, irq, softirq = (int(number) for number in ticks[:7])
                yield user + nice + system + irq + softirq


class Watch(threading.Thread):
    """Looks four times a second whether the machine is busy; ends with the process, or by `stop`.

    Args:
        sleepers: come while it is busy.
        cores: are fewer while it is busy.
    """

    def __init__(self, sleepers: Sleepers, cores: Cores) -> None:
        super().__init__(name="share_cores", daemon=True)
        self._sleepers, self._cores = sleepers, cores
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends it; everything is then as it was before it began."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Looks, until it is stopped."""
        sleepers, cores = self._sleepers, self._cores
        counts = Counts(cores.all)
        before, num_busy, num_quiet = counts.look(), 0, 0
        others: deque[float] = deque(maxlen=_NUM_QUIET)  # how many cores they used
        while not self._stopped.wait(_PERIOD_S):
            after = counts.look()
            if before is not None and after is not None:
                passed_s = after.time_s - before.time_s
                waited = (after.waited_s - before.waited_s) / passed_s
                others.append((after.others_s - before.others_s) / passed_s)
                num_busy = num_busy + 1 if waited > _BUSY else 0
                num_quiet = num_quiet + 1 if waited < _QUIET else 0
                if cores.are_fewer:
                    # On fewer cores they wait for each other: what the others use tells more.
                    cores.leave(fmean(others))
                    num_busy = num_quiet = 0
                elif num_busy >= _NUM_BUSY:
                    sleepers.come()
                    if sleepers.are_there:
                        cores.leave(fmean(others))
                elif num_quiet >= _NUM_QUIET:
                    sleepers.go()
            before = after
        counts.close()
        sleepers.go()
        cores.leave(0.0)


class Cores:
    """Those that this process computes on: all that it may, or fewer where others compute too.

    Attributes:
        all: the cores that it may use, from the start.
    """

    def __init__(self) -> None:
        self.all = frozenset(_cores_of(0))
        self._kept = self.all

    @property
    def are_fewer(self) -> bool:
        """Whether some are left to other processes."""
        return self._kept != self.all

    def leave(self, num_others: float) -> None:
        """Leaves as many cores to other processes as these use, and takes back what they do not.

        Args:
            num_others: how many cores they use.
        """
        if not Path("/proc/thread-self/children").exists():
            return  # what this process starts could not be found again
        kept = self._kept
        num = min(max(1, len(self.all) - round(num_others)), len(self.all))
        if num > len(kept) and num_others > len(self.all) - len(kept) - _LEFT:
            num = len(kept)
        if num != len(kept):
            # Any of them: another process that does the same is to find others.
            pool = self.all if num > len(kept) else kept
            kept = frozenset(random.sample(sorted(pool), num))
        for task in _tasks(os.getpid()):
            if _cores_of(task) in (self.all, self._kept):  # else someone else chose for it
                _move(task, kept)
        if self._kept != self.all:
            # What this process started began where it was; it has all cores nevertheless.
            for child in _descendants(os.getpid()):
                for task in _tasks(child):
                    if _cores_of(task) == self._kept:
                        _move(task, self.all)
        self._kept = kept


def _tasks(pid: int) -> list[int]:
    """The threads of a process."""
    with contextlib.suppress(OSError):
        return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    return []


def _descendants(pid: int) -> Iterator[int]:
    """The processes that a process and those it started have started."""
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def _cores_of(task: int) -> set[int]:
    """The cores that a thread may use; none where the system does not tell."""
    with contextlib.suppress(OSError, AttributeError):
        return os.sched_getaffinity(task)
    return set()


def _move(task: int, cores: Collection[int]) -> None:
    with contextlib.suppress(OSError):  # it ended, or the cores are no longer there
        os.sched_setaffinity(task, cores)


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
