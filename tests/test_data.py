"""robot_wm.data: what is recorded comes back, and what is damaged is refused by name."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import data_helpers as toy
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError

from robot_wm.data import (
    DatasetWriter,
    DataSpec,
    align,
    find_cameras,
    find_state,
    open_dataset,
)
from robot_wm.poses import POSE_NAMES, euler_to_matrix, integrate_poses
from robot_wm.types import UserError

TESTS = Path(__file__).parent
STARTS = np.cumsum((0, *toy.LENGTHS))  # first row of each episode


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture
def damaged(root: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(root, tmp_path / "damaged"))


# What is recorded comes back.


def test_states_actions_and_tasks_come_back(root: Path) -> None:
    dataset = open_dataset(root)
    assert (dataset.num_episodes, dataset.num_frames) == (3, sum(toy.LENGTHS))
    assert (dataset.fps, dataset.robot_type) == (10, "toy")
    assert dataset.camera_keys == ("observation.images.front", "observation.images.wrist")
    for index, length in enumerate(toy.LENGTHS):
        episode = dataset.episode(index)
        want = np.stack([toy.state(index, frame) for frame in range(length)])
        np.testing.assert_allclose(episode.columns["observation.state"], want, atol=1e-6)
        np.testing.assert_array_equal(episode.columns["action"][:, 1], -np.arange(length))
        extra = episode.columns["observation.environment_state"]
        np.testing.assert_array_equal(extra, index * 100 + np.arange(length))
        np.testing.assert_allclose(episode.timestamps_s, np.arange(length) / 10, atol=1e-6)
        assert episode.task == f"task {index % 2}"


def test_every_frame_comes_back_at_its_own_time(root: Path) -> None:
    dataset = open_dataset(root)
    for index, length in enumerate(toy.LENGTHS):
        episode = dataset.episode(index)
        front = dataset.frames(episode, "observation.images.front", range(length))
        assert [toy.frame_of(image) for image in front] == list(range(length))
        wrist = dataset.frames(episode, "observation.images.wrist", [1, 2, length - 1])
        assert [toy.frame_of(image) for image in wrist] == [11, 10, 13 - length]
    red, green, blue = front[0, 8, 8].astype(int)
    assert red > 200 and green < 60 and blue < 60


def test_episodes_go_on_into_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robot_wm.data.writer.FRAMES_PER_FILE", 15)
    root = toy.write(tmp_path / "d", lengths=(8, 9, 5, 12))
    assert len(list(root.glob("data/*/*.parquet"))) == 2
    dataset = open_dataset(root)
    for index, length in enumerate((8, 9, 5, 12)):
        front = dataset.frames(dataset.episode(index), dataset.camera_keys[0], range(length))
        assert [toy.frame_of(image) for image in front] == list(range(length))


PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(frame: int, size: tuple[int, int] = toy.SIZE) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(toy.picture(frame, size)).save(content, "PNG" if frame % 2 else "JPEG")
    return content.getvalue()


def add_pictures(root: Path, cells: pa.Array | None) -> None:
    """Adds a feature of pictures, and its column unless that is None."""
    path = root / "data/chunk-000/file-000.parquet"
    if cells is not None:
        pq.write_table(pq.read_table(path).append_column("observation.image", cells), path)
    feature = {"dtype": "image", "shape": [*toy.SIZE, 3], "names": ["height", "width", "channel"]}
    toy.edit_info(root, lambda info: info["features"].update({"observation.image": feature}))


def test_pictures_inside_parquet_are_read_too(damaged: Path) -> None:
    """As lerobot/pusht_image has them: encoded bytes in a struct."""
    frames = [frame for length in toy.LENGTHS for frame in range(length)]
    cells = [{"bytes": encoded(frame), "path": None} for frame in frames]
    add_pictures(damaged, pa.array(cells, PICTURE))
    dataset = open_dataset(damaged)
    images = dataset.frames(dataset.episode(1), "observation.image", [0, 3, 4])
    assert [toy.frame_of(image) for image in images] == [0, 3, 4]
    assert images[1][8, 8].tolist() == [250, 10, 10]


def h264() -> dict[str, object]:
    """How LeRobot is told to encode so.

    Not its default SVT-AV1: that encoder makes whoever calls it a real-time process where it may,
    before which nothing else, and no later test, gets the processor.
    """
    try:
        from lerobot.configs import RGBEncoderConfig
    except ImportError:  # before lerobot 0.6
        return {"vcodec": "h264"}
    return {"rgb_encoder": RGBEncoderConfig(vcodec="h264")}


def test_stock_lerobot_reads_and_resumes_what_we_write(tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    # Two numbers: lerobot 0.4.4 with numpy 2.4 cannot itself record a column of one.
    ours = toy.write(tmp_path / "ours", extra_names=("cube.x", "cube.y"))
    settings = {"root": ours, "video_backend": "pyav", **h264()}
    theirs = LeRobotDataset("toy/toy", **settings)
    assert (theirs.num_episodes, theirs.num_frames) == (3, sum(toy.LENGTHS))
    for row in (0, int(STARTS[1]), int(STARTS[1]) + 5, int(STARTS[3]) - 1):
        episode = int(np.searchsorted(STARTS, row, side="right")) - 1
        frame = row - int(STARTS[episode])
        item = theirs[row]
        shown = (item["observation.images.front"] * 255).numpy().transpose(1, 2, 0)
        assert toy.frame_of(shown) == frame
        np.testing.assert_allclose(item["observation.state"], toy.state(episode, frame), atol=1e-6)
        assert item["task"] == f"task {episode % 2}"
    rows = np.concatenate([[toy.state(e, f) for f in range(n)] for e, n in enumerate(toy.LENGTHS)])
    stats = theirs.meta.stats["observation.state"]
    np.testing.assert_allclose(stats["mean"], rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(stats["std"], rows.std(0), atol=1e-5)

    def frame_for(number: int) -> dict[str, object]:
        return {
            "observation.images.front": toy.picture(number),
            "observation.images.wrist": toy.picture(number),
            "observation.state": toy.state(3, number).astype(np.float32),
            "observation.environment_state": np.zeros(2, np.float32),
            "action": np.zeros(2, np.float32),
            "task": "task 1",
        }

    # The same columns as LeRobot's own recorder makes, and its recorder goes on where ours ended.
    fresh = LeRobotDataset.create(
        "toy/fresh",
        fps=10,
        robot_type="toy",
        root=tmp_path / "fresh",
        features={k: v for k, v in theirs.features.items() if v["dtype"] != "int64"},
        **h264(),
    )
    if hasattr(LeRobotDataset, "resume"):  # from lerobot 0.6 on, what is opened is only read
        theirs = LeRobotDataset.resume("toy/toy", **settings)
    for recorder in (fresh, theirs):
        for number in range(4):
            recorder.add_frame(frame_for(number))
        recorder.save_episode(parallel_encoding=False)
        recorder.finalize()
    for name in ("data", "meta/episodes"):
        ours_types, want_types = (
            {f.name: f.type for f in pq.read_schema(root / name / "chunk-000/file-000.parquet")}
            for root in (ours, tmp_path / "fresh")
        )
        for key in ours_types.keys() & want_types.keys():
            # Least and greatest of whole numbers are doubles from lerobot 0.6 on.
            if re.fullmatch("stats/.*index/(min|max)", key):
                assert want_types.pop(key) in (ours_types.pop(key), pa.list_(pa.float64()))
        assert ours_types == want_types
    infos = [json.loads((r / "meta/info.json").read_text()) for r in (ours, tmp_path / "fresh")]
    for key in theirs.meta.video_keys:
        ours_video, want_video = (info["features"][key].pop("info") for info in infos)
        # From lerobot 0.6 on this is "is_depth_map", beside what its own encoder was told.
        assert ours_video.pop("video.is_depth_map") is False
        assert ours_video.items() <= want_video.items()
    assert infos[0]["features"] == infos[1]["features"]
    assert infos[0].keys() == infos[1].keys()
    resumed = open_dataset(ours)
    assert resumed.num_episodes == 4
    added = resumed.frames(resumed.episode(3), "observation.images.front", range(4))
    assert [toy.frame_of(image) for image in added] == [0, 1, 2, 3]


# The writer.


RECORD = """
import sys
import data_helpers as toy
from robot_wm.data import DatasetWriter
import pathlib
with DatasetWriter(pathlib.Path(sys.argv[1]), fps=10, robot_type="toy", cameras={"front": toy.SIZE},
                   state_names=("x", "y", "z"), action_names=("a",)) as writer:
    for episode in range(1000):
        for frame in range(6):
            writer.add({"front": toy.picture(frame)}, toy.state(episode, frame), [frame])
        print(writer.end_episode("t") + 1, flush=True)
