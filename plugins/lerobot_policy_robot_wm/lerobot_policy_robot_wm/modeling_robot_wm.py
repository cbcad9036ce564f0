"""The planner behind LeRobot's `select_action`: step and hold, in calls instead of seconds.

Every call is at most one tick of a governor, so the joints asked for are as legal as
`robot-wm deploy`'s: the way to a planned step is spread over as many ticks as the limits want, at
least the checkpoint's own period; then it stands until a picture shows it standing, looks and plans
again. An episode's first call compares the robot and what its camera sees with the checkpoint. The
first calls of all ask the arm to stay where it is while their rate is measured. LeRobot waits for a
plan, and while it is late the arm holds rather than leaps.
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
from omegaconf import DictConfig, OmegaConf
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
from lerobot_policy_robot_wm.pace import Pace
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.config import load_config, plain, planning_settings, robot_settings
from robot_wm.deployment.control import check_same_arm, make_controller
from robot_wm.deployment.extensions import import_extensions
from robot_wm.deployment.joints import learned_joints
from robot_wm.deployment.novelty import check_views
from robot_wm.deployment.pictures import goal_name, read_goal
from robot_wm.deployment.policy_process import check_robot, learned_actions, make_actions
from robot_wm.deployment.robots import build_robot, find_arm
from robot_wm.deployment.settings import LeRobotRobot
from robot_wm.deployment.threads import share_cores
from robot_wm.kinematics import JointMap, Limits, RobotModel
from robot_wm.monitors import Monitors, MonitorSettings, load_reference
from robot_wm.precision import pick_device
from robot_wm.types import ActionSpec, FloatArray, Goal, ImageArray, Observation

_REST = 1e-6  # rad/s
_LATEST = 15  # periods that one step may take; then it brakes, and looks
_LEASH_RAD = 0.3


@dataclass(frozen=True, eq=False)
class _Arm:
    """robot_wm.deployment.control.Controlled, of an arm that somebody else drives."""

    action_spec: ActionSpec
    control_dt: float


@dataclass(frozen=True, eq=False)
class _Drive:
    """How the arm is driven by whoever calls.

    Attributes:
        layout: the caller's robot.
        limits: of one tick, which is one call.
        period: ticks that a step of the checkpoint takes at least.
        settle: ticks at rest before a picture shows the arm at rest.
        pace: tells the ticks.
    """

    layout: Layout
    limits: Limits
    period: int
    settle: int
    pace: Pace


class RobotWMPolicy(PreTrainedPolicy):
    """Plans toward the goal picture and asks for joints, in the robot's own units.

    Args:
        config: the checkpoint, the goal, and what else is to be different.
        dataset_meta: LeRobot's, of what is recorded: the robot's features and its rate. None:
            `lerobot-rollout` drives the policy; the first call finds them there, or refuses.
        dataset_stats: not needed.
        clock: seconds, never going back.

    Raises:
        ValueError: a checkpoint for another robot, no goal picture or one that does not fit, a
            robot without these joints, or a rate that is too low or another than `config.fps`.
        FileNotFoundError: no such picture.
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
        own_robot = robot_settings(settings)
        assert isinstance(own_robot, LeRobotRobot)
        check_same_arm(info, self._robot, own_robot.type)
        check_robot(spec, info.dt, own_robot, self._robot, actions_of, learned)
        self._clock, self._fps = clock, config.fps
        self._settle_s = SETTLE_S + own_robot.camera_latency_s
        self._actions = make_actions(self._robot, spec, own_robot, learned)
        arm = _Arm(self._actions.spec, info.dt)
        self._controller = make_controller(model, arm, planning_settings(settings))
        self._cameras = info.cameras
        wanted = [plain(value) for value in (settings.goal, *settings.then)]
        self._pictures = {goal_name(goal): read_goal(goal, info.cameras) for goal in wanted}
        self._goals = [Goal(images=self._pictures[goal_name(goal)]) for goal in wanted]
        own: Any = OmegaConf.to_container(settings.monitors)
        self._allow_novel = bool(own.pop("allow_novel"))
        normal = load_reference(directory, model.info)
        self._monitors = Monitors(normal, MonitorSettings(**own), step_energy=None)
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
        """As LeRobot calls it; the weights are the checkpoint's, there are none beside the config.

        Args:
            pretrained_name_or_path: where the config came from.
            config: see the class, like what follows.
            dataset_meta: see the class.
            dataset_stats: see the class.
            clock: see the class.
            download: how LeRobot would get weights, such as `revision`: whatever its own
                `from_pretrained` takes by name. There is nothing to get.

        Raises:
            ValueError: see the class.
            TypeError: a keyword that LeRobot does not know either.
        """
        known = inspect.signature(PreTrainedPolicy.from_pretrained).parameters
        for name in download:
            if name not in known:
                raise TypeError(f"from_pretrained: got an unexpected keyword argument {name!r}")
        return cls(config, dataset_meta=dataset_meta, dataset_stats=dataset_stats, clock=clock)

    def supports_rtc(self) -> bool:
        """No: it looks after every step and has no chunks, so LeRobot refuses `rtc` for it."""
        return False

    def reset(self) -> None:
        """Begins an episode: from wherever the arm then stands."""
        with torch.inference_mode(False):
            self._controller.reset(self._goals)
        if self._drive is not None:
            self._drive.pace.skip_interval()
        self._governor: Governor | None = None
        self._start: FloatArray | None = None  # commanded joints at the last look
        self._target: FloatArray = np.zeros(0)
        self._ticks = self._rested = 0  # since the last look; of them, the last ones at rest

    def select_action(self, batch: dict[str, Tensor]) -> Tensor:
        """The joints to ask for now `[1, J]`, in the robot's units and the order of its actions.

        Args:
            batch: `observation.state` `[1, J]` in the robot's units, and
                `observation.images.CAMERA` `[1, 3, height, width]` in 0 to 1.

        Raises:
            ValueError: a robot whose joints are others or are not told; calls that come faster than
                was told; a picture that is missing, does not fit or, in an episode's first
                call, is unlike the demonstrations'; numbers that are not finite; or an arm that
                stands where it may not.
            PlanningError: no plan that the planner can stand behind.
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
                self._governor = self._look(drive, self._governor, joints, self._pictures_of(batch))
                drive.pace.skip_interval()
            # The tick begins when its command leaves: after a plan LeRobot calls at once again.
            if self._start is not None and drive.pace.take_tick(self._clock()):
                self._step(drive, self._governor)
            asked = self._joints.values(self._governor.joints)
            return torch.tensor([[asked[name] for name in drive.layout.action_names]])

    def _find_layout(self) -> Layout:
        """The layout of the robot of whoever calls.

        Raises:
            ValueError: it cannot be known.
        """
        layout = find_rollout(self)
        if layout is None:
            raise ValueError(
                f"joints: LeRobot {version('lerobot')} has not told their order or the rate of the "
                f"calls; run lerobot-rollout or lerobot-record, or give dataset_meta"
            )
        return layout

    def _make_drive(self, layout: Layout) -> _Drive:
        """How the arm of a caller is driven.

        Raises:
            ValueError: the arm has other joints, or the rate is too low or not the one asked for.
        """
        check_layout(layout, self._joints.keys, self._fps)
        limits = replace(self._robot.limits, tick_s=1 / layout.fps)
        period, settle = (
            math.ceil(duration_s * layout.fps - 1e-6)
            for duration_s in (self._model.info.dt, self._settle_s)
        )
        return _Drive(layout, limits, period, settle, Pace(layout.fps))

    def _check_view(self, images: Mapping[str, ImageArray]) -> None:
        """Compares what is seen and what is wanted with the demonstrations.

        Raises:
            ValueError: one of them is unlike those.
        """
        if self._allow_novel:
            return
        problems = check_views(self._monitors, self._model, images, self._pictures)
        if problems:
            raise ValueError(
                f"{'; '.join(problems)} (monitors.allow_novel=true drives all the same)"
            )

    def _make_governor(self, drive: _Drive, joints: FloatArray) -> Governor:
        """A governor of an arm that stands at measured joints `[J]`, rad.

        Raises:
            ValueError: it may not stand there.
        """
        return Governor(drive.limits, self._robot.chain.corners, drive.limits.seat(joints))

    def _step(self, drive: _Drive, governor: Governor) -> None:
        """One tick toward the target; one that takes too long ends where it is."""
        self._ticks += 1
        late = self._ticks > drive.period * _LATEST
        command = governor.step(None if late else self._target)
        moves = np.abs(command.speed).max() > _REST  # rounding keeps some on their way for ever
        self._rested = 0 if moves else self._rested + 1

    def _look(
        self,
        drive: _Drive,
        governor: Governor,
        joints: FloatArray,
        images: Mapping[str, ImageArray],
    ) -> Governor:
        """Plans the next step from measured joints `[J]`, rad; who governs the way there."""
        # A blocked arm must not be pushed ever harder: where it does not follow, it begins anew.
        if not np.abs(governor.joints - joints).max() < _LEASH_RAD:
            governor = self._make_governor(drive, joints)
        begin, start = self._start, governor.joints
        applied = None if begin is None else self._actions.moved(begin, start)
        proprio = self._actions.proprio(joints)
        seen = Observation(images, proprio, self._clock())
        action = self._controller.act(seen, applied).action
        self._start, self._ticks, self._rested = start, 0, 0
        self._target = self._actions.targets(start, action)[-1]
        return governor

    def _pictures_of(self, batch: Mapping[str, Tensor]) -> dict[str, ImageArray]:
        """What the checkpoint's cameras see, by their names.

        Raises:
            ValueError: the robot lacks one.
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
        return {}

    def forward(self, batch: dict[str, Tensor]) -> NoReturn:
        raise NotImplementedError("robot_wm plans; its checkpoints come from `robot-wm train`")

    def predict_action_chunk(self, batch: dict[str, Tensor]) -> NoReturn:
        raise NotImplementedError("robot_wm looks after every step; it has no chunks")


def read_settings(config: RobotWMConfig, goal: str) -> DictConfig:
    """`robot-wm deploy`'s configuration of a LeRobot arm, with what this policy's says.

    Raises:
        UsageError: an override that it does not take.
        ValueError: limits wider than the arm's own.
    """
    own = [f"checkpoint={config.checkpoint}", *([f"goal={goal}"] if goal else [])]
    settings = load_config("deploy", ["robot=lerobot", *own, *config.overrides], typed=False)
    # A policy's directory may be a stranger's: it names nothing that is imported, and it may narrow
    # what an arm does, not widen it.
    robot = robot_settings(settings)
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


def read_robot(settings: DictConfig) -> tuple[RobotModel, JointMap]:
    """The arm, and how LeRobot counts its joints.

    Raises:
        ValueError: settings that make no sense, or joints that are not told.
    """
    robot = build_robot(robot_settings(settings))
    if robot.device is None:
        raise ValueError("policy.overrides: robot.joints: got none, want how the arm counts them")
    return robot, robot.device
