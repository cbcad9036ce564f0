"""`robot-wm train`: a LeRobot dataset in, a checkpoint directory out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from robot_wm.checkpoint import check_replaceable, load_checkpoint, save_checkpoint
from robot_wm.cli.build import instantiate
from robot_wm.cli.config import robot_settings
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
from robot_wm.cli.provenance import FILE as RUN_FILE
from robot_wm.cli.provenance import describe_run
from robot_wm.contracts import check_encoder, hold_to, is_ours
from robot_wm.data import (
    AlignedData,
    DataSpec,
    StateView,
    TokenStore,
    align,
    encode_dataset,
    find_state,
    open_dataset,
    split_episodes,
)
from robot_wm.deployment.extensions import check_parts
from robot_wm.deployment.settings import LeRobotRobot
from robot_wm.encoders import Encoder, build_encoder, encode
from robot_wm.files import owning
from robot_wm.models import LATENT, Family, FitConfig, find_family
from robot_wm.monitors import FILE, fit_reference
from robot_wm.optimization import Metrics, saved_about, train_and_save
from robot_wm.precision import choose_precision, pick_device
from robot_wm.training import TrainConfig, Training, held_out_error, prepare
from robot_wm.types import UserError


@dataclass(frozen=True)
class TrainingRun:
    """What a training run leaves behind besides its checkpoint."""

    metrics: list[Metrics]
    held_out: dict[str, list[float]]


def run(config: DictConfig) -> None:
    """Trains, then prints the held-out errors."""
    result = train_from_config(config, output_dir(config.out))
    errors = {name: [round(e, 5) for e in values] for name, values in result.held_out.items()}
    finish({"held_out_error": errors, "train_loss": result.metrics[-1]["loss"], "out": config.out})


def train_from_config(config: DictConfig, out: Path) -> TrainingRun:
    """Trains as a `train` configuration says and writes the checkpoint to `out`.

    A run that was stopped or killed goes on where it was saved last.

    Raises:
        FileExistsError: another process trains into `out`, or what is there may not be replaced.
    """
    check_save_every(config.save_every_s)
    check_replaceable(out, overwrite=config.overwrite)
    with owning(out, resume_file(out)):
        return _train(config, out)


def _train(config: DictConfig, out: Path) -> TrainingRun:
    settings: Any = OmegaConf.to_container(config)
    optimizer, how = TrainConfig(**settings["optimizer"]), FitConfig(**settings["fit"])
    family = find_family(str(config.family))
    own = settings["predictor"] if family is LATENT else settings["model"]
    device = pick_device(config.device)
    encoder = make_encoder(settings["encoder"])
    learned: dict[str, Any] = {}
    if config.robot is None or "source" not in config.data:
        data = load_data(config.data)
    else:
        from robot_wm.deployment.joints import (  # MuJoCo takes a second
            joint_record,
            oddities,
            tool_view,
        )

        robot = robot_settings(config)
        data = load_data(config.data, view=tool_view(robot, str(config.data.action)))
        assert isinstance(robot, LeRobotRobot)  # of no other there is such a view
        learned = {"joints": joint_record(data, robot)}
        low, high = (learned["joints"][key] for key in ("low", "high"))
        say(
            "the tool is at "
            + ", ".join(
                f"{name} {a:.3f} to {b:.3f}"
                for name, a, b in zip(data.proprio_names, low, high, strict=True)
            )
        )
        for oddity in oddities(data, robot):
            say(f"warning: {oddity}")
    tokens = encode_data(data, encoder, device, Path(config.cache))
    fitting = prepare(data, tokens, encoder, how, family, own)
    model = fitting.model.to(device)
    if not (is_ours(model) and is_ours(encoder)):
        with TemporaryDirectory() as folder:  # what cannot be saved is told before the work
            save_checkpoint(model, Path(folder) / "untrained")
            load_checkpoint(Path(folder) / "untrained")
    num_weights = sum(p.numel() for p in model.parameters())
    say(
        f"train on {fitting.training.num_windows} windows of {how.num_frames} frames; encoder "
        f"{encoder.grid[0] * encoder.grid[1]} x {encoder.dim}, predictor {num_weights / 1e6:.1f} M"
    )
    save = resume_file(out)
    precision = optimizer.precision
    if precision == "auto":  # measured once, not again where it goes on
        precision = saved_about(save).get("optimizer.precision") or precision
    precision = str(choose_precision(precision, device)).removeprefix("torch.")
    say(f"matrix products in {precision}")
    optimizer = replace(optimizer, precision=precision)
    training = Training(model, fitting.training, optimizer)
    about = _about(data, encoder, family, settings, optimizer)
    with stop_on_signal() as stopped, Progress("train", "step") as progress:
        for row in train_and_save(
            training.loop,
            training.steps(),
            save,
            about=about,
            save_every_s=config.save_every_s,
            stopped=stopped,
        ):
            training.loop.rows.append(row)
            progress.note(loss=row["loss"])
            progress(training.loop.step, optimizer.num_steps)
    if training.loop.progress < 1:
        leave(stopped, f"stopped at step {training.loop.step}; the same command goes on")
    metrics = training.loop.rows
    errors = held_out_error(model, fitting.held_out, horizon=how.held_out_horizon)
    say(held_out_table(errors))
    split = split_episodes(data.num_episodes, how.holdout, how.seed)
    extra: dict[str, str | bytes] = {
        "metrics.csv": _csv(metrics),
        "metrics.jsonl": _jsonl(metrics),
        "card.md": _card(config, data, encoder, metrics[-1], errors),
        RUN_FILE: describe_run("train", config),
    }
    try:
        extra[FILE] = fit_reference(model, data, tokens, *split).to_bytes()
    except (ValueError, OSError) as error:  # the weights are worth keeping all the same
        say(f"warning: deploy will not know what is normal: {error}")
    save_checkpoint(
        model,
        out,
        training={
            "data": {
                # A checkpoint travels: where its data lay on this machine is nobody's business.
                "source": source_name(str(data.dataset.source)),
                "action": str(config.data.action),
                **learned,
                "content_hash": data.dataset.content_hash,
                "episodes": data.num_episodes,
                "dropped": [str(finding) for finding in data.dropped],
            },
            "fit": settings["fit"],
            "optimizer": settings["optimizer"],
            "precision": precision,
            "git_sha": git_sha(),
            "held_out_error": errors,
        },
        extra=extra,
    )
    save.unlink(missing_ok=True)
    say(f"checkpoint: {out}")
    return TrainingRun(metrics, errors)


def resume_file(out: Path) -> Path:
    """Where a training into a checkpoint directory is saved on the way."""
    out = out.resolve()  # "." has no name
    return out.with_name(f"{out.name}.train.safetensors")


def check_save_every(seconds: float) -> None:
    """Raises UserError unless a time between saves is one."""
    if not seconds >= 0:
        raise UserError(f"save_every_s: got {seconds}, want seconds, 0 or more")


def _about(
    data: AlignedData,
    encoder: Encoder,
    family: Family,
    settings: Mapping[str, Any],
    optimizer: TrainConfig,
) -> dict[str, Any]:
    """What a run is of: what must be the same when it goes on."""
    own = settings["predictor"] if family is LATENT else settings["model"]
    return {
        "data": data.dataset.content_hash,
        "episodes": list(data.episodes),
        **{f"data.{name}": value for name, value in asdict(data.spec).items()},
        "encoder": encoder.fingerprint.key,
        "family": family.name,
        **{f"fit.{name}": value for name, value in settings["fit"].items()},
        **{f"optimizer.{name}": value for name, value in asdict(optimizer).items()},
        **{f"predictor.{name}": value for name, value in own.items()},
        "robot": None if settings["robot"] is None else settings["robot"]["joints"],
    }


def make_encoder(settings: dict[str, Any]) -> Encoder:
    """The encoder of an `encoder` group, or of the caller's own class.

    Raises:
        UserError: a setting that does not fit, or what is made is no encoder.
    """
    if "_target_" not in settings:
        return build_encoder(**settings)
    encoder = instantiate(OmegaConf.create(settings))
    check_parts(encoder, settings["_target_"], ("dim", "grid", "image", "fingerprint"))
    hold_to(lambda: check_encoder(lambda: instantiate(OmegaConf.create(settings))), encoder)
    return encoder


def encode_data(
    data: AlignedData, encoder: Encoder, device: torch.device, cache_dir: Path
) -> TokenStore:
    """Every frame's tokens, from the cache where they are in it; the encoder goes to the device."""
    if isinstance(encoder, nn.Module):
        encoder.to(device)
    with Progress("encode", "frame") as progress:
        return encode_dataset(
            data,
            lambda pictures: encode(encoder, pictures, device),
            encoder_fingerprint=encoder.fingerprint.key,
            cache_dir=cache_dir,
            progress=progress,
        )


