"""The controller process: a fixed tick that reads, decides, writes and records, and never computes.

It owns the arm and the supervisor. It imports numpy alone; what plans, shows or watches is
elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import select
import signal
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from hardware.arm import Arm
from hardware.flight import FlightRecorder
from hardware.messages import (
    ArmObservation,
    ArmServerBeat,
    ArmStopped,
    End,
    Goodbye,
    Heartbeat,
    Message,
    ObservationRequest,
    PlanProposal,
    PolicyDone,
    PolicyFailed,
    Request,
    Status,
    Undecodable,
    encode,
)
from hardware.plans import JointPlan
from hardware.reasons import Kind, Reason, said
from hardware.states import Event, State
from hardware.supervisor import Supervisor
from hardware.ticks import PolicyLife, Reading, TickResult
from hardware.wire import Wire
from robot_wm.types import FloatArray

STATUS_EVERY = 10  # ticks
SETTLE_S = 0.1  # from the command's rest to a picture that counts: the arm swings, cameras lag
STAND_S = 0.3  # at rest, and told to end: meanwhile a fault's goal comes back to where the arm is
SLEEP_S = 0.1  # more of it between two ticks is a fault
_NEVER = -1e9
_SLICE_NS = 100_000
_HUMAN = (Event.ARM, Event.STOP, Event.PARK, Event.RESET)
_MAX_NOTES = 20  # of a status
_MAX_RECORDED = 1 << 18  # bytes that are no message, of a tick: a flood is not kept whole


@dataclass(frozen=True)
class Wires:
    """Whom the controller talks to.

    Attributes:
        planner: says that it lives, asks for looks, sends plans.
        human: the process that the human started: says what is wanted, is told how it goes.
        watchdog: is told that the controller lives.
        keys: a terminal's input; once armed, any key stops, and so does its end. None: there is
            none.
    """

    planner: Wire
    human: Wire
    watchdog: Wire
    keys: int | None = None


@contextmanager
def signals(caught: list[str]) -> Iterator[None]:
    """Notes SIGINT, SIGTERM and SIGHUP in `caught` instead of dying of them."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before = {
        name: signal.signal(getattr(signal, name), lambda number, _: caught.append(_name(number)))
        for name in names
    }
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _name(number: int) -> str:
    return signal.Signals(number).name


