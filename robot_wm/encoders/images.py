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
    """A timm ViT that returns its normalised patch tokens.

    Args:
        architecture: Name of the architecture in timm.
        image_size: Height and width of the pictures, pixels.
        num_blocks: Number of blocks to keep, from the first; None for all.
        weights: The state dict in timm's layout, with a position table of any size; None for random
            weights.

    Raises:
        UserError: weights of another architecture, or a size that the patches do not divide.
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

        options: dict[str, Any] = {} if num_blocks is None else {"depth": num_blocks}
        if weights is not None and num_blocks is not None:
            weights = first_blocks(weights, "blocks.", num_blocks)
        self.vit: Any  # timm's models share no class
        try:
            if weights is not None:
                weights = _resize_table(weights, architecture, image_size)
                options |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": weights}}
            self.vit = timm.create_model(
                architecture, num_classes=0, img_size=(image_size, image_size), **options
            )
        except (RuntimeError, KeyError, AssertionError) as error:
            message = " ".join(str(error).split())[:300]
            raise UserError(f"encoder: {architecture} does not take this: {message}") from error
        # Otherwise timm keeps a second copy of the weights as long as the model lives.
        self.vit.pretrained_cfg.pop("state_dict", None)

    def image(self, size: int) -> ImageSpec:
        """Returns how the training pictures were prepared, with `size` pixels per side."""
        config = self.vit.pretrained_cfg
        return ImageSpec(size, size, config["mean"], config["std"], config["interpolation"])

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""
        return self.vit.patch_embed.patch_size[0]

    @property
    def dim(self) -> int:
        """Token dimension."""
        return self.vit.embed_dim

    def forward(self, frames: Tensor) -> Tensor:
        """Maps `[n, 3, size, size]` to `[n, patches, D]`, without class and register tokens."""
        return self.vit.forward_features(frames)[:, self.vit.num_prefix_tokens :]


def _resize_table(
    weights: Mapping[str, Tensor], architecture: str, image_size: int
) -> dict[str, Tensor]:
    """Resizes the position table in `weights` as DINOv2's own code and transformers do."""
    # timm itself resizes it with antialiasing, which changes the tokens by about 2 % from 518 to
    # 224 pixels.
    import timm

    table, weights = weights.get("pos_embed"), dict(weights)
    with torch.device("meta"):
        vit: Any = timm.create_model(architecture, num_classes=0, img_size=image_size, depth=1)
    prefix, (rows, columns) = vit.num_prefix_tokens, vit.patch_embed.grid_size
    if vit.pos_embed is None or table is None or table.ndim != 3:
        return weights  # there is no table, or timm raises an error for it
    side = round((table.shape[1] - prefix) ** 0.5)
    if side**2 + prefix == table.shape[1] and (side, side) != (rows, columns):
        maps = table[:, prefix:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        maps = F.interpolate(maps, (rows, columns), mode="bicubic")
        resized = maps.flatten(2).transpose(1, 2).to(table)
        weights["pos_embed"] = torch.cat((table[:, :prefix], resized), dim=1)
    return weights


def ijepa_from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames I-JEPA weights from transformers' names to timm's.

    Args:
        weights: Weights of an IJepaModel.

    Returns:
        The same weights by timm's names.

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


def first_blocks(weights: Mapping[str, Tensor], prefix: str, num_blocks: int) -> dict[str, Tensor]:
    """Drops the weights, named `prefix` and a number, of all but the first `num_blocks` blocks."""
    return {
        name: value
        for name, value in weights.items()
        if not name.startswith(prefix)
        or int(name.removeprefix(prefix).partition(".")[0]) < num_blocks
    }
