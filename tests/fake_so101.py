"""An SO-101 that is not there: servos on a pseudo-terminal, MuJoCo behind them, a camera in a file.

    python tests/fake_so101.py FOLDER SEED [X Y]

Prints `{"port": ...}` once it lives, then obeys JSON: `{"loss": 0.02}`, `{"unplug": true}`,
`{"error": [3, 32]}` (servo, its error bits), `{"block": 2}` (servo, which no longer turns), and
answers each with when it came, and how far the tool and the cube then were from where the goal
picture shows them, m. Ends with its input. FOLDER gets `fake.json`, the calibration,
`front.frames`, the pictures, and `goal.png`: the arm elsewhere, or where it is and the cube X and
Y m away.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from pathlib import Path

import numpy as np
from fake_feetech import TICKS, FakeBus
from PIL import Image

from hardware.priority import lower_niceness
from hardware.wire import FrameSlot
from robot_wm.robots import so100
from sim_envs.tabletop import Tabletop

SIZE = 128
HERTZ = 30.0


def calibrated(low, high):
    """Ticks at angle 0 `[6]`, ranges `[6, 2]`: the middle of each range in the middle of a turn,
    as lerobot-calibrate has it.
    """
    half = np.minimum((high - low) / 2 * TICKS, 2047).astype(int)
    zeros = 2047.5 - (high + low) / 2 * TICKS
    return zeros, np.stack((2047 - half, 2048 + half), axis=1)


class MujocoBus(FakeBus):
    """Servos that are MuJoCo's; whoever made it calls `step`."""

    def _move(self):
        return  # not by itself

    def command(self):
        """Goals `[6]`, rad; of a servo without torque, where it is."""
        return np.array(
            [self._goal(i) if self.torque()[i - 1] else self.angles[i - 1] for i in range(1, 7)]
        )


def picture_file(path):
    """The file that pictures are shown in."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    num_bytes = 8 + 2 * (8 + SIZE * SIZE * 3)
    os.ftruncate(descriptor, num_bytes)
    return FrameSlot(SIZE, SIZE, descriptor)


def show_goal(env, path):
    """Shows the same scene with the arm elsewhere; where its tool is then `[3]`, m."""
    physics, begin = env.physics, env.physics.snapshot()
    for _ in range(6):
        env.apply(np.array([-0.012, 0.016, 0.012, 0.0]))
    physics.step(100)
    Image.fromarray(physics.render("front", SIZE, SIZE)).save(path)
    goal_m = physics.site_position("so100/ee").copy()
    physics.restore(begin)
    physics.forward()
    return goal_m


def show_moved(env, path, shift):
    """Shows the same scene with the cube elsewhere; where it is then, x and y `[2]`, m."""
    physics, (cube,) = env.physics, env.objects
    x, y, _, yaw = env.object_pose(cube)
    begin, goal_m = physics.snapshot(), np.array([x, y]) + shift
    env.place_object(cube, np.append(goal_m, yaw))
    physics.forward()
    Image.fromarray(physics.render("front", SIZE, SIZE)).save(path)
    physics.restore(begin)
    physics.forward()
    return goal_m


def main(folder: Path, seed: int, *shift: float) -> None:
    lower_niceness()  # reality does not wait
    env = Tabletop(so100(), image_size=SIZE)
    env.reset(seed)
    physics = env.physics
    (cube,) = env.objects
    goal_m, cube_goal_m = physics.site_position("so100/ee").copy(), env.object_pose(cube)[:2]
    if shift:
        cube_goal_m = show_moved(env, folder / "goal.png", shift)
    else:
        goal_m = show_goal(env, folder / "goal.png")
    qpos, dofs = physics.joint_indices(tuple(f"so100/{name}" for name in so100().joints))
    low, high = so100().chain.joint_range.T
    zeros, ranges = calibrated(low, high)
    bus = MujocoBus(physics.data.qpos[qpos], zeros=zeros, ranges=ranges)
    frames = picture_file(folder / "front.frames")
    (folder / "fake.json").write_text(json.dumps(bus.calibration()))
    print(json.dumps({"port": bus.port}), flush=True)
    begin_s, simulated_s, picture_s, blocked = time.monotonic(), 0.0, 0.0, {}
    while True:
        if select.select([sys.stdin], [], [], 0)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            said = json.loads(line)
            bus.loss = said.get("loss", bus.loss)
            if "unplug" in said:
                bus.unplug()
            if "error" in said:
                bus.errors[said["error"][0]] = said["error"][1]
            if "block" in said:
                blocked[said["block"] - 1] = physics.data.qpos[qpos[said["block"] - 1]]
            away_m = float(np.linalg.norm(physics.site_position("so100/ee") - goal_m))
            now = {"at_s": time.monotonic(), "away_m": away_m, "angles": bus.angles.tolist()}
            now["cube_away_m"] = float(np.linalg.norm(env.object_pose(cube)[:2] - cube_goal_m))
            print(json.dumps(now), flush=True)
        with contextlib.suppress(ValueError):
            env.command(np.clip(bus.command(), low, high))
        now_s = time.monotonic() - begin_s
        simulated_s = max(simulated_s, now_s - 0.1)
        while simulated_s < now_s:
            physics.step(1)
            simulated_s += physics.timestep_s
            for joint, angle in blocked.items():
                physics.data.qpos[qpos[joint]], physics.data.qvel[dofs[joint]] = angle, 0.0
        bus.angles = physics.data.qpos[qpos].copy()
        if now_s >= picture_s:
            picture_s = max(picture_s + 1 / HERTZ, now_s)
            frames.write(
                np.ascontiguousarray(physics.render("front", SIZE, SIZE)), time.monotonic()
            )
        time.sleep(max(0.0, begin_s + simulated_s - time.monotonic()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:]))
