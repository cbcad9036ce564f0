"""The predictor of V-JEPA 2-AC (arXiv 2506.09985): a block-causal, action-conditioned transformer.

Per frame the tokens are `[action, state, P patches]`. Attention is full inside a frame's block and
reaches every earlier block; block t predicts the tokens of frame t + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from robot_wm.layers import LAYER_NORM_EPS, Block, init_transformer


@dataclass(frozen=True)
class PredictorConfig:
    """Shape of a Predictor.

    Attributes:
        token_dim: the encoder's token dimension, D.
        grid: rows and columns of the token map, P = rows * columns.
        action_dim: A.
        state_dim: Q.
        max_frames: longest sequence it takes, T.
        width: transformer width.
        depth: transformer blocks.
        num_heads: attention heads.
        mlp_ratio: hidden size of the MLP over the width.
        rotary: `"release"` pairs angles as the released V-JEPA 2 weights need; `"standard"`
            gives both channels of a pair the same angle.
        grid_size: rows that row and column positions are scaled to; None for `grid[0]`.
        residual: predict the change of the tokens instead of the tokens.
    """

    token_dim: int
    grid: tuple[int, int]
    action_dim: int
    state_dim: int
    max_frames: int = 8
    width: int = 128
    depth: int = 3
    num_heads: int = 4
    mlp_ratio: float = 4.0
    rotary: Literal["release", "standard"] = "standard"
    grid_size: int | None = None
    residual: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        sizes = (
            *(self.token_dim, *self.grid, self.action_dim, self.state_dim, self.max_frames),
            *(self.width, self.depth, self.num_heads, self.mlp_ratio * self.width),
        )
        if min(sizes) < 1:
            raise ValueError(f"PredictorConfig: got {self}, want every size at least 1")
        if self.rotary not in ("release", "standard"):
            raise ValueError(f"rotary: got {self.rotary!r}, want 'release' or 'standard'")


class Predictor(nn.Module):
    """Imagines the next frame's tokens at every frame of a sequence.

    Args:
        config: its shape.
        generator: of the first weights; torch's own where None.
    """

    def __init__(
        self, config: PredictorConfig, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.predictor_embed = nn.Linear(config.token_dim, width)
        self.action_encoder = nn.Linear(config.action_dim, width)
        self.state_encoder = nn.Linear(config.state_dim, width)
        self.predictor_blocks = nn.ModuleList(
            Block(width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.predictor_proj = nn.Linear(width, config.token_dim)
        init_transformer(self.predictor_blocks, self, generator)
        cos, sin = _rotary_table(config, _NUM_CONDITIONS)
        self._cos: Tensor
        self._sin: Tensor
        self._mask: Tensor
        self.register_buffer("_cos", cos, persistent=False)
        self.register_buffer("_sin", sin, persistent=False)
        mask = block_causal_mask(config.max_frames, _NUM_CONDITIONS + self.num_tokens)
        self.register_buffer("_mask", mask, persistent=False)

    @property
    def num_tokens(self) -> int:
        """Tokens per frame, P."""
        return self.config.grid[0] * self.config.grid[1]

    def forward(self, tokens: Tensor, actions_n: Tensor, states_n: Tensor) -> Tensor:
        """Predicts the next tokens.

        Args:
            tokens: `[B, T, P, D]` of frames 0 to T - 1.
            actions_n: `[B, T, A]` normalised; action t leads from frame t to t + 1.
            states_n: `[B, T, Q]` normalised proprioception.

        Returns:
            `[B, T, P, D]`: entry t is the prediction of frame t + 1.

        Raises:
            ValueError: a shape does not fit, or more frames than `max_frames`.
        """
        config, (batch, frames) = self.config, tokens.shape[:2]
        wanted = {
            "tokens": (tokens, (self.num_tokens, config.token_dim)),
            "actions": (actions_n, (config.action_dim,)),
            "states": (states_n, (config.state_dim,)),
        }
        for name, (value, tail) in wanted.items():
            if tuple(value.shape) != (batch, frames, *tail):
                raise ValueError(f"{name}: got {tuple(value.shape)}, want {(batch, frames, *tail)}")
        if frames > config.max_frames:
            raise ValueError(f"frames: got {frames}, want at most {config.max_frames}")
        x = torch.cat(
            (
                self.action_encoder(actions_n)[:, :, None],
                self.state_encoder(states_n)[:, :, None],
                self.predictor_embed(tokens),
            ),
            dim=2,
        )  # [B, T, conditions + P, width]
        length = frames * x.shape[2]
        x = rearrange(x, "b t p d -> b (t p) d")
        mask, rotary = self._mask[:length, :length], (self._cos[:length], self._sin[:length])
        for block in self.predictor_blocks:
            x = block(x, mask, rotary)
        x = rearrange(x, "b (t p) d -> b t p d", t=frames)[:, :, _NUM_CONDITIONS:]
        out = self.predictor_proj(self.predictor_norm(x))
        return tokens + out if config.residual else out


_NUM_CONDITIONS = 2  # action, state


def block_causal_mask(frames: int, block: int) -> Tensor:
    """bool `[frames * block, frames * block]`: a token sees its own frame and all earlier ones."""
    frame = torch.arange(frames).repeat_interleave(block)
    return frame[:, None] >= frame[None, :]


def _rotary_table(config: PredictorConfig, num_conditions: int) -> tuple[Tensor, Tensor]:
    """cos and sin `[max_frames * block, head size]` of the 3-D rotary positions.

    Three segments of each head turn by frame, row and column; what is left of the head does not
    turn. Condition tokens turn by their frame alone.
    """
    head = config.width // config.num_heads
    segment = 2 * ((head // 3) // 2)
    rows, columns = config.grid
    size = config.grid_size or rows
    time = torch.arange(config.max_frames, dtype=torch.float32)
    row = torch.arange(rows, dtype=torch.float32).repeat_interleave(columns) * (size / rows)
    column = torch.arange(columns, dtype=torch.float32).repeat(rows) * (size / columns)
    block = num_conditions + rows * columns
    position = torch.zeros(config.max_frames, block, 3)
    position[:, :, 0] = time[:, None]
    position[:, num_conditions:, 1] = row
    position[:, num_conditions:, 2] = column

    half = segment // 2
    frequency = 10000.0 ** -(torch.arange(half, dtype=torch.float32) / max(half, 1))
    # The release tiles the list of angles while it rotates adjacent channels, so the two channels
    # of a pair may turn by different angles; the standard form repeats each angle for its pair.
    pairs = frequency.repeat(2) if config.rotary == "release" else frequency.repeat_interleave(2)
    angles = position[..., None] * pairs  # [T, block, 3, segment]
    angles = rearrange(angles, "t p s m -> (t p) (s m)")
    angles = torch.cat((angles, angles.new_zeros(len(angles), head - 3 * segment)), dim=1)
    return angles.cos(), angles.sin()