def load_data(
    config: DictConfig, *, also: str | None = None, view: StateView | None = None
) -> AlignedData:
    """Opens, checks and samples the dataset of a `data` group, saying what was found.

    Args:
        config: the group.
        also: a column to take into the state, where the dataset has it and no state is asked for.
        view: what to take the state for.

    Raises:
        UserError: not a dataset, or one that cannot be used.
    """
    if "source" not in config:
        raise UserError("data: rendered clips are for pretrain; this takes a LeRobot dataset")
    dataset = open_dataset(config.source, revision=config.revision)
    state = config.state
    if also and state is None and also in dataset.features:
        state = "+".join((*find_state(dataset, None), also))
    spec = DataSpec(config.camera, state, config.action, float(config.dt_s))
    data = align(dataset, spec, drop_corrupt=config.drop_corrupt, view=view)
    seen = "" if view is None else f" as {', '.join(view.names)}"
    say(
        f"data: {data.num_episodes} episodes of {dataset.source}, camera "
        f"{', '.join(data.cameras)}, state {data.state}{seen}, every {data.dt_s:g} s"
    )
    for warning in data.warnings:
        say(f"warning: {warning}")
    for finding in data.dropped:
        say(f"dropped: {finding}")
    return data


def held_out_table(errors: dict[str, list[float]]) -> str:
    """Held-out latent error by horizon, as a table for the terminal."""
    rows = {
        "true": "true actions",
        "shuffled": "shuffled actions",
        "zero": "zero actions",
        "copy_last": "copy last frame",
    }
    head = "held-out error (1 = the mean)" + "".join(
        f"{h:>9}" for h in range(1, len(errors["true"]) + 1)
    )
    lines = [
        f"{text:29}" + "".join(f"{error:9.4f}" for error in errors[name])
        for name, text in rows.items()
    ]
    return "\n".join((head, *lines))


