"""An arm from outside: three hinges and a gripper of two shapes, in thirty lines of MJCF."""

from functools import cache

import numpy as np

from robot_wm.kinematics import Gripper, Limits, RobotModel
from robot_wm.kinematics.mjcf import load_chain
from robot_wm.robots import register_arm

JOINTS = ("turn", "lift", "bend", "jaw")
XML = """
<mujoco model="long_arm">
  <compiler angle="radian"/>
  <default>
    <joint damping="1" armature=".05"/>
    <geom rgba=".2 .6 .3 1" mass=".1"/>
    <position kp="150" kv="8"/>
  </default>
  <worldbody>
    <body name="base">
      <geom type="cylinder" size=".04 .05" pos="0 0 .06"/>
      <body name="post" pos="0 0 .11">
        <joint name="turn" axis="0 0 1" range="-2.5 2.5"/>
        <geom type="cylinder" size=".03 .04" pos="0 0 .04"/>
        <body name="upper" pos="0 0 .09">
          <joint name="lift" axis="0 1 0" range="-1.6 1.6"/>
          <geom type="capsule" size=".02" fromto="0 0 0 0 0 .22"/>
          <body name="lower" pos="0 0 .22">
            <joint name="bend" axis="0 1 0" range="0 2.8"/>
            <geom type="capsule" size=".018" fromto="0 0 0 0 0 .18"/>
            <site name="tip" pos="0 0 .24"/>
            <body name="finger" pos="0 .015 .19">
              <joint name="jaw" axis="1 0 0" range="-.8 0" damping=".2" armature=".01"/>
              <geom type="box" size=".006 .004 .025" pos="0 0 .025"/>
            </body>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position name="turn" joint="turn"/>
    <position name="lift" joint="lift"/>
    <position name="bend" joint="bend"/>
    <position name="jaw" joint="jaw" kp="5" kv=".3"/>
  </actuator>
  <contact><exclude body1="base" body2="post"/></contact>
</mujoco>
"""


@cache
def long_arm():
    """The arm as a value."""
    chain = load_chain(XML, joints=JOINTS, tool="tip")
    low, high = chain.joint_range.T
    return RobotModel(
        name="long_arm", xml=XML, assets={}, chain=chain, tool="tip",
        gripper=Gripper((3,), metres_per_rad=-0.1),
        workspace_low=np.array([0.18, -0.12, 0.08, 0.0]),
        workspace_high=np.array([0.30, 0.12, 0.22, 0.06]),
        table_low=np.array([0.15, -0.15]), table_high=np.array([0.32, 0.15]),
        home=np.array([0.0, 0.2, 2.0, -0.2]),
        limits=Limits(
            low=low, high=high, max_speed=np.full(4, 1.5), max_acceleration=np.full(4, 12.0),
            box_low=np.array([-0.3, -0.5, 0.005]), box_high=np.array([0.6, 0.5, 0.7]),
            tip_speed=0.4, max_jump=1.5, tick_s=0.02,
        ),
    )  # fmt: skip


register_arm("long_arm", long_arm)
