"""Opens, checks, samples and encodes datasets for training."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from robot_wm.contracts import check_encoder, hold_to
from robot_wm.data import (
    ActionMode,
    AlignedData,
    DataSpec,
    StateView,
    TokenStore,
    align,
    encode_dataset,
    find_state,
    open_dataset,
)
from robot_wm.deployment.extensions import check_parts
from robot_wm.deployment.parts import Part, part_defaults
from robot_wm.encoders import ENCODERS, Encoder, encode
from robot_wm.progress import Progress
from robot_wm.types import Positive, Settings

log = logging.getLogger(__name__)


class DatasetSettings(Settings, frozen=True, kw_only=True, tag_field="kind", tag="lerobot"):
    """A LeRobot v3 dataset.

    Attributes:
        source: A directory, or a hub id.
        revision: Revision of the hub's repository; null: the newest.
        camera: Key or short name of the camera (`front` for `observation.images.front`), or several
            joined by `+`; null: the only camera, or the likeliest fixed view.
        state: Key or short name of the state, or several joined by `+`; null: `observation.state`,
            or its parts.
        action: What an action is: `state_delta`, the change of the state that was achieved,
            `command_delta`, the recorded change of what it was to be, which grasps,
            `pose_delta`, the first for poses, or `recorded`, the dataset's action column.
        dt_s: Time step of the model, s; a multiple of the dataset's period within 2 %.
        drop_corrupt: Leaves out damaged episodes and logs which; false: refuses a dataset that has
            any.
    """

    source: str
    revision: str | None = None
    camera: str | None = DataSpec.camera
    state: str | None = DataSpec.state
    action: ActionMode = DataSpec.action
    dt_s: Positive = DataSpec.dt_s
    drop_corrupt: bool = False


def load_data(
    settings: DatasetSettings, *, also: str | None = None, view: StateView | None = None
) -> AlignedData:
    """Opens, checks and samples a dataset, and logs what it contains.

    Args:
        settings: The dataset.
        also: A column to add to the state, if the dataset has it and the settings name no state.
        view: A view that derives another state from the recorded one; None: the state as it is.

    Returns:
        The sampled data.

    Raises:
        UserError: it is not a dataset, or not one that can be used.
    """
    dataset = open_dataset(settings.source, revision=settings.revision)
    state = settings.state
    if also and state is None and also in dataset.features:
        state = "+".join((*find_state(dataset, None), also))
    spec = DataSpec(settings.camera, state, settings.action, settings.dt_s)
    data = align(dataset, spec, drop_corrupt=settings.drop_corrupt, view=view)
    derived = "" if view is None else f" as {', '.join(view.names)}"
    log.info(
        f"data: {data.num_episodes} episodes of {dataset.source}, camera "
        f"{', '.join(data.cameras)}, state {data.state}{derived}, every {data.dt_s:g} s"
    )
    for warning in data.warnings:
        log.warning(warning)
    for finding in data.dropped:
        log.info(f"dropped: {finding}")
    return data


def make_encoder(part: Part, *, seed: int) -> Encoder:
    """Makes an encoder of ours by its name, or one of the caller's own class.

    Args:
        part: The encoder's name and settings.
        seed: Seed of its random weights, unless the part has one of its own.

    Returns:
        The encoder.

    Raises:
        UserError: it does not take its settings, or breaks the contract of an encoder.
    """
    takes_seed = "seed" in part_defaults(part.find(ENCODERS, "encoder"))
    if takes_seed and part.get(ENCODERS, "encoder", "seed") is None:
        part = Part(part.name, **{**part.settings, "seed": seed})
    encoder = part.make(ENCODERS, "encoder")
    check_parts(encoder, part.name, ("dim", "grid", "image", "fingerprint"))
    hold_to(lambda: check_encoder(lambda: part.make(ENCODERS, "encoder")), encoder)
    return encoder


def encode_data(
    data: AlignedData, encoder: Encoder, device: torch.device, cache_dir: Path
) -> TokenStore:
    """Encodes every frame, or finds its tokens in the cache; moves the encoder to the device."""
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


def source_name(source: str) -> str:
    """Returns a hub id as it is, but only the last part of a directory."""
    return Path(source).resolve().name if Path(source).exists() else source
