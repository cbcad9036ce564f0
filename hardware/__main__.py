"""The processes beside the planner: `python -m hardware controller|watchdog|cameras DESCRIPTOR`.

What they are to do comes on a descriptor, from whoever started them (hardware.spawn).
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from pathlib import Path

from hardware.arm import Arm, ArmLimits
from hardware.arm_server import ArmServer, Wires, lower_niceness, signals
from hardware.cameras import show
from hardware.flight import FlightRecorder
from hardware.lerobot_arm import connect
from hardware.messages import (
    ArmServerReady,
    Goodbye,
    Refused,
)
from hardware.reasons import clean
from hardware.simulated import Goals, Measured, SimulatedArm, wait_for_life
from hardware.spawn import read_task
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
    """Runs one of them; the exit code."""
    name, descriptor = words[0], int(words[1])
    if name == "controller":
        return control(read_task(descriptor, ArmServerTask))
    if name == "watchdog":
        return guard(read_task(descriptor, WatchdogTask))
    return show(read_task(descriptor, CamerasTask))


def control(task: ArmServerTask) -> int:
    """Runs the controller until it is told to end; 2 where the arm cannot be driven."""
    human, beats, caught = Wire.at(task.human), Wire.at(task.watchdog), []
    planner = Wire.at(task.planner)
    with signals(caught), contextlib.ExitStack() as stack:
        try:
            chain = task.chain.chain()
            arm = open_arm(task.arm, dry_run=task.dry_run)
            relax: list[bool] = []
            stack.callback(lambda: arm.close(relax=any(relax)))
            own = arm.limits()
            limits = task.limits.within(own.low, own.high)
            supervisor = Supervisor(limits, chain.corners, task.settings, rest=task.park)
            recorder = FlightRecorder(Path(task.record), limits, chain, task.about)
            stack.callback(recorder.close)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the human is told
            human.send(Refused(text=clean(error, 4000)))
            beats.send(Goodbye())
            return 2
        human.send(ArmServerReady(low=limits.low, high=limits.high))
        controller = ArmServer(
            arm,
            supervisor,
            Wires(planner, human, beats, sys.stdin.fileno() if task.keys else None),
            tick_s=float(limits.tick_s),
            recorder=recorder,
            dry_run=task.dry_run,
            park=task.parks,
        )
        lower_niceness()
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing here makes cycles, and a collection takes longer than a tick may
        controller.run(caught)
        broken = controller.broken is not None
        relax.append(supervisor.parked and not task.dry_run and not broken)
        return int(broken)


def open_arm(task: ArmTask, *, dry_run: bool = False) -> Arm:
    """Opens the device that a task describes.

    Raises:
        UserError: a setting that makes no sense.
        ArmError: it does not answer, or somebody else drives it.
    """
    frames = {name: FrameSlot(*place) for name, place in task.frames.items()}
    if isinstance(task, SimulatedArmTask):
        measured = Measured(len(task.names), task.measured)
        wait_for_life(measured, timeout_s=30.0)
        goals = Goals(len(task.names), task.goals)
        return SimulatedArm(ArmLimits(task.names, task.low, task.high), goals, measured, frames)
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


def guard(task: WatchdogTask) -> int:
    """Runs the watchdog until the controller is gone; 1 where it went without a word."""
    for name in ("SIGINT", "SIGHUP"):  # the human's ways to stop: the controller's to follow
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    lower_niceness()
    wire = Wire.at(task.wire)

    def alarm(why: str) -> None:
        print(f"\nWATCHDOG: {why}. The arm holds its last goal.", file=sys.stderr, flush=True)

    return 0 if watch(wire, alarm) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
