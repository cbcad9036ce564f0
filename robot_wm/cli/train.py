"""`robot-wm train`: a LeRobot dataset in, a checkpoint directory out."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from robot_wm.checkpoint import save_checkpoint
from robot_wm.cli.build import build_encoder
from robot_wm.cli.console import Progress, finish, output_dir, say
from robot_wm.data import (
    AlignedData,
    DataSpec,
    DataStats,
    WindowSampler,
    align,
    encode_dataset,
    fit_stats,
    open_dataset,
    split_episodes,
)
from robot_wm.predictor import Predictor, PredictorConfig
from robot_wm.training import Metrics, TrainConfig, held_out_error, train
from robot_wm.types import ActionSpec, FloatArray
from robot_wm.world_model import LatentWorldModel, ModelSpec


@dataclass(frozen=True)
class TrainingRun:
    """What a training run leaves behind besides its checkpoint."""

    metrics: list[Metrics]
    held_out: dict[str, list[float]]
    dataset_hash: str


def run(config: DictConfig) -> None:
    """Trains, then prints the held-out errors."""
    result = train_from_config(config, output_dir(config.out))
    errors = {name: [round(e, 5) for e in values] for name, values in result.held_out.items()}
    finish({"held_out_error": errors, "train_loss": result.metrics[-1]["loss"], "out": config.out})


def train_from_config(config: DictConfig, out: Path) -> TrainingRun:
    """Trains as a `train` configuration says and writes the checkpoint to `out`."""
    if out.exists() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise FileExistsError(f"out: {out} holds something else than a checkpoint")
    settings: Any = OmegaConf.to_container(config.optimizer)
    optimizer = TrainConfig(**settings)
    data = load_data(config.data)
    encoder = build_encoder(config.encoder)
    progress = Progress("encode", "frame")
    tokens = encode_dataset(
        data,
        encoder,
        encoder.image,
        encoder_fingerprint=encoder.fingerprint,
        cache_dir=Path(config.cache),
        progress=progress,
    )
    progress.close()
    training, held_out = split_episodes(data.num_episodes, config.data.holdout, config.seed)
    stats = fit_stats(data, training)
    horizon, context = config.held_out_horizon, config.context_frames
    torch.manual_seed(config.seed)
    predictor_settings: Any = OmegaConf.to_container(config.predictor)
    predictor = Predictor(
        PredictorConfig(
            token_dim=encoder.dim,
            grid=encoder.grid,
            action_dim=len(data.action_names),
            state_dim=len(data.proprio_names),
            max_frames=max(config.num_frames, context + horizon),
            **predictor_settings,
        )
    )
    first = data.dataset.episode(data.episodes[0])
    height, width = data.dataset.frames(first, data.camera, [0]).shape[1:3]
    model = LatentWorldModel(
        encoder,
        predictor,
        ModelSpec(
            camera=data.camera.rpartition(".")[2],
            image_height=height,
            image_width=width,
            dt=data.dt_s,
            state_names=data.proprio_names,
            action_spec=ActionSpec(
                data.action_names,
                *_trust_region(stats),
                ("robot units",) * len(data.action_names),
            ),
            proprio=config.proprio,
            context_frames=context,
        ),
        action_stats=stats.action_stats,
        proprio_stats=stats.proprio_stats,
        error=config.error,
        rollout_steps=config.rollout_steps,
    )
    sampler = WindowSampler(
        data,
        tokens,
        episodes=training,
        num_frames=config.num_frames,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    say(
        f"train on {len(training)} episodes ({sampler.num_windows} windows of {config.num_frames} "
        f"frames), hold out {len(held_out)}; encoder {encoder.grid[0] * encoder.grid[1]} x "
        f"{encoder.dim}, predictor {sum(p.numel() for p in predictor.parameters()) / 1e6:.1f} M"
    )
    metrics = []
    progress = Progress("train", "step")
    for row in train(model, sampler, optimizer):
        metrics.append(row)
        progress.note(loss=row["loss"])
        progress(len(metrics), optimizer.num_steps)
    errors: dict[str, list[float]] = {}
    if held_out:
        examination = WindowSampler(
            data,
            tokens,
            episodes=held_out,
            num_frames=context + horizon,
            batch_size=256,
            seed=config.seed,
            shuffle=True,
        )
        errors = held_out_error(model, examination, horizon=horizon)
        say(held_out_table(errors))
    dataset_hash = data.dataset.content_hash
    save_checkpoint(
        model,
        out,
        training={
            "data": {"source": str(data.dataset.source), "content_hash": dataset_hash},
            "episodes": len(training),
            "dropped": [str(finding) for finding in data.dropped],
            "steps": optimizer.num_steps,
            "seed": config.seed,
            "optimizer": settings,
            "git_sha": git_sha(),
            "held_out_error": errors,
        },
        extra={"metrics.csv": _csv(metrics), "metrics.jsonl": _jsonl(metrics)},
    )
    say(f"checkpoint: {out}")
    return TrainingRun(metrics, errors, dataset_hash)


def _trust_region(stats: DataStats) -> tuple[FloatArray, FloatArray]:
    """The range of actions the predictor knows: 1 % to 99 % quantile, never a single point."""
    flat = stats.action_q99 - stats.action_q01 < 1e-6
    return stats.action_q01 - 1e-6 * flat, stats.action_q99 + 1e-6 * flat


def load_data(config: DictConfig) -> AlignedData:
    """Opens, checks and samples the dataset of a `data` group, saying what was found."""
    dataset = open_dataset(config.source, revision=config.revision)
    spec = DataSpec(config.camera, config.state, config.action, float(config.dt_s))
    data = align(dataset, spec, drop_corrupt=config.drop_corrupt)
    say(
        f"data: {data.num_episodes} episodes of {dataset.source}, camera {data.camera}, state "
        f"{data.state}, every {data.dt_s:g} s"
    )
    for warning in data.warnings:
        say(f"warning: {warning}")
    for finding in data.dropped:
        say(f"dropped: {finding}")
    return data


def held_out_table(errors: dict[str, list[float]]) -> str:
    """Held-out latent error by horizon, as a table for the terminal."""
    horizon = len(errors["true"])
    head = "held-out error (1 = the mean)" + "".join(f"{h + 1:>9}" for h in range(horizon))
    rows = {
        "true": "true actions",
        "shuffled": "shuffled actions",
        "zero": "zero actions",
        "copy_last": "copy last frame",
    }
    lines = [
        f"{text:29}" + "".join(f"{e:9.4f}" for e in errors[name]) for name, text in rows.items()
    ]
    return "\n".join((head, *lines))


def git_sha() -> str | None:
    """Commit of the checkout this runs from, if it is one."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _csv(metrics: list[Metrics]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(metrics[0]))
    writer.writeheader()
    writer.writerows(metrics)
    return buffer.getvalue()


def _jsonl(metrics: list[Metrics]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in metrics)
