"""The probe finds what is there, misses what is not, and does not look at what it was fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from robot_wm.probing import ProbeTargets, principal_components, probe, ridge, targets_from_state

NAMES = ("ee.x", "ee.y", "ee.z", "gripper", "cube.x", "cube.y", "cube.z", "cube.yaw")


def states(num_episodes=30, length=21, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_episodes):
        moving = rng.normal(0, 0.02, (length, 4)).cumsum(0) + rng.uniform(0, 0.2, 4)
        still = np.tile([*rng.uniform(0, 0.2, 2), 0.0155, rng.uniform(-3.1, 3.1)], (length, 1))
        found.append(np.concatenate((moving, still), axis=1))
    return found


def test_a_linear_latent_is_read_off_and_its_distances_are_true():
    truth = states()
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(40, 3)))[0].T
    yaw = [np.stack((np.cos(4 * s[:, 7]), np.sin(4 * s[:, 7])), axis=1) for s in truth]
    rest = 1e-3 * rng.normal(size=(5, 40))
    tokens = [
        (s[:, :3] @ axes + np.concatenate((s[:, 3:6], y), axis=1) @ rest).reshape(-1, 4, 10)
        for s, y in zip(truth, yaw, strict=True)
    ]
    found = probe(tokens, targets_from_state(truth, NAMES), range(10))
    assert set(found.r2) == {"ee_x", "ee_y", "ee_z", "gripper", "cube_x", "cube_y", "cube_yaw"}
    assert min(found.r2.values()) > 0.999 and max(found.mm.values()) < 1
    assert found.deg["cube_yaw"] < 1
    assert found.rank_correlation["all"] > 0.99 and found.rank_correlation["near"] > 0.99
    assert (found.num_numbers, found.num_frames) == (40, 210)


def test_the_height_of_a_lifted_cube_is_a_quantity():
    truth = states()
    for i, state in enumerate(truth):
        state[:, 6] += 0.1 * np.random.default_rng(i).random(len(state))
    found = probe(truth, targets_from_state(truth, NAMES), range(10))
    assert found.r2["cube_z"] > 0.999 and found.mm["cube_z"] < 1


def test_what_is_not_in_the_tokens_is_not_found():
    truth = states()
    tokens = [s[:, :1] for s in truth]  # x alone
    found = probe(tokens, targets_from_state(truth, NAMES), range(10))
    assert found.r2["ee_x"] > 0.999
    assert -0.2 < found.r2["cube_x"] < 0.2 and found.r2["cube_yaw"] < 0.2
    # An angle guessed at random within the symmetry of a cube: 90 / sqrt(12) degrees.
    assert found.deg["cube_yaw"] == pytest.approx(26, abs=4)
    noise = [np.random.default_rng(i).normal(size=(21, 400)) for i in range(30)]
    found = probe(noise, targets_from_state(truth, NAMES), range(10))
    assert max(found.r2.values()) < 0.1, "it was judged on what it was fitted on"
    assert min(found.r2.values()) > -0.5, "the read-out was fitted to noise"
    assert abs(found.rank_correlation["all"]) < 0.1


def test_what_never_varies_is_left_out():
    truth = [
        np.concatenate((s[:, :4], np.tile([0.2, 0.1, 0, 0.5], (len(s), 1))), 1) for s in states()
    ]
    found = probe([s[:, :3] for s in truth], targets_from_state(truth, NAMES), range(10))
    assert set(found.r2) == {"ee_x", "ee_y", "ee_z", "gripper"} and not found.deg


def test_an_angle_whose_cosine_never_varies_is_judged_by_its_sine():
    rng = np.random.default_rng(0)
    angles = [rng.choice([-0.7, 0.7], 60) for _ in range(6)]
    targets = ProbeTargets(
        positions_m=[rng.normal(size=(60, 3)) for _ in angles],
        lengths_m={},
        angles_rad={"yaw": angles},
    )
    found = probe([np.sin(angle)[:, None] for angle in angles], targets, held_out=(4, 5))
    assert found.r2["yaw"] > 0.99 and found.deg["yaw"] < 1


def test_constant_numbers_and_constant_tokens_do_no_harm():
    truth = states()
    tokens = [np.concatenate((s[:, :3], np.ones((len(s), 5))), axis=1) for s in truth]
    assert probe(tokens, targets_from_state(truth, NAMES), range(10)).r2["ee_y"] > 0.999
    found = probe([np.zeros((21, 4))] * 30, targets_from_state(truth, NAMES), range(10))
    assert found.rank_correlation == {"all": 0.0, "near": 0.0, "across": 0.0}
    assert all(np.isfinite(value) for value in found.r2.values())


@pytest.mark.parametrize("columns", [20, 300])
def test_ridge_is_the_closed_form_on_either_side(columns):
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(120, columns)), rng.normal(size=(columns, 2))
    weights[10:] = 0
    y = x @ weights + 3.0
    groups = np.arange(120) // 6
    guess = ridge(x, y, x, groups=groups)
    assert np.square(guess - y).mean() < 0.05 * y.var()
    x_new = rng.normal(size=(400, columns))
    error = np.square(ridge(x, y, x_new, groups=groups) - (x_new @ weights + 3.0)).mean()
    assert error < (0.01 if columns < 120 else 0.9) * y.var()


def test_the_state_must_say_where_the_gripper_is():
    with pytest.raises(ValueError, match=r"got a, b; .* position: ee\.x, ee\.y, ee\.z"):
        targets_from_state([np.zeros((3, 2))], ("a", "b"))
    targets = targets_from_state([s[:, :4] for s in states()], NAMES[:4])
    assert set(targets.lengths_m) == {"ee_x", "ee_y", "ee_z", "gripper"} and not targets.angles_rad


@pytest.mark.parametrize("held_out", [[], [3], range(30), range(29)])
def test_a_split_with_an_empty_side_is_refused(held_out):
    truth = states()
    with pytest.raises(ValueError, match="held_out"):
        probe([s[:, :3] for s in truth], targets_from_state(truth, NAMES), held_out)


def test_tokens_of_other_frames_are_refused():
    truth = states()
    with pytest.raises(ValueError, match="numbers of frames"):
        probe([s[:-1] for s in truth], targets_from_state(truth, NAMES), range(10))


def test_principal_components_are_ordered_and_keep_distances():
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(500, 3)) * (9.0, 3.0, 1.0) @ rng.normal(size=(3, 50))
    (components,) = principal_components(pictures, [pictures], 2)
    assert components.shape == (500, 2)
    assert components.std(0)[0] > components.std(0)[1] > 1
    (every,) = principal_components(pictures, [pictures], 50)
    distances = [np.linalg.norm(x[:9] - x[9:18], axis=1) for x in (every, pictures)]
    np.testing.assert_allclose(*distances)  # a rotation keeps distances
    assert abs(np.corrcoef(components.T)[0, 1]) < 1e-6
