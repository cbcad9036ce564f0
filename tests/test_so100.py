"""The scene is judged before any model: what a wrong scene does, no predictor can mend."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from robot_wm.contracts import check_env
from robot_wm.evaluation import StateOracle, evaluate, summarize
from robot_wm.planners import CEM
from robot_wm.robots import so100
from robot_wm.runtime import run_episode
from sim_envs.manifest import episodes_of
from sim_envs.physics import PhysicsError
from sim_envs.reach import ReachTask
from sim_envs.reach_demonstrator import ReachDemonstrator
from sim_envs.tabletop import Tabletop

HOME = np.array([0.0, -2.0, 1.7, 1.2, 0.0, 0.3])


@pytest.fixture(scope="module")
def env():
    env = Tabletop(so100(), image_size=64)
    yield env
    env.close()


@pytest.fixture(scope="module")
def task(env):
    return ReachTask(env)


LOW, HIGH = so100().workspace_low, so100().workspace_high


def poses(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(LOW, HIGH, (num, 4))


def test_env_keeps_the_contract():
    check_env(lambda: Tabletop(so100(), image_size=32))


def test_ik_reaches_every_place_of_the_workspace():
    arm = so100()
    ends = np.stack((arm.workspace_low, arm.workspace_high))
    corners = [[ends[i, 0], ends[j, 1], ends[k, 2]] for i, j, k in np.ndindex(2, 2, 2)]
    low, high = arm.chain.joint_range.T
    for target in np.concatenate((poses(100)[:, :3], corners)):
        joints, error_m = arm.reach(target, arm.home)
        assert error_m < 1e-3, target
        assert np.linalg.norm(arm.state(joints)[:3] - target) < 1e-3
        assert (joints >= low).all() and (joints <= high).all()


def test_ik_out_of_reach_says_how_far_it_stayed():
    joints, error_m = so100().reach(np.array([1.0, 0.0, 0.1]), so100().home)
    assert np.isfinite(joints).all()
    assert error_m > 0.3


def test_a_5_cm_move_settles_within_400_ms_and_does_not_swing(env):
    rng = np.random.default_rng(1)
    for pose in poses(15, seed=1):
        direction = rng.normal(size=3)
        target = pose[:3] + 0.05 * direction / np.linalg.norm(direction)
        if (target < LOW[:3]).any() or (target > HIGH[:3]).any():
            continue
        env.place(pose, {"cube": np.array([0.4, 0.3, 0.0])})
        start = env.proprio()[:3]
        joints, _ = so100().reach(target, env.joints())
        env.command(joints)
        path = []
        for _ in range(160):
            env._physics.step(1)
            path.append(env.proprio()[:3])
        path = np.array(path)
        end = path[-1]
        late = path[round(0.4 / env._physics.timestep_s) :]
        assert np.linalg.norm(late - end, axis=1).max() < 0.0025
        travelled = (path - start) @ (end - start) / np.sum((end - start) ** 2)
        assert travelled.max() < 1.05, "overshoots by more than 5 %"
        assert np.linalg.norm(end - target) < 0.006, "sags"


def test_the_arm_turns_freely_and_touches_nothing_in_the_workspace(env):
    turned = []
    for pose in poses(60, seed=2):
        env.place(pose, {"cube": np.array([0.4, 0.3, 0.0])})
        assert not env.contacts(), (pose, env.contacts())
        turned.append(env.joints()[0])
    assert max(turned) > 0.5 and min(turned) < -0.5


def test_apply_does_what_it_says_it_did(env):
    rng = np.random.default_rng(3)
    errors = []
    for seed in range(10):
        env.reset(seed)
        for _ in range(10):
            before = env.proprio()
            applied = env.apply(rng.uniform(env.action_spec.low, env.action_spec.high))
            errors.append(np.abs(env.proprio() - before - applied))
    assert np.quantile(errors, 0.95) < 0.005


def test_the_workspace_is_a_wall(env):
    env.place(np.array([0.2, 0.14, 0.1, 0.02]))
    applied = np.sum([env.apply(np.array([0.0, 0.04, 0.0, 0.0])) for _ in range(3)], axis=0)
    assert applied[1] == pytest.approx(0.01, abs=2e-3)
    assert env.proprio()[1] < HIGH[1] + 0.005


def test_a_diverged_simulation_is_an_error_not_a_reset(env, tmp_path, monkeypatch):
    env.reset(0)
    env._physics.data.qvel[:] = np.nan
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PhysicsError, match="BADQVEL|BADQACC"):
        env.apply(np.zeros(4))
    assert not list(tmp_path.iterdir()), "MuJoCo left its log"
    env.reset(0)
    env.apply(np.zeros(4))


def test_where_rendering_is_impossible_one_line_says_what_to_install(tmp_path):
    imports = "from robot_wm.robots import so100; from sim_envs.tabletop import Tabletop"
    code = f"{imports}; Tabletop(so100(), image_size=16).observe()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MUJOCO_GL": "nonesuch"},
        capture_output=True,
        text=True,
    )
    assert result.returncode
    assert "apt-get install libegl1" in result.stderr.splitlines()[-1]


def test_closing_one_env_leaves_the_pictures_of_another_alone(env):
    first, other = Tabletop(so100(), image_size=64), Tabletop(so100(), image_size=48)
    expected = env.observe().images["front"], other.observe().images["front"]
    first.observe()
    first.close()
    other.observe()
    del first
    np.testing.assert_array_equal(other.observe().images["front"], expected[1])
    env.observe()
    other.close()
    np.testing.assert_array_equal(env.observe().images["front"], expected[0])


def test_control_rate_must_fit_the_physics_step():
    with pytest.raises(ValueError, match="control_hz"):
        Tabletop(so100(), control_hz=7.0)


def test_simulate_leaves_the_env_as_it_was_and_tells_the_truth(task):
    task.start(task.episode(5))
    before = task.env.snapshot()
    actions = np.random.default_rng(0).uniform(-0.04, 0.04, (3, 2, 4))
    distances = task.simulate(actions)
    assert np.array_equal(task.env.snapshot().physics, before.physics)
    pictures = task.look_ahead(actions)
    assert np.array_equal(task.env.snapshot().physics, before.physics)
    assert [len(future) for future in pictures] == [2, 2, 2]
    for action, expected in zip(actions[1], distances[1], strict=True):
        task.env.apply(action)
        assert task.judge().cost == expected
    assert np.array_equal(task.env.observe().images["front"], pictures[1][1]["front"])


def test_manifest_is_fixed_and_starts_far_from_the_goal(task):
    def manifest(split, num):
        return episodes_of("so100_reach", task.episode, split, num)

    episodes = manifest("test", 100)
    digest = hashlib.sha256(json.dumps(episodes).encode()).hexdigest()
    assert digest[:16] == "3a8d7571a396b285", "the test manifest changed: figures do not compare"
    for episode in episodes:
        assert np.linalg.norm(np.subtract(episode["goal"], episode["start"])[:3]) >= 0.08
    assert manifest("test", 3) == episodes[:3]
    assert {e["seed"] for e in episodes}.isdisjoint(e["seed"] for e in manifest("dev", 100))
    with pytest.raises(ValueError, match="dev"):
        manifest("tset", 1)
    with pytest.raises(ValueError, match="has 100"):
        manifest("test", 101)


def test_the_demonstrator_ends_at_its_goal(task):
    demonstrator = ReachDemonstrator(task)
    distances = []
    for episode in map(task.episode, range(5000, 5025)):
        goal = task.start(episode)
        run_episode(task.env, demonstrator, goal, num_steps=20)
        distances.append(task.judge().cost)
    assert np.mean(np.array(distances) < 0.01) == 1.0


def test_the_state_oracle_reaches_every_goal(task):
    planner = CEM(horizon=1, num_samples=24, num_iterations=2, num_elites=5)
    episodes = [task.episode(8_000_000 + i) for i in range(6)]
    results = evaluate(task, StateOracle(task, planner), episodes, num_steps=14)
    assert summarize(results)["success_final"] == 1.0, [r.curve[-1] for r in results]


def test_every_place_near_the_table_is_found_from_a_place_near_it():
    arm, rng = so100(), np.random.default_rng(0)
    low, high = np.array([0.15, -0.16, 0.016]), np.array([0.33, 0.16, 0.12])
    for _ in range(300):
        place = rng.uniform(low, high)
        joints, _ = arm.reach(place, arm.home)
        there = np.clip(place + rng.uniform(-0.04, 0.04, 3), low, high)
        _, error_m = arm.reach(there, joints)
        assert error_m < 3e-3, (place, there)
