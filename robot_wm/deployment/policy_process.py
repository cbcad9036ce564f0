"""The planner's process of `robot-wm deploy`: the model, and nothing that touches the arm."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hardware.actions import JointActions, PoseActions, ToolActions
from hardware.messages import (
    Begin,
    DecisionTaken,
    PolicyDone,
    PolicyFailed,
    PolicyReady,
    Refused,
    RunEnded,
)
from hardware.reasons import clean
from hardware.remote import Actions, ArmStoppedError, RemoteArm
from hardware.spawn import read_task
from hardware.tasks import (
    PolicyTask,
)
from hardware.wire import FrameSlot, Wire
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.controller import GoalSequence
from robot_wm.deployment.control import check_cameras, check_same_arm, make_controller, step_energy
from robot_wm.deployment.dataset import DeploymentDataset
from robot_wm.deployment.extensions import import_extensions
from robot_wm.deployment.joints import LearnedJoints, learned_joints
from robot_wm.deployment.novelty import refuse_novel
from robot_wm.deployment.pictures import goal_name, read_goal, side_by_side
from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.run import RunSettings
from robot_wm.deployment.settings import LeRobotRobot, RobotSettings
from robot_wm.deployment.threads import share_cores
from robot_wm.kinematics import RobotModel
from robot_wm.monitors import MonitorGuard, Monitors, load_reference
from robot_wm.precision import pick_device
from robot_wm.runtime import GuardError, Recorder, Step, run_episode
from robot_wm.types import ActionSpec, Goal, Guard, Observation, Outcome, UserError, read_settings

_TOOL_MARGIN_M = 0.02  # of the tool in a box that every corner of the gripper has to stay in


class _Reporter:
    """Tells the human's process how far it is."""

    def __init__(self, wire: Wire, controller: GoalSequence) -> None:
        self._wire, self._controller = wire, controller
        self._left: list[Outcome] = []

    def record(self, step: Step) -> None:
        decision = step.decision
        self._wire.send(
            DecisionTaken(
                kind=decision.kind,
                energy=decision.energy,
                plan_s=step.plan_s,
                p_value=step.numbers.get("p_value"),
            )
        )
        if decision.left is not None:
            self._left.append(decision.left)

    def finish(self, last: Observation) -> None:
        outcomes = (*self._left, self._controller.outcome(last))
        self._wire.send(RunEnded(energy=outcomes[-1].energy, outcomes=outcomes))


def main(words: list[str]) -> int:
    """Plans until the run is over; the exit code."""
    for name in ("SIGINT", "SIGHUP"):  # the human's ways to stop: the controller's to follow
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.nice(5)  # the controller first
    share_cores()
    import_extensions()
    task = read_task(int(words[0]), PolicyTask)
    human, wire = Wire.at(task.human), Wire.at(task.wire)
    try:
        settings = read_settings("run", task.settings, RunSettings)
        run = prepare(task, settings, wire)
    except (UserError, OSError) as error:
        human.send(Refused(text=clean(error, 4000)))
        return 2
    what = f"{settings.checkpoint}, {len(run.goals)} goal picture(s)"
    human.send(PolicyReady(what=what, notes=tuple(run.notes)))
    while not any(isinstance(message, Begin) for message in human.receive()):
        if human.closed:
            return 0
        human.wait(None)
    try:
        with contextlib.ExitStack() as stack:
            recorders: list[Recorder] = [_Reporter(human, run.controller)]
            if run.dataset is not None:
                recorders.append(stack.enter_context(run.dataset))
            if run.view is not None:
                recorders.append(run.view)
            num_steps = settings.num_steps * len(run.goals)
            run_episode(
                run.env,
                run.controller,
                run.goals,
                num_steps=num_steps,
                guards=[run.guard],
                recorders=recorders,
            )
    except ArmStoppedError:
        return 0
    except GuardError as error:
        wire.send(PolicyFailed(text=clean(error, 2000)))
        return 1
    except Exception as error:  # noqa: BLE001 - no plan, no memory, no answer: never a clean end
        wire.send(PolicyFailed(text=clean(f"{type(error).__name__}: {error}", 2000)))
        traceback.print_exc()
        return 1
    wire.send(PolicyDone())
    return 0


