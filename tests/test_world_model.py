from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import SPEC, PointEnv, make_model

from robot_wm.data import Batch
from robot_wm.models import EncodedFrames, View
from robot_wm.preprocess import NormStats
from robot_wm.types import Observation


def batch(num=3, frames=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        tokens=torch.randn(num, frames, 2, 6, generator=generator),
        proprio=torch.rand(num, frames, 2, generator=generator),
        actions=torch.rand(num, frames - 1, 2, generator=generator) * 0.2 - 0.1,
        episodes=torch.arange(num),
        starts=torch.zeros(num, dtype=torch.int64),
    )


class Recall(torch.nn.Module):
    """A predictor that knows the future by heart: frame t follows frame t - 1 of the batch."""

    def __init__(self, tokens, wrong=None):
        super().__init__()
        self.tokens = tokens
        self.wrong = wrong  # the frame that it imagines badly when fed with its own
        self.calls = []  # (frames before, frames given, actions given)

    def extend(self, cache, tokens, actions_n, states_n, extrinsics_n):
        past = 0 if cache is None else cache.frames
        frames = past + tokens.shape[1]
        self.calls.append((past, tokens, actions_n))
        out = self.tokens[:, past + 1 : frames + 1].clone()
        if cache is not None and frames == self.wrong:
            out = out + 1
        return out, Frames(frames)

    def combine(self, predicted):
        return predicted

    def parameters(self, recurse=True):
        return iter([self.tokens])


class Frames:
    def __init__(self, frames):
        self.frames = frames

    def first(self, frames):
        return Frames(frames)


