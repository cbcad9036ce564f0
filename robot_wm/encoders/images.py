"""Image ViTs (DINOv2, DINOv3, I-JEPA) through timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robot_wm.preprocess import ImageSpec
from robot_wm.types import UserError


class TimmBackbone(nn.Module):
    """A timm ViT's normalised patch tokens.

    Args:
        architecture: timm's name.
        image_size: height and width of its pictures, pixels.
        num_blocks: the first so many blocks alone; None for all.
        weights: timm's state dict, its position table of any size; None to stay untrained.

    Raises:
        UserError: weights of another architecture, or a size that its patches do not divide.
    """

    def __init__(
        self,
        architecture: str,
        image_size: int,
        num_blocks: int | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        import timm

        how: dict[str, Any] = {} if num_blocks is None else {"depth": num_blocks}
        if weights is not None:
            if num_blocks is not None:
                weights = _first_blocks(weights, num_blocks)
        self.vit: Any  # timm's models share no class
        try:
            if weights is not None:
                weights = _resize_table(weights, architecture, image_size)
                how |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": weights}}
            self.vit = timm.create_model(
                architecture, num_classes=0, img_size=(image_size, image_size), **how
            )
        except (RuntimeError, KeyError, AssertionError) as error:
            message = " ".join(str(error).split())[:300]
            raise UserError(f"encoder: {architecture} does not take this: {message}") from error
        # timm would keep a second copy of the weights for life.
        self.vit.pretrained_cfg.pop("state_dict", None)

    def image(self, size: int) -> ImageSpec:
        """The pictures it was trained on, `size` pixels high and wide."""
        how = self.vit.pretrained_cfg
        return ImageSpec(size, size, how["mean"], how["std"], how["interpolation"])

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""
        return self.vit.patch_embed.patch_size[0]

    @property
    def dim(self) -> int:
        """Token dimension."""
        return self.vit.embed_dim

    def forward(self, frames: Tensor) -> Tensor:
        """`[n, 3, size, size]` to `[n, patches, D]`, class and register tokens left out."""
        return self.vit.forward_features(frames)[:, self.vit.num_prefix_tokens :]


def _resize_table(
    weights: Mapping[str, Tensor], architecture: str, image_size: int
) -> dict[str, Tensor]:
    """The weights with their position table as DINOv2's own code resizes it, and transformers'.

    Left to itself, timm resizes it with antialiasing: from 518 to 224 pixels the tokens are some
    2 % others.
    """
    import timm

    table, weights = weights.get("pos_embed"), dict(weights)
    with torch.device("meta"):
        vit: Any = timm.create_model(architecture, num_classes=0, img_size=image_size, depth=1)
    prefix, (rows, columns) = vit.num_prefix_tokens, vit.patch_embed.grid_size
    if vit.pos_embed is None or table is None or table.ndim != 3:
        return weights  # it has none, or timm says what is wrong with it
    side = round((table.shape[1] - prefix) ** 0.5)
    if side**2 + prefix == table.shape[1] and (side, side) != (rows, columns):
        maps = table[:, prefix:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        maps = F.interpolate(maps, (rows, columns), mode="bicubic")
        resized = maps.flatten(2).transpose(1, 2).to(table)
        weights["pos_embed"] = torch.cat((table[:, :prefix], resized), dim=1)
    return weights


def ijepa_from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An I-JEPA file of transformers' layout under timm's names.

    Raises:
        UserError: a key that IJepaModel does not have, or a missing one.
    """
    weights = {k.removeprefix("ijepa."): v for k, v in weights.items()}
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name in _IJEPA_NAMES:
            renamed[_IJEPA_NAMES[name]] = value
            continue
        match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
        part = match and match[2]
        if match and part in _IJEPA_PARTS:
            renamed[f"blocks.{match[1]}.{_IJEPA_PARTS[part]}.{match[3]}"] = value
        elif match and part == "attention.attention.query":
            try:
                parts = [weights[name.replace("query", other)] for other in ("key", "value")]
            except KeyError as error:
                raise UserError(f"encoder weights: {error.args[0]} is missing") from error
            renamed[f"blocks.{match[1]}.attn.qkv.{match[3]}"] = torch.cat([value, *parts])
        elif not name.startswith("pooler.") and not (
            match and part in ("attention.attention.key", "attention.attention.value")
        ):
            raise UserError(f"encoder weights: {name} is no weight of I-JEPA")
    return renamed


_IJEPA_NAMES = {
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_IJEPA_PARTS = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def _first_blocks(weights: Mapping[str, Tensor], num_blocks: int) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in weights.items()
        if not name.startswith("blocks.") or int(name.split(".")[1]) < num_blocks
    }
