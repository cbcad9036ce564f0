"""Settings of a robot and of a simulation, which are checked when they are read.

Nothing here imports torch: a process that only renders starts in half of the time.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hardware.supervisor import SupervisorSettings
from robot_wm.deployment.parts import Part
from robot_wm.types import Count, Positive, Seed, Settings

Numbers = float | tuple[float, ...] | None
Pixels = Annotated[int, Meta(ge=16, le=4096)]


class LimitSettings(Settings, frozen=True, kw_only=True):
    """Limits of the governor, where they differ from the arm's own (null: the arm's own).

    Attributes:
        max_speed: Largest speed of every joint, rad/s; null: the arm's own.
        max_acceleration: Largest acceleration of every joint, braking too, rad/s^2; null: the arm's
            own.
        tip_speed: Largest speed of the fastest corner of the arm, m/s; null: the arm's own.
        box_low: Lower corner of the box that all bodies stay in, m, base frame; null: the arm's
            own.
        box_high: Upper corner of that box, m, base frame; null: the arm's own.
        workspace_low: Lower corner of the box that the tool's pose stays in: x, y, z and opening,
            m, base frame; null: the arm's own.
        workspace_high: Upper corner of that box, m; null: the arm's own.
        max_jump: Largest distance of a joint target from the last command, rad; null: the arm's
            own.
        tick_s: Time from one command to the next, s; null: the arm's own.
    """

    max_speed: Numbers = None
    max_acceleration: Numbers = None
    tip_speed: float | None = None
    box_low: tuple[float, ...] | None = None
    box_high: tuple[float, ...] | None = None
    workspace_low: tuple[float, ...] | None = None
    workspace_high: tuple[float, ...] | None = None
    max_jump: float | None = None
    tick_s: float | None = None

    def given(self) -> dict[str, Any]:
        """Returns the limits that differ, by name."""
        return {name: v for name, v in msgspec.structs.asdict(self).items() if v is not None}


class JointSettings(Settings, frozen=True, kw_only=True):
    """How a device's joints become angles of the model, rad: (value - zero) * rad_per_unit.

    Attributes:
        keys: Names of the joints in the device's readings.
        zero: Reading of each joint at 0 rad, in the device's units.
        rad_per_unit: Radians per unit of the device; below 0 for a joint that turns the other way.
    """

    keys: tuple[str, ...]
    zero: tuple[float, ...]
    rad_per_unit: tuple[float, ...]


class _RobotSettings(Settings, frozen=True, kw_only=True, tag_field="kind"):
    """Settings that every robot has.

    Attributes:
        name: Name of the choice.
        arm: A name of the table of arms, or `package.function`, which returns a RobotModel.
        action_names: Names that a checkpoint's actions must have.
        action_units: Units that a checkpoint's actions must have.
        control_hz: Actions per second.
        limits: Limits of the governor, where they differ from the arm's own.
        settings: Thresholds at which the arm is held or a problem is a fault.
        park_pose: Joints where the arm parks and may go limp, rad; `home`: the arm's home; null:
            the arm's own park pose, if it has one.
        posture: Joints that show how the gripper is tilted, rad; null: those of the arm's home.
    """

    name: str
    arm: str
    action_names: tuple[str, ...] = ("ee.x", "ee.y", "ee.z", "gripper")
    action_units: tuple[str, ...] = ("m", "m", "m", "m")
    control_hz: Positive = 5.0
    limits: LimitSettings = LimitSettings()
    settings: SupervisorSettings = SupervisorSettings()
    park_pose: tuple[float, ...] | Literal["home"] | None = None
    posture: tuple[float, ...] | Literal["home"] | None = None


class SimulatedRobot(_RobotSettings, frozen=True, kw_only=True, tag="simulated"):
    """An arm on a table, simulated in real time in a process of its own.

    Attributes:
        name: Name of the choice.
        arm: A name of the table of arms, or `package.function`, which returns a RobotModel.
        park_pose: Joints where the arm parks and may go limp, rad; `home`: the arm's home; null:
            the arm's own park pose, if it has one.
        seed: Seed of the scene: where the arm and the cube stand; null: the command's, or 0.
        image_size: Height and width of the cameras' pictures, pixels.
        random_appearance: Draws light, colours and the camera's pose at random.
        wrist_camera: Adds a second camera on the arm.
        camera_hz: Pictures per second.
    """

    name: str = "sim"
    arm: str = "so100"
    park_pose: tuple[float, ...] | Literal["home"] | None = "home"
    seed: Seed | None = None
    image_size: Pixels = 128
    random_appearance: bool = False
    wrist_camera: bool = False
    camera_hz: Positive = 20.0


class LeRobotRobot(_RobotSettings, frozen=True, kw_only=True, tag="lerobot"):
    """Any LeRobot robot; go through the list in docs/safety.md before its first run.

    Attributes:
        name: Name of the choice.
        arm: A name of the table of arms, or `package.function`, which returns a RobotModel.
        joints: Joint map from the device's joints to angles of the model.
        limits: Limits of the governor, where they differ from the arm's own; slow, for a first run.
        type: LeRobot's type of the robot.
        port: Serial port, such as /dev/ttyACM0; null: the robot has none.
        id: Name of the calibration file, as it was given to lerobot-calibrate; null: none.
        config: Further fields of the robot's LeRobot config.
        cameras: LeRobot config of each camera: its type and settings.
        reply_s: Time after which a servo's reply counts as lost and is asked for again, s.
        camera_latency_s: Time from the exposure to the driver's delivery of a picture, s.
    """

    name: str = "lerobot"
    arm: str
    joints: JointSettings
    limits: LimitSettings = LimitSettings(tip_speed=0.10)  # slow, for a first run
    type: str = "so101_follower"
    port: str | None = None
    id: str | None = None
    config: dict[str, Any] = {}
    cameras: dict[str, Any] = {}
    reply_s: Annotated[float, Meta(gt=0, lt=1)] = 0.02
    camera_latency_s: Annotated[float, Meta(ge=0, lt=1)] = 0.05


RobotSettings = SimulatedRobot | LeRobotRobot


def with_seed(robot: RobotSettings, seed: int) -> RobotSettings:
    """Returns the same robot with a command's seed, unless it has one of its own or needs none."""
    if isinstance(robot, SimulatedRobot) and robot.seed is None:
        return msgspec.structs.replace(robot, seed=seed)
    return robot


