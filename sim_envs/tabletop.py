"""Any arm on a table with objects and cameras, as an Env."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robot_wm.kinematics import RobotModel
from robot_wm.kinematics.robot import STATE_NAMES
from robot_wm.types import ActionSpec, FloatArray, Observation, UserError
from sim_envs.appearance import Appearance
from sim_envs.physics import Physics
from sim_envs.scene import Block, Camera, Table, compose, scale_of, stand_of, wrist_of

CLEARANCE_M = 0.06  # of an object from the gripper and from other objects, where both are drawn
CUBE = Block("cube")

NUM_DRAWS = 10_000  # after which what is drawn is taken to have no room

_LEASH_M = 0.03
_GRIPPER_M = 0.035  # of the gripper, around its tool
_STEEP = 0.15  # of a camera's height: one that stands less far aside looks straight down
_ABOVE_M = 5e-4  # the table, where an object is laid
_ARRIVED_RAD = 1e-3
_LATEST = 5  # control periods that a governed arm has for one action


class TickGovernor(Protocol):
    """Turns joint targets into one legal joint command a tick."""

    def step(self, target: FloatArray) -> FloatArray:
        """This tick's command `[J]`, rad, toward a target `[J]`, rad."""
        ...

    def copy(self) -> TickGovernor:
        """Another that goes on from here."""
        ...


# Makes a governor for an arm that stands at joints `[J]`, rad.
BeginGovernor = Callable[[FloatArray], TickGovernor]


@dataclass(frozen=True, eq=False)
class TabletopState:
    """Everything that decides what the env does next; from `Tabletop.snapshot`."""

    physics: FloatArray
    target: FloatArray
    joints: FloatArray
    governor: TickGovernor | None


