from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import SPEC, make_model

from robot_wm.data import Batch
from robot_wm.types import Observation
from robot_wm.world_model import LatentState


def batch(num=3, frames=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        tokens=torch.randn(num, frames, 2, 6, generator=generator),
        proprio=torch.rand(num, frames, 2, generator=generator),
        actions=torch.rand(num, frames - 1, 2, generator=generator) * 0.2 - 0.1,
        episodes=torch.arange(num),
        starts=torch.zeros(num, dtype=torch.int64),
    )


class Recall:
    """A predictor that knows the future by heart: frame t follows frame t - 1 of the batch."""

    def __init__(self, tokens):
        self.tokens = tokens
        self.calls = []

    def __call__(self, tokens, actions_n, states_n):
        self.calls.append(tokens)
        frames = tokens.shape[1]
        return self.tokens[:, 1 : frames + 1]

    def parameters(self):
        return iter([self.tokens])


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_predictor_that_is_right_has_no_loss_at_any_rollout_step(steps):
    data = batch()
    model = make_model(rollout_steps=steps)
    model.predictor = Recall(data.tokens)
    loss, metrics = model.loss(data)
    assert float(loss) == 0.0, metrics


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_every_rollout_step_is_compared_with_its_own_frame(steps):
    data = batch()
    for wrong in range(2, steps + 1):
        model = make_model(rollout_steps=steps)
        recall = model.predictor = Recall(data.tokens.clone())
        seen = recall.__call__

        def off_at_one_frame(tokens, actions_n, states_n, wrong=wrong, seen=seen, recall=recall):
            out = seen(tokens, actions_n, states_n).clone()
            if len(recall.calls) > 1 and tokens.shape[1] == wrong:
                out[:, -1] += 1.0
            return out

        model.predictor = type(
            "P", (), {"__call__": staticmethod(off_at_one_frame), "parameters": recall.parameters}
        )()
        loss, metrics = model.loss(data)
        assert metrics["teacher_forcing"] == 0.0
        assert metrics["rollout"] == pytest.approx(1.0 / (steps - 1))


def test_the_rollout_starts_at_frame_0_and_feeds_on_itself():
    data = batch()
    model = make_model(rollout_steps=3)
    recall = model.predictor = Recall(data.tokens)
    model.loss(data)
    teacher, two, three = recall.calls
    assert torch.equal(teacher, data.tokens[:, :-1])
    assert two.shape[1] == 2 and three.shape[1] == 3
    assert torch.equal(three[:, 0], data.tokens[:, 0])


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
    with pytest.raises(FloatingPointError, match="finite"):
        make_model().loss(data)


def test_rollout_integrates_proprioception_as_training_saw_it():
    """Imagining with the true proprio path equals the step by step prediction with true states."""
    model = make_model()
    data = batch(num=1, frames=4)
    proprio = data.proprio[:, :1] + torch.cat((torch.zeros(1, 1, 2), data.actions.cumsum(1)), dim=1)
    state = LatentState(data.tokens[0, :1], proprio[0, :1], data.actions[0, :0])
    with torch.no_grad():
        imagined = model.rollout(state, data.actions)
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
    assert state.tokens.shape[0] == 3
    np.testing.assert_allclose(state.proprio[:, 0], [0.3, 0.4, 0.5])
    np.testing.assert_allclose(state.actions[:, 0], [0.04, 0.05])


def test_a_model_without_proprio_does_not_look_at_it():
    model = make_model(proprio="none")
    picture = {"front": np.zeros((32, 32, 3), np.uint8)}
    actions = torch.zeros(1, 2, 2)
    a, b = (
        model.rollout(model.observe(None, Observation(picture, np.full(2, v), 0.0), None), actions)
        for v in (0.1, 0.9)
    )
    assert torch.equal(a, b)


def test_integration_needs_one_action_per_state():
    model = make_model()
    with pytest.raises(ValueError, match="proprio"):
        type(model.spec)("front", 32, 32, 0.2, ("x", "y", "z"), SPEC)