"""


def test_kill_loses_only_the_episode_it_hit(tmp_path: Path) -> None:
    root = tmp_path / "d"
    process = subprocess.Popen(
        [sys.executable, "-c", RECORD, str(root)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))},
        text=True,
    )
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    time.sleep(0.037)  # into the next
    os.kill(process.pid, signal.SIGKILL)
    said = 3 + len(process.stdout.readlines())
    process.wait()
    process.stdout.close()
    dataset = open_dataset(root)
    assert said <= dataset.num_episodes <= said + 1
    data = align(dataset, DataSpec(dt_s=0.1))
    assert data.num_episodes == dataset.num_episodes
    for index in range(dataset.num_episodes):
        shown = dataset.frames(dataset.episode(index), data.cameras[0], range(6))
        assert [toy.frame_of(image) for image in shown] == list(range(6))


def test_writer_leaves_an_existing_directory_alone(root: Path) -> None:
    before = open_dataset(root).content_hash
    with pytest.raises(FileExistsError, match="not empty"):
        toy.write(root)
    assert open_dataset(root).content_hash == before


def test_discarded_episode_leaves_no_trace(tmp_path: Path) -> None:
    root = tmp_path / "d"
    with DatasetWriter(
        root,
        fps=5,
        robot_type="toy",
        cameras={"front": toy.SIZE},
        state_names=("x", "y", "z"),
        action_names=("a",),
    ) as writer:
        for episode, keep in enumerate((True, False, True)):
            for frame in range(4):
                shown = {"front": toy.picture(frame + 4 * episode)}
                writer.add(shown, toy.state(episode, frame), np.zeros(1))
            if keep:
                writer.end_episode("t")
            else:
                writer.discard_episode()
        writer.add({"front": toy.picture(0)}, toy.state(0, 0), np.zeros(1))  # left unfinished
    dataset = open_dataset(root)
    assert (dataset.num_episodes, dataset.num_frames) == (2, 8)
    shown = dataset.frames(dataset.episode(1), dataset.camera_keys[0], range(4))
    assert [toy.frame_of(image) for image in shown] == [8, 9, 10, 11]
    assert not list(root.rglob("*.tmp"))


def test_writer_refuses_what_it_cannot_record(tmp_path: Path) -> None:
    with DatasetWriter(
        tmp_path / "d",
        fps=5,
        robot_type="toy",
        cameras={"front": toy.SIZE},
        state_names=("x", "y", "z"),
        action_names=("a",),
    ) as writer:
        good = toy.state(0, 0)
        with pytest.raises(ValueError, match=r"observation.state.*nan.*want 3 finite"):
            writer.add({"front": toy.picture(0)}, np.array([0, np.nan, 0]), np.zeros(1))
        with pytest.raises(ValueError, match=r"got \['side'\], want \['front'\]"):
            writer.add({"side": toy.picture(0)}, good, np.zeros(1))
        with pytest.raises(ValueError, match="camera front"):
            writer.add({"front": toy.picture(0, (16, 16))}, good, np.zeros(1))
        with pytest.raises(ValueError, match="no frame"):
            writer.end_episode("t")
    assert not (tmp_path / "d").exists()  # nothing recorded, nothing left
    with pytest.raises(ValueError, match="even"):
        toy.DatasetWriter(
            tmp_path / "e",
            fps=5,
            robot_type="toy",
            cameras={"front": (31, 32)},
            state_names=("x",),
            action_names=("a",),
        )


# Opening.


def test_missing_directory_is_named_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.*no such directory"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"meta/info\.json"):
        open_dataset(tmp_path)


class TransportError(Exception):
    """The base class of another HTTP library's errors."""


