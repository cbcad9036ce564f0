"""Decides what is written to the arm in each tick. No clock and no I/O, so that all can be tested.

The process around it (`hardware.arm_server`) gives it the time, what the arm reads, and what came
from the policy process and the operator, and writes what it returns.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from hardware.governor import Governor, NotLegalError
from hardware.plans import JointPlan, Motion
from hardware.reasons import Kind, Reason
from hardware.states import Event, State, StateMachine
from hardware.ticks import Note, NoteKind, PolicyLife, Reading, TickResult
from robot_wm.kinematics.limits import Limits
from robot_wm.types import Count, FloatArray, Positive, Settings

_STEP_SHARE = 0.9  # of the governor's longest jump, that a step of a plan or of parking may take


class SupervisorSettings(Settings, frozen=True, kw_only=True):
    """When the arm is held, and when a problem is a fault.

    Attributes:
        max_tick_s: Longest time between two ticks, s; a longer one is a fault.
        max_reading_age_s: Largest age of the measured joints, s; older ones are a fault.
        max_frame_age_s: Largest age of a plan's picture when planning begins, s; a plan from an
            older one is refused.
        max_frame_gap_s: Longest time without a new picture of a camera, s; after that the arm is
            held.
        max_silence_s: Longest silence of the policy process while the arm moves, s; after that the
            arm is held.
        wait_warn_s: Time without a plan after which the operator is told, s.
        wait_fault_s: Time without a plan after which there is a fault, s.
        max_plan_s: Longest time for which a plan may be valid, s; a plan valid for longer is
            refused.
        max_thought_s: Largest age of a plan's picture when the plan comes, s; a plan from an older
            one is refused.
        start_error_rad: Largest distance of a plan's start from where the arm stands, rad; a plan
            that starts further away is refused.
        tracking_error_rad: Largest difference of a joint's measured and commanded angle, rad; a
            larger one for `tracking_s` is a fault.
        tracking_s: Time over which a joint is compared with its command, s.
        stuck_rad: Distance that a command must move within `tracking_s` for its joint to be checked
            for being stuck, rad.
        stuck_share: Smallest share of its command's distance that such a joint must move; less is a
            fault.
        max_refused: Number of refused plans in a row that is a fault.
        parking_s: Longest time to the park pose, s; a longer one is a fault.
        steady_ticks: Number of readings in a row that must agree before the arm counts as standing.
        steady_rad: Largest difference of a joint in readings that agree, rad.
    """

    max_tick_s: Positive = 0.1
    max_reading_age_s: Positive = 0.1
    max_frame_age_s: Positive = 0.2
    max_frame_gap_s: Positive = 0.15
    max_silence_s: Positive = 0.1
    wait_warn_s: Positive = 30.0
    wait_fault_s: Positive = 60.0
    max_plan_s: Positive = 10.0
    max_thought_s: Positive = 30.0
    start_error_rad: Positive = 0.05
    tracking_error_rad: Positive = 0.15
    tracking_s: Positive = 0.3
    stuck_rad: Positive = 0.05
    stuck_share: Annotated[float, Meta(gt=0, le=1)] = 0.2
    max_refused: Count = 3
    parking_s: Positive = 30.0
    steady_ticks: Count = 10
    steady_rad: Positive = 0.01


class Supervisor:
    """Decides alone what the arm does.

    Args:
        limits: Limits of the governor.
        corners: Function from joints `[N, J]`, rad, to the corners of all bodies `[N, P, 3]`, m.
        settings: Settings of when to hold and when to fault; None: the defaults.
        park_pose: The joints where the arm parks `[J]`, rad; None: the arm does not park.

    Raises:
        UserError: the arm may not stand in the park pose.
    """

    def __init__(
        self,
        limits: Limits,
        corners: Callable[[FloatArray], FloatArray],
        settings: SupervisorSettings | None = None,
        *,
        park_pose: FloatArray | None = None,
    ) -> None:
        self._limits, self._corners, self._park_pose = limits, corners, park_pose
        corners(limits.low[None])  # the first call prepares what later ticks use
        self._settings = settings or SupervisorSettings()
        if park_pose is not None:
            Governor(limits, corners, park_pose)  # raises where the arm may not stand
        self._machine = StateMachine()
        self._governor: Governor | None = None
        self._motion: Motion | None = None
        self._epoch, self._seq, self._num_refused = 0, -1, 0
        # The last tick; the last transition or plan; since when a joint is behind its command.
        self._last_s, self._since_s, self._behind_s = math.nan, 0.0, math.nan
        self._warned, self._at_rest, self._rest_s = False, True, math.nan  # rest_s: since when
        ticks = math.ceil(self._settings.tracking_s / float(limits.tick_s)) + 1
        self._followed_s = -math.inf
        self._followed: deque[FloatArray] = deque(maxlen=ticks)  # [2, J]: commands, and measured
        self._stood: deque[FloatArray] = deque(maxlen=self._settings.steady_ticks)
        self._told_blind, self._relaxed = False, False
        self.parked = False  # the arm stands in its park pose, at the operator's request
        self._notes: list[Note] = []
        self._seed: FloatArray | None = None

    @property
    def state(self) -> State:
        """The arm's state."""
        return self._machine.state

    @property
    def reason(self) -> Reason | None:
        """Reason of the fault; None if there is none."""
        return self._machine.reason

    @property
    def epoch(self) -> int:
        """Number of the arming; a plan for an earlier one is refused."""
        return self._epoch

    def tick(
        self,
        now_s: float,
        reading: Reading,
        policy: PolicyLife,
        *,
        events: Sequence[tuple[Event, Reason]] = (),
        plans: Sequence[JointPlan] = (),
    ) -> TickResult:
        """Decides one tick.

        Args:
            now_s: Time on the clock of all stamps, s.
            reading: Reading of the arm.
            policy: State of the policy process.
            events: The operator's requests, and faults that were found outside, with reasons.
            plans: Plans that have come since the last tick; the newest counts.

        Returns:
            The state, what to write, and what happened.
        """
        self._notes, self._seed = [], None
        wrong = self._wrong(now_s, reading)
        is_read = self._unread(now_s, reading) is None
        self._stood.append(np.array(reading.joints) if is_read else np.full(1, np.nan))
        if wrong and self.state not in (State.IDLE, State.FAULTED):
            self._on(Event.FAULT, now_s, wrong)
        for event, why in events:
            if event in (Event.PLAN, Event.WAIT, Event.PARKED):
                self._on(Event.FAULT, now_s, Reason(Kind.FOREIGN_EVENT, {"event": event.value}))
            elif event is Event.ARM and self.state is State.IDLE:
                self._arm(now_s, reading, policy, wrong)
            elif event is Event.PARK and self._park_pose is None:
                self._notes.append(Note(NoteKind.NOT_PARKED, Reason(Kind.NO_PARK_POSE)))
            elif event is Event.RESET and wrong:
                self._notes.append(Note(NoteKind.NOT_RESET, wrong))
            else:
                self._on(event, now_s, why)
        for plan in plans[-1:]:
            self._consider(plan, now_s, reading)
        if self.state in (State.IDLE, State.FAULTED) and self._at_rest and not self._relaxed:
            self._relax(reading)
        target = self._target(now_s, reading, policy)
        self._last_s = now_s
        if self._governor is None:
            return TickResult(self.state, self.reason, None, None, True, tuple(self._notes))
        command = self._governor.step(target)
        if command.refused and self.state is not State.FAULTED:
            self._on(Event.FAULT, now_s, Reason(Kind.TARGET_REFUSED))
        if not command.speed.any() and not self._at_rest:
            self._rest_s = now_s
        self._at_rest = not command.speed.any()
        notes, joints = tuple(self._notes), command.joints
        return TickResult(self.state, self.reason, target, joints, self._at_rest, notes, self._seed)

    def _wrong(self, now_s: float, reading: Reading) -> Reason | None:
        """Returns what is wrong with the arm, its connection or the clock; None if nothing is."""
        settings = self._settings
        late = now_s - self._last_s
        if reading.fault:
            return reading.fault
        if (late > settings.max_tick_s or late < 0) and self.state is not State.IDLE:
            return Reason(Kind.LATE_TICK, {"took_ms": late * 1000})
        return self._unread(now_s, reading) or self._behind(now_s, reading)

    def _unread(self, now_s: float, reading: Reading) -> Reason | None:
        """Returns why it is not known where the arm stands; None if it is known."""
        age = now_s - reading.stamp_s
        if np.shape(reading.joints) != self._limits.low.shape:
            numbers = {"got": np.size(reading.joints), "want": len(self._limits.low)}
            return Reason(Kind.WRONG_NUM_JOINTS, numbers)
        if not np.isfinite(reading.joints).all():
            return Reason(Kind.JOINTS_NOT_FINITE)
        if not -1e-3 <= age <= self._settings.max_reading_age_s:
            return Reason(Kind.STALE_JOINTS, {"age_ms": age * 1000})
        return None

    def _behind(self, now_s: float, reading: Reading) -> Reason | None:
        """Returns which joint does not follow its command; None if all do."""
        if self._governor is None or self.state in (State.IDLE, State.FAULTED):
            self._behind_s = math.nan
            self._followed.clear()
            return None
        stuck = self._stuck(reading)
        if stuck:
            return stuck
        error = np.abs(self._governor.joints - reading.joints)
        if error.max() <= self._settings.tracking_error_rad:
            self._behind_s = math.nan
            return None
        if math.isnan(self._behind_s):
            self._behind_s = now_s
        if now_s - self._behind_s < self._settings.tracking_s:
            return None
        numbers = {"joint": int(error.argmax()), "error_rad": float(error.max())}
        return Reason(Kind.JOINT_BEHIND, numbers)

    def _stuck(self, reading: Reading) -> Reason | None:
        """Returns which joint stands while its command moves, before `_behind` does, or None."""
        assert self._governor is not None
        if reading.stamp_s <= self._followed_s:
            return None  # no new reading: it cannot show motion
        self._followed_s = reading.stamp_s
        self._followed.append(np.stack((self._governor.joints, reading.joints)))
        if len(self._followed) < (self._followed.maxlen or 0):
            return None
        asked, moved = self._followed[-1] - self._followed[0]
        stuck = np.abs(asked) >= self._settings.stuck_rad
        stuck &= moved * np.sign(asked) < self._settings.stuck_share * np.abs(asked)
        if not stuck.any():
            return None
        joint = int(stuck.argmax())
        numbers = {"came_rad": float(moved[joint]), "asked_rad": float(asked[joint])}
        return Reason(Kind.JOINT_STUCK, {"joint": joint, **numbers})

    def fail(self, now_s: float, why: Reason) -> TickResult:
        """Runs a tick in which nothing is known of the arm: it faults and brakes.

        Args:
            now_s: Time on the clock of all stamps, s.
            why: Reason of the fault.

        Returns:
            The state, and what to write.
        """
        self._notes = []
        self._on(Event.FAULT, now_s, why)
        self._last_s = now_s
        joints = None
        if self._governor is not None:
            command = self._governor.step(None)
            joints, self._at_rest = command.joints, not command.speed.any()
        notes = tuple(self._notes)
        return TickResult(self.state, self.reason, None, joints, self._at_rest, notes)

    def _steady(self) -> bool:
        """Returns whether the last readings agree that the arm stands."""
        if len(self._stood) < self._settings.steady_ticks:
            return False
        if any(stood.shape != self._limits.low.shape for stood in self._stood):
            return False
        return bool((np.ptp(np.stack(self._stood), axis=0) <= self._settings.steady_rad).all())

    def _relax(self, reading: Reading) -> None:
        """Moves the joint target to a stopped arm, so that what blocked it may give way.

        It does so once: an arm that sinks under a load is not followed down.

        Args:
            reading: Reading of the arm.
        """
        governor = self._governor
        if governor is None or not self._steady():
            return
        measured = self._limits.clip_within_tolerance(reading.joints)
        away = np.abs(governor.joints - measured).max()
        if away > self._settings.start_error_rad and not governor.problem(measured):
            self._seed = measured
            self._governor = Governor(self._limits, self._corners, self._seed)
            self._relaxed = True
            moved = Reason(Kind.TARGET_MOVED, {"moved_rad": float(away)})
            self._notes.append(Note(NoteKind.TARGET_MOVED, moved))

    def _arm(
        self, now_s: float, reading: Reading, policy: PolicyLife, wrong: Reason | None
    ) -> None:
        wrong = wrong or self._blind(now_s, reading)
        if not wrong and not policy.alive:
            wrong = Reason(Kind.POLICY_MISSING)
        if not wrong and not (self._at_rest and self._steady()):
            wrong = Reason(Kind.NOT_AT_REST)
        if not wrong:
            try:
                seed = self._limits.clip_within_tolerance(reading.joints)
                self._governor = Governor(self._limits, self._corners, seed)
                self._seed = seed
            except NotLegalError as error:
                wrong = error.reason
        if wrong:
            self._notes.append(Note(NoteKind.NOT_ARMED, wrong))
            return
        self._epoch, self._seq, self._num_refused = self._epoch + 1, -1, 0
        self._rest_s = now_s - self._settings.steady_ticks * float(self._limits.tick_s)
        self._on(Event.ARM, now_s)

    def _on(self, event: Event, now_s: float, why: Reason | None = None) -> None:
        before = self.state
        after = self._machine.on(event, why)
        if after is State.PARKING and self._governor is None:
            self._notes.append(Note(NoteKind.NOT_PARKED, Reason(Kind.NEVER_ARMED)))
            self._machine.on(Event.STOP)
            return
        if after is not before or event is Event.FAULT:
            reason = self.reason if after is State.FAULTED else why
            reason = reason or Reason(Kind.EVENT, {"event": event.value})
            self._notes.append(Note(NoteKind.TRANSITION, reason, before, after))
        if after is not before:
            self._motion, self._warned, self._since_s = None, False, now_s
            self._relaxed = False
            self.parked = event is Event.PARKED

    def _consider(self, plan: JointPlan, now_s: float, reading: Reading) -> None:
        """Takes a plan, or notes why it is refused."""
        if self.state not in (State.ARMED, State.RUNNING, State.HOLDING):
            not_ready = Reason(Kind.NOT_READY, {"state": self.state.value})
            self._notes.append(Note(NoteKind.PLAN_REFUSED, not_ready))
            return
        wrong = self._misfit(plan, now_s, reading)
        if wrong is not None:
            self._num_refused += 1
            self._notes.append(Note(NoteKind.PLAN_REFUSED, wrong))
            if self._num_refused >= self._settings.max_refused:
                refused = Reason(Kind.PLANS_REFUSED, {"num": self._num_refused}, wrong)
                self._on(Event.FAULT, now_s, refused)
            return
        self._num_refused, self._seq = 0, plan.seq
        self._on(Event.PLAN, now_s)
        self._since_s = now_s
        self._motion = Motion(plan.waypoints, plan.valid_until_s)
        taken = Reason(Kind.PLAN, {"seq": plan.seq, "num_targets": len(plan.waypoints)})
        self._notes.append(Note(NoteKind.PLAN_TAKEN, taken))

    def _misfit(self, plan: JointPlan, now_s: float, reading: Reading) -> Reason | None:
        """Returns why a plan may not be followed now; None if it may."""
        settings = self._settings
        assert self._governor is not None  # armed
        if plan.epoch != self._epoch:
            return Reason(Kind.OTHER_EPOCH, {"got": plan.epoch, "want": self._epoch})
        if plan.seq <= self._seq:
            return Reason(Kind.OLD_NUMBER, {"got": plan.seq, "last": self._seq})
        if not plan.observed_s <= plan.begun_s <= now_s:
            return Reason(Kind.WRONG_ORDER)
        if not self._at_rest or plan.observed_s < self._rest_s:
            return Reason(Kind.SEEN_IN_MOTION)
        if now_s - plan.observed_s > settings.max_thought_s:
            return Reason(Kind.OLD_PLAN, {"age_s": now_s - plan.observed_s})
        age_s = plan.begun_s - plan.observed_s
        if age_s > settings.max_frame_age_s:
            return Reason(Kind.OLD_PICTURE, {"age_ms": age_s * 1000})
        if not now_s < plan.valid_until_s <= now_s + settings.max_plan_s:
            return Reason(Kind.WRONG_VALIDITY, {"left_s": plan.valid_until_s - now_s})
        num_joints = len(self._limits.low)
        if len(plan.start) != num_joints:
            return Reason(Kind.OTHER_ARM, {"got": len(plan.start), "want": num_joints})
        error = float(np.abs(plan.start - reading.joints).max())
        if not error <= settings.start_error_rad:
            return Reason(Kind.WRONG_START, {"error_rad": error})
        steps = np.abs(np.diff(plan.waypoints, axis=0, prepend=plan.start[None]))
        if not (steps <= _STEP_SHARE * self._limits.max_jump).all():
            return Reason(Kind.LONG_STEP, {"step_rad": float(steps.max())})
        for waypoint in plan.waypoints:
            problem = self._governor.problem(waypoint)
            if problem is not None:
                return Reason(Kind.ILLEGAL_TARGET, cause=problem)
        return None

    def _blind(self, now_s: float, reading: Reading) -> Reason | None:
        """Returns which camera shows nothing new; None if every camera shows something new."""
        for camera, stamp_s in reading.frames_s.items():
            if not now_s - stamp_s <= self._settings.max_frame_gap_s:
                numbers = {"camera": camera, "age_s": now_s - stamp_s}
                return Reason(Kind.CAMERA_STALE, numbers)
        return None

    def _tell_blind(self, now_s: float, reading: Reading) -> None:
        """Notes once that a camera shows nothing new while a plan is waited for."""
        blind = self._blind(now_s, reading)
        if blind and not self._told_blind:
            self._notes.append(Note(NoteKind.WAITING, blind))
        self._told_blind = blind is not None

    def _target(self, now_s: float, reading: Reading, policy: PolicyLife) -> FloatArray | None:
        """Returns the joint target of this tick `[J]`, rad; None to brake and hold."""
        settings, state = self._settings, self.state
        if state in (State.ARMED, State.RUNNING, State.HOLDING) and not policy.alive:
            self._on(Event.FAULT, now_s, Reason(Kind.POLICY_GONE))
            return None
        waited_s = now_s - self._since_s
        if state in (State.ARMED, State.HOLDING):
            no_plan = Reason(Kind.NO_PLAN, {"waited_s": waited_s})
            if waited_s > settings.wait_fault_s:
                self._on(Event.FAULT, now_s, self._blind(now_s, reading) or no_plan)
            elif waited_s > settings.wait_warn_s and not self._warned:
                self._warned = True
                self._notes.append(Note(NoteKind.WAITING, no_plan))
            self._tell_blind(now_s, reading)
            return None
        governor = self._governor
        if governor is None:
            return None
        if state is State.PARKING:
            assert self._park_pose is not None
            commanded = np.abs(governor.joints - self._park_pose).max() < 1e-3
            measured = np.abs(reading.joints - self._park_pose).max() <= settings.start_error_rad
            if commanded and measured:  # measured, too: the arm may go limp
                self._on(Event.PARKED, now_s)
                return None
            if waited_s > settings.parking_s:
                self._on(Event.FAULT, now_s, Reason(Kind.PARKING_SLOW, {"waited_s": waited_s}))
                return None
            step = _STEP_SHARE * self._limits.max_jump
            return governor.joints + np.clip(self._park_pose - governor.joints, -step, step)
        if state is not State.RUNNING:
            return None
        silence = now_s - policy.heard_s
        why = self._blind(now_s, reading)
        if not why and not silence <= settings.max_silence_s:
            why = Reason(Kind.POLICY_SILENT, {"silent_s": silence})
        assert self._motion is not None
        target = None if why else self._motion.target(governor.joints, now_s)
        if target is None:
            done = Reason(Kind.TARGETS_DONE, {"num": self._motion.done})
            self._on(Event.WAIT, now_s, why or done)
        return target
