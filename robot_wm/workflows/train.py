"""Trains a world model on a LeRobot dataset and writes a checkpoint directory."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from robot_wm.checkpoint import check_replaceable, load_checkpoint, save_checkpoint
from robot_wm.contracts import is_ours
from robot_wm.data import AlignedData, split_episodes
from robot_wm.deployment.parts import Part
from robot_wm.deployment.settings import LeRobotRobot, RobotSettings
from robot_wm.encoders import Encoder
from robot_wm.files import output_dir, owning
from robot_wm.models import LATENT, Family, FitConfig, TrainableModel, find_family
from robot_wm.monitors import FILE, fit_reference
from robot_wm.optimization import Loop, Metrics, saved_about, train_and_save
from robot_wm.precision import choose_precision, pick_device
from robot_wm.predictor import PredictorShape
from robot_wm.progress import Progress
from robot_wm.proposals import FILE as PRIOR_FILE
from robot_wm.provenance import FILE as RUN_FILE
from robot_wm.provenance import describe_run, git_sha, machine, to_yaml
from robot_wm.signals import leave, stop_on_signal
from robot_wm.training import (
    PriorConfig,
    PriorTraining,
    TrainConfig,
    Training,
    check_prior_data,
    held_out_error,
    prepare,
)
from robot_wm.types import NonNegative, Seed, Settings, UserError, plain_settings
from robot_wm.workflows.data import (
    DatasetSettings,
    encode_data,
    load_data,
    make_encoder,
    source_name,
)
from robot_wm.workflows.objects import never_moves, object_errors, object_table

log = logging.getLogger(__name__)


class TrainSettings(Settings, frozen=True, kw_only=True):
    """What is trained, on what, and where it is written.

    Attributes:
        data: The dataset.
        out: Directory of the checkpoint.
        encoder: The frozen encoder: ours by name, or the caller's own.
        predictor: Shape of the predictor of the family `latent`.
        model: Windows, state and loss.
        train: Optimiser, schedule and length of the training.
        prior: Policy and temporal distance, which are trained after the model.
        family: Family of the world model; another one than `latent` must be registered.
        family_settings: Settings of another family than `latent`.
        robot: The robot of the dataset. `lerobot`: the dataset's joints are turned into x, y, z and
            opening of the gripper, and the checkpoint is deployed with the same robot; null: the
            dataset's state is used as it is.
        overwrite: Replaces a checkpoint that is in `out` already.
        save_every_s: Time between saves, s; a run that is stopped or killed resumes from its last
            save.
        cache: Directory where the encoder's tokens are kept, by content.
        device: Device to compute on: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        seed: Seed of everything that is random.
    """

    data: DatasetSettings
    out: str
    encoder: Part = Part("mini")
    predictor: PredictorShape = PredictorShape()
    model: FitConfig = FitConfig()
    train: TrainConfig = TrainConfig()
    prior: PriorConfig = PriorConfig()
    family: str = LATENT.name
    family_settings: dict[str, Any] = {}
    robot: RobotSettings | None = None
    overwrite: bool = False
    save_every_s: NonNegative = 60.0
    cache: str = "outputs/cache"
    device: str = "auto"
    seed: Seed = 0


@dataclass(frozen=True)
class TrainingRun:
    """The result of a training, besides its checkpoint.

    Attributes:
        metrics: Metrics of each step.
        held_out: Errors of open-loop prediction by horizon (robot_wm.training.held_out_error).
    """

    metrics: list[Metrics]
    held_out: dict[str, list[float]]


def train(settings: TrainSettings) -> TrainingRun:
    """Trains a world model and writes its checkpoint.

    A run that was stopped or killed resumes from its last save.

    Args:
        settings: What is trained, on what, and where it is written.

    Returns:
        The metrics and the held-out errors.

    Raises:
        UserError: the data or a setting does not fit.
        FileExistsError: another process trains into `out`, or the files there may not be replaced.
        SystemExit, KeyboardInterrupt: the run was asked to stop, and is saved.
    """
    out = output_dir(settings.out, replaced=True)
    # With a save beside it, the checkpoint is that of a run that was killed at its very end.
    check_replaceable(out, overwrite=settings.overwrite or resume_file(out).is_file())
    with owning(out, resume_file(out)):
        return _train(settings, out)


def _train(settings: TrainSettings, out: Path) -> TrainingRun:
    family = find_family(settings.family)
    family_settings = _family_settings(settings, family)
    device = pick_device(settings.device)
    encoder = make_encoder(settings.encoder, seed=settings.seed)
    data, joints = _load(settings)
    tokens = encode_data(data, encoder, device, Path(settings.cache))
    fitting = prepare(
        data, tokens, encoder, settings.model, family, family_settings, seed=settings.seed
    )
    model = fitting.model.to(device)
    if not (is_ours(model) and is_ours(encoder)):
        _check_saving(model)
    split = split_episodes(data.num_episodes, settings.model.holdout, settings.seed)
    if settings.prior.num_steps:
        check_prior_data(data, split[0])
    num_weights = sum(p.numel() for p in model.parameters())
    log.info(
        f"train on {fitting.training.num_windows} windows of {settings.model.num_frames} frames; "
        f"encoder {encoder.grid[0] * encoder.grid[1]} x {encoder.dim}, predictor "
        f"{num_weights / 1e6:.1f} M"
    )
    save = resume_file(out)
    config = _with_precision(settings.train, save, device)
    training = Training(model, fitting.training, config, seed=settings.seed)
    about = _about(data, encoder, family, family_settings, settings, config)
    metrics = _run(training.loop, training.steps(), save, about, settings, "train")
    if settings.prior.num_steps:  # else a run that is cut off there would train the model again
        training.loop.save(save, about=about)
    errors = held_out_error(model, fitting.held_out, horizon=settings.model.held_out_horizon)
    log.info(held_out_table(errors))
    horizon = settings.model.held_out_horizon
    objects = object_errors(model, data, tokens, *split, horizon=horizon)
    if objects is not None:
        log.info(object_table(objects))
    elif never_moves(data):
        log.info("no object moves in these demonstrations: the model cannot know what moves one")
    extra: dict[str, str | bytes] = {
        "metrics.csv": _csv(_thinned(metrics)),
        "metrics.jsonl": _jsonl(_thinned(metrics)),
        "card.md": _card(settings, data, encoder, metrics[-1], errors, objects),
        RUN_FILE: describe_run("train", settings),
    }
    try:
        extra[FILE] = fit_reference(model, data, tokens, *split).to_bytes()
    except (UserError, OSError) as error:  # the weights are worth keeping nevertheless
        log.warning(f"no reference statistics, which deploy compares with: {error}")
    if settings.prior.num_steps:
        trained = PriorTraining(model, data, tokens, split[0], settings.prior, seed=settings.seed)
        about_prior = {**about, **{f"prior.{k}": v for k, v in asdict(settings.prior).items()}}
        rows = _run(trained.loop, trained.steps(), prior_file(out), about_prior, settings, "prior")
        extra[PRIOR_FILE] = trained.prior.to_bytes()
        extra["prior.jsonl"] = _jsonl(_thinned(rows))
    about_data = {
        # Checkpoints are shared: paths of this machine do not belong in them.
        "source": source_name(str(data.dataset.source)),
        "action": settings.data.action,
        **joints,
        "content_hash": data.dataset.content_hash,
        "episodes": data.num_episodes,
        "dropped": [str(finding) for finding in data.dropped],
    }
    about_training = {
        "data": about_data,
        "seed": settings.seed,
        "model": plain_settings(settings.model),
        "train": plain_settings(settings.train),
        "prior": plain_settings(settings.prior),
        "precision": config.precision,
        "git_sha": git_sha(),
        "held_out_error": errors,
        "objects": objects,
    }
    save_checkpoint(model, out, training=about_training, extra=extra)
    save.unlink(missing_ok=True)
    prior_file(out).unlink(missing_ok=True)
    log.info(f"checkpoint: {out}")
    return TrainingRun(metrics, errors)


def _family_settings(settings: TrainSettings, family: Family) -> dict[str, Any]:
    """Returns the settings of the family itself; refuses those of another one."""
    if family is LATENT and settings.family_settings:
        raise UserError("family_settings: of another family than latent; want predictor.KEY=VALUE")
    if family is not LATENT and settings.predictor != PredictorShape():
        raise UserError("predictor: of the family latent; want family_settings.KEY=VALUE")
    return asdict(settings.predictor) if family is LATENT else settings.family_settings


def _check_saving(model: TrainableModel) -> None:
    """Saves and loads a model before its training, which would be in vain if that failed."""
    with TemporaryDirectory() as folder:
        save_checkpoint(model, Path(folder) / "untrained")
        load_checkpoint(Path(folder) / "untrained")


def _with_precision(config: TrainConfig, save: Path, device: torch.device) -> TrainConfig:
    """Replaces the precision `auto` by the one that the saved run has, or else by the fastest."""
    precision = config.precision
    if precision == "auto":  # measured once, not again when a run resumes
        precision = str(saved_about(save).get("train.precision") or precision)
    precision = str(choose_precision(precision, device)).removeprefix("torch.")
    log.info(f"matrix products in {precision}")
    return replace(config, precision=precision)  # type: ignore[arg-type]


def _run(
    loop: Loop,
    steps: Iterator[Metrics],
    save: Path,
    about: Mapping[str, Any],
    settings: TrainSettings,
    shown: str,
) -> list[Metrics]:
    """Trains to the end, saving on the way; returns the metrics of all steps."""
    with stop_on_signal() as stopped, Progress(shown, "step") as progress:
        for row in train_and_save(
            loop,
            steps,
            save,
            about=about,
            save_every_s=settings.save_every_s,
            stopped=stopped,
        ):
            loop.rows.append(row)
            progress.note(loss=row["loss"])
            progress(loop.step, loop.num_steps)
    if loop.progress < 1:
        leave(stopped, f"stopped at step {loop.step}; the same command goes on")
    return loop.rows


def _load(settings: TrainSettings) -> tuple[AlignedData, dict[str, Any]]:
    """Loads the dataset, and for a robot's joints also what the checkpoint keeps of them."""
    if settings.robot is None:
        return load_data(settings.data), {}
    from robot_wm.deployment.joints import (  # MuJoCo takes a second
        joint_record,
        oddities,
        tool_view,
    )

    robot = settings.robot
    data = load_data(settings.data, view=tool_view(robot, settings.data.action))
    assert isinstance(robot, LeRobotRobot)  # only this kind has such a view
    joints = joint_record(data, robot)
    bounds = zip(data.proprio_names, joints["low"], joints["high"], strict=True)
    log.info(
        "the tool is at " + ", ".join(f"{n} {low:.3f} to {high:.3f}" for n, low, high in bounds)
    )
    for oddity in oddities(data, robot):
        log.warning(oddity)
    return data, {"joints": joints}


