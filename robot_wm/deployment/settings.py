"""What a robot and its controller are set to: values that are checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hardware.supervisor import SupervisorSettings
from robot_wm.deployment.extensions import find_attribute
from robot_wm.types import (
    Positive,
    Seed,
    Settings,
    UserError,
)

Numbers = float | tuple[float, ...] | None
Pixels = Annotated[int, Meta(ge=16, le=4096)]


class LimitSettings(Settings, frozen=True, kw_only=True):
    """Limits of the governor, where they differ from the arm's own (None).

    Attributes:
        max_speed: of every joint, rad/s.
        max_acceleration: of every joint, rad/s^2, braking too.
        tip_speed: of the fastest corner of the arm, m/s.
        box_low, box_high: where every corner of every body stays, m, base frame.
        max_jump: of a joint target from the last command, rad.
        tick_s: from one command to the next, s.
    """

    max_speed: Numbers = None
    max_acceleration: Numbers = None
    tip_speed: float | None = None
    box_low: tuple[float, ...] | None = None
    box_high: tuple[float, ...] | None = None
    max_jump: float | None = None
    tick_s: float | None = None

    def given(self) -> dict[str, Any]:
        """Those that differ, by name."""
        return {name: v for name, v in msgspec.structs.asdict(self).items() if v is not None}


class JointSettings(Settings, frozen=True, kw_only=True):
    """How a device's joints become angles of the model, rad: (value - zero) * rad_per_unit.

    Attributes:
        keys: of the joints in what the device reads.
        zero: what it reads at 0 rad.
        rad_per_unit: below 0 where it turns the other way.
    """

    keys: tuple[str, ...]
    zero: tuple[float, ...]
    rad_per_unit: tuple[float, ...]


class _RobotSettings(Settings, frozen=True, kw_only=True, tag_field="kind"):
    """What every robot has.

    Attributes:
        name: of the choice.
        arm: of the table, or `package.function`, which returns a RobotModel.
        action_names: what a checkpoint's actions must be.
        action_units: of those.
        control_hz: actions a second.
        limits: of the governor.
        settings: when the arm is held, and when that is a fault.
        rest: joints where it parks and may go limp, rad; `"home"`: as the arm's model has it; None:
            it does not park.
        posture: joints that show how the gripper is tilted, rad; None: as at the arm's home.
    """

    name: str
    arm: str
    action_names: tuple[str, ...] = ("ee.x", "ee.y", "ee.z", "gripper")
    action_units: tuple[str, ...] = ("m", "m", "m", "m")
    control_hz: Positive = 5.0
    limits: LimitSettings = LimitSettings()
    settings: SupervisorSettings = SupervisorSettings()
    rest: tuple[float, ...] | Literal["home"] | None = None
    posture: tuple[float, ...] | Literal["home"] | None = None


class SimulatedRobot(_RobotSettings, frozen=True, kw_only=True, tag="simulated"):
    """An arm on a table, simulated in real time in a process of its own.

    Attributes:
        seed: of where it stands.
        image_size: of its cameras, pixels.
        random_appearance: draws light, colours and the camera's place.
        wrist_camera: a second camera, that rides on the arm.
        camera_hz: pictures a second.
    """

    name: str = "sim"
    arm: str = "so100"
    rest: tuple[float, ...] | Literal["home"] | None = "home"
    seed: Seed = 0
    image_size: Pixels = 128
    random_appearance: bool = False
    wrist_camera: bool = False
    camera_hz: Positive = 20.0


class LeRobotRobot(_RobotSettings, frozen=True, kw_only=True, tag="lerobot"):
    """Any LeRobot robot, by the type that LeRobot knows it by. docs/safety.md has the list to go
    through before its first run.

    Attributes:
        joints: how its joints become angles.
        type: LeRobot's.
        port: such as /dev/ttyACM0.
        id: of its calibration file, as lerobot-calibrate was given it.
        config: whatever else its LeRobot config takes.
        cameras: name -> LeRobot camera: its type and settings.
        reply_s: after so long a servo's reply counts as lost, and is asked for again.
        camera_latency_s: from the light to the driver's hands.
    """

    name: str = "lerobot"
    arm: str
    joints: JointSettings
    limits: LimitSettings = LimitSettings(tip_speed=0.10)  # of a first run
    type: str = "so101_follower"
    port: str | None = None
    id: str | None = None
    config: dict[str, Any] = {}
    cameras: dict[str, Any] = {}
    reply_s: Positive = 0.02
    camera_latency_s: Annotated[float, Meta(ge=0, lt=1)] = 0.05


RobotSettings = SimulatedRobot | LeRobotRobot

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
# Modelled as the SO-100, of the same kinematics.
SO101 = LeRobotRobot(arm="so100", joints=SO101_JOINTS)


class Part(Settings, frozen=True, kw_only=True):
    """A part of ours, or of the caller's own.

    Attributes:
        target: the dotted name of what makes it.
        settings: what that is called with, by name.
    """

    target: str
    settings: dict[str, Any] = {}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Part:
        """Reads a group whose `_target_` names what makes it."""
        own = {name: value for name, value in values.items() if not name.startswith("_")}
        return cls(target=str(values["_target_"]), settings=own)

    def make(self, *first: Any, **facts: Any) -> Any:
        """Makes it.

        Args:
            first: what it is called with before its settings.
            facts: settings that stand in the place of its own.

        Raises:
            UserError: nothing of that name, or it does not take its settings.
        """
        build: Any = find_attribute(self.target)
        try:
            return build(*first, **{**self.settings, **facts})
        except TypeError as error:
            raise UserError(f"{self.target}: {error}") from error


class ActionLimits(Settings, frozen=True, kw_only=True):
    """Limits of actions, beside the bounds of robot and training data.

    Attributes:
        scale: a large action, per dimension; None: half of its range.
        fixed: name of a dimension -> the value that it always has.
        trust_radius: longest action, in units of the scale; None: no such limit.
        trust_norm: how long an action is.
    """

    scale: tuple[float, ...] | None = None
    fixed: dict[str, float] = {}
    trust_radius: float | None = None
    trust_norm: Literal["l2", "box"] = "l2"


class SearchBudgetSettings(Settings, frozen=True, kw_only=True):
    """Where imagining saves work (robot_wm.imagination.SearchBudget).

    Attributes:
        keep_share: of the candidates go on to the next imagined step.
        at_least: candidates that are imagined exactly.
        batch_size: candidates at a time; None: all.
        precision: `"bfloat16"` where the elite's ranking survives it; `"auto"`: where it gains.
    """

    keep_share: float = 0.5
    at_least: int = 8
    batch_size: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class ControllerSettings(Settings, frozen=True, kw_only=True):
    """How plans become actions, and when a goal is reached.

    Energies are in units of what one step of the training data changes, on average; a checkpoint
    whose config.json has `step_energy` knows them.

    Attributes:
        execute_steps: actions of a plan before the next.
        margin: a plan must beat doing nothing by it.
        arrival: a goal is reached when what is seen is nearer, and comes no nearer; 0: never.
        arrival_decisions: so many decisions in a row.
        progress: a picture is nearer when its energy is lower by this than any before.
        patience: decisions in a row that come no nearer: then the goal is stalled; 0: never.
        timeout_steps: decisions spent on one goal picture at most; None: no end.
        limits: of actions.
        search_budget: where imagining saves work.
        compile: torch.compile the predictor: for long runs on a GPU.
    """

    execute_steps: int = 1
    margin: float | None = 0.0
    arrival: float | None = 0.1
    arrival_decisions: int = 2
    progress: float | None = 0.1
    patience: int | None = 4
    timeout_steps: int | None = None
    limits: ActionLimits = ActionLimits()
    search_budget: SearchBudgetSettings = SearchBudgetSettings()
    compile: bool = False


class PlanningSettings(Settings, frozen=True, kw_only=True):
    """How a checkpoint plans.

    Attributes:
        planner: makes the optimiser (robot_wm.planners).
        objective: makes what is minimised, of the goal's latent (robot_wm.objectives).
        controller: how plans become actions.
        seed: of the planner's randomness.
    """

    planner: Part
    objective: Part
    controller: ControllerSettings = ControllerSettings()
    seed: Seed = 0