class HubError(TransportError, OSError):
    """huggingface_hub's own error where it uses that library."""


@pytest.mark.parametrize("error", [OSError, TransportError, EntryNotFoundError])
def test_unreachable_hub_names_the_alternative(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise error("no network")

    monkeypatch.setattr("huggingface_hub.errors.HfHubHTTPError", HubError)
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match="nobody/nothing.*cannot be reached.*directory"):
        open_dataset("nobody/nothing")


def write_v21(root: Path) -> Path:
    """The toy dataset as LeRobot's format v2.1 has it: files of one episode, metadata in JSON."""
    new = toy.write(root.with_name("new"), lengths=(8,), cameras=("front",))
    camera = "observation.images.front"
    for old, file in (("data", "parquet"), (f"videos/chunk-000/{camera}", "mp4")):
        folder = root / (old if file == "mp4" else f"{old}/chunk-000")
        folder.mkdir(parents=True)
        (path,) = (new / ("data" if file == "parquet" else f"videos/{camera}")).rglob(f"*.{file}")
        shutil.copy(path, folder / f"episode_000000.{file}")
    (root / "meta").mkdir()
    shutil.copy(new / "meta/info.json", root / "meta/info.json")
    places = {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"}
    places["video_path"] = (
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    )
    own = {"codebase_version": "v2.1", "total_videos": 1, "total_chunks": 1, **places}
    toy.edit_info(root, lambda info: info.update(own))
    (rows,) = pq.read_table(new / "meta/episodes").to_pylist()
    stats: dict[str, dict[str, object]] = {}
    for name, value in rows.items():
        if name.startswith("stats/"):
            _, key, kind = name.split("/")
            stats.setdefault(key, {})[kind] = value
    for kind, value in (("min", 0.0), ("max", 1.0), ("mean", 0.5), ("std", 0.1)):
        stats[camera][kind] = [[[value]]] * 3
    lines = {
        "tasks": {"task_index": 0, "task": "task 0"},
        "episodes": {"episode_index": 0, "tasks": ["task 0"], "length": 8},
        "episodes_stats": {"episode_index": 0, "stats": stats},
    }
    for name, line in lines.items():
        (root / f"meta/{name}.jsonl").write_text(json.dumps(line) + "\n")
    return root


def test_the_command_that_converts_an_old_format_does(tmp_path: Path) -> None:
    root = write_v21(tmp_path / "my old set")
    with pytest.raises(ValueError, match=r"v2\.1, want v3") as told:
        open_dataset(root)
    (command,) = re.findall("`(.*)`", str(told.value))
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(shlex.split(command), env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    dataset = open_dataset(root)
    images = dataset.frames(dataset.episode(0), "observation.images.front", range(8))
    assert [toy.frame_of(image) for image in images] == list(range(8))


@pytest.mark.parametrize(
    ("installed", "folder"), [("0.4.4", "."), ("0.5.1", "nobody/toy"), ("0.6.1", "nobody/toy")]
)
def test_an_old_format_on_the_hub_is_converted_to_a_directory(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, installed: str, folder: str
) -> None:
    toy.edit_info(damaged, lambda info: info.update(codebase_version="v2.1"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(damaged))
    monkeypatch.setattr("importlib.metadata.version", {"lerobot": installed}.__getitem__)
    with pytest.raises(ValueError, match=r"v2\.1, want v3") as told:
        open_dataset("nobody/toy")
    (command,) = re.findall("`(.*)`", str(told.value))
    want = ["--repo-id=nobody/toy", f"--root={folder}", "--push-to-hub=false"]
    assert shlex.split(command)[-3:] == want


def test_without_lerobot_an_old_format_says_what_to_install(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    toy.edit_info(damaged, lambda info: info.update(codebase_version="v2.1"))
    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(ValueError, match=r"v2\.1.*robot-wm\[lerobot\]"):
        open_dataset(damaged)


@pytest.mark.parametrize(
    "path", ["data/{chunk}/{file_index}.parquet", "../{file_index}.parquet", "/etc/passwd", "{0}"]
)
def test_paths_that_lead_elsewhere_are_refused(damaged: Path, path: str) -> None:
    toy.edit_info(damaged, lambda info: info.update(data_path=path))
    with pytest.raises(ValueError, match="path"):
        open_dataset(damaged)


def test_pictures_outside_a_dataset_and_on_the_network_are_never_opened(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    outside = damaged.parent / "outside.png"
    outside.write_bytes(encoded(1))
    (damaged / "inside.png").write_bytes(encoded(1))
    (damaged / "link.png").symlink_to(outside)  # as everything in the hub's cache is one
    url = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
    stream = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    stream += b"m=video 34567 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    refused = [{"path": path} for path in (url, str(outside), "../outside.png", "a\0b")]
    refused += [{"bytes": stream}, {"bytes": f"ffconcat version 1.0\nfile {url}".encode()}]
    cells = [{"path": "inside.png"}, {"path": "link.png"}, *refused]
    cells += [None] * (sum(toy.LENGTHS) - len(cells))
    add_pictures(damaged, pa.array(cells, PICTURE))
    monkeypatch.chdir(damaged)
    dataset = open_dataset(".")
    episode = dataset.episode(0)
    assert len(dataset.frames(episode, "observation.image", [0, 1])) == 2
    for row in range(2, 2 + len(refused)):
        with pytest.raises(UserError):
            dataset.frames(episode, "observation.image", [row])
    with pytest.raises(BlockingIOError):  # nobody has called
        server.accept()
    server.close()


def edit_episodes(root: Path, name: str, values: list[object]) -> None:
    """Replaces a column of meta/episodes."""
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, [values]), path)


@pytest.mark.parametrize("column", ["data", "videos/observation.images.front"])
def test_numbers_of_files_that_are_paths_are_refused(damaged: Path, column: str) -> None:
    edit_episodes(damaged, f"{column}/chunk_index", ["../../../.."] * 3)
    places = dict.fromkeys(("data_path", "video_path"), "{chunk_index}/{file_index}")
    toy.edit_info(damaged, lambda info: info.update(places))
    with pytest.raises(UserError, match="chunk_index"):
        open_dataset(damaged)


def test_a_camera_whose_name_is_a_path_elsewhere_is_refused(damaged: Path) -> None:
    key = "../../../elsewhere"
    for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
        path = damaged / "meta/episodes/chunk-000/file-000.parquet"
        table = pq.read_table(path)
        old = f"videos/observation.images.front/{name}"
        pq.write_table(table.append_column(f"videos/{key}/{name}", table[old]), path)
    toy.edit_info(damaged, lambda info: info["features"].update({key: {**CAMERA}}))
    dataset = open_dataset(damaged)
    with pytest.raises(UserError, match="leads out"):
        dataset.frames(dataset.episode(0), key, [0])


CAMERA = {"dtype": "video", "shape": [*toy.SIZE, 3], "names": None}


@pytest.mark.parametrize(
    "change",
    [
        {"total_episodes": float("inf")},
        {"total_episodes": 0},
        {"total_episodes": 10**30},
        {"fps": float("inf")},
        {"fps": float("nan")},
        {"fps": "10"},
        {"features": []},
        {"features": {"action": {"dtype": "float32", "shape": [-1]}}},
        {"features": {"action": {"dtype": "float32", "shape": None}}},
        {"features": {"action": None}},
        {"data_path": None},
        {"video_path": None},
        {"codebase_version": 3},
    ],
)
def test_malformed_infos_are_refused(damaged: Path, change: dict[str, object]) -> None:
    toy.edit_info(damaged, lambda info: info.update(change))
    with pytest.raises(UserError) as told:
        open_dataset(damaged)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["[]", "null", "{", "\udcff", "[" * 100_000])
def test_infos_that_are_none_are_refused(damaged: Path, text: str) -> None:
    (damaged / "meta/info.json").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError):
        open_dataset(damaged)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("length", [8, None, 9]),
        ("length", [[8], [11], [9]]),
        ("data/file_index", [0, 0.5, 0]),
        ("episode_index", [0, 1, 1]),
        ("episode_index", ["a", "b", "c"]),
        ("videos/observation.images.front/to_timestamp", ["a", "b", "c"]),
    ],
)
def test_malformed_lists_of_episodes_are_refused(
    damaged: Path, name: str, values: list[object]
) -> None:
    edit_episodes(damaged, name, values)
    with pytest.raises(UserError):
        open_dataset(damaged)


