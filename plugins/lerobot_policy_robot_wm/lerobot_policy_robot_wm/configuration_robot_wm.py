"""The options `--policy.…`. LeRobot finds model and processors in this package by file name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from lerobot.configs.policies import PreTrainedConfig


@PreTrainedConfig.register_subclass("robot_wm")
@dataclass
class RobotWMConfig(PreTrainedConfig):
    """A checkpoint of robot_wm, and the goal that it pursues.

    Attributes:
        checkpoint: A directory, or the name of a checkpoint that ships.
        goal_image: File of the goal picture; None: the overrides name one for each camera.
        overrides: Words as `robot-wm deploy` takes them, such as `planner.horizon=2`.
        fps: Calls per second that the policy is made for, which the command must match; None: as
            many as the command says.
    """

    checkpoint: str = "so100_tabletop"
    goal_image: str | None = None
    overrides: list[str] = field(default_factory=list)
    fps: float | None = None

    @property
    def observation_delta_indices(self) -> None:
        """None: the policy needs the current observation alone."""
        return None

    @property
    def action_delta_indices(self) -> None:
        """None: the policy is not trained by LeRobot."""
        return None

    @property
    def reward_delta_indices(self) -> None:
        """None: the policy uses no rewards."""
        return None

    def get_optimizer_preset(self) -> NoReturn:
        """Refuses to be trained by LeRobot."""
        raise NotImplementedError("robot_wm plans; its checkpoints come from `robot-wm train`")

    def get_scheduler_preset(self) -> None:
        """Returns None: there is no training."""
        return None

    def validate_features(self) -> None:
        """Does nothing: the policy itself compares the robot with its checkpoint."""
