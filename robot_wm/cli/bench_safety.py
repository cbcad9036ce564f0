"""`robot-wm bench safety`: the promises between planner and arm, each with its figure.

Commands under random faults are judged by hardware.verify, which knows nothing of the governor.
Stops, kills and jitter are of real processes on servos that follow their last goal.
"""

from __future__ import annotations

import contextlib
import itertools
import json
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
from omegaconf import DictConfig

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
from robot_wm.cli.config import groups, load_config, planning_settings, robot_settings
from robot_wm.cli.console import Progress, finish, output_dir, say
from robot_wm.cli.provenance import write_run
from robot_wm.deployment.control import make_controller
from robot_wm.deployment.rig import Rig, heard, illegal_plans, legal_pose
from robot_wm.deployment.robots import build_robot
from robot_wm.kinematics import Chain, Limits
from robot_wm.types import (
    ActionSpec,
    FloatArray,
    Goal,
    Observation,
    PlanningError,
    RunError,
    UserError,
)

_FULL = {"sequences": 10_000, "stops": 50, "kills": 100, "jitter_s": 60.0}
_REPLAYED = 20  # every so many sequences
_STANDS = SupervisorSettings().steady_ticks
_TRIES = 3  # to have a rehearsed arm move
_WATCHED_S = 0.8  # after a stop: what moves later counts
_ASKED = Reason(Kind.ASKED_FOR)
_OVERLOAD = said(Kind.DEVICE, "overload")


def run(config: DictConfig) -> None:
    """Tries every promise, prints a table, ends with one line of JSON."""
    counts = {key: value if config.full else config[key] for key, value in _FULL.items()}
    for name in ("sequences", "ticks", "stops", "kills"):
        if int(counts.get(name, config.ticks)) < 1:
            raise UserError(f"{name}: got {counts.get(name, config.ticks)}, want at least 1")
    if not 0 < counts["jitter_s"] < math.inf:
        raise UserError(f"jitter_s: got {counts['jitter_s']}, want seconds above 0")
    out = None if config.out is None else output_dir(config.out)
    chosen = robot_settings(config)
    robot = build_robot(chosen)
    if robot.park is None:
        raise UserError("robot.rest: the bench begins and ends there, and it is not given")
    work = Path(tempfile.mkdtemp(prefix="robot_wm_safety_"))
    try:
        settings = chosen.settings
        bench = Bench(robot.chain, robot.limits, robot.park, work, int(config.seed), settings)
        figures = bench.faults(int(counts["sequences"]), int(config.ticks))
        figures["nan_motion"] += bench.broken_models(int(config.seed))
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
        write_run(out, "bench safety", config)
        (out / "safety.json").write_text(json.dumps(figures, indent=1) + "\n")
    wanted = ("commands", "violations", "stop_s_max", "overtravel_ticks_max", "illegal_plans_run",
              "nan_motion", "replay_mismatch", "refusals_missed", "tick_jitter_ms_p99")  # fmt: skip
    finish({name: figures[name] for name in wanted} | figures)
    nothing = (
        "violations",
        "illegal_plans_run",
        "nan_motion",
        "replay_mismatch",
        "refusals_missed",
    )
    broken = [f"{name} {figures[name]}" for name in nothing if figures[name]]
    if figures["overtravel_ticks_max"] > 1:
        broken.append(f"overtravel_ticks_max {figures['overtravel_ticks_max']}")
    if figures["stop_s_max"] > 0.3 and config.full:
        broken.append(f"stop_s_max {figures['stop_s_max']:.3f}")
    if figures["governor_ms_median"] > 1.0 and config.full:
        broken.append(f"governor_ms_median {figures['governor_ms_median']:.2f}")
    if broken:
        raise SafetyError(f"promises broken: {', '.join(broken)}")


class SafetyError(RunError):
    """A promise does not hold."""


@dataclass(frozen=True, eq=False)
class _Planned:
    """As much of an arm as a controller must know."""

    action_spec: ActionSpec
    control_dt: float


