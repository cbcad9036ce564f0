"""Small datasets whose every frame says which one it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from robot_wm.data import AlignedData, DatasetWriter, TokenStore, encode_dataset
from robot_wm.preprocess import ImageSpec, prepare_images

LENGTHS = (8, 11, 9)
SIZE = (32, 48)


def brightness(frame: int) -> int:
    """Grey level of a frame's picture: 16 levels apart, far more than h264 loses."""
    return 20 + 16 * frame


def picture(frame: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A grey picture, with a red square so that swapped channels show."""
    image = np.full((*size, 3), brightness(frame), np.uint8)
    image[:16, :16] = (250, 10, 10)
    return image


def frame_of(image: np.ndarray) -> int:
    """Which frame a decoded `picture` was."""
    return round((float(np.median(image[20:, 20:])) - 20) / 16)


def state(episode: int, frame: int) -> np.ndarray:
    """A state that curves, so that one step's delta is not another's."""
    return np.array([episode + 0.1 * frame, 0.01 * frame**2, -1.0 + frame])


def write(
    root: Path,
    *,
    fps: int = 10,
    lengths: tuple[int, ...] = LENGTHS,
    cameras: tuple[str, ...] = ("front", "wrist"),
    extra_names: tuple[str, ...] = ("cube",),
) -> Path:
    """Writes episodes of `lengths` frames; the wrist camera runs backwards in brightness."""
    with DatasetWriter(
        root,
        fps=fps,
        robot_type="toy",
        cameras=dict.fromkeys(cameras, SIZE),
        state_names=("x", "y", "z"),
        action_names=("a", "b"),
        extra={"observation.environment_state": extra_names},
    ) as writer:
        for episode, length in enumerate(lengths):
            for frame in range(length):
                shown = {n: picture(frame if n != "wrist" else 12 - frame) for n in cameras}
                action = np.array([frame, -frame])
                extra = {
                    "observation.environment_state": np.full(
                        len(extra_names), episode * 100 + frame
                    )
                }
                writer.add(shown, state(episode, frame), action, extra)
            writer.end_episode(f"task {episode % 2}")
    return root


def edit_info(root: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Changes meta/info.json in place."""
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))


def edit_rows(root: Path, key: str, edit: Callable[[np.ndarray], None]) -> None:
    """Changes one column of the data in place; `edit` gets all rows of all episodes."""
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    old = table[key].combine_chunks()
    values = np.array(old.to_pylist(), np.float32)
    edit(values)
    new = pa.array(list(values), old.type) if values.ndim == 2 else pa.array(values, old.type)
    pq.write_table(table.set_column(table.column_names.index(key), key, new), path)


def mean_token(pictures: np.ndarray) -> Tensor:
    """An encoder of two tokens, [grey level, 1] and [0, red - blue]: pictures [B, h, w, 3]."""
    frames = prepare_images(pictures, RAW)
    low = frames[..., frames.shape[-2] // 2 :, frames.shape[-1] // 2 :].mean((-1, -2))  # [B, 3]
    zero = torch.zeros_like(low[..., 0])
    grey = torch.stack([low.mean(-1), zero + 1], -1)
    return torch.stack([grey, torch.stack([zero, low[..., 0] - low[..., 2]], -1)], 1)


RAW = ImageSpec(16, 16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def encode(data: AlignedData, cache_dir: Path, fingerprint: str = "mean") -> TokenStore:
    return encode_dataset(
        data, mean_token, encoder_fingerprint=fingerprint, cache_dir=cache_dir, batch_size=5
    )
