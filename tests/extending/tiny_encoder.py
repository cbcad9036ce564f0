"""An encoder from outside: a frozen random convolution, averaged over a 4 x 4 grid."""

import torch
from torch import nn

from robot_wm.encoders import EncoderKind, check_frames, fingerprint, register_encoder
from robot_wm.preprocess import ImageSpec


class TinyEncoder(nn.Module):
    """Pictures to 16 tokens of 8 numbers (robot_wm.encoders.Encoder)."""

    dim, grid, image = 8, (4, 4), ImageSpec(64, 64)

    def __init__(self, seed=0):
        super().__init__()
        self.seed = seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.filter = nn.Conv2d(3, self.dim, kernel_size=8, stride=4)
        self.eval().requires_grad_(False)
        self.fingerprint = fingerprint(self, self)

    def forward(self, frames):
        check_frames(frames, self.image, self.filter.weight)
        maps = self.filter(frames.flatten(0, 1)).tanh()
        cells = nn.functional.adaptive_avg_pool2d(maps, self.grid)
        return 4 * cells.flatten(2).transpose(1, 2).unflatten(0, frames.shape[:2])


register_encoder(
    EncoderKind(
        "tiny",
        TinyEncoder,
        describe=lambda encoder: {"seed": encoder.seed},
        rebuild=lambda saved: TinyEncoder(saved["seed"]),
    )
)