@pytest.mark.parametrize("end", [float("inf"), 1e300])
def test_videos_that_are_said_to_last_for_ever_are_refused(damaged: Path, end: float) -> None:
    for name, value in (("from_timestamp", end), ("to_timestamp", 2 * end)):
        edit_episodes(damaged, f"videos/observation.images.front/{name}", [value] * 3)
    dataset = open_dataset(damaged)
    with pytest.raises(UserError, match="episode 0"):
        dataset.frames(dataset.episode(0), "observation.images.front", [0])


SILENCE = b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data"


@pytest.mark.parametrize(
    "cells",
    [
        None,
        pa.array([encoded(1)] * 28),
        pa.array([{"bytes": "text", "path": None}] * 28),
        pa.array([None] * 28, PICTURE),
        pa.array([{"bytes": b"no picture", "path": None}] * 28, PICTURE),
        pa.array([{"bytes": SILENCE + b"\0" * 4004, "path": None}] * 28, PICTURE),
        pa.array([{"bytes": encoded(1, (n, n)), "path": None} for n in range(16, 44)], PICTURE),
        pa.array([{"bytes": None, "path": "meta"}] * 28, PICTURE),
    ],
    ids=["missing", "plain", "text", "empty", "damaged", "sound", "sizes", "folder"],
)
def test_columns_without_pictures_are_refused(damaged: Path, cells: pa.Array | None) -> None:
    add_pictures(damaged, cells)
    dataset = open_dataset(damaged)
    with pytest.raises(UserError) as told:
        dataset.frames(dataset.episode(0), "observation.image", [0, 1])
    assert str(told.value).count("file-000.parquet") == str(told.value).count("episode 0") == 1


