"""What the SO-100's tabletop looks like: colours, textures, lights, camera and clutter, at random.

Domain randomisation (arXiv 1703.06907): an encoder that has seen a thousand tables does not take
the table for the arm. Looks change what a camera sees and nothing that moves.
"""

from __future__ import annotations

import colorsys
import xml.etree.ElementTree as ET

import numpy as np

from robot_wm.types import FloatArray
from sim_envs.physics import Physics

# The one camera may stand and aim this much elsewhere, and see this much more or less.
CAMERA_JITTER_M = 0.02
AIM_JITTER_M = 0.015
FOVY_JITTER_DEG = 2.0

_TEXTURES = ("flat", "checker", "gradient", "speckled")
_CLUTTER = ("sphere", "cylinder", "capsule", "ellipsoid", "box", "cylinder")
_CLUTTER_LOW, _CLUTTER_HIGH = np.array([-0.12, -0.32]), np.array([0.50, 0.32])
# Clutter stands around the place of work, not in it: what lies in it is the object.
_WORK_LOW, _WORK_HIGH = np.array([-0.12, -0.20]), np.array([0.34, 0.20])
_COPIED = (
    "mat_rgba",
    "geom_rgba",
    "geom_matid",
    "geom_pos",
    "geom_quat",
    "geom_size",
    "light_dir",
    "light_diffuse",
    "cam_pos",
    "cam_fovy",
    "body_pos",
)

_ASSETS = """
<asset>
  <texture name="flat" type="2d" builtin="flat" rgb1="1 1 1" width="16" height="16"/>
  <texture name="checker" type="2d" builtin="checker" rgb1="1 1 1" rgb2=".6 .6 .6"
           width="128" height="128"/>
  <texture name="gradient" type="2d" builtin="gradient" rgb1="1 1 1" rgb2=".5 .5 .5"
           width="128" height="128"/>
  <texture name="speckled" type="2d" builtin="flat" mark="random" random=".2" rgb1="1 1 1"
           markrgb=".55 .55 .55" width="128" height="128"/>
</asset>
"""
_SURFACES = ("table", "floor")
_REPEATS = (2, 5, 11)


def add_variety(root: ET.Element) -> None:
    """Adds to the scene's XML what looks choose from; it is not seen until a look shows it."""
    asset, world = root.find("asset"), root.find("worldbody")
    assert asset is not None and world is not None
    asset.extend(ET.fromstring(_ASSETS))
    for surface in _SURFACES:
        for texture in _TEXTURES:
            for repeat in _REPEATS:
                ET.SubElement(
                    asset,
                    "material",
                    name=f"{surface}_{texture}_{repeat}",
                    texture=texture,
                    texrepeat=f"{repeat} {repeat}",
                    specular=".1",
                )
    for i, kind in enumerate(_CLUTTER):
        ET.SubElement(
            world,
            "geom",
            name=f"clutter{i}",
            type=kind,
            size=".02 .02 .02",
            # MuJoCo fixes here whether a geom has a frame of its own: at the origin it would not.
            pos="0 0 -1",
            quat=".8 0 0 .6",
            rgba="0 0 0 0",
            contype="0",
            conaffinity="0",
        )


class SO100Look:
    """Dresses a scene that has variety.

    Args:
        physics: of the scene, made with `so100_scene(variety=True)`, in its own colours.
    """

    def __init__(self, physics: Physics) -> None:
        self._physics = physics
        model = physics.model
        self._default = {name: getattr(model, name).copy() for name in _COPIED}
        self._headlight = (
            model.vis.headlight.ambient.copy(),
            model.vis.headlight.diffuse.copy(),
        )

    def default(self) -> None:
        """Back to the scene's own look."""
        for name, value in self._default.items():
            getattr(self._physics.model, name)[:] = value
        ambient, diffuse = self._headlight
        self._physics.model.vis.headlight.ambient[:] = ambient
        self._physics.model.vis.headlight.diffuse[:] = diffuse
        self._physics.forward()

    def draw(self, rng: np.random.Generator) -> None:
        """A look that `rng` alone decides."""
        self.default()
        model = self._physics.model
        for surface, saturation in zip(_SURFACES, (0.5, 0.4), strict=True):
            name = f"{surface}_{rng.choice(_TEXTURES)}_{rng.choice(_REPEATS)}"
            material = model.material(name)
            material.rgba = _colour(rng, saturation=(0, saturation), value=(0.3, 1))
            model.geom(surface).matid = material.id
        model.material("orange").rgba = _colour(rng, saturation=(0, 1), value=(0.3, 1))
        model.material("black").rgba = _colour(rng, saturation=(0, 0.3), value=(0.03, 0.35))
        model.geom("cube").rgba = _colour(rng, saturation=(0.7, 1), value=(0.5, 1))

        model.light_diffuse[:] = rng.uniform(0.25, 0.75) * _tint(rng)
        model.light_dir[:] = (*rng.uniform(-0.7, 0.7, 2), -1.0)
        model.vis.headlight.ambient[:] = rng.uniform(0.2, 0.5) * _tint(rng)
        model.vis.headlight.diffuse[:] = rng.uniform(0.2, 0.6) * _tint(rng)

        model.cam_pos[:] += rng.uniform(-CAMERA_JITTER_M, CAMERA_JITTER_M, 3)
        model.cam_fovy[:] += rng.uniform(-FOVY_JITTER_DEG, FOVY_JITTER_DEG)
        model.body("look_at").pos += rng.uniform(-AIM_JITTER_M, AIM_JITTER_M, 3)

        for i in rng.permutation(len(_CLUTTER))[: rng.integers(len(_CLUTTER))]:
            geom = model.geom(f"clutter{i}")
            size = rng.uniform(0.008, 0.03, 3)
            geom.size = size
            geom.rgba = _colour(rng, saturation=(0, 1), value=(0.1, 1))
            place = rng.uniform(_CLUTTER_LOW, _CLUTTER_HIGH)
            while ((_WORK_LOW < place) & (place < _WORK_HIGH)).all():
                place = rng.uniform(_CLUTTER_LOW, _CLUTTER_HIGH)
            turn = rng.uniform(0, np.pi)
            geom.pos = (*place, size.max())
            geom.quat = (np.cos(turn / 2), 0, 0, np.sin(turn / 2))
        self._physics.forward()


def _colour(
    rng: np.random.Generator, *, saturation: tuple[float, float], value: tuple[float, float]
) -> FloatArray:
    """Opaque RGBA `[4]` of any hue, each in [0, 1]."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array([*rgb, 1.0])


def _tint(rng: np.random.Generator) -> FloatArray:
    """Nearly white `[3]`."""
    return rng.uniform(0.85, 1.0, 3)
