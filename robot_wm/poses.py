"""End-effector poses as in V-JEPA 2-AC, and their changes by actions; batched.

A pose is `[x, y, z, roll, pitch, yaw, gripper]` in the robot's base frame: metres, extrinsic xyz
Euler angles in radians (scipy's "xyz"), and 0 (open) to 1 (closed). An action is the change
`[p' - p, euler(R' R^T), g' - g]` (arXiv 2506.09985).
"""

from __future__ import annotations

import torch
from torch import Tensor

POSE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def euler_to_matrix(angles: Tensor) -> Tensor:
    """Converts extrinsic xyz angles `[..., 3]`, rad, to rotations `[..., 3, 3]` = Rz Ry Rx."""
    (a, b, c), (x, y, z) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = (
        (c * b, c * y * x - z * a, c * y * a + z * x),
        (z * b, z * y * x + c * a, z * y * a - c * x),
        (-y, b * x, b * a),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def matrix_to_euler(rotation: Tensor) -> Tensor:
    """Converts rotations to extrinsic xyz Euler angles.

    Args:
        rotation: `[..., 3, 3]`.

    Returns:
        Roll, pitch and yaw `[..., 3]`, rad. Roll and yaw are in [-pi, pi], the pitch in
        [-pi/2, pi/2]. If the pitch is straight up or down (gimbal lock), the yaw is 0 and the roll
        has the whole rotation about the vertical.
    """
    cos_pitch = torch.hypot(rotation[..., 0, 0], rotation[..., 1, 0])
    pitch = torch.atan2(-rotation[..., 2, 0], cos_pitch)
    locked = cos_pitch < 1e-7
    roll = torch.atan2(
        torch.where(locked, -rotation[..., 1, 2], rotation[..., 2, 1]),
        torch.where(locked, rotation[..., 1, 1], rotation[..., 2, 2]),
    )
    yaw = torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0])
    return torch.stack((roll, pitch, torch.where(locked, 0.0, yaw)), dim=-1)


def integrate_poses(pose: Tensor, actions: Tensor) -> Tensor:
    """Computes the poses after each of several actions.

    Rotations are multiplied as matrices, in float64 if the device supports it.

    Args:
        pose: The pose before the first action, `[N, 7]`, or `[1, 7]` for all.
        actions: `[N, H, 7]`.

    Returns:
        `[N, H, 7]` in the dtype of `actions`; the gripper is clipped to [0, 1].

    Raises:
        ValueError: vectors of another size.
    """
    fits = pose.ndim == 2 and actions.ndim == 3 and pose.shape[-1] == actions.shape[-1] == 7
    if not fits or len(pose) not in (1, len(actions)):
        raise ValueError(
            f"poses: got {tuple(pose.shape)} and actions {tuple(actions.shape)}, want [N or 1, 7] "
            f"and [N, H, 7]"
        )
    dtype = torch.float32 if actions.device.type == "mps" else torch.float64
    start, moves = pose.to(dtype).expand(len(actions), 7), actions.to(dtype)
    turns = euler_to_matrix(moves[..., 3:6])  # [N, H, 3, 3]
    rotation, gripper = euler_to_matrix(start[:, 3:6]), start[:, 6]
    rotations, grippers = [], []
    for h in range(actions.shape[1]):
        rotation = turns[:, h] @ rotation
        gripper = (gripper + moves[:, h, 6]).clamp(0, 1)
        rotations.append(rotation)
        grippers.append(gripper)
    position = start[:, None, :3] + moves[..., :3].cumsum(1)
    angles = matrix_to_euler(torch.stack(rotations, dim=1))
    poses = torch.cat((position, angles, torch.stack(grippers, dim=1)[..., None]), dim=-1)
    return poses.to(actions.dtype)


def pose_change(before: Tensor, after: Tensor) -> Tensor:
    """Returns the actions `[..., 7]` that lead from poses `before` to `after`, both `[..., 7]`."""
    dtype = torch.float32 if before.device.type == "mps" else torch.float64
    old, new = before.to(dtype), after.to(dtype)
    turn = euler_to_matrix(new[..., 3:6]) @ euler_to_matrix(old[..., 3:6]).transpose(-1, -2)
    change = new - old
    return torch.cat((change[..., :3], matrix_to_euler(turn), change[..., 6:]), dim=-1).to(
        before.dtype
    )
