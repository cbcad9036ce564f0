"""The predictor of V-JEPA 2-AC (arXiv 2506.09985): a block-causal, action-conditioned transformer.

Per frame the tokens are `[action, state, extrinsics, P patches]`, the state and the extrinsics
where the model has them. Attention is full inside a frame's block and reaches every earlier block;
block t predicts the tokens of frame t + 1. Earlier blocks never change, so their keys and values
are kept: a rollout computes every frame once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from robot_wm.layers import LAYER_NORM_EPS, Block, KeyValue, init_transformer, modulate
from robot_wm.types import Count, Index, Positive, UserError, check_fields


@dataclass(frozen=True, kw_only=True)
class PredictorShape:
    """The part of a predictor's shape that data and encoder do not decide.

    Attributes:
        width: Width of the transformer.
        depth: Number of transformer blocks.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden size of the MLP over the width.
        rotary: `"release"` pairs angles as the released V-JEPA 2 weights need; `"standard"`
            gives both channels of a pair the same angle.
        grid_size: Rows that row and column positions are scaled to; None for `grid[0]`.
        conditioning: `"tokens"` puts action, state and extrinsics among the patches; `"adaln"`
            lets their sum modulate every block (adaptive LayerNorm: fewer tokens per frame).
        residual: Whether the change of the tokens is predicted instead of the tokens.
        num_outputs: Heads that each predict the tokens, K. If there are several, each is a small
            MLP of its own, and their disagreement measures the predictor's uncertainty.
    """

    width: Count = 128
    depth: Count = 3
    num_heads: Count = 4
    mlp_ratio: Positive = 4.0
    rotary: Literal["release", "standard"] = "standard"
    grid_size: Count | None = None
    conditioning: Literal["tokens", "adaln"] = "adaln"
    residual: bool = True
    num_outputs: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.mlp_ratio * self.width < 2**24:
            raise UserError(f"mlp_ratio: got {self.mlp_ratio}, want a hidden size of at least 1")


@dataclass(frozen=True, kw_only=True)
class PredictorConfig(PredictorShape):
    """Shape of a Predictor.

    Attributes:
        token_dim: Dimension of the encoder's tokens, D.
        grid: Rows and columns of a picture's token map.
        num_views: Pictures per frame, V: P = V * rows * columns tokens, view by view.
        action_dim: Size of an action, A.
        state_dim: Size of the proprioception, Q; 0 for a predictor without it.
        extrinsics_dim: Size of the camera's pose, E; 0 for a predictor without it.
        max_frames: Frames of the longest sequence, T.
        output_norm: Whether a LayerNorm without weights goes over every predicted token, as
            V-JEPA 2-AC has it around the predictor.
    """

    token_dim: Count
    grid: tuple[Count, Count]
    num_views: Count = 1
    action_dim: Count
    state_dim: Index = 0
    extrinsics_dim: Index = 0
    max_frames: Count = 8
    output_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "grid", tuple(self.grid))

    @property
    def num_tokens(self) -> int:
        """Patch tokens per frame, P."""
        return self.num_views * self.grid[0] * self.grid[1]

    @property
    def num_conditions(self) -> int:
        """Tokens per frame for action, state and extrinsics, which come before the patches."""
        if self.conditioning == "adaln":
            return 0
        return 1 + (self.state_dim > 0) + (self.extrinsics_dim > 0)


# By the names that a command line and a file have for them.
PREDICTORS = {
    "mini": PredictorShape(),
    "medium": PredictorShape(
        width=384, depth=6, num_heads=6, conditioning="tokens", residual=False
    ),
}


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of the frames that a predictor has processed. Never changed in place.

    Attributes:
        num_frames: Number of frames in the cache.
        blocks: For each transformer block its keys and values, one part per call that computed
            them. Parts of batch 1 are shared by every sequence of a later call.
    """

    num_frames: int
    blocks: tuple[tuple[KeyValue, ...], ...]

    @property
    def num_bytes(self) -> int:
        """Memory of the keys and values, bytes."""
        tensors = (t for parts in self.blocks for part in parts for t in part)
        return sum(t.numel() * t.element_size() for t in tensors)

    def first(self, num_frames: int) -> KeyValueCache:
        """Returns the cache of the first frames; all frames must come from one call."""
        assert all(len(parts) == 1 for parts in self.blocks) and 1 <= num_frames <= self.num_frames
        length = self.blocks[0][0][0].shape[2] // self.num_frames * num_frames
        blocks = tuple(((k[:, :, :length], v[:, :, :length]),) for ((k, v),) in self.blocks)
        return KeyValueCache(num_frames, blocks)

    def select(self, index: Tensor) -> KeyValueCache:
        """Returns the cache of some of its sequences; parts that all share stay shared."""

        def take(part: KeyValue) -> KeyValue:
            key, value = part
            return part if len(key) == 1 else (key[index], value[index])

        blocks = tuple(tuple(take(part) for part in parts) for parts in self.blocks)
        return KeyValueCache(self.num_frames, blocks)


