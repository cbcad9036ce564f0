"""Measures training, planning and the arm's ticks beside other busy processes.

usage: python scripts/measure_busy.py [REPEATS]

Beside 0, 1, 2 and 4 processes that do nothing but turn in a loop it measures seconds of a training
step of the shipped predictor, seconds of a plan of the shipped checkpoint, and how late the arm
server's ticks are (99th percentile) while `robot-wm deploy` drives the simulated arm. Each is
measured as GNU OpenMP shares the cores by itself ("before") and as the commands let it ("after"):
steps and plans by turns in one process, so that what differs from process to process, and a busy
moment of the machine, fall on both. Prints a table, and one line of JSON.

`share` is what the number of processes alone explains: with two threads on two cores beside k busy
processes, (k + 2) / 2 times the quiet seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robot_wm.cli.config import load_command

LOADS = (0, 1, 2, 4)
# For Intel's OpenMP, which torch here does not use: the commands see a choice, and make none.
WAYS: tuple[dict[str, str], ...] = ({"KMP_BLOCKTIME": "200"}, {})
NUM_STEPS = 20  # of a turn
NUM_QUIET = 5  # times as many turns on a quiet machine, where per cents count
ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def busy(num: int) -> Iterator[None]:
    """Keeps `num` processes busy that take all the processor time they get."""
    children = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def environment(own: dict[str, str]) -> dict[str, str]:
    """Returns the user's environment; `own` or the commands decide how threads wait."""
    choices = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    inherited = {k: v for k, v in os.environ.items() if k not in choices}
    return {"MUJOCO_GL": "egl", **inherited, **own}


def measure(what: str, turns: int) -> tuple[float, float]:
    """Measures median seconds of a training step or a plan, before and after, in a new process."""
    command = [sys.executable, __file__, "child", what, str(turns)]
    ran = subprocess.run(command, env=environment({}), check=True, capture_output=True, text=True)
    before_s, after_s = json.loads(ran.stdout)
    return before_s, after_s


def late_ticks_s(own: dict[str, str]) -> float:
    """Measures how late the arm server's ticks are (99th percentile) during a plan, s."""
    with tempfile.TemporaryDirectory() as out:
        words = ["deploy", "checkpoint=so100_tabletop", f"goal={ROOT / 'docs/images/goal.png'}"]
        words += ["mode=run", "confirm=false", "num_steps=6", f"out={out}"]
        # Patient: on a busy machine it is measured, not stopped.
        words.append(
            "robot.settings={max_tick_s: 5.0, max_reading_age_s: 5.0, max_frame_gap_s: 5.0, "
            "max_silence_s: 10.0, max_frame_age_s: 5.0, tracking_s: 10.0}"
        )
        code = "import sys; from robot_wm.cli import main; sys.exit(main(sys.argv[1:]))"
        ran = subprocess.run(
            [sys.executable, "-c", code, *words],
            env=environment(own), check=True, capture_output=True, text=True,
        )  # fmt: skip
    return json.loads(ran.stdout.splitlines()[-1])["tick_late_ms_p99"] / 1e3


def child(what: str, turns: int) -> tuple[float, float]:
    """Works by turns without and with sharing the cores; returns median seconds of both."""
    from robot_wm.deployment.threads import share_cores

    work = {"train": training_steps, "plan": plans}[what]()
    next(work)
    took_s: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        for shares, took in zip((False, True), took_s, strict=True):
            watch = share_cores() if shares else None
            for _ in range(NUM_STEPS):
                begin_s = time.monotonic()
                next(work)
                took.append(time.monotonic() - begin_s)
            if watch is not None:
                watch.stop()
    before_s, after_s = (statistics.median(took) for took in took_s)
    return before_s, after_s


def training_steps() -> Iterator[object]:
    """Trains the shipped predictor on random tokens."""
    from robot_wm.benchmarks.train import shipped_training

    return iter(shipped_training(1_000_000))


def plans() -> Iterator[object]:
    """Plans with the shipped checkpoint; encoding the pictures is included."""
    from robot_wm.checkpoint import find_checkpoint, load_checkpoint
    from robot_wm.deployment.control import make_controller
    from robot_wm.proposals import load_prior
    from robot_wm.robots import make_arm
    from sim_envs.manifest import DEV_SEED
    from sim_envs.reach import ReachTask
    from sim_envs.tabletop import Tabletop

    env = Tabletop(make_arm("so100"))
    task = ReachTask(env)
    goal = task.start(task.episode(DEV_SEED))
    directory = find_checkpoint("so100_tabletop")
    model, _ = load_checkpoint(directory)
    settings = load_command("eval", [f"checkpoint={directory}"])
    prior = load_prior(directory, model.info)
    controller = make_controller(model, env, settings, prior=prior)
    start = env.observe()
    while True:
        controller.reset(goal)
        yield controller.act(start, None)


def main() -> None:
    """Measures everything, and prints the table."""
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(child(sys.argv[2], int(sys.argv[3]))))
        return
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    figures: dict[str, Any] = {}
    columns = f"{'before':>12}{'after':>12}{'of before':>11}{'of quiet':>10}{'share':>7}"
    print(f"{'':10}{'busy':>5}{columns}")
    for what in ("train", "plan", "ticks"):
        quiet_s = 0.0
        for num_busy in LOADS:
            with busy(num_busy):
                if what == "ticks":
                    late_s = [[late_ticks_s(own) for own in WAYS] for _ in range(repeats)]
                    before_s, after_s = (
                        statistics.median(way) for way in zip(*late_s, strict=True)
                    )
                else:
                    turns = repeats if num_busy else NUM_QUIET * repeats
                    before_s, after_s = measure(what, turns)
            quiet_s = quiet_s or after_s
            row = {"before_s": before_s, "after_s": after_s, "of_before": after_s / before_s}
            share = (num_busy + 2) / 2
            row |= {"of_quiet": after_s / quiet_s, "share": share}
            figures[f"{what}_beside_{num_busy}"] = row
            print(
                f"{what:10}{num_busy:>5}{before_s * 1e3:9.1f} ms{after_s * 1e3:9.1f} ms"
                f"{row['of_before']:11.2f}{row['of_quiet']:10.2f}{share:7.1f}",
                flush=True,
            )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
