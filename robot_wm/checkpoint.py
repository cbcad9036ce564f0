"""One directory that rebuilds a model where there is no dataset: safetensors, JSON, a manifest.

config.json             what the model is; nothing in it is ever imported by name
predictor.safetensors   trained weights
encoder.safetensors     the frozen encoder's weights, unless they are public at a pinned commit
manifest.json           sha256 of every other file
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from robot_wm.data.files import sha256_file, sync
from robot_wm.encoders import WEIGHTS_DIR, Fingerprint, load_encoder, save_encoder
from robot_wm.predictor import Predictor, PredictorConfig
from robot_wm.preprocess import NormStats
from robot_wm.types import ActionSpec
from robot_wm.world_model import LatentWorldModel, ModelSpec

FORMAT = 2
_CONFIG, _MANIFEST = "config.json", "manifest.json"
_PREDICTOR, _ENCODER = "predictor.safetensors", "encoder.safetensors"


# What files raise that were made up, or damaged with their checksums.
_MISFITS = (
    *(SafetensorError, RuntimeError, ArithmeticError, AttributeError, LookupError),
    *(TypeError, ValueError, RecursionError),
)


class CheckpointError(ValueError):
    """The directory is not a checkpoint, or not the one that was saved."""


def save_checkpoint(
    model: LatentWorldModel,
    directory: Path,
    *,
    training: Mapping[str, object] | None = None,
    extra: Mapping[str, str | bytes] | None = None,
) -> None:
    """Writes a checkpoint; what stood at `directory` before stays until the new one is whole.

    Args:
        model: with an encoder of robot_wm.encoders.
        directory: is created, or replaced if it is a checkpoint.
        training: where the weights come from (dataset, steps, errors): kept, never interpreted.
        extra: file name -> text or bytes to keep beside them, such as the metrics of every step.

    Raises:
        FileExistsError: `directory` holds something else than a checkpoint.
        TypeError: an encoder that a checkpoint could not rebuild.
    """
    directory = directory.resolve()
    check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        weights = {name: v.contiguous() for name, v in model.predictor.state_dict().items()}
        (scratch / _PREDICTOR).write_bytes(save(weights))
        encoder = save_encoder(model.encoder, scratch / _ENCODER)
        config = {
            "format": FORMAT,
            "spec": _spec_to_json(model.spec),
            "predictor": asdict(model.predictor.config),
            "encoder": {**encoder, "fingerprint": asdict(model.encoder.fingerprint)},
            "action_stats": _stats_to_json(model.action_stats),
            "proprio_stats": _stats_to_json(model.proprio_stats),
            "feature_stats": (
                None if model.feature_stats is None else _stats_to_json(model.feature_stats)
            ),
            "error": model.error,
            "rollout_steps": model.rollout_steps,
            "rollout_prefix": model.rollout_prefix,
            "training": dict(training or {}),
        }
        (scratch / _CONFIG).write_text(json.dumps(config, indent=1, allow_nan=False) + "\n")
        for name, text in (extra or {}).items():
            content = text.encode() if isinstance(text, str) else text
            (scratch / name).write_bytes(content)
        files = {path.name: sha256_file(path) for path in sorted(scratch.iterdir())}
        (scratch / _MANIFEST).write_text(json.dumps(files, indent=1) + "\n")
        for path in scratch.iterdir():
            sync(path)
        if directory.exists():
            old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
            directory.rename(old)
            try:
                scratch.rename(directory)
            except OSError:
                old.rename(directory)
                raise
            shutil.rmtree(old)
        else:
            scratch.rename(directory)
        sync(directory.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def add_to_checkpoint(directory: Path, name: str, content: bytes) -> None:
    """Puts a file beside the weights of a checkpoint, or in the place of the one that was there.

    Raises:
        CheckpointError: not a checkpoint.
    """
    manifest = _read_json(directory, _MANIFEST)
    # First without it: whatever is cut off between, the checkpoint stays one.
    without = {key: value for key, value in manifest.items() if key != name}
    _replace(directory / _MANIFEST, json.dumps(without, indent=1).encode() + b"\n")
    _replace(directory / name, content)
    without[name] = sha256_file(directory / name)
    _replace(directory / _MANIFEST, json.dumps(without, indent=1).encode() + b"\n")


def _replace(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    scratch.write_bytes(content)
    sync(scratch)
    scratch.replace(path)
    sync(path.parent)


def check_replaceable(directory: Path) -> None:
    """Lets a save go to a place that is new, empty, or a checkpoint and nothing else.

    Raises:
        FileExistsError: it holds something else.
    """
    if not directory.exists():
        return
    found = {path.name for path in directory.iterdir()} if directory.is_dir() else {directory.name}
    if not found:
        return
    try:
        known = {_MANIFEST, *_read_json(directory, _MANIFEST)}
    except CheckpointError:
        known = set()
    if not ({_CONFIG, _PREDICTOR} <= found <= known):
        raise FileExistsError(f"out: {directory} holds something else than a checkpoint")


def find_checkpoint(name: str) -> Path:
    """The directory of a checkpoint: a path, or the name of one that ships with the library.

    Raises:
        CheckpointError: neither.
    """
    shipped = sorted(path.parent.name for path in WEIGHTS_DIR.glob(f"*/{_MANIFEST}"))
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name in shipped:
        return WEIGHTS_DIR / name
    raise CheckpointError(
        f"checkpoint: no directory {path}, nor is it the name of one that ships: "
        f"{', '.join(shipped) or 'none'}"
    )


def load_checkpoint(directory: Path) -> tuple[LatentWorldModel, dict[str, Any]]:
    """Rebuilds a model on the CPU.

    Returns:
        The model, ready to plan, and the whole of config.json (with `checkpoint_hash` added).

    Raises:
        CheckpointError: missing, another format, a changed file, or weights that do not fit.
        FileNotFoundError: the encoder's public weights are out of reach (says what to do).
    """
    if directory.is_file():
        raise CheckpointError(
            f"checkpoint: {directory} is a file, want a checkpoint directory; a released V-JEPA "
            f"2-AC file is turned into one by: robot-wm convert checkpoint={directory} out=DIR"
        )
    manifest = _read_json(directory, _MANIFEST)
    for name in (_CONFIG, _PREDICTOR):
        if name not in manifest:
            raise CheckpointError(f"checkpoint: {directory} lacks {name}")
    for name, expected in manifest.items():
        path = directory / Path(name).name
        if not path.is_file():
            raise CheckpointError(f"checkpoint: {directory} lacks {name}")
        if sha256_file(path) != expected:
            raise CheckpointError(f"checkpoint: {path} was changed or damaged since it was saved")
    config = _read_json(directory, _CONFIG)
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint: got format {config.get('format')}, want {FORMAT}: train it again"
        )
    try:
        described = dict(config["encoder"])
        expected = Fingerprint(**described.pop("fingerprint"))
        encoder = load_encoder(described, directory / _ENCODER)
        different = encoder.fingerprint.difference(expected)
        if different:
            raise ValueError(
                f"the encoder is not the one the predictor was trained on: {different} differ"
            )
        with torch.random.fork_rng(devices=[]):  # its first weights are not kept
            predictor = Predictor(PredictorConfig(**config["predictor"]))
        predictor.load_state_dict(load_file(directory / _PREDICTOR))
        model = LatentWorldModel(
            encoder,
            predictor.eval().requires_grad_(False),
            _spec_from_json(config["spec"]),
            action_stats=_stats_from_json(config["action_stats"]),
            proprio_stats=_stats_from_json(config["proprio_stats"]),
            feature_stats=(
                None
                if config["feature_stats"] is None
                else _stats_from_json(config["feature_stats"])
            ),
            error=config["error"],
            rollout_steps=config["rollout_steps"],
            rollout_prefix=config["rollout_prefix"],
        )
    except FileNotFoundError:
        raise
    except _MISFITS as error:
        raise CheckpointError(f"checkpoint: {directory} does not fit together: {error}") from error
    config["checkpoint_hash"] = sha256_file(directory / _MANIFEST)
    return model, config


def _spec_to_json(spec: ModelSpec) -> dict[str, object]:
    action = spec.action_spec
    return {
        "camera": spec.camera,
        "image_height": spec.image_height,
        "image_width": spec.image_width,
        "dt": spec.dt,
        "state_names": list(spec.state_names),
        "action_spec": {
            "names": list(action.names),
            "units": list(action.units),
            "low": action.low.tolist(),
            "high": action.high.tolist(),
        },
        "proprio": spec.proprio,
        "context_frames": spec.context_frames,
        "features": spec.features,
        "extrinsics": list(spec.extrinsics),
        "step_energy": None if spec.step_energy is None else dict(spec.step_energy),
    }


def _spec_from_json(value: dict[str, Any]) -> ModelSpec:
    action = ActionSpec(**value["action_spec"])
    return ModelSpec(**{**value, "action_spec": action})


def _stats_to_json(stats: NormStats) -> dict[str, list[float]]:
    return {"mean": stats.mean.tolist(), "std": stats.std.tolist()}


def _stats_from_json(value: dict[str, Any]) -> NormStats:
    return NormStats(**value)


def _read_json(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    if not path.is_file():
        raise CheckpointError(f"checkpoint: {directory} is not a checkpoint directory (no {name})")
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint: {path} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"checkpoint: {path} is not a JSON object")
    return value
