"""The project's own small ViT."""

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
from safetensors.torch import save
from torch import Tensor, nn

from robot_wm.encoders.protocol import Fingerprint, check_frames, fingerprint, freeze
from robot_wm.layers import LAYER_NORM_EPS, Block, init_transformer
from robot_wm.preprocess import ImageSpec
from robot_wm.types import UserError

WEIGHTS_DIR = Path(__file__).parents[1] / "weights"
TUBELET = 2


@dataclass(frozen=True)
class MiniConfig:
    """Shape of a MiniEncoder.

    Attributes:
        image_size: height and width of its square pictures, pixels.
        patch_size: pixels; divides `image_size`.
        stem: how a patch becomes a token: `linear`, or `conv`, convolutions over the whole picture
            (early convolutions, arXiv 2106.14881), which learn several times sooner where things
            are.
        width: transformer width.
        depth: transformer blocks.
        num_heads: attention heads.
        num_tokens: tokens per frame, P, read from as many register tokens; 0: the patches are the
            tokens, as in V-JEPA and I-JEPA.
        dim: token dimension, D; of the patches it is `width`, and this is not used.
    """

    image_size: int = 64
    patch_size: int = 16
    stem: Literal["linear", "conv"] = "conv"
    width: int = 128
    depth: int = 2
    num_heads: int = 4
    num_tokens: int = 4
    dim: int = 8

    def __post_init__(self) -> None:
        sizes = (self.image_size, self.patch_size, self.width, self.depth, self.num_heads)
        if min(*sizes, self.dim) < 1 or self.num_tokens < 0:
            raise UserError(f"MiniConfig: got {self}, want every size at least 1")
        if self.stem not in ("linear", "conv"):
            raise UserError(f"stem: got {self.stem!r}, want 'linear' or 'conv'")
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

    A frame enters as a tubelet of itself twice (V-JEPA 2-AC encodes single frames this way). With
    registers (arXiv 2309.16588) the patches exchange what they see with them, and each register,
    normalised over the batch (LeWM, arXiv 2603.19312), is one token; `metric` then stretches a
    frame's numbers, all together, to the distances that pretraining found. Without registers each
    patch is a token, normalised over its channels.

    Args:
        config: its shape.
        generator: of the first weights; torch's own where None.
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
        return self.config.dim if self.config.num_tokens else self.config.width

    @property
    def grid(self) -> tuple[int, int]:
        return (1, self.config.num_tokens) if self.config.num_tokens else (self.side, self.side)

    @property
    def side(self) -> int:
        """Patches along an edge of the picture."""
        return self.config.image_size // self.config.patch_size

    @property
    def image(self) -> ImageSpec:
        return self._image

    @property
    def fingerprint(self) -> Fingerprint:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self, self)
        return self._fingerprint

    def train(self, mode: bool = True) -> MiniEncoder:
        """As ever; a fingerprint taken before is forgotten."""
        self._fingerprint = None
        return super().train(mode)

    def forward(self, frames: Tensor) -> Tensor:
        """`[B, T, 3, height, width]` to tokens `[B, T, P, D]`.

        Raises:
            UserError: pictures of another size, dtype or device.
        """
        check_frames(frames, self._image, self.registers)
        images = frames.flatten(0, 1)
        tokens = self.read(self.transform(self.embed(images, images)))
        return rearrange(tokens, "(b t) p d -> b t p d", b=len(frames))

    def embed(self, first: Tensor, second: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The two frames of a tubelet, `[n, 3, height, width]` each, to `[n, patches, width]`.

        `hidden`, bool `[n, patches]`, is blanked first, so that no other patch sees into it.
        """
        images, size = torch.cat((first, second), dim=1), self.config.patch_size
        if hidden is not None:
            cells = hidden.view(-1, 1, self.side, self.side)
            blank = cells.repeat_interleave(size, 2).repeat_interleave(size, 3)
            images = images.masked_fill(blank, 0.0)
        if self.config.stem == "linear":
            images = rearrange(images, "n c (r p) (s q) -> n (r s) (c p q)", p=size, q=size)
        return self.patch_embed(images) + self.positions

    def transform(self, patches: Tensor) -> Tensor:
        """Any of the embedded patches, `[n, L, width]`, to features `[n, registers + L, width]`."""
        x = torch.cat((self.registers.expand(len(patches), -1, -1), patches), dim=1)
        for block in self.blocks:
            x, _ = block(x)
        return self.norm(x)

    def read(self, features: Tensor) -> Tensor:
        """The features of all patches to tokens `[n, P, D]`."""
        if not self.config.num_tokens:
            return F.layer_norm(features, features.shape[-1:])
        tokens = self.head(features[:, : self.config.num_tokens])
        return (self.head_norm(tokens.flatten(1)) @ self.get_buffer("metric")).view_as(tokens)


class ConvStem(nn.Module):
    """A picture to its patches' tokens, through five convolutions and a linear layer.

    Args:
        patch_size: pixels, a multiple of 8.
        width: of the tokens.
        channels: after the first convolution; then two pairs, each of which doubles them. The
            first convolution and each pair halve the picture.
    """

    def __init__(self, patch_size: int, width: int, channels: int = 16) -> None:
        super().__init__()
        self.cells = patch_size // 8  # along a patch's edge, of what the convolutions leave
        sizes = (TUBELET * 3, channels, 2 * channels, 4 * channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel_size=3, stride=2, padding=1) for a, b in pairwise(sizes)
        )
        self.more = nn.ModuleList(nn.Conv2d(b, b, kernel_size=3, padding=1) for b in sizes[2:])
        self.leave = nn.Linear(sizes[-1] * self.cells**2, width)

    def init(self, generator: torch.Generator | None) -> None:
        """First weights that keep the size of what passes: a stem is no residual branch."""
        for conv in (*self.convs, *self.more):
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        bound = self.leave.in_features**-0.5
        nn.init.uniform_(self.leave.weight, -bound, bound, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        """`[n, 6, height, width]` to `[n, patches, width]`."""
        x = images.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.convs[0](x))
        for conv, more in zip(self.convs[1:], self.more, strict=True):
            x = F.relu(more(F.relu(conv(x))))
        x = rearrange(x, "n c (r p) (s q) -> n (r s) (c p q)", p=self.cells, q=self.cells)
        return self.leave(x)


class MiniPatches(nn.Module):
    """A MiniEncoder read at its patches: `[n, 3, size, size]` to `[n, patches, width]`."""

    def __init__(self, mini: MiniEncoder) -> None:
        super().__init__()
        self.mini = mini

    def forward(self, frames: Tensor) -> Tensor:
        features = self.mini.transform(self.mini.embed(frames, frames))
        return features[:, self.mini.config.num_tokens :]


def save_mini(encoder: MiniEncoder, path: Path) -> None:
    """Writes weights and shape into one safetensors file."""
    weights = {name: value.contiguous() for name, value in encoder.state_dict().items()}
    path.write_bytes(save(weights, metadata={"mini": json.dumps(asdict(encoder.config))}))


def load_mini(path: Path) -> MiniEncoder:
    """A frozen MiniEncoder from a file that `save_mini` wrote.

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
        with torch.random.fork_rng(devices=[]):  # its first weights are not kept
            encoder = MiniEncoder(MiniConfig(**json.loads(metadata["mini"])))
        encoder.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"encoder weights: {path} is not a mini encoder's ({error})") from error
    freeze(encoder)
    return encoder


def shipped_weights() -> Path:
    """The file of the mini encoder that ships with the library."""
    return WEIGHTS_DIR / "mini.safetensors"


def shipped_config() -> MiniConfig:
    """The shape of the mini encoder that ships."""
    with safe_open(shipped_weights(), "pt") as file:
        return MiniConfig(**json.loads(file.metadata()["mini"]))


def random_mini(*, seed: int, config: MiniConfig | None = None) -> MiniEncoder:
    """The mini architecture, untrained: the floor of every comparison.

    Args:
        seed: of its weights.
        config: its shape; that of the encoder that ships where None.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder = MiniEncoder(config or shipped_config(), generator=generator)
    freeze(encoder)
    return encoder


def sincos_2d(side: int, width: int) -> Tensor:
    """Fixed sine-cosine positions `[side * side, width]`, half of the channels per axis."""
    frequencies = 10000 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies  # [side, width / 4]
    axis = torch.cat((angles.sin(), angles.cos()), dim=1)  # [side, width / 2]
    rows, columns = axis.repeat_interleave(side, 0), axis.repeat(side, 1)
    return torch.cat((rows, columns), dim=1)
