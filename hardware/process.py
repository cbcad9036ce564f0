"""The controller process: a fixed tick that reads, decides, writes and records, and never computes.

It owns the arm and the pilot. It imports numpy alone; what plans, shows or watches is elsewhere.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.arm import Arm
from hardware.flight import FlightRecorder
from hardware.pilot import Pilot, PlannerLife, Reading, Turn
from hardware.states import Event, State
from hardware.wire import Wire
from robot_wm.types import FloatArray

STATUS_EVERY = 10  # ticks
SETTLE_S = 0.1  # from the command's rest to a picture that counts: the arm swings, cameras lag
STAND_S = 0.3  # at rest, and told to end: meanwhile a fault's goal comes back to where the arm is
SLEEP_S = 0.1  # more of it between two ticks is a fault
_NEVER = -1e9
_SLICE_NS = 100_000
_HUMAN = {"arm": Event.ARM, "stop": Event.STOP, "park": Event.PARK, "reset": Event.RESET}


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
def signals(said: list[str]) -> Iterator[None]:
    """Notes SIGINT, SIGTERM and SIGHUP in `said` instead of dying of them."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before = {
        name: signal.signal(getattr(signal, name), lambda number, _: said.append(_name(number)))
        for name in names
    }
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _name(number: int) -> str:
    return signal.Signals(number).name


