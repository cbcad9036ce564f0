"""The arm server process: a loop of fixed period that reads, decides, writes and records.

It owns the arm and the supervisor, and imports numpy alone. Planning, viewing and watching are in
other processes.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from hardware.arm import Arm
from hardware.flight import FlightRecorder, RecordError
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
from hardware.reasons import Kind, Reason, quoted
from hardware.states import Event, State
from hardware.supervisor import Supervisor
from hardware.ticks import PolicyLife, Reading, TickResult
from hardware.wire import Wire
from robot_wm.types import FloatArray

STATUS_EVERY = 10  # ticks
SETTLE_S = 0.1  # from the command's rest to a picture that counts: the arm swings, cameras lag
STAND_S = 0.3  # at rest before the end: after a fault the joint target returns to the arm meanwhile
SLEEP_S = 0.1  # a suspend of the computer that is longer, between two ticks, is a fault
_NEVER = -1e9
_HUMAN = (Event.ARM, Event.STOP, Event.PARK, Event.RESET)
_MAX_NOTES = 20  # of a status
_MAX_RECORDED = 1 << 18  # undecodable bytes kept per tick: a flood is not kept whole


@dataclass(frozen=True)
class Wires:
    """Connections of the arm server.

    Attributes:
        policy: Wire to the policy process, which sends heartbeats, observation requests and plans.
        operator: Wire to the operator's process, which sends requests and receives the status.
        watchdog: Wire to the watchdog, which receives a heartbeat per tick.
        keys: Descriptor of a terminal's input, where, once armed, any key or the terminal's end
            stops the run; None: there is no terminal.
    """

    policy: Wire
    operator: Wire
    watchdog: Wire
    keys: int | None = None


@contextmanager
def signals(caught: list[str]) -> Iterator[None]:
    """Collects the names of SIGINT, SIGTERM and SIGHUP in `caught` instead of dying of them."""
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
        broken: Error for which the server braked and ended; None: there was none.

    Args:
        arm: The arm, which is read and written once per tick, by nobody else.
        supervisor: The supervisor, which decides what is written.
        wires: Wires to the other processes.
        tick_s: Period of the loop, s.
        recorder: Recorder of every tick; None: nothing is recorded.
        dry_run: Whether to do everything but write to the arm.
        park: Whether to move to the park pose once the policy is done.
    """

    broken: Reason | None

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
        self._heard_s = _NEVER  # when the policy process was last heard
        self._request: ObservationRequest | None = None
        self._moved_s = _NEVER  # the last tick in which the command moved
        self._num_ticks = 0
        self._late_s: deque[float] = deque(maxlen=500)
        self._last_plan_s = _NEVER
        self._ending: Reason | None = None
        self.broken = None
        self._written: FloatArray | None = None
        self._fault: Reason | None = None
        self._joints = np.zeros(0)  # as last read
        self._undecodable: list[bytes] = []
        self._undelivered = False  # the last command did not get through
        self._asleep_s = asleep_s()

    def run(self, caught: list[str] | None = None) -> Reason:
        """Ticks until the server is told to end and the arm is at rest.

        The arm is left holding where it is, with torque on.

        Args:
            caught: Names of signals that have already come; further ones are added.

        Returns:
            The reason why it ended.
        """
        caught = [] if caught is None else caught
        with signals(caught):
            due_s = time.monotonic()
            at_rest_since_s = math.inf
            while True:
                begun_s = time.monotonic()
                late_s = begun_s - due_s
                result = self._safe_tick(caught, late_s)
                ending = self._ending
                over = ending is not None and result.at_rest and result.state is not State.PARKING
                at_rest_since_s = min(at_rest_since_s, time.monotonic()) if over else math.inf
                stood = time.monotonic() - at_rest_since_s > STAND_S
                if over and (self.broken is not None or stood):
                    break
                due_s += self._tick_s
                if late_s > self._tick_s / 2:  # a late tick is not made up for
                    due_s = begun_s + self._tick_s
                time.sleep(max(0.0, due_s - time.monotonic()))
            if self._undelivered and not self._dry_run:
                self._arm.hold()
            assert ending is not None
            self._wires.operator.send(self._status(result, ended=ending))
            self._wires.watchdog.send(Goodbye())
        return ending

    def _safe_tick(self, caught: list[str], late_s: float) -> TickResult:
        """Runs a tick; once a tick has raised, runs ticks that only brake."""
        if self.broken is None:
            try:
                return self._tick(caught, late_s)
            except RecordError as error:
                self.broken = quoted(Kind.RECORD_LOST, error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the arm must come to rest
                self.broken = quoted(Kind.ARM_SERVER_BROKE, repr(error))
            # This tick may have written a command already: braking begins with the next.
            self._ending = self._ending or self.broken
            return TickResult(self._supervisor.state, self.broken, None, None, False, ())
        result = self._supervisor.fail(time.monotonic(), self.broken)
        if result.command is not None and not self._dry_run:
            self._undelivered = True
            with contextlib.suppress(Exception):
                self._arm.write(result.command)
                self._undelivered = False
        if self._recorder is not None:
            now_s = time.monotonic()
            with contextlib.suppress(Exception):
                unread = Reading(np.zeros(0), now_s, fault=self.broken)
                self._recorder.write(now_s, unread, result, late_s=late_s)
        with contextlib.suppress(Exception):
            self._beat(result)
            self._wires.operator.send(self._status(result))
        return result

    def _tick(self, caught: list[str], late_s: float) -> TickResult:
        self._num_ticks += 1
        self._late_s.append(late_s)
        reading = self._read()
        self._joints = reading.joints if np.isfinite(reading.joints).all() else np.zeros(0)
        self._undecodable = []
        events, plans = self._hear(caught)
        now_s = time.monotonic()  # now: all that was read and heard is older
        life = PolicyLife(not self._wires.policy.closed, self._heard_s)
        result = self._supervisor.tick(now_s, reading, life, events=events, plans=plans)
        if result.command is not None and not self._dry_run:
            self._undelivered = True
            try:
                self._arm.write(result.command)
                self._undelivered = False
            except Exception as error:  # noqa: BLE001 - whatever a driver raises is a fault
                self._fault = quoted(Kind.COMMAND_NOT_TAKEN, error)
        self._written = result.command
        if self._recorder is not None:
            undecodable = self._undecodable
            self._recorder.write(now_s, reading, result, late_s=late_s, undecodable=undecodable)
        self._moved_s = self._moved_s if result.at_rest else now_s
        self._answer(now_s, reading, result)
        self._beat(result)
        if result.notes or self._num_ticks % STATUS_EVERY == 0:
            self._wires.operator.send(self._status(result))
        return result

    def _beat(self, result: TickResult) -> None:
        self._wires.watchdog.send(ArmServerBeat(armed=result.state is not State.IDLE))

    def _read(self) -> Reading:
        try:
            reading = self._arm.read()
        except Exception as error:  # noqa: BLE001 - whatever a driver raises is a fault
            no_answer = quoted(Kind.NO_ANSWER, error)
            return Reading(np.zeros(0), time.monotonic(), fault=no_answer)
        self._wires.watchdog.receive()  # sends nothing, but shows when it is gone
        if self._wires.watchdog.closed:
            self._fault = self._fault or Reason(Kind.WATCHDOG_GONE)
        self._fault = self._fault or self._slept()
        if self._fault is not None and reading.fault is None:
            reading = replace(reading, fault=self._fault)
            self._fault = None
        if self._dry_run and self._written is not None:
            # Nothing is written in a dry run: pretend that the arm followed.
            reading = replace(reading, joints=self._written)
        return reading

    def _slept(self) -> Reason | None:
        """Returns a reason if the computer was suspended since the last tick."""
        # time.monotonic(), the clock of all stamps and deadlines, stands still meanwhile.
        before_s, self._asleep_s = self._asleep_s, asleep_s()
        slept_s = self._asleep_s - before_s
        return Reason(Kind.COMPUTER_SLEPT, {"slept_s": slept_s}) if slept_s > SLEEP_S else None

    def _hear(self, caught: list[str]) -> tuple[list[tuple[Event, Reason]], list[JointPlan]]:
        """Returns the events that the other processes ask for, and the plans that have come."""
        events: list[tuple[Event, Reason]] = []
        plans: list[JointPlan] = []
        for message in self._wires.policy.receive():
            self._heard_s = time.monotonic()
            if self._ending is None:
                self._hear_policy(message, events, plans)
        for message in self._wires.operator.receive():
            if isinstance(message, Request) and message.event in _HUMAN:
                if message.event is Event.STOP or self._ending is None:
                    events.append((message.event, Reason(Kind.ASKED_FOR)))
            elif isinstance(message, End):
                self._end(events, message.reason)
            else:
                self._distrust("operator's process", message, events)
        if self._wires.operator.closed:
            self._end(events, Reason(Kind.HUMAN_GONE))
        while caught:  # one by one: a signal that comes meanwhile is not lost
            self._end(events, Reason(Kind.SIGNAL, {"name": caught.pop(0)}))
        for key in self._pressed():
            self._end(events, Reason(Kind.KEY if key else Kind.TERMINAL_GONE))
        return events, plans

    def _hear_policy(
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
            events.append((Event.FAULT, quoted(Kind.POLICY_FAILED, message.text)))
        elif isinstance(message, PolicyDone):
            self._ending = Reason(Kind.DONE)
            events.append((Event.STOP, self._ending))
            if self._park:
                events.append((Event.PARK, self._ending))
        elif not isinstance(message, Heartbeat):
            self._distrust("policy process", message, events)

    def _distrust(
        self, sender: str, message: Message | Undecodable, events: list[tuple[Event, Reason]]
    ) -> None:
        """Adds a fault event for bytes that are no message, or one that is for somebody else."""
        content = message.content if isinstance(message, Undecodable) else encode(message)
        if sum(map(len, self._undecodable)) + len(content) <= _MAX_RECORDED:
            self._undecodable.append(content)
        numbers = {"sender": sender, "num_bytes": len(content)}
        events.append((Event.FAULT, Reason(Kind.UNDECODABLE, numbers)))

    def _end(self, events: list[tuple[Event, Reason]], why: Reason) -> None:
        events.append((Event.STOP, why))  # even where an end is under way already
        self._ending = self._ending or why

    def _pressed(self) -> list[bytes]:
        keys = self._wires.keys
        if keys is None or not self._supervisor.epoch:
            return []
        if self._ending is not None and self._supervisor.state is not State.PARKING:
            return []
        ready, _, _ = select.select([keys], [], [], 0)
        return [os.read(keys, 1)] if ready else []

    def _answer(self, now_s: float, reading: Reading, result: TickResult) -> None:
        """Answers an observation request once the arm is at rest and the cameras have seen it."""
        request, stopped = self._request, result.reason or self._ending
        if request is None:
            return
        if stopped is not None:
            self._wires.policy.send(ArmStopped(reason=stopped))
            self._request = None
            return
        if result.state not in (State.ARMED, State.HOLDING) or not result.at_rest:
            return
        observed_s = min([reading.stamp_s, *reading.frames_s.values()])
        if now_s < self._moved_s + SETTLE_S or observed_s < self._moved_s + SETTLE_S:
            return
        self._wires.policy.send(
            ArmObservation(
                number=request.number,
                epoch=self._supervisor.epoch,
                joints=reading.joints,
                commanded=reading.joints if result.command is None else result.command,
                observed_s=observed_s,
            )
        )
        self._request = None

    def _status(self, result: TickResult, ended: Reason | None = None) -> Status:
        now_s = time.monotonic()
        return Status(
            joints=self._joints,
            state=result.state,
            reason=result.reason,
            notes=result.notes[:_MAX_NOTES],
            plan_age_s=now_s - self._last_plan_s if self._last_plan_s > 0 else None,
            late_ms_p99=1000 * float(np.quantile(self._late_s, 0.99)),
            num_ticks=self._num_ticks,
            ended=ended,
        )


def asleep_s() -> float:
    """Returns how long this computer has been suspended since boot, s."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