def resume_file(out: Path) -> Path:
    """Returns the file where a training into a checkpoint directory is saved on the way."""
    out = out.resolve()  # "." has no name
    return out.with_name(f"{out.name}.train.safetensors")


def prior_file(out: Path) -> Path:
    """Returns the file where the training of a checkpoint's prior is saved on the way."""
    out = out.resolve()
    return out.with_name(f"{out.name}.prior.safetensors")


def _about(
    data: AlignedData,
    encoder: Encoder,
    family: Family,
    own: Mapping[str, Any],
    settings: TrainSettings,
    config: TrainConfig,
) -> dict[str, Any]:
    """Returns what must be the same when a run resumes."""
    return {
        "data": data.dataset.content_hash,
        "episodes": list(data.episodes),
        **{f"data.{name}": value for name, value in asdict(data.spec).items()},
        "encoder": encoder.fingerprint.key,
        "family": family.name,
        "seed": settings.seed,
        **{f"model.{name}": value for name, value in asdict(settings.model).items()},
        **{f"train.{name}": value for name, value in asdict(config).items()},
        **{f"predictor.{name}": value for name, value in own.items()},
        **{f"robot.{name}": value for name, value in _derivation(settings.robot).items()},
    }


def _derivation(robot: RobotSettings | None) -> dict[str, Any]:
    """Returns the settings of a robot that its tool's numbers are derived by."""
    plain = plain_settings(robot) if robot is not None else {}
    return {name: plain[name] for name in ("arm", "joints", "action_names") if name in plain}


