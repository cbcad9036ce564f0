"""What the processes of a run are started with: one frozen type for each process."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from hardware.messages import SentMessage, from_plain
from hardware.supervisor import SupervisorSettings
from robot_wm.kinematics import Chain, Link
from robot_wm.kinematics.limits import Limits
from robot_wm.types import FloatArray

_MAX_LINKS, _MAX_CORNERS = 64, 4096  # of an arm that may be real
AnyTask = TypeVar("AnyTask", bound=SentMessage)

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


class SimulatedArmTask(SentMessage, frozen=True):
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


class LeRobotArmTask(SentMessage, frozen=True):
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


class ArmServerTask(SentMessage, frozen=True):
    """What the controller is started with.

    Attributes:
        chain: of the arm.
        limits: of the governor; the device's own are taken off.
        settings: of the supervisor.
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
    """What the watchdog is started with: the wire to the controller."""

    wire: int


class CamerasTask(SentMessage, frozen=True):
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


class SimulatorTask(SentMessage, frozen=True):
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


class PolicyTask(SentMessage, frozen=True):
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


class RandomPolicyTask(SentMessage, frozen=True):
    """What a planner that needs no model is started with (robot_wm.cli.rehearsal)."""

    wire: int
    chain: ChainData
    limits: Limits
    seed: int


def decode_task(content: bytes, kind: type[AnyTask]) -> AnyTask:
    """What a process is started with.

    Raises:
        msgspec.MsgspecError: it is another task, or none.
    """
    return msgspec.msgpack.decode(content, type=kind, dec_hook=from_plain)