def test_content_hash_sees_one_changed_byte(damaged: Path, root: Path) -> None:
    assert open_dataset(damaged).content_hash == open_dataset(root).content_hash
    path = next(damaged.glob("videos/*wrist/*/*.mp4"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert open_dataset(damaged).content_hash != open_dataset(root).content_hash


# Which columns.


def test_detection_prefers_a_view_that_stands_still(root: Path) -> None:
    dataset = open_dataset(root)
    assert find_cameras(dataset, None) == ("observation.images.front",)
    assert find_cameras(dataset, "wrist") == ("observation.images.wrist",)
    assert find_cameras(dataset, "observation.images.wrist") == ("observation.images.wrist",)
    both = tuple(f"observation.images.{name}" for name in ("wrist", "front"))
    assert find_cameras(dataset, "wrist + front") == both
    with pytest.raises(ValueError, match="want each once"):
        find_cameras(dataset, "front+observation.images.front")
    droid = ("wrist_left", "exterior_1_left", "exterior_2_left")
    view = dataset.features["observation.images.front"]
    features = {f"observation.images.{name}": view for name in droid}
    assert find_cameras(replace(dataset, features=features), None)[0].endswith("exterior_1_left")
    parts = {
        f"observation.state.{n}": dataset.features["observation.state"]
        for n in ("joint_position", "cartesian_position", "gripper_position")
    }
    assert find_state(replace(dataset, features=parts), None) == (
        "observation.state.cartesian_position",
        "observation.state.gripper_position",
    )


def test_wrong_keys_list_the_right_ones(root: Path) -> None:
    dataset = open_dataset(root)
    with pytest.raises(ValueError, match=r"'side'.*images\.front.*images\.wrist"):
        align(dataset, DataSpec(camera="side"))
    with pytest.raises(ValueError, match=r"'joints'.*observation\.state"):
        align(dataset, DataSpec(state="joints"))
    with pytest.raises(ValueError, match="state_delta"):
        DataSpec(action="delta")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (["p", "q", "r"], ("p", "q", "r")),
        ({"motors": ["p", "q", "r"]}, ("p", "q", "r")),
        ({"p": 1, "q": 0, "r": 2}, ("q", "p", "r")),
        (None, ("state.0", "state.1", "state.2")),
        (["too", "few"], ("state.0", "state.1", "state.2")),
    ],
)
def test_names_of_dimensions(damaged: Path, names: object, want: tuple[str, ...]) -> None:
    toy.edit_info(damaged, lambda info: info["features"]["observation.state"].update(names=names))
    assert align(open_dataset(damaged), DataSpec(dt_s=0.1)).proprio_names == want


