"""What `--policy.…` may say. LeRobot finds model and processors beside it by their file names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from lerobot.configs.policies import PreTrainedConfig


@PreTrainedConfig.register_subclass("robot_wm")
@dataclass
class RobotWMConfig(PreTrainedConfig):
    """A checkpoint of robot_wm, and what it is to reach.

    Attributes:
        checkpoint: a directory, or the name of one that ships.
        goal_image: picture file of what is wanted.
        overrides: words as `robot-wm deploy` takes them, such as `planner.horizon=2`.
        fps: calls per second that the policy is made for; the command must call as often. None:
            as often as the command says that it calls.
    """

    checkpoint: str = "so100_reach"
    goal_image: str | None = None
    overrides: list[str] = field(default_factory=list)
    fps: float | None = None

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> None:
        return None

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> NoReturn:
        raise NotImplementedError("robot_wm plans; its checkpoints come from `robot-wm train`")

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        """Nothing: the policy compares the robot with its checkpoint."""
