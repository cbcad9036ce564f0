"""Checks that an Env keeps its interface."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robot_wm.types import ActionSpec, Env, Observation, check_image


def check_env(
    make: Callable[[], Env], *, num_steps: int = 3, resettable: bool = True, seed: int = 0
) -> None:
    """Checks an Env against what the loop expects of it; a real arm moves.

    Args:
        make: A function that builds the env; it is called twice where the env is resettable, to
            check determinism.
        num_steps: Number of actions to try.
        resettable: Whether `reset` brings the robot to the start that its seed decides; that of a
            real arm only observes, and nothing can be tried twice.
        seed: Seed of the actions.

    Raises:
        AssertionError: the interface is broken; the message says where.
    """
    env = make()
    twin = make() if resettable else None
    try:
        _check(env, twin, num_steps, seed)
    finally:
        env.close()
        if twin is not None:
            twin.close()


def _check(env: Env, twin: Env | None, num_steps: int, seed: int) -> None:
    assert isinstance(env, Env), "env: a member of robot_wm.types.Env is missing"
    spec = env.action_spec
    assert isinstance(spec, ActionSpec), f"action_spec: got {type(spec).__name__}"
    assert env.control_dt > 0, f"control_dt: got {env.control_dt}, want seconds above zero"

    first = env.reset(7)
    _check_observation(first)
    if twin is not None:
        assert_same(first, twin.reset(7), "reset(7) twice")
        other = env.reset(8)
        alike = np.array_equal(other.proprio, first.proprio) and all(
            np.array_equal(image, first.images[name]) for name, image in other.images.items()
        )
        assert not alike, "reset: 7 and 8 start alike"
        env.reset(7)

    rng, range_ = np.random.default_rng(seed), spec.high - spec.low
    stamp_s, cameras = env.observe().stamp_s, set(first.images)
    for _ in range(num_steps):
        action = rng.uniform(spec.low, spec.high)
        applied = env.apply(action)
        assert applied.shape == (spec.size,), f"apply: returned shape {applied.shape}"
        assert np.isfinite(applied).all(), f"apply: returned {applied}"
        observation = env.observe()
        _check_observation(observation)
        assert set(observation.images) == cameras, "observe: other cameras than before"
        assert observation.proprio.shape == first.proprio.shape, "observe: another proprio"
        if twin is not None:
            same = np.array_equal(applied, twin.apply(action))
            assert same, "apply: the same action was applied otherwise"
            assert_same(observation, twin.observe(), "the same actions from the same seed")
        assert observation.stamp_s > stamp_s, "observe: the stamp does not advance"
        stamp_s = observation.stamp_s

    before = env.observe().proprio
    for bad in (np.full(spec.size, np.nan), np.full(spec.size, np.inf), np.zeros(spec.size + 1)):
        try:
            env.apply(bad)
        except ValueError:
            continue
        raise AssertionError(f"apply: took {bad} without a ValueError")
    # A real arm's sensors are never still.
    noise = 0.0 if twin is not None else 0.05 * range_.max()
    moved = np.abs(env.observe().proprio - before).max()
    assert moved <= noise, f"apply: a refused action moved the robot by {moved}"
    beyond = env.apply(spec.high + 10 * range_)
    assert (beyond <= spec.high + 1e-2 * range_).all(), (
        f"apply: executed {beyond}, beyond the spec's {spec.high}"
    )
    env.stop()
    env.stop()


def assert_same(a: Observation, b: Observation, what: str) -> None:
    """Asserts that two observations are equal bit for bit."""
    assert np.array_equal(a.proprio, b.proprio), f"{what}: proprio differs"
    assert set(a.images) == set(b.images), f"{what}: cameras differ"
    for name in a.images:
        assert np.array_equal(a.images[name], b.images[name]), f"{what}: picture {name} differs"


def _check_observation(observation: Observation) -> None:
    assert observation.images, "observe: no picture"
    for name, image in observation.images.items():
        check_image(image, f"camera {name!r}")
    assert observation.proprio.ndim == 1, f"proprio: got shape {observation.proprio.shape}"
    assert np.isfinite(observation.proprio).all(), f"proprio: got {observation.proprio}"
