"""What the processes of a run tell each other: one frozen type for each message, and its bytes.

Whatever comes from another process is decoded here, and checked while it is: bytes that are no
message come as `Undecodable`, never as a half-read one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_origin

import msgspec
import numpy as np

from hardware.plans import JointPlan
from hardware.reasons import Reason
from hardware.states import Event, State
from hardware.ticks import Note
from robot_wm.types import FloatArray, Outcome


class SentMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """What all that is sent has: fields by name, and a type that the bytes carry."""


# ---- The planner's process to the controller, and back. ----------------------------------------


class Heartbeat(SentMessage, frozen=True):
    """The planner's process lives."""


class ObservationRequest(SentMessage, frozen=True):
    """The planner wants to see the arm at rest.

    Attributes:
        number: of the request, which the answer repeats.
    """

    number: int


class PlanProposal(SentMessage, frozen=True):
    """A plan to be followed."""

    plan: JointPlan


class PolicyFailed(SentMessage, frozen=True):
    """The planner gives up.

    Attributes:
        text: why, as whatever failed has put it.
    """

    text: str


class PolicyDone(SentMessage, frozen=True):
    """The run is over."""


class ArmObservation(SentMessage, frozen=True):
    """Where the arm stands, once it is at rest.

    Attributes:
        number: of the request.
        epoch: of the arming.
        joints: measured `[J]`, rad.
        commanded: the last command `[J]`, rad.
        observed_s: when the oldest picture, or the joints, were taken; time.monotonic().
    """

    number: int
    epoch: int
    joints: FloatArray
    commanded: FloatArray
    observed_s: float


class ArmStopped(SentMessage, frozen=True):
    """The arm takes no more plans."""

    reason: Reason


# ---- The human's process to the controller, and back. -------------------------------------------


class Request(SentMessage, frozen=True):
    """What the human wants: to arm, stop, park or reset."""

    event: Event


class End(SentMessage, frozen=True):
    """The run is to end: brake, and hold."""

    reason: Reason


class ArmServerReady(SentMessage, frozen=True):
    """The arm is connected.

    Attributes:
        low, high: joint limits, of the device and the settings together `[J]`, rad.
    """

    low: FloatArray
    high: FloatArray


class Refused(SentMessage, frozen=True):
    """A process cannot do what it was started for.

    Attributes:
        text: why, as it is to be shown.
    """

    text: str


class Status(SentMessage, frozen=True):
    """How it goes.

    Attributes:
        joints: as last read `[J]`, rad; empty where they could not be.
        state: of the arm.
        reason: of a fault.
        notes: what happened in the last tick.
        plan_age_s: since the last plan came; None before the first.
        late_ms_p99: by which ticks began late.
        num_ticks: so far.
        ended: why the controller has ended; None: it has not.
    """

    joints: FloatArray
    state: State
    reason: Reason | None
    notes: tuple[Note, ...]
    plan_age_s: float | None
    late_ms_p99: float
    num_ticks: int
    ended: Reason | None = None


# ---- The controller to the watchdog. ------------------------------------------------------------


class ArmServerBeat(SentMessage, frozen=True):
    """A tick was done.

    Attributes:
        armed: the arm is driven: silence is to be told.
    """

    armed: bool


class Goodbye(SentMessage, frozen=True):
    """The controller ends in order."""


# ---- The human's process to the planner's, and back. --------------------------------------------


class Begin(SentMessage, frozen=True):
    """The arm is armed: plan."""


class PolicyReady(SentMessage, frozen=True):
    """The model is loaded.

    Attributes:
        what: the run consists of.
        notes: what the human should know before the arm moves.
    """

    what: str
    notes: tuple[str, ...]


class DecisionTaken(SentMessage, frozen=True):
    """The planner has decided on an action.

    Attributes:
        kind: of the decision (robot_wm.types.Decision.kind).
        energy: of what was seen before it; None where it was not measured.
        plan_s: what it took.
        p_value: of the prediction before; None where nothing is known of it.
    """

    kind: str
    energy: float | None
    plan_s: float
    p_value: float | None


class RunEnded(SentMessage, frozen=True):
    """The planner has seen the last picture.

    Attributes:
        energy: of it.
        outcomes: in the order of the goals.
    """

    energy: float | None
    outcomes: tuple[Outcome, ...]


# ---- A device's processes to the human's. -------------------------------------------------------


class CamerasReady(SentMessage, frozen=True):
    """All cameras are open."""


class Trouble(SentMessage, frozen=True):
    """Something that may pass.

    Attributes:
        text: what, as a driver has put it.
    """

    text: str


Message = (
    Heartbeat
    | ObservationRequest
    | PlanProposal
    | PolicyFailed
    | PolicyDone
    | ArmObservation
    | ArmStopped
    | Request
    | End
    | ArmServerReady
    | Refused
    | Status
    | ArmServerBeat
    | Goodbye
    | Begin
    | PolicyReady
    | DecisionTaken
    | RunEnded
    | CamerasReady
    | Trouble
)


@dataclass(frozen=True)
class Undecodable:
    """Bytes that are no message."""

    content: bytes


def to_plain(value: object) -> Any:
    """An array as lists, and a number of numpy's as Python's: encoders know neither."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise NotImplementedError(f"got a {type(value).__name__}, want what a message may hold")


def from_plain(kind: Any, value: object) -> FloatArray:
    """Lists as an array of numbers.

    Raises:
        ValueError: no numbers, or ragged.
    """
    if get_origin(kind) is not np.ndarray:
        raise NotImplementedError(f"got {kind}, want an array")
    array = np.array(value)
    if array.size and array.dtype.kind not in "fiu":
        raise ValueError(f"got {value!r:.60}, want numbers")
    return array.astype(np.float64)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=to_plain)
_DECODER = msgspec.msgpack.Decoder(Message, dec_hook=from_plain)


def encode(message: SentMessage) -> bytes:
    """The bytes of a message."""
    return _ENCODER.encode(message)


def decode(content: bytes) -> Message | Undecodable:
    """The message that some bytes are."""
    try:
        return _DECODER.decode(content)
    except (msgspec.MsgspecError, RecursionError):
        return Undecodable(content)
