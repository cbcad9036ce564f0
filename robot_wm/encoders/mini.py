"""MiniEncoder: the project's own small ViT, and the files that hold its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from robot_wm.encoders.hub import write_weights
from robot_wm.encoders.protocol import Fingerprint, check_frames, fingerprint, freeze
from robot_wm.layers import LAYER_NORM_EPS, Block, init_transformer
from robot_wm.preprocess import ImageSpec
from robot_wm.shipped import WEIGHTS_DIR
from robot_wm.types import Count, Index, UserError, check_fields

TUBELET = 2


@dataclass(frozen=True)
class MiniConfig:
    """Shape of a MiniEncoder.

    Attributes:
        image_size: Height and width of the square pictures, pixels.
        patch_size: Side of a patch, pixels; divides `image_size`.
        stem: How a patch becomes a token: `linear`, or `conv`, convolutions over the whole picture
            (early convolutions, arXiv 2106.14881), which learn the positions of objects several
            times faster.
        width: Width of the transformer.
        depth: Number of transformer blocks.
        num_heads: Number of attention heads.
        num_tokens: Tokens per frame, P, read from as many register tokens; 0: the patches are the
            tokens, as in V-JEPA and I-JEPA.
        dim: Token dimension, D; not used if the patches are the tokens, whose dimension is `width`.
    """

    image_size: Count = 64
    patch_size: Count = 16
    stem: Literal["linear", "conv"] = "conv"
    width: Count = 128
    depth: Count = 2
    num_heads: Count = 4
    num_tokens: Index = 4
    dim: Count = 8

    def __post_init__(self) -> None:
        check_fields(self)
        if self.stem == "conv" and self.patch_size % 8:
            raise UserError(f"patch_size: got {self.patch_size}, want a multiple of 8 for conv")
        if self.width % 4:
            raise UserError(f"width: got {self.width}, want a multiple of 4")
        if self.image_size % self.patch_size:
            raise UserError(
                f"patch_size: got {self.patch_size}, want a divisor of image_size={self.image_size}"
            )


class MiniEncoder(nn.Module):
    """A small ViT over two-frame tubelets whose register or patch tokens are the frame's latent.

    A single frame is encoded as a tubelet that repeats it, as in V-JEPA 2-AC. With registers
    (arXiv 2309.16588), which attend to the patches, each register is one token, normalised over
    the batch (LeWM, arXiv 2603.19312); the linear map `metric`, which pretraining fits, is then
    applied to all numbers of the frame. Without registers each patch is a token, normalised over
    its channels.

    Args:
        config: The encoder's shape.
        generator: Draws the initial weights; torch's default generator if None.
    """

    def __init__(self, config: MiniConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self._image = ImageSpec(config.image_size, config.image_size)
        self._fingerprint: Fingerprint | None = None
        self.patch_embed: nn.Module
        if config.stem == "linear":
            self.patch_embed = nn.Linear(TUBELET * 3 * config.patch_size**2, config.width)
        else:
            self.patch_embed = ConvStem(config.patch_size, config.width)
        self.registers = nn.Parameter(torch.zeros(config.num_tokens, config.width))
        self.register_buffer("positions", sincos_2d(self.side, config.width), persistent=False)
        self.blocks = nn.ModuleList(
            Block(config.width, config.num_heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        if config.num_tokens:
            self.head = nn.Linear(config.width, config.dim)
            size = config.num_tokens * config.dim
            self.head_norm = nn.BatchNorm1d(size, affine=False)
            self.register_buffer("metric", torch.eye(size))
        init_transformer(self.blocks, self, generator)
        if isinstance(self.patch_embed, ConvStem):
            self.patch_embed.init(generator)
        nn.init.trunc_normal_(self.registers, std=0.02, generator=generator)

    @property
    def dim(self) -> int:
        """See `Encoder.dim`."""
        return self.config.dim if self.config.num_tokens else self.config.width

    @property
    def grid(self) -> tuple[int, int]:
        """See `Encoder.grid`."""
        return (1, self.config.num_tokens) if self.config.num_tokens else (self.side, self.side)

    @property
    def side(self) -> int:
        """Number of patches along an edge of the picture."""
        return self.config.image_size // self.config.patch_size

    @property
    def image(self) -> ImageSpec:
        """See `Encoder.image`."""
        return self._image

    @property
    def fingerprint(self) -> Fingerprint:
        """See `Encoder.fingerprint`."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self, self)
        return self._fingerprint

    def train(self, mode: bool = True) -> MiniEncoder:
        """Sets the training mode, and discards the fingerprint because weights may change."""
        self._fingerprint = None
        return super().train(mode)

    def forward(self, frames: Tensor) -> Tensor:
        """See `Encoder.__call__`."""
        check_frames(frames, self._image, self.registers)
        images = frames.flatten(0, 1)
        tokens = self.read(self.transform(self.embed(images, images)))
        return rearrange(tokens, "(b t) p d -> b t p d", b=len(frames))

    def embed(self, first: Tensor, second: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Embeds the patches of tubelets.

        Args:
            first: The first frame of each tubelet, `[n, 3, height, width]`.
            second: The second frame of each tubelet, `[n, 3, height, width]`.
            hidden: Mask of patches, bool `[n, patches]`, true for those that are set to zero first,
                so that the convolutions pass nothing of them to others.

        Returns:
            `[n, patches, width]`.
        """
        # One frame in place of two equal ones halves what the first layer reads; see `ConvStem`.
        repeats = second is first and self.config.stem == "conv"
        images = first if repeats else torch.cat((first, second), dim=1)
        size = self.config.patch_size
        if hidden is not None:
            cells = hidden.view(-1, 1, self.side, self.side)
            blank = cells.repeat_interleave(size, 2).repeat_interleave(size, 3)
            images = images.masked_fill(blank, 0.0)
        if self.config.stem == "linear":
            images = rearrange(images, "n c (r p) (s q) -> n (r s) (c p q)", p=size, q=size)
        return self.patch_embed(images) + self.positions

    def transform(self, patches: Tensor) -> Tensor:
        """Maps L of the embedded patches `[n, L, width]` to `[n, registers + L, width]`."""
        x = torch.cat((self.registers.expand(len(patches), -1, -1), patches), dim=1)
        for block in self.blocks:
            x, _ = block(x)
        return self.norm(x)

    def read(self, features: Tensor) -> Tensor:
        """Maps the features of all patches to tokens `[n, P, D]`."""
        if not self.config.num_tokens:
            return F.layer_norm(features, features.shape[-1:])
        tokens = self.head(features[:, : self.config.num_tokens])
        return (self.head_norm(tokens.flatten(1)) @ self.get_buffer("metric")).view_as(tokens)


class ConvStem(nn.Module):
    """Maps a picture to its patches' tokens by five convolutions and a linear layer.

    The first convolution and then each pair of convolutions halve the picture; each pair also
    doubles the channels. Of a tubelet that repeats a frame, the frame alone is enough.

    Args:
        patch_size: Side of a patch, pixels, a multiple of 8.
        width: Dimension of the tokens.
        channels: Channels after the first convolution.
    """

    def __init__(self, patch_size: int, width: int, channels: int = 16) -> None:
        super().__init__()
        self.cells = patch_size // 8  # side of a patch in the last feature map
        sizes = (TUBELET * 3, channels, 2 * channels, 4 * channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=3, stride=2, padding=1) for a, b in pairwise(sizes)
        )
        self.more = nn.ModuleList(nn.Conv2d(b, b, kernel_size=3, padding=1) for b in sizes[2:])
        self.leave = nn.Linear(sizes[-1] * self.cells**2, width)

    def init(self, generator: torch.Generator | None) -> None:
        """Draws initial weights that preserve the signal's scale: a stem is no residual branch."""
        for conv in (*self.convs, *self.more):
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        bound = self.leave.in_features**-0.5
        nn.init.uniform_(self.leave.weight, -bound, bound, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        """Maps `[n, 6 or 3, height, width]` to `[n, patches, width]`; 3: one frame, repeated."""
        x = images.contiguous(memory_format=torch.channels_last)
        first = self.convs[0]
        assert isinstance(first, nn.Conv2d)
        weight = first.weight if images.shape[1] > 3 else first.weight[:, :3] + first.weight[:, 3:]
        x = F.relu(F.conv2d(x, weight, first.bias, stride=2, padding=1))
        for halving, refining in zip(self.convs[1:], self.more, strict=True):
            x = F.relu(refining(F.relu(halving(x))))
        x = rearrange(x, "n c (r p) (s q) -> n (r s) (c p q)", p=self.cells, q=self.cells)
        return self.leave(x)


class MiniPatches(nn.Module):
    """The patch features of a MiniEncoder, whatever tokens it reads out.

    Args:
        mini: The encoder.
    """

    def __init__(self, mini: MiniEncoder) -> None:
        super().__init__()
        self.mini = mini

    def forward(self, frames: Tensor) -> Tensor:
        """Maps `[n, 3, size, size]` to `[n, patches, width]`."""
        features = self.mini.transform(self.mini.embed(frames, frames))
        return features[:, self.mini.config.num_tokens :]


def save_mini(encoder: MiniEncoder, path: Path) -> None:
    """Writes weights and shape into one safetensors file."""
    metadata = {"mini": json.dumps(asdict(encoder.config))}
    write_weights(encoder.state_dict(), path, metadata=metadata)


def load_mini(path: Path) -> MiniEncoder:
    """Loads a MiniEncoder from a file that `save_mini` wrote.

    Args:
        path: The file.

    Returns:
        The encoder, frozen.

    Raises:
        FileNotFoundError: no such file.
        UserError: not a mini encoder's file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"encoder weights: no file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
        with torch.random.fork_rng(devices=[]):  # the initial weights are replaced
            encoder = MiniEncoder(MiniConfig(**json.loads(metadata["mini"])))
        encoder.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"encoder weights: {path} is not a mini encoder's ({error})") from error
    freeze(encoder)
    return encoder


def shipped_weights() -> Path:
    """Returns the path of the mini encoder's weights that ship with the library."""
    return WEIGHTS_DIR / "mini.safetensors"


def shipped_config() -> MiniConfig:
    """Returns the shape of the mini encoder that ships with the library."""
    with safe_open(shipped_weights(), "pt") as file:
        return MiniConfig(**json.loads(file.metadata()["mini"]))


def random_mini(*, seed: int, config: MiniConfig | None = None) -> MiniEncoder:
    """Makes a MiniEncoder with random weights, the floor of every comparison.

    Args:
        seed: Seed of the weights.
        config: Shape of the encoder; that of the encoder that ships if None.

    Returns:
        The encoder, frozen.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder = MiniEncoder(config or shipped_config(), generator=generator)
    freeze(encoder)
    return encoder


def sincos_2d(side: int, width: int) -> Tensor:
    """Returns sine-cosine positions `[side * side, width]`, with half of the channels per axis."""
    frequencies = 10000 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies  # [side, width / 4]
    axis = torch.cat((angles.sin(), angles.cos()), dim=1)  # [side, width / 2]
    rows, columns = axis.repeat_interleave(side, 0), axis.repeat(side, 1)
    return torch.cat((rows, columns), dim=1)
