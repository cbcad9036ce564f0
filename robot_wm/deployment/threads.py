"""Shares the cores between torch's threads and other processes.

Torch computes with GNU OpenMP, whose threads spin for some milliseconds while they wait for each
other. On a quiet machine that is the fastest way. Where other processes want the cores, a spinning
thread occupies the core that the thread it waits for needs, and a training step takes several times
as long as its share of the cores explains. The spinning time is read from the environment once,
when torch loads, before anyone knows how busy the machine will be.

So a thread watches this process, and does two things while it has to wait for cores:

- It makes the threads sleep where they wait. libgomp spins only briefly where it manages more
  threads than there are cores (its `gomp_throttled_spin_count_var`): an idle team of sleeping
  threads is kept beside those that compute.
- It keeps the threads on as many cores as the other processes leave. Threads that wait for each
  other make no progress while only one of them has a core; where they share one, one always
  computes.

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

_USER_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_PERIOD_S = 0.25
_BUSY, _QUIET = 0.12, 0.06  # shares of time spent waiting for a core: above busy, below quiet
_NUM_BUSY = 3  # periods in a row before the machine counts as busy: loading torch is busy, too
_NUM_QUIET = 4  # periods in a row before the machine counts as quiet again
_FREE = 0.75  # share of a core that others must no longer use before it is taken back


def share_cores(environ: Mapping[str, str] = os.environ) -> LoadWatcher | None:
    """Starts to watch whether this process has to wait for cores, and acts on it.

    Args:
        environ: Environment, in which the user may choose how threads wait; then nothing is done.

    Returns:
        The watching thread; None if nothing is done, as on systems that do not count waiting.
    """
    if any(name in environ for name in _USER_SETTINGS):
        return None
    cores = Cores()
    counter = CpuCounter(cores.all)
    is_supported = counter.read() is not None
    counter.close()
    if not is_supported:
        return None
    for thread in threading.enumerate():
        if isinstance(thread, LoadWatcher):
            return thread
    watcher = LoadWatcher(IdleTeam(), cores)
    watcher.start()
    return watcher


@dataclass(frozen=True)
class CpuCounts:
    """Times that the system has counted so far.

    Attributes:
        time_s: Time when they were read, s, time.monotonic().
        waited_s: Time for which this process's threads could have computed and had no core, s.
            Threads with a name of their own do not count: Mesa's, which render in software, are as
            many as there are cores, and wait for each other on a quiet machine, too.
        others_s: Time that other processes have computed on this process's cores, s.
    """

    time_s: float
    waited_s: float
    others_s: float


class CpuCounter:
    """Reads the system's counts with few calls, as each costs the others a moment.

    Args:
        cores: Numbers of the cores that this process may use.
    """

    def __init__(self, cores: Collection[int]) -> None:
        self._cores = cores
        self._files: dict[str, int] = {}  # schedstat file of each thread; -1: it does not count
        self._stat = -1

    def read(self) -> CpuCounts | None:
        """Reads the counts; returns None if the system has none."""
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
        return CpuCounts(time.monotonic(), sum(waits_ns) / 1e9, others_s)

    def close(self) -> None:
        """Closes the files that it reads."""
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
                    name = Path(at, "comm").read_text()
                    counts = name == Path("/proc/self/comm").read_text()
                    self._files[task] = os.open(f"{at}/schedstat", os.O_RDONLY) if counts else -1
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


class LoadWatcher(threading.Thread):
    """Checks four times a second whether the machine is busy; ends with the process, or by `stop`.

    Args:
        idle_team: Team of threads that exists while the machine is busy.
        cores: Cores of this process, of which fewer are used while the machine is busy.
    """

    def __init__(self, idle_team: IdleTeam, cores: Cores) -> None:
        super().__init__(name="share_cores", daemon=True)
        self._idle_team, self._cores = idle_team, cores
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends the thread and restores the idle team and the cores to what they were before."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Watches until it is stopped."""
        idle_team, cores = self._idle_team, self._cores
        counter = CpuCounter(cores.all)
        before, num_busy, num_quiet = counter.read(), 0, 0
        others: deque[float] = deque(maxlen=_NUM_QUIET)  # how many cores they used
        while not self._stopped.wait(_PERIOD_S):
            after = counter.read()
            if before is not None and after is not None:
                passed_s = after.time_s - before.time_s
                waited = (after.waited_s - before.waited_s) / passed_s
                others.append((after.others_s - before.others_s) / passed_s)
                num_busy = num_busy + 1 if waited > _BUSY else 0
                num_quiet = num_quiet + 1 if waited < _QUIET else 0
                if cores.are_fewer:
                    # On fewer cores the threads wait for each other; the others' use tells more.
                    cores.leave(fmean(others))
                    num_busy = num_quiet = 0
                elif num_busy >= _NUM_BUSY:
                    idle_team.come()
                    if idle_team.are_there:
                        cores.leave(fmean(others))
                elif num_quiet >= _NUM_QUIET:
                    idle_team.go()
            before = after
        counter.close()
        idle_team.go()
        cores.leave(0.0)