class Controller:
    """Runs a pilot on an arm.

    Attributes:
        broken: what broke in it, for which it braked and ended; empty where nothing.

    Args:
        arm: is read and written in every tick, by nobody else.
        pilot: decides.
        wires: to the others.
        tick_s: from one command to the next.
        recorder: is shown every tick.
        dry_run: everything but writing to the arm.
        park: goes to the rest pose once the planner is done.
    """

    def __init__(
        self,
        arm: Arm,
        pilot: Pilot,
        wires: Wires,
        *,
        tick_s: float,
        recorder: FlightRecorder | None = None,
        dry_run: bool = False,
        park: bool = False,
    ) -> None:
        self._arm, self._pilot, self._wires = arm, pilot, wires
        self._tick_s, self._recorder, self._dry_run = tick_s, recorder, dry_run
        self._park = park
        self._heard_s = _NEVER
        self._look: dict[str, Any] | None = None
        self._rest_s = _NEVER
        self._num_ticks = 0
        self._late_s: deque[float] = deque(maxlen=500)
        self._last_plan_s = _NEVER
        self._ending = ""
        self.broken = ""
        self._written: FloatArray | None = None
        self._fault = ""
        self._joints: list[float] = []  # as last read
        self._undelivered = False  # the last command did not get through
        self._asleep_s = asleep_s()

    def run(self, said: list[str] | None = None) -> str:
        """Ticks until it is told to end and the arm is at rest; why it ended.

        The arm is left holding where it is, with its torque on.

        Args:
            said: signals that have come already, by name.
        """
        said = [] if said is None else said
        with signals(said):
            due_s = time.monotonic()
            over_s = math.inf
            while True:
                begun_s = time.monotonic()
                late_s = begun_s - due_s
                turn = self._safe_tick(said, late_s)
                over = self._ending and turn.at_rest and turn.state is not State.PARKING
                over_s = min(over_s, time.monotonic()) if over else math.inf
                if over and (self.broken or time.monotonic() - over_s > STAND_S):
                    break
                due_s += self._tick_s
                if late_s > self._tick_s / 2:  # a late tick is not made up for
                    due_s = begun_s + self._tick_s
                time.sleep(max(0.0, due_s - time.monotonic()))
            if self._undelivered and not self._dry_run:
                self._arm.hold()
            self._wires.human.send({"ended": self._ending, **self._status(turn)})
            self._wires.watchdog.send({"goodbye": self._ending})
        return self._ending

    def _safe_tick(self, said: list[str], late_s: float) -> Turn:
        """A tick; after one that broke, ticks that brake, and then the end."""
        if not self.broken:
            try:
                return self._tick(said, late_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, the arm must come to rest
                # This tick may have written already: braking begins with the next.
                self.broken = f"the controller broke: {error!r:.200}"
                self._ending = self._ending or self.broken
                return Turn(self._pilot.state, self.broken, None, None, False, ())
        turn = self._pilot.fail(time.monotonic(), self.broken)
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
            self._beat(time.monotonic(), turn)
            self._wires.human.send(self._status(turn))
        return turn

    def _tick(self, said: list[str], late_s: float) -> Turn:
        self._num_ticks += 1
        self._late_s.append(late_s)
        reading = self._read()
        self._joints = reading.joints.tolist() if np.isfinite(reading.joints).all() else []
        events, plans = self._hear(said)
        now_s = time.monotonic()  # now: all that was read and heard is older
        life = PlannerLife(not self._wires.planner.closed, self._heard_s)
        turn = self._pilot.tick(now_s, reading, life, events=events, plans=plans)
        if turn.command is not None and not self._dry_run:
            self._undelivered = True
            try:
                self._arm.write(turn.command)
                self._undelivered = False
            except Exception as error:  # noqa: BLE001 - whatever a driver raises is a fault
                self._fault = f"the arm did not take a command: {error}"
        self._written = turn.command
        if self._recorder is not None:
            self._recorder.write(now_s, reading, turn, late_s=late_s)
        self._rest_s = self._rest_s if turn.at_rest else now_s
        self._answer(now_s, reading, turn)
        self._beat(now_s, turn)
        if turn.notes or self._num_ticks % STATUS_EVERY == 0:
            self._wires.human.send(self._status(turn))
        return turn

    def _beat(self, now_s: float, turn: Turn) -> None:
        self._wires.watchdog.send({"t": now_s, "armed": turn.state is not State.IDLE})

    def _read(self) -> Reading:
        try:
            reading = self._arm.read()
        except Exception as error:  # noqa: BLE001 - whatever a driver raises is a fault
            why = f"the arm does not answer: {error}"
            return Reading(np.zeros(0), time.monotonic(), fault=why)
        self._wires.watchdog.receive()  # it says nothing, but its end shows
        if self._wires.watchdog.closed:
            self._fault = self._fault or "the watchdog is gone"
        self._fault = self._fault or self._slept()
        if self._fault and not reading.fault:
            reading = Reading(reading.joints, reading.stamp_s, reading.frames_s, self._fault)
            self._fault = ""
        if self._dry_run and self._written is not None:
            # The arm does as it was never told.
            reading = Reading(self._written, reading.stamp_s, reading.frames_s, reading.fault)
        return reading

    def _slept(self) -> str:
        """Whether the computer slept, while the clock of all stamps and deadlines stood still."""
        before_s, self._asleep_s = self._asleep_s, asleep_s()
        away_s = self._asleep_s - before_s
        return f"the computer slept for {away_s:.0f} s" if away_s > SLEEP_S else ""

    def _hear(self, said: list[str]) -> tuple[list[tuple[Event, str]], list[Mapping[str, Any]]]:
        """What the human and the planner want."""
        events: list[tuple[Event, str]] = []
        plans: list[Mapping[str, Any]] = []
        now_s = time.monotonic()
        for message in self._wires.planner.receive():
            self._heard_s = now_s
            if self._ending:
                continue
            if not isinstance(message, dict):
                plans.append({})
            elif "plan" in message:
                plans.append(message["plan"])
                self._last_plan_s = now_s
            elif "look" in message:
                self._look = message
            elif "failed" in message:
                events.append((Event.FAULT, f"the planner: {message['failed']!s:.200}"))
            elif "done" in message:
                self._ending = f"done: {message['done']!s:.200}"
                events.append((Event.STOP, self._ending))
                if self._park:
                    events.append((Event.PARK, self._ending))
        for message in self._wires.human.receive():
            event = _HUMAN.get(str(message.get("event"))) if isinstance(message, dict) else None
            if event is not None and (event is Event.STOP or not self._ending):
                events.append((event, "asked for"))
            if isinstance(message, dict) and "end" in message:
                self._end(events, str(message["end"]))
        if self._wires.human.closed:
            self._end(events, "the human's process is gone")
        while said:  # one by one: what comes while we look is not lost
            self._end(events, said.pop(0))
        for key in self._pressed():
            self._end(events, "key" if key else "the terminal is gone")
        return events, plans

    def _end(self, events: list[tuple[Event, str]], why: str) -> None:
        events.append((Event.STOP, why))  # whatever is under way already, it stops
        self._ending = self._ending or why

    def _pressed(self) -> list[bytes]:
        keys = self._wires.keys
        if keys is None or not self._pilot.epoch:
            return []
        if self._ending and self._pilot.state is not State.PARKING:
            return []
        ready, _, _ = select.select([keys], [], [], 0)
        return [os.read(keys, 1)] if ready else []

    def _answer(self, now_s: float, reading: Reading, turn: Turn) -> None:
        """Tells the planner what it asked for, once the arm rests and the cameras have seen it."""
        if turn.state is State.FAULTED or self._ending:
            if self._look is not None:
                self._wires.planner.send({"stopped": turn.reason or self._ending})
                self._look = None
            return
        rested = now_s - self._rest_s
        if self._look is None or turn.state not in (State.ARMED, State.HOLDING) or not turn.at_rest:
            return
        since_s = self._rest_s + SETTLE_S
        if rested < SETTLE_S or min([reading.stamp_s, *reading.frames_s.values()]) < since_s:
            return
        commanded = turn.command if turn.command is not None else reading.joints
        self._wires.planner.send(
            {
                "look": self._look["look"],
                "epoch": self._pilot.epoch,
                "joints": reading.joints.tolist(),
                "commanded": commanded.tolist(),
                "observed_s": min([reading.stamp_s, *reading.frames_s.values()]),
            }
        )
        self._look = None

    def _status(self, turn: Turn) -> dict[str, Any]:
        now_s = time.monotonic()
        return {
            "joints": self._joints,
            "state": turn.state.value,
            "reason": turn.reason[:500],
            "notes": [note[:500] for note in turn.notes[:20]],
            "plan_age_s": now_s - self._last_plan_s if self._last_plan_s > 0 else None,
            "late_ms_p99": 1000 * float(np.quantile(self._late_s, 0.99)),
            "ticks": self._num_ticks,
        }


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
