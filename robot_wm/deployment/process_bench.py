"""Measures stops, kills and jitter of an arm's processes.

The processes are real, with servos that follow their last joint target.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware.supervisor import SupervisorSettings
from robot_wm.deployment.rig import Rig
from robot_wm.kinematics import RobotModel
from robot_wm.progress import Progress
from robot_wm.types import (
    FloatArray,
)

log = logging.getLogger(__name__)

_TRIES = 3  # attempts to get the arm of a rig moving
_WATCHED_S = 0.8  # how long motion is looked for after a stop


@dataclass
class ProcessBench:
    """Tests the processes of one arm.

    Attributes:
        robot: The arm.
        park_pose: Joints where the tests begin, and the arm parks `[J]`, rad.
        work: A folder for flight records.
        seed: Seed of everything that is random.
        settings: Settings of the supervisor.
        num_begun_anew: Number of rigs that had to be started again so far.
    """

    robot: RobotModel
    park_pose: FloatArray
    work: Path
    seed: int
    settings: SupervisorSettings
    num_begun_anew: int = 0
    _num_moves: int = 0

    def _rig(self, name: str, **words: Any) -> Rig:
        path = self.work / f"{name}-{time.monotonic_ns()}.jsonl"
        self._num_moves += 1  # another seed for each run
        words = {"settings": self.settings, "seed": self.seed + self._num_moves, **words}
        return Rig(self.robot.chain, self.robot.limits, self.park_pose, path, **words)

    @contextlib.contextmanager
    def _moving(self, name: str, *, into_s: float = 0.1, **words: Any) -> Iterator[Rig]:
        """Starts a rig and yields it once its arm moves.

        Its servos are a thread of this process. If the machine does not run the thread for longer
        than a reading may be old, the arm faults, as it should, and another rig is started.
        """
        for left in reversed(range(_TRIES)):
            with self._rig(name, **words) as run:
                try:
                    run.arm()
                    run.wait_moving(into_s=into_s)
                except TimeoutError as error:
                    if not left:
                        raise
                    log.info(f"begun anew: {error}")
                    self.num_begun_anew += 1
                    continue
                yield run
                return

    def stops(self, num: int) -> dict[str, Any]:
        """Measures the longest time from each kind of stop until the arm rests."""
        signals = {
            "SIGINT": ("arm server", signal.SIGINT),
            "SIGTERM": ("arm server", signal.SIGTERM),
            "SIGHUP": ("arm server", signal.SIGHUP),
            "policy process hangs": ("policy process", signal.SIGSTOP),
            "watchdog dies": ("watchdog", signal.SIGKILL),
            "policy process dies": ("policy process", signal.SIGKILL),
        }
        kinds = [*signals, "picture is stale", "key"]
        longest: dict[str, float] = {}
        rng = np.random.default_rng(self.seed)
        with Progress("stops", "stop") as progress:
            num_done, total = 0, num * len(kinds)
            for _, name in itertools.product(range(num), kinds):
                reading, writing = os.pipe()
                words = {"keys": reading} if name == "key" else {}
                with self._moving("stop", into_s=rng.uniform(0.05, 0.4), **words) as run:
                    begin_s = time.monotonic()
                    if name in signals:
                        child, number = signals[name]
                        run.children[child].send_signal(number)
                    elif name == "key":
                        os.write(writing, b" ")
                    else:
                        run.frozen = True
                    took_s = run.rest_s(begin_s, _WATCHED_S)
                    longest[name] = max(longest.get(name, 0.0), took_s)
                    if "policy process" in run.children:
                        run.children["policy process"].send_signal(signal.SIGCONT)
                os.close(reading)
                os.close(writing)
                num_done += 1
                progress(num_done, total)
        for name, took_s in longest.items():
            log.info(f"{name:20}{1000 * took_s:6.0f} ms to rest, the longest of {num}")
        return {"stop_s_max": max(longest.values()), "stop_s": longest}

    def kills(self, num: int) -> dict[str, Any]:
        """Counts the ticks for which the arm moves on after a process is killed."""
        worst = {}
        for name in ("arm server", "policy process", "watchdog"):
            worst[name] = 0
            for _ in range(num):
                with self._moving("kill") as run:
                    before = run.num_joint_targets()
                    killed_s = run.kill(name)
                    time.sleep(0.3)
                    on = run.num_joint_targets() - before
                if name != "arm server":  # the arm server still brakes: count its running ticks
                    on = sum(
                        line["t"] > killed_s and line["state"] == "running"
                        for line in _ticks(run.record)
                    )
                worst[name] = max(worst[name], on)
            log.info(f"kill -9 of the {name}: {worst[name]} ticks more, the most of {num}")
        return {"overtravel_ticks_max": max(worst.values()), "overtravel_ticks": worst}

    def jitter(self, seconds: float) -> dict[str, Any]:
        """Measures how late ticks begin while other processes occupy every core."""
        context = multiprocessing.get_context("spawn")
        busy = [context.Process(target=_burn, daemon=True) for _ in range(os.cpu_count() or 1)]
        for process in busy:
            process.start()
        try:
            with self._rig("jitter") as run:
                run.arm()
                time.sleep(seconds)
            late_s = [line["late"] for line in _ticks(run.record)][25:]
        finally:
            for process in busy:
                process.kill()
                process.join()
        p99 = 1000 * float(np.quantile(late_s, 0.99))
        log.info(f"{len(late_s)} ticks beside {len(busy)} busy processes: p99 {p99:.2f} ms late")
        return {"tick_jitter_ms_p99": p99}


def _ticks(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        next(file)
        for line in map(json.loads, file):
            if "end" not in line:
                yield line


def _burn() -> None:
    os.nice(5)  # like the policy process
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(400, 400))
    while True:
        matrix = np.tanh(matrix @ matrix / 400)
