"""A small interface to MuJoCo's model, state and renderer."""

from __future__ import annotations

import atexit
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_wm.kinematics.mjcf import load_mujoco, rendering
from robot_wm.types import FloatArray, ImageArray, RunError

IntArray = NDArray[np.integer]


class PhysicsError(RunError):
    """The simulation is no longer valid: it diverged, or ran out of memory."""


class Physics:
    """A compiled model with its state, which can be stepped, set and rendered.

    Args:
        xml: MJCF text.
        assets: Content of each mesh file that the XML names, by file name.

    Raises:
        ValueError: MuJoCo refuses the XML.
    """

    def __init__(self, xml: str, assets: dict[str, bytes]) -> None:
        self._mj = load_mujoco()
        # `step` raises on every warning. Without this, MuJoCo also writes MUJOCO_LOG.TXT into the
        # working directory.
        self._mj.set_mju_user_warning(lambda message: None)
        self.model = self._mj.MjModel.from_xml_string(xml, assets)
        self.data = self._mj.MjData(self.model)
        self._renderers: dict[tuple[int, int], Any] = {}
        self._finalizer = weakref.finalize(self, _close_all, self._renderers)
        self._finalizer.atexit = False
        self.forward()

    @property
    def timestep_s(self) -> float:
        """Time of a physics step, s."""
        return float(self.model.opt.timestep)

    def joint_indices(self, names: tuple[str, ...]) -> tuple[IntArray, IntArray]:
        """Returns the indices of one-dof joints into qpos and into qvel."""
        joints = [self.model.joint(name) for name in names]
        return (
            np.array([int(joint.qposadr[0]) for joint in joints]),
            np.array([int(joint.dofadr[0]) for joint in joints]),
        )

    def actuator_indices(self, names: tuple[str, ...]) -> IntArray:
        """Returns the indices of actuators into ctrl."""
        return np.array([self.model.actuator(name).id for name in names])

    def set_box(self, body: str, geom: str, half_size: FloatArray, mass_kg: float) -> None:
        """Gives a body that is one box another size and mass.

        Args:
            body: Name of the body.
            geom: Name of its box.
            half_size: Half of its size along its own x, y and z `[3]`, m.
            mass_kg: Mass, kg.
        """
        box, owner = self.model.geom(geom), self.model.body(body)
        box.size[:], owner.mass[:] = half_size, mass_kg
        box.rbound[:] = np.linalg.norm(half_size)  # what broad collision detection looks at
        self.model.geom_aabb[box.id, 3:] = half_size
        owner.inertia[:] = mass_kg / 3 * (np.square(half_size).sum() - np.square(half_size))
        self._mj.mj_setConst(self.model, self.data)

    def set_friction(self, geom: str, sliding: float) -> None:
        """Sets the coefficient of sliding friction of a body's part."""
        self.model.geom(geom).friction[0] = sliding

    def forward(self) -> None:
        """Updates every quantity that is derived from the state."""
        self._mj.mj_forward(self.model, self.data)

    def step(self, num_steps: int) -> None:
        """Advances the simulation.

        Args:
            num_steps: Number of physics steps.

        Raises:
            PhysicsError: MuJoCo gave a warning, after which it resets or clips the state and
                continues (a NaN control counts as zero control, a diverged pose is reset).
        """
        self._mj.mj_step(self.model, self.data, nstep=num_steps)
        # `number` is a counter per kind of warning; reading them all at once is fastest.
        if self.data.warning.number.any():
            kinds = [
                name
                for name, kind in self._mj.mjtWarning.__members__.items()
                if name != "mjNWARNING" and self.data.warning[int(kind)].number
            ]
            self.data.warning.number[:] = 0
            raise PhysicsError(f"MuJoCo warned by t={self.data.time:.3f} s: {', '.join(kinds)}")

    def site_position(self, name: str) -> FloatArray:
        """Returns the world position `[3]` of a site, m."""
        return self.data.site(name).xpos.copy()

    def contact_pairs(self) -> set[tuple[str, str]]:
        """Returns the pairs of names of touching bodies, each pair sorted."""
        pairs = set()
        for geoms in self.data.contact.geom:
            bodies = sorted(self.model.body(int(self.model.geom_bodyid[g])).name for g in geoms)
            pairs.add((bodies[0], bodies[1]))
        return pairs

    def snapshot(self) -> FloatArray:
        """Returns the full integration state, for `restore`."""
        spec = self._mj.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mj.mj_stateSize(self.model, spec))
        self._mj.mj_getState(self.model, self.data, state, spec)
        return state

    def restore(self, state: FloatArray) -> None:
        """Restores the state of a `snapshot` exactly."""
        self._mj.mj_setState(self.model, self.data, state, self._mj.mjtState.mjSTATE_INTEGRATION)
        self.forward()

    def reset(self) -> None:
        """Resets to the model's initial state, at time 0."""
        self._mj.mj_resetData(self.model, self.data)
        self.forward()

    def render(self, camera: str, height: int, width: int) -> ImageArray:
        """Renders the picture of a camera.

        Args:
            camera: Name of the camera.
            height: Height of the picture, pixels.
            width: Width of the picture, pixels.

        Returns:
            uint8 RGB `[height, width, 3]`.

        Raises:
            RenderingError: this machine cannot render.
        """
        renderer = self._renderers.get((height, width))
        if renderer is None:
            with rendering():
                renderer = self._mj.Renderer(self.model, height, width)
            self._renderers[(height, width)] = renderer
            # Registered after the display that MuJoCo opens with its first renderer and closes at
            # exit: exit handlers run in reverse order, and a context must be freed before its
            # display.
            atexit.register(self._finalizer)
        renderer.update_scene(self.data, camera=camera)
        return renderer.render()

    def close(self) -> None:
        """Frees the OpenGL contexts."""
        _close_all(self._renderers)


def _close_all(renderers: dict[tuple[int, int], Any]) -> None:
    while renderers:
        _, renderer = renderers.popitem()
        # MuJoCo frees a renderer's textures and buffers in the current context. If that is not its
        # own, it frees those of another renderer, which then shows stale memory.
        if renderer._gl_context:
            renderer._gl_context.make_current()
        renderer.close()
