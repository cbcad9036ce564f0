"""Checks that a WorldModel keeps its interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from robot_wm.types import FloatArray, Observation

if TYPE_CHECKING:  # torch takes a second, and whoever checks an env needs none
    from robot_wm.models import WorldModel


def check_world_model(
    make: Callable[[], WorldModel], observations: Sequence[tuple[Observation, FloatArray | None]]
) -> None:
    """Checks a WorldModel against what training, evaluation, planning and monitors expect of it.

    Args:
        make: A function that builds the model, the same at every call.
        observations: Three or more consecutive observations of its cameras, each with the action
            that was executed before it; None with the first.

    Raises:
        AssertionError: the interface is broken; the message says where.
    """
    import torch

    from robot_wm.data import Batch
    from robot_wm.models import EncodedFrames, ModelInfo

    model = make()
    info = model.info
    assert isinstance(info, ModelInfo), f"info: got a {type(info).__name__}"
    size, tokens, device = info.action_spec.size, (info.num_tokens, info.dim), None
    for parameter in getattr(model, "parameters", lambda: ())():
        device = parameter.device
    horizon = min(3, info.longest_horizon)
    rng = torch.Generator().manual_seed(0)
    bounds = torch.tensor(info.action_spec.high, dtype=torch.float32)
    actions = ((2 * torch.rand((5, horizon, size), generator=rng) - 1) * bounds).to(device)

    def noise() -> torch.Generator:
        return torch.Generator(actions.device).manual_seed(3)

    def imagine(state: object, some: torch.Tensor = actions) -> torch.Tensor:
        with torch.no_grad():
            return model.rollout(state, some, noise()).mean

    state, before = model.initial(), None
    for observation, applied in observations:
        before, state = state, model.observe(state, observation, applied)
        (latent,) = model.latent(state)
        assert tuple(latent.shape) == tokens, f"latent: got {tuple(latent.shape)}, want {tokens}"
        embedded = model.embed(observation.images)
        assert torch.allclose(latent, embedded, atol=1e-5), (
            "latent: another than embed's of the picture"
        )
    rng_state = torch.get_rng_state()
    futures = imagine(state)
    assert futures.shape == (5, horizon, *tokens), f"rollout: got {tuple(futures.shape)}"
    assert futures.isfinite().all(), "rollout: not finite"
    assert torch.equal(imagine(state), futures), "rollout: another one of the same generator"
    assert torch.equal(torch.get_rng_state(), rng_state), "rollout: torch's own randomness was used"
    same = imagine(state, actions[:1].expand(5, -1, -1).clone())
    assert torch.allclose(same, same[:1].expand_as(same), atol=1e-5), (
        "rollout: equal actions led to other futures: the noise is to be the same for all"
    )
    with torch.no_grad():
        carried = model.rollout(state, actions, noise())
    has = tuple(n for n in ("reward", "value", "continuation") if getattr(carried, n) is not None)
    assert {*has} == {*info.predicts}, f"info: predicts {info.predicts}, its futures carry {has}"
    last = actions.clone()
    last[:, -1] = -last[:, -1]
    early = imagine(state, last)[:, : horizon - 1]
    assert torch.allclose(early, futures[:, : horizon - 1], atol=1e-5), (
        "rollout: a later action changed an earlier latent"
    )
    old = imagine(before)
    model.observe(before, observations[-1][0], observations[-1][1])
    assert torch.equal(imagine(before), old), "observe: it changed the state that it was given"
    leaf = actions.clone().requires_grad_()
    model.rollout(state, leaf, noise()).mean[:, -1].square().sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().sum() > 0, "rollout: no gradient of actions"

    num, frames = 4, max(4, info.context_frames + horizon)
    data = Batch(
        tokens=torch.randn((num, frames, *tokens), generator=rng),
        proprio=torch.randn((num, frames, len(info.state_names)), generator=rng) * 0.1,
        actions=(2 * torch.rand((num, frames - 1, size), generator=rng) - 1) * bounds,
        episodes=torch.arange(num),
        starts=torch.zeros(num, dtype=torch.int64),
    )
    state = model.initial()
    for t in range(info.context_frames):
        applied = data.actions[:, t - 1].to(device) if t else None
        state = model.observe(state, EncodedFrames(data.tokens[:, t], data.proprio[:, t]), applied)
    shape = tuple(model.latent(state).shape)
    assert shape == (num, *tokens), f"latent: of {num} episodes got {shape}"
    assert len(imagine(state, actions[:num])) == num, "rollout: of as many episodes as candidates"

    if hasattr(model, "parameters"):
        learner = make()
        learner.train().requires_grad_(True)  # type: ignore[attr-defined] - it is an nn.Module
        losses = [learner.loss(data, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
        assert float(losses[0][0].detach()) == float(losses[1][0].detach()), (
            "loss: another one of the same generator"
        )
        for name, value in (("loss", None), *losses[0][1].items()):
            value = losses[0][1].get(name) if value is None else value
            assert isinstance(value, float) and math.isfinite(value), (
                f"loss: its metric {name!r} is {value!r}, want a finite float"
            )
        assert {*losses[0][1]} == {*losses[1][1]}, "loss: other metrics the second time"
        losses[0][0].backward()
        learned = sum(float(p.grad.abs().sum()) for p in learner.parameters() if p.grad is not None)  # type: ignore[attr-defined]
        assert learned > 0, "loss: no gradient of any parameter"

    first, _ = observations[0]
    bad_proprio = Observation(first.images, np.full_like(first.proprio, np.nan), 0.0)
    for what, observation, applied in (
        ("a proprio that is not finite", bad_proprio, None),
        ("no picture", Observation({}, first.proprio, 0.0), None),
        ("an action that is not finite", first, np.full(size, np.nan)),
        ("an action of another size", first, np.zeros(size + 1)),
    ):
        try:
            model.observe(model.observe(model.initial(), first, None), observation, applied)
        except ValueError:
            continue
        raise AssertionError(f"observe: took {what}, want a ValueError")
