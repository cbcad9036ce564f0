"""Finds a LeRobot v3 dataset, on disk or on the hub, and reads its metadata."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from robot_wm.data import layout
from robot_wm.data.dataset import Dataset, Feature
from robot_wm.data.files import read_table
from robot_wm.hub_errors import hub_errors
from robot_wm.types import UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


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
    root = _find(str(source), revision)
    info_path = root / layout.INFO_PATH
    if not info_path.is_file():
        raise FileNotFoundError(f"{root}: no {layout.INFO_PATH}; want a LeRobot v3 dataset")
    try:
        info = json.loads(info_path.read_text(encoding="utf-8"))
        version = str(info["codebase_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{info_path}: not a LeRobot info.json ({error!r})") from error
    if not version.startswith("v3."):
        raise UserError(
            f"{source}: LeRobot format {version}, want v3.x; {_how_to_convert(str(source))}"
        )
    try:
        features = {key: _feature(entry) for key, entry in info["features"].items()}
        num_episodes, fps = int(info["total_episodes"]), float(info["fps"])
        data_path, video_path = str(info["data_path"]), str(info.get("video_path") or "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{info_path}: missing or malformed entry ({error!r})") from error
    if not fps > 0 or num_episodes < 1:
        raise UserError(f"{info_path}: got fps {fps} and {num_episodes} episodes, want some")
    for template in (data_path, video_path):
        _check_template(template, info_path)
    index = _read_index(root, num_episodes)
    videos = [f"videos/{key}" for key, feature in features.items() if feature.dtype == "video"]
    required = {f"{p}/{n}" for p in ("data", *videos) for n in ("chunk_index", "file_index")}
    required |= {f"{p}/{n}" for p in videos for n in ("from_timestamp", "to_timestamp")}
    if missing := sorted(required - set(index)):
        raise UserError(f"{root}: meta/episodes has no column {missing[0]}; it has {sorted(index)}")
    return Dataset(
        source=str(source),
        root=root,
        fps=fps,
        robot_type=str(info.get("robot_type") or ""),
        num_episodes=num_episodes,
        num_frames=sum(index["length"]),
        features=features,
        _data_path=data_path,
        _video_path=video_path,
        _index=index,
        _tasks=_read_tasks(root),
    )


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


def _check_template(template: str, info_path: Path) -> None:
    """Raises UserError if a path has unknown placeholders or leads out of the dataset."""
    try:
        place = Path(template.format(video_key="key", chunk_index=0, file_index=0))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(f"{info_path}: malformed path {template!r} ({error!r})") from error
    if place.is_absolute() or ".." in place.parts:
        raise UserError(f"{info_path}: path {template!r} leads out of the dataset")


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


def _feature(entry: Mapping[str, Any]) -> Feature:
    shape = tuple(int(n) for n in entry["shape"])
    names = entry.get("names")
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
    return Feature(str(entry["dtype"]), shape, tuple(str(n) for n in names))


def _read_index(root: Path, num_episodes: int) -> dict[str, list[Any]]:
    """Reads meta/episodes without statistics, column by column, in the order of episodes."""
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise UserError(f"{root}: no meta/episodes; want a LeRobot v3 dataset")
    columns: dict[str, list[Any]] = {}
    for path in paths:
        table = read_table(path, only=lambda name: not name.startswith("stats/"))
        for name, values in table.to_pydict().items():
            columns.setdefault(name, []).extend(values)
    index = columns.get("episode_index", [])
    order = sorted(range(len(index)), key=index.__getitem__)[:num_episodes]
    ragged = [name for name, values in columns.items() if len(values) != len(index)]
    if [index[i] for i in order] != list(range(num_episodes)) or ragged or "length" not in columns:
        raise UserError(
            f"{root}: meta/episodes lists {len(index)} episodes, incomplete or in disorder; "
            f"info.json says {num_episodes}"
        )
    return {name: [values[i] for i in order] for name, values in columns.items()}


def _read_tasks(root: Path) -> dict[int, str]:
    path = root / layout.TASKS_PATH
    if not path.is_file():
        return {}
    table = read_table(path)
    names = [n for n in table.column_names if n != "task_index"]
    if "task_index" not in table.column_names or not names:
        return {}
    name = "task" if "task" in names else names[-1]
    return dict(zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True))
