"""Probes what an encoder's tokens, or a model's latents, encode, and what distances mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.data import AlignedData, split_episodes
from robot_wm.deployment.parts import Part
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
from robot_wm.types import FloatArray, InnerShare, Seed, Settings, UserError
from robot_wm.workflows.data import DatasetSettings, encode_data, load_data, make_encoder
from robot_wm.workflows.objects import PRIVILEGED

_PCA_FRAMES = 2000


class ProbeSettings(Settings, frozen=True, kw_only=True):
    """What is probed, and on which dataset.

    Attributes:
        data: A dataset with the gripper's position in its state; `collect` also writes the cube's
            pose.
        encoder: An encoder of ours by name, or the caller's own.
        checkpoint: A directory, or the name of a checkpoint that ships, whose latents are probed
            instead of the encoder's tokens; null for the tokens.
        cache: Directory where tokens are kept, by content.
        device: Device to compute on: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        holdout: Share of the episodes that the read-out is tested on.
        baselines: Also probes an untrained encoder, raw pixels and their principal components.
        seed: Seed of the split, and of an encoder's random weights.
    """

    data: DatasetSettings
    encoder: Part = Part("mini")
    checkpoint: str | None = None
    cache: str = "outputs/cache"
    device: str = "auto"
    holdout: InnerShare = 0.3
    baselines: bool = True
    seed: Seed = 0


@dataclass(frozen=True)
class ProbeResult:
    """What was read off.

    Attributes:
        name: Name of the encoder or the checkpoint.
        fingerprint: Fingerprint of the encoder.
        probe: Figures of the probe.
        baselines: Figures of the baselines, by name.
    """

    name: str
    fingerprint: str
    probe: Probe
    baselines: dict[str, Probe]

    def table(self) -> str:
        """Lays out the figures for the terminal."""
        return probe_table({f"{self.name} (probed)": self.probe, **self.baselines})


def probe_encoder(settings: ProbeSettings) -> ProbeResult:
    """Fits linear read-outs of the dataset's quantities, and tests them on held-out episodes.

    Args:
        settings: What is probed, and on which dataset.

    Returns:
        The figures.

    Raises:
        UserError: the dataset lacks the quantities, or a setting does not fit.
    """
    model, name = None, settings.encoder.name
    if settings.checkpoint is None:
        encoder = make_encoder(settings.encoder, seed=settings.seed)
    else:
        model, _ = load_checkpoint(find_checkpoint(settings.checkpoint))
        model.to(pick_device(settings.device))
        encoder, name = model.encoder, Path(settings.checkpoint).name
    data = load_data(settings.data, also=PRIVILEGED)
    targets = targets_from_state(data.proprio, data.proprio_names)
    fitted, held_out = split_episodes(data.num_episodes, settings.holdout, seed=settings.seed)
    check_split(len(fitted), len(held_out))
    tokens = _encode(data, encoder, settings)
    if model is not None:
        tokens = _latents(model, data, tokens)
    figures = probe(tokens, targets, held_out)
    baselines: dict[str, Probe] = {}
    if settings.baselines:
        shape = encoder.config if isinstance(encoder, MiniEncoder) else None
        untrained = _encode(data, random_mini(seed=0, config=shape), settings)
        baselines["random"] = probe(untrained, targets, held_out)
        pixels = _encode(data, build_encoder("pixels"), settings)
        baselines["pixels"] = probe(pixels, targets, held_out)
        flat = [episode.reshape(len(episode), -1) for episode in pixels]
        fit = np.concatenate([flat[i] for i in fitted])
        fit = fit[:: -(-len(fit) // _PCA_FRAMES)]
        num = min(tokens[0][0].size, *fit.shape)
        components = principal_components(fit, flat, num)
        baselines["pixels_pca"] = probe(components, targets, held_out)
    return ProbeResult(name, encoder.fingerprint.key, figures, baselines)


@torch.no_grad()
def _latents(
    model: WorldModel, data: AlignedData, tokens: Sequence[FloatArray]
) -> list[FloatArray]:
    """Computes a model's latents `[T, P, D]` of every episode's frames, each observed alone.

    Args:
        model: The model.
        data: The dataset.
        tokens: Tokens `[T, P, D]` of each episode.

    Returns:
        The latents of each episode.

    Raises:
        UserError: the dataset lacks a part of the model's state.
    """
    names = model.info.state_names
    missing = [name for name in names if name not in data.proprio_names]
    if missing:
        raise UserError(f"data: no {', '.join(missing)}, which the checkpoint's state has")
    columns = [data.proprio_names.index(name) for name in names]
    latents = []
    for frames, proprio in zip(tokens, data.proprio, strict=True):
        seen = EncodedFrames.of(frames, proprio[:, columns])
        latents.append(model.latent(model.observe(model.initial(), seen, None)).cpu().numpy())
    return latents


def _encode(data: AlignedData, encoder: Encoder, settings: ProbeSettings) -> list[FloatArray]:
    store = encode_data(data, encoder, pick_device(settings.device), Path(settings.cache))
    return [store[i] for i in range(len(store))]


def probe_table(rows: dict[str, Probe]) -> str:
    """Lays out R2, mm or degrees and rank correlations as a table, one encoder per line."""
    names = list(next(iter(rows.values())).r2)
    head = f"{'held-out R2 (mm or deg)':24}{'numbers':>9}"
    head += "".join(f"{name:>15}" for name in names)
    head += f"{'rank, all':>11}{'near':>7}{'across':>8}"
    lines = [head]
    for row, figures in rows.items():
        line = f"{row:24}{figures.num_numbers:9}"
        for name in names:
            error = figures.mm.get(name, figures.deg.get(name, np.nan))
            line += f"{figures.r2[name]:8.3f} ({error:4.1f})"
        ranks = figures.rank_correlation
        line += f"{ranks['all']:11.3f}{ranks['near']:7.3f}{ranks['across']:8.3f}"
        lines.append(line)
    return "\n".join(lines)
