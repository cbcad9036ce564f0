"""PretrainConfig: the settings of pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from msgspec import Meta

from robot_wm.types import (
    Count,
    InnerShare,
    NonNegative,
    Positive,
    Precision,
    Share,
    ShareBelowOne,
    check_fields,
)

Objective = Literal["acjepa", "vjepa", "ijepa", "acjepa+vjepa", "acjepa+ijepa"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)


@dataclass(frozen=True)
class PretrainConfig:
    """The settings of pretraining.

    Attributes:
        objective: One of OBJECTIVES. `acjepa` predicts the next embeddings under the actions (LeWM,
            arXiv 2603.19312); `vjepa` and `ijepa` predict the masked patches of clips and of single
            pictures (arXiv 2404.08471, 2301.08243) and need no actions.
        num_steps: Number of optimiser steps.
        time_limit_s: The run ends after this time of training, with its schedule shortened to fit;
            None for no limit. Only a run that ends before its limit can be repeated exactly.
        learning_rate: Peak learning rate, after a warm-up of 100 steps and before a half cosine to
            zero.
        weight_decay: Weight decay of AdamW.
        grad_clip: Largest gradient norm.
        precision: Precision of matrix products; `"auto"` is the one that is faster on this device.
        anti_collapse: Regulariser that keeps acjepa's embeddings from collapsing: `"sigreg"` or
            `"vicreg"`.
        anti_collapse_weight: Weight of the regulariser.
        num_directions: Random directions that SIGReg projects on, drawn anew each step.
        inverse_weight: Weight of the inverse model, a linear read-out of the summed actions between
            any two frames from the change of the embedding. It makes equal motions equal steps in
            latent space.
        motion_share: Share of the final tokens' variance along the directions that this read-out
            uses; the tokens are scaled to it after training, so that their distances reflect
            motions. 0 for no scaling.
        hidden: Width of acjepa's predictor, which is not kept after pretraining.
        mask_share: Share of the patches that are hidden and predicted.
        num_masks: Masks per sample; the teacher's features are computed once for all of them.
        num_blocks: Blocks whose union is a mask.
        duplicate_share: Share of the samples whose tubelets repeat one frame, as a single frame is
            encoded; the others have two consecutive frames. In `ijepa` all samples repeat a frame.
        ema: The teacher's decay at the start; it rises linearly to 1. 0 for no teacher: the student
            computes its own targets, with gradient, and only the variance term prevents collapse.
        variance_weight: Weight of VICReg's variance term on the context's pooled features, for
            masked objectives.
        covariance_weight: Weight of VICReg's covariance term, likewise.
        narrow_width: Width of the predictor of masked patches, which is not kept; a multiple of 16.
        narrow_depth: Number of transformer blocks of that predictor.
        masked_weight: Weight of the masked objective if it is combined with acjepa.
        log_every: Steps between two measurements of the features' spread.
        collapse_std: The run stops if the layer-normed features' standard deviation over the batch
            falls below this.
        collapse_rank: The run stops if the features' effective rank falls below this.

    Raises:
        UserError: a value out of range.
    """

    objective: Objective = "acjepa"
    num_steps: Count = 40000
    time_limit_s: Positive | None = None
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 0.01
    grad_clip: Positive = 1.0
    precision: Precision = "auto"
    anti_collapse: Literal["sigreg", "vicreg"] = "sigreg"
    anti_collapse_weight: NonNegative = 0.05
    num_directions: Count = 512
    inverse_weight: NonNegative = 3.0
    motion_share: ShareBelowOne = 0.9
    hidden: Count = 512
    mask_share: InnerShare = 0.75
    num_masks: Count = 2
    num_blocks: Count = 4
    duplicate_share: Share = 0.5
    ema: ShareBelowOne = 0.996
    variance_weight: NonNegative = 1.0
    covariance_weight: NonNegative = 0.04
    narrow_width: Annotated[int, Meta(ge=16, multiple_of=16)] = 64
    narrow_depth: Count = 2
    masked_weight: NonNegative = 1.0
    log_every: Count = 20
    collapse_std: NonNegative = 0.05
    collapse_rank: NonNegative = 1.5

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def masked(self) -> str | None:
        """The masked objective, `vjepa` or `ijepa`; None without one."""
        last = self.objective.rpartition("+")[2]
        return None if last == "acjepa" else last

    @property
    def from_actions(self) -> bool:
        """Whether the objective needs actions."""
        return self.objective.startswith("acjepa")
