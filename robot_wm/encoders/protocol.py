"""The interface of encoders, and fingerprints that identify them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from robot_wm.preprocess import ImageSpec, prepare_images
from robot_wm.types import ImageArray

# On different processors, tokens of the same weights differ by up to this share of their size.
_PROBE_TOLERANCE = 0.01
_PROBE_SIZE = 16


@dataclass(frozen=True)
class Fingerprint:
    """The identity of an encoder, so that a predictor is never run with another than its own.

    Attributes:
        weights: The sha256 of all weights.
        preprocessing: The sha256 of how pictures are prepared and tokens pooled.
        probe: Some token values of a fixed picture, which also depend on the installed libraries.
    """

    weights: str
    preprocessing: str
    probe: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "probe", tuple(self.probe))

    @property
    def key(self) -> str:
        """One hash of all fields that names cached tokens; the probe is rounded for it."""
        probe = [round(x, 1) for x in self.probe]
        return hashlib.sha256(f"{self.weights} {self.preprocessing} {probe}".encode()).hexdigest()

    def difference(self, other: Fingerprint) -> str | None:
        """Returns what differs, in words, or None if nothing does."""
        differing = ["weights"] if self.weights != other.weights else []
        if self.preprocessing != other.preprocessing:
            differing.append("preprocessing")
        own_probe, other_probe = np.array(self.probe), np.array(other.probe)
        scale = np.sqrt(np.mean(own_probe**2)) if len(own_probe) else 0.0
        if own_probe.shape != other_probe.shape or not np.allclose(
            own_probe, other_probe, rtol=0, atol=_PROBE_TOLERANCE * scale
        ):
            differing.append("probe vector (the tokens of a fixed picture)")
        return " and ".join(differing) or None


class Encoder(Protocol):
    """Maps frames to tokens. The tokens of frame t depend on frame t only."""

    @property
    def dim(self) -> int:
        """Token dimension, D."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the token map; their product is P."""
        ...

    @property
    def image(self) -> ImageSpec:
        """Size and preparation of the frames that the encoder takes."""
        ...

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity of the encoder's weights and preprocessing."""
        ...

    def __call__(self, frames: Tensor) -> Tensor:
        """Encodes frames.

        Args:
            frames: Pictures `[B, T, 3, height, width]` as `image` says, on the encoder's device.

        Returns:
            Tokens `[B, T, P, D]`.

        Raises:
            ValueError: frames of another size, dtype or device.
        """
        ...


def encode(encoder: Encoder, pictures: ImageArray, device: torch.device | str = "cpu") -> Tensor:
    """Prepares and encodes pictures, each by itself. Training and control both use this function.

    Args:
        encoder: The frozen encoder.
        pictures: Pictures of any size, uint8 RGB `[N, height, width, 3]`.
        device: Device of the encoder.

    Returns:
        Tokens `[N, P, D]` on `device`.

    Raises:
        ValueError: not uint8 RGB.
    """
    frames = prepare_images(pictures, encoder.image).to(device)
    return encoder(frames[:, None])[:, 0]


def fingerprint(module: nn.Module, encoder: Encoder, *, pool: int = 1) -> Fingerprint:
    """Computes the fingerprint of an encoder.

    Args:
        module: The module that holds the encoder's weights.
        encoder: The encoder.
        pool: Side of the squares of tokens that are averaged into one.

    Returns:
        The fingerprint.
    """
    weights = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        weights.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        data = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        weights.update(data.numpy().data)
    settings = {**asdict(encoder.image), "grid": encoder.grid, "dim": encoder.dim, "pool": pool}
    if settings["antialias"]:
        del settings["antialias"]  # keeps the fingerprints from before this setting existed
    preprocessing = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    weight = next(iter(module.state_dict().values()))
    with torch.no_grad():
        tokens = encode(encoder, _probe_picture()[None], weight.device)
    tokens = tokens.flatten().to("cpu", torch.float64)
    # A stride that shares no factor with any size reaches all tokens and channels.
    probe_indices = (torch.arange(_PROBE_SIZE) * 7919) % len(tokens)
    probe = tuple(round(x, 6) for x in tokens[probe_indices].tolist())
    return Fingerprint(weights.hexdigest(), preprocessing.hexdigest(), probe)


def check_frames(frames: Tensor, image: ImageSpec, weight: Tensor) -> None:
    """Raises ValueError unless `frames` have `image`'s size and `weight`'s dtype and device."""
    size = (3, image.height, image.width)
    if frames.ndim != 5 or tuple(frames.shape[2:]) != size:
        raise ValueError(
            f"frames: got {tuple(frames.shape)}, want [B, T, {size[0]}, {size[1]}, {size[2]}]"
        )
    if frames.dtype != weight.dtype or frames.device != weight.device:
        raise ValueError(
            f"frames: got {frames.dtype} on {frames.device}, want {weight.dtype} on {weight.device}"
        )


def freeze(module: nn.Module) -> None:
    """Puts a module into evaluation mode and turns off its gradients."""
    module.eval().requires_grad_(False)


def _probe_picture() -> np.ndarray:
    """Returns a fixed colourful picture, uint8 `[240, 320, 3]`: waves and an edge."""
    rows, columns = np.mgrid[0:240, 0:320]
    channels = (rows * columns // 97, 3 * rows + 255 * (columns > 200), 5 * columns - 2 * rows)
    return np.stack([channel % 256 for channel in channels], axis=-1).astype(np.uint8)
