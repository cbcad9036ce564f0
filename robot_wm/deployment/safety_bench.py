"""Tests every promise of the safety layer between planner and arm, and measures its figure.

Commands under random faults are judged by hardware.verify, which shares no code with the governor.
Stops, kills and jitter are measured on real processes, with servos that follow their last joint
target.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware.flight import FlightRecorder, replay
from hardware.governor import Governor
from hardware.messages import PlanProposal, encode
from hardware.plans import JointPlan
from hardware.reasons import Kind, Reason, said
from hardware.states import Event, State
from hardware.supervisor import Supervisor, SupervisorSettings
from hardware.ticks import NoteKind, PolicyLife, Reading
from hardware.verify import violations
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.deployment.control import make_controller
from robot_wm.deployment.parts import Part
from robot_wm.deployment.planning import PlanningSettings
from robot_wm.deployment.rig import Rig, heard, illegal_plans, legal_pose
from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.settings import RobotSettings, SimulatedRobot
from robot_wm.files import output_dir
from robot_wm.kinematics import Chain, Limits
from robot_wm.planners import PLANNERS
from robot_wm.progress import Progress
from robot_wm.provenance import write_run
from robot_wm.types import (
    ActionSpec,
    Count,
    FloatArray,
    Goal,
    Observation,
    PlanningError,
    Positive,
    Seed,
    Settings,
    UserError,
)

log = logging.getLogger(__name__)

_FULL = {"sequences": 10_000, "stops": 50, "kills": 100, "jitter_s": 60.0}
_REPLAYED = 20  # one of so many sequences is recorded and replayed
_STANDS = SupervisorSettings().steady_ticks
_TRIES = 3  # attempts to get the arm of a rehearsal moving
_WATCHED_S = 0.8  # how long motion is looked for after a stop
_ASKED = Reason(Kind.ASKED_FOR)
_OVERLOAD = said(Kind.DEVICE, "overload")


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
        settings: How often each promise is tested.

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
        raise UserError("robot.rest: the bench begins and ends there, and it is not given")
    work = Path(tempfile.mkdtemp(prefix="robot_wm_safety_"))
    try:
        bench = Bench(robot.chain, robot.limits, robot.park, work, settings.seed,
                      settings.robot.settings)  # fmt: skip
        figures = bench.faults(int(counts["sequences"]), settings.ticks)
        figures["nan_motion"] += bench.broken_models(settings.seed)
        figures |= bench.governor()
        figures |= bench.refusals()
        figures |= bench.stops(int(counts["stops"]))
        figures |= bench.kills(int(counts["kills"]))
        figures |= bench.jitter(float(counts["jitter_s"]))
        figures["rehearsals_begun_anew"] = bench.num_begun_anew
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


@dataclass(frozen=True, eq=False)
class _Planned:
    """The facts about an arm that a controller needs (robot_wm.deployment.control.Controlled)."""

    action_spec: ActionSpec
    control_dt: float


@dataclass
class Bench:
    """Tests one arm.

    Attributes:
        chain: Kinematics of the arm.
        limits: Limits of the governor.
        rest: The park pose `[J]`, rad.
        work: A folder for flight records.
        seed: Seed of everything that is random.
        settings: Settings of the supervisor.
        num_begun_anew: Rehearsals that had to begin again so far.
    """

    chain: Chain
    limits: Limits
    rest: FloatArray
    work: Path
    seed: int
    settings: SupervisorSettings
    num_begun_anew: int = 0
    _num_moves: int = 0

    def faults(self, num_sequences: int, num_ticks: int) -> dict[str, Any]:
        """Judges the commands of a supervisor under random faults, plans and messages.

        Args:
            num_sequences: Number of sequences.
            num_ticks: Ticks of each sequence.

        Returns:
            The number of commands, and how many broke each promise.
        """
        counts = {"commands": 0, "violations": 0, "illegal_plans_run": 0, "nan_motion": 0,
                 "replay_mismatch": 0}  # fmt: skip
        with Progress("faults", "sequence") as progress:
            for number in range(num_sequences):
                self._sequence(number, num_ticks, counts)
                progress(number + 1, num_sequences)
        log.info(
            f"{counts['commands']} commands under random faults: {counts['violations']} violations"
        )
        return counts

    def _sequence(self, number: int, num_ticks: int, found: dict[str, int]) -> None:
        rng = np.random.default_rng((self.seed, number))
        supervisor = Supervisor(self.limits, self.chain.corners, rest=self.rest)
        tick_s, now_s, joints = float(self.limits.tick_s), 10.0, self.rest.copy()
        path = self.work / f"{number}.jsonl"
        record = FlightRecorder(path, self.limits, self.chain) if number % _REPLAYED == 0 else None
        written: list[list[FloatArray]] = []
        for i in range(num_ticks):
            now_s += tick_s if rng.random() < 0.995 else 0.3
            reading, life = self._reading(rng, joints, now_s)
            events: list[tuple[Event, Reason]] = []
            if rng.random() < 0.05:
                events = [(event, _ASKED) for event in (Event.RESET, Event.ARM)]
            elif rng.random() < 0.02:
                events = [(list(Event)[rng.integers(len(Event))], _ASKED)]
            plans: list[JointPlan] = []
            legal = True
            if rng.random() < 0.1:
                content, legal = self._plan(rng, supervisor, joints, now_s, i)
                plans, nonsense = heard(content)
                events += nonsense
            before = supervisor.state
            result = supervisor.tick(now_s, reading, life, events=events, plans=plans)
            taken = any(note.kind is NoteKind.PLAN_TAKEN for note in result.notes)
            if taken and not legal:
                found["illegal_plans_run"] += 1
            if result.seed is not None:  # the measured joints that the commands begin from, at rest
                written.append([result.seed])
            if result.command is not None:
                found["nan_motion"] += int(not np.isfinite(result.command).all())
                found["nan_motion"] += int(taken and not legal and before is State.ARMED)
                written[-1].append(result.command)
                joints = result.command
            if record is not None:
                record.write(now_s, reading, result)
        for commands in written:
            found["commands"] += len(commands) - 1
            judged = violations(self.limits, self.chain.corners, np.array(commands))
            found["violations"] += sum(judged.values())
        if record is not None:
            record.close()
            found["replay_mismatch"] += replay(path).num_mismatches
            path.unlink()

    def _reading(
        self, rng: np.random.Generator, joints: FloatArray, now_s: float
    ) -> tuple[Reading, PolicyLife]:
        """Draws a reading: nearly always of the commanded joints, sometimes an invalid one."""
        chance = rng.random()
        stamp_s, frame_s, measured = now_s, now_s - 0.02, joints
        fault: Reason | None = None
        if chance < 0.002:
            measured = np.full_like(joints, rng.choice([np.nan, np.inf, 1e6]))
        elif chance < 0.004:
            stamp_s = now_s - rng.uniform(0.1, 9.0)
        elif chance < 0.02:
            frame_s = now_s - rng.uniform(0.1, 9.0)
        elif chance < 0.022:
            fault = _OVERLOAD
        elif chance < 0.1:
            measured = joints + rng.normal(0, 0.01, len(joints))
        alive = rng.random() > 0.001
        heard_s = now_s - (rng.uniform(0.1, 9.0) if rng.random() < 0.01 else 0.0)
        return Reading(measured, stamp_s, {"front": frame_s}, fault), PolicyLife(alive, heard_s)

    def _plan(
        self,
        rng: np.random.Generator,
        supervisor: Supervisor,
        joints: FloatArray,
        now_s: float,
        number: int,
    ) -> tuple[bytes, bool]:
        """Draws a plan as the policy process sends it, and whether it is legal."""
        wish = legal_pose(self.chain, self.limits, rng, joints)
        good = JointPlan(supervisor.epoch, number + 1, now_s - 0.05, now_s, joints, wish[None],
                         now_s + 2.0)  # fmt: skip
        if rng.random() < 0.5:
            return encode(PlanProposal(plan=good)), True
        bad = illegal_plans(good, self.limits)
        return bad[rng.integers(len(bad))], False

    def broken_models(self, seed: int) -> int:
        """Counts the actions that planners take although the model imagines NaN."""
        model, _ = load_checkpoint(find_checkpoint("so100_reach"))
        info = model.info
        rng = np.random.default_rng(seed)
        images = {
            view.camera: rng.integers(0, 256, (view.height, view.width, 3), np.uint8)
            for view in info.views
        }
        seen = Observation(images, np.zeros(len(info.state_names)), 0.0)
        arm = _Planned(info.action_spec, info.dt)
        weights = list(model.parameters())
        moved, num = 0, 0
        for planner, broken in itertools.product(PLANNERS, (weights, weights[-1:])):
            before = [weight.detach().clone() for weight in broken]
            for weight in broken:
                weight.view(-1)[: len(weight) if broken is weights else 1] = math.nan
            settings = PlanningSettings(planner=Part(planner))
            controller = make_controller(model, arm, settings)
            controller.reset(Goal({name: image[::-1].copy() for name, image in images.items()}))
            num += 1
            try:
                action = controller.act(seen, None).action
                moved += int(bool(np.any(action != info.action_spec.rest)))
            except PlanningError:
                pass
            for weight, value in zip(broken, before, strict=True):
                weight.copy_(value)
        log.info(f"models that imagine NaN behind {num} planners: {moved} took an action")
        return moved

    def governor(self, num: int = 2000) -> dict[str, Any]:
        """Measures the time of a governor's step that is pushed against every limit."""
        rng, took_s, wish = np.random.default_rng(self.seed), [], self.rest
        governor = Governor(self.limits, self.chain.corners, self.rest)
        for tick in range(num):
            if tick % 25 == 0:
                wish = rng.uniform(self.limits.low, self.limits.high)
            begin_s = time.perf_counter()
            near = governor.joints + np.clip(wish - governor.joints, -0.9, 0.9)
            governor.step(near)
            took_s.append(time.perf_counter() - begin_s)
        median_ms, p99_ms = (1000 * float(np.quantile(took_s, q)) for q in (0.5, 0.99))
        log.info(f"governor: {median_ms:.2f} ms a step, median of {num} (p99 {p99_ms:.2f} ms)")
        return {"governor_ms_median": median_ms, "governor_ms_p99": p99_ms}

    def refusals(self) -> dict[str, Any]:
        """Tests every reason not to arm, and every plan that may not run, one by one."""
        missed = [name for name, armed in self._arming() if armed]
        supervisor, now_s = self._armed()
        good = JointPlan(supervisor.epoch, 1, now_s, now_s, self.rest, self.rest[None] + 0.05,
                         now_s + 2.0)  # fmt: skip
        for number, content in enumerate(illegal_plans(good, self.limits)):
            supervisor, now_s = self._armed()
            plans, nonsense = heard(content)
            reading = Reading(self.rest, now_s + 0.01, {"front": now_s})
            life = PolicyLife(True, now_s)
            result = supervisor.tick(now_s + 0.01, reading, life, events=nonsense, plans=plans)
            if result.state is State.RUNNING:
                missed.append(f"illegal plan {number}")
        log.info(f"arming and plans: {len(missed)} refusals missed {missed or ''}")
        return {"refusals_missed": len(missed)}

    def _armed(self) -> tuple[Supervisor, float]:
        supervisor, now_s = Supervisor(self.limits, self.chain.corners, rest=self.rest), 10.0
        for tick in range(_STANDS + 1):
            now_s += float(self.limits.tick_s)
            reading = Reading(self.rest, now_s, {"front": now_s})
            events = [(Event.ARM, _ASKED)] if tick == _STANDS else []
            supervisor.tick(now_s, reading, PolicyLife(True, now_s), events=events)
        assert supervisor.state is State.ARMED
        return supervisor, now_s

    def _boxed_out(self) -> FloatArray:
        """Draws joints that are legal except for a corner of the arm outside the box.

        Returns:
            The joints `[J]`, rad.

        Raises:
            UserError: the box contains the arm in every pose.
        """
        probe = Governor(self.limits, self.chain.corners, self.rest)
        rng = np.random.default_rng(self.seed)
        for _ in range(10_000):
            joints = rng.uniform(self.limits.low, self.limits.high)
            if probe.problem(joints):  # drawn within the joints' limits: only the box is left
                return joints
        raise UserError("robot.limits: the box holds the whole arm wherever it is")

    def _arming(self) -> Iterator[tuple[str, bool]]:
        """Yields each condition in which the arm must not be armed, and whether it was."""
        rest, outside = self.rest, self.rest.copy()
        outside[1] = self.limits.high[1] + 0.05
        low = self._boxed_out()
        cases: dict[str, Callable[[float], Reading]] = {
            "joint outside its limits": lambda now_s: Reading(outside, now_s, {"front": now_s}),
            "corner outside the box": lambda now_s: Reading(low, now_s, {"front": now_s}),
            "joint not finite": lambda now_s: Reading(rest * np.nan, now_s, {"front": now_s}),
            "joints missing": lambda now_s: Reading(rest[:5], now_s, {"front": now_s}),
            "joints stale": lambda now_s: Reading(rest, now_s - 1.0, {"front": now_s}),
            "camera stale": lambda now_s: Reading(rest, now_s, {"front": now_s - 1.0}),
            "camera never": lambda now_s: Reading(rest, now_s, {"front": -math.inf}),
            "device fault": lambda now_s: Reading(rest, now_s, {"front": now_s}, _OVERLOAD),
            "arm swings": lambda now_s: Reading(rest + now_s % 0.1, now_s, {"front": now_s}),
            "no planner": lambda now_s: Reading(rest, now_s, {"front": now_s}),
        }
        for name, read in cases.items():
            supervisor, now_s = Supervisor(self.limits, self.chain.corners, rest=rest), 10.0
            for tick in range(_STANDS + 1):
                now_s += float(self.limits.tick_s)
                events = [(Event.ARM, _ASKED)] if tick == _STANDS else []
                life = PolicyLife(name != "no planner", now_s)
                result = supervisor.tick(now_s, read(now_s), life, events=events)
                if result.state is State.ARMED or result.command is not None:
                    yield name, True
                    break
            else:
                yield name, False

    def _rehearse(self, name: str, **words: Any) -> Rig:
        path = self.work / f"{name}-{time.monotonic_ns()}.jsonl"
        self._num_moves += 1  # another seed for each run
        words = {"settings": self.settings, "seed": self.seed + self._num_moves, **words}
        return Rig(self.chain, self.limits, self.rest, path, **words)

    @contextlib.contextmanager
    def _moving(self, name: str, *, into_s: float = 0.1, **words: Any) -> Iterator[Rig]:
        """Runs a rehearsal whose arm is moving.

        Its servos are a thread of this process. If the machine does not run the thread for longer
        than a reading may be old, the arm faults, as it should, and the rehearsal begins again.
        """
        for left in reversed(range(_TRIES)):
            with self._rehearse(name, **words) as run:
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
        kinds: dict[str, Callable[[Rig], object]] = {
            "SIGINT": lambda run: run.children["controller"].send_signal(signal.SIGINT),
            "SIGTERM": lambda run: run.children["controller"].send_signal(signal.SIGTERM),
            "SIGHUP": lambda run: run.children["controller"].send_signal(signal.SIGHUP),
            "planner hangs": lambda run: run.children["planner"].send_signal(signal.SIGSTOP),
            "watchdog dies": lambda run: run.children["watchdog"].send_signal(signal.SIGKILL),
            "planner dies": lambda run: run.children["planner"].send_signal(signal.SIGKILL),
            "picture is stale": lambda run: setattr(run, "frozen", True),
        }
        longest: dict[str, float] = {}
        rng = np.random.default_rng(self.seed)
        with Progress("stops", "stop") as progress:
            total = num * (len(kinds) + 1)
            for i, name in itertools.product(range(num), [*kinds, "key"]):
                reading, writing = os.pipe()
                words = {"keys": reading} if name == "key" else {}
                with self._moving("stop", into_s=rng.uniform(0.05, 0.4), **words) as run:
                    begin_s = time.monotonic()
                    if name == "key":
                        os.write(writing, b" ")
                    else:
                        kinds[name](run)
                    took_s = run.rest_s(begin_s, _WATCHED_S)
                    longest[name] = max(longest.get(name, 0.0), took_s)
                    if "planner" in run.children:
                        run.children["planner"].send_signal(signal.SIGCONT)
                os.close(reading)
                os.close(writing)
                progress(i * (len(kinds) + 1) + len(longest), total)
        for name, took_s in longest.items():
            log.info(f"{name:20}{1000 * took_s:6.0f} ms to rest, the longest of {num}")
        return {"stop_s_max": max(longest.values()), "stop_s": longest}

    def kills(self, num: int) -> dict[str, Any]:
        """Counts the ticks for which the arm moves on after a process was killed."""
        worst = {}
        for name in ("controller", "planner", "watchdog"):
            worst[name] = 0
            for _ in range(num):
                with self._moving("kill") as run:
                    before = run.num_joint_targets()
                    killed_s = run.kill(name)
                    time.sleep(0.3)
                    on = run.num_joint_targets() - before
                if name != "controller":  # the arm server still brakes: count its running ticks
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
            with self._rehearse("jitter") as run:
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
