"""Pretrains an encoder on pictures, and actions if there are any; needs no labels."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from msgspec import Meta

from robot_wm.data import Clips, load_frames, load_video_folder
from robot_wm.encoders import MiniConfig, MiniEncoder, load_mini, save_mini
from robot_wm.files import output_dir, owning, replacing
from robot_wm.optimization import saved_about, train_and_save
from robot_wm.precision import choose_precision, pick_device
from robot_wm.pretrain import PretrainConfig, Pretraining, check_objective
from robot_wm.progress import Progress
from robot_wm.provenance import git_sha, machine, to_yaml, write_run
from robot_wm.report import plot_pretraining
from robot_wm.signals import leave, stop_on_signal
from robot_wm.types import NonNegative, Seed, Settings, Share, UserError, plain_settings
from robot_wm.workflows.data import DatasetSettings, load_data, source_name
from robot_wm.workflows.rendering import RenderedSettings, render_clips

log = logging.getLogger(__name__)
Row = dict[str, float]
# Metrics in a row that are no part of the loss.
_BESIDE = ("step", "elapsed_s", "std", "effective_rank", "learning_rate", "grad_norm")
_AtLeastTwo = Annotated[int, Meta(ge=2)]


# By the names that a command line and a file have for them.
DATA = {"lerobot": DatasetSettings, "rendered": RenderedSettings}


class PretrainSettings(Settings, frozen=True, kw_only=True):
    """What is pretrained, on what, and where it is written.

    Attributes:
        data: A LeRobot dataset, a folder of videos, or clips that are rendered (`data=rendered`).
        out: The encoder's file, NAME.safetensors; NAME.jsonl, NAME.md and NAME.svg are written
            beside it.
        init: A file of `pretrain` to begin from, whose shape replaces `encoder`; null: random
            weights.
        encoder: Shape of the encoder.
        train: Objective, optimiser and length of the training.
        num_frames: Frames of a clip.
        batch_size: Clips per step.
        augment: Share of the clips whose colours, light and position in the picture are changed.
        cache: Directory where decoded or rendered pictures are kept, by content.
        device: Device to compute on: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        save_every_s: Time between saves, s; a run that is stopped or killed resumes from its last
            save.
        seed: Seed of everything that is random.
    """

    data: DatasetSettings | RenderedSettings
    out: str
    init: str | None = None
    encoder: MiniConfig = MiniConfig()
    train: PretrainConfig = PretrainConfig()
    num_frames: _AtLeastTwo = 4
    batch_size: _AtLeastTwo = 32
    augment: Share = 0.0
    cache: str = "outputs/cache"
    device: str = "auto"
    save_every_s: NonNegative = 120.0
    seed: Seed = 0


@dataclass(frozen=True)
class PretrainingRun:
    """The result of a pretraining.

    Attributes:
        encoder: File of the encoder.
        fingerprint: Fingerprint of the encoder.
        rows: Metrics, a row every few steps.
    """

    encoder: Path
    fingerprint: str
    rows: list[Row]


def pretrain(settings: PretrainSettings) -> PretrainingRun:
    """Pretrains an encoder, or resumes, and writes its file with its metrics beside it.

    Args:
        settings: What is pretrained, on what, and where it is written.

    Returns:
        The encoder's file and its metrics.

    Raises:
        UserError: the data or a setting does not fit.
        FileExistsError: another process pretrains into `out`.
    """
    out = Path(settings.out)
    if out.suffix != ".safetensors" or out.is_dir():
        raise UserError(f"out: got {out}, want a file that ends in .safetensors")
    output_dir(str(out.parent))
    with owning(out, _resume_file(out)):
        return _pretrain(settings, out)


def _pretrain(settings: PretrainSettings, out: Path) -> PretrainingRun:
    config, data = settings.train, settings.data
    before = load_mini(Path(settings.init)) if settings.init else None
    shape = before.config if before else settings.encoder
    device = pick_device(settings.device)
    if isinstance(data, DatasetSettings) and _is_video_folder(data):
        _check_folder_settings(data)
    recorded = isinstance(data, DatasetSettings) and data.action == "recorded"
    if recorded and config.from_actions and config.inverse_weight:
        raise UserError(
            "data.action: recorded actions need not be motions that add up; take state_delta, "
            "or train.inverse_weight=0"
        )
    check_objective(config, shape, has_actions=not _is_video_folder(data))
    if config.precision == "auto":
        saved = saved_about(_resume_file(out)).get("precision")
        precision = saved or str(choose_precision("auto", device))
        config = replace(config, precision=precision.removeprefix("torch."))
    generator = torch.Generator().manual_seed(settings.seed)
    encoder = MiniEncoder(shape, generator=generator).to(device)
    if before:
        encoder.load_state_dict(before.state_dict())
    clips, data_key = _load_clips(settings, encoder, with_actions=config.from_actions)
    training = Pretraining(encoder, clips, config, seed=settings.seed)
    about = {
        "encoder": asdict(shape),
        "init": before.fingerprint.weights if before else None,
        "num_frames": settings.num_frames,
        "batch_size": settings.batch_size,
        "augment": settings.augment,
        "data": data_key,
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    rows = _train(training, out, config, key, save_every_s=settings.save_every_s)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as scratch:
        save_mini(encoder.cpu(), scratch)
    more = {
        "begun from": f"`{before.fingerprint.weights[:16]}`" if before else "random weights",
        "precision": config.precision,
        "data": f"`{data_key[:16]}`",
    }
    _write_card(settings, encoder, rows, out, more)
    write_run(out.parent, "pretrain", settings, name=f"{out.stem}.run.yaml")
    _resume_file(out).unlink(missing_ok=True)
    log.info(f"encoder: {out}, and its card {out.with_suffix('.md')}")
    return PretrainingRun(out, encoder.fingerprint.key, rows)


def _load_clips(
    settings: PretrainSettings, encoder: MiniEncoder, *, with_actions: bool
) -> tuple[Clips, str]:
    """Loads the clips, and hashes what they depend on.

    Args:
        settings: Settings of the pretraining.
        encoder: The encoder, whose picture size is used.
        with_actions: Whether the objective needs actions.

    Returns:
        The clips and the hash.

    Raises:
        UserError: the data cannot be used.
    """
    data, cache = settings.data, Path(settings.cache)
    size = encoder.image.height, encoder.image.width
    if isinstance(data, RenderedSettings):
        rendered = render_clips(data, settings.num_frames, size, cache, seed=settings.seed)
        num_clips, num_frames = rendered.frames.shape[:2]
        frames, lengths = rendered.frames.reshape(-1, *size, 3), [num_frames] * num_clips
        actions, key = list(rendered.actions), rendered.key
    elif _is_video_folder(data):
        with Progress("decode", "video") as progress:
            videos = load_video_folder(
                Path(data.source),
                size,
                dt_s=data.dt_s,
                cache_dir=cache,
                drop_corrupt=data.drop_corrupt,
                progress=progress,
            )
        log.info(f"data: {len(videos.lengths)} videos, {sum(videos.lengths)} frames")
        for reason in videos.corrupt:
            log.info(f"dropped: {reason}")
        frames, lengths, actions, key = videos.frames, videos.lengths, None, videos.key
    else:
        aligned = load_data(data)
        with Progress("read", "frame") as progress:
            frames = load_frames(aligned, size, cache_dir=cache, progress=progress)
        content = (aligned.dataset.content_hash, *aligned.cameras, aligned.state)
        content += (aligned.spec.action, aligned.dt_s)
        lengths, actions = aligned.lengths, aligned.actions
        key = hashlib.sha256(repr((*content, aligned.episodes)).encode()).hexdigest()
    clips = Clips(
        frames,
        lengths,
        actions if with_actions else None,
        image=encoder.image,
        num_frames=settings.num_frames,
        batch_size=settings.batch_size,
        seed=settings.seed,
        augment=settings.augment,
        device=next(encoder.parameters()).device,
    )
    return clips, key


def _is_video_folder(data: DatasetSettings | RenderedSettings) -> bool:
    if isinstance(data, RenderedSettings):
        return False
    source = Path(data.source)
    return source.is_dir() and not (source / "meta" / "info.json").is_file()


def _check_folder_settings(data: DatasetSettings) -> None:
    """Raises UserError if a setting is given that a folder of videos does not have."""
    default = DatasetSettings(source=data.source)
    for name in ("revision", "camera", "state", "action"):
        if getattr(data, name) != getattr(default, name):
            raise UserError(f"data.{name}: {data.source} is a folder of videos, which has none")


def _resume_file(out: Path) -> Path:
    return out.with_suffix(".resume.safetensors")


def _train(
    training: Pretraining, out: Path, config: PretrainConfig, key: str, *, save_every_s: float
) -> list[Row]:
    """Trains to the end, saving on the way; returns the logged metrics."""
    loop, rows_file = training.loop, out.with_suffix(".jsonl")
    try:
        with stop_on_signal() as stopped, Progress("pretrain", "step") as progress:
            for row in train_and_save(
                loop,
                training.steps(),
                _resume_file(out),
                about=training.about(key),
                save_every_s=save_every_s,
                stopped=stopped,
            ):
                if "std" in row:
                    loop.rows.append(row)
                    shown = ("prediction", "inverse", "masked", "std", "effective_rank")
                    progress.note(**{name: row[name] for name in shown if name in row})
                progress(loop.step, config.num_steps)
    finally:
        if loop.rows:  # also after an error, such as a collapse
            with replacing(rows_file) as scratch:
                lines = (json.dumps(row, allow_nan=False) for row in loop.rows)
                scratch.write_text("".join(f"{line}\n" for line in lines))
    if loop.progress < 1:
        leave(stopped, f"stopped at step {loop.step}; the same command goes on")
    return loop.rows


def _write_card(
    settings: PretrainSettings,
    encoder: MiniEncoder,
    rows: Sequence[Row],
    out: Path,
    more: Mapping[str, str],
) -> None:
    """Writes what the weights are and how to make them again, with the learning curve beside it."""
    last, plot = rows[-1], out.with_suffix(".svg")
    shape, num_weights = encoder.config, sum(p.numel() for p in encoder.parameters())
    tokens = encoder.grid[0] * encoder.grid[1]
    parts = ", ".join(f"{name} {last[name]:.4g}" for name in last if name not in _BESIDE)
    facts = {
        "what": f"MiniEncoder: ViT {shape.width} wide, {shape.depth} blocks, {shape.num_heads} "
        f"heads, {shape.stem} stem; {shape.image_size} px, patch {shape.patch_size}, two-frame "
        f"tubelets; {tokens} tokens of {encoder.dim} numbers a frame; {num_weights / 1e6:.1f} M "
        f"weights",
        "objective": f"`{settings.train.objective}`",
        "trained for": f"{last['step']:.0f} steps, {last['elapsed_s'] / 60:.1f} min",
        "at the end": f"{parts}; std of layer-normed features {last['std']:.3f}, effective rank "
        f"{last['effective_rank']:.1f}",
        "seed": str(settings.seed),
        "machine": machine(),
        **more,
        "code": git_sha() or "not a checkout",
        "fingerprint": f"`{encoder.fingerprint.weights[:16]}`",
    }
    with replacing(plot) as scratch:
        scratch.write_text(plot_pretraining(rows), encoding="utf-8")
    with replacing(out.with_suffix(".md")) as scratch:
        table = "".join(f"| {name} | {text} |\n" for name, text in facts.items())
        of_this_machine = ("out", "cache", "device", "save_every_s", "init")
        plain = plain_settings(settings)
        plain = {key: value for key, value in plain.items() if key not in of_this_machine}
        plain["encoder"] = asdict(shape)  # the shape of `init` if it is set
        if "source" in plain["data"]:
            plain["data"]["source"] = source_name(plain["data"]["source"])
        scratch.write_text(
            f"# {out.name}\n\n| | |\n|---|---|\n{table}\n![learning curve]({plot.name})\n\n"
            f"All settings of `robot-wm pretrain`:\n\n```yaml\n{to_yaml(plain)}```\n",
            encoding="utf-8",
        )
