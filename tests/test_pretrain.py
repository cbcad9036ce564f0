"""Pretraining: each objective learns, collapse is seen, a run goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import SPEC, PointEnv
from safetensors import SafetensorError
from scipy import integrate

from robot_wm.data import Clips
from robot_wm.encoders import MiniConfig, MiniEncoder
from robot_wm.preprocess import ImageSpec
from robot_wm.pretrain import (
    OBJECTIVES,
    CollapseError,
    PretrainConfig,
    Pretraining,
    sample_masks,
    sigreg,
    spread,
    vicreg,
)
from robot_wm.pretrain.actions import ActionObjective
from robot_wm.types import UserError

TOKENS = MiniConfig(
    image_size=32, patch_size=8, width=32, depth=1, num_heads=2, num_tokens=2, dim=8
)
PATCHES = replace(TOKENS, num_tokens=0)


def point_clips(num_episodes=12, *, with_actions=True):
    env, rng = PointEnv(), np.random.default_rng(0)
    frames, actions = [], []
    for seed in range(num_episodes):
        frames.append(env.reset(seed).images["front"])
        moves = []
        for _ in range(7):
            moves.append(env.apply(rng.uniform(SPEC.low, SPEC.high)))
            frames.append(env.observe().images["front"])
        actions.append(np.array(moves))
    return Clips(
        np.stack(frames),
        [8] * num_episodes,
        actions if with_actions else None,
        image=ImageSpec(32, 32),
        num_frames=4,
        batch_size=16,
        seed=0,
    )


def shape_for(objective):
    return PATCHES if objective in ("vjepa", "ijepa") else TOKENS


def pretraining(config, *, shape=None, clips=None):
    encoder = MiniEncoder(
        shape or shape_for(config.objective), generator=torch.Generator().manual_seed(0)
    )
    return Pretraining(encoder, clips or point_clips(), config)


def quick(objective, **changes):
    how = {"num_steps": 120, "num_directions": 64, "hidden": 64, "narrow_width": 16}
    how |= {"collapse_std": 0.0, "collapse_rank": 0.0}
    return PretrainConfig(**{"objective": objective, **how, **changes})


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_its_task_and_leaves_a_frozen_encoder(objective):
    run = pretraining(quick(objective))
    rows = list(run.steps())
    learnt = [name for name in ("inverse", "masked") if name in rows[0]]
    for name in learnt:
        first, last = (np.mean([row[name] for row in part]) for part in (rows[:5], rows[-5:]))
        assert last < 0.85 * first, name
    assert ("masked" in learnt) == ("jepa" in objective.replace("acjepa", ""))
    looked = [row for row in rows if "std" in row]
    assert len(looked) == 6 and looked[-1]["effective_rank"] > 1.5
    encoder = run.encoder
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    tokens = encoder(torch.zeros(1, 2, 3, 32, 32))
    assert tokens.shape == (1, 2, encoder.grid[0] * encoder.grid[1], encoder.dim)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_that_stopped_goes_on_as_if_it_had_not(objective, tmp_path):
    config = quick(objective, num_steps=12, log_every=4)
    whole = pretraining(config)
    expected = list(whole.steps())
    first = pretraining(config)
    for _ in zip(range(7), first.steps(), strict=False):
        pass
    first.loop.save(tmp_path / "run", about=first.about("the same"))
    second = pretraining(config)
    second.loop.resume(tmp_path / "run", about=second.about("the same"))
    rows = list(second.steps())
    assert [row["step"] for row in rows] == [8, 9, 10, 11, 12]
    assert rows[-1]["loss"] == expected[-1]["loss"]
    for name, value in whole.encoder.state_dict().items():
        assert torch.equal(value, second.encoder.state_dict()[name]), name


def test_a_run_goes_on_with_its_own_file_alone(tmp_path):
    config = quick("acjepa", num_steps=3)
    run = pretraining(config)
    next(run.steps())
    file = tmp_path / "run"
    run.loop.save(file, about=run.about("this"))

    def go_on(path, config, data):
        other = pretraining(config)
        other.loop.resume(path, about=other.about(data))

    with pytest.raises(ValueError, match="data or encoder"):
        go_on(file, config, "that")
    with pytest.raises(ValueError, match="its learning_rate"):
        go_on(file, replace(config, learning_rate=1.0), "this")
    for damage in (b"", b"x" * 100, file.read_bytes()[:-10]):
        file.write_bytes(damage)
        with pytest.raises(ValueError, match="cannot go on from"):
            go_on(file, config, "this")
    with pytest.raises(ValueError, match="cannot go on from"):
        go_on(tmp_path / "none", config, "this")


@pytest.mark.parametrize("objective", ["vjepa", "ijepa"])
def test_without_a_teacher_or_a_variance_term_it_collapses_and_the_run_stops(objective):
    config = PretrainConfig(
        objective=objective,
        num_steps=2000,
        ema=0.0,
        variance_weight=0.0,
        covariance_weight=0.0,
        narrow_width=16,
    )
    rows = []
    with pytest.raises(CollapseError, match=r"collapsed: .* vary by 0\.\d+ \(floor 0\.05\)"):
        for row in pretraining(config).steps():
            rows.append(row)
    assert rows[-1]["std"] < 0.05 or rows[-1]["effective_rank"] < 1.5  # what stopped it is seen


def test_embeddings_without_a_regulariser_collapse_and_the_run_stops():
    config = quick(
        "acjepa", num_steps=2000, anti_collapse_weight=0.0, inverse_weight=0.0, collapse_rank=1.5,
        collapse_std=0.05,
    )  # fmt: skip
    run = pretraining(config)
    # The batch norm of the head is a guard of its own: without it nothing holds the scale.
    run.encoder.head_norm = torch.nn.Identity()
    with pytest.raises(CollapseError, match="collapsed"):
        list(run.steps())


def test_the_time_limit_ends_a_run_with_its_schedule():
    run = pretraining(quick("ijepa", num_steps=100_000, time_limit_s=1.0))
    rows = list(run.steps())
    assert 1 < len(rows) < 10_000 and "std" in rows[-1]
    assert not run.encoder.training


def test_masked_objectives_need_no_actions_and_the_others_say_so():
    clips = point_clips(with_actions=False)
    assert clips.action_dim is None
    next(pretraining(quick("vjepa"), clips=clips).steps())
    with pytest.raises(ValueError, match="the data has no actions"):
        pretraining(quick("acjepa"), clips=clips)
    with pytest.raises(ValueError, match="num_tokens is 0"):
        pretraining(quick("acjepa"), shape=PATCHES)
    with pytest.raises(ValueError, match="num_tokens is 2, want 0: .* not learnt"):
        pretraining(quick("vjepa"), shape=TOKENS)
    with pytest.raises(ValueError, match="one patch a picture"):
        pretraining(quick("ijepa"), shape=replace(PATCHES, image_size=8))


def test_a_batch_too_small_for_a_rank_is_no_collapse():
    clips = point_clips()
    clips._batch_size = 4
    run = pretraining(quick("acjepa", collapse_rank=100.0), clips=clips)
    assert len(list(run.steps())) == 120


@pytest.mark.parametrize(
    ("share", "side", "hidden"), [(0.75, 8, 48), (0.5, 6, 18), (0.99, 3, 8), (0.01, 3, 1)]
)
def test_masks_hide_an_exact_share_in_large_blocks(share, side, hidden):
    masks = sample_masks(side, 50, share=share, num_blocks=4, rng=np.random.default_rng(0))
    assert masks.shape == (50, side * side) and (masks.sum(1) == hidden).all()
    assert len(np.unique(masks, axis=0)) > (5 if side > 3 else 1)  # per sample
    if side == 8:
        neighbours = masks.reshape(50, 8, 8)
        alike = (neighbours[:, :, 1:] == neighbours[:, :, :-1]).mean()
        scattered = 0.75**2 + 0.25**2
        assert alike > scattered + 0.1


@pytest.mark.parametrize("stem", ["linear", "conv"])
def test_a_hidden_patch_is_never_seen(stem):
    """Nothing of the student's loss may depend on the pixels of a masked patch but the target."""
    config = quick("ijepa", num_masks=1, variance_weight=0.0, covariance_weight=0.0)
    run = pretraining(config, shape=replace(shape_for("ijepa"), stem=stem))
    assert run._masked is not None
    # Constant targets: what is left of the loss comes from the visible patches alone.
    run._masked.teacher.norm.weight.zero_()
    frames = torch.randn(2, 2, 3, 32, 32)
    hidden = sample_masks(4, 4, share=0.75, num_blocks=4, rng=np.random.default_rng(5))
    changed = frames.flatten(0, 1).clone()
    for image, mask in zip(changed, hidden, strict=True):
        for cell in np.flatnonzero(mask):
            row, column = divmod(int(cell), 4)
            image[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = torch.randn(3, 8, 8)
    losses = [
        run._masked(run.encoder, x, np.random.default_rng(5))[0]
        for x in (frames, changed.view_as(frames))
    ]
    assert torch.equal(*losses)
    unlike = run._masked(run.encoder, frames + 1.0, np.random.default_rng(5))[0]
    assert not torch.equal(losses[0], unlike)


def test_sigreg_prefers_a_gaussian():
    generator = torch.Generator().manual_seed(0)
    gaussian = torch.randn(512, 8, generator=generator)
    for other in (gaussian * 0.1, gaussian * 3, gaussian[:, :1].expand(-1, 8), gaussian + 2):
        a, b = (sigreg(x, num_directions=64, generator=generator) for x in (gaussian, other))
        assert a < b / 3


def test_sigreg_is_the_published_statistic():
    points = torch.randn(40, 1, generator=torch.Generator().manual_seed(3)) * 1.5 + 0.4
    x = points[:, 0].double().numpy()

    def at(t):
        difference = np.exp(1j * t * x).mean() - np.exp(-(t**2) / 2)
        return abs(difference) ** 2 * np.exp(-(t**2) / 2)

    expected = len(x) * integrate.quad(at, -3, 3)[0]
    found = sigreg(points, num_directions=1, generator=torch.Generator())
    assert float(found) == pytest.approx(expected, rel=0.01)


def test_the_metric_makes_distances_motions_and_loses_nothing():
    encoder = MiniEncoder(TOKENS)  # 16 numbers a frame
    objective = ActionObjective(encoder, 3, quick("acjepa", motion_share=0.8))
    metric = objective.metric()
    read_out = objective.inverse.weight.T.detach().double()
    z = torch.randn(20_000, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, basis = z @ metric, torch.linalg.svd(read_out, full_matrices=False)[0]
    along = tokens @ basis  # [n, 3]
    assert along.square().sum() / tokens.square().sum() == pytest.approx(0.8, abs=0.01)
    assert tokens.square().mean() == pytest.approx(1, abs=0.02)
    ratio = along.norm(dim=1) / (z @ read_out).norm(dim=1)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    assert torch.linalg.matrix_rank(metric) == 16
    few = ActionObjective(MiniEncoder(replace(TOKENS, num_tokens=1, dim=2)), 3, quick("acjepa"))
    assert torch.equal(few.metric(), torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("gain", [0.0, 0.02])
def test_a_motion_that_is_hardly_read_takes_no_direction_away(gain):
    objective = ActionObjective(MiniEncoder(TOKENS), 3, quick("acjepa"))
    with torch.no_grad():
        objective.inverse.weight[1] *= gain
    stretch = torch.linalg.svdvals(objective.metric())
    assert stretch[-1] == pytest.approx(float(stretch[3]))  # 14 of 16 as they were
    with torch.no_grad():
        objective.inverse.weight.zero_()
    assert torch.equal(objective.metric(), torch.eye(16, dtype=torch.float64))


def test_a_trained_encoder_has_another_fingerprint():
    run = pretraining(quick("acjepa", num_steps=2))
    before = run.encoder.eval().fingerprint
    list(run.steps())
    assert run.encoder.fingerprint != before


def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr("robot_wm.optimization.save_file", full)
    with pytest.raises(OSError, match=r"cannot write .*run: .*No space left"):
        pretraining(quick("ijepa")).loop.save(tmp_path / "run", about={})
    assert not list(tmp_path.iterdir())


def test_tokens_are_stretched_at_the_end_and_not_in_training():
    plain, stretched = (
        pretraining(quick("acjepa", num_steps=12, motion_share=share)) for share in (0.0, 0.9)
    )
    rows = [list(run.steps()) for run in (plain, stretched)]
    assert rows[0][-1]["loss"] == rows[1][-1]["loss"]
    eye = torch.eye(16)
    assert torch.equal(plain.encoder.get_buffer("metric"), eye)
    metric = stretched.encoder.get_buffer("metric")
    assert not torch.equal(metric, eye)
    frames = torch.randn(2, 1, 3, 32, 32)
    expected = plain.encoder(frames).flatten(1) @ metric
    torch.testing.assert_close(stretched.encoder(frames).flatten(1), expected)
    Pretraining(stretched.encoder, point_clips(), quick("acjepa"))
    assert torch.equal(stretched.encoder.get_buffer("metric"), eye)  # a new run begins without


def test_vicreg_asks_for_spread_and_for_independence():
    torch.manual_seed(0)
    wide = torch.randn(4096, 8) * 1.1
    variance, covariance = vicreg(wide)
    assert variance < 0.01 and covariance < 0.01
    assert vicreg(wide * 0.1)[0] == pytest.approx(0.89, abs=0.02)
    assert vicreg(wide[:, :1].expand(-1, 8))[1] > 1


def test_spread_counts_directions():
    torch.manual_seed(0)
    mix = torch.randn(6, 64)
    assert spread((torch.randn(4000, 6) @ mix)[:, None])["effective_rank"] == pytest.approx(
        6, rel=0.2
    )
    line = torch.randn(2000, 1) * torch.randn(64) + 3 * torch.randn(64)
    assert spread(line[:, None])["effective_rank"] < 2.5
    nearly = 1 + torch.linspace(-1, 1, 64) + 0.001 * torch.randn(100, 5, 64)
    assert spread(nearly)["std"] < 0.01


@pytest.mark.parametrize(
    "bad",
    [
        *({"objective": "mae"}, {"anti_collapse": "hope"}, {"num_steps": 0}, {"mask_share": 1.0}),
        *({"mask_share": float("nan")}, {"narrow_width": 40}, {"time_limit_s": 0.0}),
        *({"learning_rate": 0.0}, {"ema": 1.0}, {"duplicate_share": -0.1}, {"log_every": 0}),
        *(
            {"variance_weight": -1.0},
            {"precision": "fp32"},
            {"motion_share": 1.0},
            {"inverse_weight": float("inf")},
            {"num_masks": 1.5},
            {"time_limit_s": "15min"},
            {"time_limit_s": True},
        ),
    ],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        PretrainConfig(**bad)


def test_augmented_clips_are_the_same_motion_in_other_colours():
    frames = np.zeros((40, 24, 24, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[8:12, 2 * (t % 4) + 4 : 2 * (t % 4) + 9, 0] = 250  # a red bar that moves by 2 pixels
    how = {"image": ImageSpec(24, 24), "num_frames": 4, "batch_size": 10, "seed": 0}
    actions = [np.random.default_rng(0).normal(size=(3, 2))] * 10
    plain, other, again = (
        Clips(frames, [4] * 10, actions, augment=share, **how) for share in (0.0, 1.0, 1.0)
    )
    x, moves = other.batch(3)
    assert torch.equal(x, again.batch(3)[0]) and torch.equal(moves, plain.batch(3)[1])
    assert not torch.equal(x, other.batch(4)[0])
    bright = (x - x.amin((2, 3, 4), keepdim=True)).amax(2)  # [B, T, h, w]
    column = (bright > bright.amax((2, 3), keepdim=True) / 2).float().argmax(-1).amax(-1)
    assert (column[:, 1:] - column[:, :-1] == 2).all()  # shifted as one
    assert len(column[:, 0].unique()) > 3
    assert len(x.amax((3, 4)).argmax(2)[:, 0].unique()) == 3  # red, green and blue
    assert x.amax((2, 3, 4)).std() > 0.1
    with pytest.raises(ValueError, match="augment"):
        Clips(frames, [4] * 10, actions, augment=1.5, **how)


def test_clips_refuse_what_does_not_fit():
    frames = np.zeros((8, 4, 4, 3), np.uint8)
    how = {"image": ImageSpec(4, 4), "batch_size": 2, "seed": 0}
    with pytest.raises(ValueError, match="num_frames"):
        Clips(frames, [4, 4], [np.zeros((3, 2))] * 2, num_frames=5, **how)
    with pytest.raises(ValueError, match="frames: got 8, want 9") as told:
        Clips(frames, [4, 5], [np.zeros((3, 2))] * 2, num_frames=2, **how)
    assert not isinstance(told.value, UserError)
