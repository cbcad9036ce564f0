"""Frozen encoders, which map each frame by itself to tokens."""

import functools

from robot_wm.encoders.catalog import (
    NAMES,
    EncoderKind,
    build_encoder,
    load_encoder,
    register_encoder,
    released_encoder,
    save_encoder,
)
from robot_wm.encoders.hub import EncoderWeightsError, write_weights
from robot_wm.encoders.mini import (
    MiniConfig,
    MiniEncoder,
    load_mini,
    random_mini,
    save_mini,
    shipped_config,
    shipped_weights,
    sincos_2d,
)
from robot_wm.encoders.protocol import (
    Encoder,
    Fingerprint,
    check_frames,
    encode,
    fingerprint,
    freeze,
)
from robot_wm.encoders.vit import ViTConfig, ViTEncoder
from robot_wm.encoders.vjepa2 import VJepa2Shape, from_release, release_shape

# By the names that a command line and a file have for them.
ENCODERS = {name: functools.partial(build_encoder, name) for name in NAMES}

__all__ = [
    "ENCODERS",
    "NAMES",
    "EncoderKind",
    "Encoder",
    "EncoderWeightsError",
    "Fingerprint",
    "MiniConfig",
    "MiniEncoder",
    "VJepa2Shape",
    "ViTConfig",
    "ViTEncoder",
    "build_encoder",
    "check_frames",
    "encode",
    "fingerprint",
    "freeze",
    "from_release",
    "load_encoder",
    "register_encoder",
    "load_mini",
    "random_mini",
    "release_shape",
    "released_encoder",
    "save_encoder",
    "save_mini",
    "shipped_config",
    "shipped_weights",
    "sincos_2d",
    "write_weights",
]
