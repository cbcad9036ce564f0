"""`robot-wm probe`: what can be read off an encoder's tokens, or a model's latents, and what their
distances mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.console import finish, say
from robot_wm.cli.train import encode_data, load_data, make_encoder
from robot_wm.data import AlignedData, split_episodes
from robot_wm.encoders import Encoder, MiniEncoder, build_encoder, random_mini
from robot_wm.models import EncodedFrames, WorldModel
from robot_wm.precision import pick_device
from robot_wm.probing import (
    Probe,
    check_split,
    principal_components,
    probe,
    targets_from_state,
)
from robot_wm.types import FloatArray, UserError

_PRIVILEGED = "observation.environment_state"
_PCA_FRAMES = 2000


def run(config: DictConfig) -> None:
    """Probes, prints the table, ends with the encoder's figures."""
    settings: Any = OmegaConf.to_container(config)
    model = None
    if config.checkpoint is None:
        encoder = make_encoder(settings["encoder"])
    else:
        model, _ = load_checkpoint(find_checkpoint(config.checkpoint))
        model.to(pick_device(config.device))
        encoder = model.encoder
    data = load_data(config.data, also=_PRIVILEGED)
    targets = targets_from_state(data.proprio, data.proprio_names)
    fitted, held_out = split_episodes(data.num_episodes, config.holdout, seed=config.seed)
    check_split(len(fitted), len(held_out))
    tokens = _encode(data, encoder, config)
    if model is not None:
        tokens = _latents(model, data, tokens)
    ours = probe(tokens, targets, held_out)
    what = config.encoder.get("name") if model is None else Path(str(config.checkpoint)).name
    rows = {f"{what} (probed)": ours}
    if config.baselines:
        shape = encoder.config if isinstance(encoder, MiniEncoder) else None
        untrained = _encode(data, random_mini(seed=0, config=shape), config)
        rows["random"] = probe(untrained, targets, held_out)
        pixels = _encode(data, build_encoder("pixels"), config)
        rows["pixels"] = probe(pixels, targets, held_out)
        flat = [episode.reshape(len(episode), -1) for episode in pixels]
        fit = np.concatenate([flat[i] for i in fitted])
        fit = fit[:: -(-len(fit) // _PCA_FRAMES)]
        num = min(tokens[0][0].size, *fit.shape)
        components = principal_components(fit, flat, num)
        rows["pixels_pca"] = probe(components, targets, held_out)
    say(probe_table(rows))
    figures = {name: asdict(row) for name, row in rows.items() if row is not ours}
    finish({**asdict(ours), "fingerprint": encoder.fingerprint.key, "baselines": figures})


@torch.no_grad()
def _latents(
    model: WorldModel, data: AlignedData, tokens: Sequence[FloatArray]
) -> list[FloatArray]:
    """A model's latents `[T, P, D]` of every episode's frames, each seen alone.

    Raises:
        UserError: the data lacks what the model calls its state.
    """
    names = model.info.state_names
    missing = [name for name in names if name not in data.proprio_names]
    if missing:
        raise UserError(f"data: no {', '.join(missing)}, which the checkpoint's state has")
    columns = [data.proprio_names.index(name) for name in names]
    latents = []
    for own, proprio in zip(tokens, data.proprio, strict=True):
        parts = (np.array(value, np.float32) for value in (own, proprio[:, columns]))
        seen = EncodedFrames(*(torch.from_numpy(part) for part in parts))
        latents.append(model.latent(model.observe(model.initial(), seen, None)).cpu().numpy())
    return latents


def _encode(data: AlignedData, encoder: Encoder, config: DictConfig) -> list[FloatArray]:
    store = encode_data(data, encoder, pick_device(config.device), Path(config.cache))
    return [store[i] for i in range(len(store))]


def probe_table(rows: dict[str, Probe]) -> str:
    """R2 and millimetres by quantity, and the rank correlations, one encoder a line."""
    names = list(next(iter(rows.values())).r2)
    head = f"{'held-out R2 (mm or deg)':24}{'numbers':>9}"
    head += "".join(f"{name:>15}" for name in names)
    head += f"{'rank, all':>11}{'near':>7}{'across':>8}"
    lines = [head]
    for row, found in rows.items():
        line = f"{row:24}{found.num_numbers:9}"
        for name in names:
            error = found.mm.get(name, found.deg.get(name, np.nan))
            line += f"{found.r2[name]:8.3f} ({error:4.1f})"
        ranks = found.rank_correlation
        line += f"{ranks['all']:11.3f}{ranks['near']:7.3f}{ranks['across']:8.3f}"
        lines.append(line)
    return "\n".join(lines)
