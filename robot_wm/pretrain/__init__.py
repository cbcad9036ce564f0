"""Pretrains an encoder with the JEPA objectives, without rewards or labels."""

from robot_wm.pretrain.collapse import CollapseError, sigreg, spread, vicreg
from robot_wm.pretrain.config import OBJECTIVES, PretrainConfig
from robot_wm.pretrain.loop import Batches, Pretraining, check_objective
from robot_wm.pretrain.masked import sample_masks

__all__ = [
    "OBJECTIVES",
    "Batches",
    "CollapseError",
    "PretrainConfig",
    "Pretraining",
    "check_objective",
    "sample_masks",
    "sigreg",
    "spread",
    "vicreg",
]
