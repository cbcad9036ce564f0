"""The policy behind LeRobot's `select_action`: it plans a step, moves and holds, call by call.

Every call is at most one tick of a governor, so the commanded joints are as legal as those of
`robot-wm deploy`: the motion of a planned step takes as many ticks as the limits need, at least the
checkpoint's own period. Then the arm stands until a picture shows it standing, and the policy
observes and plans again. The first call of an episode compares the robot and its cameras' pictures
with the checkpoint. The very first calls hold the arm where it is while their rate is measured.
LeRobot waits for a plan; while it is late the arm holds rather than leaps.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE
from torch import Tensor

from hardware.arm_server import SETTLE_S
from hardware.governor import Governor
from lerobot_policy_robot_wm.configuration_robot_wm import RobotWMConfig
from lerobot_policy_robot_wm.layout import (
    Layout,
    check_layout,
    check_rate,
    find_rollout,
    read_layout,
)
from lerobot_policy_robot_wm.overrides import settings_of
from lerobot_policy_robot_wm.pace import Pace
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.deployment.control import check_same_arm, make_controller
from robot_wm.deployment.extensions import import_extensions
from robot_wm.deployment.joints import learned_joints
from robot_wm.deployment.novelty import refuse_novel
from robot_wm.deployment.pictures import goal_name, read_goal
from robot_wm.deployment.policy_process import check_robot, learned_actions, make_actions
from robot_wm.deployment.robots import build_robot, find_arm
from robot_wm.deployment.run import DeploySettings
from robot_wm.deployment.settings import LeRobotRobot
from robot_wm.deployment.threads import share_cores
from robot_wm.kinematics import JointMap, Limits, RobotModel
from robot_wm.monitors import Monitors, load_reference
from robot_wm.precision import pick_device
from robot_wm.proposals import load_prior
from robot_wm.types import ActionSpec, FloatArray, Goal, ImageArray, Observation

_REST = 1e-6  # rad/s
_LATEST = 15  # periods that one step may take before the arm brakes and observes
_LEASH_RAD = 0.3


@dataclass(frozen=True, eq=False)
class _Arm:
    """The caller's arm (robot_wm.deployment.control.Controlled)."""

    action_spec: ActionSpec
    control_dt: float


@dataclass(frozen=True, eq=False)
class _Drive:
    """How the arm is driven through the caller.

    Attributes:
        layout: The caller's robot.
        limits: Limits of the governor, with one call as one tick.
        period: Least number of ticks of a step of the checkpoint.
        settle: Ticks at rest before a picture shows the arm at rest.
        pace: Times the ticks.
    """

    layout: Layout
    limits: Limits
    period: int
    settle: int
    pace: Pace


