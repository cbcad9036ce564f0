"""Whether an Env keeps its promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robot_wm.types import ActionSpec, Env, Observation, check_image


def check_env(make: Callable[[], Env], *, num_steps: int = 3) -> None:
    """Runs an Env through what the loop expects of it.

    Args:
        make: builds the env; called twice, so that determinism can be seen.
        num_steps: actions to try.

    Raises:
        AssertionError: names the promise that is broken.
    """
    env, twin = make(), make()
    try:
        _check(env, twin, num_steps)
    finally:
        env.close()
        twin.close()


def _check(env: Env, twin: Env, num_steps: int) -> None:
    assert isinstance(env, Env), "env: a member of robot_wm.types.Env is missing"
    spec = env.action_spec
    assert isinstance(spec, ActionSpec), f"action_spec: got {type(spec).__name__}"
    assert env.control_dt > 0, f"control_dt: got {env.control_dt}, want seconds above zero"

    first, same = env.reset(7), twin.reset(7)
    _check_observation(first)
    assert_same(first, same, "reset(7) twice")
    other = env.reset(8)
    assert not np.array_equal(other.proprio, first.proprio), "reset: 7 and 8 start alike"
    env.reset(7)

    rng = np.random.default_rng(0)
    stamp_s = env.observe().stamp_s
    for _ in range(num_steps):
        action = rng.uniform(spec.low, spec.high)
        applied, twin_applied = env.apply(action), twin.apply(action)
        assert applied.shape == (spec.size,), f"apply: returned shape {applied.shape}"
        assert np.isfinite(applied).all(), f"apply: returned {applied}"
        assert np.array_equal(applied, twin_applied), "apply: the same action was applied otherwise"
        observation = env.observe()
        _check_observation(observation)
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
    assert np.array_equal(env.observe().proprio, before), "apply: a refused action moved the robot"
    beyond = env.apply(spec.high + 10 * (spec.high - spec.low))
    assert (beyond <= spec.high + 1e-2 * (spec.high - spec.low)).all(), (
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
