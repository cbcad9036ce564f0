"""Datasets of joints, as LeRobot records them, converted to the pose of the arm's tool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hardware.actions import PoseActions, ToolActions
from robot_wm.data import AlignedData, StateView, align
from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.settings import LeRobotRobot, RobotSettings
from robot_wm.kinematics import JointMap, RobotModel
from robot_wm.types import ActionSpec, FloatArray, UserError

_BEYOND_RAD = 0.3  # beyond a joint's range, as another arm of the same kind may be calibrated


def tool_view(robot: RobotSettings, action: str) -> StateView:
    """Returns the conversion from a robot's joints to its tool, named by `robot.action_names`.

    Args:
        robot: Settings of the robot.
        action: Kind of the data's actions (`DataSpec.action`).

    Returns:
        The conversion, the same as in `deploy`.

    Raises:
        UserError: the robot's datasets have no joints, there are not 4 or 7 names, or the actions
            are not displacements of these.
    """
    if not isinstance(robot, LeRobotRobot):
        raise UserError(f"robot: {robot.name} has no joints of its own; want one such as lerobot")
    view = view_of(build_robot(robot), robot.action_names)
    want = "pose_delta" if len(view.names) == 7 else "state_delta"
    if action != want:
        raise UserError(f"data.action: got {action}, want {want} of {', '.join(view.names)}")
    return view


@dataclass(frozen=True, eq=False)
class LearnedJoints:
    """The joints from which a policy of the tool was trained.

    Attributes:
        arm: Name of their arm.
        joints: Joint map by which they became angles.
        posture: Joints of a typical frame `[J]`, rad, which show how the tool was held.
        low: Lower bounds of the tool in the data `[4]` or `[7]`, as in the policy's state.
        high: Upper bounds of the tool in the data `[4]` or `[7]`, likewise.
    """

    arm: str
    joints: JointMap
    posture: FloatArray
    low: FloatArray
    high: FloatArray


def learned_joints(saved: Mapping[str, Any]) -> LearnedJoints | None:
    """Reads the joints that a checkpoint was trained from.

    Args:
        saved: Content of the checkpoint's config.json.

    Returns:
        The joints; None if it was trained on the tool itself.

    Raises:
        UserError: the joints in config.json are invalid.
    """
    record = (saved["training"].get("data") or {}).get("joints")
    if record is None:
        return None
    try:
        keys = tuple(record["keys"])
        joints = JointMap(keys, keys, record["zero"], record["rad_per_unit"])
        posture, low, high = (np.array(record[k], np.float64) for k in ("posture", "low", "high"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint: the joints in its config.json: {error!r}") from error
    sizes = posture.shape == (len(keys),) and low.shape == high.shape and low.size in (4, 7)
    if not sizes or not all(np.isfinite(v).all() for v in (posture, low, high)):
        raise UserError(f"checkpoint: the joints in its config.json: {record}")
    return LearnedJoints(str(record.get("arm", "so100")), joints, posture, low, high)


def view_of(robot: RobotModel, names: tuple[str, ...]) -> StateView:
    """Returns the conversion from a device's joints to the tool of its arm.

    Args:
        robot: The arm, with the joint map of its device.
        names: Names of the tool's numbers: 4 for its x, y, z and the gripper's opening, m; 7 for
            its pose, m and rad, and the gripper from 0 (open) to 1 (closed).

    Returns:
        The conversion.

    Raises:
        UserError: there is another number of names, or two are the same.
    """
    size = len(names)
    if size not in (4, 7) or len(set(names)) != size:
        raise UserError(f"robot.action_names: got {names}, want 4 (the tool) or 7 (its pose)")
    joints = robot.device
    assert joints is not None
    spec = ActionSpec(names, -np.ones(size), np.ones(size), ("",) * size)
    if size == 7:
        actions = PoseActions(robot, spec)
    else:
        actions = ToolActions(robot, spec)
    low, high = robot.chain.joint_range.T

    def of(values: FloatArray) -> FloatArray:
        angles = joints.to_angles(values)  # [T, J]
        beyond = np.maximum(low - angles.min(0), angles.max(0) - high)
        worst = int(beyond.argmax())
        if beyond[worst] > _BEYOND_RAD:
            raise UserError(
                f"{joints.keys[worst]} runs from {angles[:, worst].min():.2f} to "
                f"{angles[:, worst].max():.2f} rad by robot.joints, the arm's from "
                f"{low[worst]:.2f} to {high[worst]:.2f}: other units, zeros or signs?"
            )
        return np.stack([actions.proprio(joint) for joint in angles])

    return StateView(joints.keys, names, of)


def joint_record(data: AlignedData, robot: RobotSettings) -> dict[str, Any]:
    """Returns what a checkpoint stores of the joints that it was trained from.

    Args:
        data: The data, converted to the tool.
        robot: Settings of the robot.

    Returns:
        `arm`, its name; `keys`, `zero` and `rad_per_unit`, those of `robot.joints`; `low` and
        `high`, bounds of the tool in the data; `posture`, the joints, rad, of the frame nearest the
        median of all, which show how the tool was held.

    Raises:
        UserError: the dataset records the tool itself and no joints.
    """
    arm = build_robot(robot)
    joints = arm.device
    assert joints is not None
    spec = replace(data.spec, action="state_delta")
    recorded = align(data.dataset, spec, drop_corrupt=True)
    if recorded.proprio_names == data.proprio_names:
        raise UserError(f"robot: {data.dataset.source} is of the tool already; leave robot out")
    order = [recorded.proprio_names.index(key) for key in joints.keys]
    states = [recorded.proprio[recorded.episodes.index(episode)] for episode in data.episodes]
    angles = joints.to_angles(np.concatenate(states)[:, order].astype(np.float64))
    nearest = np.abs(angles - np.median(angles, axis=0)).sum(axis=1).argmin()
    tool = np.concatenate(data.proprio).astype(np.float64)
    return {
        "arm": arm.name,
        "keys": list(joints.keys),
        "zero": joints.zero.tolist(),
        "rad_per_unit": joints.rad_per_unit.tolist(),
        "low": tool.min(0).tolist(),
        "high": tool.max(0).tolist(),
        "posture": angles[nearest].tolist(),
    }


def oddities(data: AlignedData, robot: LeRobotRobot) -> list[str]:
    """Returns a warning for each sign that a dataset is not of this arm or not in its units."""
    warnings = []
    kind = str(data.dataset.robot_type or robot.type)
    if kind != robot.type and not kind.startswith(("so100", "so101", "so_")):
        warnings.append(f"the dataset is of a {kind}, and is seen as an SO-100's")
    tool = np.concatenate(data.proprio)[:, :3]
    limits = build_robot(robot).limits
    outside = (tool < limits.box_low) | (tool > limits.box_high)
    share = outside.any(axis=1).mean()
    if share > 0:
        warnings.append(
            f"in {share:.0%} of the frames the tool is outside the box of robot.limits: other "
            f"units, zeros or signs than robot.joints says, or a box that is too small"
        )
    return warnings