@dataclass(frozen=True)
class Run:
    """What a deployment consists of.

    Attributes:
        env: the arm.
        controller: acts on it.
        guard: judges what happens.
        goals: what is wanted.
        notes: what the human should know before it moves.
        dataset: where it is recorded, if it is.
        view: where it is shown, if it is.
    """

    env: RemoteArm
    controller: GoalSequence
    guard: Guard
    goals: list[Goal]
    notes: list[str]
    dataset: DeploymentDataset | None
    view: Recorder | None


def prepare(task: PolicyTask, settings: RunSettings, wire: Wire) -> Run:
    """All that must be in order before an arm may move.

    Raises:
        UserError: a checkpoint for another robot, a picture that does not fit, or is not normal.
        OSError: a file that cannot be read or written.
    """
    directory = find_checkpoint(settings.checkpoint)
    model, saved = load_checkpoint(directory)
    model.to(pick_device(settings.device))
    own = settings.robot
    arm = build_robot(own)
    robot = arm.within(task.low, task.high)
    learned = learned_joints(saved)
    actions_of = learned_actions(saved)
    info = model.info
    kind = own.type if isinstance(own, LeRobotRobot) else None
    check_robot(info.action_spec, info.dt, own, robot, actions_of, learned)
    check_same_arm(info, robot, kind)
    actions = make_actions(robot, info.action_spec, own, learned)
    frames = {name: FrameSlot(*place) for name, place in task.frames.items()}
    check_cameras(info, frames)
    env = RemoteArm(wire, frames, actions, control_dt=info.dt)
    planning = settings.planning
    if not settings.moves:  # then nothing comes nearer, and it would soon stop planning
        controlling = msgspec.structs.replace(planning.controller, patience=0)
        planning = msgspec.structs.replace(planning, controller=controlling)
    controller = make_controller(model, env, planning)
    goals = {goal_name(goal): read_goal(goal, info.cameras) for goal in task.goals}
    pictures = [goals[goal_name(goal)] for goal in task.goals]
    wanted = [Goal(images=images) for images in pictures]
    controller.reset(wanted)  # refuses a picture that does not fit
    normal = load_reference(directory, model.info)
    energy = step_energy(model, planning.objective)
    monitors = Monitors(normal, settings.monitors, step_energy=energy)
    notes = [] if normal else ["the checkpoint does not know what is normal: robot-wm monitors"]
    seen = {name: frame[0] for name, slot in frames.items() if (frame := slot.read()) is not None}
    problems = refuse_novel(monitors, model, seen, goals, allow=settings.allow_novel)
    if normal and normal.least_p > settings.monitors.prediction_error_p:
        notes.append(
            f"too few held-out frames: no prediction's p-value can be below {normal.least_p:.3f}, "
            f"and monitors.prediction_error_p is {settings.monitors.prediction_error_p:g}"
        )
    guard = MonitorGuard(monitors, info.cameras, lambda: env.joints, moves=settings.moves)
    dataset = view = None
    if settings.record is not None:
        dataset = DeploymentDataset(
            Path(settings.record),
            dt=info.dt,
            robot_type=kind or robot.name,
            cameras={name: (slot.shape[0], slot.shape[1]) for name, slot in frames.items()},
            state_names=info.state_names,
            actions=env.action_spec,
            task=settings.task,
        )
    if settings.view is not None:
        from robot_wm.deployment.viewer import RerunView  # Rerun takes a second to load

        main = info.cameras[0]
        shown = [side_by_side(images, info.cameras) for images in pictures]
        names = env.action_spec.names
        view = RerunView(settings.view, controller, main, shown, names)
    return Run(env, controller, guard, wanted, [*notes, *problems], dataset, view)


