"""Trains on frozen tokens: a world model, and the prior that proposes actions to its planner."""

from robot_wm.training.prior import (
    PriorConfig,
    PriorTraining,
    check_prior_data,
    encode_episodes,
    imagine_goals,
)
from robot_wm.training.world_model import (
    Fitting,
    TrainConfig,
    Training,
    held_out_error,
    learning_rate,
    prepare,
    train,
)

__all__ = [
    "Fitting",
    "PriorConfig",
    "PriorTraining",
    "TrainConfig",
    "Training",
    "check_prior_data",
    "encode_episodes",
    "held_out_error",
    "imagine_goals",
    "learning_rate",
    "prepare",
    "train",
]