class Predictor(nn.Module):
    """Imagines the next frame's tokens at every frame of a sequence.

    Args:
        config: The predictor's shape.
        generator: Draws the initial weights; torch's default generator if None.
    """

    def __init__(
        self, config: PredictorConfig, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        width, modulated = config.width, config.conditioning == "adaln"
        self.predictor_embed = nn.Linear(config.token_dim, width)
        self.action_encoder = nn.Linear(config.action_dim, width)
        self.state_encoder = nn.Linear(config.state_dim, width) if config.state_dim else None
        self.extrinsics_encoder = (
            nn.Linear(config.extrinsics_dim, width) if config.extrinsics_dim else None
        )
        self.predictor_blocks = nn.ModuleList(
            Block(width, config.num_heads, config.mlp_ratio, modulated=modulated)
            for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(
            width, eps=LAYER_NORM_EPS, elementwise_affine=not modulated
        )
        self.predictor_modulation = nn.Linear(width, 2 * width) if modulated else None
        self.predictor_proj: nn.Module = nn.Linear(width, config.token_dim)
        if config.num_outputs > 1:
            self.predictor_proj = _Heads(config.num_outputs, width, config.token_dim)
        init_transformer(self.predictor_blocks, self, generator)
        if self.predictor_modulation is not None:
            nn.init.zeros_(self.predictor_modulation.weight)
        cos, sin = _rotary_table(config)
        self._cos: Tensor
        self._sin: Tensor
        self._mask: Tensor
        self.register_buffer("_cos", cos, persistent=False)
        self.register_buffer("_sin", sin, persistent=False)
        mask = block_causal_mask(config.max_frames, config.num_conditions + config.num_tokens)
        self.register_buffer("_mask", mask, persistent=False)

    def forward(
        self,
        tokens: Tensor,
        actions_n: Tensor,
        states_n: Tensor | None = None,
        extrinsics_n: Tensor | None = None,
    ) -> Tensor:
        """Predicts the next tokens of every frame.

        Args:
            tokens: `[B, T, P, D]` of frames 0 to T - 1.
            actions_n: `[B, T, A]` normalised; action t leads from frame t to t + 1.
            states_n: `[B, T, Q]` normalised proprioception, for a model that takes it.
            extrinsics_n: `[B, T, E]` camera pose, for a model that takes it.

        Returns:
            `[B, T, P, D]`: entry t is the prediction of frame t + 1. With K heads
            `[B, T, K, P, D]`, whose `combine` is the prediction.

        Raises:
            ValueError: a shape, dtype or device does not fit, or more frames than `max_frames`.
        """
        return self._run(None, tokens, actions_n, states_n, extrinsics_n, keep=False)[0]

    def extend(
        self,
        cache: KeyValueCache | None,
        tokens: Tensor,
        actions_n: Tensor,
        states_n: Tensor | None = None,
        extrinsics_n: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueCache]:
        """Predicts the next tokens of new frames that follow those in `cache`.

        Args:
            cache: Keys and values of the frames before, of a batch of B or of 1 that all
                sequences share; None at the start.
            tokens: `[B, T, P, D]` of the new frames.
            actions_n: As in `forward`, of the new frames.
            states_n: As in `forward`, of the new frames.
            extrinsics_n: As in `forward`, of the new frames.

        Returns:
            The predictions that `forward` over all frames would give for the new ones, and the
            cache with the new frames added.

        Raises:
            ValueError: as `forward`.
        """
        out, cache = self._run(cache, tokens, actions_n, states_n, extrinsics_n, keep=True)
        assert cache is not None
        return out, cache

    def _run(
        self,
        cache: KeyValueCache | None,
        tokens: Tensor,
        actions_n: Tensor,
        states_n: Tensor | None,
        extrinsics_n: Tensor | None,
        *,
        keep: bool,
    ) -> tuple[Tensor, KeyValueCache | None]:
        """Runs `extend`; unless `keep`, drops the new frames' keys and values block by block."""
        self._check(cache, tokens, actions_n, states_n, extrinsics_n)
        past_frames = cache.num_frames if cache is not None else 0
        frames = tokens.shape[1]
        conditions = [self.action_encoder(actions_n)]
        if self.state_encoder is not None:
            conditions.append(self.state_encoder(states_n))
        if self.extrinsics_encoder is not None:
            conditions.append(self.extrinsics_encoder(extrinsics_n))
        x = self.predictor_embed(tokens)  # [B, T, P, width]
        condition = None
        if self.predictor_modulation is not None:
            condition = torch.stack(conditions).sum(0)  # [B, T, width]
        else:
            x = torch.cat((torch.stack(conditions, dim=2), x), dim=2)
        block_size = x.shape[2]
        positions = slice(past_frames * block_size, (past_frames + frames) * block_size)
        rotary = self._cos[positions], self._sin[positions]
        # A single frame attends to all of itself and of the past: no mask, which is faster.
        length = frames * block_size
        mask = self._mask[:length, :length] if frames > 1 else None
        x = rearrange(x, "b t p w -> b (t p) w")
        parts = []
        for i, block in enumerate(self.predictor_blocks):
            past_parts = cache.blocks[i] if cache is not None else ()
            x, new_part = block(x, mask, rotary, past_parts, condition)
            if keep:
                parts.append((*past_parts, new_part))
            del new_part  # frees the memory before the next block needs it
        x = self.predictor_norm(x)
        if self.predictor_modulation is not None and condition is not None:
            shift, scale = self.predictor_modulation(F.silu(condition)).chunk(2, dim=-1)
            x = modulate(x, 1 + scale, shift)
        x = rearrange(x, "b (t p) w -> b t p w", t=frames)[:, :, self.config.num_conditions :]
        out = self.predictor_proj(x).to(tokens.dtype)  # autocast may have lowered it
        if self.config.residual:
            out = (tokens if out.ndim == 4 else tokens[:, :, None]) + out
        if self.config.output_norm:
            out = F.layer_norm(out, out.shape[-1:])
        return out, KeyValueCache(past_frames + frames, tuple(parts)) if keep else None

    def combine(self, predicted: Tensor) -> Tensor:
        """Returns the mean of the heads' predictions, `[..., P, D]`, which a rollout feeds back."""
        return predicted if self.config.num_outputs == 1 else predicted.mean(-3)

    def rollout(
        self,
        cache: KeyValueCache | None,
        tokens: Tensor,
        actions_n: Tensor,
        states_n: Tensor | None = None,
        extrinsics_n: Tensor | None = None,
        *,
        select: Callable[[Tensor], Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Imagines frame after frame, feeding predictions back; each frame is computed once.

        Args:
            cache: Keys and values of the frames before the current one, made by `extend`; all N
                candidates share a batch of 1, which is not copied. None if there are no such
                frames.
            tokens: The current frame, `[N, P, D]`, or `[1, P, D]` for all.
            actions_n: `[N, H, A]` from the current frame on.
            states_n: `[N, H, Q]` at the current frame and the H - 1 after it.
            extrinsics_n: `[N, H, E]`, likewise.
            select: Called after every frame but the last, with the futures so far of the remaining
                candidates, `[n, h, P, D]`; returns the indices `[m]` of those to go on with, or
                None for all. Dropping some does not change the futures of the others.

        Returns:
            `[N, H, P, D]`, the H frames after the current one; with K heads `[N, H, K, P, D]`;
            and the indices of these candidates, `[N]`.

        Raises:
            ValueError: as `forward`; or no candidate, or a horizon of 0.
        """
        num, horizon = actions_n.shape[:2]
        if min(num, horizon) < 1 or tokens.ndim != 3 or len(tokens) not in (1, num):
            raise ValueError(
                f"rollout: got actions {tuple(actions_n.shape)} and current frames "
                f"{tuple(tokens.shape)}, want [N, H, A] and [N or 1, P, D], none of them empty"
            )
        for name, value in (("states", states_n), ("extrinsics", extrinsics_n)):
            if value is not None and tuple(value.shape[:2]) != (num, horizon):
                raise ValueError(
                    f"{name}: got {tuple(value.shape)}, want {num} candidates and {horizon} frames"
                )
        frame = tokens[:, None].expand(num, -1, -1, -1)
        remaining, futures = torch.arange(num, device=tokens.device), frame[:, :0]
        for h in range(horizon):
            now = slice(h, h + 1)
            predicted, cache = self._run(
                cache,
                frame,
                actions_n[:, now],
                None if states_n is None else states_n[:, now],
                None if extrinsics_n is None else extrinsics_n[:, now],
                keep=h + 1 < horizon,
            )
            frame = self.combine(predicted)
            futures = predicted if not h else torch.cat((futures, predicted), dim=1)
            chosen = select(futures) if select is not None and h + 1 < horizon else None
            if chosen is not None:
                assert cache is not None
                cache, remaining = cache.select(chosen), remaining[chosen]
                frame, futures, actions_n = frame[chosen], futures[chosen], actions_n[chosen]
                states_n = None if states_n is None else states_n[chosen]
                extrinsics_n = None if extrinsics_n is None else extrinsics_n[chosen]
        return futures, remaining

    def _check(
        self,
        cache: KeyValueCache | None,
        tokens: Tensor,
        actions_n: Tensor,
        states_n: Tensor | None,
        extrinsics_n: Tensor | None,
    ) -> None:
        config, weight = self.config, self.predictor_embed.weight
        if tokens.ndim != 4:
            raise ValueError(f"tokens: got {tuple(tokens.shape)}, want [B, T, P, D]")
        batch, frames = tokens.shape[:2]
        total = frames + (cache.num_frames if cache is not None else 0)
        if cache is not None and any(len(k) not in (1, batch) for k, _ in cache.blocks[0]):
            batches = [len(k) for k, _ in cache.blocks[0]]
            raise ValueError(f"cache: got batches of {batches}, want 1 or {batch}")
        if not 1 <= total <= config.max_frames:
            raise ValueError(f"frames: got {total}, want 1 to {config.max_frames}")
        inputs = {
            "tokens": (tokens, (config.num_tokens, config.token_dim)),
            "actions": (actions_n, (config.action_dim,)),
            "states": (states_n, (config.state_dim,)),
            "extrinsics": (extrinsics_n, (config.extrinsics_dim,)),
        }
        for name, (value, tail) in inputs.items():
            shape = (batch, frames, *tail)
            if value is None or not tail[-1]:
                if (value is None) != (not tail[-1]):
                    got = "none" if value is None else tuple(value.shape)
                    raise ValueError(f"{name}: got {got}, want {shape if tail[-1] else 'none'}")
                continue
            if tuple(value.shape) != shape:
                raise ValueError(f"{name}: got {tuple(value.shape)}, want {shape}")
            if value.dtype != weight.dtype or value.device != weight.device:
                raise ValueError(
                    f"{name}: got {value.dtype} on {value.device}, want {weight.dtype} on "
                    f"{weight.device}"
                )


class _Heads(nn.Module):
    """K small MLPs without shared weights, from `[B, T, P, width]` to `[B, T, K, P, D]`."""

    def __init__(self, num: int, width: int, token_dim: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, token_dim))
            for _ in range(num)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([head(x) for head in self.heads], dim=2)


def rollout_recomputed(
    predict: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    tokens: Tensor,
    actions_n: Tensor,
    states_n: Tensor | None = None,
) -> Tensor:
    """Computes the whole sequence again for every frame, a reference for `Predictor.rollout`.

    Args:
        predict: `Predictor.forward`.
        tokens: `[N, C, P, D]` of the C context frames.
        actions_n: `[N, C - 1 + H, A]`, those within the context first.
        states_n: `[N, C - 1 + H, Q]`.

    Returns:
        `[N, H, P, D]`.
    """
    context = tokens.shape[1]
    for length in range(context, actions_n.shape[1] + 1):
        states = None if states_n is None else states_n[:, :length]
        predicted = predict(tokens, actions_n[:, :length], states)
        tokens = torch.cat((tokens, predicted[:, -1:]), dim=1)
    return tokens[:, context:]


def block_causal_mask(frames: int, block: int) -> Tensor:
    """Returns bool `[frames * block, frames * block]`: true for the own and all earlier frames."""
    frame = torch.arange(frames).repeat_interleave(block)
    return frame[:, None] >= frame[None, :]


def _rotary_table(config: PredictorConfig) -> tuple[Tensor, Tensor]:
    """Returns cos and sin `[max_frames * block, head size]` of the 3-D rotary positions."""
    # Three segments of each head are rotated by frame, row and column; the remainder of the head is
    # not. Condition tokens are rotated by their frame only. Several views are side by side: the
    # columns of each begin where those of the one before end.
    head = config.width // config.num_heads
    segment = 2 * ((head // 3) // 2)
    rows, columns = config.grid
    size = config.grid_size or rows
    time = torch.arange(config.max_frames, dtype=torch.float32)
    row = torch.arange(rows, dtype=torch.float32).repeat_interleave(columns) * (size / rows)
    column = torch.arange(columns, dtype=torch.float32).repeat(rows) * (size / columns)
    row = row.repeat(config.num_views)
    column = torch.cat([column + view * size for view in range(config.num_views)])
    position = torch.zeros(config.max_frames, config.num_conditions + config.num_tokens, 3)
    position[:, :, 0] = time[:, None]
    position[:, config.num_conditions :, 1] = row
    position[:, config.num_conditions :, 2] = column

    half = segment // 2
    frequency = 10000.0 ** -(torch.arange(half, dtype=torch.float32) / max(half, 1))
    # The release tiles the list of angles while it rotates adjacent channels, so the two channels
    # of a pair may turn by different angles; the standard form repeats each angle for its pair.
    pairs = frequency.repeat(2) if config.rotary == "release" else frequency.repeat_interleave(2)
    angles = position[..., None] * pairs  # [T, block, 3, segment]
    angles = rearrange(angles, "t p s m -> (t p) (s m)")
    angles = torch.cat((angles, angles.new_zeros(len(angles), head - 3 * segment)), dim=1)
    return angles.cos(), angles.sin()
