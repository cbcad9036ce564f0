"""The `latent` family: a frozen encoder with a block-causal, action-conditioned predictor."""

from robot_wm.models.latent.family import LATENT, channel_stats
from robot_wm.models.latent.model import LatentState, LatentWorldModel
from robot_wm.models.latent.spec import ModelSpec

__all__ = ["LATENT", "LatentState", "LatentWorldModel", "ModelSpec", "channel_stats"]
