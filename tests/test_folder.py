"""A folder of videos: sampled in time, decoded once, damage named and counted."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from robot_wm.data import load_video_folder


def write_video(path: Path, *, fps: int, seconds: float, size: tuple[int, int] = (48, 64)) -> None:
    """Grey pictures whose level is 40 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for i in range(round(fps * seconds)):
            level = min(235, round(20 + 40 * i / fps))
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), level, np.uint8), "rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "videos"
    write_video(root / "slow.mp4", fps=10, seconds=2)
    write_video(root / "deep" / "er" / "fast.MKV", fps=30, seconds=1, size=(64, 48))
    (root / "notes.txt").write_text("no video")
    return root


def load(folder, tmp_path, **how):
    return load_video_folder(folder, (16, 16), cache_dir=tmp_path / "cache", **{"dt_s": 0.2, **how})


def test_videos_of_any_rate_and_size_come_in_equal_steps(folder, tmp_path):
    found = load(folder, tmp_path)
    assert found.lengths == (5, 10) and found.corrupt == ()  # deep/er/fast.MKV sorts first
    assert found.frames.shape == (15, 16, 16, 3) and found.frames.dtype == np.uint8
    levels = found.frames.mean((1, 2, 3))
    np.testing.assert_allclose(levels[:5], 20 + 8 * np.arange(5), atol=4)
    np.testing.assert_allclose(levels[5:], 20 + 8 * np.arange(10), atol=4)


def test_it_is_decoded_once(folder, tmp_path, monkeypatch):
    first = load(folder, tmp_path)
    monkeypatch.setattr("robot_wm.data.folder.sample_video", None)
    second = load(folder, tmp_path)
    assert second.key == first.key
    np.testing.assert_array_equal(second.frames, first.frames)
    with pytest.raises(TypeError):
        load(folder, tmp_path, dt_s=0.1)  # other frames are decoded anew


def test_a_half_written_cache_is_made_again(folder, tmp_path):
    first = load(folder, tmp_path)
    (raw,) = (tmp_path / "cache").glob("*.raw")
    expected = np.array(first.frames)
    raw.write_bytes(raw.read_bytes()[:100])
    np.testing.assert_array_equal(load(folder, tmp_path).frames, expected)


def test_damaged_videos_are_all_named_and_never_replaced(folder, tmp_path):
    whole = (folder / "slow.mp4").read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="3 of 5 do not decode") as refusal:
        load(folder, tmp_path)
    for name in ("cut.mp4", "empty.mp4", "noise.mp4"):
        assert f"{name}: the video does not decode" in str(refusal.value)
    assert "data.drop_corrupt=true" in str(refusal.value)
    found = load(folder, tmp_path, drop_corrupt=True)
    assert len(found.corrupt) == 3 and found.lengths == (5, 10) and len(found.frames) == 15


def test_what_ends_early_or_shows_too_little_is_damage(tmp_path):
    """A Matroska file cut in half decodes without complaint, to its middle."""
    write_video(tmp_path / "whole.mkv", fps=10, seconds=20)
    whole = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    write_video(tmp_path / "rare.mp4", fps=1, seconds=5)
    with pytest.raises(ValueError, match="2 of 3 do not decode") as refusal:
        load(tmp_path, tmp_path)
    assert "cut.mkv: the video ends at" in str(refusal.value)
    assert "rare.mp4: its frames at 0.000 and 1.000 s are too far apart" in str(refusal.value)
    assert load(tmp_path, tmp_path, dt_s=1.0, drop_corrupt=True).lengths == (5, 20)


def test_a_folder_of_nothing_but_damage_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match="1 of 1 do not decode"):
        load(tmp_path, tmp_path, drop_corrupt=True)


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"videos: none in .* looked for \.mp4"):
        load(tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        load(tmp_path / "none", tmp_path)
    with pytest.raises(ValueError, match="dt_s: got 0"):
        load(tmp_path, tmp_path, dt_s=0.0)
