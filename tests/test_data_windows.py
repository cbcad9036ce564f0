"""Tokens on disk and windows in batches: of the right frames, in an order that can be resumed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import data_helpers as toy
import numpy as np
import pytest
import torch
from torch import Tensor

from robot_wm.data import (
    AlignedData,
    Dataset,
    DataSpec,
    TokenStore,
    WindowSampler,
    align,
    encode_dataset,
    fit_stats,
    load_frames,
    open_dataset,
    split_episodes,
)
from robot_wm.types import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="module")
def data(root: Path) -> AlignedData:
    return align(open_dataset(root), DataSpec(dt_s=0.2))


def test_tokens_are_of_their_frames(data: AlignedData, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    store = encode_dataset(
        data,
        toy.mean_token,
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
    first = np.array(toy.encode(data, tmp_path).array)
    small = np.array(load_frames(data, (8, 8), cache_dir=tmp_path))

    def fail(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(Dataset, "frames", fail)
    np.testing.assert_array_equal(toy.encode(data, tmp_path).array, first)
    np.testing.assert_array_equal(load_frames(data, (8, 8), cache_dir=tmp_path), small)
    with pytest.raises(AssertionError, match="decoded again"):  # another encoder, another entry
        toy.encode(data, tmp_path, fingerprint="other")


def test_a_full_disk_is_told_and_leaves_nothing(
    data: AlignedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        load_frames(data, (8, 8), cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "unnoted"])
def test_damaged_cache_is_made_again(data: AlignedData, tmp_path: Path, damage: str) -> None:
    first = np.array(toy.encode(data, tmp_path).array)
    path = next(tmp_path.glob("*.npy"))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-8]
    elif damage == "flipped":
        content[-9] ^= 1
    else:
        path.with_suffix(".json").unlink()
    path.write_bytes(bytes(content))
    np.testing.assert_array_equal(toy.encode(data, tmp_path).array, first)
    assert not list(tmp_path.glob("*.tmp"))


def test_interrupted_encoding_leaves_nothing(data: AlignedData, tmp_path: Path) -> None:
    calls = 0

    def dies(frames: np.ndarray) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return toy.mean_token(frames)

    with pytest.raises(KeyboardInterrupt):
        encode_dataset(data, dies, encoder_fingerprint="x", cache_dir=tmp_path, batch_size=5)
    assert not list(tmp_path.iterdir())


def test_tokens_that_are_not_finite_are_refused(data: AlignedData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite"):
        encode_dataset(
            data,
            lambda frames: toy.mean_token(frames) * torch.nan,
            encoder_fingerprint="nan",
            cache_dir=tmp_path,
        )


def test_frames_for_pretraining_are_resized(data: AlignedData, tmp_path: Path) -> None:
    frames = load_frames(data, (16, 24), cache_dir=tmp_path)
    assert frames.shape == (15, 16, 24, 3) and frames.dtype == np.uint8
    want = [toy.brightness(int(i)) for indices in data.indices for i in indices]
    np.testing.assert_allclose(np.median(frames[:, 12:, 12:], (1, 2, 3)), want, atol=3)


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
    sampler = make_sampler(data, toy.encode(data, tmp_path))
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
    tokens = toy.encode(data, tmp_path)
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
        toy.encode(data, tmp_path),
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
            toy.encode(data, tmp_path),
            episodes=(0, 1, 2),
            num_frames=7,
            batch_size=4,
            seed=0,
        )


def test_parts_that_do_not_fit_are_the_programs_mistake(data: AlignedData, tmp_path: Path) -> None:
    tokens = [np.zeros((6, 2, 2), np.float32)]  # of one episode
    with pytest.raises(ValueError, match="got 1 episodes") as told:
        WindowSampler(data, tokens, episodes=(0,), num_frames=3, batch_size=4, seed=0)
    assert not isinstance(told.value, UserError)
    with pytest.raises(ValueError, match="encode") as told:
        encode_dataset(
            data, lambda _: torch.zeros(1, 2), encoder_fingerprint="x", cache_dir=tmp_path
        )
    assert not isinstance(told.value, UserError)
