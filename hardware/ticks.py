"""Inputs and outputs of a tick of the arm server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from hardware.reasons import Reason
from hardware.states import State
from robot_wm.types import FloatArray


@dataclass(frozen=True, eq=False)
class Reading:
    """What is known of the arm at a tick.

    Attributes:
        joints: Measured joints `[J]`, rad.
        stamp_s: Time when they were measured, s, time.monotonic().
        frames_s: Time when each camera's newest picture was taken, s, by camera.
        fault: Reason of a fault that the device or the arm server reports; None: there is none.
    """

    joints: FloatArray
    stamp_s: float
    frames_s: Mapping[str, float] = field(default_factory=dict)
    fault: Reason | None = None


@dataclass(frozen=True)
class PolicyLife:
    """What is known of the policy process.

    Attributes:
        alive: Whether its end of the wire is still open.
        heard_s: Time when it last sent anything, s, time.monotonic().
    """

    alive: bool
    heard_s: float


class NoteKind(str, Enum):
    """What a note reports."""

    TRANSITION = "transition"
    PLAN_TAKEN = "plan_taken"
    PLAN_REFUSED = "plan_refused"
    NOT_ARMED = "not_armed"
    NOT_RESET = "not_reset"
    NOT_PARKED = "not_parked"
    TARGET_MOVED = "reseated"
    WAITING = "waiting"


_PREFIXES = {
    NoteKind.PLAN_REFUSED: "plan refused: ",
    NoteKind.NOT_ARMED: "not armed: ",
    NoteKind.NOT_RESET: "not reset: ",
    NoteKind.NOT_PARKED: "not parked: ",
}


class Note(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What happened in a tick; `str` returns the sentence for people.

    Attributes:
        kind: Kind of what it reports.
        reason: Reason of what it reports.
        before: State before a transition; None: the note reports no transition.
        after: State after a transition; None: the note reports no transition.
    """

    kind: NoteKind
    reason: Reason
    before: State | None = None
    after: State | None = None

    def __str__(self) -> str:
        if self.before is not None and self.after is not None:
            return f"{self.before.value} -> {self.after.value}: {self.reason}"
        return f"{_PREFIXES.get(self.kind, '')}{self.reason}"


@dataclass(frozen=True, eq=False)
class TickResult:
    """What the supervisor decides in a tick.

    Attributes:
        state: State of the arm after the tick.
        reason: Reason of a fault; None: there is no fault.
        target: Joint target that the governor was asked for `[J]`, rad; None: it was to brake.
        command: Joints to write `[J]`, rad; None: nothing is written, as the arm was never armed.
        at_rest: Whether the command stands still.
        notes: Notes on what happened, for the record and for people.
        seed: Joints from which a new governor began in this tick `[J]`, rad; None: none began.
    """

    state: State
    reason: Reason | None
    target: FloatArray | None
    command: FloatArray | None
    at_rest: bool
    notes: tuple[Note, ...]
    seed: FloatArray | None = None
