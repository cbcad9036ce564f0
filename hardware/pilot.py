"""What is written to the arm in each tick, and why: no clock, no I/O, so that all can be tried.

The process around it (hardware.process) tells it the time, what the arm reads, what came from the
planner and from the human, and writes what it returns.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hardware.governor import Governor
from hardware.plans import JointPlan, Motion
from hardware.states import Event, State, StateMachine
from robot_wm.kinematics.limits import Limits
from robot_wm.types import FloatArray

_NEAR = 0.9  # of the governor's longest jump


@dataclass(frozen=True)
class PilotSettings:
    """When the arm is held, and when that is a fault.

    Attributes:
        max_tick_s: a tick later than this is a fault.
        max_reading_age_s: joints read longer ago than this are a fault.
        max_frame_age_s: a picture older than this when planning began refuses the plan.
        max_frame_gap_s: no new picture for so long: the arm is held.
        max_silence_s: nothing heard of the planner for so long while it moves: the arm is held.
        wait_warn_s: of waiting for a plan, until the human is told.
        wait_fault_s: until it is a fault.
        max_plan_s: longest time that a plan may take.
        max_thought_s: a plan whose picture is older than this when it comes is refused.
        start_error_rad: a plan from a start farther than this from where the arm stands is refused.
        tracking_error_rad: of a joint behind its command;
        tracking_s: for so long, it is a fault.
        stuck_rad: a joint whose command moves this far within `tracking_s`,
        stuck_share: while it moves by less than this share of it, is stuck: a fault.
        max_refused: so many plans refused in a row are a fault.
        parking_s: a way to the rest pose that takes longer is a fault.
        steady_ticks: of the same reading, before it is believed that the arm stands there;
        steady_rad: so near to each other.
    """

    max_tick_s: float = 0.1
    max_reading_age_s: float = 0.1
    max_frame_age_s: float = 0.2
    max_frame_gap_s: float = 0.15
    max_silence_s: float = 0.1
    wait_warn_s: float = 30.0
    wait_fault_s: float = 60.0
    max_plan_s: float = 10.0
    max_thought_s: float = 30.0
    start_error_rad: float = 0.05
    tracking_error_rad: float = 0.15
    tracking_s: float = 0.3
    stuck_rad: float = 0.05
    stuck_share: float = 0.2
    max_refused: int = 3
    parking_s: float = 30.0
    steady_ticks: int = 10
    steady_rad: float = 0.01

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole = name in ("steady_ticks", "max_refused")
            kinds = (int,) if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < math.inf:
                number = "whole number" if whole else "number"
                raise ValueError(f"{name}: got {value!r}, want a {number} above zero")


@dataclass(frozen=True, eq=False)
class Reading:
    """What is known of the arm at a tick.

    Attributes:
        joints: measured `[J]`, rad.
        stamp_s: when.
        frames_s: camera -> when its newest picture was taken.
        fault: what the device says is wrong with it; empty where nothing.
    """

    joints: FloatArray
    stamp_s: float
    frames_s: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True)
class PlannerLife:
    """What is known of the planner.

    Attributes:
        alive: its process is there.
        heard_s: when it last said anything.
    """

    alive: bool
    heard_s: float


@dataclass(frozen=True, eq=False)
class Turn:
    """What a tick decides.

    Attributes:
        state: now.
        reason: of a fault.
        target: what the governor was asked for `[J]`, rad; None: to brake.
        command: what is to be written `[J]`, rad; None: nothing, the arm was never armed.
        at_rest: the command does not move.
        notes: what happened, for the record and for people.
        seed: where a new governor began in this tick `[J]`, rad; None: there was none.
    """

    state: State
    reason: str
    target: FloatArray | None
    command: FloatArray | None
    at_rest: bool
    notes: tuple[str, ...]
    seed: FloatArray | None = None


class Pilot:
    """The only one who decides what the arm does.

    Args:
        limits: of the governor.
        corners: joints `[N, J]` to the corners of all bodies `[N, P, 3]`, m.
        settings: when to hold and when to fault.
        rest: where it parks `[J]`, rad; None: it does not.

    Raises:
        ValueError: a rest pose where the arm may not stand.
    """

    def __init__(
        self,
        limits: Limits,
        corners: Callable[[FloatArray], FloatArray],
        settings: PilotSettings | None = None,
        *,
        rest: FloatArray | None = None,
    ) -> None:
        self._limits, self._corners, self._rest = limits, corners, rest
        corners(limits.low[None])  # what is prepared at the first call is prepared in no tick
        self._settings = settings or PilotSettings()
        if rest is not None:
            Governor(limits, corners, rest)  # refuses it
        self._machine = StateMachine()
        self._governor: Governor | None = None
        self._motion: Motion | None = None
        self._epoch, self._seq, self._num_refused = 0, -1, 0
        self._last_s, self._since_s, self._behind_s = math.nan, 0.0, math.nan
        self._warned, self._at_rest, self._rest_s = False, True, math.nan
        ticks = math.ceil(self._settings.tracking_s / float(limits.tick_s)) + 1
        self._followed_s = -math.inf
        self._followed: deque[FloatArray] = deque(maxlen=ticks)  # [2, J]: commands, and measured
        self._stood: deque[FloatArray] = deque(maxlen=self._settings.steady_ticks)
        self._told_blind, self._relaxed = False, False
        self.parked = False  # it stands in its rest pose, by a human's command
        self._notes: list[str] = []
        self._seed: FloatArray | None = None

    @property
    def state(self) -> State:
        return self._machine.state

    @property
    def reason(self) -> str:
        """Why it is faulted."""
        return self._machine.reason

    @property
    def epoch(self) -> int:
        """Grows with every arming: no plan outlives its own."""
        return self._epoch

    def tick(
        self,
        now_s: float,
        reading: Reading,
        planner: PlannerLife,
        *,
        events: Sequence[tuple[Event, str]] = (),
        plans: Sequence[Mapping[str, Any]] = (),
    ) -> Turn:
        """Decides one tick.

        Args:
            now_s: on the clock of all stamps.
            reading: of the arm.
            planner: whether it lives.
            events: what the human wants, and faults found outside.
            plans: that have come since the last tick; the newest counts.
        """
        self._notes, self._seed = [], None
        wrong = self._wrong(now_s, reading, planner)
        seen = not self._unread(now_s, reading)
        self._stood.append(np.array(reading.joints) if seen else np.full(1, np.nan))
        if wrong and self.state not in (State.IDLE, State.FAULTED):
            self._on(Event.FAULT, now_s, wrong)
        for event, why in events:
            if event in (Event.PLAN, Event.WAIT, Event.PARKED):
                self._on(Event.FAULT, now_s, f"{event.value} is not for others to say")
            elif event is Event.ARM and self.state is State.IDLE:
                self._arm(now_s, reading, planner, wrong)
            elif event is Event.PARK and self._rest is None:
                self._notes.append("not parked: no rest pose is known")
            elif event is not Event.RESET or not wrong:
                self._on(event, now_s, why)
            else:
                self._notes.append(f"not reset: {wrong}")
        for message in plans[-1:]:
            self._consider(message, now_s, reading)
        if self.state in (State.IDLE, State.FAULTED) and self._at_rest and not self._relaxed:
            self._relax(reading)
        target = self._target(now_s, reading, planner)
        self._last_s = now_s
        if self._governor is None:
            return Turn(self.state, self.reason, None, None, True, tuple(self._notes))
        command = self._governor.step(target)
        if command.refused and self.state is not State.FAULTED:
            self._on(Event.FAULT, now_s, "the governor refused a target")
        if not command.speed.any() and not self._at_rest:
            self._rest_s = now_s
        self._at_rest = not command.speed.any()
        notes, joints = tuple(self._notes), command.joints
        return Turn(self.state, self.reason, target, joints, self._at_rest, notes, self._seed)

    def _wrong(self, now_s: float, reading: Reading, planner: PlannerLife) -> str:
        """What is wrong with the arm, its link or the clock; empty where nothing."""
        settings = self._settings
        late = now_s - self._last_s
        if reading.fault:
            return reading.fault
        if (late > settings.max_tick_s or late < 0) and self.state is not State.IDLE:
            return f"a tick took {late * 1000:.0f} ms"
        return self._unread(now_s, reading) or self._behind(now_s, reading)

    def _unread(self, now_s: float, reading: Reading) -> str:
        """Why it is not known where the arm stands; empty where it is."""
        age = now_s - reading.stamp_s
        if np.shape(reading.joints) != self._limits.low.shape:
            return f"the arm reads {np.shape(reading.joints)} joints"
        if not np.isfinite(reading.joints).all():
            return "the arm reads joints that are not finite"
        if not -1e-3 <= age <= self._settings.max_reading_age_s:
            return f"the joints were read {age * 1000:.0f} ms ago"
        return ""

    def _behind(self, now_s: float, reading: Reading) -> str:
        """Which joint does not follow its command."""
        if self._governor is None or self.state in (State.IDLE, State.FAULTED):
            self._behind_s = math.nan
            self._followed.clear()
            return ""
        stuck = self._stuck(reading)
        if stuck:
            return stuck
        error = np.abs(self._governor.joints - reading.joints)
        if error.max() <= self._settings.tracking_error_rad:
            self._behind_s = math.nan
            return ""
        if math.isnan(self._behind_s):
            self._behind_s = now_s
        if now_s - self._behind_s < self._settings.tracking_s:
            return ""
        return f"joint {error.argmax()} is {error.max():.2f} rad behind its command"

    def _stuck(self, reading: Reading) -> str:
        """Which joint stands while its command moves: found sooner than by how far it is behind."""
        assert self._governor is not None
        if reading.stamp_s <= self._followed_s:
            return ""  # an old reading stands by itself
        self._followed_s = reading.stamp_s
        self._followed.append(np.stack((self._governor.joints, reading.joints)))
        if len(self._followed) < (self._followed.maxlen or 0):
            return ""
        asked, came = self._followed[-1] - self._followed[0]
        stuck = np.abs(asked) >= self._settings.stuck_rad
        stuck &= came * np.sign(asked) < self._settings.stuck_share * np.abs(asked)
        if not stuck.any():
            return ""
        joint = int(stuck.argmax())
        return f"joint {joint} is stuck: it came {came[joint]:.2f} of {asked[joint]:.2f} rad"

    def fail(self, now_s: float, why: str) -> Turn:
        """A tick in which nothing is known: a fault, and braking."""
        self._notes = []
        self._on(Event.FAULT, now_s, why)
        self._last_s = now_s
        joints = None
        if self._governor is not None:
            command = self._governor.step(None)
            joints, self._at_rest = command.joints, not command.speed.any()
        notes = tuple(self._notes)
        return Turn(self.state, self.reason, None, joints, self._at_rest, notes)

    def _steady(self) -> bool:
        """Whether the arm has been read in one place for a while."""
        if len(self._stood) < self._settings.steady_ticks:
            return False
        if any(stood.shape != self._limits.low.shape for stood in self._stood):
            return False
        return bool((np.ptp(np.stack(self._stood), axis=0) <= self._settings.steady_rad).all())

    def _relax(self, reading: Reading) -> None:
        """After a stop, the goal becomes where the arm stands: what blocked it may give way.

        Once: an arm that sinks under a load is not followed down.
        """
        governor = self._governor
        if governor is None or not self._steady():
            return
        seat = self._limits.seat(reading.joints)
        away = np.abs(governor.joints - seat).max()
        if away > self._settings.start_error_rad and not governor.problem(seat):
            self._seed = seat
            self._governor = Governor(self._limits, self._corners, self._seed)
            self._relaxed = True
            self._notes.append(f"goal set {away:.2f} rad back to where the arm stands")

    def _arm(self, now_s: float, reading: Reading, planner: PlannerLife, wrong: str) -> None:
        wrong = wrong or self._blind(now_s, reading) or ("" if planner.alive else "no planner")
        if not wrong and not (self._at_rest and self._steady()):
            wrong = "the arm has not come to rest"
        if not wrong:
            try:
                self._seed = self._limits.seat(reading.joints)
                self._governor = Governor(self._limits, self._corners, self._seed)
            except ValueError as error:
                self._seed, wrong = None, str(error)
        if wrong:
            self._notes.append(f"not armed: {wrong}")
            return
        self._epoch, self._seq, self._num_refused = self._epoch + 1, -1, 0
        self._rest_s = now_s - self._settings.steady_ticks * float(self._limits.tick_s)
        self._on(Event.ARM, now_s)

    def _on(self, event: Event, now_s: float, why: str = "") -> None:
        before = self.state
        after = self._machine.on(event, why)
        if after is State.PARKING and self._governor is None:
            self._notes.append("not parked: the arm was never armed")
            self._machine.on(Event.STOP)
            return
        if after is not before or event is Event.FAULT:
            reason = self.reason if after is State.FAULTED else why
            self._notes.append(f"{before.value} -> {after.value}: {reason or event.value}")
        if after is not before:
            self._motion, self._warned, self._since_s = None, False, now_s
            self._relaxed = False
            self.parked = event is Event.PARKED

    def _consider(self, message: Mapping[str, Any], now_s: float, reading: Reading) -> None:
        """Takes a plan, or says why not."""
        if self.state not in (State.ARMED, State.RUNNING, State.HOLDING):
            self._notes.append(f"plan refused: the arm is {self.state.value}")
            return
        try:
            plan = JointPlan.parse(message)
            self._check(plan, now_s, reading)
        except ValueError as error:
            self._num_refused += 1
            self._notes.append(f"plan refused: {error}")
            if self._num_refused >= self._settings.max_refused:
                self._on(Event.FAULT, now_s, f"{self._num_refused} plans refused, last: {error}")
            return
        self._num_refused, self._seq = 0, plan.seq
        self._on(Event.PLAN, now_s)
        self._since_s = now_s
        self._motion = Motion(plan.waypoints, plan.valid_until_s)
        self._notes.append(f"plan {plan.seq}: {len(plan.waypoints)} targets")

    def _check(self, plan: JointPlan, now_s: float, reading: Reading) -> None:
        settings = self._settings
        assert self._governor is not None  # armed
        if plan.epoch != self._epoch:
            raise ValueError(f"it is of epoch {plan.epoch}, this is {self._epoch}")
        if plan.seq <= self._seq:
            raise ValueError(f"its number is {plan.seq}, the last was {self._seq}")
        if not plan.observed_s <= plan.begun_s <= now_s:
            raise ValueError("it was begun before it looked, or after now")
        if not self._at_rest or plan.observed_s < self._rest_s:
            raise ValueError("it was made from what was seen before the arm came to rest")
        if now_s - plan.observed_s > settings.max_thought_s:
            raise ValueError(f"its picture is {now_s - plan.observed_s:.0f} s old")
        age = plan.begun_s - plan.observed_s
        if age > settings.max_frame_age_s:
            raise ValueError(f"its picture was {age * 1000:.0f} ms old when planning began")
        if not now_s < plan.valid_until_s <= now_s + settings.max_plan_s:
            raise ValueError(f"it is valid for another {plan.valid_until_s - now_s:.1f} s")
        if plan.start.shape != self._limits.low.shape:
            raise ValueError(f"it is for {len(plan.start)} joints")
        error = np.abs(plan.start - reading.joints).max()
        if not error <= settings.start_error_rad:
            raise ValueError(f"it starts {error:.3f} rad from where the arm stands")
        jumps = np.abs(np.diff(plan.waypoints, axis=0, prepend=plan.start[None]))
        if not (jumps <= _NEAR * self._limits.max_jump).all():
            raise ValueError(f"a target is {jumps.max():.2f} rad from the one before")
        for waypoint in plan.waypoints:
            problem = self._governor.problem(waypoint)
            if problem:
                raise ValueError(f"a target is not legal: {problem}")

    def _blind(self, now_s: float, reading: Reading) -> str:
        """Which camera shows nothing new."""
        for camera, stamp_s in reading.frames_s.items():
            if not now_s - stamp_s <= self._settings.max_frame_gap_s:
                return f"camera {camera} shows nothing new for {now_s - stamp_s:.2f} s"
        return ""

    def _tell_blind(self, now_s: float, reading: Reading) -> None:
        """Says once that a camera has nothing to show, while a plan is waited for."""
        blind = self._blind(now_s, reading)
        if blind and not self._told_blind:
            self._notes.append(blind)
        self._told_blind = bool(blind)

    def _target(self, now_s: float, reading: Reading, planner: PlannerLife) -> FloatArray | None:
        """Where to go in this tick; None: brake, and hold."""
        settings, state = self._settings, self.state
        if state in (State.ARMED, State.RUNNING, State.HOLDING) and not planner.alive:
            self._on(Event.FAULT, now_s, "the planner died")
            return None
        waited = now_s - self._since_s
        if state in (State.ARMED, State.HOLDING):
            if waited > settings.wait_fault_s:
                blind = self._blind(now_s, reading)
                self._on(Event.FAULT, now_s, blind or f"no plan for {waited:.0f} s")
            elif waited > settings.wait_warn_s and not self._warned:
                self._warned = True
                self._notes.append(f"no plan for {waited:.0f} s")
            self._tell_blind(now_s, reading)
            return None
        governor = self._governor
        if governor is None:
            return None
        if state is State.PARKING:
            assert self._rest is not None
            there = np.abs(governor.joints - self._rest).max() < 1e-3
            near = np.abs(reading.joints - self._rest).max() <= settings.start_error_rad
            if there and near:  # seen to be there: it may go limp
                self._on(Event.PARKED, now_s)
                return None
            if waited > settings.parking_s:
                self._on(Event.FAULT, now_s, f"parking takes longer than {waited:.0f} s")
                return None
            step = _NEAR * self._limits.max_jump
            return governor.joints + np.clip(self._rest - governor.joints, -step, step)
        if state is not State.RUNNING:
            return None
        silence = now_s - planner.heard_s
        why = self._blind(now_s, reading)
        if not why and not silence <= settings.max_silence_s:
            why = f"the planner is silent for {silence:.2f} s"
        assert self._motion is not None
        target = None if why else self._motion.target(governor.joints, now_s)
        if target is None:
            self._on(Event.WAIT, now_s, why or f"{self._motion.done} targets done")
        return target
