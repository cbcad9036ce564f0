"""Tests the supervisor, the governor and every planner under faults, in this process.

Commands are judged by hardware.verify, which shares no code with the governor.
"""

from __future__ import annotations

import itertools
import logging
import math
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
from hardware.reasons import Kind, Reason, quoted
from hardware.states import Event, State
from hardware.supervisor import Supervisor, SupervisorSettings
from hardware.ticks import NoteKind, PolicyLife, Reading
from hardware.verify import violations
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.deployment.control import make_controller
from robot_wm.deployment.parts import Part
from robot_wm.deployment.planning import PlanningSettings
from robot_wm.deployment.rig import heard, illegal_plans, legal_pose
from robot_wm.kinematics import RobotModel
from robot_wm.planners import PLANNERS
from robot_wm.progress import Progress
from robot_wm.types import (
    ActionSpec,
    FloatArray,
    Goal,
    Observation,
    PlanningError,
    UserError,
)

log = logging.getLogger(__name__)

_REPLAYED = 20  # one of so many sequences is recorded and replayed
_STANDS = SupervisorSettings().steady_ticks
_ASKED = Reason(Kind.ASKED_FOR)
_OVERLOAD = quoted(Kind.DEVICE, "overload")


@dataclass(frozen=True, eq=False)
class _Planned:
    """The facts about an arm that a controller needs (robot_wm.deployment.control.Controlled)."""

    action_spec: ActionSpec
    control_dt: float


