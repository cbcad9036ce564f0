"""Flight records: every tick, and the same commands when it is flown again."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from governor_checks import TICK_S, limits

from hardware.flight import FlightRecorder, RecordError, replay
from hardware.plans import JointPlan
from hardware.reasons import Kind, Reason, quoted
from hardware.states import Event
from hardware.supervisor import Supervisor
from hardware.ticks import PolicyLife, Reading
from robot_wm.kinematics import Chain, Link

UP = np.array([0.0, 0.0, 1.0])
ASKED = Reason(Kind.ASKED_FOR)
OVERLOAD = quoted(Kind.DEVICE, "overload")


def at(x):
    pose = np.eye(4)
    pose[0, 3] = x
    return pose


def arm():
    """A planar arm of two links, 0.4 and 0.3 m."""
    links = [
        Link(-1, 0, at(0.0), UP, np.zeros(3), np.array([[0.4, 0.0, 0.0]])),
        Link(0, 1, at(0.4), UP, np.zeros(3), np.array([[0.3, 0.0, 0.0]])),
    ]
    ranges = np.array([[-2.0, 1.5], [-1.0, 2.0]])
    return Chain(links, joint_names=("a", "b"), joint_range=ranges, tool_link=1,
                 tool=np.array([0.3, 0.0, 0.0]))  # fmt: skip


def fly(path, seed=0, num=400):
    """A run with plans, nonsense, stops and faults, recorded."""
    rng = np.random.default_rng(seed)
    own, chain = limits(tip_speed=0.5), arm()
    supervisor = Supervisor(own, chain.corners, park_pose=np.zeros(2))
    recorder = FlightRecorder(path, own, chain, {"seed": seed})
    now_s, joints, life = 5.0, np.array([0.3, 0.2]), None
    for i in range(num):
        now_s += TICK_S
        life = PolicyLife(True, now_s)
        reading = Reading(joints, now_s, fault=OVERLOAD if rng.random() < 0.005 else None)
        events = [(Event.RESET, ASKED), (Event.ARM, ASKED)] if i % 50 == 1 else []
        plans = []
        if rng.random() < 0.1:
            wish = rng.uniform(-1.2, 1.2, (2, 2))
            plans = [JointPlan(supervisor.epoch, i, now_s - 0.01, now_s, joints, wish, now_s + 2)]
        result = supervisor.tick(now_s, reading, life, events=events, plans=plans)
        recorder.write(now_s, reading, result)
        joints = joints if result.command is None else result.command
    recorder.close()
    return supervisor


@pytest.mark.parametrize("seed", range(4))
def test_a_record_flies_again_bit_for_bit(tmp_path, seed):
    fly(tmp_path / "run.jsonl", seed)
    found = replay(tmp_path / "run.jsonl")
    assert found.num_ticks == 400 and found.num_commands > 300
    assert found.num_mismatches == 0 and not found.cut


def test_one_changed_bit_is_seen(tmp_path):
    fly(tmp_path / "run.jsonl")
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    line = json.loads(lines[60])
    line["command"][0] = np.nextafter(line["command"][0], 9)
    lines[60] = json.dumps(line)
    (tmp_path / "run.jsonl").write_text("\n".join(lines) + "\n")
    found = replay(tmp_path / "run.jsonl")
    assert found.num_mismatches == 1 and 0 < found.largest_rad < 1e-15


def test_faults_are_told(tmp_path):
    for seed in range(6):
        fly(tmp_path / f"{seed}.jsonl", seed)
    assert any("overload" in replay(tmp_path / f"{seed}.jsonl").faults for seed in range(6))


def test_a_record_from_before_reasons_had_kinds_flies_again():
    found = replay(Path(__file__).parent / "golden" / "flight_format_1.jsonl")
    assert found.num_ticks == 120 and found.num_commands == 69 and not found.cut
    assert found.num_compared == 0  # the governor that made it was another
    assert "overload" in found.faults


def test_a_record_is_never_overwritten(tmp_path):
    fly(tmp_path / "run.jsonl", num=5)
    with pytest.raises(FileExistsError):
        fly(tmp_path / "run.jsonl", num=5)


def test_a_killed_process_leaves_all_but_its_last_line(tmp_path):
    code = (
        "import sys, itertools; sys.path[:0] = [sys.argv[2]]; import test_flight as t;"
        "from pathlib import Path; t.fly(Path(sys.argv[1]), num=10**6)"
    )
    path = tmp_path / "run.jsonl"
    child = subprocess.Popen([sys.executable, "-c", code, str(path), os.path.dirname(__file__)])
    try:
        while not path.exists() or path.stat().st_size < 100_000:
            assert child.poll() is None
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    found = replay(path)
    assert found.num_commands > 100 and found.num_mismatches == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [],
        lambda lines: ["{}"],
        lambda lines: ["not json"],
        lambda lines: ["[1, 2]"],
        lambda lines: [lines[0].replace('"format": 3', '"format": 4'), *lines[1:]],
        lambda lines: [lines[0].replace('"tip_speed": 0.5', '"tip_speed": NaN'), *lines[1:]],
        lambda lines: [lines[0], lines[60]],
        lambda lines: [*lines, '{"state": "running"}'],
        lambda lines: [*lines, "[" * 100_000],
        lambda lines: [*lines, " " * 2_000_000],
        lambda lines: [*lines[:5], lines[5][:40], *lines[6:]],
    ],
)
def test_what_is_no_record_is_refused(tmp_path, change):
    path = tmp_path / "run.jsonl"
    fly(path, num=80)
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))
    with pytest.raises(ValueError, match="run.jsonl"):
        replay(path)


def test_a_line_that_is_cut_is_told(tmp_path):
    path = tmp_path / "run.jsonl"
    fly(path, num=80)
    path.write_bytes(path.read_bytes()[:-20])
    found = replay(path)
    assert found.cut and found.num_ticks == 79 and found.num_mismatches == 0


def test_nothing_follows_a_line_that_the_disk_did_not_take(tmp_path, monkeypatch):
    own, chain = limits(tip_speed=0.5), arm()
    path, now_s, joints = tmp_path / "run.jsonl", 5.0, np.array([0.3, 0.2])
    supervisor, recorder = Supervisor(own, chain.corners), FlightRecorder(path, own, chain)
    write = os.write
    for i in range(10):
        now_s += TICK_S
        reading = Reading(joints, now_s)
        result = supervisor.tick(now_s, reading, PolicyLife(True, now_s))
        with monkeypatch.context() as patch:
            if i == 5:
                patch.setattr(os, "write", lambda file, text: write(file, text[:9]) and full())
            with contextlib.nullcontext() if i < 5 else pytest.raises(RecordError):
                recorder.write(now_s, reading, result)
    recorder.close()
    found = replay(path)
    assert found.num_ticks == 5 and found.cut


def full():
    raise OSError(errno.ENOSPC, "the disk is full")


def test_a_record_that_lost_its_end_is_told(tmp_path):
    path = tmp_path / "run.jsonl"
    fly(path, num=80)
    assert not replay(path).cut
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-5]))
    found = replay(path)
    assert found.cut and found.num_ticks == 76
    path.write_text("".join([*lines[:-5], lines[-1]]))
    with pytest.raises(ValueError, match="76 ticks, and ends after 80"):
        replay(path)


def test_an_arm_at_the_end_of_its_range_flies_again(tmp_path):
    own, chain = limits(low=[0.0, -1.0]), arm()
    supervisor = Supervisor(own, chain.corners)
    recorder = FlightRecorder(tmp_path / "run.jsonl", own, chain)
    for tick in range(30):
        now_s = 10 + tick * 0.02
        reading = Reading(np.array([-0.004, 0.1]), now_s, {"front": now_s})
        events = [(Event.ARM, ASKED)] if tick == 15 else []
        result = supervisor.tick(now_s, reading, PolicyLife(True, now_s), events=events)
        recorder.write(now_s, reading, result)
    recorder.close()
    found = replay(tmp_path / "run.jsonl")
    assert found.num_commands == 15 and found.num_mismatches == 0
