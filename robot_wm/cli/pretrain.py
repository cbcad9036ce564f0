"""`robot-wm pretrain`: an encoder from pictures, and actions where there are any; no labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from robot_wm.cli.console import (
    Progress,
    finish,
    git_sha,
    leave,
    machine,
    output_dir,
    say,
    stop_on_signal,
)
from robot_wm.cli.provenance import write_run
from robot_wm.cli.rendering import render_clips
from robot_wm.cli.train import check_save_every, load_data, source_name
from robot_wm.data import Clips, load_frames, load_video_folder
from robot_wm.encoders import MiniConfig, MiniEncoder, load_mini, save_mini
from robot_wm.files import owning, replacing
from robot_wm.optimization import saved_about, train_and_save
from robot_wm.precision import choose_precision, pick_device
from robot_wm.pretrain import PretrainConfig, Pretraining, check_objective
from robot_wm.report import plot_pretraining
from robot_wm.types import UserError, check_counts

Row = dict[str, float]
# In a row, and no part of the loss.
_BESIDE = ("step", "elapsed_s", "std", "effective_rank", "learning_rate", "grad_norm")


def run(config: DictConfig) -> None:
    """Pretrains, or goes on, and writes the encoder's file with its metrics beside it."""
    out = Path(config.out)
    if out.suffix != ".safetensors" or out.is_dir():
        raise UserError(f"out: got {out}, want a file that ends in .safetensors")
    output_dir(str(out.parent))
    settings: Any = OmegaConf.to_container(config)
    with owning(out, _resume_file(out)):
        _pretrain(config, out, settings)


def _pretrain(config: DictConfig, out: Path, settings: dict[str, Any]) -> None:
    how = PretrainConfig(**settings["pretrain"])
    before = load_mini(Path(config.init)) if config.init else None
    shape = before.config if before else MiniConfig(**settings["encoder"])
    device = pick_device(config.device)
    _check(config)
    check_objective(how, shape, has_actions=not _is_video_folder(config.data))
    if how.precision == "auto":
        saved = saved_about(_resume_file(out)).get("precision")
        precision = saved or str(choose_precision("auto", device))
        how = replace(how, precision=precision.removeprefix("torch."))
    encoder = MiniEncoder(shape, generator=torch.Generator().manual_seed(how.seed)).to(device)
    if before:
        encoder.load_state_dict(before.state_dict())
    clips, data_key = load_clips(config, encoder, with_actions=how.from_actions)
    training = Pretraining(encoder, clips, how)
    about = {"encoder": asdict(shape), "init": before.fingerprint.weights if before else None}
    about |= {"num_frames": config.num_frames}
    about |= {"batch_size": config.batch_size, "augment": config.augment, "data": data_key}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    rows = _train(training, out, how, key, save_every_s=config.save_every_s)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as scratch:
        save_mini(encoder.cpu(), scratch)
    more = {"precision": how.precision, "data": f"`{data_key[:16]}`"}
    begun_from = f"`{before.fingerprint.weights[:16]}`" if before else "random weights"
    _write_card(config, encoder, rows, out, {"begun from": begun_from, **more})
    write_run(out.parent, "pretrain", config, name=f"{out.stem}.run.yaml")
    _resume_file(out).unlink(missing_ok=True)
    say(f"encoder: {out}, and its card {out.with_suffix('.md')}")
    finish({"encoder": str(out), "fingerprint": encoder.fingerprint.key, **rows[-1]})


def _check(config: DictConfig) -> None:
    """Refuses what would be refused anyway, before hours of decoding or rendering."""
    check_counts(2, num_frames=config.num_frames, batch_size=config.batch_size)
    if not 0 <= config.augment <= 1:
        raise UserError(f"augment: got {config.augment}, want a share from 0 to 1")
    check_save_every(config.save_every_s)
    how = config.pretrain
    recorded = "action" in config.data and config.data.action == "recorded"
    if recorded and how.objective.startswith("acjepa") and how.inverse_weight:
        raise UserError(
            "data.action: recorded actions need not be motions that add up; take state_delta, "
            "or pretrain.inverse_weight=0"
        )


