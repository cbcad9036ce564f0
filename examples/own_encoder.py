"""An encoder of your own: check it against its contract, and probe what it sees."""

from __future__ import annotations

import sys

import torch
from torch import nn

from robot_wm import check_encoder
from robot_wm.deployment.parts import Part
from robot_wm.encoders import check_frames, fingerprint
from robot_wm.preprocess import ImageSpec
from robot_wm.workflows.data import DatasetSettings
from robot_wm.workflows.probe import ProbeSettings, probe_encoder


class Convolution(nn.Module):
    """Pictures to 16 tokens of 8 numbers: a frozen random convolution over a 4 x 4 grid."""

    dim, grid, image = 8, (4, 4), ImageSpec(64, 64)

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.filter = nn.Conv2d(3, self.dim, kernel_size=8, stride=4)
        self.eval().requires_grad_(False)
        self.fingerprint = fingerprint(self, self)

    def forward(self, frames):  # [B, T, 3, 64, 64] -> [B, T, 16, 8]
        """Encodes pictures."""
        check_frames(frames, self.image, self.filter.weight)
        maps = self.filter(frames.flatten(0, 1)).tanh()
        cells = nn.functional.adaptive_avg_pool2d(maps, self.grid)
        return 4 * cells.flatten(2).transpose(1, 2).unflatten(0, frames.shape[:2])


def main(data: str, cache: str) -> None:
    """Probes the encoder next to the one that ships.

    Args:
        data: A dataset of `robot-wm collect`.
        cache: Directory where tokens are kept.
    """
    check_encoder(Convolution)
    for part in (Part("mini"), Part(f"{__name__}.Convolution")):
        settings = ProbeSettings(
            data=DatasetSettings(source=data),
            encoder=part,
            cache=cache,
            holdout=0.5,
            baselines=False,
        )
        print(probe_encoder(settings).table())


if __name__ == "__main__":
    sys.modules["own_encoder"] = sys.modules["__main__"]
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "outputs/cache")
