"""Runs a device-side process: `python -m hardware arm_server|watchdog|cameras DESCRIPTOR`.

Each process reads its task from the descriptor that its parent hands over (`hardware.spawn`).
"""

from __future__ import annotations

import contextlib
import gc
import sys
from pathlib import Path

from hardware.arm import Arm, ArmLimits
from hardware.arm_server import ArmServer, Wires, signals
from hardware.cameras import run_cameras
from hardware.flight import FlightRecorder
from hardware.lerobot_arm import connect
from hardware.messages import (
    ArmServerReady,
    Goodbye,
    Refused,
)
from hardware.priority import lower_niceness
from hardware.reasons import clean
from hardware.simulated import JointTargets, Measured, SimulatedArm, wait_for_life
from hardware.spawn import ignore_interrupts, read_task
from hardware.supervisor import Supervisor
from hardware.tasks import (
    ArmServerTask,
    ArmTask,
    CamerasTask,
    SimulatedArmTask,
    WatchdogTask,
)
from hardware.watchdog import watch
from hardware.wire import FrameSlot, Wire
from robot_wm.kinematics.joints import JointMap


def main(words: list[str]) -> int:
    """Runs the process that the command line names.

    Args:
        words: Name of the process, and descriptor of its task.

    Returns:
        The exit code.
    """
    name, descriptor = words[0], int(words[1])
    if name == "arm_server":
        return run_arm_server(read_task(descriptor, ArmServerTask))
    if name == "watchdog":
        return run_watchdog(read_task(descriptor, WatchdogTask))
    return run_cameras(read_task(descriptor, CamerasTask))


def run_arm_server(task: ArmServerTask) -> int:
    """Runs the arm server until it is told to end.

    Args:
        task: Arm, limits, wires and settings.

    Returns:
        The exit code: 0 if it ended in order, 1 if it broke, 2 if the arm cannot be driven.
    """
    operator, watchdog, caught = Wire.at(task.operator), Wire.at(task.watchdog), []
    policy = Wire.at(task.policy)
    with signals(caught), contextlib.ExitStack() as stack:
        try:
            chain = task.chain.chain()
            arm = open_arm(task.arm, dry_run=task.dry_run)
            relax: list[bool] = []
            stack.callback(lambda: arm.close(relax=any(relax)))
            device_limits = arm.limits()
            limits = task.limits.within(device_limits.low, device_limits.high)
            supervisor = Supervisor(limits, chain.corners, task.settings, park_pose=task.park)
            recorder = FlightRecorder(Path(task.record), limits, chain, task.about)
            stack.callback(_close, recorder)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the operator is told
            operator.send(Refused(text=clean(error, 4000)))
            watchdog.send(Goodbye())
            return 2
        operator.send(ArmServerReady(low=limits.low, high=limits.high))
        server = ArmServer(
            arm,
            supervisor,
            Wires(policy, operator, watchdog, sys.stdin.fileno() if task.keys else None),
            tick_s=float(limits.tick_s),
            recorder=recorder,
            dry_run=task.dry_run,
            park=task.parks,
        )
        lower_niceness()
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing here makes cycles, and a collection takes longer than a tick may
        server.run(caught)
        broken = server.broken is not None
        relax.append(supervisor.parked and not task.dry_run and not broken)
        return int(broken)


def _close(recorder: FlightRecorder) -> None:
    """Closes the flight record; where it cannot be completed, says so: the arm has its own end."""
    try:
        recorder.close()
    except OSError as error:
        print(f"the flight record has no end: {error}", file=sys.stderr, flush=True)


def open_arm(task: ArmTask, *, dry_run: bool = False) -> Arm:
    """Opens the device that a task describes.

    Args:
        task: Description of the device.
        dry_run: Whether to write nothing to the device.

    Returns:
        The opened device.

    Raises:
        UserError: a setting is wrong.
        ArmError: the device does not answer, or another process drives it.
    """
    frames = {name: FrameSlot(*place) for name, place in task.frames.items()}
    if isinstance(task, SimulatedArmTask):
        measured = Measured(len(task.names), task.measured)
        wait_for_life(measured, timeout_s=30.0)
        targets = JointTargets(len(task.names), task.joint_targets)
        return SimulatedArm(ArmLimits(task.names, task.low, task.high), targets, measured, frames)
    return connect(
        task.robot_type,
        task.config,
        JointMap(task.names, task.keys, task.zero, task.rad_per_unit),
        low=task.low,
        high=task.high,
        frames=frames,
        reply_s=task.reply_s,
        dry_run=dry_run,
    )


def run_watchdog(task: WatchdogTask) -> int:
    """Runs the watchdog until the arm server is gone.

    Args:
        task: The wire to the arm server.

    Returns:
        The exit code: 0 if the arm server said goodbye, 1 if it died.
    """
    ignore_interrupts()
    lower_niceness()
    wire = Wire.at(task.wire)

    def alarm(why: str) -> None:
        print(
            f"\nWATCHDOG: {why}. The arm holds its last joint target.", file=sys.stderr, flush=True
        )

    return 0 if watch(wire, alarm) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