def make_actions(
    robot: RobotModel,
    spec: ActionSpec,
    settings: RobotSettings,
    learned: LearnedJoints | None = None,
) -> Actions:
    """How a policy's actions move a robot's joints.

    Named as the device names its joints, they are steps of those, in its units, as in the datasets
    that LeRobot records on it. Else 4 are steps of the tool, 7 of its pose, and one for each joint,
    in rad by `robot.action_units`, steps of the joints.

    Args:
        robot: the arm.
        spec: of the policy's actions.
        settings: of the robot.
        learned: the joints that it learned from, if it did: then the tool stays where it was,
            and is held as it was, else in the arm's workspace and as at its home.

    Raises:
        UserError: any other number, or joints whose units are not known.
    """
    low, high = robot.workspace_low.copy(), robot.workspace_high.copy()
    if learned is not None:
        low, high = learned.low.copy(), learned.high.copy()
    low[:3] = np.maximum(low[:3], robot.limits.box_low + _TOOL_MARGIN_M)
    high[:3] = np.minimum(high[:3], robot.limits.box_high - _TOOL_MARGIN_M)
    if not (low[:3] < high[:3]).all():
        raise UserError(
            f"robot.limits: the box leaves nothing of where the model plans, "
            f"{low[:3].round(3)} to {high[:3].round(3)} m are left"
        )
    own = _of_device(spec, robot)
    if own or (spec.size == robot.chain.num_joints and set(settings.action_units) == {"rad"}):
        low, high = robot.limits.low, robot.limits.high
        return JointActions(spec, low=low, high=high, joints=robot.device if own else None)
    if spec.size == 7:
        return PoseActions(robot, spec, low=low[:3], high=high[:3])
    if spec.size != 4:
        raise UserError(
            f"checkpoint: its actions, {', '.join(spec.names)}, are neither robot.joints.keys "
            f"nor, by robot.action_units, rad"
        )
    posture = None if learned is None else learned.posture
    return ToolActions(robot, spec, low=low, high=high, posture=posture)


def learned_actions(saved: Mapping[str, Any]) -> str | None:
    """What the actions of a checkpoint are, of its config.json: `data.action` as it was trained;
    None: not said.
    """
    return (saved["training"].get("data") or {}).get("action")


def check_robot(
    spec: ActionSpec,
    dt: float,
    settings: RobotSettings,
    robot: RobotModel,
    actions: str | None,
    learned: LearnedJoints | None = None,
) -> None:
    """Raises UserError unless a policy's actions are those of the robot, or of its own joints.

    Args:
        spec: of the policy's actions.
        dt: seconds that one of them stands for.
        settings: of the robot.
        robot: the arm.
        actions: what they are (`learned_actions`).
        learned: the joints that it learned them from, if it did.
    """
    own = _of_device(spec, robot)
    if own and actions != "state_delta":
        raise UserError(
            f"checkpoint: trained with data.action={actions or '?'}: LeRobot records goals; "
            f"want steps, data.action=state_delta"
        )
    if learned is not None and learned.arm != robot.name:
        raise UserError(f"checkpoint: of a {learned.arm}, this robot's arm is a {robot.name}")
    if learned is not None and robot.device is not None:
        for key in ("keys", "zero", "rad_per_unit"):
            both = learned.joints, robot.device
            had, has = (np.asarray(getattr(joints, key)).tolist() for joints in both)
            if had != has:
                raise UserError(
                    f"checkpoint: trained with robot.joints.{key}={had}, this robot's is {has}"
                )
    for what, have, want in (
        ("actions", spec.names, settings.action_names),
        ("units", spec.units, settings.action_units),
    ):
        if any(have) and have != want and not own:  # datasets name no units
            raise UserError(
                f"checkpoint: made for another robot: {what} {', '.join(have)}, this one's are "
                f"{', '.join(want)}"
            )
    if abs(dt - 1 / settings.control_hz) > 1e-3:
        raise UserError(
            f"checkpoint: made for another control rate: steps of {dt:g} s, this robot's are "
            f"{1 / settings.control_hz:g} s"
        )


def _of_device(spec: ActionSpec, robot: RobotModel) -> bool:
    """Whether a policy's actions are the device's joints, in its units."""
    return robot.device is not None and spec.names == robot.device.keys


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