def load_clips(
    config: DictConfig, encoder: MiniEncoder, *, with_actions: bool
) -> tuple[Clips, str]:
    """The data of a `pretrain` configuration, and a hash of it.

    Raises:
        UserError: data that cannot be used; before any training.
    """
    size, cache = (encoder.image.height, encoder.image.width), Path(config.cache)
    if "play" in config.data:
        rendered = render_clips(config.data, config.num_frames, size, cache)
        num_clips, num_frames = rendered.frames.shape[:2]
        frames, lengths = rendered.frames.reshape(-1, *size, 3), [num_frames] * num_clips
        actions, key = list(rendered.actions), rendered.key
    elif _is_video_folder(config.data):
        with Progress("decode", "video") as progress:
            videos = load_video_folder(
                Path(config.data.source),
                size,
                dt_s=float(config.data.dt_s),
                cache_dir=cache,
                drop_corrupt=config.data.drop_corrupt,
                progress=progress,
            )
        say(f"data: {len(videos.lengths)} videos, {sum(videos.lengths)} frames")
        for reason in videos.corrupt:
            say(f"dropped: {reason}")
        frames, lengths, actions, key = videos.frames, videos.lengths, None, videos.key
    else:
        data = load_data(config.data)
        with Progress("read", "frame") as progress:
            frames = load_frames(data, size, cache_dir=cache, progress=progress)
        taken = (data.dataset.content_hash, *data.cameras, data.state, data.spec.action, data.dt_s)
        lengths, actions = data.lengths, data.actions
        key = hashlib.sha256(repr((*taken, data.episodes)).encode()).hexdigest()
    clips = Clips(
        frames,
        lengths,
        actions if with_actions else None,
        image=encoder.image,
        num_frames=config.num_frames,
        batch_size=config.batch_size,
        seed=config.pretrain.seed,
        augment=config.augment,
        device=next(encoder.parameters()).device,
    )
    return clips, key


def _is_video_folder(data: DictConfig) -> bool:
    source = Path(data.source) if "source" in data else None
    return bool(source and source.is_dir() and not (source / "meta" / "info.json").is_file())


def _resume_file(out: Path) -> Path:
    return out.with_suffix(".resume.safetensors")


def _train(
    training: Pretraining, out: Path, how: PretrainConfig, key: str, *, save_every_s: float
) -> list[Row]:
    """Trains to the end, saving on the way; returns what was logged."""
    loop, log = training.loop, out.with_suffix(".jsonl")
    steps = training.steps()
    try:
        with stop_on_signal() as stopped, Progress("pretrain", "step") as progress:
            for row in train_and_save(
                loop,
                steps,
                _resume_file(out),
                about=training.about(key),
                save_every_s=save_every_s,
                stopped=stopped,
            ):
                if "std" in row:
                    loop.rows.append(row)
                    shown = ("prediction", "inverse", "masked", "std", "effective_rank")
                    progress.note(**{name: row[name] for name in shown if name in row})
                progress(loop.step, how.num_steps)
    finally:
        if loop.rows:  # a collapse is to be seen in it, too
            _write_log(log, loop.rows)
    if loop.progress < 1:
        leave(stopped, f"stopped at step {loop.step}; the same command goes on")
    return loop.rows


def _write_card(
    config: DictConfig,
    encoder: MiniEncoder,
    rows: Sequence[Row],
    out: Path,
    more: Mapping[str, str],
) -> None:
    """What the weights are and how to make them again, with the learning curve beside."""
    last, plot = rows[-1], out.with_suffix(".svg")
    shape, num_weights = encoder.config, sum(p.numel() for p in encoder.parameters())
    tokens = encoder.grid[0] * encoder.grid[1]
    parts = ", ".join(f"{name} {last[name]:.4g}" for name in last if name not in _BESIDE)
    facts = {
        "what": f"MiniEncoder: ViT {shape.width} wide, {shape.depth} blocks, {shape.num_heads} "
        f"heads, {shape.stem} stem; {shape.image_size} px, patch {shape.patch_size}, two-frame "
        f"tubelets; {tokens} tokens of {encoder.dim} numbers a frame; {num_weights / 1e6:.1f} M "
        f"weights",
        "objective": f"`{config.pretrain.objective}`",
        "trained for": f"{last['step']:.0f} steps, {last['elapsed_s'] / 60:.1f} min",
        "at the end": f"{parts}; std of layer-normed features {last['std']:.3f}, effective rank "
        f"{last['effective_rank']:.1f}",
        "seed": str(config.pretrain.seed),
        "machine": machine(),
        **more,
        "code": git_sha() or "not a checkout",
        "fingerprint": f"`{encoder.fingerprint.weights[:16]}`",
    }
    with replacing(plot) as scratch:
        scratch.write_text(plot_pretraining(rows), encoding="utf-8")
    with replacing(out.with_suffix(".md")) as scratch:
        table = "".join(f"| {name} | {text} |\n" for name, text in facts.items())
        here = ("out", "cache", "device", "save_every_s", "init")
        told: Any = OmegaConf.to_container(config, resolve=True)
        told = {key: value for key, value in told.items() if key not in here}
        told["encoder"] = asdict(shape)  # that of `init`, where there is one
        if "source" in told["data"]:
            told["data"]["source"] = source_name(str(config.data.source))
        settings = OmegaConf.to_yaml(OmegaConf.create(told))
        scratch.write_text(
            f"# {out.name}\n\n| | |\n|---|---|\n{table}\n![learning curve]({plot.name})\n\n"
            f"All settings of `robot-wm pretrain`:\n\n```yaml\n{settings}```\n",
            encoding="utf-8",
        )


def _write_log(path: Path, rows: Sequence[Row]) -> None:
    with replacing(path) as scratch:
        scratch.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
