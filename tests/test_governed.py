"""The simulated arm behind the governor of the real one."""

import numpy as np
import pytest

from hardware.governor import Governor
from hardware.verify import violations
from robot_wm.cli.config import load_command
from robot_wm.contracts import check_env
from robot_wm.deployment.simulation import GovernedTicks, build_simulation
from robot_wm.robots import so100


def simulation(*words):
    words = ["checkpoint=x", "env.governed=true", "env.simulator.image_size=32", *words]
    return build_simulation(load_command("eval", words).env)


def test_a_governed_env_keeps_the_contract():
    check_env(lambda: simulation().env)


def test_no_command_breaks_a_limit_whatever_is_asked():
    env = simulation().env
    limits, chain = so100().limits, so100().chain
    commands: list[np.ndarray] = []

    class Noted(GovernedTicks):
        def step(self, target):
            commands.append(super().step(target))
            return commands[-1]

    def begin(joints):
        commands[:] = [joints]
        return Noted(Governor(limits, chain.corners, joints))

    env.govern(begin, tick_s=limits.tick_s)
    rng = np.random.default_rng(0)
    for seed in range(4):
        env.reset(seed)
        for _ in range(12):
            env.apply(rng.uniform(-1, 1, 4) * rng.choice([0.01, 0.04]))
        assert len(commands) > 100
        assert not any(violations(limits, chain.corners, np.array(commands)).values())


def test_what_is_simulated_in_between_changes_nothing_of_a_governed_arm():
    """It is under way when the simulation is saved: the governor's speed belongs to its state."""
    plain, tried = simulation(), simulation()
    rng = np.random.default_rng(3)
    for each in (plain, tried):
        each.task.start(each.task.episode(8_000_001))
    for _ in range(8):
        action = rng.uniform(-0.04, 0.04, 4)
        tried.task.simulate(rng.uniform(-0.04, 0.04, (2, 2, 4)))
        np.testing.assert_array_equal(plain.env.apply(action), tried.env.apply(action))
        np.testing.assert_array_equal(plain.env.joints(), tried.env.joints())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["env.simulator.control_hz=100"], "a part of the control period"),  # it would never move
        (["env.limits.tick_s=0.03"], "a part of the control period"),
        (["env.limits.box_low=[-0.15,-0.19,0.005]"], "may not stand at"),
        (["env.simulator.control_hz=0"], "control_hz"),
    ],
)
def test_a_governor_that_cannot_be_kept_is_told_at_once(words, why):
    with pytest.raises(ValueError, match=why):
        simulation(*words)


def test_it_arrives_where_the_ungoverned_arm_does():
    free, governed = simulation("env.governed=false").env, simulation().env
    rng = np.random.default_rng(1)
    free.reset(3), governed.reset(3)
    for _ in range(8):
        action = rng.uniform(-0.03, 0.03, 4)
        moved = [env.apply(action) for env in (free, governed)]
        np.testing.assert_allclose(*moved, atol=2e-3)
    np.testing.assert_allclose(free.proprio(), governed.proprio(), atol=6e-3)


@pytest.mark.parametrize("seed", [12, 70])
def test_it_stops_as_its_governor_lets_it(seed):
    """Where it was measured may be a hair below the box: nothing that it may be sent to."""
    env = simulation().env
    rng = np.random.default_rng(seed)
    env.reset(seed)
    for _ in range(5):
        env.apply(rng.uniform(-0.05, 0.05, 4))
        before = env.physics.data.ctrl.copy()
        env.stop()
        np.testing.assert_allclose(env.physics.data.ctrl, before, atol=0.05)


def test_limits_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="tip_speed"):
        simulation("env.limits.tip_speed=-1")
    with pytest.raises(ValueError, match="outside the workspace box"):
        simulation("env.limits.box_low=[0.2,-0.3,0.0]")
    with pytest.raises(ValueError, match="whole number of physics steps"):
        simulation("env.limits.tick_s=0.012")
