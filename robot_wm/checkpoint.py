"""Checkpoints: one directory that rebuilds a model without its dataset.

config.json             family of the model by name, and what rebuilding it takes; nothing in it is
                        ever imported by name
weights.safetensors     trained weights
encoder.safetensors     the frozen encoder's weights, unless they are public at a pinned commit
manifest.json           sha256 of every other file
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file

from robot_wm.encoders import Fingerprint, load_encoder, save_encoder, write_weights
from robot_wm.files import LOCK, replacing, replacing_directory, sha256_file
from robot_wm.models import TrainableModel, check_world_model_parts, family_of, find_family
from robot_wm.shipped import MANIFEST, checkpoint_directory, shipped_checkpoints
from robot_wm.types import Seed, ShareBelowOne, UserError

FORMAT = 3
_CONFIG = "config.json"
_WEIGHTS, _ENCODER = "weights.safetensors", "encoder.safetensors"
_PREDICTOR = "predictor.safetensors"  # the weights' name in format 2

# What loading can raise where files were made up, or were damaged and their checksums with them.
_DAMAGED = (
    *(SafetensorError, RuntimeError, ArithmeticError, AttributeError, LookupError),
    *(TypeError, ValueError, RecursionError),
)


class CheckpointError(UserError):
    """The directory is not a checkpoint, or differs from what was saved."""


class _Data(msgspec.Struct, frozen=True):
    """What is read of the data of a training; its joints are checked where they are used."""

    action: str | None = None


class _Fit(msgspec.Struct, frozen=True):
    """What is read of the settings of a training; `seed` in older checkpoints."""

    holdout: ShareBelowOne = 0.0
    seed: Seed = 0


class _Training(msgspec.Struct, frozen=True):
    """What is read of `training` in a config.json, to check it; all of it may be missing."""

    data: _Data | None = None
    model: _Fit | None = None
    fit: _Fit | None = None  # the former name of `model`
    train: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None  # the former name of `train`
    seed: Seed = 0


def save_checkpoint(
    model: TrainableModel,
    directory: Path,
    *,
    training: Mapping[str, object] | None = None,
    extra: Mapping[str, str | bytes] | None = None,
) -> None:
    """Writes a checkpoint; an older one at `directory` stays until the new one is complete.

    Args:
        model: A model of a registered family, with an encoder that can be rebuilt.
        directory: Directory of the checkpoint; it is created, or replaced if it is a checkpoint.
        training: Where the weights come from (dataset, steps, errors).
        extra: Text or bytes of further files by name, such as the metrics of every step.

    Raises:
        FileExistsError: `directory` holds something else than a checkpoint.
        OSError: there is no room for the weights.
        TypeError: a checkpoint could not rebuild the model or its encoder.
    """
    family = family_of(model)
    directory = directory.resolve()
    check_replaceable(directory)
    with replacing_directory(directory) as scratch:
        write_weights(model.state_dict(), scratch / _WEIGHTS)
        encoder = save_encoder(model.encoder, scratch / _ENCODER)
        config = {
            "format": FORMAT,
            "family": family.name,
            "model": family.describe(model),
            "encoder": {**encoder, "fingerprint": asdict(model.encoder.fingerprint)},
            "training": dict(training or {}),
        }
        (scratch / _CONFIG).write_text(json.dumps(config, indent=1, allow_nan=False) + "\n")
        for name, text in (extra or {}).items():
            content = text.encode() if isinstance(text, str) else text
            (scratch / name).write_bytes(content)
        files = {path.name: sha256_file(path) for path in sorted(scratch.iterdir())}
        (scratch / MANIFEST).write_text(json.dumps(files, indent=1) + "\n")


def add_to_checkpoint(directory: Path, name: str, content: bytes) -> None:
    """Adds a file to a checkpoint, or replaces it.

    Args:
        directory: Directory of the checkpoint.
        name: Name of the file.
        content: Content of the file.

    Raises:
        CheckpointError: the directory is not a checkpoint.
    """
    manifest = _read_json(directory, MANIFEST)
    # The entry is removed first: the checkpoint stays valid if this is interrupted.
    files = {key: value for key, value in manifest.items() if key != name}
    _replace(directory / MANIFEST, json.dumps(files, indent=1).encode() + b"\n")
    _replace(directory / name, content)
    files[name] = sha256_file(directory / name)
    _replace(directory / MANIFEST, json.dumps(files, indent=1).encode() + b"\n")


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as scratch:
        scratch.write_bytes(content)


def check_replaceable(directory: Path, *, overwrite: bool = True) -> None:
    """Checks that a directory is missing, empty, or holds only a checkpoint.

    Args:
        directory: Directory where a checkpoint is to be saved.
        overwrite: Whether a checkpoint that is there may be replaced.

    Raises:
        FileExistsError: it holds something else, or a checkpoint that may not be replaced.
    """
    if not directory.exists():
        return
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else {directory.name}
    names.discard(LOCK)
    if not names:
        return
    try:
        listed = {MANIFEST, *_read_json(directory, MANIFEST)}
    except CheckpointError:
        listed = set()
    weights = {_WEIGHTS, _PREDICTOR} & names
    if not (_CONFIG in names and weights and names <= listed):
        raise FileExistsError(f"out: {directory} holds something else than a checkpoint")
    if not overwrite:
        raise FileExistsError(
            f"out: {directory} holds a checkpoint already; overwrite=true replaces it"
        )


def find_checkpoint(name: str) -> Path:
    """Finds a checkpoint's directory.

    Args:
        name: A path, or the name of a checkpoint that ships with the library.

    Returns:
        The directory.

    Raises:
        CheckpointError: it is neither.
    """
    directory = checkpoint_directory(name)
    if directory.exists():
        return directory
    raise CheckpointError(
        f"checkpoint: no directory {directory}, nor is it the name of one that ships: "
        f"{', '.join(shipped_checkpoints()) or 'none'}"
    )


def load_checkpoint(directory: Path) -> tuple[TrainableModel, dict[str, Any]]:
    """Rebuilds a model on the CPU.

    Args:
        directory: Directory of the checkpoint.

    Returns:
        The model, ready to plan, and the whole of config.json (with `checkpoint_hash` added).

    Raises:
        CheckpointError: a file is missing or was changed, the format is another one, the family is
            not registered, or the weights do not fit.
        FileNotFoundError: the encoder's public weights cannot be fetched; the message says what to
            do.
    """
    if directory.is_file():
        raise CheckpointError(
            f"checkpoint: {directory} is a file, want a checkpoint directory; a released V-JEPA "
            f"2-AC file is turned into one by: robot-wm convert checkpoint={directory} out=DIR"
        )
    manifest = _read_json(directory, MANIFEST)
    if _CONFIG not in manifest:
        raise CheckpointError(f"checkpoint: {directory} lacks {_CONFIG}")
    for name, expected in manifest.items():
        path = directory / Path(name).name
        if not path.is_file():
            raise CheckpointError(f"checkpoint: {directory} lacks {name}")
        if sha256_file(path) != expected:
            raise CheckpointError(f"checkpoint: {path} was changed or damaged since it was saved")
    config = _read_json(directory, _CONFIG)
    if config.get("format") not in (2, FORMAT):
        raise CheckpointError(
            f"checkpoint: got format {config.get('format')}, want {FORMAT}: train it again"
        )
    try:
        msgspec.convert(config.setdefault("training", {}), _Training)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"checkpoint: {directory}: {_CONFIG}: training: {error}") from error
    file = _WEIGHTS if config["format"] == FORMAT else _PREDICTOR
    if file not in manifest:
        raise CheckpointError(f"checkpoint: {directory} lacks {file}")
    try:
        if config["format"] == 2:
            config = _from_format_2(config)
        family = find_family(str(config["family"]))
    except _DAMAGED as error:
        raise CheckpointError(f"checkpoint: {directory}: {error}") from error
    try:
        encoder_config = dict(config["encoder"])
        expected = Fingerprint(**encoder_config.pop("fingerprint"))
        encoder = load_encoder(encoder_config, directory / _ENCODER)
        different = encoder.fingerprint.difference(expected)
        if different:
            raise UserError(
                f"the encoder is not the one that the model was trained on: {different} differ"
            )
        model = family.rebuild(encoder, config["model"])
        check_world_model_parts(model)
        weights = load_file(directory / file)
        if file == _PREDICTOR:
            weights = {f"predictor.{name}": value for name, value in weights.items()}
        not_finite = [name for name, value in weights.items() if not value.isfinite().all()]
        if not_finite:
            raise UserError(f"{file}: {not_finite[0]} is not finite")
        model.load_state_dict(weights)
        model.eval().requires_grad_(False)
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise CheckpointError(f"checkpoint: {directory} does not fit together: {error}") from error
    config["checkpoint_hash"] = sha256_file(directory / MANIFEST)
    return model, config


def _from_format_2(config: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a config.json of format 2, of one family and one camera, to this format."""
    old = config["spec"]
    view = {"camera": old["camera"], "height": old["image_height"], "width": old["image_width"]}
    spec = {
        name: value
        for name, value in old.items()
        if name not in ("camera", "image_height", "image_width")
    }
    parts = ("predictor", "action_stats", "proprio_stats", "feature_stats")
    loss = ("error", "rollout_steps", "rollout_prefix")
    return {
        "format": FORMAT,
        "family": "latent",
        "model": {
            "spec": {**spec, "views": [view]},
            **{name: config[name] for name in (*parts, *loss)},
        },
        "encoder": config["encoder"],
        "training": config["training"],
    }


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
