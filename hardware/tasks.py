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
        parent: index of the link it hangs on; -1: the base.
        joint: index of the joint that moves it; -1: none.
        T_parent: pose in the parent `[4, 4]`, m.
        axis: of the joint `[3]`.
        pivot: a point on the axis `[3]`, m.
        corners: of its bodies `[P, 3]`, m.
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
        links: from the base outwards.
        joint_names: J of them.
        joint_range: lower and upper limits `[J, 2]`, rad.
        tool_link: index of the link that holds the tool.
        tool: point of the tool in that link `[3]`, m.
    """

    links: Annotated[tuple[LinkData, ...], msgspec.Meta(max_length=_MAX_LINKS)]
    joint_names: tuple[str, ...]
    joint_range: FloatArray
    tool_link: int
    tool: FloatArray

    @classmethod
    def of(cls, chain: Chain) -> ChainData:
        """Returns what is sent of a chain."""
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


class SimulatedArmTask(SentMessage, frozen=True):
    """How the arm server opens an arm that another process simulates.

    Attributes:
        names: of the joints.
        low: lower joint limits `[J]`, rad.
        high: upper joint limits `[J]`, rad.
        joint_targets: descriptor of the memory that the simulation reads.
        measured: descriptor of the memory that the simulation writes.
        frames: shared memory of each camera's pictures, by camera.
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
        robot_type: LeRobot's name of it.
        config: its config, as LeRobot decodes it.
        names: of the joints.
        keys: of the joints in its observations.
        zero: what it reads where a joint is at 0 rad `[J]`, its units.
        rad_per_unit: scale of its units `[J]`, rad.
        reply_s: longest wait for a servo's reply.
        low: lower joint limits `[J]`, rad.
        high: upper joint limits `[J]`, rad.
        frames: shared memory of each camera's pictures, by camera.
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
        chain: of the arm.
        limits: of the governor, which the device's own narrow further.
        settings: of the supervisor.
        park: park pose `[J]`, rad; None: there is none.
        arm: how the arm is opened.
        planner: descriptor of the wire to the policy process.
        human: descriptor of the wire to the operator's process.
        watchdog: descriptor of the wire to the watchdog.
        record: path of the flight record.
        about: further facts about the run, for people.
        keys: its input is a terminal, at which any key stops the run.
        dry_run: nothing is written to the arm.
        parks: the arm goes to the park pose once the policy is done.
    """

    chain: ChainData
    limits: Limits
    settings: SupervisorSettings
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


class WatchdogTask(SentMessage, frozen=True):
    """What the watchdog is started with.

    Attributes:
        wire: descriptor of the wire to the arm server.
    """

    wire: int


class CamerasTask(SentMessage, frozen=True):
    """What the process of LeRobot's cameras is started with.

    Attributes:
        cameras: type and config by name, as LeRobot decodes them.
        latency_s: from exposure to the driver's stamp.
        frames: shared memory of each camera's pictures, by camera.
        wire: descriptor of the wire to the operator's process.
    """

    cameras: dict[str, dict[str, Any]]
    latency_s: float
    frames: dict[str, Place]
    wire: int


class SimulatorTask(SentMessage, frozen=True):
    """What the simulated arm's process is started with.

    Attributes:
        robot: its settings (`robot_wm.deployment.settings.SimulatedRobot`), as plain values.
        joint_targets: descriptor of the memory that the arm server writes.
        measured: descriptor of the memory that the arm server reads.
        frames: shared memory of each camera's pictures, by camera.
        wire: descriptor of the wire to the operator's process.
    """

    robot: dict[str, Any]
    joint_targets: int
    measured: int
    frames: dict[str, Place]
    wire: int


class PolicyTask(SentMessage, frozen=True):
    """What the policy process is started with.

    Attributes:
        settings: of the run (`robot_wm.deployment.run.DeploySettings`), as plain values.
        low: lower joint limits of the arm server `[J]`, rad.
        high: upper joint limits of the arm server `[J]`, rad.
        frames: shared memory of each camera's pictures, by camera.
        wire: descriptor of the wire to the arm server.
        human: descriptor of the wire to the operator's process.
    """

    settings: dict[str, Any]
    low: FloatArray
    high: FloatArray
    frames: dict[str, Place]
    wire: int
    human: int


class RandomPolicyTask(SentMessage, frozen=True):
    """What a policy process without a model is started with (`robot_wm.deployment.rig`).

    Attributes:
        wire: descriptor of the wire to the arm server.
        chain: of the arm.
        limits: of the governor.
        seed: of the random moves.
    """

    wire: int
    chain: ChainData
    limits: Limits
    seed: int


def decode_task(content: bytes, kind: type[AnyTask]) -> AnyTask:
    """Decodes what a process is started with.

    Args:
        content: the bytes.
        kind: type of the task.

    Returns:
        The task.

    Raises:
        msgspec.MsgspecError: another task, or none.
    """
    return msgspec.msgpack.decode(content, type=kind, dec_hook=from_plain)
