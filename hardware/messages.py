"""Messages between the processes of a run: one frozen type per message, encoded as msgpack.

What comes from another process is decoded and checked here; bytes that are no message become
`Undecodable`, never a half-read message.
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
    """Base of all that is sent: fields are encoded by name, with a type tag."""


# ---- Policy process and arm server. --------------------------------------------------------------


class Heartbeat(SentMessage, frozen=True):
    """The policy process is alive."""


class ObservationRequest(SentMessage, frozen=True):
    """The policy asks for an observation of the arm at rest.

    Attributes:
        number: Number of the request, which the answer repeats.
    """

    number: int


class PlanProposal(SentMessage, frozen=True):
    """A plan to be followed.

    Attributes:
        plan: The plan.
    """

    plan: JointPlan


class PolicyFailed(SentMessage, frozen=True):
    """The policy process gives up.

    Attributes:
        text: Message of the error.
    """

    text: str


class PolicyDone(SentMessage, frozen=True):
    """The policy has finished the run."""


class ArmObservation(SentMessage, frozen=True):
    """Where the arm stands, once it is at rest.

    Attributes:
        number: Number of the request.
        epoch: Number of the arming, which grows each time the arm is armed.
        joints: Measured joints `[J]`, rad.
        commanded: The last command `[J]`, rad.
        observed_s: Time when the oldest of pictures and joints was taken, s, time.monotonic().
    """

    number: int
    epoch: int
    joints: FloatArray
    commanded: FloatArray
    observed_s: float


class ArmStopped(SentMessage, frozen=True):
    """The arm takes no more plans.

    Attributes:
        reason: Reason why it takes none.
    """

    reason: Reason


# ---- Operator's process and arm server. ----------------------------------------------------------


class Request(SentMessage, frozen=True):
    """The operator asks to arm, stop, park or reset.

    Attributes:
        event: Event that is asked for.
    """

    event: Event


class End(SentMessage, frozen=True):
    """The run is to end: the arm brakes, and holds.

    Attributes:
        reason: Reason why it is to end.
    """

    reason: Reason


class ArmServerReady(SentMessage, frozen=True):
    """The arm is connected.

    Attributes:
        low: Lower joint limits, the narrower of device and settings, `[J]`, rad.
        high: Upper joint limits, the narrower of device and settings, `[J]`, rad.
    """

    low: FloatArray
    high: FloatArray


class Refused(SentMessage, frozen=True):
    """A process cannot do what it was started for.

    Attributes:
        text: Reason, as it is shown to the operator.
    """

    text: str


class Status(SentMessage, frozen=True):
    """State of the arm server.

    Attributes:
        joints: Joints as last read `[J]`, rad; empty if they could not be read.
        state: State of the arm.
        reason: Reason of a fault; None: there is no fault.
        notes: Notes on what happened in the last tick.
        plan_age_s: Time since the last plan came, s; None: none has come.
        late_ms_p99: 99th percentile of how late ticks began, ms.
        num_ticks: Number of ticks so far.
        ended: Reason why the arm server has ended; None: it has not.
    """

    joints: FloatArray
    state: State
    reason: Reason | None
    notes: tuple[Note, ...]
    plan_age_s: float | None
    late_ms_p99: float
    num_ticks: int
    ended: Reason | None = None


# ---- Arm server to watchdog. ---------------------------------------------------------------------


class ArmServerBeat(SentMessage, frozen=True):
    """The arm server has finished a tick.

    Attributes:
        armed: Whether the arm is driven, so that the watchdog must report silence.
    """

    armed: bool


class Goodbye(SentMessage, frozen=True):
    """The arm server ends in order."""


# ---- Operator's process and policy process. ------------------------------------------------------


class Begin(SentMessage, frozen=True):
    """The arm is armed: the policy may plan."""


class PolicyReady(SentMessage, frozen=True):
    """The model is loaded.

    Attributes:
        what: One line that names the checkpoint and the number of goals.
        notes: Sentences that the operator should read before the arm moves.
    """

    what: str
    notes: tuple[str, ...]


class DecisionTaken(SentMessage, frozen=True):
    """The policy has decided on an action.

    Attributes:
        kind: Kind of the decision (`robot_wm.types.Decision.kind`).
        energy: Energy of the observation before the decision; None: it was not measured.
        plan_s: Planning time, s.
        p_value: P-value of the prediction error before the decision; None: it is not known.
    """

    kind: str
    energy: float | None
    plan_s: float
    p_value: float | None


class RunEnded(SentMessage, frozen=True):
    """The policy has seen the last picture.

    Attributes:
        energy: Energy of the last observation; None: it was not measured.
        outcomes: Outcomes in the order of the goals.
    """

    energy: float | None
    outcomes: tuple[Outcome, ...]


# ---- A device's processes to the operator's process. ---------------------------------------------


class CamerasReady(SentMessage, frozen=True):
    """All cameras are open."""


class Trouble(SentMessage, frozen=True):
    """A device has a problem that may pass.

    Attributes:
        text: Message of the driver.
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
    """Bytes that are no message.

    Attributes:
        content: The bytes.
    """

    content: bytes


def to_plain(value: object) -> Any:
    """Turns an array into lists, and a numpy number into Python's: encoders know neither."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise NotImplementedError(f"got a {type(value).__name__}, want what a message may hold")


def from_plain(kind: Any, value: object) -> FloatArray:
    """Turns lists into an array of numbers.

    Args:
        kind: Type of the field.
        value: The decoded value.

    Returns:
        A float64 array.

    Raises:
        ValueError: the value is ragged, or not numbers.
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
    """Returns the bytes of a message."""
    return _ENCODER.encode(message)


def decode(content: bytes) -> Message | Undecodable:
    """Returns the message in some bytes, or `Undecodable`."""
    try:
        return _DECODER.decode(content)
    except (msgspec.MsgspecError, RecursionError):
        return Undecodable(content)
