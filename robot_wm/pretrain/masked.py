"""Objectives `vjepa` and `ijepa`: predict the features of hidden patches from visible ones."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from robot_wm.encoders import MiniEncoder, sincos_2d
from robot_wm.layers import LAYER_NORM_EPS, Block, init_transformer
from robot_wm.pretrain.collapse import vicreg
from robot_wm.pretrain.config import PretrainConfig


class MaskedObjective(nn.Module):
    """The EMA teacher, the narrow predictor, and the loss of the student.

    The student gets the visible patches only, the predictor fills in the hidden ones from mask
    tokens, and the targets are the teacher's layer-normed features (V-JEPA, arXiv 2404.08471, with
    an L1 loss; I-JEPA, arXiv 2301.08243, the same on single pictures with an L2 loss). A mask
    hides the same patches in every tubelet of a clip.

    Args:
        encoder: The student with its initial weights.
        config: The settings of pretraining.
    """

    def __init__(self, encoder: MiniEncoder, config: PretrainConfig) -> None:
        super().__init__()
        self._config, self._side = config, encoder.side
        self.teacher = copy.deepcopy(encoder).requires_grad_(False)
        width, narrow = encoder.config.width, config.narrow_width
        self.in_proj = nn.Linear(width, narrow)
        self.mask_token = nn.Parameter(torch.zeros(narrow))
        self.blocks = nn.ModuleList(Block(narrow, narrow // 16) for _ in range(config.narrow_depth))
        self.norm = nn.LayerNorm(narrow, eps=LAYER_NORM_EPS)
        self.out_proj = nn.Linear(narrow, width)
        self.register_buffer("positions", sincos_2d(encoder.side, narrow), persistent=False)

    def init(self, generator: torch.Generator) -> None:
        """Draws the predictor's initial weights from `generator`."""
        predictor = nn.ModuleList((self.in_proj, self.blocks, self.out_proj))
        init_transformer(self.blocks, predictor, generator)
        nn.init.trunc_normal_(self.mask_token, std=0.02, generator=generator)

    def forward(
        self, encoder: MiniEncoder, frames: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Computes the error on the hidden patches, and VICReg's terms of the context.

        Args:
            encoder: The student.
            frames: Prepared pictures `[B, T, 3, height, width]`.
            rng: Draws the masks and which samples are single frames.

        Returns:
            The loss (scalar), its terms, and the teacher's features of one tubelet per sample,
            `[n, patches, width]`.
        """
        config = self._config
        first, second = self._tubelets(frames, rng)  # [n, U, 3, h, w]
        hidden = sample_masks(
            self._side,
            len(first) * config.num_masks,
            share=config.mask_share,
            num_blocks=config.num_blocks,
            rng=rng,
        )
        num_tubelets, cells = first.shape[1], self._side**2
        order = torch.from_numpy(np.argsort(hidden, axis=1, kind="stable")).to(frames.device)
        # The order of the cells is the same in every tubelet, with the visible ones first.
        offsets = torch.arange(num_tubelets, device=frames.device) * cells
        num_visible = cells - int(hidden[0].sum())
        visible = rearrange(order[:, None, :num_visible] + offsets[:, None], "n u k -> n (u k)")
        masked = rearrange(order[:, None, num_visible:] + offsets[:, None], "n u k -> n (u k)")

        teacher = self.teacher if config.ema else encoder
        with torch.set_grad_enabled(not config.ema):
            features = teacher.transform(self._embed(teacher, first, second))
            features = features[:, encoder.config.num_tokens :].float()
            targets = F.layer_norm(features, features.shape[-1:])
            targets = _take(targets.repeat_interleave(config.num_masks, 0), masked)

        first, second = (x.repeat_interleave(config.num_masks, 0) for x in (first, second))
        student = self._embed(encoder, first, second, torch.from_numpy(hidden).to(frames.device))
        context = encoder.transform(_take(student, visible))[:, encoder.config.num_tokens :]
        imagined = self._predict(context, visible, masked, num_tubelets)
        if config.masked == "vjepa":
            error = (imagined - targets).abs().mean()
        else:
            error = (imagined - targets).square().mean()
        variance, covariance = vicreg(context.float().mean(1))
        loss = error + config.variance_weight * variance + config.covariance_weight * covariance
        parts = {"masked": error, "variance": variance, "covariance": covariance}
        return loss, parts, features[:, :cells]

    @torch.no_grad()
    def update_teacher(self, encoder: MiniEncoder, progress: float) -> None:
        """Moves the teacher's weights toward the student's; `progress` of the run is in [0, 1]."""
        decay = self._config.ema + (1 - self._config.ema) * progress if self._config.ema else 0.0
        weights = zip(self.teacher.parameters(), encoder.parameters(), strict=True)
        for teacher_weight, student_weight in weights:
            teacher_weight.lerp_(student_weight, 1 - decay)

    def _tubelets(self, frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Returns the first and second frames of tubelets, `[n, U, 3, height, width]` each."""
        if self._config.masked == "ijepa":
            single = frames.flatten(0, 1)[:, None]
            return single, single
        even = frames.shape[1] // 2 * 2
        first, second = frames[:, 0:even:2], frames[:, 1:even:2]
        twice = torch.from_numpy(rng.random(len(frames)) < self._config.duplicate_share)
        return first, torch.where(twice.to(frames.device)[:, None, None, None, None], first, second)

    def _embed(
        self, encoder: MiniEncoder, first: Tensor, second: Tensor, hidden: Tensor | None = None
    ) -> Tensor:
        """Returns the embedded patches of all tubelets, `[n, U * patches, width]`."""
        n, u = first.shape[:2]
        if hidden is not None:
            hidden = hidden.repeat_interleave(u, 0)
        x = encoder.embed(first.flatten(0, 1), second.flatten(0, 1), hidden)
        x = rearrange(x, "(n u) l w -> n u l w", n=n) + _times(u, x)[:, None]
        return x.flatten(1, 2)

    def _predict(
        self, context: Tensor, visible: Tensor, masked: Tensor, num_tubelets: int
    ) -> Tensor:
        space = self.get_buffer("positions")
        positions = space + _times(num_tubelets, space)[:, None]
        positions = positions.flatten(0, 1)  # [U * patches, narrow]
        x = torch.cat(
            (self.in_proj(context) + positions[visible], self.mask_token + positions[masked]), dim=1
        )
        for block in self.blocks:
            x, _ = block(x)
        return self.out_proj(self.norm(x[:, visible.shape[1] :])).float()


def sample_masks(
    side: int, num: int, *, share: float, num_blocks: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws masks of large blocks that each hide the same number of patches.

    Blocks with an aspect ratio between 3:4 and 4:3 are added until the share is reached. Surplus
    hidden patches are then made visible at random, so that a batch needs no padding.

    Args:
        side: Patches along an edge.
        num: Number of masks, n.
        share: Share of the patches that a mask hides; at least one is hidden and one is not.
        num_blocks: Number of blocks that would reach the share if they did not overlap.
        rng: Draws the masks.

    Returns:
        bool `[n, side * side]`, true where hidden.
    """
    cells = side * side
    count = min(cells - 1, max(1, round(share * cells)))
    masks = np.zeros((num, side, side), bool)
    for mask in masks:
        while (hidden := int(mask.sum())) < count:
            aspect = math.exp(rng.uniform(-math.log(4 / 3), math.log(4 / 3)))
            area = count / num_blocks
            height = min(side, max(1, round(math.sqrt(area * aspect))))
            width = min(side, max(1, round(math.sqrt(area / aspect))))
            top = rng.integers(side - height + 1)
            left = rng.integers(side - width + 1)
            mask[top : top + height, left : left + width] = True
        surplus = rng.choice(np.flatnonzero(mask), hidden - count, replace=False)
        mask.reshape(-1)[surplus] = False
    return masks.reshape(num, cells)


def _times(num_tubelets: int, like: Tensor) -> Tensor:
    """Returns sine-cosine positions in time, `[U, width]`, which are zero for the first."""
    width = like.shape[-1]
    frequencies = 10000 ** -(torch.arange(width // 2, device=like.device) / (width // 2))
    angles = torch.arange(num_tubelets, device=like.device)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos() - 1), dim=1).to(like.dtype)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Returns the tokens of `x` `[n, L, width]` at `index` `[n, k]`."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))