class Cores:
    """The cores that this process computes on: all that it may, or fewer where others compute, too.

    Attributes:
        all: Numbers of the cores that it may use, from the start.
    """

    all: frozenset[int]

    def __init__(self) -> None:
        self.all = frozenset(_cores_of(0))
        self._kept = self.all

    @property
    def are_fewer(self) -> bool:
        """Whether some cores are left to other processes."""
        return self._kept != self.all

    def leave(self, num_others: float) -> None:
        """Leaves as many cores to other processes as they use, and takes back what they do not.

        Args:
            num_others: Number of cores that they use.
        """
        if not Path("/proc/thread-self/children").exists():
            return  # children that inherit fewer cores could not be found
        kept = self._kept
        num = min(max(1, len(self.all) - round(num_others)), len(self.all))
        if num > len(kept) and num_others > len(self.all) - len(kept) - _FREE:
            num = len(kept)
        if num != len(kept):
            # At random, so that another process that does the same likely keeps others.
            pool = self.all if num > len(kept) else kept
            kept = frozenset(random.sample(sorted(pool), num))
        for task in _tasks(os.getpid()):
            if _cores_of(task) in (self.all, self._kept):  # else somebody else placed it
                _move(task, kept)
        if self._kept != self.all:
            # Children inherit the fewer cores; they get all of them back.
            for child in _descendants(os.getpid()):
                for task in _tasks(child):
                    if _cores_of(task) == self._kept:
                        _move(task, self.all)
        self._kept = kept


def _tasks(pid: int) -> list[int]:
    """Returns the threads of a process."""
    with contextlib.suppress(OSError):
        return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    return []


def _descendants(pid: int) -> Iterator[int]:
    """Yields the processes that a process has started, and those that these have started."""
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def _cores_of(task: int) -> set[int]:
    """Returns the cores that a thread may use; empty if the system does not tell."""
    with contextlib.suppress(OSError, AttributeError):
        return os.sched_getaffinity(task)
    return set()


def _move(task: int, cores: Collection[int]) -> None:
    with contextlib.suppress(OSError):  # it ended, or the cores are no longer there
        os.sched_setaffinity(task, cores)


class IdleTeam:
    """A team of libgomp's threads that sleep, one more than there are cores."""

    def __init__(self) -> None:
        self._leave: threading.Event | None = None

    @property
    def are_there(self) -> bool:
        """Whether the team exists."""
        return self._leave is not None

    def come(self) -> None:
        """Makes the team, unless it exists, or torch is not loaded and nothing computes."""
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
        """Ends the team; libgomp ends a team with the thread that made it."""
        if self._leave is not None:
            self._leave.set()
            self._leave = None


def _stay(libraries: list[ctypes.CDLL], there: threading.Event, leave: threading.Event) -> None:
    """Makes a team in each library, and stays until it may leave."""
    for library in libraries:
        # An empty parallel region; its threads then sleep until the next.
        nothing = ctypes.cast(library.omp_get_num_threads, ctypes.c_void_p)
        library.GOMP_parallel(nothing, None, ctypes.c_uint((os.cpu_count() or 1) + 1), 0)
    there.set()
    leave.wait()


def _loaded_libgomp() -> list[str]:
    """Returns the paths of the libgomps that torch has loaded, its own or the system's."""
    if "torch" not in sys.modules:
        return []
    paths = {
        line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()
    }
    return sorted(path for path in paths if Path(path).name.startswith("libgomp"))
