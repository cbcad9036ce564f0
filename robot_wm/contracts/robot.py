"""Checks that a RobotModel keeps its interface."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robot_wm.kinematics import RobotModel
from robot_wm.types import FloatArray


def check_robot(make: Callable[[], RobotModel], *, num: int = 40) -> None:
    """Checks a RobotModel against what simulation, governor and actions expect of it.

    Args:
        make: A function that builds the arm's model.
        num: Number of positions of its workspace that are tried.

    Raises:
        AssertionError: the interface is broken; the message says where.
    """
    from robot_wm.kinematics.mjcf import check_radians, load_mujoco

    robot = make()
    chain, limits, rng = robot.chain, robot.limits, np.random.default_rng(0)
    low, high = chain.joint_range.T
    assert robot.name and "/" not in robot.name, f"name: got {robot.name!r}"
    mujoco = load_mujoco()
    model = mujoco.MjModel.from_xml_string(robot.xml, dict(robot.assets))
    data = mujoco.MjData(model)
    try:
        check_radians(robot.xml)
    except ValueError as error:
        raise AssertionError(f"xml: {error}") from error
    moved = [model.joint(i).name for i in range(model.njnt)]
    assert sorted(moved) == sorted(robot.joints), f"xml: joints {moved}, want {robot.joints}"
    servos = [model.actuator(i).name for i in range(model.nu)]
    assert sorted(servos) == sorted(robot.joints), f"xml: actuators {servos}, want one per joint"
    for number, name in enumerate(robot.joints):
        servo = model.actuator(name)
        kind = int(mujoco.mjtTrn.mjTRN_JOINT), model.joint(name).id
        drives = int(servo.trntype[0]), int(servo.trnid[0])
        assert drives == kind, f"xml: actuator {name} does not drive the joint of its name"
        gain = float(servo.gainprm[0])
        assert gain > 0 and np.isclose(servo.biasprm[1], -gain), (
            f"xml: actuator {name} is no position servo"
        )
        wide = (low[number], high[number]) if not servo.ctrllimited[0] else servo.ctrlrange
        assert wide[0] <= limits.low[number] + 1e-6 and limits.high[number] - 1e-6 <= wide[1], (
            f"xml: actuator {name} takes {wide[0]:.3f} to {wide[1]:.3f} rad, less than its limits"
        )
    corners = chain.corners(robot.home[None])
    assert corners.shape[1] > 0, "chain: no corner, so that nobody sees where the arm is"
    qpos = [int(model.joint(name).qposadr[0]) for name in robot.joints]
    for joints in rng.uniform(low, high, (5, len(low))):
        data.qpos[qpos] = joints
        mujoco.mj_kinematics(model, data)
        off_m = np.abs(chain.tool(joints)[:3, 3] - data.site(robot.tool).xpos).max()
        assert off_m < 1e-9, f"chain: its tool is {off_m:.2g} m from MuJoCo's"
        step = 1e-6
        moved = [chain.tool(joints + step * axis)[:3, 3] for axis in np.eye(len(low))]
        slope = (np.array(moved) - chain.tool(joints)[:3, 3]).T / step
        assert np.abs(slope - chain.jacobian(joints)[:3]).max() < 1e-4, "chain: a wrong Jacobian"
    _check_stands(robot, robot.home, "home")
    if robot.park is not None:
        _check_stands(robot, robot.park, "park")
    assert (limits.low >= low - 1e-9).all() and (limits.high <= high + 1e-9).all(), (
        "limits: wider than the joints"
    )
    for place in rng.uniform(robot.workspace_low, robot.workspace_high, (num, 4)):
        joints, error_m = robot.reach(place[:3], robot.home)
        joints = robot.opened(joints, place[3])
        assert error_m < 5e-3, f"workspace: {place[:3]} is {error_m:.3f} m out of reach"
        off_m = np.abs(robot.state(joints) - place).max()
        assert off_m < 5e-3, f"workspace: at {place} its state is {off_m:.3f} m off"
        _check_stands(robot, joints, f"workspace: at {place.round(3)}")
    if robot.device is not None:
        assert robot.device.names == robot.joints, "device: other joints than the arm's"
        again = robot.device.angles(robot.device.values(robot.home))
        assert np.abs(again - robot.home).max() < 1e-9, "device: its values do not come back"


def _check_stands(robot: RobotModel, joints: FloatArray, what: str) -> None:
    limits, corners = robot.limits, robot.chain.corners(joints[None])
    assert ((joints >= limits.low) & (joints <= limits.high)).all(), f"{what}: beyond the joints"
    inside = (corners >= limits.box_low).all() and (corners <= limits.box_high).all()
    assert inside, f"{what}: a corner of the arm is outside the box of its limits"
