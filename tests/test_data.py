"""robot_wm.data: what is recorded comes back, and what is damaged is refused by name."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import data_helpers as toy
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from robot_wm.data import (
    AlignedData,
    Dataset,
    DatasetWriter,
    DataSpec,
    TokenStore,
    WindowSampler,
    align,
    encode_dataset,
    find_camera,
    find_state,
    fit_stats,
    load_frames,
    open_dataset,
    split_episodes,
)
from robot_wm.preprocess import ImageSpec

TESTS = Path(__file__).parent
STARTS = np.cumsum((0, *toy.LENGTHS))  # first row of each episode


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture
def damaged(root: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(root, tmp_path / "damaged"))


def mean_token(frames: Tensor) -> Tensor:
    """An encoder of two tokens, [grey level, 1] and [0, red - blue]: frames [B, 1, 3, h, w]."""
    low = frames[..., frames.shape[-2] // 2 :, frames.shape[-1] // 2 :].mean((-1, -2))  # [B, 1, 3]
    zero = torch.zeros_like(low[..., 0])
    grey = torch.stack([low.mean(-1), zero + 1], -1)
    return torch.stack([grey, torch.stack([zero, low[..., 0] - low[..., 2]], -1)], 2)


RAW = ImageSpec(16, 16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def encode(data: AlignedData, cache_dir: Path, fingerprint: str = "mean") -> TokenStore:
    return encode_dataset(
        data, mean_token, RAW, encoder_fingerprint=fingerprint, cache_dir=cache_dir, batch_size=5
    )


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


def test_pictures_inside_parquet_are_read_too(damaged: Path) -> None:
    """As lerobot/pusht_image has them: encoded bytes in a struct."""
    from PIL import Image

    path = damaged / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    cells = []
    for frame in table["frame_index"].to_pylist():
        content = io.BytesIO()
        Image.fromarray(toy.picture(frame)).save(content, "PNG" if frame % 2 else "JPEG")
        cells.append({"bytes": content.getvalue(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(table.append_column("observation.image", pa.array(cells, kind)), path)
    feature = {"dtype": "image", "shape": [*toy.SIZE, 3], "names": ["height", "width", "channel"]}
    toy.edit_info(damaged, lambda info: info["features"].update({"observation.image": feature}))
    dataset = open_dataset(damaged)
    images = dataset.frames(dataset.episode(1), "observation.image", [0, 3, 4])
    assert [toy.frame_of(image) for image in images] == [0, 3, 4]
    assert images[1][8, 8].tolist() == [250, 10, 10]


def test_stock_lerobot_reads_and_resumes_what_we_write(tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    # Two numbers: lerobot 0.4.4 with numpy 2.4 cannot itself record a column of one.
    ours = toy.write(tmp_path / "ours", extra_names=("cube.x", "cube.y"))
    theirs = LeRobotDataset("toy/toy", root=ours, video_backend="pyav")
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
        vcodec="h264",
    )
    for recorder in (fresh, theirs):
        for number in range(4):
            recorder.add_frame(frame_for(number))
        recorder.save_episode(parallel_encoding=False)
        recorder.finalize()
    for name in ("data", "meta/episodes"):
        ours_schema = pq.read_schema(ours / name / "chunk-000/file-000.parquet")
        want_schema = pq.read_schema(tmp_path / "fresh" / name / "chunk-000/file-000.parquet")
        assert {f.name: f.type for f in ours_schema} == {f.name: f.type for f in want_schema}
    infos = [json.loads((r / "meta/info.json").read_text()) for r in (ours, tmp_path / "fresh")]
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
        shown = dataset.frames(dataset.episode(index), data.camera, range(6))
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


def test_unreachable_hub_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match="nobody/nothing.*cannot be reached.*directory"):
        open_dataset("nobody/nothing")


def test_old_format_names_the_converter(damaged: Path) -> None:
    toy.edit_info(damaged, lambda info: info.update(codebase_version="v2.1"))
    with pytest.raises(ValueError, match=r"v2\.1.*convert_dataset_v21_to_v30"):
        open_dataset(damaged)


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
    assert find_camera(dataset, None) == "observation.images.front"
    assert find_camera(dataset, "wrist") == "observation.images.wrist"
    assert find_camera(dataset, "observation.images.wrist") == "observation.images.wrist"
    droid = ("wrist_left", "exterior_1_left", "exterior_2_left")
    view = dataset.features["observation.images.front"]
    features = {f"observation.images.{name}": view for name in droid}
    assert find_camera(replace(dataset, features=features), None).endswith("exterior_1_left")
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
        encode(data, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))
    path.unlink()
    with pytest.raises(ValueError, match=r"file-000\.mp4: episode 0: "):
        encode(data, tmp_path / "cache")


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


# Tokens.


@pytest.fixture(scope="module")
def data(root: Path) -> AlignedData:
    return align(open_dataset(root), DataSpec(dt_s=0.2))


def test_tokens_are_of_their_frames(data: AlignedData, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    store = encode_dataset(
        data,
        mean_token,
        RAW,
        encoder_fingerprint="mean",
        cache_dir=tmp_path,
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (len(store), store.num_tokens, store.dim) == (3, 2, 2)
    assert seen[-1] == (15, 15)
    for position, indices in enumerate(data.indices):
        tokens = store[position]  # [T, 2, 2]
        grey = [toy.brightness(int(i)) / 255 for i in indices]
        np.testing.assert_allclose(tokens[:, 0, 0], grey, atol=0.02)
        np.testing.assert_array_equal(tokens[:, 0, 1], 1)


def test_second_call_touches_no_video(
    data: AlignedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = np.array(encode(data, tmp_path).array)
    small = np.array(load_frames(data, (8, 8), cache_dir=tmp_path))

    def fail(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(Dataset, "frames", fail)
    np.testing.assert_array_equal(encode(data, tmp_path).array, first)
    np.testing.assert_array_equal(load_frames(data, (8, 8), cache_dir=tmp_path), small)
    with pytest.raises(AssertionError, match="decoded again"):  # another encoder, another entry
        encode(data, tmp_path, fingerprint="other")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "unnoted"])
def test_damaged_cache_is_made_again(data: AlignedData, tmp_path: Path, damage: str) -> None:
    first = np.array(encode(data, tmp_path).array)
    path = next(tmp_path.glob("*.npy"))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-8]
    elif damage == "flipped":
        content[-9] ^= 1
    else:
        path.with_suffix(".json").unlink()
    path.write_bytes(bytes(content))
    np.testing.assert_array_equal(encode(data, tmp_path).array, first)
    assert not list(tmp_path.glob("*.tmp"))


def test_interrupted_encoding_leaves_nothing(data: AlignedData, tmp_path: Path) -> None:
    calls = 0

    def dies(frames: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return mean_token(frames)

    with pytest.raises(KeyboardInterrupt):
        encode_dataset(data, dies, RAW, encoder_fingerprint="x", cache_dir=tmp_path, batch_size=5)
    assert not list(tmp_path.iterdir())


def test_tokens_that_are_not_finite_are_refused(data: AlignedData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite"):
        encode_dataset(
            data,
            lambda frames: mean_token(frames) * torch.nan,
            RAW,
            encoder_fingerprint="nan",
            cache_dir=tmp_path,
        )


def test_frames_for_pretraining_are_resized(data: AlignedData, tmp_path: Path) -> None:
    frames = load_frames(data, (16, 24), cache_dir=tmp_path)
    assert frames.shape == (15, 16, 24, 3) and frames.dtype == np.uint8
    want = [toy.brightness(int(i)) for indices in data.indices for i in indices]
    np.testing.assert_allclose(np.median(frames[:, 12:, 12:], (1, 2, 3)), want, atol=3)


# Windows.


def test_split_is_by_episode_and_by_seed() -> None:
    train, held = split_episodes(10, 0.2, seed=1)
    assert sorted((*train, *held)) == list(range(10)) and len(held) == 2
    assert split_episodes(10, 0.2, seed=1) == (train, held)
    assert any(split_episodes(10, 0.2, seed=s) != (train, held) for s in range(2, 5))
    assert split_episodes(3, 0.0, seed=0) == ((0, 1, 2), ())
    with pytest.raises(ValueError, match="train on"):
        split_episodes(1, 0.5, seed=0)


def test_statistics_are_of_the_training_episodes(data: AlignedData) -> None:
    stats = fit_stats(data, [0, 2])
    actions = np.concatenate([data.actions[0], data.actions[2]])
    normal = stats.action_stats.forward(torch.from_numpy(actions))
    varying = actions.std(0) > 1e-4
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std(0, correction=0)[varying], 1, atol=1e-4)
    np.testing.assert_allclose(stats.action_stats.inverse(normal), actions, atol=1e-6)
    np.testing.assert_array_equal(stats.action_min, actions.min(0))
    assert (stats.action_q01 <= stats.action_q99).all()
    assert stats.proprio_stats.mean[0] == pytest.approx(
        np.concatenate([data.proprio[0], data.proprio[2]])[:, 0].mean(), abs=1e-5
    )


def make_sampler(data: AlignedData, tokens: TokenStore, seed: int = 0) -> WindowSampler:
    return WindowSampler(data, tokens, episodes=(0, 1, 2), num_frames=3, batch_size=4, seed=seed)


def test_windows_stay_within_an_episode_and_line_up(data: AlignedData, tmp_path: Path) -> None:
    sampler = make_sampler(data, encode(data, tmp_path))
    assert sampler.num_windows == sum(n - 2 for n in data.lengths)
    assert sampler.steps_per_epoch == sampler.num_windows // 4
    batch = sampler.batch(0)
    assert batch.tokens.shape == (4, 3, 2, 2) and batch.tokens.dtype == torch.float32
    assert batch.proprio.shape == (4, 3, 3) and batch.actions.shape == (4, 2, 3)
    torch.testing.assert_close(batch.actions, batch.proprio.diff(dim=1))
    for row in range(4):
        episode, start = int(batch.episodes[row]), int(batch.starts[row])
        frames = [2 * (start + t) for t in range(3)]
        want = np.stack([toy.state(episode, frame) for frame in frames])
        np.testing.assert_allclose(batch.proprio[row], want, atol=1e-6)
        grey = [toy.brightness(frame) / 255 for frame in frames]
        np.testing.assert_allclose(batch.tokens[row, :, 0, 0], grey, atol=0.02)


def test_batches_depend_on_seed_and_step_alone(data: AlignedData, tmp_path: Path) -> None:
    tokens = encode(data, tmp_path)
    first, again, other = (make_sampler(data, tokens, seed=s) for s in (7, 7, 8))

    def ids(sampler: WindowSampler, steps: range) -> list[tuple[int, int]]:
        batches = [sampler.batch(step) for step in steps]
        return [
            (int(e), int(s)) for b in batches for e, s in zip(b.episodes, b.starts, strict=True)
        ]

    forward = ids(first, range(4))
    assert ids(again, range(3, 4)) == forward[12:]  # a resumed run, straight at step 3
    epoch = first.steps_per_epoch
    assert len(set(ids(first, range(epoch)))) == 4 * epoch  # no window twice in an epoch
    assert ids(first, range(epoch)) != ids(first, range(epoch, 2 * epoch))
    assert forward != ids(other, range(4))


def test_ordered_sampler_covers_every_window_once(data: AlignedData, tmp_path: Path) -> None:
    sampler = WindowSampler(
        data,
        encode(data, tmp_path),
        episodes=(1, 2),
        num_frames=2,
        batch_size=4,
        seed=0,
        shuffle=False,
    )
    sizes = [len(sampler.batch(step).starts) for step in range(sampler.steps_per_epoch)]
    assert sum(sizes) == sampler.num_windows == 9 and sizes == [4, 4, 1]


def test_windows_longer_than_every_episode_are_refused(data: AlignedData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 7, want at most 6"):
        WindowSampler(
            data,
            encode(data, tmp_path),
            episodes=(0, 1, 2),
            num_frames=7,
            batch_size=4,
            seed=0,
        )
