"""World models: one protocol, an open table of families, one file per family."""

from robot_wm.models.families import (
    Family,
    TrainableModel,
    check_world_model_parts,
    device_of,
    family_of,
    find_family,
    register_family,
)
from robot_wm.models.fitting import FitConfig, TrainingData
from robot_wm.models.latent import LATENT, LatentWorldModel, ModelSpec
from robot_wm.models.protocol import (
    EncodedFrames,
    ModelInfo,
    Select,
    State,
    View,
    WorldModel,
)

__all__ = [
    "LATENT",
    "EncodedFrames",
    "Family",
    "FitConfig",
    "LatentWorldModel",
    "ModelInfo",
    "ModelSpec",
    "Select",
    "State",
    "TrainableModel",
    "TrainingData",
    "View",
    "WorldModel",
    "check_world_model_parts",
    "device_of",
    "family_of",
    "find_family",
    "register_family",
]
