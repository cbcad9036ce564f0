"""Encodes every frame of a dataset once and caches the tokens on disk.

A frozen encoder always returns the same tokens for a picture, so training reads these arrays and
neither decodes videos nor runs the encoder. An entry's key is a hash of everything that it depends
on. Entries are written atomically and checked against their sha256 before use.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robot_wm.data.alignment import AlignedData
from robot_wm.data.files import allocate
from robot_wm.files import replacing_all, sha256_file
from robot_wm.preprocess import ImageSpec, prepare_images
from robot_wm.types import FloatArray, ImageArray, UserError

Progress = Callable[[int, int], None]
_FORMAT = 1  # part of the key: increment it when the contents of an entry change
_DECODE_CHUNK = 256  # frames of one episode in memory at once


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Tokens of every sampled frame of an AlignedData, episode by episode.

    Attributes:
        array: Tokens of the first camera `[sum of lengths, P, D]`, float32 or float16, a read-only
            memory map.
        lengths: Frames per episode.
        more: The same of each further camera; within a frame, its tokens follow the first one's.
    """

    array: FloatArray
    lengths: tuple[int, ...]
    more: tuple[FloatArray, ...] = ()

    def __len__(self) -> int:
        """Returns the number of episodes."""
        return len(self.lengths)

    def __getitem__(self, index: int, /) -> FloatArray:
        """Returns the tokens `[T, V * P, D]` of the episode at position `index`."""
        if not 0 <= index < len(self.lengths):
            raise IndexError(f"episode: got {index}, want 0 to {len(self.lengths) - 1}")
        end = int(self._ends[index])
        rows = slice(end - self.lengths[index], end)
        if not self.more:
            return self.array[rows]
        return np.concatenate([array[rows] for array in (self.array, *self.more)], axis=1)

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens per frame, over all cameras."""
        return sum(array.shape[1] for array in (self.array, *self.more))

    @property
    def dim(self) -> int:
        """Size of a token, D."""
        return self.array.shape[2]


def encode_dataset(
    data: AlignedData,
    encode: Callable[[ImageArray], Tensor],
    *,
    encoder_fingerprint: str,
    cache_dir: Path,
    batch_size: int = 64,
    dtype: Literal["float32", "float16"] = "float32",
    progress: Progress | None = None,
) -> TokenStore:
    """Encodes every sampled frame, or loads the tokens from the cache.

    Args:
        data: The frames.
        encode: Maps pictures `[B, height, width, 3]`, uint8, to tokens `[B, P, D]` on any device.
            Called under torch.inference_mode.
        encoder_fingerprint: A hash of the encoder's weights and of how pictures are prepared.
        cache_dir: Directory of the cache; created if missing.
        batch_size: Frames per call, B.
        dtype: Data type of the tokens on disk.
        progress: Called with the number of frames done and the total.

    Returns:
        The tokens of all sampled frames.

    Raises:
        UserError: a frame does not decode, or the encoder returns a value that is not finite.
        ValueError: the encoder returns a wrong shape.
    """
    settings = {"encoder": encoder_fingerprint, "dtype": dtype}

    def batches(camera: str) -> Iterator[np.ndarray]:
        for frames in _batches(data, camera, batch_size):
            with torch.inference_mode():
                tokens = encode(frames)
            if tokens.ndim != 3 or len(tokens) != len(frames):
                raise ValueError(f"encode: got {tuple(tokens.shape)}, want [{len(frames)}, P, D]")
            values = tokens.to(torch.float32).cpu().numpy().astype(dtype)
            if not np.isfinite(values).all():
                raise UserError(f"encode: tokens of {data.dataset.source} are not finite ({dtype})")
            yield values

    total = data.num_frames * len(data.cameras)
    arrays = []
    for i, camera in enumerate(data.cameras):
        path = Path(cache_dir) / f"tokens-{_key(data, camera, settings)}"
        make = functools.partial(batches, camera)
        camera_progress = progress and functools.partial(
            _report_shifted, progress, i * data.num_frames, total
        )
        arrays.append(_cached(path, make, dtype, data.num_frames, camera_progress))
    return TokenStore(arrays[0], data.lengths, tuple(arrays[1:]))


def _report_shifted(progress: Progress, offset: int, total: int, done: int, _: int) -> None:
    progress(offset + done, total)


def load_frames(
    data: AlignedData,
    size: tuple[int, int],
    *,
    cache_dir: Path,
    progress: Progress | None = None,
) -> ImageArray:
    """Returns every sampled frame, cropped and resized as `prepare_images` does it.

    Args:
        data: The frames.
        size: Height and width of the result, pixels.
        cache_dir: Directory of the cache; created if missing.
        progress: Called with the number of frames done and the total.

    Returns:
        uint8 RGB `[sum of data.lengths, height, width, 3]`, episode by episode, a read-only
        memory map.

    Raises:
        UserError: a frame does not decode, or there are several cameras.
    """
    if len(data.cameras) != 1:
        raise UserError(f"data.camera: got {', '.join(data.cameras)}, want one")
    (camera,) = data.cameras
    key = _key(data, camera, {"frames": list(size)})

    def batches() -> Iterator[np.ndarray]:
        for frames in _batches(data, camera, 64):
            yield scale_frames(frames, size)

    path = Path(cache_dir) / f"frames-{key}"
    return _cached(path, batches, "uint8", data.num_frames, progress)


def scale_frames(frames: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Crops and resizes uint8 pictures `[n, h, w, 3]` as `prepare_images` does, to uint8."""
    unnormalised = ImageSpec(size[0], size[1], mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    scaled = prepare_images(frames, unnormalised)  # [n, 3, h, w] in [0, 1]
    return (scaled * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _key(data: AlignedData, camera: str, settings: dict[str, Any]) -> str:
    """Returns a hash of everything that an entry depends on."""
    rows = hashlib.sha256()
    for episode, indices in zip(data.episodes, data.indices, strict=True):
        rows.update(np.asarray([episode, len(indices), *indices], np.int64).tobytes())
    parts = {
        "format": _FORMAT,
        "content": data.dataset.content_hash,
        "camera": camera,
        "rows": rows.hexdigest(),
        **settings,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _batches(data: AlignedData, camera: str, batch_size: int) -> Iterator[ImageArray]:
    """Yields the sampled frames of a camera in order, `batch_size` at a time across episodes."""
    pending: list[ImageArray] = []
    for index, indices in zip(data.episodes, data.indices, strict=True):
        episode = data.dataset.episode(index)
        for start in range(0, len(indices), _DECODE_CHUNK):
            rows = indices[start : start + _DECODE_CHUNK].tolist()
            pending.append(data.dataset.frames(episode, camera, rows))
            while sum(map(len, pending)) >= batch_size:
                frames = np.concatenate(pending)
                yield frames[:batch_size]
                pending = [frames[batch_size:]]
    last = np.concatenate(pending)
    if len(last):
        yield last


def _cached(
    stem: Path,
    batches: Callable[[], Iterator[np.ndarray]],
    dtype: str,
    total: int,
    progress: Progress | None,
) -> np.memmap:
    """Returns the array at `stem`.npy; writes it from `batches` if it is missing or damaged."""
    array_path, note_path = stem.with_suffix(".npy"), stem.with_suffix(".json")
    if _is_whole(array_path, note_path):
        return np.load(array_path, mmap_mode="r")
    stem.parent.mkdir(parents=True, exist_ok=True)
    note_path.unlink(missing_ok=True)
    # The note is replaced last: an array without its note is incomplete.
    with replacing_all([array_path, note_path]) as (array_scratch, note_scratch):
        array: np.memmap | None = None
        done = 0
        for values in batches():
            if array is None:
                shape = (total, *values.shape[1:])
                array = allocate(array_scratch, dtype, shape)
            array[done : done + len(values)] = values
            done += len(values)
            if progress is not None:
                progress(done, total)
        assert array is not None and done == total
        array.flush()
        del array
        note = {"bytes": array_scratch.stat().st_size, "sha256": sha256_file(array_scratch)}
        note_scratch.write_text(json.dumps(note), encoding="utf-8")
    return np.load(array_path, mmap_mode="r")


def _is_whole(array_path: Path, note_path: Path) -> bool:
    try:
        note = json.loads(note_path.read_text(encoding="utf-8"))
        if array_path.stat().st_size != note["bytes"]:
            return False
        return sha256_file(array_path) == note["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
