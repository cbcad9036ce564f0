"""The SO-100 on its tabletop as an Env: look through the camera, move the gripper by a little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robot_wm.types import ActionSpec, FloatArray, Observation
from sim_envs.physics import Physics
from sim_envs.so100_ik import SO100Kinematics
from sim_envs.so100_look import SO100Look
from sim_envs.so100_scene import CAMERA, JOINTS, so100_scene

STATE_NAMES = ("ee.x", "ee.y", "ee.z", "gripper")
JAW_RADIUS_M = 0.1  # hinge to tip: an angle of the jaw becomes metres of opening
WORKSPACE_LOW = np.array([0.15, -0.15, 0.04, 0.0])  # ee x y z, gripper opening; m, base frame
WORKSPACE_HIGH = np.array([0.29, 0.15, 0.19, 0.08])
CUBE_LOW = np.array([0.15, -0.15, -np.pi])  # cube x, y in m, yaw in rad
CUBE_HIGH = np.array([0.30, 0.15, np.pi])
CUBE_CLEARANCE_M = 0.06  # from the gripper, at the start and in a goal picture

_CUBE_HEIGHT_M = 0.0155
_HOME_JOINTS = np.array([0.0, -2.0, 1.7, 1.2, 0.0, 0.3])
_PITCH_RAD = 0.9  # gripper pointing down: every point of the workspace is reachable near this angle
_LEASH_M = 0.03
_ARRIVED_RAD = 1e-3
_LATEST = 5  # control periods that a governed arm has for one action

# Joints at rest `[6]` to what turns a joint target `[6]` into this tick's joint command, rad.
BeginGovernor = Callable[[FloatArray], Callable[[FloatArray], FloatArray]]


@dataclass(frozen=True, eq=False)
class SO100State:
    """Everything that decides what the env does next; from `SO100Env.snapshot`."""

    physics: FloatArray
    target: FloatArray
    joints: FloatArray


class SO100Env:
    """An SO-100 moved by end-effector deltas.

    An action is `(dx, dy, dz, d_opening)` in metres in the base frame. The commanded pose moves by
    it, stays inside the workspace, and is resolved to joint targets by damped least squares.
    Proprioception is the measured `(x, y, z, opening)`, metres.

    Args:
        image_size: height and width of the camera's square picture, pixels.
        control_hz: actions per second; the physics step must divide the period.
        max_delta_m: bound of dx, dy, dz and of the opening per action.
        random_look: colours, textures, lights, camera and clutter are drawn anew by `reset` and
            `dress`, from their seed; False keeps the scene's own look.
        detail_m: of what is rendered, see `so100_scene`; 0 is all there is.

    Raises:
        ValueError: the control period is not a multiple of the physics step.
    """

    def __init__(
        self,
        *,
        image_size: int = 128,
        control_hz: float = 5.0,
        max_delta_m: float = 0.04,
        random_look: bool = False,
        detail_m: float = 0.0,
    ) -> None:
        self._physics = Physics(*so100_scene(variety=random_look, detail_m=detail_m))
        self._look = SO100Look(self._physics) if random_look else None
        self._kinematics = SO100Kinematics(Physics(*so100_scene()))
        substeps = 1.0 / control_hz / self._physics.timestep_s
        self._substeps = round(substeps)
        if self._substeps < 1 or abs(substeps - self._substeps) > 1e-6:
            raise ValueError(
                f"control_hz: got {control_hz}, want a period that is a whole number of physics "
                f"steps of {self._physics.timestep_s} s"
            )
        self._image_size = image_size
        self._control_dt = 1.0 / control_hz
        self._qpos, _ = self._physics.joint_indices(JOINTS)
        self._action_spec = ActionSpec(
            STATE_NAMES, np.full(4, -max_delta_m), np.full(4, max_delta_m), ("m",) * 4
        )
        self._target = np.zeros(4)
        self._joints = _HOME_JOINTS.copy()
        self._begin: BeginGovernor | None = None
        self._tick_steps = 0
        self.reset(0)

    @property
    def physics(self) -> Physics:
        """What it steps: for those who drive the joints themselves."""
        return self._physics

    @property
    def action_spec(self) -> ActionSpec:
        return self._action_spec

    @property
    def control_dt(self) -> float:
        return self._control_dt

    def govern(self, begin: BeginGovernor, *, tick_s: float) -> None:
        """Sends every joint command through a governor from now on, tick by tick.

        An action then takes as many ticks as its way needs, at least a control period and at most
        five: the arm goes no faster than the governor lets it.

        Args:
            begin: makes a governor for an arm at rest.
            tick_s: from one of its commands to the next.

        Raises:
            ValueError: the tick is not a whole number of physics steps, or the arm stands where it
                may not.
        """
        steps = tick_s / self._physics.timestep_s
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"tick_s: got {tick_s}, want a whole number of physics steps of "
                f"{self._physics.timestep_s} s"
            )
        self._begin, self._tick_steps = begin, round(steps)
        self._govern = begin(self._joints)

    def reset(self, seed: int) -> Observation:
        """A start pose, an opening, a cube and a look, all drawn from `seed`."""
        self.dress(seed)
        rng = np.random.default_rng(seed)
        pose, cube = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH), rng.uniform(CUBE_LOW, CUBE_HIGH)
        while np.linalg.norm(pose[:2] - cube[:2]) < CUBE_CLEARANCE_M:
            cube = rng.uniform(CUBE_LOW, CUBE_HIGH)
        self.place(pose, cube)
        return self.observe()

    def dress(self, seed: int | None) -> None:
        """Draws a look from `seed`, None for the scene's own; only where looks are random."""
        if not self._look:
            return
        if seed is None:
            self._look.default()
        else:
            self._look.draw(np.random.default_rng((seed, 2)))

    def place(self, pose: FloatArray, cube: FloatArray | None = None) -> None:
        """Sets the arm at rest at a pose, with no time passing on the way.

        Args:
            pose: `[4]`: ee x, y, z and gripper opening, m.
            cube: `[3]`: x, y in m and yaw in rad; None leaves the cube where it is.

        Raises:
            ValueError: the arm cannot be there.
        """
        joints, error_m = self._kinematics.solve(pose[:3], _HOME_JOINTS, pitch_rad=_PITCH_RAD)
        if not error_m < 0.005:
            raise ValueError(f"pose: got {pose}, {error_m:.3f} m out of the arm's reach")
        joints[5] = pose[3] / JAW_RADIUS_M
        data = self._physics.data
        cube_pose = data.joint("cube").qpos.copy()
        self._physics.reset()
        data.joint("cube").qpos[:] = cube_pose
        if cube is not None:
            self.place_cube(cube)
        data.qpos[self._qpos] = joints
        data.ctrl[:] = joints
        self._target = np.array(pose, np.float64)
        self._joints = joints
        self._physics.forward()
        self._physics.step(self._substeps)
        self._at_rest()

    def _at_rest(self) -> None:
        if self._begin is not None:
            self._govern = self._begin(self._joints)

    def place_cube(self, cube: FloatArray) -> None:
        """Lays the cube on the table, at rest, at `[3]`: x, y in m and yaw in rad."""
        joint, half_yaw = self._physics.data.joint("cube"), cube[2] / 2
        quaternion = (np.cos(half_yaw), 0, 0, np.sin(half_yaw))
        joint.qpos[:] = (*cube[:2], _CUBE_HEIGHT_M, *quaternion)
        joint.qvel[:] = 0

    def observe(self) -> Observation:
        picture = self._physics.render(CAMERA, self._image_size, self._image_size)
        return Observation(
            images={CAMERA: picture}, proprio=self.proprio(), stamp_s=float(self._physics.data.time)
        )

    def proprio(self) -> FloatArray:
        """Measured ee x, y, z and gripper opening `[4]`, m."""
        opening = self.joints()[5] * JAW_RADIUS_M
        return np.append(self._physics.site_position("ee"), opening)

    def joints(self) -> FloatArray:
        """Measured joint angles `[6]`, rad."""
        return self._physics.data.qpos[self._qpos].copy()

    def cube_pose(self) -> FloatArray:
        """The cube's x, y, z in m and its yaw in rad, `[4]`."""
        x, y, z, qw, qx, qy, qz = self._physics.data.joint("cube").qpos
        yaw = np.arctan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy**2 + qz**2))
        return np.array([x, y, z, yaw])

    def privileged(self) -> dict[str, dict[str, float]]:
        """What no camera says, for datasets and probes, never for controllers.

        Returns:
            `observation.environment_state`: the cube's x, y, z in m and its yaw in rad;
            `observation.joints`: measured angles, rad; each value by its name.
        """
        cube = zip(("cube.x", "cube.y", "cube.z", "cube.yaw"), self.cube_pose(), strict=True)
        return {
            "observation.environment_state": dict(cube),
            "observation.joints": dict(zip(JOINTS, self.joints(), strict=True)),
        }

    def contacts(self) -> set[tuple[str, str]]:
        """Pairs of body names now touching, the cube lying on the table left out."""
        return self._physics.contact_pairs() - {("cube", "world")}

    def apply(self, action: FloatArray) -> FloatArray:
        """Moves the commanded pose by `action` `[4]` for one control period.

        Returns:
            `[4]`, m: by how much the commanded pose really moved, after the bounds of the action,
            of the workspace and of the arm's reach, and after what blocked it.

        Raises:
            ValueError: wrong size or not finite; nothing moves.
            PhysicsError: the simulation diverged.
        """
        before = self._target
        wish = np.clip(before + self._action_spec.clip(action), WORKSPACE_LOW, WORKSPACE_HIGH)
        joints, _ = self._kinematics.solve(wish[:3], self._joints, pitch_rad=_PITCH_RAD)
        joints[5] = wish[3] / JAW_RADIUS_M
        self._joints = joints = self._drive(joints)
        opening = wish[3] if self._begin is None else joints[5] * JAW_RADIUS_M
        self._target = np.append(self._kinematics.position(joints), opening)
        # A blocked arm must not be pushed ever harder: the command stays on a leash of the arm.
        lag = self._target[:3] - self.proprio()[:3]
        excess = max(0.0, float(np.linalg.norm(lag)) - _LEASH_M)
        if excess:
            self._target[:3] -= lag * excess / np.linalg.norm(lag)
        return self._target - before

    def _drive(self, joints: FloatArray) -> FloatArray:
        """Takes the arm to joint angles `[6]`, rad; returns the last command."""
        if self._begin is None:
            self._physics.data.ctrl[:] = joints
            self._physics.step(self._substeps)
            return joints
        least = self._substeps // self._tick_steps
        command = self._joints
        for tick in range(1, _LATEST * least + 1):
            command = self._govern(joints)
            self._physics.data.ctrl[:] = command
            self._physics.step(self._tick_steps)
            if tick >= least and np.abs(command - joints).max() < _ARRIVED_RAD:
                break
        return command

    def snapshot(self) -> SO100State:
        """The full state, for `restore`."""
        return SO100State(self._physics.snapshot(), self._target.copy(), self._joints.copy())

    def restore(self, state: SO100State) -> None:
        """Returns to a `snapshot`, exactly."""
        self._physics.restore(state.physics)
        self._target, self._joints = state.target.copy(), state.joints.copy()
        self._at_rest()

    def stop(self) -> None:
        """Brakes and holds the arm: at the measured pose, or as its governor lets it."""
        if self._begin is None:
            self._joints = self.joints()
            self._physics.data.ctrl[:] = self._joints
            self._target = self.proprio()
            return
        self._joints = self._drive(self._joints)
        opening = self._joints[5] * JAW_RADIUS_M
        self._target = np.append(self._kinematics.position(self._joints), opening)

    def close(self) -> None:
        self._physics.close()
