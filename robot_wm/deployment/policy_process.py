"""The policy process of `robot-wm deploy`: model and encoder, and nothing that touches the arm."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from hardware.spawn import ignore_interrupts, read_task
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
from robot_wm.deployment.run import DeploySettings
from robot_wm.deployment.settings import LeRobotRobot, RobotSettings
from robot_wm.deployment.threads import share_cores
from robot_wm.kinematics import RobotModel
from robot_wm.monitors import MonitorGuard, Monitors, load_reference
from robot_wm.precision import pick_device
from robot_wm.proposals import load_prior
from robot_wm.runtime import GuardError, Recorder, Step, run_episode
from robot_wm.types import ActionSpec, Goal, Guard, Observation, Outcome, UserError, read_settings

_TOOL_MARGIN_M = 0.02  # from the tool to the box that every corner of the gripper must stay in


class _Reporter:
    """Reports the run to the operator's process."""

    def __init__(self, wire: Wire, controller: GoalSequence) -> None:
        self._wire, self._controller = wire, controller
        self._left: list[Outcome] = []

    def record(self, step: Step) -> None:
        """See `Recorder.record`."""
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
        """See `Recorder.finish`."""
        outcomes = (*self._left, self._controller.outcome(last))
        self._wire.send(RunEnded(energy=outcomes[-1].energy, outcomes=outcomes))


def main(words: list[str]) -> int:
    """Plans until the run is over.

    Args:
        words: Descriptor of the task.

    Returns:
        The exit code.
    """
    ignore_interrupts()
    os.nice(5)  # the arm server comes first
    share_cores()
    import_extensions()
    task = read_task(int(words[0]), PolicyTask)
    operator, wire = Wire.at(task.operator), Wire.at(task.wire)
    try:
        settings = read_settings("", task.settings, DeploySettings)
        run = prepare(task, settings, wire)
    except (UserError, OSError) as error:
        operator.send(Refused(text=clean(error, 4000)))
        return 2
    what = f"{settings.checkpoint}, {len(run.goals)} goal picture(s)"
    operator.send(PolicyReady(what=what, notes=tuple(run.notes)))
    while not any(isinstance(message, Begin) for message in operator.receive()):
        if operator.closed:
            return 0
        operator.wait(None)
    try:
        with contextlib.ExitStack() as stack:
            recorders: list[Recorder] = [_Reporter(operator, run.controller)]
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
    except Exception as error:  # noqa: BLE001 - whatever it is, the arm server must hear of it
        wire.send(PolicyFailed(text=clean(f"{type(error).__name__}: {error}", 2000)))
        traceback.print_exc()
        return 1
    wire.send(PolicyDone())
    return 0


@dataclass(frozen=True)
class Run:
    """The parts of a deployment.

    Attributes:
        env: The arm.
        controller: Controller that acts on the arm.
        guard: Guard that judges every step.
        goals: Goals in their order.
        notes: Sentences that the operator should read before the arm moves.
        dataset: Dataset that records the run; None: it is not recorded.
        view: Viewer that shows the run; None: it is not shown.
    """

    env: RemoteArm
    controller: GoalSequence
    guard: Guard
    goals: list[Goal]
    notes: list[str]
    dataset: DeploymentDataset | None
    view: Recorder | None