# Physical time.


def test_sampling_follows_the_model_clock(root: Path) -> None:
    dataset = open_dataset(root)  # at 10 fps
    data = align(dataset, DataSpec(dt_s=0.2))
    assert data.lengths == (4, 6, 5) and data.dt_s == pytest.approx(0.2)
    assert data.indices[1].tolist() == [0, 2, 4, 6, 8, 10]
    want = np.stack([toy.state(1, frame) for frame in range(0, 11, 2)])
    np.testing.assert_allclose(data.proprio[1], want, atol=1e-6)
    np.testing.assert_allclose(data.actions[1], np.diff(want, axis=0), atol=1e-6)
    np.testing.assert_allclose(data.timestamps_s[1], np.arange(6) * 0.2, atol=1e-6)
    assert data.action_names == data.proprio_names == ("x", "y", "z")
    rough = align(dataset, DataSpec(dt_s=0.303))
    assert rough.dt_s == pytest.approx(0.3) and rough.indices[0].tolist() == [0, 3, 6]


def test_steps_between_frames_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"got 0\.25.*0\.1, 0\.2, 0\.3"):
        align(open_dataset(root), DataSpec(dt_s=0.25))


def test_recorded_actions_need_the_period_of_the_dataset(root: Path) -> None:
    dataset = open_dataset(root)
    with pytest.raises(ValueError, match="want 0.1"):
        align(dataset, DataSpec(action="recorded", dt_s=0.2))
    data = align(dataset, DataSpec(action="recorded", dt_s=0.1))
    assert data.action_names == ("a", "b")
    np.testing.assert_array_equal(data.actions[0][:, 0], np.arange(toy.LENGTHS[0] - 1))


def write_commands(
    root: Path, as_goal: bool = False, names: tuple[str, ...] = ("x", "jaw")
) -> Path:
    """A tool that follows its commands, and a jaw that is blocked at 2 cm by what it grasps."""
    rng = np.random.default_rng(0)
    with DatasetWriter(
        root, fps=5, robot_type="toy", cameras={"front": toy.SIZE}, state_names=("x", "jaw"),
        action_names=names,
    ) as writer:  # fmt: skip
        for _ in range(3):
            goal = np.array([0.2, 0.05])
            for frame in range(12):
                command = np.array([rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.02)])
                state = np.maximum(goal, [-1.0, 0.02])
                writer.add({"front": toy.picture(frame)}, state, goal if as_goal else command)
                goal = goal + command
            writer.end_episode("grasp")
    return root


