"""What an encoder is, and how one is told from another."""

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

# The same weights give the same numbers to about this share of their size on other processors.
_PROBE_TOLERANCE = 0.01
_PROBE_SIZE = 16


@dataclass(frozen=True)
class Fingerprint:
    """What a predictor was trained on, so that it is never run on another encoder.

    Attributes:
        weights: sha256 of every weight.
        preprocessing: sha256 of how pictures are prepared and tokens pooled.
        probe: some of the tokens of a fixed picture: what weights and preprocessing amount to with
            the libraries at hand.
    """

    weights: str
    preprocessing: str
    probe: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "probe", tuple(self.probe))

    @property
    def key(self) -> str:
        """One hash of it all, to name cached tokens by; the probe roughly, as machines differ."""
        probe = [round(x, 1) for x in self.probe]
        return hashlib.sha256(f"{self.weights} {self.preprocessing} {probe}".encode()).hexdigest()

    def difference(self, other: Fingerprint) -> str | None:
        """What differs, in words; None where nothing does."""
        differing = ["weights"] if self.weights != other.weights else []
        if self.preprocessing != other.preprocessing:
            differing.append("preprocessing")
        mine, its = np.array(self.probe), np.array(other.probe)
        scale = np.sqrt(np.mean(mine**2)) if len(mine) else 0.0
        if mine.shape != its.shape or not np.allclose(
            mine, its, rtol=0, atol=_PROBE_TOLERANCE * scale
        ):
            differing.append("probe vector (the tokens of a fixed picture)")
        return " and ".join(differing) or None


class Encoder(Protocol):
    """Frames to tokens. Frame t's tokens depend on frame t alone."""

    @property
    def dim(self) -> int:
        """Token dimension D."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the token map; their product is P."""
        ...

    @property
    def image(self) -> ImageSpec:
        """The pictures it takes."""
        ...

    @property
    def fingerprint(self) -> Fingerprint:
        """What it is."""
        ...

    def __call__(self, frames: Tensor) -> Tensor:
        """`[B, T, 3, height, width]`, prepared as `image` says, to tokens `[B, T, P, D]`."""
        ...


def encode(encoder: Encoder, pictures: ImageArray, device: torch.device | str = "cpu") -> Tensor:
    """Pictures to tokens, each by itself: the one way there, in training as in the loop.

    Args:
        encoder: frozen.
        pictures: uint8 RGB `[N, height, width, 3]` of any size.
        device: where the encoder is.

    Returns:
        Tokens `[N, P, D]`, there.

    Raises:
        ValueError: not uint8 RGB.
    """
    frames = prepare_images(pictures, encoder.image).to(device)
    return encoder(frames[:, None])[:, 0]


def fingerprint(module: nn.Module, encoder: Encoder, *, pool: int = 1) -> Fingerprint:
    """The fingerprint of an encoder whose weights are `module`'s."""
    weights = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        weights.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        data = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        weights.update(data.numpy().data)
    how = {**asdict(encoder.image), "grid": encoder.grid, "dim": encoder.dim, "pool": pool}
    if how["antialias"]:
        del how["antialias"]  # as fingerprints were before there was a choice
    preprocessing = hashlib.sha256(json.dumps(how, sort_keys=True).encode())
    weight = next(iter(module.state_dict().values()))
    with torch.no_grad():
        tokens = encode(encoder, _probe_picture()[None], weight.device)
    tokens = tokens.flatten().to("cpu", torch.float64)
    # A stride that shares no factor with any size reaches all tokens and channels.
    chosen = (torch.arange(_PROBE_SIZE) * 7919) % len(tokens)
    probe = tuple(round(x, 6) for x in tokens[chosen].tolist())
    return Fingerprint(weights.hexdigest(), preprocessing.hexdigest(), probe)


def check_frames(frames: Tensor, image: ImageSpec, weight: Tensor) -> None:
    """Raises ValueError unless `frames` are `[B, T, 3, height, width]` as `weight` takes them."""
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
    """Evaluation mode, no gradients."""
    module.eval().requires_grad_(False)


def _probe_picture() -> np.ndarray:
    """A fixed colourful picture, uint8 `[240, 320, 3]`: waves, an edge, no random numbers."""
    rows, columns = np.mgrid[0:240, 0:320]
    channels = (rows * columns // 97, 3 * rows + 255 * (columns > 200), 5 * columns - 2 * rows)
    return np.stack([channel % 256 for channel in channels], axis=-1).astype(np.uint8)