def source_name(source: str) -> str:
    """A hub id as it is, of a directory its name alone."""
    return Path(source).resolve().name if Path(source).exists() else source


def _card(
    config: DictConfig,
    data: AlignedData,
    encoder: Encoder,
    last: Metrics,
    errors: dict[str, list[float]],
) -> str:
    """What the checkpoint is and how to make it again."""
    name = config.encoder.get("name") or config.encoder._target_
    facts = {
        "encoder": f"{name}, `{encoder.fingerprint.weights[:16]}`",
        "data": f"{data.num_episodes} episodes, `{data.dataset.content_hash[:16]}`",
        "trained for": f"{last['step']:.0f} steps, {last['elapsed_s'] / 60:.1f} min; loss "
        f"{last['loss']:.4g}",
        "seed": f"{config.fit.seed} (split, windows), {config.optimizer.seed} (loss)",
        "machine": machine(),
        "code": git_sha() or "not a checkout",
    }
    table = "".join(f"| {name} | {text} |\n" for name, text in facts.items())
    told: Any = OmegaConf.to_container(config, resolve=True)
    told = {key: told[key] for key in told if key not in ("out", "cache", "device", "data")}
    if config.robot is not None:  # its port and cameras make no difference
        told["robot"] = {key: told["robot"][key] for key in ("name", "joints", "action_names")}
    if told["encoder"].get("weights"):
        told["encoder"]["weights"] = Path(told["encoder"]["weights"]).name
    settings = OmegaConf.to_yaml(OmegaConf.create(told))
    return (
        f"# A predictor for {', '.join(data.action_names)}\n\n| | |\n|---|---|\n{table}\n"
        f"```\n{held_out_table(errors)}\n```\n\nSettings of `robot-wm train`:\n\n"
        f"```yaml\n{settings}```\n"
    )


def _csv(metrics: list[Metrics]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(metrics[0]))
    writer.writeheader()
    writer.writerows(metrics)
    return buffer.getvalue()


def _jsonl(metrics: list[Metrics]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in metrics)