def prepare(task: PolicyTask, settings: DeploySettings, wire: Wire) -> Run:
    """Builds and checks all that is needed before an arm may move.

    Args:
        task: Joint limits and shared memory.
        settings: Settings of the run.
        wire: Wire to the arm server.

    Returns:
        The parts of the run.

    Raises:
        UserError: the checkpoint is for another robot, or a picture does not fit or is too novel.
        OSError: a file cannot be read or written.
    """
    directory = find_checkpoint(settings.checkpoint)
    model, saved = load_checkpoint(directory)
    model.to(pick_device(settings.device))
    robot = build_robot(settings.robot).within(task.low, task.high)
    learned = learned_joints(saved)
    info = model.info
    kind = settings.robot.type if isinstance(settings.robot, LeRobotRobot) else None
    action_kind = learned_actions(saved)
    check_robot(info.action_spec, info.dt, settings.robot, robot, action_kind, learned)
    check_same_arm(info, robot, kind)
    actions = make_actions(robot, info.action_spec, settings.robot, learned)
    frames = {name: FrameSlot(*place) for name, place in task.frames.items()}
    check_cameras(info, frames)
    env = RemoteArm(wire, frames, actions, control_dt=info.dt)
    planning = settings
    if not settings.moves:  # nothing comes nearer in a dry run: the goal would count as stalled
        controller_settings = msgspec.structs.replace(settings.controller, patience=0)
        planning = msgspec.structs.replace(settings, controller=controller_settings)
    prior = load_prior(directory, info)
    controller = make_controller(model, env, planning, prior=prior)
    pictures_by_name = {goal_name(goal): read_goal(goal, info.cameras) for goal in settings.goals}
    pictures = [pictures_by_name[goal_name(goal)] for goal in settings.goals]
    goals = [Goal(images=images) for images in pictures]
    controller.reset(goals)  # raises where a picture does not fit
    reference = load_reference(directory, model.info)
    energy = step_energy(model, settings.objective)
    # No less patient than the controller, which ends by itself what comes no nearer.
    num_plans = max(settings.monitors.progress_plans, settings.controller.patience or 0)
    watched = replace(settings.monitors, progress_plans=num_plans)
    monitors = Monitors(reference, watched, step_energy=energy)
    notes = []
    tasks = () if prior is None else prior.shape.tasks
    if len(tasks) > 1 and settings.controller.task is None and settings.controller.proposals:
        notes.append(f"controller.task is null: all tasks are proposed: {', '.join(tasks)}")
    if not reference:
        notes.append("the checkpoint has no reference statistics: robot-wm monitors")
    images = {name: frame[0] for name, slot in frames.items() if (frame := slot.read()) is not None}
    allow = settings.monitors.allow_novel
    problems = refuse_novel(monitors, model, images, pictures_by_name, allow=allow)
    if reference and reference.least_p > settings.monitors.prediction_error_p:
        notes.append(
            f"too few held-out frames: no p-value can be below {reference.least_p:.3f}, and "
            f"monitors.prediction_error_p is {settings.monitors.prediction_error_p:g}"
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

        goal_pictures = [side_by_side(images, info.cameras) for images in pictures]
        names = env.action_spec.names
        view = RerunView(settings.view, controller, info.cameras[0], goal_pictures, names)
    return Run(env, controller, guard, goals, [*notes, *problems], dataset, view)


def make_actions(
    robot: RobotModel,
    spec: ActionSpec,
    settings: RobotSettings,
    learned: LearnedJoints | None = None,
) -> Actions:
    """Chooses how a policy's actions move a robot's joints.

    Actions with the names of the device's joints are joint displacements in its units, as in the
    datasets that LeRobot records on it. Actions of one number per joint are joint displacements in
    rad, if `robot.action_units` are rad. Otherwise 4 numbers displace the tool, and 7 its pose.

    Args:
        robot: The arm.
        spec: Spec of the policy's actions.
        settings: Settings of the robot.
        learned: Joints that the policy was trained from: the tool then stays where it was in the
            data, and is held as there; None: it stays in the arm's workspace, held as at home.

    Returns:
        The map from actions to joints.

    Raises:
        UserError: the actions have another size, their units are not known, or the limits' box
            leaves no room.
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
    device_units = _of_device(spec, robot)
    in_rad = spec.size == robot.chain.num_joints and set(settings.action_units) == {"rad"}
    if device_units or in_rad:
        low, high = robot.limits.low, robot.limits.high
        return JointActions(spec, low=low, high=high, joints=robot.device if device_units else None)
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
    """Returns `data.action` of a checkpoint's config.json; None if it is not recorded."""
    return (saved["training"].get("data") or {}).get("action")


def check_robot(
    spec: ActionSpec,
    dt: float,
    settings: RobotSettings,
    robot: RobotModel,
    actions: str | None,
    learned: LearnedJoints | None = None,
) -> None:
    """Checks that a policy's actions are those of the robot, or of its device's joints.

    Args:
        spec: Spec of the policy's actions.
        dt: Time that an action stands for, s.
        settings: Settings of the robot.
        robot: The arm.
        actions: Kind of the actions (`learned_actions`); None: it is not recorded.
        learned: Joints that the policy was trained from; None: it was not trained from joints.

    Raises:
        UserError: names, units, kind or rate of the actions are others, or the policy was trained
            from joints of another arm or another joint map.
    """
    device_units = _of_device(spec, robot)
    if device_units and actions not in ("state_delta", "command_delta"):
        raise UserError(
            f"checkpoint: trained with data.action={actions or '?'}: LeRobot records goals; "
            f"want steps, data.action=state_delta"
        )
    if learned is not None and learned.arm != robot.name:
        raise UserError(f"checkpoint: of a {learned.arm}, this robot's arm is a {robot.name}")
    if learned is not None and robot.device is not None:
        for key in ("keys", "zero", "rad_per_unit"):
            both = learned.joints, robot.device
            trained, current = (np.asarray(getattr(joints, key)).tolist() for joints in both)
            if trained != current:
                raise UserError(
                    f"checkpoint: trained with robot.joints.{key}={trained}, this robot's is "
                    f"{current}"
                )
    for what, got, want in (
        ("actions", spec.names, settings.action_names),
        ("units", spec.units, settings.action_units),
    ):
        if any(got) and got != want and not device_units:  # datasets name no units
            raise UserError(
                f"checkpoint: made for another robot: {what} {', '.join(got)}, this one's are "
                f"{', '.join(want)}"
            )
    if abs(dt - 1 / settings.control_hz) > 1e-3:
        raise UserError(
            f"checkpoint: made for another control rate: steps of {dt:g} s, this robot's are "
            f"{1 / settings.control_hz:g} s"
        )


def _of_device(spec: ActionSpec, robot: RobotModel) -> bool:
    """Returns whether a policy's actions are the device's joints, in its units."""
    return robot.device is not None and spec.names == robot.device.keys


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
