"""MuJoCo's model, state and renderer behind a small door."""

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
    """The simulation left the ground of validity: diverged, or ran out of memory."""


class Physics:
    """A compiled model with its state: step it, pose it, look at it.

    Args:
        xml: MJCF text.
        assets: file name -> bytes, for the meshes the XML names.

    Raises:
        UserError: MuJoCo refuses the XML.
    """

    def __init__(self, xml: str, assets: dict[str, bytes]) -> None:
        self._mj = load_mujoco()
        # `step` raises on every warning; MuJoCo would also leave MUJOCO_LOG.TXT where one stands.
        self._mj.set_mju_user_warning(lambda message: None)
        self.model = self._mj.MjModel.from_xml_string(xml, assets)
        self.data = self._mj.MjData(self.model)
        self._renderers: dict[tuple[int, int], Any] = {}
        self._finalizer = weakref.finalize(self, _close_all, self._renderers)
        self._finalizer.atexit = False
        self.forward()

    @property
    def timestep_s(self) -> float:
        return float(self.model.opt.timestep)

    def joint_indices(self, names: tuple[str, ...]) -> tuple[IntArray, IntArray]:
        """Indices of one-dof joints into qpos and into qvel."""
        joints = [self.model.joint(name) for name in names]
        return (
            np.array([int(joint.qposadr[0]) for joint in joints]),
            np.array([int(joint.dofadr[0]) for joint in joints]),
        )

    def actuator_indices(self, names: tuple[str, ...]) -> IntArray:
        """Indices of actuators into ctrl."""
        return np.array([self.model.actuator(name).id for name in names])

    def forward(self) -> None:
        """Brings every derived quantity up to date with the state."""
        self._mj.mj_forward(self.model, self.data)

    def step(self, num_steps: int) -> None:
        """Advances by `num_steps` physics steps.

        Raises:
            PhysicsError: MuJoCo raised a warning, which for it means it reset or clipped the
                state and went on (a NaN control counts as zero control, a diverged pose is reset).
        """
        self._mj.mj_step(self.model, self.data, nstep=num_steps)
        # `number` is a counter per kind of warning; reading them all at once is the cheap way.
        if self.data.warning.number.any():
            kinds = [
                name
                for name, kind in self._mj.mjtWarning.__members__.items()
                if name != "mjNWARNING" and self.data.warning[int(kind)].number
            ]
            self.data.warning.number[:] = 0
            raise PhysicsError(f"MuJoCo warned by t={self.data.time:.3f} s: {', '.join(kinds)}")

    def site_position(self, name: str) -> FloatArray:
        """World position `[3]` of a site, m."""
        return self.data.site(name).xpos.copy()

    def contact_pairs(self) -> set[tuple[str, str]]:
        """Pairs of body names now touching, each pair sorted."""
        pairs = set()
        for geoms in self.data.contact.geom:
            bodies = sorted(self.model.body(int(self.model.geom_bodyid[g])).name for g in geoms)
            pairs.add((bodies[0], bodies[1]))
        return pairs

    def snapshot(self) -> FloatArray:
        """The full integration state, for `restore`."""
        spec = self._mj.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mj.mj_stateSize(self.model, spec))
        self._mj.mj_getState(self.model, self.data, state, spec)
        return state

    def restore(self, state: FloatArray) -> None:
        """Returns to a `snapshot`, exactly."""
        self._mj.mj_setState(self.model, self.data, state, self._mj.mjtState.mjSTATE_INTEGRATION)
        self.forward()

    def reset(self) -> None:
        """Back to the model's initial state, time 0."""
        self._mj.mj_resetData(self.model, self.data)
        self.forward()

    def render(self, camera: str, height: int, width: int) -> ImageArray:
        """What `camera` sees: uint8 RGB `[height, width, 3]`.

        Raises:
            RenderingError: this machine cannot render.
        """
        renderer = self._renderers.get((height, width))
        if renderer is None:
            with rendering():
                renderer = self._mj.Renderer(self.model, height, width)
            self._renderers[(height, width)] = renderer
            # Registered after the display that MuJoCo opens with its first renderer and closes at
            # exit: exit handlers run last in, first out, and a context must go before its display.
            atexit.register(self._finalizer)
        renderer.update_scene(self.data, camera=camera)
        return renderer.render()

    def close(self) -> None:
        """Frees the OpenGL contexts."""
        _close_all(self._renderers)


def _close_all(renderers: dict[tuple[int, int], Any]) -> None:
    while renderers:
        _, renderer = renderers.popitem()
        # MuJoCo frees a renderer's textures and buffers in whichever context is current: unless
        # that is its own, it frees those of another renderer, which then shows stale memory.
        if renderer._gl_context:
            renderer._gl_context.make_current()
        renderer.close()