class RobotWMPolicy(PreTrainedPolicy):
    """Plans toward the goal picture and commands joints, in the robot's own units.

    Attributes:
        config_class: Class of its config, for LeRobot.
        name: Name of the policy, for LeRobot.

    Args:
        config: The checkpoint, the goal, and other settings.
        dataset_meta: LeRobot's description of what is recorded: the robot's features and its rate.
            None: `lerobot-rollout` drives the policy; the first call finds them there or refuses.
        dataset_stats: Not used.
        clock: Function that returns a time that never goes back, s.

    Raises:
        ValueError: the checkpoint is for another robot, there is no goal picture or one that does
            not fit, the robot lacks these joints, or the rate is too low or not `config.fps`.
        FileNotFoundError: there is no such picture.
    """

    config_class = RobotWMConfig  # type: ignore[assignment] - LeRobot declares None
    name = "robot_wm"  # type: ignore[assignment]

    def __init__(
        self,
        config: RobotWMConfig,
        *,
        dataset_meta: Any = None,
        dataset_stats: object = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(config)
        share_cores()
        import_extensions()
        by_camera = any(word.startswith("goal.") for word in config.overrides)
        if bool(config.goal_image) == by_camera:
            raise ValueError(
                f"policy.goal_image: got {config.goal_image or 'none'}, want a picture file, or "
                f'for several cameras policy.overrides=["goal.CAMERA=FILE", ...] alone'
            )
        if config.fps is not None:
            check_rate(config.fps)
        settings = read_settings(config, config.goal_image or "")
        directory = find_checkpoint(settings.checkpoint)
        model, saved = load_checkpoint(directory)
        model.to(pick_device(str(config.device)))
        self._robot, self._joints = read_robot(settings)
        info, learned = model.info, learned_joints(saved)
        spec = info.action_spec
        actions_of = learned_actions(saved)
        own_robot = settings.robot
        assert isinstance(own_robot, LeRobotRobot)
        check_same_arm(info, self._robot, own_robot.type)
        check_robot(spec, info.dt, own_robot, self._robot, actions_of, learned)
        self._clock, self._fps = clock, config.fps
        self._settle_s = SETTLE_S + own_robot.camera_latency_s
        self._actions = make_actions(self._robot, spec, own_robot, learned)
        arm = _Arm(self._actions.spec, info.dt)
        self._controller = make_controller(model, arm, settings, prior=load_prior(directory, info))
        self._cameras = info.cameras
        goals = settings.goals
        self._pictures = {goal_name(goal): read_goal(goal, info.cameras) for goal in goals}
        self._goals = [Goal(images=self._pictures[goal_name(goal)]) for goal in goals]
        self._allow_novel = settings.monitors.allow_novel
        reference = load_reference(directory, model.info)
        self._monitors = Monitors(reference, settings.monitors, step_energy=None)
        self._model = model
        self._drive: _Drive | None = None
        if dataset_meta is not None:
            self._drive = self._make_drive(read_layout(dataset_meta.features, dataset_meta.fps))
        self.reset()  # refuses a picture that does not fit

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: RobotWMConfig,
        dataset_meta: Any = None,
        dataset_stats: object = None,
        clock: Callable[[], float] = time.monotonic,
        **download: object,
    ) -> RobotWMPolicy:
        """Makes the policy as LeRobot calls it; the weights are those of the checkpoint.

        Args:
            pretrained_name_or_path: Name or path that the config came from; it is not used.
            config: As in the class.
            dataset_meta: As in the class.
            dataset_stats: As in the class.
            clock: As in the class.
            **download: Keywords of LeRobot's own `from_pretrained`, such as `revision`. They are
                ignored, as there is nothing to download.

        Returns:
            The policy.

        Raises:
            ValueError: the class raises it.
            TypeError: a keyword is not one of LeRobot's either.
        """
        known = inspect.signature(PreTrainedPolicy.from_pretrained).parameters
        for name in download:
            if name not in known:
                raise TypeError(f"from_pretrained: got an unexpected keyword argument {name!r}")
        return cls(config, dataset_meta=dataset_meta, dataset_stats=dataset_stats, clock=clock)

    def supports_rtc(self) -> bool:
        """Returns False: it observes after every step, so LeRobot refuses `rtc` for it."""
        return False

    def reset(self) -> None:
        """Begins an episode, from wherever the arm stands."""
        with torch.inference_mode(False):
            self._controller.reset(self._goals)
        if self._drive is not None:
            self._drive.pace.skip_interval()
        self._governor: Governor | None = None
        self._start: FloatArray | None = None  # commanded joints at the last observation
        self._target: FloatArray = np.zeros(0)
        self._ticks = self._rested = 0  # since then; of them, the last ones at rest

    def select_action(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns the joints to command now.

        Args:
            batch: `observation.state` `[1, J]` in the robot's units, and
                `observation.images.CAMERA` `[1, 3, height, width]` in 0 to 1.

        Returns:
            The joints `[1, J]`, in the robot's units and in the order of its actions.

        Raises:
            ValueError: the robot's joints are others or unknown; the calls come faster than the
                stated rate; a picture is missing, does not fit or, in an episode's first call, is
                unlike the demonstrations'; a number is not finite; or the arm stands where it may
                not.
            PlanningError: the planner finds no plan with a finite cost.
        """
        with torch.inference_mode(False):  # LeRobot's; planners may want gradients
            now_s = self._clock()
            if self._drive is None:
                self._drive = self._make_drive(self._find_layout())
            drive = self._drive
            drive.pace.note_call(now_s)
            state = batch[OBS_STATE][0].cpu().tolist()
            joints = self._joints.angles(dict(zip(drive.layout.state_names, state, strict=True)))
            if self._governor is None:
                self._check_view(self._pictures_of(batch))
                self._governor = self._make_governor(drive, joints)
                drive.pace.skip_interval()
            stands = self._ticks >= drive.period and self._rested >= drive.settle
            if drive.pace.is_known and (self._start is None or stands):
                self._governor = self._plan_step(
                    drive, self._governor, joints, self._pictures_of(batch)
                )
                drive.pace.skip_interval()
            # The tick begins when its command leaves, as LeRobot calls again right after a plan.
            if self._start is not None and drive.pace.take_tick(self._clock()):
                self._step(drive, self._governor)
            asked = self._joints.values(self._governor.joints)
            return torch.tensor([[asked[name] for name in drive.layout.action_names]])

    def _find_layout(self) -> Layout:
        """Finds the layout of the caller's robot.

        Returns:
            The layout.

        Raises:
            ValueError: the layout cannot be found.
        """
        layout = find_rollout(self)
        if layout is None:
            raise ValueError(
                f"joints: LeRobot {version('lerobot')} has not told their order or the rate of the "
                f"calls; run lerobot-rollout or lerobot-record, or give dataset_meta"
            )
        return layout

    def _make_drive(self, layout: Layout) -> _Drive:
        """Derives from a layout how the arm is driven.

        Args:
            layout: The caller's robot.

        Returns:
            The limits and the timing.

        Raises:
            ValueError: the arm has other joints, or the rate is too low or not `config.fps`.
        """
        check_layout(layout, self._joints.keys, self._fps)
        limits = replace(self._robot.limits, tick_s=1 / layout.fps)
        period, settle = (
            math.ceil(duration_s * layout.fps - 1e-6)
            for duration_s in (self._model.info.dt, self._settle_s)
        )
        return _Drive(layout, limits, period, settle, Pace(layout.fps))

    def _check_view(self, images: Mapping[str, ImageArray]) -> None:
        """Compares the current pictures and the goal pictures with the demonstrations.

        Args:
            images: The current picture of each camera.

        Raises:
            UserError: a picture is unlike the demonstrations'.
        """
        if not self._allow_novel:
            refuse_novel(self._monitors, self._model, images, self._pictures, allow=False)

    def _make_governor(self, drive: _Drive, joints: FloatArray) -> Governor:
        """Makes the governor of an arm that stands at measured joints.

        Args:
            drive: Limits and timing of the motion.
            joints: The joints `[J]`, rad.

        Returns:
            The governor.

        Raises:
            ValueError: the arm may not stand there.
        """
        return Governor(
            drive.limits, self._robot.chain.corners, drive.limits.clip_within_tolerance(joints)
        )

    def _step(self, drive: _Drive, governor: Governor) -> None:
        """Moves one tick toward the target; a motion that takes too long ends where it is."""
        self._ticks += 1
        late = self._ticks > drive.period * _LATEST
        command = governor.step(None if late else self._target)
        moves = (
            np.abs(command.speed).max() > _REST
        )  # not 0: rounding keeps some joints moving for ever
        self._rested = 0 if moves else self._rested + 1

    def _plan_step(
        self,
        drive: _Drive,
        governor: Governor,
        joints: FloatArray,
        images: Mapping[str, ImageArray],
    ) -> Governor:
        """Observes and plans a step from measured joints `[J]`, rad; returns its governor."""
        # A blocked arm must not be pushed ever harder: if it lags, begin from the measured joints.
        if not np.abs(governor.joints - joints).max() < _LEASH_RAD:
            governor = self._make_governor(drive, joints)
        begin, start = self._start, governor.joints
        applied = None if begin is None else self._actions.moved(begin, start)
        proprio = self._actions.proprio(joints)
        observation = Observation(images, proprio, self._clock())
        action = self._controller.act(observation, applied).action
        self._start, self._ticks, self._rested = start, 0, 0
        self._target = self._actions.targets(start, action)[-1]
        return governor

    def _pictures_of(self, batch: Mapping[str, Tensor]) -> dict[str, ImageArray]:
        """Reads the pictures of the checkpoint's cameras from a batch.

        Args:
            batch: As in `select_action`.

        Returns:
            The picture of each camera, uint8 `[height, width, 3]`.

        Raises:
            ValueError: the robot lacks a camera.
        """
        prefix = f"{OBS_IMAGES}."
        have = [key.removeprefix(prefix) for key in batch if key.startswith(prefix)]
        missing = [name for name in self._cameras if name not in have]
        if missing:
            raise ValueError(
                f"checkpoint: it sees through {', '.join(self._cameras)}, the robot has "
                f"{', '.join(have) or 'no camera'}"
            )
        images = {}
        for name in self._cameras:
            levels = (batch[f"{prefix}{name}"][0].permute(1, 2, 0) * 255).round().clamp(0, 255)
            images[name] = levels.to(torch.uint8).cpu().numpy()
        return images

    def get_optim_params(self) -> dict[str, Any]:
        """Returns no parameters: LeRobot does not train the policy."""
        return {}

    def forward(self, batch: dict[str, Tensor]) -> NoReturn:
        """Refuses to be trained by LeRobot."""
        raise NotImplementedError("robot_wm plans; its checkpoints come from `robot-wm train`")

    def predict_action_chunk(self, batch: dict[str, Tensor]) -> NoReturn:
        """Refuses, as there are no action chunks."""
        raise NotImplementedError("robot_wm observes and plans after every step; it has no chunks")


def read_settings(config: RobotWMConfig, goal: str) -> DeploySettings:
    """Reads the settings of `robot-wm deploy` on a LeRobot arm from a policy's config.

    Args:
        config: The policy's config.
        goal: File of the goal picture; empty: the overrides name one for each camera.

    Returns:
        The settings.

    Raises:
        UserError: an override is unknown or out of range.
        ValueError: the limits are wider than the arm's own.
    """
    settings = settings_of(config.checkpoint, goal, config.overrides)
    # A policy's directory may come from a stranger: it names nothing that is imported, and it may
    # only narrow the limits of the arm.
    robot = settings.robot
    if "." in robot.arm:
        raise ValueError(f"policy.overrides: robot.arm={robot.arm}, want a name of ours")
    widest = find_arm(robot.arm).limits
    limits = build_robot(robot).limits
    for field in fields(Limits):
        name = field.name
        have, most = getattr(limits, name), getattr(widest, name)
        narrows = have >= most if name in ("low", "box_low", "tick_s") else have <= most
        if not narrows.all():
            raise ValueError(
                f"policy.overrides: robot.limits.{name}={have.tolist()}, want it no wider than "
                f"{most.tolist()}"
            )
    return settings


def read_robot(settings: DeploySettings) -> tuple[RobotModel, JointMap]:
    """Builds the arm and its joint map.

    Args:
        settings: Settings of the deployment.

    Returns:
        The arm, and how LeRobot counts its joints.

    Raises:
        ValueError: a setting is out of range, or the joint map is missing.
    """
    robot = build_robot(settings.robot)
    if robot.device is None:
        raise ValueError("policy.overrides: robot.joints: got none, want how the arm counts them")
    return robot, robot.device
