"""The simulator server: `python -m robot_wm.deployment.simulator DESCRIPTOR`.

It simulates an arm in real time in a process that whoever drives the arm cannot stop, with servos
that hold their last joint target for ever, and cameras.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import numpy as np

from hardware.priority import lower_niceness
from hardware.simulated import JointTargets, Measured
from hardware.spawn import ignore_interrupts, read_task
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
    """Simulates until the parent process is gone.

    Args:
        words: Descriptor of the task.

    Returns:
        The exit code.
    """
    task = read_task(int(words[0]), SimulatorTask)
    ignore_interrupts()
    import_extensions()
    lower_niceness()  # it stands for reality, which does not wait
    settings = read_settings("robot", task.robot, SimulatedRobot)
    robot = build_robot(settings)
    env = Tabletop(
        robot,
        image_size=settings.image_size,
        random_appearance=settings.random_appearance,
        wrist_camera=settings.wrist_camera,
    )
    env.reset(settings.seed or 0)
    num_joints = len(robot.joints)
    targets = JointTargets(num_joints, task.joint_targets)
    measured = Measured(num_joints, task.measured)
    frames = {name: FrameSlot(*place) for name, place in task.frames.items()}
    live(env, targets, measured, frames, Wire.at(task.wire), camera_hz=settings.camera_hz)
    return 0


def live(
    env: Tabletop,
    targets: JointTargets,
    measured: Measured,
    frames: Mapping[str, FrameSlot],
    wire: Wire,
    *,
    camera_hz: float,
) -> None:
    """Simulates in step with the clock until the wire's other end is gone.

    Args:
        env: The simulation.
        targets: Shared memory of the joint targets, which is read.
        measured: Shared memory of the measured joints, which is written.
        frames: Shared memory of each camera's pictures, by camera, which is written.
        wire: Wire to the parent process.
        camera_hz: Pictures per second of each camera, Hz.
    """
    physics = env.physics
    begin_s, simulated_s, picture_s = time.monotonic(), 0.0, 0.0
    while not wire.closed:
        wire.receive()  # nothing is sent on it, but its end shows
        target = targets.read()
        if target is not None:
            env.command(target)
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
