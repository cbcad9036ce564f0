"""Reads an arm's chain of links from its MJCF; the only module that imports MuJoCo and dm_control.

MuJoCo chooses its OpenGL backend at import, and both are slow to import, so functions import them
when they need them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from robot_wm.kinematics.chain import Chain, Link
from robot_wm.types import FloatArray, UserError

# MuJoCo's own FatalError is raised if it was imported before a backend was chosen.
_CANNOT_RENDER = (ImportError, AttributeError, RuntimeError)


class RenderingError(OSError):
    """This machine cannot render."""


@contextmanager
def rendering() -> Iterator[None]:
    """Turns errors of OpenGL's loaders into a RenderingError that says what to install."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _CANNOT_RENDER) and type(error).__name__ != "FatalError":
            raise
        raise RenderingError(
            f"MuJoCo cannot render with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} ({error}); "
            f"install EGL (apt-get install libegl1 libgl1), or OSMesa (apt-get install "
            f"libosmesa6) and set MUJOCO_GL=osmesa"
        ) from error


def load_mujoco() -> Any:
    """Imports mujoco, with EGL for rendering without a screen unless MUJOCO_GL says otherwise.

    Returns:
        The module.

    Raises:
        RenderingError: the OpenGL library that MUJOCO_GL names is missing or broken.
    """
    if "MUJOCO_GL" not in os.environ:
        try:
            ctypes.CDLL("libEGL.so.1")
            os.environ["MUJOCO_GL"] = "egl"
        except OSError:
            pass  # kinematics need no rendering
    with rendering():
        import mujoco

    return mujoco


def load_dm_mjcf() -> Any:
    """Imports and returns dm_control.mjcf, which composes MJCF, without dm_control's renderer."""
    load_mujoco()
    backend = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        from dm_control import mjcf
    finally:
        if backend is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = backend
    return mjcf


def export(root: Any) -> tuple[str, dict[str, bytes]]:
    """Converts an `mjcf.RootElement` to MJCF text and the files that it names."""
    # dm_control prefixes the names of attached models with slashes, which it cannot read again.
    xml = re.sub(r'="[^"]*"', lambda value: value[0].replace("/", "_"), root.to_xml_string())
    return xml, {name: bytes(content) for name, content in root.get_assets().items()}


def package_folder(package: str, *parts: str) -> Path:
    """Finds a folder inside an installed package without importing it.

    Args:
        package: Name of the package.
        *parts: Path of the folder within the package.

    Returns:
        The folder.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the arm's model needs the package {package}")
    return Path(spec.submodule_search_locations[0], *parts)


def load_chain(
    xml: str, assets: Mapping[str, bytes] | None = None, *, joints: tuple[str, ...], tool: str
) -> Chain:
    """Loads an arm's moving links, with points that enclose their shapes.

    Args:
        xml: MJCF text.
        assets: Content of each mesh file that the MJCF names, by file name.
        joints: Names of the arm's hinges, in the order of commands.
        tool: Name of the tool's site.

    Returns:
        The chain of links.

    Raises:
        UserError: MuJoCo refuses the text, its angles are in degrees, a name is missing, a joint
            is not a hinge, or there is another joint.
    """
    mujoco = load_mujoco()
    model = mujoco.MjModel.from_xml_string(xml, dict(assets or {}))
    data = mujoco.MjData(model)
    data.qpos[:] = 0
    mujoco.mj_kinematics(model, data)
    try:
        ids = [model.joint(name).id for name in joints]
        site = model.site(tool)
    except KeyError as error:
        raise UserError(f"MJCF: {error.args[0]}") from error
    for name, joint in zip(joints, ids, strict=True):
        if int(model.jnt_type[joint]) != int(mujoco.mjtJoint.mjJNT_HINGE):
            raise UserError(
                f"MJCF: {name} is not a hinge; an arm's joints turn, its gripper's, too"
            )
    check_radians(xml)
    others = [
        model.joint(i).name or "one without a name" for i in range(model.njnt) if i not in ids
    ]
    if others:  # no limits would hold for the bodies that it moves
        raise UserError(f"MJCF: joint {others[0]} is none of the arm's {', '.join(joints)}")
    numbers: dict[int, int] = {}
    links: list[Link] = []
    for body in range(1, model.nbody):
        body_joints = [ids.index(j) for j in _joints_of(model, body) if j in ids]
        parent = numbers.get(int(model.body_parentid[body]), -1)
        if not body_joints and parent < 0:
            continue  # it does not move with the arm
        if len(body_joints) > 1:
            raise UserError(
                f"MJCF: body {model.body(body).name!r} has {len(body_joints)} joints, want 1"
            )
        parent_pose = _pose(data, int(model.body_parentid[body])) if parent >= 0 else np.eye(4)
        joint = ids[body_joints[0]] if body_joints else -1
        numbers[body] = len(links)
        links.append(
            Link(
                parent=parent,
                joint=body_joints[0] if body_joints else -1,
                T_parent=np.linalg.inv(parent_pose) @ _pose(data, body),
                axis=model.jnt_axis[joint].copy() if body_joints else np.array([0.0, 0.0, 1.0]),
                pivot=model.jnt_pos[joint].copy() if body_joints else np.zeros(3),
                points=_points(mujoco, model, body),
            )
        )
    tool_body = int(site.bodyid[0])
    if tool_body not in numbers:
        raise UserError(f"MJCF: no joint of the arm moves {tool!r}")
    return Chain(
        links,
        joint_names=tuple(joints),
        joint_range=model.jnt_range[ids].copy(),
        tool_link=numbers[tool_body],
        tool=site.pos.copy(),
    )


def check_radians(xml: str) -> None:
    """Raises UserError unless an MJCF text has its angles in radians, as the scene does."""
    compilers = ElementTree.fromstring(xml).findall("compiler")
    units = [compiler.get("angle") for compiler in compilers if compiler.get("angle")]
    unit = units[-1] if units else "degree"  # MuJoCo's default
    if unit != "radian":
        raise UserError(f'MJCF: got angles in {unit}, want <compiler angle="radian"/> and radians')


def _joints_of(model: Any, body: int) -> range:
    first = int(model.body_jntadr[body])
    return range(first, first + int(model.body_jntnum[body]))


def _pose(data: Any, body: int) -> FloatArray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = data.xmat[body].reshape(3, 3), data.xpos[body]
    return pose


def _points(mujoco: Any, model: Any, body: int) -> FloatArray:
    """Returns points `[N, 3]` whose convex hull contains a body's shapes, in its frame, m."""
    points = [np.zeros((0, 3))]
    first = int(model.body_geomadr[body])
    for geom in range(first, first + int(model.body_geomnum[body])):
        turn = np.zeros(9)
        mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
        if int(model.geom_type[geom]) == int(mujoco.mjtGeom.mjGEOM_MESH):
            mesh = model.mesh(int(model.geom_dataid[geom]))
            begin, count = int(mesh.vertadr[0]), int(mesh.vertnum[0])
            shape = model.mesh_vert[begin : begin + count].astype(np.float64)
        else:
            center, half = model.geom_aabb[geom][:3], model.geom_aabb[geom][3:]
            shape = center + half * np.array(list(itertools.product((-1, 1), repeat=3)))
        points.append(shape @ turn.reshape(3, 3).T + model.geom_pos[geom])
    return np.concatenate(points)