@dataclass(frozen=True)
class FaultBench:
    """Tests the supervisor, the governor and the planners of one arm, without its processes.

    Attributes:
        robot: The arm.
        park_pose: Joints where the tests begin, and the arm parks `[J]`, rad.
        work: A folder for flight records.
        seed: Seed of everything that is random.
    """

    robot: RobotModel
    park_pose: FloatArray
    work: Path
    seed: int

    def faults(self, num_sequences: int, num_ticks: int) -> dict[str, Any]:
        """Checks the commands of a supervisor under random faults, plans and messages.

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
        supervisor = self._supervisor()
        tick_s, now_s, joints = float(self.robot.limits.tick_s), 10.0, self.park_pose.copy()
        path = self.work / f"{number}.jsonl"
        record = (
            FlightRecorder(path, self.robot.limits, self.robot.chain)
            if number % _REPLAYED == 0
            else None
        )
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
            judged = violations(self.robot.limits, self.robot.chain.corners, np.array(commands))
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
        target = legal_pose(self.robot.chain, self.robot.limits, rng, joints)
        good = JointPlan(supervisor.epoch, number + 1, now_s - 0.05, now_s, joints, target[None],
                         now_s + 2.0)  # fmt: skip
        if rng.random() < 0.5:
            return encode(PlanProposal(plan=good)), True
        bad = illegal_plans(good, self.robot.limits)
        return bad[rng.integers(len(bad))], False

    def broken_models(self, seed: int) -> int:
        """Counts the actions that planners take although the model imagines NaN."""
        model, _ = load_checkpoint(find_checkpoint("so100_tabletop"))
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
            settings = PlanningSettings(planner=Part(planner, horizon=2))
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
        rng, took_s, target = np.random.default_rng(self.seed), [], self.park_pose
        governor = Governor(self.robot.limits, self.robot.chain.corners, self.park_pose)
        reach = 0.6 * float(self.robot.limits.max_jump)
        for tick in range(num):
            if tick % 25 == 0:
                target = rng.uniform(self.robot.limits.low, self.robot.limits.high)
            begin_s = time.perf_counter()
            near = governor.joints + np.clip(target - governor.joints, -reach, reach)
            governor.step(near)
            took_s.append(time.perf_counter() - begin_s)
        median_ms, p99_ms = (1000 * float(np.quantile(took_s, q)) for q in (0.5, 0.99))
        log.info(f"governor: {median_ms:.2f} ms a step, median of {num} (p99 {p99_ms:.2f} ms)")
        return {"governor_ms_median": median_ms, "governor_ms_p99": p99_ms}

    def refusals(self) -> dict[str, Any]:
        """Tests one by one that the arm is not armed and no plan runs where it must not be."""
        missed = [name for name, armed in self._arming() if armed]
        supervisor, now_s = self._armed()
        start = self.park_pose
        good = JointPlan(supervisor.epoch, 1, now_s, now_s, start, start[None] + 0.05, now_s + 2.0)
        for number, content in enumerate(illegal_plans(good, self.robot.limits)):
            supervisor, now_s = self._armed()
            plans, nonsense = heard(content)
            reading = Reading(self.park_pose, now_s + 0.01, {"front": now_s})
            life = PolicyLife(True, now_s)
            result = supervisor.tick(now_s + 0.01, reading, life, events=nonsense, plans=plans)
            if result.state is State.RUNNING:
                missed.append(f"illegal plan {number}")
        log.info(f"arming and plans: {len(missed)} refusals missed {missed or ''}")
        return {"refusals_missed": len(missed)}

    def _supervisor(self) -> Supervisor:
        return Supervisor(self.robot.limits, self.robot.chain.corners, park_pose=self.park_pose)

    def _armed(self) -> tuple[Supervisor, float]:
        supervisor, now_s = (
            Supervisor(self.robot.limits, self.robot.chain.corners, park_pose=self.park_pose),
            10.0,
        )
        for tick in range(_STANDS + 1):
            now_s += float(self.robot.limits.tick_s)
            reading = Reading(self.park_pose, now_s, {"front": now_s})
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
        probe = Governor(self.robot.limits, self.robot.chain.corners, self.park_pose)
        rng = np.random.default_rng(self.seed)
        for _ in range(10_000):
            joints = rng.uniform(self.robot.limits.low, self.robot.limits.high)
            if probe.problem(joints):  # drawn within the joints' limits: only the box is left
                return joints
        raise UserError("robot.limits: the box holds the whole arm wherever it is")

    def _arming(self) -> Iterator[tuple[str, bool]]:
        """Yields each condition in which the arm must not be armed, and whether it was."""
        park_pose, outside = self.park_pose, self.park_pose.copy()
        outside[1] = self.robot.limits.high[1] + 0.05
        low = self._boxed_out()
        cases: dict[str, Callable[[float], Reading]] = {
            "joint outside its limits": lambda now_s: Reading(outside, now_s, {"front": now_s}),
            "corner outside the box": lambda now_s: Reading(low, now_s, {"front": now_s}),
            "joint not finite": lambda now_s: Reading(park_pose * np.nan, now_s, {"front": now_s}),
            "joints missing": lambda now_s: Reading(park_pose[:-1], now_s, {"front": now_s}),
            "joints stale": lambda now_s: Reading(park_pose, now_s - 1.0, {"front": now_s}),
            "camera stale": lambda now_s: Reading(park_pose, now_s, {"front": now_s - 1.0}),
            "camera never": lambda now_s: Reading(park_pose, now_s, {"front": -math.inf}),
            "device fault": lambda now_s: Reading(park_pose, now_s, {"front": now_s}, _OVERLOAD),
            "arm swings": lambda now_s: Reading(park_pose + now_s % 0.1, now_s, {"front": now_s}),
            "no policy process": lambda now_s: Reading(park_pose, now_s, {"front": now_s}),
        }
        for name, read in cases.items():
            supervisor, now_s = (
                Supervisor(self.robot.limits, self.robot.chain.corners, park_pose=park_pose),
                10.0,
            )
            for tick in range(_STANDS + 1):
                now_s += float(self.robot.limits.tick_s)
                events = [(Event.ARM, _ASKED)] if tick == _STANDS else []
                life = PolicyLife(name != "no policy process", now_s)
                result = supervisor.tick(now_s, read(now_s), life, events=events)
                if result.state is State.ARMED or result.command is not None:
                    yield name, True
                    break
            else:
                yield name, False
