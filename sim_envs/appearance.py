"""Randomises the appearance of a tabletop: colours, textures, lights, cameras and clutter.

With domain randomisation (arXiv 1703.06907), an encoder that was trained on many appearances does
not depend on any. The appearance changes pictures only, and nothing of the physics.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from robot_wm.types import FloatArray
from sim_envs.physics import Physics

# Largest random changes of a fixed camera's position, of the point that it looks at (both along
# each axis), and of its field of view.
CAMERA_JITTER_M = 0.02
AIM_JITTER_M = 0.015
FOVY_JITTER_DEG = 2.0
CAMERA_TURN_DEG = 5.0  # largest angle of the camera's turn where it is a factor of its own

AppearanceFactor = Literal["light", "colours", "camera", "distractor"]

_TEXTURES = ("flat", "checker", "gradient", "speckled")
_CLUTTER = ("sphere", "cylinder", "capsule", "ellipsoid", "box", "cylinder")
# The area of clutter on an SO-100's table, m.
_CLUTTER_LOW, _CLUTTER_HIGH = np.array([-0.12, -0.32]), np.array([0.50, 0.32])
# Clutter is outside this area, in which the objects are, m.
_WORK_LOW, _WORK_HIGH = np.array([-0.12, -0.20]), np.array([0.34, 0.20])
# A distractor is here, x and y on either side, m.
_BESIDE = np.array([[0.04, 0.17], [0.18, 0.20]])
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

_SURFACES = ("table", "floor")
_REPEATS = (2, 5, 11)
_DARK = 0.2  # an arm's material whose channels are all below this remains dark


def add_variety(scene: Any) -> None:
    """Adds materials and invisible clutter to a scene (`mjcf.RootElement`), for `Appearance`."""
    white, size = (1, 1, 1), {"width": 128, "height": 128}
    textures = {
        "flat": {"builtin": "flat", "width": 16, "height": 16},
        "checker": {"builtin": "checker", "rgb2": (0.6, 0.6, 0.6), **size},
        "gradient": {"builtin": "gradient", "rgb2": (0.5, 0.5, 0.5), **size},
        "speckled": {
            "builtin": "flat",
            "mark": "random",
            "random": 0.2,
            "markrgb": (0.55, 0.55, 0.55),
            **size,
        },
    }
    for name, options in textures.items():
        scene.asset.add("texture", name=name, type="2d", rgb1=white, **options)
    for surface in _SURFACES:
        for texture in _TEXTURES:
            for repeat in _REPEATS:
                scene.asset.add(
                    "material",
                    name=f"{surface}_{texture}_{repeat}",
                    texture=texture,
                    texrepeat=(repeat, repeat),
                    specular=0.1,
                )
    for i, kind in enumerate(_CLUTTER):
        scene.worldbody.add(
            "geom",
            name=f"clutter{i}",
            type=kind,
            size=(0.02, 0.02, 0.02),
            # A geom at its body's origin would get no frame of its own, and MuJoCo decides this at
            # compile time.
            pos=(0, 0, -1),
            quat=(0.8, 0, 0, 0.6),
            rgba=(0, 0, 0, 0),
            contype=0,
            conaffinity=0,
        )


class Appearance:
    """Changes the appearance of a scene, and nothing of its physics.

    Args:
        physics: Physics of the scene, made with `compose(variety=True)`, in its own appearance.
        arm: Name of the arm, whose materials change their colours.
        objects: Names of the objects, which change their colours.
        cameras: Names of the fixed cameras, which change position, direction and field of view.
        scale: Size of the arm over that of an SO-100; distances of clutter scale with it.
    """

    def __init__(
        self,
        physics: Physics,
        arm: str,
        objects: Sequence[str],
        cameras: Sequence[str],
        scale: float = 1.0,
    ) -> None:
        self._scale = scale
        self._physics = physics
        model = physics.model
        names = [model.material(i).name for i in range(model.nmat)]
        self._materials = [name for name in names if name.startswith(f"{arm}/")]
        self._objects, self._cameras = objects, cameras
        self._default = {name: getattr(model, name).copy() for name in _COPIED}
        self._headlight = (
            model.vis.headlight.ambient.copy(),
            model.vis.headlight.diffuse.copy(),
        )

    def default(self) -> None:
        """Restores the scene's own appearance; the objects keep the size that they have."""
        model = self._physics.model
        sizes = {name: model.geom(f"{name}/{name}").size.copy() for name in self._objects}
        for name, value in self._default.items():
            getattr(model, name)[:] = value
        for name, size in sizes.items():
            model.geom(f"{name}/{name}").size[:] = size
        ambient, diffuse = self._headlight
        model.vis.headlight.ambient[:] = ambient
        model.vis.headlight.diffuse[:] = diffuse
        self._physics.forward()

    def draw(self, rng: np.random.Generator) -> None:
        """Draws an appearance, which depends on `rng` only."""
        self.default()
        self._draw_colours(rng)
        self._draw_light(rng)
        self._draw_cameras(rng)
        for i in rng.permutation(len(_CLUTTER))[: rng.integers(len(_CLUTTER))]:
            size = rng.uniform(0.008, 0.03, 3)
            colour = _colour(rng, saturation=(0, 1), value=(0.1, 1))
            place = rng.uniform(_CLUTTER_LOW, _CLUTTER_HIGH)
            while ((_WORK_LOW < place) & (place < _WORK_HIGH)).all():
                place = rng.uniform(_CLUTTER_LOW, _CLUTTER_HIGH)
            self._show(i, size, colour, place, turn=rng.uniform(0, np.pi))
        self._physics.forward()

    def draw_factor(self, factor: AppearanceFactor, rng: np.random.Generator) -> None:
        """Draws one factor of the appearance, and leaves the others as they are.

        Args:
            factor: `light`; `colours`, and textures; `camera`: a fixed camera turns by up to 5
                degrees; `distractor`: an object beside the arm's work, of any shape and colour.
            rng: Draws it.
        """
        if factor == "colours":
            self._draw_colours(rng)
        elif factor == "light":
            self._draw_light(rng)
        elif factor == "camera":
            for name in self._cameras:
                self._turn_camera(name, rng)
        else:
            place = rng.uniform(*_BESIDE) * (1, rng.choice((-1, 1)))
            colour = _colour(rng, saturation=(0, 1), value=(0.1, 1))
            size, turn = rng.uniform(0.01, 0.02, 3), rng.uniform(0, np.pi)
            self._show(int(rng.integers(len(_CLUTTER))), size, colour, place, turn=turn)
        self._physics.forward()

    def _draw_colours(self, rng: np.random.Generator) -> None:
        model = self._physics.model
        for surface, saturation in zip(_SURFACES, (0.5, 0.4), strict=True):
            name = f"{surface}_{rng.choice(_TEXTURES)}_{rng.choice(_REPEATS)}"
            material = model.material(name)
            material.rgba = _colour(rng, saturation=(0, saturation), value=(0.3, 1))
            model.geom(surface).matid = material.id
        for name in self._materials:
            material = model.material(name)
            if material.rgba[:3].max() > _DARK:
                material.rgba = _colour(rng, saturation=(0, 1), value=(0.3, 1))
            else:
                material.rgba = _colour(rng, saturation=(0, 0.3), value=(0.03, 0.35))
        for name in self._objects:
            model.geom(f"{name}/{name}").rgba = _colour(rng, saturation=(0.7, 1), value=(0.5, 1))

    def _draw_light(self, rng: np.random.Generator) -> None:
        model = self._physics.model
        model.light_diffuse[:] = rng.uniform(0.25, 0.75) * _tint(rng)
        model.light_dir[:] = (*rng.uniform(-0.7, 0.7, 2), -1.0)
        model.vis.headlight.ambient[:] = rng.uniform(0.2, 0.5) * _tint(rng)
        model.vis.headlight.diffuse[:] = rng.uniform(0.2, 0.6) * _tint(rng)

    def _draw_cameras(self, rng: np.random.Generator) -> None:
        model = self._physics.model
        for name in self._cameras:
            model.camera(name).pos += rng.uniform(-CAMERA_JITTER_M, CAMERA_JITTER_M, 3)
            model.camera(name).fovy += rng.uniform(-FOVY_JITTER_DEG, FOVY_JITTER_DEG)
            model.body(f"{name}_target").pos += rng.uniform(-AIM_JITTER_M, AIM_JITTER_M, 3)

    def _turn_camera(self, name: str, rng: np.random.Generator) -> None:
        target = self._physics.model.body(f"{name}_target")
        view = target.pos - self._physics.model.camera(name).pos
        aside = np.cross(view, rng.normal(size=3))
        angle = np.radians(rng.uniform(0, CAMERA_TURN_DEG))
        target.pos += np.tan(angle) * np.linalg.norm(view) * aside / np.linalg.norm(aside)

    def _show(
        self, clutter: int, size: FloatArray, rgba: FloatArray, place: FloatArray, *, turn: float
    ) -> None:
        geom = self._physics.model.geom(f"clutter{clutter}")
        geom.size, geom.rgba = size, rgba
        geom.pos = (*(self._scale * place), size.max())
        geom.quat = (np.cos(turn / 2), 0, 0, np.sin(turn / 2))


def _colour(
    rng: np.random.Generator, *, saturation: tuple[float, float], value: tuple[float, float]
) -> FloatArray:
    """Draws an opaque RGBA colour of any hue, `[4]`, each in [0, 1]."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array([*rgb, 1.0])


def _tint(rng: np.random.Generator) -> FloatArray:
    """Draws a colour that is nearly white, `[3]`."""
    return rng.uniform(0.85, 1.0, 3)
