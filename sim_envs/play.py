"""Renders short clips of random motion for pretraining an encoder, without goals or labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robot_wm.kinematics import RobotModel
from robot_wm.types import FloatArray, ImageArray, NonNegative, Share, UserError, checked
from sim_envs.placing import (
    GRASP_M,
    NUM_DRAWS,
    OPEN_M,
    between_fingers,
    draw_pose,
    is_reached,
)
from sim_envs.tabletop import Tabletop

# Applies a change `[7]` before a frame, whose number it also gets.
Move = Callable[[FloatArray, int], None]

_CLEARANCE_M = 0.04  # smaller than in a task: the arm may push the object
_PUSH_M = 0.02  # height of a tool that pushes
_BEHIND_M = 0.045  # distance of a tool from the middle of the object that it is about to push
_NUM_CLOSING = 2  # actions that close it
_LIFT_M = 0.03  # length of an action that lifts the object
_NUM_LIFTING = 2  # number of these actions
_NUM_CARRYING = 6  # actions that then bring it to where the clip begins, at most
_NUM_GRASPS = 4  # tries
_HALF_SIZES_M = (0.01, 0.02)  # half of the edge of an object of another size
_HIGHEST_M = 0.17  # largest height of an object that moves by itself


class Play:
    """Clips of random motion from random poses, under random appearances.

    If every frame has a new appearance, the frames of a clip share only the scene's geometry, and
    actions change only the arm, so that an encoder gains nothing from encoding colours, lights,
    cameras and clutter. In some clips the object moves by itself, over the table or through the
    air, and its motion is part of the action, because an action-conditioned objective need not
    encode an object that no action moves. In others the gripper holds the object, and may let it
    go, or is beside it and pushes.

    Args:
        robot: The arm.
        image_size: Height and width of the pictures, pixels.
        own_appearance_share: Share of the appearances that are the scene's own.
        new_appearance_share: Share of the frames after the first that have a new appearance; 0 for
            one appearance per clip, as in a video.
        wobble_m: Standard deviation of the random part of the actions, m.
        drift_m: Largest constant part of the actions, m.
        object_share: Share of the clips in which the object moves by itself, over the table.
        flying_share: Share of the clips in which it moves by itself, through the air.
        held_share: Share of the clips that begin with the object in the gripper.
        pushed_share: Share of the clips in which the gripper moves toward the object.
        release_share: Share of the clips with the object in the gripper in which that opens.
        other_size_share: Share of the clips in which the object's edge is 2 to 4 cm long.

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
        object_share: Share = 0.3,
        flying_share: Share = 0.25,
        held_share: Share = 0.25,
        pushed_share: Share = 0.1,
        release_share: Share = 0.3,
        other_size_share: Share = 0.25,
    ) -> None:
        total = object_share + flying_share + held_share + pushed_share
        if total > 1 + 1e-9:
            raise UserError(
                f"object_share, flying_share, held_share and pushed_share: their sum is {total:g}, "
                f"want at most 1"
            )
        self._env = Tabletop(robot, image_size=image_size, random_appearance=True, detail_m=0.003)
        (self._object,), (self._camera,) = self._env.objects, self._env.cameras
        self._own_appearance_share = own_appearance_share
        self._new_appearance_share = new_appearance_share
        self._wobble_m, self._drift_m = wobble_m, drift_m
        self._kinds = np.cumsum([object_share, flying_share, held_share, pushed_share])
        self._release_share, self._other_size_share = release_share, other_size_share

    def clip(self, seed: tuple[int, int], num_frames: int) -> tuple[ImageArray, FloatArray]:
        """Renders a clip, which depends on `seed` only.

        Args:
            seed: Seed of the run, and number of the clip in it; at least 0.
            num_frames: Number of frames, T, at least 1.

        Returns:
            Pictures, uint8 RGB `[T, height, width, 3]`, and the changes between them,
            `[T - 1, 7]`: measured x, y, z and opening of the gripper, x, y and z of the object, m.
        """
        env, rng = self._env, np.random.default_rng((*seed, 3))
        drift = rng.uniform(-self._drift_m, self._drift_m, 7)
        other_size = rng.random() < self._other_size_share
        half_size_m = rng.uniform(*_HALF_SIZES_M) if other_size else None
        env.change_object(self._object, half_size_m=half_size_m)
        begins = self._begin_sliding, self._begin_flying, self._begin_held, self._begin_push
        kind = int(np.searchsorted(self._kinds, rng.random(), side="right"))
        begin = begins[kind] if kind < len(begins) else self._begin_apart
        move = begin(rng, drift, num_frames)
        pictures, poses = [], []
        for t in range(num_frames):
            if t:
                move(drift + rng.normal(0, self._wobble_m, 7), t)
            if not t or rng.random() < self._new_appearance_share:
                own_appearance = rng.random() < self._own_appearance_share
                env.randomize_appearance(None if own_appearance else int(rng.integers(2**31)))
            pictures.append(env.observe().images[self._camera])
            poses.append(np.append(env.proprio(), env.object_pose(self._object)[:3]))
        return np.stack(pictures), np.diff(np.stack(poses), axis=0)

    def _begin_apart(self, rng: np.random.Generator, drift: FloatArray, num_frames: int) -> Move:
        """Places the object away from the arm, which alone moves."""
        env, robot = self._env, self._env.robot
        pose = draw_pose(rng, robot)
        env.place(pose, env.draw_objects(rng, [pose], _CLEARANCE_M))
        return lambda change, t: self._apply(change)

    def _begin_sliding(self, rng: np.random.Generator, drift: FloatArray, num_frames: int) -> Move:
        """Places the object away from the arm; both move."""
        self._begin_apart(rng, drift, num_frames)

        def slide(change: FloatArray, t: int) -> None:
            self._move_object(change)
            self._apply(change)

        return slide

    def _begin_flying(self, rng: np.random.Generator, drift: FloatArray, num_frames: int) -> Move:
        """Places the object in the air, where it moves until the picture is taken."""
        self._begin_apart(rng, drift, num_frames)
        z_m = rng.uniform(0, _HIGHEST_M)
        self._move_object(np.zeros(7), z_m)

        def fly(change: FloatArray, t: int) -> None:
            nonlocal z_m
            pose = self._env.object_pose(self._object)
            self._apply(change)  # meanwhile it falls
            z_m = float(np.clip(z_m + change[6], 0, _HIGHEST_M))
            self._move_object(change, z_m, pose)

        return fly

    def _begin_held(self, rng: np.random.Generator, drift: FloatArray, num_frames: int) -> Move:
        """Grasps the object and lifts it; it stays in the gripper until that opens.

        Where no grasp succeeds, the clip is one of `_begin_apart`.
        """
        env, robot = self._env, self._env.robot
        for _ in range(_NUM_GRASPS):
            self._place_at(rng, lambda xy: np.array([*between_fingers(xy), GRASP_M, OPEN_M]))
            for _ in range(_NUM_CLOSING):
                env.apply(np.array([0, 0, 0, -OPEN_M]))
            for _ in range(_NUM_LIFTING):
                env.apply(np.array([0, 0, _LIFT_M, 0]))
            if env.object_pose(self._object)[2] > _LIFT_M:  # it came along
                break
        else:
            return self._begin_apart(rng, drift, num_frames)
        held = self._seen_from_tool()
        target = draw_pose(rng, robot)
        for _ in range(_NUM_CARRYING):
            env.apply(np.append((target - env.proprio())[:3], 0.0))
            self._hold(held)
        drift[3] = 0.0
        release = int(rng.integers(1, max(2, num_frames)))
        if rng.random() >= self._release_share:
            release = num_frames

        def carry(change: FloatArray, t: int) -> None:
            opening = change[3] if t > release else OPEN_M if t == release else -abs(change[3])
            self._apply(np.append(change[:3], opening))
            if t < release:
                self._hold(held)

        return carry

    def _seen_from_tool(self) -> FloatArray:
        """Returns the object's position beside the tool `[3]`, m, in the plane of the arm."""
        tool, place = self._env.proprio(), self._env.object_pose(self._object)
        return _turned(-np.arctan2(tool[1], tool[0])) @ (place - tool)[:3]

    def _hold(self, held: FloatArray) -> None:
        """Puts the object back to where the gripper holds it; in quick motion it would slip."""
        env, tool = self._env, self._env.proprio()
        x, y, z = tool[:3] + _turned(np.arctan2(tool[1], tool[0])) @ held
        pose = env.object_pose(self._object)
        env.place_object(self._object, np.array([x, y, pose[3]]), z)
        env.physics.forward()

    def _begin_push(self, rng: np.random.Generator, drift: FloatArray, num_frames: int) -> Move:
        """Places the tool beside the object, toward which it moves."""
        angle = rng.uniform(-np.pi, np.pi)
        way = np.array([np.cos(angle), np.sin(angle)])
        self._place_at(rng, lambda xy: np.array([*xy - _BEHIND_M * way, _PUSH_M, 0.0]))
        drift[:4] = [*rng.uniform(0.3, 1) * self._drift_m * way, 0.0, 0.0]
        return lambda change, t: self._apply(change)

    def _place_at(
        self, rng: np.random.Generator, tool_at: Callable[[FloatArray], FloatArray]
    ) -> None:
        """Places the object anywhere, and the tool where it must be for an object at x, y."""
        env, robot = self._env, self._env.robot
        for _ in range(NUM_DRAWS):
            (place,) = env.draw_objects(rng, []).values()
            tool = np.clip(tool_at(place[:2]), robot.workspace_low, robot.workspace_high)
            if is_reached(robot, tool):
                break
        else:
            raise UserError(f"play: {robot.name} reaches no object on its table")
        env.place(tool, {self._object: place})

    def _apply(self, change: FloatArray) -> None:
        self._env.apply(change[:4])

    def _move_object(
        self, change: FloatArray, z_m: float = 0.0, pose: FloatArray | None = None
    ) -> None:
        """Moves the object by a change of its x and y, `change[4:6]`, to a height.

        Args:
            change: Changes `[7]`, m.
            z_m: Height of its middle above the table, m; 0: on the table.
            pose: Its pose x, y, z, yaw before the change `[4]`; None: the measured one.
        """
        env, robot = self._env, self._env.robot
        x, y, _, yaw = env.object_pose(self._object) if pose is None else pose
        place = np.clip((x, y) + change[4:6], robot.table_low, robot.table_high)
        env.place_object(self._object, np.array([*place, yaw]), z_m)
        env.physics.forward()

    def close(self) -> None:
        """Closes the env."""
        self._env.close()


def _turned(angle_rad: float) -> FloatArray:
    """Returns the rotation about the vertical axis by an angle, `[3, 3]`."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
