"""Short clips of an SO-100 at play, for pretraining an encoder: no goal, no reward, no labels."""

from __future__ import annotations

import numpy as np

from robot_wm.types import FloatArray, ImageArray
from sim_envs.so100_env import (
    CUBE_HIGH,
    CUBE_LOW,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    SO100Env,
)
from sim_envs.so100_scene import CAMERA

_CUBE_CLEARANCE_M = 0.04  # nearer than in a task: the arm may push the cube


class SO100Play:
    """Clips of random motion from random poses, every frame under a look of its own.

    What all frames of a clip share is the scene; what the actions change is the arm. Colours,
    lights, camera and clutter do neither, so that nothing is gained by encoding them.

    Args:
        image_size: height and width of the pictures, pixels.
        own_look_share: share of the frames with the scene's own look.
        wobble_m: standard deviation of the random part of the actions, m.
        drift_m: largest steady part of the actions, m.
    """

    def __init__(
        self,
        *,
        image_size: int = 128,
        own_look_share: float = 0.25,
        wobble_m: float = 0.015,
        drift_m: float = 0.03,
    ) -> None:
        if not 0 <= own_look_share <= 1:
            raise ValueError(f"own_look_share: got {own_look_share}, want 0 to 1")
        self._env = SO100Env(image_size=image_size, random_look=True)
        self._own_look_share = own_look_share
        self._wobble_m, self._drift_m = wobble_m, drift_m

    def clip(self, seed: int, num_frames: int) -> tuple[ImageArray, FloatArray]:
        """A clip that `seed` alone decides.

        Args:
            seed: at least 0.
            num_frames: T, at least 1.

        Returns:
            Pictures, uint8 RGB `[T, height, width, 3]`, and by how much the measured pose changed
            between them, `[T - 1, 4]`: x, y, z and opening, m.
        """
        env, rng = self._env, np.random.default_rng((seed, 3))
        pose, cube = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH), rng.uniform(CUBE_LOW, CUBE_HIGH)
        while np.linalg.norm(pose[:2] - cube[:2]) < _CUBE_CLEARANCE_M:
            cube = rng.uniform(CUBE_LOW, CUBE_HIGH)
        env.place(pose, cube)
        drift = rng.uniform(-self._drift_m, self._drift_m, 4)
        pictures, poses = [], []
        for t in range(num_frames):
            if t:
                env.apply(drift + rng.normal(0, self._wobble_m, 4))
            own_look = rng.random() < self._own_look_share
            env.dress(None if own_look else int(rng.integers(2**31)))
            pictures.append(env.observe().images[CAMERA])
            poses.append(env.proprio())
        return np.stack(pictures), np.diff(np.stack(poses), axis=0)

    def close(self) -> None:
        self._env.close()
