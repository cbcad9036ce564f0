"""What the processes of a run tell each other: one frozen type for each message, and its bytes.

Whatever comes from another process is decoded here, and checked while it is: bytes that are no
message come as `Undecodable`, never as a half-read one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_origin

import msgspec
import numpy as np

from hardware.pilot import PilotSettings
from hardware.plans import JointPlan
from hardware.reasons import Reason
from hardware.states import Event, State
from hardware.ticks import Note
from robot_wm.kinematics import Chain, Link
from robot_wm.kinematics.limits import Limits
from robot_wm.types import FloatArray, Outcome

_MAX_LINKS, _MAX_CORNERS = 64, 4096  # of an arm that may be real


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """What all messages have: fields by name, and a type that the bytes carry."""


# ---- The planner's process to the controller, and back. ----------------------------------------


class Heartbeat(_Message, frozen=True):
    """The planner's process lives."""


class ObservationRequest(_Message, frozen=True):
    """The planner wants to see the arm at rest.

    Attributes:
        number: of the request, which the answer repeats.
    """

    number: int


class PlanProposal(_Message, frozen=True):
    """A plan to be followed."""

    plan: JointPlan


class PlannerFailed(_Message, frozen=True):
    """The planner gives up.

    Attributes:
        text: why, as whatever failed has put it.
    """

    text: str


class PlannerDone(_Message, frozen=True):
    """The run is over."""


class ArmObservation(_Message, frozen=True):
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


class ArmStopped(_Message, frozen=True):
    """The arm takes no more plans."""

    reason: Reason


# ---- The human's process to the controller, and back. -------------------------------------------


class Request(_Message, frozen=True):
    """What the human wants: to arm, stop, park or reset."""

    event: Event


class End(_Message, frozen=True):
    """The run is to end: brake, and hold."""

    reason: Reason


class ControllerReady(_Message, frozen=True):
    """The arm is connected.

    Attributes:
        low, high: joint limits, of the device and the settings together `[J]`, rad.
    """

    low: FloatArray
    high: FloatArray


class Refused(_Message, frozen=True):
    """A process cannot do what it was started for.

    Attributes:
        text: why, as it is to be shown.
    """

    text: str


class Status(_Message, frozen=True):
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


class ControllerBeat(_Message, frozen=True):
    """A tick was done.

    Attributes:
        armed: the arm is driven: silence is to be told.
    """

    armed: bool


class Goodbye(_Message, frozen=True):
    """The controller ends in order."""


# ---- The human's process to the planner's, and back. --------------------------------------------


class Begin(_Message, frozen=True):
    """The arm is armed: plan."""


class PlannerReady(_Message, frozen=True):
    """The model is loaded.

    Attributes:
        what: the run consists of.
        notes: what the human should know before the arm moves.
    """

    what: str
    notes: tuple[str, ...]


class DecisionTaken(_Message, frozen=True):
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


class RunEnded(_Message, frozen=True):
    """The planner has seen the last picture.

    Attributes:
        energy: of it.
        outcomes: in the order of the goals.
    """

    energy: float | None
    outcomes: tuple[Outcome, ...]


# ---- A device's processes to the human's. -------------------------------------------------------


class CamerasReady(_Message, frozen=True):
    """All cameras are open."""


class Trouble(_Message, frozen=True):
    """Something that may pass.

    Attributes:
        text: what, as a driver has put it.
    """

    text: str


# ---- What a process is started with. ------------------------------------------------------------

Place = tuple[int, int, int]  # of a camera's pictures: height, width, descriptor


class LinkData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `Link` as it is sent and recorded."""

    parent: int
    joint: int
    T_parent: FloatArray
    axis: FloatArray
    pivot: FloatArray
    corners: FloatArray


class ChainData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `Chain` as it is sent and recorded."""

    links: Annotated[tuple[LinkData, ...], msgspec.Meta(max_length=_MAX_LINKS)]
    joint_names: tuple[str, ...]
    joint_range: FloatArray
    tool_link: int
    tool: FloatArray

    @classmethod
    def of(cls, chain: Chain) -> ChainData:
        """What is to be sent of a chain."""
        names = LinkData.__struct_fields__
        return cls(
            links=tuple(
                LinkData(**{name: getattr(link, name) for name in names}) for link in chain.links
            ),
            joint_names=chain.joint_names,
            joint_range=chain.joint_range,
            tool_link=chain.tool_link,
            tool=chain.tool_point,
        )

    def chain(self) -> Chain:
        """The chain.

        Raises:
            ValueError: more corners than an arm has, or links that make no chain.
        """
        num_corners = sum(len(link.corners) for link in self.links)
        if num_corners > _MAX_CORNERS:
            raise ValueError(f"chain: got {num_corners} corners, want at most {_MAX_CORNERS}")
        return Chain(
            [
                Link(
                    link.parent,
                    link.joint,
                    link.T_parent,
                    link.axis,
                    link.pivot,
                    link.corners.reshape(-1, 3),
                    few=True,
                )
                for link in self.links
            ],
            joint_names=self.joint_names,
            joint_range=self.joint_range,
            tool_link=self.tool_link,
            tool=self.tool,
        )


