"""Composes a table with an arm, objects and cameras with dm_control.mjcf.

dm_control prefixes the names of attached models: the joint Pitch of an arm so100 is `so100/Pitch`,
and the body of an object cube is `cube/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robot_wm.kinematics import RobotModel
from robot_wm.kinematics.mjcf import load_dm_mjcf
from robot_wm.types import UserError
from sim_envs.appearance import add_variety
from sim_envs.meshes import coarsen

# Part of the key of whatever is kept: raise it when the same settings look or move otherwise.
SCENE_VERSION = 1

Vector = tuple[float, float, float]

_STEEP = 0.15  # a camera looks straight down if its horizontal offset over its height is smaller
_SO100_REACH_M = 0.29  # end of an SO-100's workspace along x

_SURROUNDINGS = """
<mujoco model="tabletop">
  <compiler angle="radian"/>
  <option timestep="0.005" integrator="implicitfast"/>
  <statistic center="0.2 0 0.1" extent="0.6"/>
  <visual>
    <headlight ambient=".35 .35 .35" diffuse=".45 .45 .45" specular="0 0 0"/>
    <quality shadowsize="0" offsamples="0"/>
    <map znear="0.02"/>
    <global offwidth="640" offheight="480"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".85 .87 .9" rgb2=".6 .65 .7"
             width="64" height="256"/>
    <texture name="wood" type="2d" builtin="flat" mark="random" random="0.35"
             rgb1=".72 .56 .40" markrgb=".66 .50 .35" width="256" height="256"/>
    <material name="wood" texture="wood" texrepeat="3 3" specular=".1"/>
    <material name="floor" rgba=".45 .46 .48 1"/>
  </asset>
  <worldbody>
    <light pos="0.3 -0.4 1.2" dir="0 .3 -1" diffuse=".55 .55 .55" castshadow="false"
           directional="true"/>
    <geom name="floor" type="plane" size="2 2 .1" pos="0 0 -.4" material="floor"/>
  </worldbody>
</mujoco>
"""


@dataclass(frozen=True)
class Camera:
    """A camera that is fixed beside the table, or mounted on the arm.

    Attributes:
        name: Name of the camera.
        position: Position in the base frame, or in the frame of the body that carries the tool, m.
        look_at: The point that the camera looks at, in the same frame, m.
        fovy_deg: Vertical field of view, degrees.
        on_tool: Whether the camera is mounted on the body that carries the tool.
    """

    name: str
    position: Vector
    look_at: Vector
    fovy_deg: float = 40.0
    on_tool: bool = False


@dataclass(frozen=True)
class Block:
    """A box on the table that can be pushed.

    Attributes:
        name: Name of the box's body.
        half_size: Half of its size along its own x, y and z, m.
        position: Position in a new scene, x and y, m, base frame.
        rgba: Colour, each in [0, 1].
        mass_kg: Mass, kg.
    """

    name: str
    half_size: Vector = (0.015, 0.015, 0.015)
    position: tuple[float, float] = (0.22, -0.08)
    rgba: tuple[float, float, float, float] = (0.15, 0.3, 0.85, 1.0)
    mass_kg: float = 0.03


@dataclass(frozen=True)
class Table:
    """A square table, with its top at z = 0.

    Attributes:
        center: Position of the center, x and y, m, base frame.
        half_size: Half of an edge, m.
    """

    center: tuple[float, float] = (0.18, 0.0)
    half_size: float = 0.35


def check_tilted(cameras: Sequence[Camera]) -> None:
    """Raises UserError for a camera whose picture any small motion of it would rotate."""
    for camera in cameras:
        offset = np.abs(np.subtract(camera.position, camera.look_at))
        if not camera.on_tool and max(offset[:2]) < _STEEP * offset[2]:
            raise UserError(
                f"cameras: {camera.name} looks straight down, and a random appearance would rotate "
                f"its picture by any angle; move it aside, or set random_appearance=False"
            )


def scale_of(robot: RobotModel) -> float:
    """Returns the size of an arm over that of an SO-100."""
    assert robot.reach_m is not None
    return robot.reach_m / _SO100_REACH_M


def stand_of(robot: RobotModel) -> tuple[Table, Camera]:
    """Returns a table for an arm and a camera in front: the SO-100's, scaled to the arm."""
    scale = scale_of(robot)
    table, front = Table(), Camera("front", (0.58, -0.36, 0.50), (0.18, -0.02, 0.14))
    x, y = table.center
    return (
        Table((scale * x, scale * y), scale * table.half_size),
        replace(
            front, position=_scaled(front.position, scale), look_at=_scaled(front.look_at, scale)
        ),
    )


