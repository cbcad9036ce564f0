"""Reads LeRobot v3 datasets with pyarrow and PyAV only.

LeRobot's own loader accepts damaged data without an error and takes 3 to 9 ms per frame in random
order. Here an episode's video is decoded once, from start to end, and inconsistent data raises an
error that names the file and the episode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from robot_wm.data import layout
from robot_wm.data.files import column, numbers, read_table
from robot_wm.data.video import DecodeError, decode_images, decode_video
from robot_wm.files import sha256_file
from robot_wm.types import FloatArray, ImageArray, UserError

# The largest distance of a frame's time from its row's, over the period. If it is larger, the
# clocks of the video and of the rows disagree.
_TIME_TOLERANCE = 0.25


@dataclass(frozen=True)
class Feature:
    """One entry of info.json's features.

    Attributes:
        dtype: Data type: `video`, `image`, `float32` and others.
        shape: Shape of one frame's value.
        names: One name per number of a vector, or empty if the dataset gives none.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Episode:
    """The rows of one episode, without pictures.

    Attributes:
        index: The episode's number.
        file: The parquet file that contains the episode.
        task: The task in words, empty if the dataset gives none.
        timestamps_s: Time since the episode's start, `[T]` float64.
        columns: Values as stored, `[T, n]` or `[T]`, by key.
    """

    index: int
    file: Path
    task: str
    timestamps_s: FloatArray
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.timestamps_s)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A LeRobot v3 dataset on disk. Made by `open_dataset`.

    Attributes:
        source: The directory or hub id that `open_dataset` was called with.
        root: The directory of the dataset, as an absolute path.
        fps: Frames per second, from info.json.
        robot_type: The robot's type, from info.json; empty if it gives none.
        num_episodes: Number of episodes.
        num_frames: Number of frames over all episodes.
        features: The features, by key.
    """

    source: str
    root: Path
    fps: float
    robot_type: str
    num_episodes: int
    num_frames: int
    features: Mapping[str, Feature]
    _data_path: str
    _video_path: str
    _index: Mapping[str, np.ndarray]  # columns of meta/episodes, by the names of `open_dataset`
    _tasks: Mapping[int, str]
    # A cache of the last file that was read: without pictures (key ""), or with one camera's.
    _tables: dict[tuple[Path, str], pa.Table] = field(default_factory=dict)

    @property
    def camera_keys(self) -> tuple[str, ...]:
        """Keys of the features that hold pictures."""
        return tuple(k for k, f in self.features.items() if f.dtype in ("video", "image"))

    @cached_property
    def content_hash(self) -> str:
        """The sha256 of the names and contents of every file of the dataset."""
        digest = hashlib.sha256()
        folders = [self.root / name for name in ("meta", "data", "videos", "images")]
        files = [p for f in folders for p in f.rglob("*") if p.is_file()]
        # Ignore the temporary files of a writer that was killed.
        files = [
            p
            for p in files
            if not any(part.endswith(".tmp") for part in p.relative_to(self.root).parts)
        ]
        for path in sorted(files):
            digest.update(f"{path.relative_to(self.root).as_posix()}\0".encode())
            digest.update(bytes.fromhex(sha256_file(path)))
        return digest.hexdigest()

    def episode(self, index: int) -> Episode:
        """Reads one episode. Reading episodes in the order of their index is fastest.

        Args:
            index: The episode's number.

        Returns:
            The episode without its pictures.

        Raises:
            UserError: no such episode, or its file is missing, unreadable or without its rows.
        """
        if not 0 <= index < self.num_episodes:
            raise UserError(
                f"{self.source}: got episode {index}, want 0 to {self.num_episodes - 1}"
            )
        path = self._data_file(index)
        table = self._rows(path, index)
        columns = {
            key: column(table, key)
            for key, feature in self.features.items()
            if key in table.column_names and feature.dtype not in ("video", "image", "string")
        }
        task = ""
        if "task_index" in table.column_names:
            task = self._tasks.get(int(numbers(table, "task_index", np.int64, path)[0]), "")
        times_s = numbers(table, "timestamp", np.float64, path)
        return Episode(index, path, task, times_s, columns)

    def frames(self, episode: Episode, camera_key: str, indices: Sequence[int]) -> ImageArray:
        """Decodes frames of one episode in one pass.

        The frame of a row is the one whose presentation time is nearest to the row's timestamp. It
        may be at most a quarter of a period away from it.

        Args:
            episode: An episode as `episode` returns it.
            camera_key: One of `camera_keys`.
            indices: Rows of the episode in increasing order, n of them.

        Returns:
            uint8 RGB `[n, height, width, 3]`.

        Raises:
            UserError: no such camera, or pictures that are missing or do not decode; names the
                file, the episode and the reason.
            ValueError: the episode has no such rows, or they are not in increasing order.
        """
        if camera_key not in self.camera_keys:
            raise UserError(f"camera: got {camera_key!r}, want one of {list(self.camera_keys)}")
        rows = np.asarray(indices, np.int64)
        if not len(rows) or rows[0] < 0 or rows[-1] >= len(episode) or (np.diff(rows) <= 0).any():
            raise ValueError(f"indices: got {indices}, want increasing, 0 to {len(episode) - 1}")
        path = episode.file
        try:
            if self.features[camera_key].dtype == "image":
                table = self._rows(path, episode.index, camera_key)
                if camera_key not in table.column_names:
                    raise DecodeError(f"no column {camera_key}; it has {table.column_names}")
                cells = table[camera_key]
                return decode_images([cells[int(i)].as_py() for i in rows], self.root)
            prefix = f"videos/{camera_key}"
            path = self._file(self._video_path, prefix, episode.index, video_key=camera_key)
            start_s = self._index[f"{prefix}/from_timestamp"][episode.index]
            end_s = self._index[f"{prefix}/to_timestamp"][episode.index]
            times_s = start_s + episode.timestamps_s[rows]
            if times_s[-1] > end_s - 0.5 / self.fps:  # those are the next episode's pictures
                raise DecodeError(
                    f"the video has fewer frames than the data has {len(episode)} rows"
                )
            return decode_video(path, times_s, _TIME_TOLERANCE / self.fps)
        except (DecodeError, OSError) as error:
            raise UserError(f"{path}: episode {episode.index}: {error}") from error

    def video_span_s(self, index: int, camera_key: str) -> float | None:
        """Returns the length of the episode's video from the metadata, s; None without a video."""
        prefix = f"videos/{camera_key}"
        if f"{prefix}/to_timestamp" not in self._index:
            return None
        start_s = self._index[f"{prefix}/from_timestamp"][index]
        return self._index[f"{prefix}/to_timestamp"][index] - start_s

    def num_rows(self, index: int) -> int:
        """Returns the number of rows of the episode from the metadata."""
        return int(self._index["length"][index])

    def _file(self, template: str, prefix: str, index: int, **names: str) -> Path:
        place = {n: int(self._index[f"{prefix}/{n}"][index]) for n in ("chunk_index", "file_index")}
        return layout.file_of(self.root, template, **names, **place)

    def _data_file(self, index: int) -> Path:
        return self._file(self._data_path, "data", index)

    def _rows(self, path: Path, index: int, image_key: str = "") -> pa.Table:
        """Returns the episode's rows without pictures, or with those of one camera only."""
        if (path, image_key) not in self._tables:
            skipped = {k for k, f in self.features.items() if f.dtype == "image"} - {image_key}
            for key in [k for k in self._tables if k[1] == image_key]:
                del self._tables[key]
            self._tables[path, image_key] = read_table(path, only=lambda name: name not in skipped)
        table = self._tables[path, image_key]
        rows = np.flatnonzero(numbers(table, "episode_index", np.int64, path) == index)
        if not len(rows):
            raise UserError(f"{path}: episode {index} has no rows")
        if rows[-1] - rows[0] + 1 != len(rows):
            raise UserError(f"{path}: episode {index} is not in one piece")
        return table.slice(int(rows[0]), len(rows))