class SimulatedArmTask(_Message, frozen=True):
    """How the controller opens an arm that another process simulates.

    Attributes:
        names: of the joints.
        low, high: their limits `[J]`, rad.
        goals, measured: descriptors of the memory that it shares with the simulation.
        frames: camera -> where its pictures are.
    """

    names: tuple[str, ...]
    low: FloatArray
    high: FloatArray
    goals: int
    measured: int
    frames: dict[str, Place]


class LeRobotArmTask(_Message, frozen=True):
    """How the controller opens a LeRobot robot.

    Attributes:
        robot_type: LeRobot's name of it.
        config: of it, as LeRobot decodes it.
        names: of the joints.
        keys: of the joints in its observations.
        zero: what it reads where a joint is at 0 rad `[J]`, its units.
        rad_per_unit: `[J]`.
        reply_s: longest wait for its servos.
        low, high: joint limits `[J]`, rad.
        frames: camera -> where its pictures are.
    """

    robot_type: str
    config: dict[str, Any]
    names: tuple[str, ...]
    keys: tuple[str, ...]
    zero: FloatArray
    rad_per_unit: FloatArray
    reply_s: float
    low: FloatArray
    high: FloatArray
    frames: dict[str, Place]


ArmTask = SimulatedArmTask | LeRobotArmTask


class ControllerTask(_Message, frozen=True):
    """What the controller is started with.

    Attributes:
        chain: of the arm.
        limits: of the governor; the device's own are taken off.
        settings: of the pilot.
        park: where it parks `[J]`, rad; None: it does not.
        arm: how it is opened.
        planner, human, watchdog: descriptors of the wires.
        record: the flight record's file.
        about: what is to be known of the run, for people.
        keys: its input is a terminal, at which any key stops.
        dry_run: nothing is written to the arm.
        parks: it goes to the park pose once the planner is done.
    """

    chain: ChainData
    limits: Limits
    settings: PilotSettings
    park: FloatArray | None
    arm: ArmTask
    planner: int
    human: int
    watchdog: int
    record: str
    about: dict[str, str]
    keys: bool
    dry_run: bool
    parks: bool


class WatchdogTask(_Message, frozen=True):
    """What the watchdog is started with: the wire to the controller."""

    wire: int


class CamerasTask(_Message, frozen=True):
    """What the process of LeRobot's cameras is started with.

    Attributes:
        cameras: name -> type and settings, as LeRobot decodes them.
        latency_s: from the light to the driver's hands.
        frames: name -> where its pictures go.
        wire: to the human's process.
    """

    cameras: dict[str, dict[str, Any]]
    latency_s: float
    frames: dict[str, Place]
    wire: int


class WorldTask(_Message, frozen=True):
    """What the simulated arm's process is started with.

    Attributes:
        robot: its settings (robot_wm.deployment.settings.SimulatedRobot), as plain values.
        goals, measured: descriptors of the memory that it shares with the controller.
        frames: camera -> where its pictures go.
        wire: to the human's process.
    """

    robot: dict[str, Any]
    goals: int
    measured: int
    frames: dict[str, Place]
    wire: int


class PlannerTask(_Message, frozen=True):
    """What the planner's process is started with.

    Attributes:
        settings: of the run (robot_wm.deployment.run.RunSettings), as plain values.
        low, high: what the controller lets the joints do `[J]`, rad.
        goals: a goal picture each: a file, or camera -> file.
        frames: camera -> where its pictures are.
        wire, human: to the controller, and to the human's process.
    """

    settings: dict[str, Any]
    low: FloatArray
    high: FloatArray
    goals: tuple[str | dict[str, str], ...]
    frames: dict[str, Place]
    wire: int
    human: int


class RandomPlannerTask(_Message, frozen=True):
    """What a planner that needs no model is started with (robot_wm.cli.rehearsal)."""

    wire: int
    chain: ChainData
    limits: Limits
    seed: int


Message = (
    Heartbeat
    | ObservationRequest
    | PlanProposal
    | PlannerFailed
    | PlannerDone
    | ArmObservation
    | ArmStopped
    | Request
    | End
    | ControllerReady
    | Refused
    | Status
    | ControllerBeat
    | Goodbye
    | Begin
    | PlannerReady
    | DecisionTaken
    | RunEnded
    | CamerasReady
    | Trouble
)
Task = ControllerTask | WatchdogTask | CamerasTask | WorldTask | PlannerTask | RandomPlannerTask
AnyTask = TypeVar("AnyTask", bound=_Message)


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


def encode(message: Message | Task) -> bytes:
    """The bytes of a message."""
    return _ENCODER.encode(message)


def decode(content: bytes) -> Message | Undecodable:
    """The message that some bytes are."""
    try:
        return _DECODER.decode(content)
    except (msgspec.MsgspecError, RecursionError):
        return Undecodable(content)


def decode_task(content: bytes, kind: type[AnyTask]) -> AnyTask:
    """What a process is started with.

    Raises:
        msgspec.MsgspecError: it is another task, or none.
    """
    return msgspec.msgpack.decode(content, type=kind, dec_hook=from_plain)
