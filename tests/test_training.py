from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import SPEC, PointEnv, make_model

from robot_wm.data import Clips, WindowSampler
from robot_wm.encoders import MiniConfig, MiniEncoder
from robot_wm.preprocess import ImageSpec
from robot_wm.pretrain import CollapseError, PretrainConfig, pretrain, sigreg, spread
from robot_wm.training import TrainConfig, held_out_error, learning_rate, train


@pytest.fixture(scope="module")
def world():
    """Tokens that are the point's position in disguise: a predictor can learn them exactly."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(2, 12))
    proprio, actions, tokens = [], [], []
    for _ in range(40):
        moves = rng.uniform(-0.1, 0.1, (11, 2)).astype(np.float32)
        path = np.concatenate((rng.uniform(0.2, 0.8, (1, 2)), moves)).cumsum(0).astype(np.float32)
        proprio.append(path)
        actions.append(moves)
        tokens.append((3 * np.sin(path @ mix)).reshape(12, 2, 6).astype(np.float32))
    data = SimpleNamespace(
        num_episodes=40, lengths=(12,) * 40, proprio=proprio, actions=actions, episodes=range(40)
    )

    def sampler(episodes, num_frames=6, **more):
        return WindowSampler(
            data, tokens, episodes=episodes, num_frames=num_frames, batch_size=32, seed=0, **more
        )

    return sampler


def test_training_beats_copying_and_needs_the_right_actions(world):
    model = make_model()
    config = TrainConfig(num_steps=250, learning_rate=3e-3)
    rows = list(train(model, world(range(32)), config))
    errors = held_out_error(model, world(range(32, 40)), horizon=4)
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert [row["step"] for row in rows] == list(range(1, 251))
    for h in range(4):
        assert errors["true"][h] < 0.7 * errors["copy_last"][h]
        assert errors["true"][h] < 0.7 * errors["shuffled"][h]
        assert errors["true"][h] < 0.7 * errors["zero"][h]
    assert not any(p.requires_grad for p in model.predictor.parameters())


def test_the_same_seed_trains_the_same_weights(world):
    results = []
    for _ in range(2):
        model = make_model()
        rows = list(train(model, world(range(32)), TrainConfig(num_steps=5)))
        results.append([row["loss"] for row in rows])
    assert results[0] == results[1]


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_windows(world):
    model = make_model()
    before = {name: value.clone() for name, value in model.predictor.state_dict().items()}
    sampler = world(range(32))
    good = sampler.batch

    def bad(step):
        batch = good(step)
        batch.tokens[0] = torch.nan
        return batch

    sampler.batch = bad
    with pytest.raises(FloatingPointError, match=r"step 0.*windows"):
        list(train(model, sampler, TrainConfig(num_steps=2)))
    for name, value in model.predictor.state_dict().items():
        assert torch.equal(value, before[name])


def test_schedule_warms_up_holds_and_falls_to_zero():
    config = TrainConfig(num_steps=100, learning_rate=6.0, warmup_share=0.1, decay_share=0.4)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(1.0) and rates[10] == 6.0 and rates[59] == 6.0
    assert rates[80] == pytest.approx(3.0) and rates[100] == 0.0


@pytest.mark.parametrize("bad", [{"num_steps": 0}, {"learning_rate": 0.0}, {"decay_share": 1.0}])
def test_impossible_training_settings_are_refused(bad):
    with pytest.raises(ValueError, match="TrainConfig"):
        TrainConfig(**bad)


def point_clips(num_episodes=12):
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
        actions,
        image=ImageSpec(32, 32),
        num_frames=4,
        batch_size=16,
        seed=0,
    )


SMALL = MiniConfig(image_size=32, patch_size=8, width=32, depth=1, num_heads=2, dim=8)


def test_pretraining_spreads_embeddings_and_learns_the_motion():
    torch.manual_seed(0)
    config = PretrainConfig(num_steps=120, num_directions=64, hidden=64, collapse_std=0.0)
    encoder = MiniEncoder(SMALL)
    rows = list(pretrain(encoder, point_clips(), config))
    assert rows[-1]["inverse"] < 0.5 * rows[0]["inverse"]
    assert rows[-1]["std"] > 0.5 and rows[-1]["effective_rank"] > 2
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_without_its_guards_the_encoder_collapses_and_the_run_stops():
    torch.manual_seed(0)
    encoder = MiniEncoder(SMALL)
    # The batch norm of the head is a guard of its own: without it nothing holds the scale.
    encoder.head_norm = torch.nn.Identity()
    config = PretrainConfig(
        num_steps=400,
        sigreg_weight=0.0,
        inverse_weight=0.0,
        hidden=32,
        collapse_std=0.02,
    )
    with pytest.raises(CollapseError, match="collapsed"):
        list(pretrain(encoder, point_clips(), config))


def test_sigreg_prefers_a_gaussian():
    generator = torch.Generator().manual_seed(0)
    gaussian = torch.randn(512, 8, generator=generator)
    for other in (gaussian * 0.1, gaussian * 3, gaussian[:, :1].expand(-1, 8), gaussian + 2):
        a, b = (sigreg(x, num_directions=64, generator=generator) for x in (gaussian, other))
        assert a < b / 3


def test_spread_counts_directions():
    torch.manual_seed(0)
    assert spread(torch.randn(2000, 6))["effective_rank"] == pytest.approx(6, rel=0.05)
    line = torch.randn(2000, 1) * torch.ones(6)
    assert spread(line)["effective_rank"] == pytest.approx(1, rel=0.01)


def test_clips_refuse_what_does_not_fit():
    frames = np.zeros((8, 4, 4, 3), np.uint8)
    how = {"image": ImageSpec(4, 4), "batch_size": 2, "seed": 0}
    with pytest.raises(ValueError, match="num_frames"):
        Clips(frames, [4, 4], [np.zeros((3, 2))] * 2, num_frames=5, **how)
    with pytest.raises(ValueError, match="frames: got 8, want 9"):
        Clips(frames, [4, 5], [np.zeros((3, 2))] * 2, num_frames=2, **how)
