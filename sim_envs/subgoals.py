"""Pictures of sub-goals on the way to a goal picture, as a person would take them."""

from __future__ import annotations

import numpy as np

from robot_wm.types import FloatArray, Goal
from sim_envs.placing import GRASP_M, OPEN_M, OVER_M, between_fingers, is_reached
from sim_envs.tabletop import Tabletop

# Where an object may be pushed in two legs: x and y in the base frame, m.
_REGION = np.array([[0.18, -0.13], [0.30, 0.13]])
_ASIDE_M = 0.08  # largest distance of a point beside a disc from the disc's middle
_BESIDE_M = 0.05  # distance of the tool from an object that it has just pushed
_HELD_M = 0.03  # height of the middle of an object that is held
_NUM_CARRYING = 15  # actions that carry an object to a point, at most


def via(cube: FloatArray, goal: FloatArray, disc: FloatArray | None) -> FloatArray:
    """Returns a point on the way of an object: half of it, or beside a disc that is in its way.

    Args:
        cube: Where the object is, x and y, m.
        goal: Where it is to be, x and y, m.
        disc: Middle of a forbidden disc, x and y, m; None: there is none.

    Returns:
        x and y, m.
    """
    middle = (cube + goal) / 2 if disc is None else disc
    if disc is None:
        return middle
    along = (goal - cube) / np.linalg.norm(goal - cube)
    sides = []
    for across in (np.array([-along[1], along[0]]), np.array([along[1], -along[0]])):
        ends = np.where(across > 0, _REGION[1], _REGION[0])
        room = (ends - middle)[across != 0] / across[across != 0]
        sides.append(min(_ASIDE_M, float(room.min())) * across)
    return middle + max(sides, key=lambda side: float(np.linalg.norm(side)))


def pushed_pictures(
    env: Tabletop, name: str, cube: FloatArray, goal: FloatArray, disc: FloatArray | None
) -> list[Goal]:
    """Takes the picture of an object at the point on its way, with the tool that pushed it there.

    Args:
        env: The arm on its table; left somewhere.
        name: Name of the object.
        cube: Where it is, x and y in m and yaw in rad.
        goal: Where it is to be, likewise.
        disc: Middle of a forbidden disc, x and y, m; None: there is none.

    Returns:
        The picture.
    """
    place = via(cube[:2], goal[:2], disc)
    back = (cube[:2] - place) / np.linalg.norm(cube[:2] - place)
    tool = np.array([*place + _BESIDE_M * back, 0.03, 0.0])
    if not is_reached(env.robot, tool):
        tool = np.array([*place, 0.12, 0.0])
    env.place(tool, {name: np.append(place, cube[2])})
    return [Goal(images=env.observe().images)]


def carried_pictures(
    env: Tabletop, name: str, cube: FloatArray, goal: FloatArray, disc: FloatArray | None
) -> list[Goal]:
    """Takes the pictures of an object between closed fingers, and held over its place.

    Args:
        env: The arm on its table; left somewhere.
        name: Name of the object.
        cube: Where it is, x and y in m and yaw in rad.
        goal: Where it is to be, likewise.
        disc: Middle of a forbidden disc, x and y, m, beside which it is held; None: there is none.

    Returns:
        The pictures; the second is missing where the object slipped.
    """
    env.place(np.array([*between_fingers(cube[:2]), GRASP_M, OPEN_M]), {name: cube})
    for _ in range(2):
        env.apply(np.array([0.0, 0.0, 0.0, -OPEN_M]))
    pictures = [Goal(images=env.observe().images)]
    place = goal[:2] if disc is None else via(cube[:2], goal[:2], disc)
    above = np.append(env.proprio()[:2], OVER_M), np.append(between_fingers(place), OVER_M)
    for target in above:
        for _ in range(_NUM_CARRYING):
            way = target - env.proprio()[:3]
            if np.linalg.norm(way) < 0.005:
                break
            env.apply(np.append(env.action_spec.clip(np.append(way, 0.0))[:3], 0.0))
    if env.object_pose(name)[2] > _HELD_M:
        pictures.append(Goal(images=env.observe().images))
    return pictures
