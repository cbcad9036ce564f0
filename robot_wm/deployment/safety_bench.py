"""Tests every promise of the safety layer between planner and arm, and measures its figure."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from robot_wm.deployment.fault_bench import FaultBench
from robot_wm.deployment.process_bench import ProcessBench
from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.settings import RobotSettings, SimulatedRobot
from robot_wm.files import output_dir
from robot_wm.provenance import write_run
from robot_wm.types import (
    Count,
    Positive,
    Seed,
    Settings,
    UserError,
)

_FULL = {"sequences": 10_000, "stops": 50, "kills": 100, "jitter_s": 60.0}


class BenchSafetySettings(Settings, frozen=True):
    """How often each promise is tested.

    Attributes:
        robot: The robot whose limits are kept.
        full: Uses the counts that the promises are made for: 10,000 sequences, 50 stops, 100 kills
            and 60 s next to busy processes.
        sequences: Number of sequences of random faults.
        ticks: Ticks of each sequence.
        stops: Stops of every kind.
        kills: Kills of every process.
        jitter_s: Time that ticks are measured next to as many busy processes as there are cores, s.
        out: Directory for the figures; null: they are not written.
        seed: Seed of everything that is random.
    """

    robot: RobotSettings = SimulatedRobot()
    full: bool = False
    sequences: Count = 40
    ticks: Count = 300
    stops: Count = 1
    kills: Count = 2
    jitter_s: Positive = 5.0
    out: str | None = None
    seed: Seed = 0


def bench_safety(settings: BenchSafetySettings) -> tuple[dict[str, Any], list[str]]:
    """Tests every promise, and logs the figures.

    Args:
        settings: Settings of the bench.

    Returns:
        The figures, in plain values, and a text for each promise that is broken.

    Raises:
        UserError: the robot has no park pose.
    """
    counts = {name: getattr(settings, name) for name in _FULL}
    counts = _FULL if settings.full else counts
    out = None if settings.out is None else output_dir(settings.out)
    robot = build_robot(settings.robot)
    if robot.park is None:
        raise UserError("robot.park_pose: the bench begins and ends there, and it is not given")
    work = Path(tempfile.mkdtemp(prefix="robot_wm_safety_"))
    try:
        arm = robot, robot.park, work, settings.seed
        bench, processes = FaultBench(*arm), ProcessBench(*arm, settings.robot.settings)
        figures = bench.faults(int(counts["sequences"]), settings.ticks)
        figures["nan_motion"] += bench.broken_models(settings.seed)
        figures |= bench.governor()
        figures |= bench.refusals()
        figures |= processes.stops(int(counts["stops"]))
        figures |= processes.kills(int(counts["kills"]))
        figures |= processes.jitter(float(counts["jitter_s"]))
        figures["rehearsals_begun_anew"] = processes.num_begun_anew
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_run(out, "bench safety", settings)
        (out / "safety.json").write_text(json.dumps(figures, indent=1) + "\n")
    first = ("commands", "violations", "stop_s_max", "overtravel_ticks_max", "illegal_plans_run",
             "nan_motion", "replay_mismatch", "refusals_missed", "tick_jitter_ms_p99")  # fmt: skip
    return {name: figures[name] for name in first} | figures, _broken(figures, settings.full)


def _broken(figures: dict[str, Any], full: bool) -> list[str]:
    """Lists the promises that the figures break."""
    nothing = (
        *("violations", "illegal_plans_run", "nan_motion", "replay_mismatch", "refusals_missed"),
    )
    broken = [f"{name} {figures[name]}" for name in nothing if figures[name]]
    if figures["overtravel_ticks_max"] > 1:
        broken.append(f"overtravel_ticks_max {figures['overtravel_ticks_max']}")
    if figures["stop_s_max"] > 0.3 and full:
        broken.append(f"stop_s_max {figures['stop_s_max']:.3f}")
    if figures["governor_ms_median"] > 1.0 and full:
        broken.append(f"governor_ms_median {figures['governor_ms_median']:.2f}")
    return broken
