"""The controller's process: how it stops, for whom, and that nothing else can move the arm."""

import os
import signal
import time

import numpy as np
import pytest

from hardware.flight import replay
from hardware.limits import Limits
from hardware.mjcf import load_chain
from hardware.pilot import Pilot, Reading
from hardware.process import Controller, Wires
from hardware.verify import violations
from hardware.wire import Wire
from robot_wm.cli.rehearsal import Rehearsal
from sim_envs.so100_scene import EE_SITE, JOINTS, so100_scene

HOME = np.array([0.0, -2.0, 1.7, 1.2, 0.0, 0.3])


@pytest.fixture(scope="module")
def chain():
    return load_chain(*so100_scene(), joints=JOINTS, tool=EE_SITE)


@pytest.fixture
def rehearsal(chain, tmp_path):
    low, high = chain.joint_range.T
    limits = Limits(
        low=low, high=high, max_speed=np.full(6, 2.5), max_acceleration=np.full(6, 10.0),
        box_low=np.array([-0.15, -0.35, 0.005]), box_high=np.array([0.45, 0.35, 0.45]),
        tip_speed=0.25, max_jump=1.5, tick_s=0.02,
    )  # fmt: skip

    # Patient, for a machine that is busy with other tests: `bench safety` holds the times.
    patient = {"max_tick_s": 3.0, "max_reading_age_s": 1.0}
    patient |= {"max_frame_gap_s": 0.4, "max_silence_s": 0.4, "tracking_s": 1.0}

    def make(**words):
        return Rehearsal(chain, limits, HOME, tmp_path / "run.jsonl", settings=patient, **words)

    return make


def check_record(run):
    found = replay(run.record)
    assert found.num_commands > 2 and found.num_mismatches == 0
    commands = np.array([joints for _, joints in run.trace])
    corners = run.chain.corners(commands)
    assert (corners >= run.limits.box_low).all() and (corners <= run.limits.box_high).all()
    return found


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_stops_it_and_it_leaves(rehearsal, name):
    with rehearsal() as run:
        run.arm()
        run.wait_moving()
        begin_s = time.monotonic()
        run.children["controller"].send_signal(getattr(signal, name))
        assert run.children["controller"].wait(5.0) == 0
        assert run.rest_s(begin_s, 2.0) < 1.0
        assert run.children["watchdog"].wait(5.0) == 0  # it said goodbye
    check_record(run)


def test_a_key_and_the_terminal_s_end_stop_it(rehearsal, tmp_path):
    for number, press in enumerate((lambda end: os.write(end, b" "), os.close)):
        reading, writing = os.pipe()
        run = rehearsal(keys=reading)
        run.record = tmp_path / f"key{number}.jsonl"
        with run:
            run.arm()
            run.wait_moving()
            begin_s = time.monotonic()
            press(writing)
            assert run.children["controller"].wait(5.0) == 0
            assert run.rest_s(begin_s, 2.0) < 1.0
        os.close(reading)


def test_a_planner_that_dies_is_a_fault(rehearsal):
    with rehearsal() as run:
        run.arm()
        run.wait_moving()
        begin_s = run.kill("planner")
        assert run.rest_s(begin_s, 2.0) < 1.0
        assert run.wait("faulted")["reason"] == "the planner died"
        run.human.send({"event": "reset"})
        run.wait("idle")
    assert "the planner died" in check_record(run).faults


def test_a_planner_that_hangs_is_held_and_goes_on(rehearsal):
    with rehearsal() as run:
        run.arm()
        run.wait_moving()
        run.children["planner"].send_signal(signal.SIGSTOP)
        assert run.rest_s(time.monotonic(), 2.0) < 1.0
        run.wait("holding")
        run.children["planner"].send_signal(signal.SIGCONT)
        run.wait_moving()
    check_record(run)


def test_a_camera_that_freezes_holds_it_and_it_goes_on(rehearsal):
    with rehearsal() as run:
        run.arm()
        run.wait_moving()
        run.frozen = True
        assert run.rest_s(time.monotonic(), 2.0) < 1.0
        run.wait("holding")
        run.frozen = False
        run.wait_moving()


