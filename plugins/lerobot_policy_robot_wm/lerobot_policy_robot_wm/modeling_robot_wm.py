"""The planner behind LeRobot's `select_action`: step and hold, in calls instead of seconds.

Every call is one tick of a governor, so the joints asked for are as legal as `robot-wm deploy`'s:
the way to a planned step is spread over as many calls as the limits want, at least the
checkpoint's own period; then it stands until a picture shows it standing, looks and plans again.
Calls are counted, not timed: LeRobot waits for a plan, and while it is late the arm holds rather
than leaps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from hardware.governor import Governor
from hardware.mjcf import load_chain
from hardware.process import SETTLE_S
from lerobot_policy_robot_wm.configuration_robot_wm import RobotWMConfig
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.build import pick_device
from robot_wm.cli.config import load_config
from robot_wm.cli.control import make_controller
from robot_wm.cli.deploy import make_limits
from robot_wm.cli.deploy_planner import check_robot, learned_actions, make_actions
from robot_wm.cli.devices import joint_map
from robot_wm.cli.monitors import load_normal
from robot_wm.cli.pictures import read_picture
from robot_wm.cli.tool import learned_joints
from robot_wm.cli.watch import check_views
from robot_wm.monitors import Monitors, MonitorSettings
from robot_wm.types import ActionSpec, FloatArray, Goal, ImageArray, Observation
from sim_envs.so100_scene import EE_SITE, JOINTS, so100_scene

_REST = 1e-6  # rad/s
_LATEST = 15  # periods that one step may take; then it brakes, and looks
_LEASH_RAD = 0.3
_LEAST_HZ = 10


@dataclass(frozen=True, eq=False)
class _Arm:
    """robot_wm.cli.control.Controlled, of an arm that somebody else drives."""

    action_spec: ActionSpec
    control_dt: float


class RobotWMPolicy(PreTrainedPolicy):
    """Plans toward the goal picture and asks for joints, in the robot's own units.

    Args:
        config: the checkpoint, the goal, and what else is to be different.
        dataset_meta: LeRobot's, of what is recorded: the robot's features and its rate.
        dataset_stats: not needed.

    Raises:
        ValueError: a checkpoint for another robot, no goal picture or one that does not fit, a
            robot without these joints, or a rate that is too low.
        FileNotFoundError: no such picture.
    """

    config_class = RobotWMConfig  # type: ignore[assignment] - LeRobot declares None
    name = "robot_wm"  # type: ignore[assignment]

    def __init__(
        self, config: RobotWMConfig, *, dataset_meta: Any = None, dataset_stats: object = None
    ) -> None:
        super().__init__(config)
        if not config.goal_image:
            raise ValueError("policy.goal_image: got none, want a picture file")
        if dataset_meta is None:
            raise ValueError("dataset_meta: got none, want the robot's features (lerobot-record)")
        if not dataset_meta.fps >= _LEAST_HZ:
            raise ValueError(
                f"dataset.fps: got {dataset_meta.fps}, want at least {_LEAST_HZ}: a servo goes to "
                f"the next goal as fast as it can, so goals must lie close together"
            )
        settings = read_settings(config, config.goal_image)
        directory = find_checkpoint(settings.checkpoint)
        model, saved = load_checkpoint(directory)
        model.to(pick_device(str(config.device)))
        spec, learned = model.spec.action_spec, learned_joints(saved)
        check_robot(spec, model.dt, settings.robot, learned_actions(saved), learned)
        self._chain = load_chain(*so100_scene(), joints=JOINTS, tool=EE_SITE)
        self._joints = joint_map(settings.robot)
        self._state_names = _names(dataset_meta.features, OBS_STATE, self._joints.keys)
        self._action_names = _names(dataset_meta.features, ACTION, self._joints.keys)
        limits = make_limits(settings.robot.limits, self._chain)
        self._limits = replace(limits, tick_s=1 / dataset_meta.fps)
        self._period = math.ceil(model.dt * dataset_meta.fps - 1e-6)  # calls
        settle_s = SETTLE_S + float(settings.robot.camera_latency_s)
        self._settle = math.ceil(settle_s * dataset_meta.fps - 1e-6)  # calls
        self._actions = make_actions(self._chain, spec, settings.robot, learned)
        arm = _Arm(self._actions.spec, model.dt)
        self._controller = make_controller(model, arm, settings)
        self._camera = model.spec.camera
        paths = (str(settings.goal), *settings.then)
        self._pictures = {path: read_picture(Path(path)) for path in paths}
        self._goals = [Goal(images={self._camera: self._pictures[path]}) for path in paths]
        own: Any = OmegaConf.to_container(settings.monitors)
        self._allow_strange = bool(own.pop("allow_strange"))
        normal = load_normal(directory, model)
        self._monitors = Monitors(normal, MonitorSettings(**own), step_energy=None)
        self._model = model
        self.reset()  # refuses a picture that does not fit

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: RobotWMConfig,
        dataset_meta: Any = None,
        dataset_stats: object = None,
    ) -> RobotWMPolicy:
        """As LeRobot calls it; the weights are the checkpoint's, there are none beside the config.

        Raises:
            ValueError: see the class.
        """
        return cls(config, dataset_meta=dataset_meta, dataset_stats=dataset_stats)

    def reset(self) -> None:
        """Begins an episode: from wherever the arm then stands."""
        with torch.inference_mode(False):
            self._controller.reset(self._goals)
        self._governor: Governor | None = None
        self._start: FloatArray | None = None  # commanded joints at the last look
        self._target: FloatArray = np.zeros(0)
        self._calls = self._rested = 0  # since the last look; of them, the last ones at rest

    def select_action(self, batch: dict[str, Tensor]) -> Tensor:
        """The joints to ask for now `[1, J]`, in the robot's units and the order of its actions.

        Args:
            batch: `observation.state` `[1, J]` in the robot's units, and
                `observation.images.CAMERA` `[1, 3, height, width]` in 0 to 1.

        Raises:
            ValueError: a picture that is missing, does not fit or, in an episode's first call, is
                unlike the demonstrations'; numbers that are not finite; or an arm that stands
                where it may not.
            PlanningError: no plan that the planner can stand behind.
        """
        with torch.inference_mode(False):  # LeRobot's; planners may want gradients
            over = self._calls >= self._period and self._rested >= self._settle
            if self._governor is None or over:
                state = batch[OBS_STATE][0].cpu().tolist()
                joints = self._joints.angles(dict(zip(self._state_names, state, strict=True)))
                self._governor = self._look(joints, self._picture(batch))
            self._calls += 1
            late = self._calls > self._period * _LATEST
            command = self._governor.step(None if late else self._target)
            moves = np.abs(command.speed).max() > _REST  # rounding keeps some on their way for ever
            self._rested = 0 if moves else self._rested + 1
            joints = self._joints.values(command.joints)
            return torch.tensor([[joints[name] for name in self._action_names]])

    def _look(self, joints: FloatArray, picture: ImageArray) -> Governor:
        """Plans the next step from measured joints `[J]`, rad; who governs the way there."""
        governor = self._governor
        if governor is None and not self._allow_strange:
            seen = {self._camera: picture}
            problems = check_views(self._monitors, self._model, seen, self._pictures)
            if problems:
                raise ValueError(
                    f"{'; '.join(problems)} (monitors.allow_strange=true drives all the same)"
                )
        # A blocked arm must not be pushed ever harder: where it does not follow, it begins anew.
        if governor is None or not np.abs(governor.joints - joints).max() < _LEASH_RAD:
            seat = self._limits.seat(joints)
            governor = Governor(self._limits, self._chain.corners, seat)
        begin, start = self._start, governor.joints
        applied = None if begin is None else self._actions.moved(begin, start)
        proprio = self._actions.proprio(joints)
        seen = Observation({self._camera: picture}, proprio, time.monotonic())
        action = self._controller.act(seen, applied)
        self._start, self._calls, self._rested = start, 0, 0
        self._target = self._actions.targets(start, action)[-1]
        return governor

    def _picture(self, batch: Mapping[str, Tensor]) -> ImageArray:
        picture = batch.get(f"{OBS_IMAGES}.{self._camera}")
        if picture is None:
            prefix = f"{OBS_IMAGES}."
            have = [key.removeprefix(prefix) for key in batch if key.startswith(prefix)]
            raise ValueError(
                f"checkpoint: it sees through {self._camera!r}, the robot has "
                f"{', '.join(have) or 'no camera'}"
            )
        levels = (picture[0].permute(1, 2, 0) * 255).round().clamp(0, 255)
        return levels.to(torch.uint8).cpu().numpy()

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
        ValueError: limits wider than those that ship.
    """
    own = [f"checkpoint={config.checkpoint}", f"goal={goal}", *config.overrides]
    settings = load_config("deploy", ["robot=lerobot", *own])
    # A policy's directory may be a stranger's: it may narrow what an arm does, not widen it.
    widest = load_config("deploy", ["robot=sim", "checkpoint=any", "goal=any"]).robot.limits
    for name in widest:
        have, most = np.array(settings.robot.limits[name]), np.array(widest[name])
        if not ((have >= most) if name in ("box_low", "tick_s") else (have <= most)).all():
            raise ValueError(
                f"policy.overrides: robot.limits.{name}={have.tolist()}, want it no wider than "
                f"{most.tolist()}"
            )
    return settings


def _names(features: Mapping[str, Any], key: str, wanted: tuple[str, ...]) -> list[str]:
    """What a vector of LeRobot's features is made of: each of the arm's joints.

    Raises:
        ValueError: they are others.
    """
    names = list(features.get(key, {}).get("names") or [])
    if sorted(names) != sorted(wanted):
        raise ValueError(
            f"checkpoint: made for another robot: it has {key} {', '.join(names) or 'nothing'}, "
            f"want {', '.join(wanted)}"
        )
    return names
