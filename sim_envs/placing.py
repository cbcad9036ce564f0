"""Draws where objects stand on the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robot_wm.kinematics import RobotModel
from robot_wm.types import FloatArray, UserError
from sim_envs.scene import Block

CLEARANCE_M = 0.06  # smallest distance of a drawn object from the gripper and from other objects
REACHED_M = 0.005  # largest error of an arm that is placed at a pose
NUM_DRAWS = 10_000  # number of rejected samples after which there is taken to be no room
OVER_M = 0.08  # height of the tool over an object that it passes
GRASP_M = 0.017  # height of the tool that grasps
OPEN_M = 0.05  # opening of a gripper that is about to grasp
_GRIPPER_M = 0.035  # radius of the gripper around its tool
_BETWEEN_M = 0.016  # from the middle of an open gripper to the tool, toward its fixed finger


def between_fingers(place: FloatArray) -> FloatArray:
    """Finds where the tool must be for an object to be between its open fingers.

    The gripper of an SO-100 is meant, whose one finger is fixed and whose tool is near that finger.

    Args:
        place: The object's x and y, m, base frame.

    Returns:
        The tool's x and y, m, base frame.
    """
    across = np.array([-place[1], place[0]]) / np.linalg.norm(place)
    return place + _BETWEEN_M * across


def is_reached(robot: RobotModel, pose: FloatArray) -> bool:
    """Tells whether an arm can be placed at a pose of the gripper: x, y, z and opening `[4]`, m."""
    return robot.reach(pose[:3], robot.home)[1] < REACHED_M


def draw_pose(rng: np.random.Generator, robot: RobotModel) -> FloatArray:
    """Draws a pose of the gripper in the arm's workspace that the arm reaches.

    Args:
        rng: Draws the pose.
        robot: The arm.

    Returns:
        x, y, z and opening `[4]`, m.

    Raises:
        UserError: the arm reaches no part of its workspace.
    """
    for _ in range(NUM_DRAWS):
        pose = rng.uniform(robot.workspace_low, robot.workspace_high)
        if is_reached(robot, pose):
            return pose
    raise UserError(f"workspace: {robot.name} reaches no pose in it")


def draw_poses(
    rng: np.random.Generator,
    robot: RobotModel,
    blocks: Sequence[Block],
    away_from: Sequence[FloatArray],
    clearance_m: float,
) -> dict[str, FloatArray]:
    """Draws poses of objects, at some distance from each other and from the gripper.

    Args:
        rng: Draws the poses.
        robot: The arm, which says where on the table.
        blocks: The objects.
        away_from: Poses of the gripper whose x and y the objects keep their distance from.
        clearance_m: Smallest distance between two centers; more for objects that would touch.

    Returns:
        name -> pose `[3]`: x and y, m, and yaw, rad, base frame.

    Raises:
        UserError: the table has no room for them.
    """
    low, high = np.array([*robot.table_low, -np.pi]), np.array([*robot.table_high, np.pi])
    poses: dict[str, FloatArray] = {}
    radius = {block.name: float(np.hypot(*block.half_size[:2])) for block in blocks}
    for name in radius:
        occupied = [(place[:2], _GRIPPER_M) for place in away_from]
        occupied += [(pose[:2], radius[other]) for other, pose in poses.items()]
        distances = [(place, max(clearance_m, radius[name] + r)) for place, r in occupied]
        for _ in range(NUM_DRAWS):
            pose = rng.uniform(low, high)
            if all(np.linalg.norm(pose[:2] - place) >= least for place, least in distances):
                break
        else:
            raise UserError(
                f"objects: got {len(blocks)}, the table has no room for {name} clear of the others"
            )
        poses[name] = pose
    return poses


def moved_by_hand(
    place: FloatArray, by: FloatArray, robot: RobotModel, tool: FloatArray
) -> FloatArray:
    """Returns where a hand puts an object.

    Args:
        place: Where it is, x and y, m.
        by: The change of its place `[2]`, m; turned by a quarter or a half where the object would
            be put off the table or into the gripper.
        robot: The arm, which says where on the table.
        tool: Where the gripper is; x and y come first, m.

    Returns:
        x and y, m.
    """
    (x, y), low, high = by, robot.table_low, robot.table_high
    places = place + np.array([(x, y), (-x, -y), (-y, x), (y, -x)])
    fits = ((low <= places) & (places <= high)).all(1)
    fits &= np.linalg.norm(places - tool[:2], axis=1) >= CLEARANCE_M
    return np.clip(places[fits.argmax()], low, high)  # the first, where none fits