# LeRobot's degrees count from the middle of each joint's range, the gripper's percent from shut.
SO101_JOINTS = JointSettings(
    keys=tuple(
        f"{joint}.pos"
        for joint in (
            *("shoulder_pan", "shoulder_lift", "elbow_flex"),
            *("wrist_flex", "wrist_roll", "gripper"),
        )
    ),
    zero=(0.0, 84.27, -90.0, 5.73, 0.0, 9.09),
    rad_per_unit=(*[0.0174533] * 5, 0.022),
)
# Modelled as the SO-100, which has the same kinematics.
SO101 = LeRobotRobot(arm="so100", joints=SO101_JOINTS)
# Down to the table, where reach alone keeps above it.
_TABLE = LimitSettings(
    workspace_low=(0.15, -0.16, 0.016, 0.0), workspace_high=(0.33, 0.16, 0.19, 0.08)
)
# By the names that a command line and a file have for them.
ROBOTS = {
    "sim": SimulatedRobot(),
    "sim_table": SimulatedRobot(name="sim_table", limits=_TABLE),
    "lerobot": SO101,
}


class SimulationSettings(Settings, frozen=True):
    """An arm on a table, and the task on it.

    Attributes:
        name: Name of the task, by which its manifest of episodes is found.
        arm: A name of the table of arms, or `package.function`, which returns a RobotModel.
        instruction: Description of the task in a dataset.
        num_steps: Actions per episode; null: as many as the task asks for.
        simulator: The env (sim_envs.tabletop.Tabletop), or the caller's own.
        task: The task, which judges (sim_envs.reach.ReachTask), or the caller's own.
        demonstrator: The scripted expert of `collect`; null: there is none.
        governed: Whether every command passes through the governor, as on the real arm; false:
            commands go to the servos directly.
        limits: Limits of the governor, where they differ from the arm's own.
    """

    name: str = "reach"
    arm: str = "so100"
    instruction: str = "reach the pose in the goal picture"
    num_steps: Count | None = None
    simulator: Part = Part("tabletop")
    task: Part = Part("reach")
    demonstrator: Part | None = Part("reach")
    governed: bool = True
    limits: LimitSettings = LimitSettings()


# By the names that a command line and a file have for them.
ENVS = {
    "so100_reach": SimulationSettings(),
    "jaco_reach": SimulationSettings(arm="jaco"),
    "so100_push": SimulationSettings(
        name="push",
        instruction="push the cube to where the goal picture shows it",
        task=Part("push"),
        demonstrator=Part("push"),
        limits=_TABLE,
    ),
    "so100_pick_place": SimulationSettings(
        name="pick_place",
        instruction="put the cube where the goal picture shows it",
        task=Part("pick_place"),
        demonstrator=Part("pick_place"),
        limits=_TABLE,
    ),
}
