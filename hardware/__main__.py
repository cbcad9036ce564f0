"""The processes beside the planner: `python -m hardware controller|watchdog|cameras DESCRIPTOR`.

What they are to do comes as JSON on a descriptor, from whoever started them.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hardware.arm import Arm, ArmLimits
from hardware.cameras import show
from hardware.flight import FlightRecorder, parse_chain
from hardware.lerobot_arm import connect
from hardware.pilot import Pilot, PilotSettings
from hardware.process import Controller, Wires, lower_niceness, signals
from hardware.simulated import Goals, Measured, SimulatedArm, wait_for_life
from hardware.watchdog import watch
from hardware.wire import FrameSlot, Wire
from robot_wm.kinematics.joints import JointMap
from robot_wm.kinematics.limits import Limits


def main(words: list[str]) -> int:
    """Runs one of them; the exit code."""
    kind, descriptor = words
    with os.fdopen(int(descriptor), "r") as file:
        spec = json.load(file)
    return {"controller": control, "watchdog": guard, "cameras": show}[kind](spec)


def control(spec: Mapping[str, Any]) -> int:
    """The controller, until it is told to end; 2 where the arm cannot be driven."""
    human, beats, said = Wire.at(spec["human"]), Wire.at(spec["watchdog"]), []
    planner = Wire.at(spec["planner"])
    with signals(said), contextlib.ExitStack() as stack:
        try:
            chain, limits = parse_chain(spec["chain"]), Limits(**spec["limits"])
            arm = open_arm(spec["arm"], dry_run=spec["dry_run"])
            relax: list[bool] = []
            stack.callback(lambda: arm.close(relax=any(relax)))
            own = arm.limits()
            limits = limits.within(own.low, own.high)
            rest = None if spec["rest"] is None else np.array(spec["rest"], np.float64)
            settings = PilotSettings(**spec["settings"])
            pilot = Pilot(limits, chain.corners, settings, rest=rest)
            recorder = FlightRecorder(Path(spec["record"]), limits, chain, spec["about"])
            stack.callback(recorder.close)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the human is told
            human.send({"refused": (str(error) or repr(error))[:4000]})
            beats.send({"goodbye": "the arm was never driven"})
            return 2
        human.send({"ready": {"low": limits.low.tolist(), "high": limits.high.tolist()}})
        keys = sys.stdin.fileno() if spec["keys"] else None
        controller = Controller(
            arm,
            pilot,
            Wires(planner=planner, human=human, watchdog=beats, keys=keys),
            tick_s=spec["limits"]["tick_s"],
            recorder=recorder,
            dry_run=spec["dry_run"],
            park=spec["park"],
        )
        lower_niceness()
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing here makes cycles, and a collection takes longer than a tick may
        controller.run(said)
        relax.append(pilot.parked and not spec["dry_run"] and not controller.broken)
        return 1 if controller.broken else 0


def open_arm(spec: Mapping[str, Any], *, dry_run: bool = False) -> Arm:
    """The device that a spec describes.

    Raises:
        ValueError: none of that kind, or a setting that makes no sense.
        ArmError: it does not answer, or somebody else drives it.
    """
    names = tuple(spec["names"])
    frames = {name: FrameSlot(*place) for name, place in spec["frames"].items()}
    low, high = np.array(spec["low"], np.float64), np.array(spec["high"], np.float64)
    if spec["kind"] == "simulated":
        measured = Measured(len(names), spec["measured"])
        wait_for_life(measured, timeout_s=30.0)
        goals = Goals(len(names), spec["goals"])
        return SimulatedArm(ArmLimits(names, low, high), goals, measured, frames)
    if spec["kind"] == "lerobot":
        joints = JointMap(names, tuple(spec["keys"]), spec["zero"], spec["rad_per_unit"])
        return connect(
            spec["type"],
            spec["config"],
            joints,
            low=low,
            high=high,
            frames=frames,
            reply_s=float(spec["reply_s"]),
            dry_run=dry_run,
        )
    raise ValueError(f"arm: got {spec['kind']!r}, want simulated or lerobot")


def guard(spec: Mapping[str, Any]) -> int:
    """The watchdog, until the controller is gone; 1 where it went without a word."""
    for name in ("SIGINT", "SIGHUP"):  # the human's ways to stop: the controller's to follow
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    lower_niceness()
    wire = Wire.at(spec["wire"])

    def alarm(why: str) -> None:
        print(f"\nWATCHDOG: {why}. The arm holds its last goal.", file=sys.stderr, flush=True)

    return 0 if watch(wire, alarm) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