def wrist_of(robot: RobotModel) -> Camera:
    """Returns a camera that is mounted on an arm.

    Args:
        robot: The arm.

    Returns:
        The camera.

    Raises:
        UserError: the arm's model has no place for a camera.
    """
    if robot.wrist is None:
        raise UserError(f"wrist_camera: the model of {robot.name} has no place for a camera")
    position, point = (tuple(float(x) for x in where) for where in robot.wrist)
    return Camera("wrist", position, point, fovy_deg=75.0, on_tool=True)  # type: ignore[arg-type]


def _scaled(vector: Vector, scale: float) -> Vector:
    x, y, z = vector
    return scale * x, scale * y, scale * z


def compose(
    robot: RobotModel,
    *,
    table: Table,
    objects: tuple[Block, ...] = (),
    cameras: tuple[Camera, ...] = (),
    variety: bool = False,
    detail_m: float = 0.0,
    image_size: int = 128,
) -> tuple[str, dict[str, bytes]]:
    """Composes a scene.

    Args:
        robot: The arm, at the origin.
        table: The table under it.
        objects: The objects on the table, in the order of their joints, which precede the arm's.
        cameras: The cameras.
        variety: Whether to add the materials and clutter that `Appearance` chooses from.
        detail_m: Corners of the meshes that are nearer than about this are merged; 0 keeps all.
            With 3 mm a small picture renders about three times faster and is the same except for
            some pixels; the meshes' hulls, which collide, change by as much.
        image_size: Size of the largest picture that is rendered, pixels.

    Returns:
        The MJCF text of the scene and its mesh files, for Physics.

    Raises:
        UserError: two objects or two cameras of one name, or an arm without its tool's site.
    """
    mjcf = load_dm_mjcf()
    names = [robot.name, *(block.name for block in objects)]
    if len({*names}) != len(names) or len({c.name for c in cameras}) != len(cameras):
        cams = ", ".join(camera.name for camera in cameras)
        raise UserError(f"scene: got {', '.join(names)}, cameras {cams}; want names of their own")
    scene = mjcf.from_xml_string(_SURROUNDINGS)
    buffer = getattr(scene.visual, "global")
    buffer.offwidth, buffer.offheight = (max(n, image_size) for n in (640, 480))
    scene.worldbody.add(
        "geom",
        name="table",
        type="box",
        size=(table.half_size, table.half_size, 0.02),
        pos=(*table.center, -0.02),
        material="wood",
        friction=(1, 0.01, 0.001),
    )
    for block in objects:
        frame = scene.attach(_model_of(block, mjcf))
        frame.pos = (*block.position, block.half_size[2] + 0.001)
        frame.add("freejoint")
    assets = dict(robot.assets)
    if detail_m > 0:
        for name, mesh in assets.items():
            if "Collision" not in name:
                assets[name] = coarsen(mesh, detail_m)
    arm = mjcf.from_xml_string(robot.xml, assets=assets)
    arm.model = robot.name  # the name in the MJCF text may be another
    tool = arm.find("site", robot.tool)
    if tool is None:
        raise UserError(f"tool: {robot.name} has no site {robot.tool!r}")
    for camera in cameras:
        _add_camera(scene, tool.parent, camera)
    scene.attach(arm)
    if variety:
        add_variety(scene)
    return scene.to_xml_string(), scene.get_assets()


def _model_of(block: Block, mjcf: Any) -> Any:
    model = mjcf.RootElement(model=block.name)
    model.worldbody.add(
        "geom",
        name=block.name,
        type="box",
        size=block.half_size,
        rgba=block.rgba,
        mass=block.mass_kg,
        friction=(1, 0.01, 0.001),
        condim=4,
    )
    return model


def _add_camera(scene: Any, tool_body: Any, camera: Camera) -> None:
    fovy = camera.fovy_deg  # MuJoCo always reads it in degrees
    if not camera.on_tool:
        target = scene.worldbody.add("body", name=f"{camera.name}_target", pos=camera.look_at)
        scene.worldbody.add(
            "camera",
            name=camera.name,
            pos=camera.position,
            mode="targetbody",
            target=target,
            fovy=fovy,
        )
        return
    back = np.subtract(camera.position, camera.look_at)
    # The tool's y axis points up in the picture, unless the camera looks along it.
    up = (0, 1, 0) if np.linalg.norm(np.cross((0, 1, 0), back)) > 1e-6 else (0, 0, 1)
    right = np.cross(up, back)
    tool_body.add(
        "camera",
        name=camera.name,
        pos=camera.position,
        xyaxes=(*right, *np.cross(back, right)),
        fovy=fovy,
    )