def test_a_command_squeezes_where_the_measured_motion_has_ended(tmp_path: Path) -> None:
    dataset = open_dataset(write_commands(tmp_path / "d"))
    command = align(dataset, DataSpec(action="command_delta", dt_s=0.2))
    change = align(dataset, DataSpec(action="state_delta", dt_s=0.2))
    assert command.action_names == change.action_names == ("x", "jaw")
    moves, commands = (np.concatenate(data.actions) for data in (change, command))
    np.testing.assert_allclose(commands[:, 0], moves[:, 0], atol=1e-6)
    blocked = np.abs(moves[:, 1]) < 1e-6
    assert blocked.sum() > 5 and commands[blocked, 1].min() < -0.02
    every_second = align(dataset, DataSpec(action="command_delta", dt_s=0.4))
    for both, one in zip(every_second.actions, command.actions, strict=True):
        pairs = one[: len(one) // 2 * 2].reshape(-1, 2, 2).sum(1)
        np.testing.assert_allclose(both, pairs[: len(both)], atol=1e-6)


def test_goals_are_no_changes_of_the_command(root: Path, tmp_path: Path) -> None:
    for made in (root, write_commands(tmp_path / "names", names=("a", "b"))):
        with pytest.raises(UserError, match="needs actions of"):
            align(open_dataset(made), DataSpec(action="command_delta", dt_s=0.2))
    goals = open_dataset(write_commands(tmp_path / "goals", as_goal=True))
    with pytest.raises(UserError, match="correlation"):
        align(goals, DataSpec(action="command_delta", dt_s=0.2))


def write_poses(root: Path, poses: list[np.ndarray]) -> Path:
    """Episodes of poses `[T, 7]`: x y z, roll pitch yaw, gripper."""
    with DatasetWriter(
        root, fps=5, robot_type="toy", cameras={"front": toy.SIZE}, state_names=POSE_NAMES,
        action_names=("a",),
    ) as writer:  # fmt: skip
        for path in poses:
            for frame, pose in enumerate(path):
                writer.add({"front": toy.picture(frame)}, pose, np.zeros(1))
            writer.end_episode("turn")
    return root


def turning(num: int, gripper: float = 1.0) -> np.ndarray:
    """A path whose yaw and roll run across pi, where angles are no numbers to subtract."""
    t = np.linspace(0, 1, num)[:, None]
    ones = np.ones((num, 1))
    angles = np.concatenate((3 + 0.6 * t, 0.3 * t, 2.9 + 0.8 * t), axis=1)
    angles = (angles + np.pi) % (2 * np.pi) - np.pi
    return np.concatenate((0.1 * t, 0.2 * t, 0.3 * ones, angles, gripper * t), axis=1)


def test_changes_of_poses_lead_along_the_recorded_path(tmp_path: Path) -> None:
    root = write_poses(tmp_path / "poses", [turning(9), turning(12)])
    data = align(open_dataset(root), DataSpec(action="pose_delta", dt_s=0.2))
    assert data.action_names == POSE_NAMES
    for proprio, actions in zip(data.proprio, data.actions, strict=True):
        assert np.abs(actions).max() < 0.3  # no jump where an angle wraps
        start, moves = torch.from_numpy(proprio[:1]), torch.from_numpy(actions[None])
        arrived = integrate_poses(start, moves)[0].double()
        path = torch.from_numpy(proprio[1:]).double()
        torch.testing.assert_close(
            euler_to_matrix(arrived[:, 3:6]), euler_to_matrix(path[:, 3:6]), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            arrived[:, [0, 1, 2, 6]], path[:, [0, 1, 2, 6]], atol=1e-5, rtol=0
        )
    plain = align(open_dataset(root), DataSpec(dt_s=0.2))
    assert max(np.abs(actions).max() for actions in plain.actions) < 0.3  # nor among plain steps


@pytest.mark.parametrize(
    ("names", "turn"),
    [
        (("x", "roll", "gripper"), 2 * np.pi),
        (("shoulder_lift.pos", "wrist_roll.pos", "gripper.pos"), 360.0),
        (("joint_1", "joint_2", "jaw"), 360.0),
        (("state_0", "state_1", "state_2"), None),
        (("x", "wrist_roll.pos", "gripper_roll"), 360.0),
    ],
)
def test_angles_are_subtracted_as_angles(tmp_path: Path, names: tuple[str, ...], turn) -> None:
    """The second number walks around half a turn; the last is a jaw that snaps shut."""
    size = turn or 360.0
    with DatasetWriter(
        tmp_path / "d", fps=5, robot_type="toy", cameras={"front": toy.SIZE}, state_names=names,
        action_names=names,
    ) as writer:  # fmt: skip
        for frame in range(24):
            angle = size * (0.45 + 0.1 * np.sin(0.5 * frame))
            wrapped = (angle + size / 2) % size - size / 2
            now = np.array([0.1 * np.sin(frame), wrapped, 0.9 * size * (frame % 2)])
            writer.add({"front": toy.picture(frame % 12)}, now, now)
        writer.end_episode("turn")
    data = align(open_dataset(tmp_path / "d"), DataSpec())
    steps = data.actions[0]
    if turn is None:
        assert np.abs(steps[:, 1]).max() > 0.9 * size and not data.warnings
        return
    expected = size * 0.1 * np.diff(np.sin(0.5 * np.arange(24)))
    np.testing.assert_allclose(steps[:, 1], expected, atol=1e-4 * size)
    assert np.abs(steps[:, 2]).max() == pytest.approx(0.9 * size)
    assert any(names[1] in warning for warning in data.warnings)
    assert np.abs(data.proprio[0][:, 1]).max() <= size / 2 + 1e-3  # as it was recorded


def test_states_that_are_no_poses_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'pose_delta' needs a state of x, y, z, roll.*got x, y"):
        align(open_dataset(root), DataSpec(action="pose_delta"))
    grip = write_poses(tmp_path / "poses", [turning(9, gripper=20.0)])
    with pytest.raises(ValueError, match=r"gripper .* from 0 to 20, want 0 \(open\) to 1"):
        align(open_dataset(grip), DataSpec(action="pose_delta", dt_s=0.2))


# Damage.


def set_nan(values: np.ndarray) -> None:
    values[STARTS[1] + 3, 1] = np.nan


def swap(values: np.ndarray) -> None:
    values[[STARTS[1] + 3, STARTS[1] + 4]] = values[[STARTS[1] + 4, STARTS[1] + 3]]


def repeat(values: np.ndarray) -> None:
    values[STARTS[1] + 3] = values[STARTS[1] + 2]


def gap(values: np.ndarray) -> None:
    values[STARTS[1] + 5 : STARTS[2]] += 0.1


def slow_clock(values: np.ndarray) -> None:
    values[STARTS[1] : STARTS[2]] *= 1.25


@pytest.mark.parametrize(
    ("key", "edit", "reason"),
    [
        ("observation.state", set_nan, "observation.state of row 3 is not finite"),
        ("timestamp", swap, "runs backwards at row 4"),
        ("timestamp", repeat, "repeats at row 3"),
        ("timestamp", gap, "a gap of 0.200 s before row 5"),
        ("timestamp", slow_clock, "info.json's fps says 0.1"),
    ],
)
def test_damaged_rows_are_refused_or_dropped(damaged: Path, key: str, edit, reason: str) -> None:
    toy.edit_rows(damaged, key, edit)
    dataset = open_dataset(damaged)
    with pytest.raises(ValueError, match="1 of 3 episodes are damaged.*episode 1 .*") as error:
        align(dataset, DataSpec())
    assert reason in str(error.value) and "\n" not in str(error.value)
    data = align(dataset, DataSpec(), drop_corrupt=True)
    assert data.episodes == (0, 2) and [f.episode for f in data.dropped] == [1]
    assert reason in data.dropped[0].reason


def test_missing_column_is_damage(damaged: Path) -> None:
    path = damaged / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["observation.state"]), path)
    with pytest.raises(ValueError, match="3 of 3.*no column observation.state; it has.*action"):
        align(open_dataset(damaged), DataSpec())


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("timestamp", ["a"] * 28),
        ("timestamp", [[0.0, 0.1]] * 28),
        ("episode_index", [[0]] * 28),
        ("task_index", ["b"] * 28),
        ("task_index", [None] * 28),
        ("observation.state", ["c"] * 28),
        ("observation.state", [[0.0, 1.0, None]] * 28),
        ("observation.state", [[[0.0], [1.0, 2.0], [3.0]]] * 28),
        ("observation.state", pa.array([None, [0.0] * 3] * 14, pa.list_(pa.float32(), 3))),
        ("observation.state", [{"x": 1.0}] * 28),
    ],
)
def test_columns_of_other_kinds_are_damage(damaged: Path, key: str, values: object) -> None:
    path = damaged / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    column = pa.array(values) if isinstance(values, list) else values
    pq.write_table(table.set_column(table.column_names.index(key), key, column), path)
    with pytest.raises(UserError, match="3 of 3"):
        align(open_dataset(damaged), DataSpec())


