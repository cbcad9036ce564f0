"""Finds a LeRobot v3 dataset, on disk or on the hub, and reads its metadata."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from robot_wm.data import layout
from robot_wm.data.dataset import Dataset, Feature
from robot_wm.data.files import numbers, read_table
from robot_wm.hub_errors import hub_errors
from robot_wm.types import Count, Index, Positive, UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class _Version(msgspec.Struct, frozen=True):
    """What info.json has in every version of the format."""

    codebase_version: str


class _FeatureEntry(msgspec.Struct, frozen=True):
    """One entry of info.json's features."""

    dtype: str
    shape: tuple[Index, ...]
    names: Any = None


class _Info(msgspec.Struct, frozen=True):
    """What info.json must have in version 3."""

    fps: Positive
    total_episodes: Count
    features: dict[str, _FeatureEntry]
    data_path: str
    video_path: str | None = None
    robot_type: str | None = None


def open_dataset(source: str | Path, *, revision: str | None = None) -> Dataset:
    """Opens a LeRobot v3 dataset.

    Args:
        source: A directory, or a Hugging Face hub id `owner/name`, which is downloaded.
        revision: Revision of the hub dataset; its `v3.0` tag, or else its newest, if None.

    Returns:
        The dataset, with its metadata read.

    Raises:
        FileNotFoundError: no such directory, and the hub does not provide such a dataset.
        UserError: not a LeRobot v3 dataset, or inconsistent metadata.
    """
    root = _find(str(source), revision).resolve()
    info = _read_info(root / layout.INFO_PATH, str(source))
    features = {key: _feature(entry) for key, entry in info.features.items()}
    videos = [key for key, feature in features.items() if feature.dtype == "video"]
    video_path = info.video_path or ""
    for template in (info.data_path, video_path) if videos else (info.data_path,):
        layout.file_of(root, template, video_key="key", chunk_index=0, file_index=0)
    index = _read_index(root, info.total_episodes, videos)
    return Dataset(
        source=str(source),
        root=root,
        fps=info.fps,
        robot_type=info.robot_type or "",
        num_episodes=info.total_episodes,
        num_frames=int(index["length"].sum()),
        features=features,
        _data_path=info.data_path,
        _video_path=video_path,
        _index=index,
        _tasks=_read_tasks(root),
    )


def _read_info(path: Path, source: str) -> _Info:
    """Reads meta/info.json of the dataset that the user calls `source`."""
    if not path.is_file():
        raise FileNotFoundError(f"{source}: no {layout.INFO_PATH}; want a LeRobot v3 dataset")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = msgspec.convert(info, _Version).codebase_version
        if version.startswith("v3."):
            return msgspec.convert(info, _Info)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a LeRobot info.json ({error})") from error
    raise UserError(f"{source}: LeRobot format {version}, want v3.x; {_how_to_convert(source)}")


def _how_to_convert(source: str) -> str:
    """Returns how to convert a v2.1 dataset to v3.0 with the installed version of LeRobot."""
    try:
        installed = metadata.version("lerobot")
    except metadata.PackageNotFoundError:
        return "LeRobot converts it: install 'robot-wm[lerobot]', and this says with which command"
    root = Path(source).expanduser()
    if root.is_dir():
        root, destination = root.resolve(), "in place"
        repo_id, parent = root.name, root.parent
    else:  # the converter downloads it
        repo_id, parent, destination = source, Path(), f"to the directory {source}"
    module = "lerobot.scripts.convert_dataset_v21_to_v30"
    if tuple(int(part) for part in installed.split(".")[:2]) < (0, 5):
        module = "lerobot.datasets.v30.convert_dataset_v21_to_v30"
        root = parent  # this version appends the id to the root
    words = [f"--repo-id={repo_id}", f"--root={root}", "--push-to-hub=false"]
    command = shlex.join([sys.executable, "-m", module, *words])
    return f"`{command}` converts it {destination}"


def _find(source: str, revision: str | None) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not _HUB_ID.fullmatch(source):
        what = "is not a directory" if path.exists() else "no such directory"
        raise FileNotFoundError(
            f"dataset {source!r}: {what}; want a directory of LeRobot v3 or a hub id owner/name"
        )
    from huggingface_hub import snapshot_download  # imported here: local datasets do not need it
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        try:
            tag = revision or layout.VERSION
            return Path(snapshot_download(source, repo_type="dataset", revision=tag))
        except RevisionNotFoundError:
            if revision is not None:
                raise
            return Path(snapshot_download(source, repo_type="dataset"))
    except hub_errors() as error:
        why = "the Hugging Face hub cannot be reached"
        if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
            why = f"the Hugging Face hub does not have it ({type(error).__name__})"
        raise FileNotFoundError(
            f"dataset {source!r}: no such directory, and {why}; want a directory of LeRobot v3 or "
            f"a hub id owner/name"
        ) from error


def _feature(entry: _FeatureEntry) -> Feature:
    shape, names = entry.shape, entry.names
    if isinstance(names, dict):
        values = list(names.values())
        if values and all(isinstance(v, int) for v in values):  # {"x": 0, "y": 1}
            names = sorted(names, key=names.__getitem__)
        elif len(values) == 1:  # {"motors": ["shoulder", ...]}
            names = values[0]
        else:
            names = [n for v in values for n in (v if isinstance(v, list) else [v])]
    if not isinstance(names, list) or len(shape) != 1 or len(names) != shape[0]:
        names = []
    return Feature(entry.dtype, shape, tuple(str(n) for n in names))


def _read_index(root: Path, num_episodes: int, videos: list[str]) -> dict[str, np.ndarray]:
    """Reads the columns of meta/episodes that are used, in the order of episodes."""
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise UserError(f"{root}: no meta/episodes; want a LeRobot v3 dataset")
    files = ["data", *(f"videos/{key}" for key in videos)]
    dtypes: dict[str, type[np.number]] = {"episode_index": np.int64, "length": np.int64}
    dtypes |= {f"{file}/{n}_index": np.int64 for file in files for n in ("chunk", "file")}
    dtypes |= {f"{file}/{n}_timestamp": np.float64 for file in files[1:] for n in ("from", "to")}
    tables = [(path, read_table(path, only=dtypes.__contains__)) for path in paths]
    columns = {
        name: np.concatenate([numbers(table, name, dtype, path) for path, table in tables])
        for name, dtype in dtypes.items()
    }
    order = np.argsort(columns["episode_index"], kind="stable")[:num_episodes]
    found = columns["episode_index"][order]
    if len(found) < num_episodes or (found != np.arange(len(found))).any():
        raise UserError(
            f"{root}: meta/episodes lists {len(columns['length'])} episodes, incomplete or in "
            f"disorder; info.json says {num_episodes}"
        )
    return {name: values[order] for name, values in columns.items()}


def _read_tasks(root: Path) -> dict[int, str]:
    path = root / layout.TASKS_PATH
    if not path.is_file():
        return {}
    table = read_table(path)
    names = [n for n in table.column_names if n != "task_index"]
    if "task_index" not in table.column_names or not names:
        return {}
    name = "task" if "task" in names else names[-1]
    tasks = map(str, table[name].to_pylist())
    return dict(zip(numbers(table, "task_index", np.int64, path).tolist(), tasks, strict=True))
