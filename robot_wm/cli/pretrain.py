"""`robot-wm pretrain`: an encoder from pictures and actions of a LeRobot dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from robot_wm.cli.console import Progress, finish, output_dir, replacing, say
from robot_wm.cli.train import load_data
from robot_wm.data import Clips, load_frames
from robot_wm.encoders import MiniConfig, MiniEncoder, save_mini
from robot_wm.pretrain import PretrainConfig, pretrain


def run(config: DictConfig) -> None:
    """Pretrains and writes the encoder's file, with its metrics beside it."""
    out = Path(config.out)
    if out.suffix != ".safetensors" or out.is_dir():
        raise ValueError(f"out: got {out}, want a file that ends in .safetensors")
    output_dir(str(out.parent))
    encoder_settings: Any = OmegaConf.to_container(config.encoder)
    settings: Any = OmegaConf.to_container(config.pretrain)
    shape, how = MiniConfig(**encoder_settings), PretrainConfig(**settings)
    data = load_data(config.data)
    progress = Progress("read", "frame")
    size = (shape.image_size, shape.image_size)
    frames = load_frames(data, size, cache_dir=Path(config.cache), progress=progress)
    progress.close()
    encoder = MiniEncoder(shape, generator=torch.Generator().manual_seed(how.seed))
    clips = Clips(
        frames,
        data.lengths,
        data.actions,
        image=encoder.image,
        num_frames=config.num_frames,
        batch_size=config.batch_size,
        seed=how.seed,
    )
    metrics = []
    progress = Progress("pretrain", "step")
    for row in pretrain(encoder, clips, how):
        metrics.append(row)
        progress.note(**{name: row[name] for name in ("prediction", "inverse", "sigreg")})
        progress(len(metrics), how.num_steps)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as scratch:
        save_mini(encoder, scratch)
    with replacing(out.with_suffix(".jsonl")) as scratch:
        scratch.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in metrics))
    say(f"encoder: {out}")
    finish({"encoder": str(out), "fingerprint": encoder.fingerprint.key, **metrics[-1]})
