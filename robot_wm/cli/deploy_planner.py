"""The planner's process of `robot-wm deploy`: the model, and nothing that touches the arm."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from hardware.actions import ToolActions
from hardware.flight import parse_chain
from hardware.remote import ArmStoppedError, RemoteArm
from hardware.wire import FrameSlot, Wire
from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli.build import pick_device
from robot_wm.cli.control import make_controller
from robot_wm.cli.plan import read_picture
from robot_wm.controller import MPC
from robot_wm.runtime import Step, run_episode
from robot_wm.types import ActionSpec, Goal, Observation
from sim_envs.so100_env import JAW_RADIUS_M, WORKSPACE_HIGH, WORKSPACE_LOW


class _Reporter:
    """Tells the human's process how far it is."""

    def __init__(self, wire: Wire, controller: MPC) -> None:
        self._wire, self._controller = wire, controller

    def record(self, step: Step) -> None:
        look = self._controller.looks[-1]
        self._wire.send({"energy": look.energy, "decision": look.decision, "plan_s": step.plan_s})

    def finish(self, last: Observation) -> None:
        self._wire.send({"energy": self._controller.energy(last), "decision": "end"})


def main(words: list[str]) -> int:
    """Plans until the run is over; the exit code."""
    for name in ("SIGINT", "SIGHUP"):  # the human's ways to stop: the controller's to follow
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.nice(5)  # the controller first
    with os.fdopen(int(words[0]), "r") as file:
        spec: Mapping[str, Any] = json.load(file)
    human, wire = Wire.at(spec["human"]), Wire.at(spec["wire"])
    config = OmegaConf.create(spec["config"])
    assert isinstance(config, DictConfig)
    try:
        env, controller, goals = prepare(spec, config, wire)
    except (ValueError, OSError) as error:
        human.send({"refused": str(error)[:4000]})
        return 2
    human.send({"ready": {"what": f"{config.checkpoint}, {len(goals)} goal picture(s)"}})
    while not any(isinstance(said, dict) and "begin" in said for said in human.receive()):
        if human.closed:
            return 0
        human.wait(None)
    try:
        num_steps = config.num_steps * len(goals)
        recorders = [_Reporter(human, controller)]
        run_episode(env, controller, goals, num_steps=num_steps, recorders=recorders)
    except ArmStoppedError:
        return 0
    except Exception as error:  # noqa: BLE001 - no plan, no memory, no answer: never a clean end
        wire.send({"failed": f"{type(error).__name__}: {error}"[:2000]})
        traceback.print_exc()
        return 1
    wire.send({"done": "the run is over"})
    return 0


def prepare(
    spec: Mapping[str, Any], config: DictConfig, wire: Wire
) -> tuple[RemoteArm, MPC, list[Goal]]:
    """The arm to plan for, its controller, and what is wanted.

    Raises:
        ValueError: a checkpoint for another robot, a picture that does not fit.
    """
    model, _ = load_checkpoint(find_checkpoint(config.checkpoint))
    model.to(pick_device(config.device))
    check_robot(model.spec.action_spec, model.dt, config.robot)
    actions = ToolActions(
        parse_chain(spec["chain"]),
        model.spec.action_spec,
        low=WORKSPACE_LOW,
        high=WORKSPACE_HIGH,
        jaw_radius_m=JAW_RADIUS_M,
        posture=None if config.robot.posture is None else np.array(config.robot.posture, float),
    )
    frames = {name: FrameSlot(*place) for name, place in spec["frames"].items()}
    if model.spec.camera not in frames:
        raise ValueError(
            f"checkpoint: it sees through {model.spec.camera!r}, the robot has {', '.join(frames)}"
        )
    env = RemoteArm(wire, frames, actions, control_dt=model.dt)
    controller = make_controller(model, env, config)
    pictures = [read_picture(Path(path)) for path in spec["goals"]]
    goals = [Goal(images={model.spec.camera: picture}) for picture in pictures]
    controller.reset(goals)  # refuses a picture that does not fit
    return env, controller, goals


def check_robot(spec: ActionSpec, dt: float, robot: DictConfig) -> None:
    """Raises ValueError unless a policy's actions are those of the robot."""
    for what, have, want in (
        ("actions", spec.names, tuple(robot.action_names)),
        ("units", spec.units, tuple(robot.action_units)),
    ):
        if any(have) and have != want:  # datasets name no units
            raise ValueError(
                f"checkpoint: made for another robot: {what} {', '.join(have)}, this one's are "
                f"{', '.join(want)}"
            )
    if abs(dt - 1 / robot.control_hz) > 1e-3:
        raise ValueError(
            f"checkpoint: made for another control rate: steps of {dt:g} s, this robot's are "
            f"{1 / robot.control_hz:g} s"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
