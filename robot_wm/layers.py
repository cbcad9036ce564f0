"""Transformer parts that the encoders and the predictor share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from robot_wm.types import UserError

LAYER_NORM_EPS = 1e-6
_SHORT = 256  # tokens of a sequence, see _fused_gradient_is_slow

KeyValue = tuple[Tensor, Tensor]  # keys and values [B, heads, L, head size]; B may be 1 for all


class Attention(nn.Module):
    """Multi-head self-attention with one fused qkv product.

    Args:
        width: Token dimension, a multiple of `num_heads`.
        num_heads: Number of heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or width < 1 or width % num_heads:
            raise UserError(f"width: got {width}, want a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        past: Sequence[KeyValue] = (),
    ) -> tuple[Tensor, KeyValue]:
        """Attends to `x` itself and to everything in `past`.

        Args:
            x: Tokens `[B, L, width]`.
            mask: Mask, bool `[L, L]`, true where a row may attend to a column; None for full
                attention.
            rotary: Cosines and sines `[L, head size]` that rotate queries and keys; see `rotate`.
            past: Keys and values of earlier tokens, of a batch of B or of 1 that all share.

        Returns:
            `[B, L, width]`, and the keys and values of `x`.
        """
        q, k, v = rearrange(
            self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.num_heads
        )
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if past or _fused_gradient_is_slow(q):
            out = _attend_in_parts(q, (*past, (k, v)), mask)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(rearrange(out, "b h l d -> b l (h d)")), (k, v)


def _fused_gradient_is_slow(q: Tensor) -> bool:
    """Returns whether the gradient of torch's fused attention is slower than matrix products'."""
    # On a CPU it is for short sequences: 3 times slower in float32 and 10 times in bfloat16 at 20
    # and 80 tokens (docs/log.md). Matrix products keep all weights, so that they need more memory
    # for long sequences.
    return q.requires_grad and q.device.type == "cpu" and q.shape[2] <= _SHORT


def _attend_in_parts(q: Tensor, parts: Sequence[KeyValue], mask: Tensor | None) -> Tensor:
    """Computes softmax attention over several tensors of keys without copying them into one.

    Args:
        q: Queries `[B, heads, L, head size]`.
        parts: Keys and values, each of a batch of B or 1.
        mask: Mask over the last part, bool `[L, L]`; None for full attention.

    Returns:
        `[B, heads, L, head size]`.
    """
    batch, _, length, size = q.shape
    q = q * size**-0.5
    scores = []
    for k, _ in parts:
        if len(k) == batch:
            scores.append(q @ k.transpose(-1, -2))
        else:  # one product over all queries of a head
            shared = rearrange(q, "b h l d -> h (b l) d") @ k[0].transpose(-1, -2)
            scores.append(rearrange(shared, "h (b l) s -> b h l s", l=length))
    if mask is not None:
        scores[-1] = scores[-1].masked_fill(~mask, -torch.inf)
    weights = torch.cat(scores, dim=-1).softmax(-1).split([s.shape[-1] for s in scores], dim=-1)
    out = torch.zeros_like(q)
    for weight, (_, v) in zip(weights, parts, strict=True):
        if len(v) == batch:
            out = out + weight @ v
        else:
            shared = rearrange(weight, "b h l s -> h (b l) s") @ v[0]
            out = out + rearrange(shared, "h (b l) d -> b h l d", l=length)
    return out


class Mlp(nn.Module):
    """A linear layer, an exact GELU and a second linear layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., width]` to `[..., width]`."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-LayerNorm transformer block. Parameter names are those of the V-JEPA 2 release.

    Args:
        width: Token dimension, a multiple of `num_heads`.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden size of the MLP over the width.
        modulated: Whether a condition shifts, scales and gates both halves (adaptive LayerNorm with
            gates that start at zero: DiT, arXiv 2212.09748).
    """

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float = 4.0, *, modulated: bool = False
    ) -> None:
        super().__init__()
        norm = {"eps": LAYER_NORM_EPS, "elementwise_affine": not modulated}
        self.norm1 = nn.LayerNorm(width, **norm)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, **norm)
        self.mlp = Mlp(width, round(width * mlp_ratio))
        self.modulation = nn.Linear(width, 6 * width) if modulated else None

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        past: Sequence[KeyValue] = (),
        condition: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Applies attention and the MLP.

        Args:
            x: Tokens `[B, L, width]`.
            mask: See `Attention.forward`.
            rotary: See `Attention.forward`.
            past: See `Attention.forward`.
            condition: Conditions `[B, T, width]` of a modulated block, each for L / T tokens in a
                row.

        Returns:
            `[B, L, width]`, and the keys and values of `x`.
        """
        if self.modulation is None:
            out, key_value = self.attn(self.norm1(x), mask, rotary, past)
            x = x + out
            return x + self.mlp(self.norm2(x)), key_value
        assert condition is not None
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(
            6, dim=-1
        )
        attended = modulate(self.norm1(x), 1 + scale1, shift1)
        out, key_value = self.attn(attended, mask, rotary, past)
        x = x + modulate(out, gate1)
        out = self.mlp(modulate(self.norm2(x), 1 + scale2, shift2))
        return x + modulate(out, gate2), key_value


def modulate(x: Tensor, factor: Tensor, shift: Tensor | None = None) -> Tensor:
    """Scales and shifts tokens, frame by frame.

    Args:
        x: Tokens `[B, L, width]`.
        factor: Factors `[B, T, width]`, each for L / T tokens in a row.
        shift: Summands `[B, T, width]`, likewise; None for none.

    Returns:
        `[B, L, width]`.
    """
    frames = rearrange(x, "b (t p) w -> b t p w", t=factor.shape[1]) * factor[:, :, None]
    if shift is not None:
        frames = frames + shift[:, :, None]
    return frames.flatten(1, 2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates adjacent channel pairs of `x` `[..., L, d]` by angles with `cos`, `sin` `[L, d]`."""
    even, odd = x[..., 0::2], x[..., 1::2]
    quarter_turn = torch.stack((-odd, even), dim=-1).flatten(-2)
    return x * cos + quarter_turn * sin


def init_transformer(
    blocks: nn.ModuleList, root: nn.Module, generator: torch.Generator | None
) -> None:
    """Draws the weights as V-JEPA 2 does, from a truncated normal of standard deviation 0.02.

    Weights of the residual outputs of block i (from 1) are then divided by sqrt(2 i).

    Args:
        blocks: The transformer blocks, each a `Block`.
        root: The module whose linear layers are initialised.
        generator: Draws the weights; torch's default generator if None.
    """
    for module in root.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for i, block in enumerate(blocks, start=1):
        assert isinstance(block, Block)
        with torch.no_grad():
            block.attn.proj.weight.div_(math.sqrt(2 * i))
            block.mlp.fc2.weight.div_(math.sqrt(2 * i))
            if block.modulation is not None:
                block.modulation.weight.zero_()