def held_out_table(errors: Mapping[str, list[float]]) -> str:
    """Lays out the held-out latent error by horizon as a table for the terminal."""
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


def _card(
    settings: TrainSettings,
    data: AlignedData,
    encoder: Encoder,
    last: Metrics,
    errors: dict[str, list[float]],
    objects: dict[str, Any] | None,
) -> str:
    """Writes what the checkpoint is and how to make it again."""
    facts = {
        "encoder": f"{settings.encoder.name}, `{encoder.fingerprint.weights[:16]}`",
        "data": f"{data.num_episodes} episodes, `{data.dataset.content_hash[:16]}`",
        "trained for": f"{last['step']:.0f} steps, {last['elapsed_s'] / 60:.1f} min; loss "
        f"{last['loss']:.4g}",
        "seed": str(settings.seed),
        "machine": machine(),
        "code": git_sha() or "not a checkout",
    }
    table = "".join(f"| {name} | {text} |\n" for name, text in facts.items())
    plain = plain_settings(settings)
    plain = {key: plain[key] for key in plain if key not in ("out", "cache", "device", "data")}
    if settings.robot is not None:  # its port and cameras make no difference
        plain["robot"] = {"name": settings.robot.name, **_derivation(settings.robot)}
    if plain["encoder"].get("weights"):
        plain["encoder"]["weights"] = Path(plain["encoder"]["weights"]).name
    measured = held_out_table(errors) + (f"\n\n{object_table(objects)}" if objects else "")
    return (
        f"# A predictor for {', '.join(data.action_names)}\n\n| | |\n|---|---|\n{table}\n"
        f"```\n{measured}\n```\n\nSettings of `robot-wm train`:\n\n"
        f"```yaml\n{to_yaml(plain)}```\n"
    )


def _thinned(metrics: list[Metrics], most: int = 1000) -> list[Metrics]:
    """Returns every nth step's metrics, and the last step's: a checkpoint is shared."""
    every = max(1, -(-len(metrics) // most))
    return metrics[len(metrics) - 1 :: -every][::-1]


def _csv(metrics: list[Metrics]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(metrics[0]))
    writer.writeheader()
    writer.writerows(metrics)
    return buffer.getvalue()


def _jsonl(metrics: list[Metrics]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in metrics)
