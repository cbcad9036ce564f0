"""Kinova's Jaco with its three-fingered hand, from dm_control (Apache-2.0).

dm_control's model has velocity actuators. Here each joint has a position servo, like the arm's own
controller, with the torques and speeds of the data sheet as given in dm_control.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from robot_wm.kinematics import Gripper, Limits, RobotModel
from robot_wm.kinematics.mjcf import export, load_chain, load_dm_mjcf, package_folder

ARM_JOINTS = tuple(f"joint_{i}" for i in range(1, 7))
FINGERS = tuple(f"jaco_hand_finger_{i}" for i in range(1, 4))
TOOL = "jaco_hand_pinchsite"

_TORQUES = (30.5, 30.5, 30.5, 6.8, 6.8, 6.8)  # N m
_SPEEDS = tuple(np.deg2rad((36, 36, 36, 48, 48, 48)))  # rad/s


@cache
def jaco() -> RobotModel:
    """Returns the model of the arm: six joints and three fingers that open and shut together."""
    xml, assets = _mjcf()
    chain = load_chain(xml, assets, joints=(*ARM_JOINTS, *FINGERS), tool=TOOL)
    low, high = chain.joint_range.T
    return RobotModel(
        name="jaco",
        xml=xml,
        assets=assets,
        chain=chain,
        tool=TOOL,
        # The opening is measured between the tips of thumb and fingers.
        gripper=Gripper((6, 7, 8), metres_per_rad=-0.095, shut_rad=1.35),
        workspace_low=np.array([0.30, -0.20, 0.08, 0.0]),
        workspace_high=np.array([0.55, 0.20, 0.35, 0.09]),
        table_low=np.array([0.30, -0.20]),
        table_high=np.array([0.55, 0.20]),
        # The hand points down and the elbow up.
        home=np.array([0.14, 2.61, 4.82, 0.29, -1.08, 0.43, 0.6, 0.6, 0.6]),
        wrist=np.array([[0.0, 0.11, -0.03], [0.015, 0.0, -0.22]]),
        limits=Limits(
            low=low,
            high=high,
            max_speed=np.array([*_SPEEDS, 1.0, 1.0, 1.0]),
            # The motors' torque, less friction and weight, over the rotors' inertia.
            max_acceleration=np.array([2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 10.0, 10.0, 10.0]),
            tip_speed=0.5,
            box_low=np.array([-0.5, -0.7, 0.005]),
            box_high=np.array([0.9, 0.7, 1.1]),
            max_jump=1.5,
            tick_s=0.02,
        ),
    )


def _mjcf() -> tuple[str, dict[str, bytes]]:
    """Returns dm_control's arm and hand, with position servos and limited joints."""
    mjcf = load_dm_mjcf()
    folder = package_folder("dm_control", "third_party", "kinova")
    arm, hand = (mjcf.from_path(str(folder / f"jaco_{part}.xml")) for part in ("arm", "hand"))
    arm.model = "jaco"
    arm.find("site", "wristsite").attach(hand)
    for name, torque in zip(ARM_JOINTS, _TORQUES, strict=True):
        joint = arm.find("joint", name)
        if joint.range is None:  # it turns without limit: two revolutions are enough
            joint.set_attributes(limited=True, range=(-2 * np.pi, 2 * np.pi))
        _add_servo(arm, joint, name, kp=200 * torque, kv=10 * torque, torque=torque)
    for name in FINGERS:
        joint = arm.find("joint", name.replace("jaco_hand_", "jaco_hand/"))
        _add_servo(arm, joint, name, kp=60, kv=3, torque=4)
    return export(arm)


def _add_servo(arm: Any, joint: Any, name: str, *, kp: float, kv: float, torque: float) -> None:
    arm.actuator.add(
        "position",
        name=name,
        joint=joint,
        kp=kp,
        kv=kv,
        forcelimited=True,
        forcerange=(-torque, torque),
    )