def test_two_columns_of_a_name_are_damage(damaged: Path) -> None:
    path = damaged / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("timestamp", table["timestamp"]), path)
    with pytest.raises(UserError, match="3 of 3"):
        align(open_dataset(damaged), DataSpec())


def test_rows_that_an_episode_does_not_have_are_the_programs_mistake(root: Path) -> None:
    dataset = open_dataset(root)
    with pytest.raises(ValueError, match="indices") as told:
        dataset.frames(dataset.episode(0), dataset.camera_keys[0], [99])
    assert not isinstance(told.value, UserError)


def test_constant_dimension_is_a_warning(damaged: Path) -> None:
    def freeze(values: np.ndarray) -> None:
        values[:, 2] = 4.0

    toy.edit_rows(damaged, "observation.state", freeze)
    data = align(open_dataset(damaged), DataSpec())
    assert data.warnings == ("state z never varies", "action z never varies")


def test_broken_video_names_file_and_episode(damaged: Path, tmp_path: Path) -> None:
    path = next(damaged.glob("videos/*front/*/*.mp4"))
    path.write_bytes(b"no video at all" * 100)
    data = align(open_dataset(damaged), DataSpec())
    with pytest.raises(ValueError, match=r"file-000\.mp4: episode 0: .*does not decode"):
        toy.encode(data, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))
    path.unlink()
    with pytest.raises(ValueError, match=r"file-000\.mp4: episode 0: "):
        toy.encode(data, tmp_path / "cache")


def test_video_with_too_few_frames_is_found(damaged: Path, tmp_path: Path) -> None:
    """The data goes on after the pictures end."""
    short = toy.write(tmp_path / "short", lengths=(8, 11, 6))
    for path in damaged.glob("videos/*/*/*.mp4"):
        shutil.copy(short / path.relative_to(damaged), path)
    dataset = open_dataset(damaged)
    episode = dataset.episode(2)
    assert len(dataset.frames(episode, dataset.camera_keys[0], range(6))) == 6
    with pytest.raises(ValueError, match=r"mp4: episode 2: .*fewer frames"):
        dataset.frames(episode, dataset.camera_keys[0], range(9))