class ArmServer:
    """Runs a supervisor on an arm.

    Attributes:
        broken: what broke in it, for which it braked and ended; None where nothing.

    Args:
        arm: is read and written in every tick, by nobody else.
        supervisor: decides.
        wires: to the others.
        tick_s: from one command to the next.
        recorder: is shown every tick.
        dry_run: everything but writing to the arm.
        park: goes to the rest pose once the planner is done.
    """

    def __init__(
        self,
        arm: Arm,
        supervisor: Supervisor,
        wires: Wires,
        *,
        tick_s: float,
        recorder: FlightRecorder | None = None,
        dry_run: bool = False,
        park: bool = False,
    ) -> None:
        self._arm, self._supervisor, self._wires = arm, supervisor, wires
        self._tick_s, self._recorder, self._dry_run = tick_s, recorder, dry_run
        self._park = park
        self._heard_s = _NEVER
        self._request: ObservationRequest | None = None
        self._rest_s = _NEVER
        self._num_ticks = 0
        self._late_s: deque[float] = deque(maxlen=500)
        self._last_plan_s = _NEVER
        self._ending: Reason | None = None
        self.broken: Reason | None = None
        self._written: FloatArray | None = None
        self._fault: Reason | None = None
        self._joints = np.zeros(0)  # as last read
        self._undecodable: list[bytes] = []
        self._undelivered = False  # the last command did not get through
        self._asleep_s = asleep_s()

    def run(self, caught: list[str] | None = None) -> Reason:
        """Ticks until it is told to end and the arm is at rest; why it ended.

        The arm is left holding where it is, with its torque on.

        Args:
            caught: signals that have come already, by name.
        """
        caught = [] if caught is None else caught
        with signals(caught):
            due_s = time.monotonic()
            over_s = math.inf
            while True:
                begun_s = time.monotonic()
                late_s = begun_s - due_s
                turn = self._safe_tick(caught, late_s)
                ending = self._ending
                over = ending is not None and turn.at_rest and turn.state is not State.PARKING
                over_s = min(over_s, time.monotonic()) if over else math.inf
                if over and (self.broken is not None or time.monotonic() - over_s > STAND_S):
                    break
                due_s += self._tick_s
                if late_s > self._tick_s / 2:  # a late tick is not made up for
                    due_s = begun_s + self._tick_s
                time.sleep(max(0.0, due_s - time.monotonic()))
            if self._undelivered and not self._dry_run:
                self._arm.hold()
            assert ending is not None
            self._wires.human.send(self._status(turn, ended=ending))
            self._wires.watchdog.send(Goodbye())
        return ending

    def _safe_tick(self, caught: list[str], late_s: float) -> TickResult:
        """A tick; after one that broke, ticks that brake, and then the end."""
        if self.broken is None:
            try:
                return self._tick(caught, late_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, the arm must come to rest
                # This tick may have written already: braking begins with the next.
                self.broken = said(Kind.CONTROLLER_BROKE, repr(error))
                self._ending = self._ending or self.broken
                return TickResult(self._supervisor.state, self.broken, None, None, False, ())
        turn = self._supervisor.fail(time.monotonic(), self.broken)
        if turn.command is not None and not self._dry_run:
            self._undelivered = True
            with contextlib.suppress(Exception):
                self._arm.write(turn.command)
                self._undelivered = False
        if self._recorder is not None:
            now_s = time.monotonic()
            with contextlib.suppress(Exception):
                unread = Reading(np.zeros(0), now_s, fault=self.broken)
                self._recorder.write(now_s, unread, turn, late_s=late_s)
        with contextlib.suppress(Exception):
            self._beat(turn)
            self._wires.human.send(self._status(turn))
        return turn

    def _tick(self, caught: list[str], late_s: float) -> TickResult:
        self._num_ticks += 1
        self._late_s.append(late_s)
        reading = self._read()
        self._joints = reading.joints if np.isfinite(reading.joints).all() else np.zeros(0)
        self._undecodable = []
        events, plans = self._hear(caught)
        now_s = time.monotonic()  # now: all that was read and heard is older
        life = PolicyLife(not self._wires.planner.closed, self._heard_s)
        turn = self._supervisor.tick(now_s, reading, life, events=events, plans=plans)
        if turn.command is not None and not self._dry_run:
            self._undelivered = True
            try:
                self._arm.write(turn.command)
                self._undelivered = False
            except Exception as error:  # noqa: BLE001 - whatever a driver raises is a fault
                self._fault = said(Kind.COMMAND_NOT_TAKEN, error)
        self._written = turn.command
        if self._recorder is not None:
            undecodable = self._undecodable
            self._recorder.write(now_s, reading, turn, late_s=late_s, undecodable=undecodable)
        self._rest_s = self._rest_s if turn.at_rest else now_s
        self._answer(now_s, reading, turn)
        self._beat(turn)
        if turn.notes or self._num_ticks % STATUS_EVERY == 0:
            self._wires.human.send(self._status(turn))
        return turn

    def _beat(self, turn: TickResult) -> None:
        self._wires.watchdog.send(ArmServerBeat(armed=turn.state is not State.IDLE))

    def _read(self) -> Reading:
        try:
            reading = self._arm.read()
        except Exception as error:  # noqa: BLE001 - whatever a driver raises is a fault
            silent = said(Kind.NO_ANSWER, error)
            return Reading(np.zeros(0), time.monotonic(), fault=silent)
        self._wires.watchdog.receive()  # it says nothing, but its end shows
        if self._wires.watchdog.closed:
            self._fault = self._fault or Reason(Kind.WATCHDOG_GONE)
        self._fault = self._fault or self._slept()
        if self._fault is not None and reading.fault is None:
            reading = replace(reading, fault=self._fault)
            self._fault = None
        if self._dry_run and self._written is not None:
            # The arm does as it was never told.
            reading = replace(reading, joints=self._written)
        return reading

    def _slept(self) -> Reason | None:
        """That the computer slept, while the clock of all stamps and deadlines stood still."""
        before_s, self._asleep_s = self._asleep_s, asleep_s()
        away_s = self._asleep_s - before_s
        return Reason(Kind.COMPUTER_SLEPT, {"slept_s": away_s}) if away_s > SLEEP_S else None

    def _hear(self, caught: list[str]) -> tuple[list[tuple[Event, Reason]], list[JointPlan]]:
        """What the human and the planner want."""
        events: list[tuple[Event, Reason]] = []
        plans: list[JointPlan] = []
        for message in self._wires.planner.receive():
            self._heard_s = time.monotonic()
            if self._ending is None:
                self._hear_planner(message, events, plans)
        for message in self._wires.human.receive():
            if isinstance(message, Request) and message.event in _HUMAN:
                if message.event is Event.STOP or self._ending is None:
                    events.append((message.event, Reason(Kind.ASKED_FOR)))
            elif isinstance(message, End):
                self._end(events, message.reason)
            else:
                self._distrust("human's process", message, events)
        if self._wires.human.closed:
            self._end(events, Reason(Kind.HUMAN_GONE))
        while caught:  # one by one: what comes while we look is not lost
            self._end(events, Reason(Kind.SIGNAL, {"name": caught.pop(0)}))
        for key in self._pressed():
            self._end(events, Reason(Kind.KEY if key else Kind.TERMINAL_GONE))
        return events, plans

    def _hear_planner(
        self,
        message: Message | Undecodable,
        events: list[tuple[Event, Reason]],
        plans: list[JointPlan],
    ) -> None:
        if isinstance(message, PlanProposal):
            plans.append(message.plan)
            self._last_plan_s = self._heard_s
        elif isinstance(message, ObservationRequest):
            self._request = message
        elif isinstance(message, PolicyFailed):
            events.append((Event.FAULT, said(Kind.PLANNER_FAILED, message.text)))
        elif isinstance(message, PolicyDone):
            self._ending = Reason(Kind.DONE)
            events.append((Event.STOP, self._ending))
            if self._park:
                events.append((Event.PARK, self._ending))
        elif not isinstance(message, Heartbeat):
            self._distrust("planner", message, events)

    def _distrust(
        self, sender: str, message: Message | Undecodable, events: list[tuple[Event, Reason]]
    ) -> None:
        """Has the arm brake for what is no message, or none for the controller."""
        content = message.content if isinstance(message, Undecodable) else encode(message)
        if sum(map(len, self._undecodable)) + len(content) <= _MAX_RECORDED:
            self._undecodable.append(content)
        numbers = {"sender": sender, "num_bytes": len(content)}
        events.append((Event.FAULT, Reason(Kind.UNDECODABLE, numbers)))

    def _end(self, events: list[tuple[Event, Reason]], why: Reason) -> None:
        events.append((Event.STOP, why))  # whatever is under way already, it stops
        self._ending = self._ending or why

    def _pressed(self) -> list[bytes]:
        keys = self._wires.keys
        if keys is None or not self._supervisor.epoch:
            return []
        if self._ending is not None and self._supervisor.state is not State.PARKING:
            return []
        ready, _, _ = select.select([keys], [], [], 0)
        return [os.read(keys, 1)] if ready else []

    def _answer(self, now_s: float, reading: Reading, turn: TickResult) -> None:
        """Tells the planner what it asked for, once the arm rests and the cameras have seen it."""
        request, stopped = self._request, turn.reason or self._ending
        if request is None:
            return
        if stopped is not None:
            self._wires.planner.send(ArmStopped(reason=stopped))
            self._request = None
            return
        if turn.state not in (State.ARMED, State.HOLDING) or not turn.at_rest:
            return
        observed_s = min([reading.stamp_s, *reading.frames_s.values()])
        if now_s < self._rest_s + SETTLE_S or observed_s < self._rest_s + SETTLE_S:
            return
        self._wires.planner.send(
            ArmObservation(
                number=request.number,
                epoch=self._supervisor.epoch,
                joints=reading.joints,
                commanded=reading.joints if turn.command is None else turn.command,
                observed_s=observed_s,
            )
        )
        self._request = None

    def _status(self, turn: TickResult, ended: Reason | None = None) -> Status:
        now_s = time.monotonic()
        return Status(
            joints=self._joints,
            state=turn.state,
            reason=turn.reason,
            notes=turn.notes[:_MAX_NOTES],
            plan_age_s=now_s - self._last_plan_s if self._last_plan_s > 0 else None,
            late_ms_p99=1000 * float(np.quantile(self._late_s, 0.99)),
            num_ticks=self._num_ticks,
            ended=ended,
        )


def asleep_s() -> float:
    """How long this computer has slept since it started, s."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


def lower_niceness(raise_priority: Callable[[int], int] = os.nice) -> None:
    """Asks for the processor before others; where that is not allowed, goes on without."""
    with contextlib.suppress(PermissionError):
        raise_priority(-10)
    _shorten_slice()


def _shorten_slice() -> None:
    """Asks for short turns, and so to be let in sooner: else whoever computes when this wakes is
    let finish its turn, of up to 3 ms (sched_setattr(2); Linux 6.12 and later listen).
    """
    number = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
    if number is None or not sys.platform.startswith("linux"):
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wish = struct.pack("IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, _SLICE_NS, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, wish, 0)  # refused, it stays as it is
