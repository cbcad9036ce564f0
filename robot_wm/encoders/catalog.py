"""Builds every encoder by name, from public weights, a file or nothing; saves and loads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robot_wm.encoders.hub import HubFile, fetch, read_weights, write_weights
from robot_wm.encoders.images import TimmBackbone, first_blocks, ijepa_from_transformers
from robot_wm.encoders.mini import (
    MiniEncoder,
    MiniPatches,
    load_mini,
    random_mini,
    save_mini,
    shipped_weights,
)
from robot_wm.encoders.pixels import PixelEncoder
from robot_wm.encoders.protocol import Encoder
from robot_wm.encoders.vit import ViTConfig, ViTEncoder
from robot_wm.encoders.vjepa2 import SHAPES, VJepa2Backbone, VJepa2Shape, from_transformers
from robot_wm.preprocess import ImageSpec
from robot_wm.types import Count, Seed, UserError, checked


@dataclass(frozen=True)
class EncoderKind:
    """A kind of encoder from outside this library, and how checkpoints store it.

    Attributes:
        name: Name of the kind in checkpoints.
        encoder_type: Class of the encoder, a torch.nn.Module whose state_dict is its weights.
        describe: Maps an encoder to JSON, with all that `rebuild` needs besides the weights.
        rebuild: Makes an encoder from this JSON; the weights are then loaded into it.
    """

    name: str
    encoder_type: type[Any]
    describe: Callable[[Any], dict[str, Any]]
    rebuild: Callable[[Mapping[str, Any]], Any]


def register_encoder(kind: EncoderKind) -> EncoderKind:
    """Registers a kind of encoder, so that checkpoints can be saved and loaded with it.

    Args:
        kind: The kind of encoder.

    Returns:
        The same kind.

    Raises:
        UserError: another kind has this name.
    """
    if kind.name in (*NAMES, "vjepa2") or _REGISTERED.get(kind.name, kind) != kind:
        raise UserError(f"encoder: {kind.name!r} is taken")
    _REGISTERED[kind.name] = kind
    return kind


# Commits as public projects cite them; they were not looked up on the hub itself.
_HUB = {
    "dinov2_vits": HubFile(
        "timm/vit_small_patch14_dinov2.lvd142m",
        "4610ca143709d58a633b6397a74412c2c3842454",
        "Apache-2.0",
    ),
    "dinov2_vitb": HubFile(
        "timm/vit_base_patch14_dinov2.lvd142m",
        "4685c99dabffe5affac90bd99dbffd25801ae58d",
        "Apache-2.0",
    ),
    "dinov2_vitl": HubFile(
        "timm/vit_large_patch14_dinov2.lvd142m",
        "4741e1cafbf45415e77074bb0cb42dba76c8684a",
        "Apache-2.0",
    ),
    "dinov3_vits": HubFile(
        "timm/vit_small_patch16_dinov3.lvd1689m",
        "3bf4720a82ec2066db88137180ff1f83a675cef0",
        "DINOv3 License",
    ),
    "dinov3_vitb": HubFile(
        "timm/vit_base_patch16_dinov3.lvd1689m",
        "c6a5fb7d12bbd3cf3b0079253141c3332aaed7da",
        "DINOv3 License",
    ),
    "dinov3_vitl": HubFile(
        "timm/vit_large_patch16_dinov3.lvd1689m",
        "30c1109559f65dea34316b0d4842d35c5771fe11",
        "DINOv3 License",
    ),
    "ijepa_vith": HubFile(
        "facebook/ijepa_vith14_1k",
        "f157467ea509bc356ff9f61fd3c0d840eec5e04e",
        "CC BY-NC 4.0",
    ),
    "vjepa2_vitl": HubFile(
        "facebook/vjepa2-vitl-fpc64-256",
        "b3c1679b7c34d3255ef3547f27c7b226aefab26f",
        "MIT",
    ),
    "vjepa2_vith": HubFile(
        "facebook/vjepa2-vith-fpc64-256",
        "b5eac8703e3efdc1547fbb6ddfbeb133dc0bdee5",
        "MIT",
    ),
    "vjepa2_vitg": HubFile(
        "facebook/vjepa2-vitg-fpc64-256",
        "875c192b7b704b87d1e1d99345769632dd5f739a",
        "Apache-2.0",
    ),
}
# timm's architecture, the picture size (which gives 16 x 16 patches), and the number of blocks.
_TIMM = {
    "dinov2_vits": ("vit_small_patch14_dinov2.lvd142m", 224, 12),
    "dinov2_vitb": ("vit_base_patch14_dinov2.lvd142m", 224, 12),
    "dinov2_vitl": ("vit_large_patch14_dinov2.lvd142m", 224, 24),
    "dinov3_vits": ("vit_small_patch16_dinov3.lvd1689m", 256, 12),
    "dinov3_vitb": ("vit_base_patch16_dinov3.lvd1689m", 256, 12),
    "dinov3_vitl": ("vit_large_patch16_dinov3.lvd1689m", 256, 24),
    "ijepa_vith": ("vit_huge_patch14_gap_224.in1k_ijepa", 224, 32),
}
_REGISTERED: dict[str, EncoderKind] = {}
NAMES = ("mini", "mini_patches", "random", "pixels", *_TIMM, *SHAPES)


@checked
def build_encoder(
    name: str,
    *,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    image_size: Count | None = None,
    pool: Count = 1,
    num_blocks: Count | None = None,
    seed: Seed | None = None,
) -> Encoder:
    """Builds a frozen encoder.

    Args:
        name: One of NAMES. `mini` is the project's own, `mini_patches` its patch tokens, `random`
            the same architecture untrained, `pixels` no architecture at all.
        pretrained: False for random weights, the floor of every comparison; None for those of
            the name. Not for pixels.
        weights: A safetensors file in the layout of the encoder's hub repository; None for the
            file that ships (mini), or public weights at a pinned commit.
        image_size: Height and width of the pictures, pixels; None for the default. Not for mini.
        pool: Side of the squares of tokens that are averaged into one. Not for mini.
        num_blocks: Number of blocks to keep, from the first; None for all. Not for mini.
        seed: Seed of random weights; None: a command's seed, or 0.

    Returns:
        The encoder.

    Raises:
        UserError: an unknown name, a setting that does not fit, or a file of another kind.
        FileNotFoundError: no such file, or public weights that cannot be downloaded (says what to
            do).
    """
    if name not in NAMES:
        raise UserError(f"encoder: got {name!r}, want one of {', '.join(NAMES)}")
    if name == "random" and pretrained:
        raise UserError("encoder random: got pretrained=true, which is encoder=mini")
    untrained = name == "random" or pretrained is False
    if weights is not None and untrained:
        raise UserError("encoder: got weights and pretrained=false, want one or the other")
    path = None if weights is None else Path(weights).expanduser()
    if name in ("mini", "mini_patches", "random"):
        if image_size or num_blocks or (pool > 1 and name != "mini_patches"):
            raise UserError(
                f"encoder {name}: got image_size {image_size}, pool {pool}, num_blocks "
                f"{num_blocks}; want none of them (pool 1; mini_patches may be pooled)"
            )
        mini = random_mini(seed=seed or 0) if untrained else load_mini(path or shipped_weights())
        return _mini_patches(mini, pool) if name == "mini_patches" else mini
    if name == "pixels":
        if pretrained is not None or path or num_blocks or pool > 1:
            raise UserError(
                "encoder pixels: got pretrained, weights, num_blocks or pool; it has none of them"
            )
        return PixelEncoder() if image_size is None else PixelEncoder(image_size=image_size)
    size = image_size
    if size is None:
        size = _TIMM[name][1] if name in _TIMM else 256
    config = ViTConfig(name, size, pool, num_blocks)
    depth = _TIMM[name][2] if name in _TIMM else SHAPES[name].depth
    if num_blocks is not None and num_blocks > depth:
        raise UserError(f"num_blocks: got {num_blocks}, want at most {name}'s {depth}")
    hub = None
    if not untrained and path is None:
        path, is_public = fetch(name, _HUB[name])
        if is_public:
            hub = {"repo": _HUB[name].repo, "revision": _HUB[name].revision}
    state = None if path is None else _translate(name, read_weights(path))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        return _build(config, state, hub)


def save_encoder(encoder: Encoder, path: Path) -> dict[str, Any]:
    """Writes an encoder's weights, unless they are public, and describes it.

    Args:
        encoder: The encoder.
        path: The file of the weights.

    Returns:
        A description in plain JSON, for `load_encoder`.

    Raises:
        OSError: there is no room for the weights.
        TypeError: an encoder that is neither in this catalog nor registered.
    """
    if type(encoder) is MiniEncoder:
        save_mini(encoder, path)
        return {"name": "mini"}
    if type(encoder) is PixelEncoder:
        write_weights(encoder.state_dict(), path)
        return {"name": "pixels", "image_size": encoder.image_size}
    for kind in _REGISTERED.values():
        if type(encoder) is kind.encoder_type:
            write_weights(encoder.state_dict(), path)  # type: ignore[attr-defined]
            return {"name": kind.name, "own": kind.describe(encoder)}
    if type(encoder) is not ViTEncoder:
        raise TypeError(
            f"encoder: got {type(encoder).__name__}, want one of robot_wm.encoders, or one that is "
            f"registered (robot_wm.encoders.register_encoder)"
        )
    description = {**asdict(encoder.config), "hub": encoder.hub}
    if isinstance(encoder.backbone, MiniPatches):
        save_mini(encoder.backbone.mini, path)
    elif encoder.hub is None:
        write_weights(encoder.backbone.state_dict(), path)
    return description


def load_encoder(description: Mapping[str, Any], path: Path) -> Encoder:
    """Loads the encoder that `save_encoder` described.

    Args:
        description: The description that `save_encoder` returned.
        path: The file of the weights; read only if they are not public.

    Returns:
        The encoder, frozen.

    Raises:
        UserError: a description or weights that are invalid.
        FileNotFoundError: public weights that cannot be downloaded (says what to do).
    """
    settings = dict(description)
    hub = settings.pop("hub", None)
    name = settings.get("name")
    if name == "mini":
        return load_mini(path)
    if name == "pixels":
        return PixelEncoder(image_size=settings["image_size"])
    if name in _REGISTERED:
        encoder = _REGISTERED[name].rebuild(settings["own"])
        _load(encoder, read_weights(path), name)
        return encoder
    if "own" in settings:
        raise UserError(
            f"encoder: {name!r} is not registered; the module that registers it has to be "
            f"imported first: robot-wm --import MODULE ..."
        )
    config = ViTConfig(**settings)
    if config.name == "mini_patches":
        return _mini_patches(load_mini(path), config.pool)
    if hub is not None:
        # Only the commit is taken from the description: a checkpoint cannot name a repository.
        if config.name not in _HUB or not re.fullmatch("[0-9a-f]{40}", str(hub["revision"])):
            raise UserError(f"encoder: got {config.name!r} at {hub}, want {', '.join(_HUB)}")
        public = replace(_HUB[config.name], revision=hub["revision"])
        file, _ = fetch(config.name, public)
        return _build(config, _translate(config.name, read_weights(file)), hub)
    weights = {name.removeprefix("vit."): value for name, value in read_weights(path).items()}
    with torch.random.fork_rng(devices=[]):  # timm's initial weights are replaced
        return _build(config, weights, None)


def released_encoder(weights: Mapping[str, Tensor], shape: VJepa2Shape, image_size: int) -> Encoder:
    """Builds a V-JEPA 2 encoder from a converted release.

    Pictures are resized without antialiasing, as in Meta's code for robots, with which the released
    predictor was trained.

    Args:
        weights: Weights by VJepa2Backbone's names.
        shape: Sizes of the encoder.
        image_size: Height and width of the pictures, pixels.

    Returns:
        The encoder, frozen.

    Raises:
        UserError: weights that do not fit.
    """
    config = ViTConfig("vjepa2", image_size, shape=asdict(shape), antialias=False)
    return _build(config, weights, None)


def _build(
    config: ViTConfig, weights: Mapping[str, Tensor] | None, hub: dict[str, str] | None
) -> ViTEncoder:
    backbone: nn.Module
    if config.name in _TIMM:
        backbone = TimmBackbone(
            _TIMM[config.name][0], config.image_size, config.num_blocks, weights
        )
        _check_patches(config, backbone.patch_size)
        dim, patch, image = backbone.dim, backbone.patch_size, backbone.image(config.image_size)
    elif config.name in SHAPES or config.name == "vjepa2":
        shape = SHAPES.get(config.name) or VJepa2Shape(**config.shape)
        _check_patches(config, shape.patch_size)
        if config.num_blocks is not None:
            shape = replace(shape, depth=config.num_blocks)
            weights = weights and first_blocks(weights, "encoder.layer.", config.num_blocks)
        backbone = VJepa2Backbone(shape, config.image_size, untrained=weights is None)
        if weights is not None:
            _load(backbone, weights, config.name)
        dim, patch = shape.width, shape.patch_size
        image = ImageSpec(config.image_size, config.image_size, antialias=config.antialias)
    else:
        raise UserError(f"encoder: got {config.name!r}, want one of {', '.join(NAMES)}")
    return ViTEncoder(
        backbone, config, dim=dim, side=config.image_size // patch, image=image, hub=hub
    )


def _check_patches(config: ViTConfig, patch: int) -> None:
    if config.image_size % patch:
        raise UserError(
            f"image_size: got {config.image_size}, want a multiple of {config.name}'s patches of "
            f"{patch} pixels"
        )


def _load(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        message = " ".join(str(error).split())[:300]
        raise UserError(f"encoder weights: not those of {name}: {message}") from error


def _translate(name: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames weights from the layout of an encoder's hub repository to its backbone's names."""
    translations: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
        "ijepa_vith": ijepa_from_transformers,
        **dict.fromkeys(SHAPES, from_transformers),
    }
    return translations[name](weights) if name in translations else weights


def _mini_patches(mini: MiniEncoder, pool: int) -> ViTEncoder:
    size = mini.config.image_size
    return ViTEncoder(
        MiniPatches(mini),
        ViTConfig("mini_patches", size, pool),
        dim=mini.config.width,
        side=size // mini.config.patch_size,
        image=mini.image,
    )