@dataclass
class Bench:
    """The arm that is tried."""

    chain: Chain
    limits: Limits
    rest: FloatArray
    work: Path
    seed: int
    settings: SupervisorSettings
    num_begun_anew: int = 0
    _num_moves: int = 0

    def faults(self, num_sequences: int, num_ticks: int) -> dict[str, Any]:
        """Random faults, plans and nonsense; every command judged."""
        found = {"commands": 0, "violations": 0, "illegal_plans_run": 0, "nan_motion": 0,
                 "replay_mismatch": 0}  # fmt: skip
        with Progress("faults", "sequence") as progress:
            for number in range(num_sequences):
                self._sequence(number, num_ticks, found)
                progress(number + 1, num_sequences)
        say(f"{found['commands']} commands under random faults: {found['violations']} violations")
        return found

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
            turn = supervisor.tick(now_s, reading, life, events=events, plans=plans)
            taken = any(note.kind is NoteKind.PLAN_TAKEN for note in turn.notes)
            if taken and not legal:
                found["illegal_plans_run"] += 1
            if turn.seed is not None:  # from where it was measured, at rest
                written.append([turn.seed])
            if turn.command is not None:
                found["nan_motion"] += int(not np.isfinite(turn.command).all())
                found["nan_motion"] += int(taken and not legal and before is State.ARMED)
                written[-1].append(turn.command)
                joints = turn.command
            if record is not None:
                record.write(now_s, reading, turn)
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
        """What the arm reads: nearly always where it was sent, sometimes nonsense."""
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
        """A plan as it is sent, and whether it may be followed."""
        wish = legal_pose(self.chain, self.limits, rng, joints)
        good = JointPlan(supervisor.epoch, number + 1, now_s - 0.05, now_s, joints, wish[None],
                         now_s + 2.0)  # fmt: skip
        if rng.random() < 0.5:
            return encode(PlanProposal(plan=good)), True
        bad = illegal_plans(good, self.limits)
        return bad[rng.integers(len(bad))], False

    def broken_models(self, seed: int) -> int:
        """Actions that planners take behind a model that imagines NaN: all of it, or one number."""
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
        planners = groups()["planner"]
        for planner, broken in itertools.product(planners, (weights, weights[-1:])):
            before = [weight.detach().clone() for weight in broken]
            for weight in broken:
                weight.view(-1)[: len(weight) if broken is weights else 1] = math.nan
            config = load_config(
                "deploy", [f"planner={planner}", "checkpoint=so100_reach", "goal=any.png"]
            )
            controller = make_controller(model, arm, planning_settings(config))
            controller.reset(Goal({name: image[::-1].copy() for name, image in images.items()}))
            num += 1
            try:
                action = controller.act(seen, None).action
                moved += int(bool(np.any(action != info.action_spec.rest)))
            except PlanningError:
                pass
            for weight, value in zip(broken, before, strict=True):
                weight.copy_(value)
        say(f"models that imagine NaN behind {num} planners: {moved} took an action")
        return moved

    def governor(self, num: int = 2000) -> dict[str, Any]:
        """How long a step takes while it is pushed against every limit."""
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
        say(f"governor: {median_ms:.2f} ms a step, median of {num} (p99 {p99_ms:.2f} ms)")
        return {"governor_ms_median": median_ms, "governor_ms_p99": p99_ms}

    def refusals(self) -> dict[str, Any]:
        """Every reason not to arm, and plans that may not run, tried one by one."""
        missed = [name for name, armed in self._arming() if armed]
        supervisor, now_s = self._armed()
        good = JointPlan(supervisor.epoch, 1, now_s, now_s, self.rest, self.rest[None] + 0.05,
                         now_s + 2.0)  # fmt: skip
        for number, content in enumerate(illegal_plans(good, self.limits)):
            supervisor, now_s = self._armed()
            plans, nonsense = heard(content)
            turn = supervisor.tick(now_s + 0.01, Reading(self.rest, now_s + 0.01, {"front": now_s}),
                              PolicyLife(True, now_s), events=nonsense, plans=plans)  # fmt: skip
            if turn.state is State.RUNNING:
                missed.append(f"illegal plan {number}")
        say(f"arming and plans: {len(missed)} refusals missed {missed or ''}")
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
        """Joints `[J]`, rad, that are legal but for a corner of the arm outside the box.

        Raises:
            UserError: the box holds the arm wherever it is.
        """
        probe = Governor(self.limits, self.chain.corners, self.rest)
        rng = np.random.default_rng(self.seed)
        for _ in range(10_000):
            joints = rng.uniform(self.limits.low, self.limits.high)
            if probe.problem(joints):  # drawn within the joints' limits: only the box is left
                return joints
        raise UserError("robot.limits: the box holds the whole arm wherever it is")

    def _arming(self) -> Iterator[tuple[str, bool]]:
        """Conditions under which the arm must not be armed, and whether it was."""
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
                turn = supervisor.tick(now_s, read(now_s), life, events=events)
                if turn.state is State.ARMED or turn.command is not None:
                    yield name, True
                    break
            else:
                yield name, False

    def _rehearse(self, name: str, **words: Any) -> Rig:
        path = self.work / f"{name}-{time.monotonic_ns()}.jsonl"
        self._num_moves += 1  # each run moves otherwise
        words = {"settings": self.settings, "seed": self.seed + self._num_moves, **words}
        return Rig(self.chain, self.limits, self.rest, path, **words)

    @contextlib.contextmanager
    def _moving(self, name: str, *, into_s: float = 0.1, **words: Any) -> Iterator[Rig]:
        """A rehearsal whose arm is on its way.

        Its servos are a thread of this process: where the machine does not let it run for longer
        than a reading may be old, the arm faults, as it should, and the rehearsal begins anew.
        """
        for left in reversed(range(_TRIES)):
            with self._rehearse(name, **words) as run:
                try:
                    run.arm()
                    run.wait_moving(into_s=into_s)
                except TimeoutError as error:
                    if not left:
                        raise
                    say(f"begun anew: {error}")
                    self.num_begun_anew += 1
                    continue
                yield run
                return

    def stops(self, num: int) -> dict[str, Any]:
        """Seconds from what stops the arm to its rest, the longest of all."""
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
            say(f"{name:20}{1000 * took_s:6.0f} ms to rest, the longest of {num}")
        return {"stop_s_max": max(longest.values()), "stop_s": longest}

    def kills(self, num: int) -> dict[str, Any]:
        """Ticks that the arm went on as if nothing had happened, after a process was killed."""
        worst = {}
        for name in ("controller", "planner", "watchdog"):
            worst[name] = 0
            for _ in range(num):
                with self._moving("kill") as run:
                    before = run.num_goals()
                    killed_s = run.kill(name)
                    time.sleep(0.3)
                    on = run.num_goals() - before
                if name != "controller":  # it goes on to brake
                    on = sum(
                        line["t"] > killed_s and line["state"] == "running"
                        for line in _ticks(run.record)
                    )
                worst[name] = max(worst[name], on)
            say(f"kill -9 of the {name}: {worst[name]} ticks more, the most of {num}")
        return {"overtravel_ticks_max": max(worst.values()), "overtravel_ticks": worst}

    def jitter(self, seconds: float) -> dict[str, Any]:
        """How late ticks begin while other processes want every core."""
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
        say(f"{len(late_s)} ticks beside {len(busy)} busy processes: p99 {p99:.2f} ms late")
        return {"tick_jitter_ms_p99": p99}


def _ticks(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        next(file)
        for line in map(json.loads, file):
            if "end" not in line:
                yield line


def _burn() -> None:
    os.nice(5)  # as the planner
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(400, 400))
    while True:
        matrix = np.tanh(matrix @ matrix / 400)
