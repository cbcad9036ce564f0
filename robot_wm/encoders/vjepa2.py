"""V-JEPA 2 encoders (arXiv 2506.09985) through transformers, one frame at a time.

A frame is encoded as a two-frame clip that repeats it: one tubelet and so one map of patch tokens,
which does not depend on neighbouring frames. The whole of a square picture is used. The hub's own
processor crops to the central 256 of 292 pixels, as for the classification of videos, but an arm
also works near the edges.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from robot_wm.types import Count, Number, UserError, check_fields

TUBELET = 2


@dataclass(frozen=True)
class VJepa2Shape:
    """Sizes of a V-JEPA 2 encoder.

    Attributes:
        width: Width of the transformer.
        depth: Number of transformer blocks.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden size of the MLP over the width.
        patch_size: Side of a patch, pixels.
    """

    width: Count
    depth: Count
    num_heads: Count
    mlp_ratio: Number = 4.0
    patch_size: Count = 16

    def __post_init__(self) -> None:
        check_fields(self)
        if self.width % self.num_heads or not 1 <= self.mlp_ratio * self.width < 2**24:
            raise UserError(
                f"encoder: got width {self.width}, {self.num_heads} heads and mlp_ratio "
                f"{self.mlp_ratio}; want a width that the heads divide, and a hidden layer"
            )


SHAPES = {
    "vjepa2_vitl": VJepa2Shape(1024, 24, 16),
    "vjepa2_vith": VJepa2Shape(1280, 32, 16),
    "vjepa2_vitg": VJepa2Shape(1408, 40, 22, mlp_ratio=48 / 11),
}


class VJepa2Backbone(nn.Module):
    """transformers' VJEPA2Model without its predictor.

    Args:
        shape: Sizes of the encoder.
        image_size: Height and width of the pictures, pixels.
        untrained: Whether to draw random weights; False if others are loaded at once.
    """

    def __init__(self, shape: VJepa2Shape, image_size: int, *, untrained: bool = True) -> None:
        super().__init__()
        from transformers import VJEPA2Config, VJEPA2Model

        try:
            from transformers.initialization import no_init_weights  # type: ignore
        except ImportError:  # before transformers 5
            from transformers.modeling_utils import no_init_weights  # type: ignore

        config = VJEPA2Config(
            patch_size=shape.patch_size,
            crop_size=image_size,
            tubelet_size=TUBELET,
            hidden_size=shape.width,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.num_heads,
            mlp_ratio=shape.mlp_ratio,
            pred_hidden_size=12,  # the masked-prediction head is made small, and dropped
            pred_num_attention_heads=1,
            pred_num_hidden_layers=1,
        )
        with nullcontext() if untrained else no_init_weights():
            self.encoder = VJEPA2Model(config).encoder

    def forward(self, frames: Tensor) -> Tensor:
        """Maps `[n, 3, size, size]` to `[n, patches, width]`."""
        clips = frames[:, None].expand(-1, TUBELET, -1, -1, -1)
        return self.encoder(pixel_values_videos=clips).last_hidden_state


def from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the encoder's weights of a VJEPA2Model file, without the predictor's."""
    return {k: v for k, v in weights.items() if not k.startswith("predictor.")}


def from_release(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Renames the weights of Meta's own files to this backbone's names.

    Args:
        weights: The "encoder" of a released `.pt`, with prefixes removed.

    Returns:
        Weights by this backbone's names, and the names of those that it does not use: fixed
        position tables, which rotary positions replace.
    """
    renamed: dict[str, Tensor] = {}
    unused = []
    for name, value in weights.items():
        if name == "pos_embed":
            unused.append(name)
            continue
        new = name.replace("patch_embed.proj", "embeddings.patch_embeddings.proj")
        new = re.sub(r"^blocks\.", "layer.", new)
        new = re.sub(r"^norm\.", "layernorm.", new)
        new = new.replace(".attn.", ".attention.")
        if ".attention.qkv." in new:
            if value.ndim not in (1, 2) or len(value) % 3:
                raise UserError(f"encoder.{name}: got {tuple(value.shape)}, want 3 equal parts")
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"encoder.{new.replace('qkv', part)}"] = third.clone()
        else:
            renamed[f"encoder.{new}"] = value
    return renamed, unused


def release_shape(weights: Mapping[str, Tensor], num_heads: int | None) -> VJepa2Shape:
    """Finds the sizes of the "encoder" of a released `.pt`.

    Args:
        weights: The encoder's weights, with prefixes removed.
        num_heads: Number of attention heads, which the weights do not show; None for that of the
            released encoder of the same width.

    Returns:
        The sizes.

    Raises:
        UserError: not a V-JEPA 2 encoder, or a number of heads that must be given.
    """
    patch, mlp = weights.get("patch_embed.proj.weight"), weights.get("blocks.0.mlp.fc1.weight")
    if patch is None or patch.ndim != 5 or mlp is None or mlp.ndim != 2:
        raise UserError(
            f"encoder: got keys {sorted(weights)[:5]} ..., want a V-JEPA 2 encoder's "
            f"(patch_embed.proj.weight with five dimensions, blocks.0.mlp.fc1.weight, ...)"
        )
    width = patch.shape[0]
    if num_heads is None:
        released = {shape.width: shape.num_heads for shape in SHAPES.values()}
        if width not in released and width % 64:
            raise UserError(
                f"encoder_heads: must be given for an encoder of width {width}, which is none of "
                f"the released {sorted(released)} and no multiple of 64 channels a head"
            )
        num_heads = released.get(width, width // 64)
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    return VJepa2Shape(width, depth, num_heads, len(mlp) / width, patch.shape[-1])