def test_no_signal_is_lost_whenever_it_comes(chain, rehearsal):
    """One that comes while a tick is under way counts in the next."""
    limits = rehearsal().limits

    class Desk:
        frames = {}
        num = 0

        num_reads = 0

        def read(self):
            self.num_reads += 1
            if self.num_reads == 30:
                human.send({"event": "arm"})
            if self.num_reads > 2000:
                human.send({"end": "it was lost"})
            return Reading(HOME, time.monotonic())

        def write(self, joints):
            self.num += 1
            if self.num == 5:
                os.kill(os.getpid(), signal.SIGTERM)

        def hold(self):
            pass

    human, end = Wire.pair()
    planner, other = Wire.pair()
    watchdog, beats = Wire.pair()
    pilot = Pilot(limits, chain.corners)
    controller = Controller(Desk(), pilot, Wires(other, end, beats), tick_s=0.002)
    assert not watchdog.closed
    assert controller.run() == "SIGTERM"


def test_it_does_not_leave_an_arm_pushing_at_what_blocked_it(chain, rehearsal):
    """Told to end in the tick of the fault, it stays until the goal is where the arm stands."""
    limits = rehearsal().limits
    pushed = HOME + [0.2, 0.0, 0.0, 0.0, 0.0, 0.0]

    class Desk:
        frames = {}
        num_reads = 0
        goal = HOME

        def read(self):
            self.num_reads += 1
            if self.num_reads == 30:
                human.send({"event": "arm"})
            if self.num_reads == 40:
                human.send({"end": "fault"})
                return Reading(pushed, time.monotonic(), fault="overload")
            return Reading(HOME if self.num_reads < 40 else pushed, time.monotonic())

        def write(self, joints):
            self.goal = joints

        def hold(self):
            pass

    human, end = Wire.pair()
    planner, other = Wire.pair()
    watchdog, beats = Wire.pair()
    desk, pilot = Desk(), Pilot(limits, chain.corners)
    controller = Controller(desk, pilot, Wires(other, end, beats), tick_s=0.002)
    assert not watchdog.closed and not planner.closed
    assert controller.run() == "fault" and "overload" in pilot.reason
    np.testing.assert_allclose(desk.goal, pushed, atol=1e-6)


@pytest.mark.parametrize("name", ["controller", "watchdog", "planner"])
def test_who_is_killed_moves_nothing_more(rehearsal, name):
    with rehearsal() as run:
        run.arm()
        run.wait_moving()
        run.kill(name)
        before = run.goals.read()
        time.sleep(0.5)
        if name == "controller":
            np.testing.assert_array_equal(run.goals.read(), before)
            np.testing.assert_allclose(run.joints, before, atol=1e-6)
            assert run.children["watchdog"].wait(2.0) == 1
    commands = np.array([joints for _, joints in run.trace])
    assert np.isfinite(commands).all()
    assert replay(run.record).num_mismatches == 0


def test_an_arm_that_is_unplugged_or_blocked_is_a_fault(rehearsal, tmp_path):
    for mishap, told in ((("unplugged", True), "were read"), (("blocked", 0), "joint 0 is")):
        run = rehearsal()
        run.record = tmp_path / f"{mishap[0]}.jsonl"
        with run:
            run.arm()
            run.wait_moving()
            setattr(run, *mishap)
            assert told in run.wait("faulted")["reason"]


def test_the_controller_has_no_torch_and_no_simulator(rehearsal):
    with rehearsal() as run:
        run.arm()
        maps = open(f"/proc/{run.children['controller'].pid}/maps").read()
        assert "torch" not in maps and "mujoco" not in maps and "numpy" in maps


def test_nothing_moves_before_it_is_armed_or_after_it_is_stopped(rehearsal):
    with rehearsal() as run:
        run.wait("idle")
        time.sleep(0.3)
        assert run.goals.read() is None
        run.human.send({"event": "arm"})
        run.wait_moving()
        run.human.send({"event": "stop"})
        run.wait("idle")
        time.sleep(0.3)
        before = run.goals.read()
        time.sleep(0.3)
        np.testing.assert_array_equal(run.goals.read(), before)


def test_commands_keep_the_limits_at_every_tick(rehearsal):
    with rehearsal() as run:
        run.arm()
        time.sleep(2.0)
    import json

    lines = [json.loads(line) for line in run.record.read_text().splitlines()][1:-1]
    commands = [line["command"] for line in lines if line["command"] is not None]
    start = next(line["seed"] for line in lines if "seed" in line)
    assert len(commands) > 80
    found = violations(run.limits, run.chain.corners, np.array([start, *commands]))
    assert not any(found.values())
