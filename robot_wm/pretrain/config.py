"""How to pretrain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from robot_wm.types import UserError, check_counts

OBJECTIVES = ("acjepa", "vjepa", "ijepa", "acjepa+vjepa", "acjepa+ijepa")


@dataclass(frozen=True)
class PretrainConfig:
    """How to pretrain.

    Attributes:
        objective: one of OBJECTIVES. `acjepa` predicts the next embeddings under the actions (LeWM,
            arXiv 2603.19312); `vjepa` and `ijepa` predict the masked patches of clips and of single
            pictures (arXiv 2404.08471, 2301.08243) and need no actions.
        num_steps: optimiser steps.
        time_limit_s: the run ends after so many seconds of training, its schedule squeezed to fit;
            None for no limit. Only a run that the limit does not touch can be repeated exactly.
        learning_rate: peak; warmed up over 100 steps, then a half cosine to zero.
        weight_decay: of AdamW.
        grad_clip: largest gradient norm.
        precision: of matrix products; `"auto"` is whatever this device is measured to do faster.
        anti_collapse: what keeps acjepa's embeddings apart: `"sigreg"` or `"vicreg"`.
        anti_collapse_weight: of that term.
        num_directions: random directions SIGReg looks along, drawn anew each step.
        inverse_weight: of the linear read-out of what the actions add up to from the change of the
            embedding between any two frames: equal motions are to be equal steps in latent space.
        motion_share: share of the finished tokens' variance that lies along what that read-out
            sees; the tokens are stretched at the end so that their distances are motions. 0: not.
        hidden: width of the throw-away predictor of acjepa.
        mask_share: share of the patches that are hidden and predicted.
        num_masks: masks a sample; the teacher's work is shared by them.
        num_blocks: blocks that a mask is a union of.
        duplicate_share: share of the samples whose tubelets hold one frame twice, as a single frame
            is encoded; the others hold two frames in a row. `ijepa` has no others.
        ema: the teacher's decay at the start; it rises linearly to 1. 0: no teacher; the student
            makes its own targets, gradient and all, which the variance term alone can hold apart.
        variance_weight: of VICReg's variance term on the context's pooled features, masked only.
        covariance_weight: of its covariance term.
        narrow_width: width of the throw-away predictor of masked patches.
        narrow_depth: its blocks.
        masked_weight: of the masked objective where it is combined with acjepa.
        log_every: steps between two looks at the features' spread.
        collapse_std: the run stops when the layer-normed features' standard deviation over the
            batch falls below this.
        collapse_rank: or when their effective rank does.
        seed: of the first weights, the clips, the masks and SIGReg's directions.

    Raises:
        UserError: a value out of range.
    """

    objective: str = "acjepa"
    num_steps: int = 40000
    time_limit_s: float | None = None
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    anti_collapse: Literal["sigreg", "vicreg"] = "sigreg"
    anti_collapse_weight: float = 0.05
    num_directions: int = 512
    inverse_weight: float = 3.0
    motion_share: float = 0.9
    hidden: int = 512
    mask_share: float = 0.75
    num_masks: int = 2
    num_blocks: int = 4
    duplicate_share: float = 0.5
    ema: float = 0.996
    variance_weight: float = 1.0
    covariance_weight: float = 0.04
    narrow_width: int = 64
    narrow_depth: int = 2
    masked_weight: float = 1.0
    log_every: int = 20
    collapse_std: float = 0.05
    collapse_rank: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UserError(f"objective: got {self.objective!r}, want {', '.join(OBJECTIVES)}")
        if self.anti_collapse not in ("sigreg", "vicreg"):
            raise UserError(f"anti_collapse: got {self.anti_collapse!r}, want 'sigreg' or 'vicreg'")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise UserError(
                f"precision: got {self.precision!r}, want 'auto', 'float32' or 'bfloat16'"
            )
        counts = ("num_steps", "num_directions", "hidden", "num_masks", "num_blocks", "log_every")
        check_counts(**{name: getattr(self, name) for name in counts})
        check_counts(narrow_depth=self.narrow_depth)
        if self.narrow_width < 16 or self.narrow_width % 16:
            raise UserError(f"narrow_width: got {self.narrow_width}, want a multiple of 16")
        for name in ("learning_rate", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name}: got {getattr(self, name)}, want above zero")
        limit = self.time_limit_s
        if limit is not None and (
            isinstance(limit, bool)
            or not isinstance(limit, (int, float))
            or not 0 < limit < math.inf
        ):
            raise UserError(f"time_limit_s: got {limit!r}, want seconds above 0")
        weights = ("weight_decay", "anti_collapse_weight", "inverse_weight", "masked_weight")
        weights += ("variance_weight", "covariance_weight", "collapse_std", "collapse_rank")
        for name in weights:
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name}: got {getattr(self, name)}, want at least 0")
        if not 0 <= self.motion_share < 1:
            raise UserError(f"motion_share: got {self.motion_share}, want 0 to below 1")
        if not 0 < self.mask_share < 1:
            raise UserError(f"mask_share: got {self.mask_share}, want between 0 and 1")
        if not 0 <= self.duplicate_share <= 1:
            raise UserError(f"duplicate_share: got {self.duplicate_share}, want 0 to 1")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema: got {self.ema}, want 0 to below 1")

    @property
    def masked(self) -> str | None:
        """`vjepa`, `ijepa`, or None."""
        last = self.objective.rpartition("+")[2]
        return None if last == "acjepa" else last

    @property
    def from_actions(self) -> bool:
        """Whether actions are needed."""
        return self.objective.startswith("acjepa")
