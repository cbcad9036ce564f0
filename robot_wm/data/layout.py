"""Paths and contents of the files of a LeRobot v3 dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robot_wm.data.stats import Stats
from robot_wm.types import UserError

VERSION = "v3.0"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
STATE = "observation.state"
ACTION = "action"
INDEX_DTYPES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
FILES_PER_CHUNK = 1000


def camera_key(name: str) -> str:
    """Returns the key of a camera: `observation.images.front` for `front`."""
    return f"observation.images.{name}"


def inside(root: Path, path: str) -> Path:
    """Returns where a path that a dataset gives leads to.

    Args:
        root: The dataset's directory, as an absolute path.
        path: The path of a file under `root`.

    Returns:
        The absolute path. Links are not followed, since those of the hub's cache lead out of it.

    Raises:
        UserError: it leads out of `root`.
    """
    found = Path(os.path.normpath(root / path))
    if root not in found.parents or "\0" in path:
        raise UserError(f"{root}: path {path!r} leads out of the dataset")
    return found


def file_of(root: Path, template: str, **names: object) -> Path:
    """Returns the file of a template such as `DATA_PATH`.

    Args:
        root: The dataset's directory, as an absolute path.
        template: The path of a file under `root`, with placeholders.
        **names: Values of the placeholders.

    Returns:
        The absolute path of the file.

    Raises:
        UserError: other placeholders, or a path that leads out of `root`.
    """
    try:
        path = template.format(**names)
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{root}: malformed path {template!r} ({error!r})") from error
    return inside(root, path)


def place(file: int, files_per_chunk: int) -> dict[str, int]:
    """Returns the chunk and file index of the `file`-th file."""
    return {"chunk_index": file // files_per_chunk, "file_index": file % files_per_chunk}


def make_info(
    fps: int,
    robot_type: str,
    cameras: Mapping[str, tuple[int, int]],
    vectors: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    """Returns the contents of meta/info.json for an empty dataset."""
    features: dict[str, Any] = {}
    for name, (height, width) in cameras.items():
        features[camera_key(name)] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }
    for key, names in vectors.items():
        features[key] = {"dtype": "float32", "shape": [len(names)], "names": list(names)}
    for key, dtype in INDEX_DTYPES.items():
        features[key] = {"dtype": dtype, "shape": [1], "names": None}
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if cameras else None,
        "features": features,
    }


def count_in(info: Mapping[str, Any], num_episodes: int, num_frames: int) -> dict[str, Any]:
    """Returns `info` with these totals."""
    totals = {"total_episodes": num_episodes, "total_frames": num_frames}
    return {**info, **totals, "splits": {"train": f"0:{num_episodes}"}}


def episode_row(
    *,
    index: int,
    task: str,
    length: int,
    place: Mapping[str, int],
    first_row: int,
    video_span_s: tuple[float, float],
    cameras: tuple[str, ...],
    stats: Stats,
) -> dict[str, Any]:
    """Returns one row of meta/episodes; data, videos and metadata share one file number."""
    row: dict[str, Any] = {"episode_index": index, "tasks": [task], "length": length}
    row |= {f"data/{key}": value for key, value in place.items()}
    row |= {"dataset_from_index": first_row, "dataset_to_index": first_row + length}
    for name in cameras:
        row |= {f"videos/{camera_key(name)}/{key}": value for key, value in place.items()}
        row[f"videos/{camera_key(name)}/from_timestamp"] = video_span_s[0]
        row[f"videos/{camera_key(name)}/to_timestamp"] = video_span_s[1]
    for key, feature in stats.items():
        row |= {f"stats/{key}/{name}": value.tolist() for name, value in feature.items()}
    return row | {f"meta/episodes/{key}": value for key, value in place.items()}


def data_table(columns: Mapping[str, np.ndarray]) -> pa.Table:
    """Returns the rows of one episode; a vector of one number is a plain column, as in LeRobot."""
    arrays: dict[str, pa.Array] = {}
    for key, values in columns.items():
        flat = pa.array(values.reshape(-1))
        wide = values.ndim == 2 and values.shape[1] > 1
        arrays[key] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if wide else flat
    return pa.table(arrays)


def table_writer(table: pa.Table) -> Callable[[Path], None]:
    """Returns a function that writes `table` as a parquet file."""
    return lambda path: pq.write_table(table, path)


def tasks_writer(tasks: list[str]) -> Callable[[Path], None]:
    """Returns a function that writes meta/tasks.parquet, a pandas table indexed by the task."""
    index = "__index_level_0__"
    pandas = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            _pandas_column("task_index", "task_index", "int64"),
            _pandas_column(None, index, "unicode"),
        ],
        "pandas_version": "2.0.0",
    }
    numbers = pa.array(range(len(tasks)), pa.int64())
    table = pa.table({"task_index": numbers, index: pa.array(tasks, pa.string())})
    table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
    return table_writer(table)


def _pandas_column(name: str | None, field: str, kind: str) -> dict[str, object]:
    numpy_type = "object" if kind == "unicode" else kind
    kinds = {"pandas_type": kind, "numpy_type": numpy_type, "metadata": None}
    return {"name": name, "field_name": field, **kinds}


def json_writer(value: Mapping[str, Any]) -> Callable[[Path], None]:
    """Returns a function that writes `value` as indented JSON."""
    text = json.dumps(value, indent=4, default=np.ndarray.tolist)
    return lambda path: _write_text(path, text)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