@pytest.mark.parametrize("prefix", ["first", "random"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_predictor_that_is_right_has_no_loss_at_any_rollout_step(steps, prefix):
    data = batch(frames=7)
    model = make_model(rollout_steps=steps, rollout_prefix=prefix)
    model.predictor = Recall(data.tokens)
    for seed in range(8):
        loss, metrics = model.loss(data, generator=torch.Generator().manual_seed(seed))
        assert float(loss) == 0.0, metrics


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_every_rollout_step_is_compared_with_its_own_frame(steps):
    data = batch()
    for wrong in range(2, steps + 1):
        model = make_model(rollout_steps=steps)
        model.predictor = Recall(data.tokens, wrong=wrong)
        _, metrics = model.loss(data)
        assert metrics["teacher_forcing"] == 0.0
        assert metrics["rollout"] == pytest.approx(1.0 / (steps - 1))


def test_the_rollout_starts_at_frame_0_and_feeds_on_itself():
    data = batch()
    model = make_model(rollout_steps=3)
    recall = model.predictor = Recall(data.tokens)
    model.loss(data)
    (zero, teacher, _), *rollout = recall.calls
    assert zero == 0 and torch.equal(teacher, data.tokens[:, :-1])
    assert [past for past, _, _ in rollout] == [1, 2]
    for past, fed, actions_n in rollout:
        assert torch.equal(fed, data.tokens[:, past : past + 1])  # what Recall had answered
        expected = model.action_stats.forward(data.actions)[:, past : past + 1]
        assert torch.equal(actions_n, expected)


def test_a_random_rollout_starts_wherever_it_fits():
    data = batch(frames=7)
    model = make_model(rollout_steps=3, rollout_prefix="random")
    starts = set()
    for seed in range(60):
        recall = model.predictor = Recall(data.tokens)
        model.loss(data, generator=torch.Generator().manual_seed(seed))
        starts.add(recall.calls[1][0])
        assert [past - recall.calls[1][0] for past, _, _ in recall.calls[1:]] == [0, 1]
    assert starts == {1, 2, 3, 4}


@pytest.mark.parametrize("variant", [{}, {"proprio": "none"}, {"features": "layer_norm"}])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_the_loss_is_that_of_whole_sequences_computed_again(variant, steps):
    """No cache, no shortcuts: the definition, and its gradient."""
    data = batch(frames=6)
    model = make_model(rollout_steps=steps, rollout_prefix="random", **variant)
    model.predictor.requires_grad_(True)
    loss, _ = model.loss(data, generator=torch.Generator().manual_seed(1))
    loss.backward()
    ours = [p.grad.clone() for p in model.predictor.parameters()]
    prefix = int(torch.randint(1, 6 - steps + 1, (), generator=torch.Generator().manual_seed(1)))
    latents = model.latents(data.tokens)
    actions = model.action_stats.forward(data.actions)
    # Where the model integrates, what it imagines has the states that it will have in planning.
    ahead = data.proprio[:, prefix - 1 : prefix] + data.actions[:, prefix - 1 :].cumsum(1)
    ahead = torch.cat((data.proprio[:, :prefix], ahead), dim=1)
    model.predictor.zero_grad()

    def predict(frames, proprio):
        n = frames.shape[1]
        states = model.proprio_stats.forward(proprio[:, :n])
        has_states = model.spec.proprio != "none"
        return model.predictor(frames, actions[:, :n], states if has_states else None)

    expected = (predict(latents[:, :-1], data.proprio) - latents[:, 1:]).square().mean()
    frames, errors = latents[:, :prefix], []
    for step in range(steps):
        frames = torch.cat((frames, predict(frames, ahead)[:, -1:]), dim=1)
        if step:
            errors.append((frames[:, -1] - latents[:, prefix + step]).square().mean())
    expected = expected + sum(errors) / len(errors)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    expected.backward()
    for mine, p in zip(ours, model.predictor.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad, atol=1e-5, rtol=1e-4)


def test_the_loss_teaches_every_weight_and_not_the_encoder():
    model = make_model()
    model.predictor.requires_grad_(True)
    loss, _ = model.loss(batch())
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.predictor.parameters())
    assert all(p.grad is None for p in model.encoder.parameters())


def test_a_loss_that_is_not_finite_raises():
    data = batch()
    data.tokens[0, 0, 0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="tokens are not finite"):
        make_model().loss(data)
    data = batch()
    data.actions[0, 0, 0] = np.inf
    with pytest.raises(FloatingPointError, match="actions are not finite"):
        make_model().loss(data)
    data = batch()
    with pytest.raises(FloatingPointError, match="loss is not finite"):
        make_model().loss(replace(data, tokens=data.tokens * 1e30))


def test_a_batch_that_does_not_fit_is_told():
    with pytest.raises(ValueError, match="windows of 2, want more than 2"):
        make_model().loss(batch(frames=2))
    data = batch()
    with pytest.raises(ValueError, match="tokens: got torch.float64"):
        make_model().loss(replace(data, tokens=data.tokens.double()))
    with pytest.raises(ValueError, match="actions: got"):
        make_model().loss(replace(data, actions=data.actions[:, :-1]))
    with pytest.raises(ValueError, match="frames: got 9"):
        make_model().loss(batch(frames=10))


@pytest.mark.parametrize("features", ["raw", "layer_norm", "channel_norm"])
def test_goals_observations_and_imagination_share_one_space(features):
    stats = NormStats(np.arange(6.0), np.full(6, 2.0)) if features == "channel_norm" else None
    model = make_model(features=features, feature_stats=stats)
    env = PointEnv()
    observation = env.reset(0)
    raw = make_model().embed(observation.images)
    latent = model.embed(observation.images)
    assert torch.equal(model.observe(None, observation, None).latents[0, 0], latent)
    imagined = model.rollout(model.observe(None, observation, None), torch.zeros(1, 2, 2)).latents
    if features == "raw":
        assert torch.equal(latent, raw)
    elif features == "channel_norm":
        torch.testing.assert_close(latent, (raw - torch.arange(6.0)) / 2)
    else:
        for each in (latent, imagined):
            torch.testing.assert_close(each.mean(-1), torch.zeros_like(each[..., 0]), **NEAR)
            torch.testing.assert_close(
                each.std(-1, correction=0), torch.ones_like(each[..., 0]), **NEAR
            )


NEAR = {"atol": 1e-2, "rtol": 0}


def test_parts_that_do_not_fit_together_are_named():
    with pytest.raises(ValueError, match="feature statistics: got 0 and 6"):
        make_model(features="channel_norm")
    with pytest.raises(ValueError, match="extrinsics: got 6 and 0"):
        make_model(extrinsics=(0.0,) * 6)
    with pytest.raises(ValueError, match="'pose' needs 7 states"):
        make_model(proprio="pose")
    for name in ("rollout_prefix", "features", "error"):
        with pytest.raises(ValueError, match=f"{name}: got 'wrong'"):
            make_model(**{name: "wrong"})


def test_a_context_of_frames_that_were_encoded_is_the_same_as_one_that_was_seen():
    """What an examination shows a model of a dataset, and what a robot shows it."""
    model, env = make_model(context_frames=3), PointEnv()
    seen = model.observe(None, env.reset(0), None)
    observations, moves = [env.observe()], []
    for _ in range(3):
        moves.append(env.apply(np.full(2, 0.05)))
        observations.append(env.observe())
        seen = model.observe(seen, observations[-1], moves[-1])
    actions = torch.rand(5, 4, 2) * 0.2 - 0.1
    told = model.initial()
    for i, observation in enumerate(observations):
        tokens = model.embed(observation.images).expand(5, -1, -1)
        proprio = torch.tensor(observation.proprio, dtype=torch.float32).expand(5, -1)
        applied = torch.tensor(moves[i - 1], dtype=torch.float32).expand(5, -1) if i else None
        told = model.observe(told, EncodedFrames(tokens, proprio), applied)
    torch.testing.assert_close(
        model.rollout(seen, actions).latents, model.rollout(told, actions).latents,
        atol=1e-5, rtol=0,
    )  # fmt: skip
    recomputed = model.rollout_recomputed(seen, actions).latents
    torch.testing.assert_close(model.rollout(seen, actions).latents, recomputed, atol=1e-5, rtol=0)


def test_rollout_integrates_proprioception_as_training_saw_it():
    """Imagining with the true proprio path equals the step by step prediction with true states."""
    model = make_model()
    data = batch(num=1, frames=4)
    proprio = data.proprio[:, :1] + torch.cat((torch.zeros(1, 1, 2), data.actions.cumsum(1)), dim=1)
    state = model.observe(None, EncodedFrames(data.tokens[:, 0], proprio[:, 0]), None)
    with torch.no_grad():
        imagined = model.rollout(state, data.actions).latents
        tokens = data.tokens[:, :1]
        for t in range(1, 4):
            step = model.predictor(
                tokens,
                model.action_stats.forward(data.actions[:, :t]),
                model.proprio_stats.forward(proprio[:, :t]),
            )
            tokens = torch.cat((tokens, step[:, -1:]), dim=1)
    torch.testing.assert_close(imagined, tokens[:, 1:], atol=1e-5, rtol=1e-5)


def test_memory_is_as_long_as_the_context_and_holds_what_was_applied():
    model = make_model(context_frames=3)
    picture = np.zeros((32, 32, 3), np.uint8)
    state = model.initial()
    for t in range(6):
        applied = None if t == 0 else np.full(2, t / 100)
        state = model.observe(
            state, Observation({"front": picture}, np.full(2, t / 10), t), applied
        )
    assert state.latents.shape[:2] == (1, 3)
    np.testing.assert_allclose(state.proprio[0, :, 0], [0.3, 0.4, 0.5])
    np.testing.assert_allclose(state.actions[0, :, 0], [0.04, 0.05])


def test_a_model_without_proprio_does_not_look_at_it():
    model = make_model(proprio="none")
    picture = {"front": np.zeros((32, 32, 3), np.uint8)}
    actions = torch.zeros(1, 2, 2)
    a, b = (
        model.rollout(
            model.observe(None, Observation(picture, np.full(2, v), 0.0), None), actions
        ).latents
        for v in (0.1, 0.9)
    )
    assert torch.equal(a, b)


def test_integration_needs_one_action_per_state():
    model = make_model()
    with pytest.raises(ValueError, match="proprio"):
        type(model.spec)((View("front", 32, 32),), 0.2, ("x", "y", "z"), SPEC)


def test_a_rollout_uses_what_was_computed_when_the_context_was_seen(monkeypatch):
    model = make_model(context_frames=3)
    env = PointEnv()
    state = model.observe(None, env.reset(0), None)
    for _ in range(2):
        state = model.observe(state, env.observe(), env.apply(np.full(2, 0.05)))
    frames = []
    run = model.predictor._run

    def watch(cache, tokens, *given, **how):
        frames.append((cache.num_frames, tuple(tokens.shape[:2])))
        return run(cache, tokens, *given, **how)

    monkeypatch.setattr(model.predictor, "_run", watch)
    for _ in range(2):
        model.rollout(state, torch.zeros(5, 3, 2))
    assert frames == [(2, (5, 1)), (3, (5, 1)), (4, (5, 1))] * 2


def test_rollouts_refuse_other_types_devices_and_nothing():
    model = make_model()
    state = model.observe(None, PointEnv().reset(0), None)
    for actions, why in [
        (torch.zeros(2, 3, 2, dtype=torch.float64), "got torch.float64 on cpu, want torch.float32"),
        (torch.zeros(2, 3, 2, device="meta"), "on meta, want torch.float32 on cpu"),
        (torch.zeros(0, 3, 2), r"actions \(0, 3, 2\)"),
        (torch.zeros(2, 0, 2), r"actions \(2, 0, 2\)"),
        (torch.zeros(2, 9, 2), "frames: got 9, want 1 to 8"),
        (torch.zeros(3, 2), r"got \(3, 2\), want \[N, H, 2\]"),
    ]:
        with pytest.raises(ValueError, match=why):
            model.rollout(state, actions)
    with pytest.raises(ValueError, match="context_frames: got 9, want at most"):
        make_model(context_frames=9)


def test_gradients_reach_the_actions_of_a_rollout():
    """A gradient planner's need, also where the observation was taken without gradients."""
    model = make_model(context_frames=2)
    env = PointEnv()
    with torch.no_grad():
        state = model.observe(None, env.reset(0), None)
        state = model.observe(state, env.observe(), env.apply(np.full(2, 0.05)))
    actions = torch.zeros(1, 2, 2, requires_grad=True)
    model.rollout(state, actions).latents.square().sum().backward()
    assert actions.grad is not None and actions.grad.abs().sum() > 0
