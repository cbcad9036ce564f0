"""Tasks: what each process of a run is started with, one frozen type per process."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from hardware.messages import SentMessage, from_plain
from hardware.supervisor import SupervisorSettings
from robot_wm.kinematics import Chain, Link
from robot_wm.kinematics.limits import Limits
from robot_wm.types import FloatArray

_MAX_LINKS, _MAX_CORNERS = 64, 4096  # more than any real arm has
AnyTask = TypeVar("AnyTask", bound=SentMessage)

Place = tuple[int, int, int]  # shared memory of a camera's pictures: height, width, descriptor


class LinkData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `Link` as it is sent and recorded.

    Attributes:
        parent: Number of the parent link; -1 for the base frame.
        joint: Number of the joint; -1 if the link is fixed to its parent.
        T_parent: Pose in the parent's frame at joint angle 0, `[4, 4]`, m.
        axis: Axis of the joint in the link's frame, `[3]`, of unit length.
        pivot: A point on that axis in the link's frame, `[3]`, m.
        corners: Corners that enclose the link's bodies, in its frame, `[P, 3]`, m.
    """

    parent: int
    joint: int
    T_parent: FloatArray
    axis: FloatArray
    pivot: FloatArray
    corners: FloatArray


class ChainData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `Chain` as it is sent and recorded.

    Attributes:
        links: The links, parents before their children.
        joint_names: Names of the joints, J of them.
        joint_range: Smallest and largest angle of each joint, `[J, 2]`, rad.
        tool_link: Number of the link that carries the tool.
        tool: The tool's point in that link's frame, `[3]`, m.
    """

    links: Annotated[tuple[LinkData, ...], msgspec.Meta(max_length=_MAX_LINKS)]
    joint_names: tuple[str, ...]
    joint_range: FloatArray
    tool_link: int
    tool: FloatArray

    @classmethod
    def of(cls, chain: Chain) -> ChainData:
        """Makes the message that stands for a chain."""
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
        """Rebuilds the chain.

        Returns:
            The chain.

        Raises:
            ValueError: there are more corners than an arm has, or the links make no chain.
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


class SimulatedArmTask(SentMessage, frozen=True):
    """How the arm server opens an arm that another process simulates.

    Attributes:
        names: Names of the joints, J of them.
        low: Lower joint limits `[J]`, rad.
        high: Upper joint limits `[J]`, rad.
        joint_targets: Descriptor of the memory that the simulation reads.
        measured: Descriptor of the memory that the simulation writes.
        frames: Shared memory of each camera's pictures, by camera.
    """

    names: tuple[str, ...]
    low: FloatArray
    high: FloatArray
    joint_targets: int
    measured: int
    frames: dict[str, Place]


class LeRobotArmTask(SentMessage, frozen=True):
    """How the arm server opens a LeRobot robot.

    Attributes:
        robot_type: LeRobot's name of the robot type.
        config: The robot's config, as LeRobot decodes it.
        names: Names of the joints in the model, J of them.
        keys: Names of the joints in the robot's observations.
        zero: Reading of each joint at 0 rad, `[J]`, in the robot's units.
        rad_per_unit: Radians per unit of the robot, `[J]`.
        reply_s: Longest wait for a servo's reply, s.
        low: Lower joint limits `[J]`, rad.
        high: Upper joint limits `[J]`, rad.
        frames: Shared memory of each camera's pictures, by camera.
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


class ArmServerTask(SentMessage, frozen=True):
    """What the arm server is started with.

    Attributes:
        chain: Kinematics of the arm.
        limits: Limits of the governor, which the device's own limits narrow further.
        settings: Settings of the supervisor.
        park: The park pose `[J]`, rad; None: there is none.
        arm: Description of how the arm is opened.
        policy: Descriptor of the wire to the policy process.
        operator: Descriptor of the wire to the operator's process.
        watchdog: Descriptor of the wire to the watchdog.
        record: Path of the flight record.
        about: Further facts about the run, for people.
        keys: Whether its input is a terminal, at which any key stops the run.
        dry_run: Whether nothing is written to the arm.
        parks: Whether the arm goes to the park pose once the policy is done.
    """

    chain: ChainData
    limits: Limits
    settings: SupervisorSettings
    park: FloatArray | None
    arm: ArmTask
    policy: int
    operator: int
    watchdog: int
    record: str
    about: dict[str, str]
    keys: bool
    dry_run: bool
    parks: bool


class WatchdogTask(SentMessage, frozen=True):
    """What the watchdog is started with.

    Attributes:
        wire: Descriptor of the wire to the arm server.
    """

    wire: int


class CamerasTask(SentMessage, frozen=True):
    """What the process of LeRobot's cameras is started with.

    Attributes:
        cameras: Type and config of each camera by name, as LeRobot decodes them.
        latency_s: Time from the exposure to the driver's stamp, s.
        frames: Shared memory of each camera's pictures, by camera.
        wire: Descriptor of the wire to the operator's process.
    """

    cameras: dict[str, dict[str, Any]]
    latency_s: float
    frames: dict[str, Place]
    wire: int


class SimulatorTask(SentMessage, frozen=True):
    """What the simulated arm's process is started with.

    Attributes:
        robot: Settings of the robot (`robot_wm.deployment.settings.SimulatedRobot`), as plain
            values.
        joint_targets: Descriptor of the memory that the arm server writes.
        measured: Descriptor of the memory that the arm server reads.
        frames: Shared memory of each camera's pictures, by camera.
        wire: Descriptor of the wire to the operator's process.
    """

    robot: dict[str, Any]
    joint_targets: int
    measured: int
    frames: dict[str, Place]
    wire: int


class PolicyTask(SentMessage, frozen=True):
    """What the policy process is started with.

    Attributes:
        settings: Settings of the run (`robot_wm.deployment.run.DeploySettings`), as plain values.
        low: Lower joint limits of the arm server `[J]`, rad.
        high: Upper joint limits of the arm server `[J]`, rad.
        frames: Shared memory of each camera's pictures, by camera.
        wire: Descriptor of the wire to the arm server.
        operator: Descriptor of the wire to the operator's process.
    """

    settings: dict[str, Any]
    low: FloatArray
    high: FloatArray
    frames: dict[str, Place]
    wire: int
    operator: int


class RandomPolicyTask(SentMessage, frozen=True):
    """What a policy process without a model is started with (`robot_wm.deployment.rig`).

    Attributes:
        wire: Descriptor of the wire to the arm server.
        chain: Kinematics of the arm.
        limits: Limits of the governor.
        seed: Seed of the random moves.
    """

    wire: int
    chain: ChainData
    limits: Limits
    seed: int


def decode_task(content: bytes, kind: type[AnyTask]) -> AnyTask:
    """Decodes what a process is started with.

    Args:
        content: The encoded task.
        kind: Type of the task.

    Returns:
        The task.

    Raises:
        msgspec.MsgspecError: the bytes are another task, or none.
    """
    return msgspec.msgpack.decode(content, type=kind, dec_hook=from_plain)
