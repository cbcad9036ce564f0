from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from robot_wm.poses import euler_to_matrix, integrate_poses, matrix_to_euler, pose_change


def poses(num, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-np.pi, np.pi, (num, 3)) * scale
    angles[:, 1] /= 2
    return np.concatenate(
        (rng.uniform(-1, 1, (num, 3)) * scale, angles, rng.uniform(0, 1, (num, 1)) * scale), axis=1
    )


def test_angles_and_matrices_are_scipys():
    angles = poses(2000, 0)[:, 3:6]
    rotation = Rotation.from_euler("xyz", angles)
    ours = euler_to_matrix(torch.from_numpy(angles))
    np.testing.assert_allclose(ours.numpy(), rotation.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(matrix_to_euler(ours).numpy(), rotation.as_euler("xyz"), atol=1e-9)


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2])
def test_straight_up_and_down_the_rotation_survives(pitch):
    angles = poses(200, 1)[:, 3:6]
    angles[:, 1] = pitch
    rotation = euler_to_matrix(torch.from_numpy(angles))
    again = euler_to_matrix(matrix_to_euler(rotation))
    np.testing.assert_allclose(again.numpy(), rotation.numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poses_under_actions_are_scipys(dtype):
    num, horizon = 50, 8
    start = poses(num, 2)
    moves = np.stack([poses(num, 3 + h, scale=0.2) for h in range(horizon)], axis=1)
    moves[..., 6] *= np.where(np.arange(horizon) % 2, -4, 4)  # past both ends of the gripper
    ours = integrate_poses(torch.tensor(start, dtype=dtype), torch.tensor(moves, dtype=dtype))
    assert ours.dtype == dtype
    position, rotation, grip = start[:, :3], Rotation.from_euler("xyz", start[:, 3:6]), start[:, 6]
    for h in range(horizon):
        position = position + moves[:, h, :3]
        rotation = Rotation.from_euler("xyz", moves[:, h, 3:6]) * rotation
        grip = np.clip(grip + moves[:, h, 6], 0, 1)
        atol = 1e-6
        np.testing.assert_allclose(ours[:, h, :3].numpy(), position, atol=atol)
        np.testing.assert_allclose(
            euler_to_matrix(ours[:, h, 3:6].double()).numpy(), rotation.as_matrix(), atol=atol
        )
        np.testing.assert_allclose(ours[:, h, 6].numpy(), grip, atol=atol)
        if dtype == torch.float64:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                np.testing.assert_allclose(
                    ours[:, h, 3:6].numpy(), rotation.as_euler("xyz"), atol=atol
                )


def test_a_change_leads_from_one_pose_to_the_other():
    before, after = (torch.from_numpy(poses(100, seed)) for seed in (10, 11))
    change = pose_change(before, after)
    arrived = integrate_poses(before, change[:, None])[:, 0]
    torch.testing.assert_close(arrived, after, atol=1e-9, rtol=0)


def test_one_start_serves_all_candidates_and_other_sizes_are_refused():
    start, moves = torch.zeros(1, 7), torch.rand(5, 3, 7) * 0.1
    torch.testing.assert_close(
        integrate_poses(start, moves), integrate_poses(start.expand(5, 7), moves)
    )
    with pytest.raises(ValueError, match="poses: got"):
        integrate_poses(torch.zeros(3, 7), moves)
    with pytest.raises(ValueError, match="poses: got"):
        integrate_poses(torch.zeros(1, 6), moves)
    with pytest.raises(ValueError, match=r"want .*\[N, H, 7\]"):
        integrate_poses(start, moves[..., :4])
