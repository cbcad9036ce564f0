"""The simulated arm as a device of its own: `python -m robot_wm.deployment.simulator DESCRIPTOR`.

Physics in real time in a process that nobody who drives the arm can stop, with servos that hold
their last goal for ever, and a camera.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping

import numpy as np

from hardware.arm_server import lower_niceness
from hardware.simulated import Goals, Measured
from hardware.spawn import read_task
from hardware.tasks import (
    SimulatorTask,
)
from hardware.wire import FrameSlot, Wire
from robot_wm.deployment.extensions import import_extensions
from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.settings import SimulatedRobot
from robot_wm.types import read_settings
from sim_envs.tabletop import Tabletop


def main(words: list[str]) -> int:
    """Simulates until whoever started it is gone."""
    task = read_task(int(words[0]), SimulatorTask)
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    import_extensions()
    lower_niceness()  # reality does not wait
    settings = read_settings("robot", task.robot, SimulatedRobot)
    robot = build_robot(settings)
    env = Tabletop(
        robot,
        image_size=settings.image_size,
        random_appearance=settings.random_appearance,
        wrist_camera=settings.wrist_camera,
    )
    env.reset(settings.seed)
    num_joints = len(robot.joints)
    goals, measured = Goals(num_joints, task.goals), Measured(num_joints, task.measured)
    frames = {name: FrameSlot(*place) for name, place in task.frames.items()}
    live(env, goals, measured, frames, Wire.at(task.wire), camera_hz=settings.camera_hz)
    return 0


def live(
    env: Tabletop,
    goals: Goals,
    measured: Measured,
    frames: Mapping[str, FrameSlot],
    wire: Wire,
    *,
    camera_hz: float,
) -> None:
    """Keeps up with the clock until the wire's other end is gone."""
    physics = env.physics
    begin_s, simulated_s, picture_s = time.monotonic(), 0.0, 0.0
    while not wire.closed:
        wire.receive()  # nothing is said on it, but its end shows
        goal = goals.read()
        if goal is not None:
            env.command(goal)
        now_s = time.monotonic() - begin_s
        # A machine that is too slow lets the simulated time fall behind, rather than leap.
        simulated_s = max(simulated_s, now_s - 0.1)
        while simulated_s < now_s:
            physics.step(1)
            simulated_s += physics.timestep_s
        measured.write(env.joints(), time.monotonic())
        if now_s >= picture_s:
            picture_s = max(picture_s + 1 / camera_hz, now_s)
            taken_s = time.monotonic()
            for name, image in env.observe().images.items():
                frames[name].write(np.ascontiguousarray(image), taken_s)
        time.sleep(max(0.0, begin_s + simulated_s - time.monotonic()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