class Tabletop:
    """An arm on a table, moved by end-effector deltas.

    An action is `(dx, dy, dz, d_opening)` in metres in the base frame. The commanded pose moves by
    it, stays inside the arm's workspace, and is resolved to joint targets by damped least squares.
    Proprioception is the measured `(x, y, z, opening)`, metres. An object's pose is its x and y in
    metres and its yaw in radians, in the base frame.

    Args:
        robot: the arm.
        objects: that lie on the table.
        cameras: that look at it; None: one in front, as far away as the arm is large.
        wrist_camera: whether one rides on the arm, besides those.
        table: under it; None: one as large as the arm asks for.
        image_size: height and width of every camera's square picture, pixels.
        control_hz: actions per second; the physics step must divide the period.
        max_delta_m: bound of dx, dy, dz and of the opening per action.
        random_appearance: colours, textures, lights, cameras and clutter are drawn anew by
            `reset` and `randomize_appearance`, from their seed; False keeps the scene's own.
        detail_m: corners of the meshes nearer to each other than about this are drawn as one
            (`compose`); 0 draws them all.

    Raises:
        UserError: the control period is not a multiple of the physics step, or no camera.
    """

    def __init__(
        self,
        robot: RobotModel,
        *,
        objects: Sequence[Block] = (CUBE,),
        cameras: Sequence[Camera] | None = None,
        wrist_camera: bool = False,
        table: Table | None = None,
        image_size: int = 128,
        control_hz: float = 5.0,
        max_delta_m: float = 0.04,
        random_appearance: bool = False,
        detail_m: float = 0.0,
    ) -> None:
        own_table, front = stand_of(robot)
        cameras = (front,) if cameras is None else tuple(cameras)
        cameras += (wrist_of(robot),) if wrist_camera else ()
        if not 0 < control_hz < np.inf:
            raise UserError(f"control_hz: got {control_hz}, want a rate above zero")
        for camera in cameras:
            away = np.abs(np.subtract(camera.position, camera.look_at))
            if random_appearance and not camera.on_tool and max(away[:2]) < _STEEP * away[2]:
                raise UserError(
                    f"cameras: {camera.name} looks straight down, and a random look would turn its "
                    f"picture any way; move it aside, or want random_appearance=False"
                )
        if not cameras:
            raise UserError("cameras: got none, want at least 1")
        self._robot = robot
        self._objects = {block.name: block for block in objects}
        # What rides on the arm is named by it.
        self._cameras = {
            camera.name: f"{robot.name}/{camera.name}" if camera.on_tool else camera.name
            for camera in cameras
        }
        self._physics = Physics(
            *compose(
                robot,
                table=table or own_table,
                objects=tuple(objects),
                cameras=cameras,
                variety=random_appearance,
                detail_m=detail_m,
                image_size=image_size,
            )
        )
        beside = [camera.name for camera in cameras if not camera.on_tool]
        self._look = (
            Appearance(self._physics, robot.name, tuple(self._objects), beside, scale_of(robot))
            if random_appearance
            else None
        )
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
        self.reset(0)

    @property
    def physics(self) -> Physics:
        """What it steps: for those who drive the joints themselves."""
        return self._physics

    @property
    def robot(self) -> RobotModel:
        """The arm."""
        return self._robot

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of its cameras, in the order of `observe`."""
        return tuple(self._cameras)

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of what lies on the table."""
        return tuple(self._objects)

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
            UserError: the tick is not a whole number of physics steps, the control period no
                whole number of ticks, or the arm stands where it may not.
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
        self._at_rest()

    def reset(self, seed: int) -> Observation:
        """A start pose, an opening, the objects' poses and a look, all drawn from `seed`."""
        self.randomize_appearance(seed)
        rng = np.random.default_rng(seed)
        pose = rng.uniform(self._robot.workspace_low, self._robot.workspace_high)
        self.place(pose, self.draw_objects(rng, [pose]))
        return self.observe()

    def draw_objects(
        self,
        rng: np.random.Generator,
        away_from: Sequence[FloatArray],
        clearance_m: float = CLEARANCE_M,
    ) -> dict[str, FloatArray]:
        """Draws every object's pose `[3]` on the table, clear of each other.

        Args:
            rng: decides.
            away_from: where the gripper is, poses whose x and y they are clear of as well.
            clearance_m: between two middles; more where they are so large that they would touch.

        Raises:
            UserError: the table has no room for them.
        """
        low = np.array([*self._robot.table_low, -np.pi])
        high = np.array([*self._robot.table_high, np.pi])
        poses: dict[str, FloatArray] = {}
        radius = {n: float(np.hypot(*block.half_size[:2])) for n, block in self._objects.items()}
        for name in self._objects:
            taken = [(place[:2], _GRIPPER_M) for place in away_from]
            taken += [(pose[:2], radius[other]) for other, pose in poses.items()]
            clear = [(place, max(clearance_m, radius[name] + size)) for place, size in taken]
            for _ in range(NUM_DRAWS):
                pose = rng.uniform(low, high)
                if all(np.linalg.norm(pose[:2] - place) >= least for place, least in clear):
                    break
            else:
                raise UserError(
                    f"objects: got {len(self._objects)}, the table has no room for {name} clear "
                    f"of the others"
                )
            poses[name] = pose
        return poses

    def randomize_appearance(self, seed: int | None) -> None:
        """Draws a look from `seed`, None for the scene's own; only where looks are random."""
        if not self._look:
            return
        if seed is None:
            self._look.default()
        else:
            self._look.draw(np.random.default_rng((seed, 2)))

    def place(self, pose: FloatArray, objects: Mapping[str, FloatArray] | None = None) -> None:
        """Sets the arm at rest at a pose, where it then stands for a control period.

        Args:
            pose: `[4]`: ee x, y, z and gripper opening, m.
            objects: name -> pose `[3]`; where one is not named, it stays where it is.

        Raises:
            UserError: the arm cannot be there, or an object of another name.
        """
        joints, error_m = self._robot.reach(pose[:3], self._robot.home)
        if not error_m < 0.005:
            raise UserError(f"pose: got {pose}, {error_m:.3f} m out of the arm's reach")
        joints = self._robot.opened(joints, pose[3])
        data = self._physics.data
        stay = {name: data.joint(f"{name}/").qpos.copy() for name in self._objects}
        self._physics.reset()
        for name, qpos in stay.items():
            data.joint(f"{name}/").qpos[:] = qpos
        for name, where in (objects or {}).items():
            self.place_object(name, where)
        data.qpos[self._qpos] = joints
        data.ctrl[self._servos] = joints
        self._target = np.array(pose, np.float64)
        self._joints = joints
        self._physics.forward()
        self._physics.step(self._substeps)
        self._at_rest()

    def _at_rest(self) -> None:
        if self._begin is not None:
            self._governor = self._begin(self._joints)

    def place_object(self, name: str, pose: FloatArray) -> None:
        """Lays an object on the table, at rest, at a pose `[3]`.

        Raises:
            UserError: none of that name.
        """
        if name not in self._objects:
            raise UserError(f"object: got {name!r}, want one of {', '.join(self._objects)}")
        joint, half_yaw = self._physics.data.joint(f"{name}/"), pose[2] / 2
        height = self._objects[name].half_size[2] + _ABOVE_M
        joint.qpos[:] = (*pose[:2], height, np.cos(half_yaw), 0, 0, np.sin(half_yaw))
        joint.qvel[:] = 0

    def observe(self) -> Observation:
        size = self._image_size
        return Observation(
            images={
                name: self._physics.render(own, size, size) for name, own in self._cameras.items()
            },
            proprio=self.proprio(),
            stamp_s=float(self._physics.data.time),
        )

    def proprio(self) -> FloatArray:
        """Measured ee x, y, z and gripper opening `[4]`, m."""
        position = self._physics.site_position(f"{self._robot.name}/{self._robot.tool}")
        return np.append(position, self._robot.gripper.opening_m(self.joints()))

    def joints(self) -> FloatArray:
        """Measured joint angles `[J]`, rad."""
        return self._physics.data.qpos[self._qpos].copy()

    def command(self, joints: FloatArray) -> None:
        """Sets the servos' goals `[J]`, rad, and lets no time pass."""
        self._physics.data.ctrl[self._servos] = joints

    def object_pose(self, name: str) -> FloatArray:
        """An object's x, y, z in m and its yaw in rad, `[4]`."""
        x, y, z, qw, qx, qy, qz = self._physics.data.joint(f"{name}/").qpos
        yaw = np.arctan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy**2 + qz**2))
        return np.array([x, y, z, yaw])

    def privileged(self) -> dict[str, dict[str, float]]:
        """What no camera says, for datasets and probes, never for controllers.

        Returns:
            `observation.environment_state`: each object's x, y, z in m and its yaw in rad;
            `observation.joints`: measured angles, rad; each value by its name.
        """
        state = {
            f"{name}.{what}": float(value)
            for name in self._objects
            for what, value in zip(("x", "y", "z", "yaw"), self.object_pose(name), strict=True)
        }
        joints = dict(zip(self._robot.joints, self.joints(), strict=True))
        return {"observation.environment_state": state, "observation.joints": joints}

    def contacts(self) -> set[tuple[str, str]]:
        """Pairs of body names now touching, sorted; objects that lie on the table left out."""
        pairs = set()
        for pair in self._physics.contact_pairs():
            own = (name.rstrip("/").rpartition("/")[2] for name in pair)
            pairs.add(tuple(sorted(own)))
        return pairs - {(name, "world") for name in self._objects}

    def apply(self, action: FloatArray) -> FloatArray:
        """Moves the commanded pose by `action` `[4]` for one control period.

        Returns:
            `[4]`, m: by how much the commanded pose really moved, after the bounds of the action,
            of the workspace and of the arm's reach, and after what blocked it.

        Raises:
            UserError: wrong size or not finite; nothing moves.
            PhysicsError: the simulation diverged.
        """
        before = self._target
        robot = self._robot
        wish = before + self._action_spec.clip(action)
        wish = np.clip(wish, robot.workspace_low, robot.workspace_high)
        joints, _ = robot.reach(wish[:3], self._joints)
        self._joints = self._drive(robot.opened(joints, wish[3]))
        self._target = robot.state(self._joints)
        # A blocked arm must not be pushed ever harder: the command stays on a leash of the arm.
        lag = self._target[:3] - self.proprio()[:3]
        excess = max(0.0, float(np.linalg.norm(lag)) - _LEASH_M)
        if excess:
            self._target[:3] -= lag * excess / np.linalg.norm(lag)
            moved = self._action_spec.clip(self._target - before)
            self._target = before + moved
        return self._target - before

    def _drive(self, joints: FloatArray) -> FloatArray:
        """Takes the arm to joint angles `[J]`, rad; returns the last command."""
        if self._governor is None:
            self.command(joints)
            self._physics.step(self._substeps)
            return joints
        least = self._substeps // self._tick_steps
        command = self._joints
        for tick in range(1, _LATEST * least + 1):
            command = self._governor.step(joints)
            self.command(command)
            self._physics.step(self._tick_steps)
            if tick >= least and np.abs(command - joints).max() < _ARRIVED_RAD:
                break
        return command

    def snapshot(self) -> TabletopState:
        """The full state, for `restore`."""
        return TabletopState(
            self._physics.snapshot(),
            self._target.copy(),
            self._joints.copy(),
            None if self._governor is None else self._governor.copy(),
        )

    def restore(self, state: TabletopState) -> None:
        """Returns to a `snapshot`, exactly."""
        self._physics.restore(state.physics)
        self._target, self._joints = state.target.copy(), state.joints.copy()
        self._governor = None if state.governor is None else state.governor.copy()

    def stop(self) -> None:
        """Brakes and holds the arm: at the measured pose, or as its governor lets it."""
        if self._begin is None:
            self._joints = self.joints()
            self.command(self._joints)
            self._target = self.proprio()
            return
        self._joints = self._drive(self._joints)
        self._target = self._robot.state(self._joints)

    def close(self) -> None:
        self._physics.close()
