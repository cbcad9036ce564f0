"""Renders short clips of random motion for pretraining an encoder, without goals or labels."""

from __future__ import annotations

import numpy as np

from robot_wm.kinematics import RobotModel
from robot_wm.types import FloatArray, ImageArray, NonNegative, Share, checked
from sim_envs.tabletop import Tabletop

_CLEARANCE_M = 0.04  # smaller than in a task: the arm may push the cube


class Play:
    """Clips of random motion from random poses, under random appearances.

    If every frame has a new appearance, the frames of a clip share only the scene's geometry, and
    actions change only the arm, so that an encoder gains nothing from encoding colours, lights,
    cameras and clutter. In some clips the object slides over the table by itself, and its motion is
    part of the action, because an action-conditioned objective need not encode an object that no
    action moves.

    Args:
        robot: The arm.
        image_size: Height and width of the pictures, pixels.
        own_appearance_share: Share of the appearances that are the scene's own.
        new_appearance_share: Share of the frames after the first that have a new appearance; 0 for
            one appearance per clip, as in a video.
        wobble_m: Standard deviation of the random part of the actions, m.
        drift_m: Largest constant part of the actions, m.
        object_share: Share of the clips in which the object moves by itself.

    Raises:
        UserError: a value out of range.
    """

    @checked
    def __init__(
        self,
        robot: RobotModel,
        *,
        image_size: int = 128,
        own_appearance_share: Share = 0.25,
        new_appearance_share: Share = 0.5,
        wobble_m: NonNegative = 0.015,
        drift_m: NonNegative = 0.03,
        object_share: Share = 0.7,
    ) -> None:
        self._env = Tabletop(robot, image_size=image_size, random_appearance=True, detail_m=0.003)
        self._own_appearance_share = own_appearance_share
        self._new_appearance_share = new_appearance_share
        self._object_share = object_share
        self._wobble_m, self._drift_m = wobble_m, drift_m

    def clip(self, seed: tuple[int, int], num_frames: int) -> tuple[ImageArray, FloatArray]:
        """Renders a clip, which depends on `seed` only.

        Args:
            seed: Seed of the run, and number of the clip in it; at least 0.
            num_frames: Number of frames, T, at least 1.

        Returns:
            Pictures, uint8 RGB `[T, height, width, 3]`, and the changes between them,
            `[T - 1, 6]`: measured x, y, z and opening of the gripper, x and y of the object, m.
        """
        env, rng = self._env, np.random.default_rng((*seed, 3))
        robot, (block,), (camera,) = env.robot, env.objects, env.cameras
        pose = rng.uniform(robot.workspace_low, robot.workspace_high)
        env.place(pose, env.draw_objects(rng, [pose], _CLEARANCE_M))
        drift = rng.uniform(-self._drift_m, self._drift_m, 6)
        slides = rng.random() < self._object_share
        pictures, poses = [], []
        for t in range(num_frames):
            if t:
                change = drift + rng.normal(0, self._wobble_m, 6)
                x, y, _, yaw = env.object_pose(block)
                if slides:
                    place = np.clip((x, y) + change[4:], robot.table_low, robot.table_high)
                    env.place_object(block, np.array([*place, yaw]))
                env.apply(change[:4])
            if not t or rng.random() < self._new_appearance_share:
                own_appearance = rng.random() < self._own_appearance_share
                env.randomize_appearance(None if own_appearance else int(rng.integers(2**31)))
            pictures.append(env.observe().images[camera])
            poses.append(np.append(env.proprio(), env.object_pose(block)[:2]))
        return np.stack(pictures), np.diff(np.stack(poses), axis=0)

    def close(self) -> None:
        """Closes the env."""
        self._env.close()
