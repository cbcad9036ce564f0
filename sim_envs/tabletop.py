"""Tabletop: an Env of any arm on a table with objects and cameras."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from robot_wm.kinematics import RobotModel
from robot_wm.kinematics.robot import STATE_NAMES
from robot_wm.types import ActionSpec, Count, FloatArray, Observation, Positive, UserError, checked
from sim_envs.appearance import Appearance
from sim_envs.factors import EpisodeFactors, Factor, FactorSampler, changes_pictures
from sim_envs.physics import Physics
from sim_envs.placing import CLEARANCE_M, REACHED_M, draw_pose, draw_poses, moved_by_hand
from sim_envs.scene import (
    Block,
    Camera,
    Table,
    check_tilted,
    compose,
    scale_of,
    stand_of,
    wrist_of,
)
from sim_envs.state import BeginGovernor, Displacement, TabletopState, TickGovernor

CUBE = Block("cube")

_LEASH_M = 0.03  # largest distance of the commanded from the measured tool position
_ABOVE_M = 5e-4  # height over the table at which an object is placed
_ARRIVED_RAD = 1e-3  # largest joint error of a governed arm at its target
_LATEST = 5  # control periods that a governed arm has for one action


class Tabletop:
    """An arm on a table, moved by end-effector deltas.

    An action is `(dx, dy, dz, d_opening)` in metres in the base frame. The commanded pose moves by
    it, is clipped to the arm's workspace, and is converted to joint targets by damped least
    squares. Proprioception is the measured `(x, y, z, opening)`, metres. An object's pose is its x
    and y in metres and its yaw in radians, in the base frame.

    Args:
        robot: The arm.
        objects: The objects on the table.
        cameras: The cameras; None for one in front, at a distance that suits the arm's size.
        wrist_camera: Whether to add a camera on the arm.
        table: The table; None for one that suits the arm's size.
        image_size: Height and width of every camera's square picture, pixels.
        control_hz: Actions per second; the period must be a multiple of the physics step.
        max_delta_m: Largest change of x, y, z and of the opening per action, m.
        random_appearance: Whether `reset` and `randomize_appearance` draw colours, textures,
            lights, cameras and clutter from their seed; False keeps the scene's own appearance.
        vary: Factors that they draw instead, each alone or several together: `light`, `colours`,
            `camera` (turned by up to 5 degrees), `distractor`, `size` (2 to 4 cm), `mass` (half to
            double), `friction` (.4 to 1), `latency` (what is observed is 100 ms old), `noise` (3 mm
            on every action).
        vary_share: How far size, mass and friction vary, as a share of these ranges.
        detail_m: Corners of the meshes that are nearer to each other than about this are merged
            (see `compose`); 0 keeps all.

    Raises:
        UserError: the control period is not a multiple of the physics step, or no camera.

    Attributes:
        displacement: A hand's motion of an object, announced; None, and after `place`: none.
    """

    displacement: Displacement | None

    @checked
    def __init__(
        self,
        robot: RobotModel,
        *,
        objects: Sequence[Block] = (CUBE,),
        cameras: Sequence[Camera] | None = None,
        wrist_camera: bool = False,
        table: Table | None = None,
        image_size: Count = 128,
        control_hz: Positive = 5.0,
        max_delta_m: Positive = 0.04,
        random_appearance: bool = False,
        vary: Sequence[Factor] = (),
        vary_share: Positive = 1.0,
        detail_m: float = 0.0,
    ) -> None:
        default_table, front = stand_of(robot)
        cameras = (front,) if cameras is None else tuple(cameras)
        cameras += (wrist_of(robot),) if wrist_camera else ()
        if random_appearance or "camera" in vary:
            check_tilted(cameras)
        if random_appearance and vary:
            raise UserError("vary: got factors beside random_appearance, want one of them")
        has_looks = random_appearance or changes_pictures(vary)
        if not cameras:
            raise UserError("cameras: got none, want at least 1")
        self._robot = robot
        self._objects = {block.name: block for block in objects}
        self._half_height = {block.name: block.half_size[2] for block in objects}
        # MuJoCo's names of the cameras; those on the arm have its prefix.
        self._cameras = {
            camera.name: f"{robot.name}/{camera.name}" if camera.on_tool else camera.name
            for camera in cameras
        }
        self._physics = Physics(
            *compose(
                robot,
                table=table or default_table,
                objects=tuple(objects),
                cameras=cameras,
                variety=has_looks,
                detail_m=detail_m,
                image_size=image_size,
            )
        )
        fixed = [camera.name for camera in cameras if not camera.on_tool]
        appearance = None
        if has_looks:
            names = tuple(self._objects)
            appearance = Appearance(self._physics, robot.name, names, fixed, scale_of(robot))
        self._factor_sampler = FactorSampler(appearance, vary, vary_share)
        self._factors = EpisodeFactors()
        self._past = deque[FloatArray](maxlen=1)  # physical states, the observed one first
        substeps = 1.0 / control_hz / self._physics.timestep_s
        self._substeps = round(substeps)
        if self._substeps < 1 or abs(substeps - self._substeps) > 1e-6:
            raise UserError(
                f"control_hz: got {control_hz}, want a period that is a whole number of physics "
                f"steps of {self._physics.timestep_s} s"
            )
        self._image_size = image_size
        self._control_dt = 1.0 / control_hz
        names = tuple(f"{robot.name}/{joint}" for joint in robot.joints)
        self._qpos, _ = self._physics.joint_indices(names)
        self._servos = self._physics.actuator_indices(names)
        self._action_spec = ActionSpec(
            STATE_NAMES, np.full(4, -max_delta_m), np.full(4, max_delta_m), ("m",) * 4
        )
        self._target = np.zeros(4)
        self._joints = robot.home.copy()
        self._begin: BeginGovernor | None = None
        self._governor: TickGovernor | None = None
        self._tick_steps = 0
        self._turn = np.eye(4)
        self.displacement = None
        self._num_applied = 0
        self.reset(0)

    @property
    def physics(self) -> Physics:
        """The simulation, for callers that command joints themselves."""
        return self._physics

    @property
    def robot(self) -> RobotModel:
        """The arm."""
        return self._robot

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, in the order of `observe`."""
        return tuple(self._cameras)

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects on the table."""
        return tuple(self._objects)

    @property
    def action_spec(self) -> ActionSpec:
        """See `Env.action_spec`."""
        return self._action_spec

    @property
    def control_dt(self) -> float:
        """See `Env.control_dt`."""
        return self._control_dt

    def govern(self, begin: BeginGovernor, *, tick_s: float) -> None:
        """Sends every joint command through a governor from now on, tick by tick.

        An action then takes as many ticks as the governor needs for it, at least one control period
        and at most five.

        Args:
            begin: Makes a governor for an arm at rest.
            tick_s: Time from one of its commands to the next, s.

        Raises:
            UserError: the tick is not a whole number of physics steps, the control period is not a
                whole number of ticks, or the arm is at a forbidden place.
        """
        steps = tick_s / self._physics.timestep_s
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
            raise UserError(
                f"tick_s: got {tick_s}, want a whole number of physics steps of "
                f"{self._physics.timestep_s} s"
            )
        if self._substeps % round(steps):
            raise UserError(
                f"tick_s: got {tick_s}, want a part of the control period, {self._control_dt:g} s"
            )
        self._begin, self._tick_steps = begin, round(steps)
        self._restart_governor()

    def reset(self, seed: int) -> Observation:
        """Draws a start pose, an opening, the objects' poses and an appearance from `seed`."""
        self.randomize_appearance(seed)
        rng = np.random.default_rng(seed)
        pose = draw_pose(rng, self._robot)
        self.place(pose, self.draw_objects(rng, [pose]))
        return self.observe()

    def draw_objects(
        self,
        rng: np.random.Generator,
        away_from: Sequence[FloatArray],
        clearance_m: float = CLEARANCE_M,
    ) -> dict[str, FloatArray]:
        """Draws the objects' poses on the table, at some distance from each other.

        Args:
            rng: Draws the poses.
            away_from: Poses of the gripper whose x and y the objects keep their distance from.
            clearance_m: Smallest distance between two centers; more for objects that would touch.

        Returns:
            name -> pose `[3]`.

        Raises:
            UserError: the table has no room for them.
        """
        blocks = tuple(self._objects.values())
        return draw_poses(rng, self._robot, blocks, away_from, clearance_m)

    def randomize_appearance(self, seed: int | None) -> None:
        """Draws an appearance from `seed`, or restores the scene's own for None.

        Args:
            seed: The seed, at least 0. Nothing happens without `random_appearance` or `vary`.
        """
        before, self._factors = self._factors, self._factor_sampler.draw(seed)
        drawn = self._factors
        self._past = deque(maxlen=1 + round(drawn.latency_s / self._physics.timestep_s))
        if before.changes_objects or drawn.changes_objects:
            for name in self._objects:
                self.change_object(name)

    def place(self, pose: FloatArray, objects: Mapping[str, FloatArray] | None = None) -> None:
        """Places the arm at rest at a pose, and lets a control period pass.

        Args:
            pose: Pose of the tool, x, y, z, and opening of the gripper, `[4]`, m.
            objects: Poses `[3]` by name; objects that are not named keep their pose.

        Raises:
            UserError: the arm cannot reach the pose, or an object is unknown.
        """
        joints, error_m = self._robot.reach(pose[:3], self._robot.home)
        if not error_m < REACHED_M:
            raise UserError(f"pose: got {pose}, {error_m:.3f} m out of the arm's reach")
        joints = self._robot.opened(joints, pose[3])
        data = self._physics.data
        old_qpos = {name: data.joint(f"{name}/").qpos.copy() for name in self._objects}
        self._physics.reset()
        for name, qpos in old_qpos.items():
            data.joint(f"{name}/").qpos[:] = qpos
        for name, object_pose in (objects or {}).items():
            self.place_object(name, object_pose)
        data.qpos[self._qpos] = joints
        data.ctrl[self._servos] = joints
        self._target = np.array(pose, np.float64)
        self._joints = joints
        self._physics.forward()
        self._physics.step(self._substeps)
        self._restart_governor()
        self.displacement, self._num_applied = None, 0
        self._past.clear()

    def turn(self, angle_rad: float) -> None:
        """Turns the x and y axes of all actions about the base's z axis, as by a wrong mounting.

        Args:
            angle_rad: Angle from the base's x axis to the actions' x axis, rad.
        """
        cos, sin = np.cos(angle_rad), np.sin(angle_rad)
        self._turn = np.eye(4)
        self._turn[:2, :2] = (cos, -sin), (sin, cos)

    def change_object(
        self, name: str, *, half_size_m: float | None = None, friction: float | None = None
    ) -> None:
        """Gives an object another size or friction; takes effect with the next `place`.

        Args:
            name: Name of the object.
            half_size_m: Half of the edge of a cube of equal density, m; None: as built, or drawn.
            friction: Sliding friction of the object and of the table under it; None: as built, or
                drawn.
        """
        block, drawn = self._objects[name], self._factors
        half_size_m, friction = half_size_m or drawn.half_size_m, friction or drawn.friction
        half = np.full(3, half_size_m) if half_size_m else np.array(block.half_size)
        mass_kg = drawn.mass * block.mass_kg * float(np.prod(half) / np.prod(block.half_size))
        self._physics.set_box(f"{name}/", f"{name}/{name}", half, mass_kg)
        for touched in (f"{name}/{name}", "table"):
            self._physics.set_friction(touched, 1.0 if friction is None else friction)
        self._half_height[name] = float(half[2])

    def _restart_governor(self) -> None:
        if self._begin is not None:
            self._governor = self._begin(self._joints)

    def place_object(self, name: str, pose: FloatArray, z_m: float = 0.0) -> None:
        """Places an object, at rest.

        Args:
            name: Name of the object.
            pose: Pose of the object, x and y in m and yaw in rad, `[3]`, base frame.
            z_m: Height of its middle above the table, m; it is raised where it would be in the
                table.

        Raises:
            UserError: no object of that name.
        """
        if name not in self._objects:
            raise UserError(f"object: got {name!r}, want one of {', '.join(self._objects)}")
        joint, half_yaw = self._physics.data.joint(f"{name}/"), pose[2] / 2
        z = max(z_m, self._half_height[name] + _ABOVE_M)
        joint.qpos[:] = (*pose[:2], z, np.cos(half_yaw), 0, 0, np.sin(half_yaw))
        joint.qvel[:] = 0

    def observe(self) -> Observation:
        """See `Env.observe`."""
        if len(self._past) < 2:
            return self._look()
        now = self._physics.snapshot()  # what is observed is older
        self._physics.restore(self._past[0])
        observation = self._look()
        self._physics.restore(now)
        return observation

    def _look(self) -> Observation:
        size = self._image_size
        return Observation(
            images={
                name: self._physics.render(mujoco_name, size, size)
                for name, mujoco_name in self._cameras.items()
            },
            proprio=self.proprio(),
            stamp_s=float(self._physics.data.time),
        )

    def proprio(self) -> FloatArray:
        """Returns the measured ee x, y, z and gripper opening `[4]`, m."""
        position = self._physics.site_position(f"{self._robot.name}/{self._robot.tool}")
        return np.append(position, self._robot.gripper.opening_m(self.joints()))

    def joints(self) -> FloatArray:
        """Returns the measured joint angles `[J]`, rad."""
        return self._physics.data.qpos[self._qpos].copy()

    def command(self, joints: FloatArray) -> None:
        """Sets the servos' targets `[J]`, rad; no time passes."""
        self._physics.data.ctrl[self._servos] = joints

    def object_pose(self, name: str) -> FloatArray:
        """Returns an object's x, y, z in m and its yaw in rad, `[4]`."""
        x, y, z, qw, qx, qy, qz = self._physics.data.joint(f"{name}/").qpos
        yaw = np.arctan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy**2 + qz**2))
        return np.array([x, y, z, yaw])

    def privileged(self) -> dict[str, dict[str, float]]:
        """Returns the true state, for datasets and probes, never for controllers.

        Returns:
            `observation.environment_state`: each object's x, y, z in m and its yaw in rad;
            `observation.joints`: measured angles, rad. Each value has its name.
        """
        state = {
            f"{name}.{what}": float(value)
            for name in self._objects
            for what, value in zip(("x", "y", "z", "yaw"), self.object_pose(name), strict=True)
        }
        joints = dict(zip(self._robot.joints, self.joints(), strict=True))
        return {"observation.environment_state": state, "observation.joints": joints}

    def is_touched(self, name: str) -> bool:
        """Tells whether the arm touches an object."""
        return any(name in pair for pair in self.contacts())

    def contacts(self) -> set[tuple[str, str]]:
        """Returns sorted pairs of names of touching bodies, except objects on the table."""
        pairs = set()
        for pair in self._physics.contact_pairs():
            short_names = (name.rstrip("/").rpartition("/")[2] for name in pair)
            pairs.add(tuple(sorted(short_names)))
        return pairs - {(name, "world") for name in self._objects}

    def apply(self, action: FloatArray) -> FloatArray:
        """Moves the commanded pose by an action for one control period.

        Args:
            action: Change of the commanded pose, `[4]`, m.

        Returns:
            `[4]`, m: the actual change of the commanded pose, which the bounds of the action, of
            the workspace and of the arm's reach, and obstacles may have reduced.

        Raises:
            ValueError: wrong size or not finite; nothing moves.
            PhysicsError: the simulation diverged.
        """
        before = self._target
        robot = self._robot
        self._hand()
        noise = self._factors.noise(self._num_applied)
        target = before + self._turn @ (self._action_spec.clip(action) + noise)
        target = np.clip(target, robot.workspace_low, robot.workspace_high)
        joints, _ = robot.reach(target[:3], self._joints)
        self._joints = self._drive(robot.opened(joints, target[3]))
        self._target = robot.state(self._joints)
        # The command stays near the arm, so that a blocked arm is not pushed ever harder.
        lag = self._target[:3] - self.proprio()[:3]
        excess = max(0.0, float(np.linalg.norm(lag)) - _LEASH_M)
        if excess:
            self._target[:3] -= lag * excess / np.linalg.norm(lag)
            moved = self._action_spec.clip(self._turn.T @ (self._target - before))
            self._target = before + self._turn @ moved
        return self._action_spec.clip(self._turn.T @ (self._target - before))

    def _hand(self) -> None:
        """Moves an object where its displacement is due; counts one more action."""
        due = self.displacement
        if due is not None and due.step == self._num_applied:
            pose, tool = self.object_pose(due.name), self.proprio()
            place = moved_by_hand(pose[:2], due.by, self._robot, tool)
            self.place_object(due.name, np.array([*place, pose[3]]))
        self._num_applied += 1

    def _drive(self, joints: FloatArray) -> FloatArray:
        """Drives the arm to joint angles `[J]`, rad; returns the last command."""
        if self._governor is None:
            self.command(joints)
            self._advance(self._substeps)
            return joints
        period_ticks = self._substeps // self._tick_steps
        command = self._joints
        for tick in range(1, _LATEST * period_ticks + 1):
            command = self._governor.step(joints)
            self.command(command)
            self._advance(self._tick_steps)
            if tick >= period_ticks and np.abs(command - joints).max() < _ARRIVED_RAD:
                break
        return command

    def _advance(self, num_steps: int) -> None:
        if self._past.maxlen == 1:
            self._physics.step(num_steps)
            return
        for _ in range(num_steps):
            self._physics.step(1)
            self._past.append(self._physics.snapshot())

    def snapshot(self) -> TabletopState:
        """Returns the full state, for `restore`."""
        return TabletopState(
            self._physics.snapshot(),
            self._target.copy(),
            self._joints.copy(),
            None if self._governor is None else self._governor.copy(),
            self._num_applied,
            tuple(self._past),
        )

    def restore(self, state: TabletopState) -> None:
        """Restores the state of a `snapshot` exactly."""
        self._physics.restore(state.physics)
        self._target, self._joints = state.target.copy(), state.joints.copy()
        self._governor = None if state.governor is None else state.governor.copy()
        self._num_applied = state.num_applied
        self._past.clear()
        self._past.extend(state.past)

    def stop(self) -> None:
        """Stops and holds the arm: at its measured pose, or where its governor stops it."""
        if self._begin is None:
            self._joints = self.joints()
            self.command(self._joints)
            self._target = self.proprio()
            return
        self._joints = self._drive(self._joints)
        self._target = self._robot.state(self._joints)

    def close(self) -> None:
        """See `Env.close`."""
        self._physics.close()
