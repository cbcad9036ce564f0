"""The arm server: how it stops, for whom, and that nothing else can move the arm."""

import contextlib
import ctypes
import dataclasses
import json
import os
import platform
import signal
import struct
import threading
import time

import numpy as np
import pytest

import hardware.arm_server
from hardware.actions import ToolActions
from hardware.arm import ArmLimits, check_command
from hardware.arm_server import ArmServer, Wires
from hardware.contracts import check_arm
from hardware.flight import FlightRecorder, replay
from hardware.messages import (
    ArmObservation,
    End,
    ObservationRequest,
    PlanProposal,
    PolicyDone,
    Request,
    encode,
)
from hardware.plans import JointPlan
from hardware.priority import lower_niceness
from hardware.reasons import Kind, Reason, quoted
from hardware.remote import RemoteArm
from hardware.simulated import JointTargets, Measured, SimulatedArm, wait_for_life
from hardware.states import Event, State
from hardware.supervisor import Supervisor, SupervisorSettings
from hardware.ticks import Reading
from hardware.verify import violations
from hardware.wire import Wire
from robot_wm.contracts import check_env
from robot_wm.deployment.rig import Rig
from robot_wm.kinematics.limits import Limits
from robot_wm.robots import so100
from robot_wm.types import ActionSpec

HOME = np.array([0.0, -2.0, 1.7, 1.2, 0.0, 0.3])
OVERLOAD = quoted(Kind.DEVICE, "overload")
NOTHING_ENDED_IT = End(reason=Reason(Kind.HUMAN_GONE))


@pytest.fixture(scope="module")
def chain():
    return so100().chain


@pytest.fixture
def rehearsal(chain, tmp_path):
    low, high = chain.joint_range.T
    limits = Limits(
        low=low, high=high, max_speed=np.full(6, 2.5), max_acceleration=np.full(6, 10.0),
        box_low=np.array([-0.15, -0.35, 0.005]), box_high=np.array([0.45, 0.35, 0.45]),
        tip_speed=0.25, max_jump=1.5, tick_s=0.02,
    )  # fmt: skip

    # Patient, for a machine that is busy with other tests: `bench safety` holds the times.
    patient = SupervisorSettings(
        max_tick_s=3.0,
        max_reading_age_s=1.0,
        max_frame_gap_s=0.4,
        max_silence_s=0.4,
        tracking_s=1.0,
    )

    def make(**words):
        return Rig(chain, limits, HOME, tmp_path / "run.jsonl", settings=patient, **words)

    return make


def test_a_remote_arm_keeps_the_contract_of_an_env(rehearsal):
    """With no simulator behind it: it looks, moves, and cannot be put anywhere."""
    reach = np.full(4, 0.02)
    spec = ActionSpec(("x", "y", "z", "opening"), -reach, reach, ("m",) * 4)
    with rehearsal(moves=False) as run:
        run.arm()
        frames = {"front": run.frames}

        def make():
            return RemoteArm(run.policy, frames, ToolActions(so100(), spec), control_dt=0.2)

        check_env(make, resettable=False)
    check_record(run)


@pytest.fixture
def servos(chain):
    """What a simulated arm shares with its simulation, which follows at once."""
    targets, measured, over = JointTargets(6), Measured(6), threading.Event()

    def live():
        while not over.wait(0.005):
            target = targets.read()
            measured.write(HOME if target is None else target, time.monotonic())

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    wait_for_life(measured, timeout_s=5.0)
    yield ArmLimits(chain.joint_names, *chain.joint_range.T), targets, measured
    over.set()
    thread.join()
    targets.close()
    measured.close()


def test_the_simulated_arm_keeps_the_contract(servos):
    check_arm(lambda: SimulatedArm(*servos, {}))


class Deaf(SimulatedArm):
    def write(self, joints):
        check_command(joints, 6)


class Eager(SimulatedArm):
    def write(self, joints):
        self._targets.write(np.nan_to_num(joints[:6]))


class Late(SimulatedArm):
    def read(self):
        reading = super().read()
        return dataclasses.replace(reading, stamp_s=reading.stamp_s - 5.0)


@pytest.mark.parametrize(
    ("broken", "why"),
    [(Deaf, "does not come"), (Eager, "without a ValueError"), (Late, "stamped")],
)
def test_check_arm_sees_a_broken_arm(servos, broken, why):
    with pytest.raises(AssertionError, match=why):
        check_arm(lambda: broken(*servos, {}))


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
        run.children["arm server"].send_signal(getattr(signal, name))
        assert run.children["arm server"].wait(5.0) == 0
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
            assert run.children["arm server"].wait(5.0) == 0
            assert run.rest_s(begin_s, 2.0) < 1.0
        os.close(reading)


def test_a_policy_process_that_dies_is_a_fault(rehearsal):
    with rehearsal() as run:
        run.arm()
        run.wait_moving()
        begin_s = run.kill("policy process")
        assert run.rest_s(begin_s, 2.0) < 1.0
        assert run.wait(State.FAULTED).reason == Reason(Kind.POLICY_GONE)
        run.operator.send(Request(event=Event.RESET))
        run.wait(State.IDLE)
    assert str(Reason(Kind.POLICY_GONE)) in check_record(run).faults


def test_a_policy_process_that_hangs_is_held_and_goes_on(rehearsal):
    with rehearsal() as run:
        run.arm()
        run.wait_moving()
        run.children["policy process"].send_signal(signal.SIGSTOP)
        assert run.rest_s(time.monotonic(), 2.0) < 1.0
        run.wait(State.HOLDING)
        run.children["policy process"].send_signal(signal.SIGCONT)
        run.wait_moving()
    check_record(run)


def test_a_camera_that_freezes_holds_it_and_it_goes_on(rehearsal):
    with rehearsal() as run:
        run.arm()
        run.wait_moving()
        run.frozen = True
        assert run.rest_s(time.monotonic(), 2.0) < 1.0
        run.wait(State.HOLDING)
        run.frozen = False
        run.wait_moving()


class Desk:
    """An arm in this process, that does as its tests say in each of its ticks."""

    frames = {}

    def __init__(self, chain, limits, **words):
        self.joints, self.target, self.num_reads, self.fault = HOME, HOME, 0, None
        self.supervisor = Supervisor(limits, chain.corners, park_pose=HOME + 0.1)
        self.operator, operator = Wire.pair()
        self.policy, policy = Wire.pair()
        self._watchdog, watchdog = Wire.pair()
        wires = Wires(policy, operator, watchdog)
        self.server = ArmServer(self, self.supervisor, wires, **{"tick_s": 0.002, **words})

    def read(self):
        self.num_reads += 1
        self.each()
        return Reading(self.joints, time.monotonic(), fault=self.fault)

    def each(self):
        """Arms it in tick 30."""
        if self.num_reads == 30:
            self.operator.send(Request(event=Event.ARM))
        if self.num_reads > 2000:
            self.operator.send(NOTHING_ENDED_IT)

    def write(self, joints):
        self.target = joints

    def hold(self):
        pass

    def plan(self, joints):
        """Has the policy send a way there."""
        now_s = time.monotonic()
        plan = JointPlan(
            self.supervisor.epoch, 0, now_s, now_s, self.joints, joints[None], now_s + 5
        )
        self.policy.send(PlanProposal(plan=plan))


@pytest.fixture
def desk(chain, rehearsal):
    """Makes a `Desk` whose ticks do something."""

    def make(each, kind=Desk, **words):
        desk = kind(chain, rehearsal().limits, **words)
        arm = desk.each
        desk.each = lambda: (arm(), each(desk))
        return desk

    return make


def test_no_signal_is_lost_whenever_it_comes(desk):
    """One that comes while a tick is under way counts in the next."""

    class Busy(Desk):
        num = 0

        def write(self, joints):
            self.num += 1
            if self.num == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    arm = desk(lambda _: None, Busy)
    assert arm.server.run() == Reason(Kind.SIGNAL, {"name": "SIGTERM"})


def test_it_does_not_leave_an_arm_pushing_at_what_blocked_it(desk):
    """Told to end in the tick of the fault, it stays until the target is where the arm stands."""
    pushed = HOME + [0.2, 0.0, 0.0, 0.0, 0.0, 0.0]

    def each(arm):
        arm.fault = OVERLOAD if arm.num_reads == 40 else None
        if arm.num_reads == 40:
            arm.operator.send(End(reason=Reason(Kind.FAULT)))
            arm.joints = pushed

    arm = desk(each)
    assert arm.server.run().kind is Kind.FAULT and arm.supervisor.reason == OVERLOAD
    np.testing.assert_allclose(arm.target, pushed, atol=1e-6)


def test_a_computer_that_slept_is_a_fault(desk, monkeypatch):
    """All stamps and deadlines stood still meanwhile; whoever is at the arm now did not."""
    asleep_s = hardware.arm_server.asleep_s

    def each(arm):
        if arm.num_reads == 40:
            monkeypatch.setattr(hardware.arm_server, "asleep_s", lambda: asleep_s() + 3600)
        if arm.num_reads == 45:
            arm.operator.send(End(reason=Reason(Kind.ASKED_FOR)))

    arm = desk(each)
    arm.server.run()
    assert arm.supervisor.reason.kind is Kind.COMPUTER_SLEPT
    assert arm.supervisor.reason.numbers["slept_s"] == pytest.approx(3600, abs=1)


def test_a_stop_in_the_tick_in_which_the_policy_process_is_done_is_not_lost(desk):
    def each(arm):
        arm.joints = arm.target
        if arm.num_reads == 40:
            arm.policy.send(PolicyDone())
            os.kill(os.getpid(), signal.SIGTERM)

    arm = desk(each, park=True)
    assert arm.server.run().kind is Kind.DONE
    assert not arm.supervisor.parked  # and its torque stays
    np.testing.assert_allclose(arm.target, HOME, atol=0.02)


THERE = HOME + [0.5, 0.0, 0.0, 0.0, 0.0, 0.0]


def breaking(fail):
    """What an arm does that goes `THERE` from tick 60 on; in tick 80, `fail` is called."""

    def each(arm):
        arm.joints = arm.target
        if arm.num_reads == 60:
            arm.plan(THERE)
        if arm.num_reads == 80:
            assert arm.supervisor.state is State.RUNNING
            fail()

    return each


def test_what_is_written_after_the_arm_server_broke_is_in_the_record(desk, chain, tmp_path):
    path = tmp_path / "broken.jsonl"
    arm = desk(breaking(lambda: setattr(arm.server, "_hear", None)))
    recorder = FlightRecorder(path, arm.supervisor._limits, chain)
    arm.server._recorder = recorder
    assert arm.server.run().kind is Kind.ARM_SERVER_BROKE
    recorder.close()
    found = replay(path)
    assert found.num_mismatches == 0 and not found.cut and "broke" in found.faults[0]
    last = json.loads(path.read_text().splitlines()[-2])
    assert last["command"] == arm.target.tolist() and not np.array_equal(arm.target, THERE)


def test_a_disk_that_fills_brakes_the_arm_and_leaves_a_record(desk, chain, tmp_path):
    path = tmp_path / "full.jsonl"

    def fill():
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, recorder._file)
        os.close(full)

    arm = desk(breaking(fill))
    recorder = FlightRecorder(path, arm.supervisor._limits, chain)
    arm.server._recorder = recorder
    write, written = arm.write, []
    arm.write = lambda joints: (write(joints), written.append(joints))
    assert arm.server.run().kind is Kind.RECORD_LOST
    with contextlib.suppress(OSError):  # /dev/full cannot be synced
        recorder.close()
    found = replay(path)
    assert found.cut and found.num_mismatches == 0 and found.num_ticks == 79
    assert not any(violations(arm.supervisor._limits, chain.corners, np.array(written)).values())
    assert np.array_equal(written[-1], written[-2]) and not np.array_equal(arm.target, THERE)


@pytest.mark.parametrize("sender", ["policy", "operator"])
@pytest.mark.parametrize(
    "content", [b"\xc1 no message", encode(ArmObservation(number=0, epoch=0, joints=HOME,
                                                          commanded=HOME, observed_s=0.0))]
)  # fmt: skip
def test_what_does_not_decode_brakes_the_arm_and_is_in_the_record(
    desk, chain, tmp_path, sender, content
):
    path = tmp_path / "bytes.jsonl"

    def each(arm):
        arm.joints = arm.target
        if arm.num_reads == 60:
            arm.plan(HOME + [0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
        if arm.num_reads == 80:
            assert arm.supervisor.state is State.RUNNING
            os.write(getattr(arm, sender).fileno(), content)
        if arm.num_reads == 200:
            arm.operator.send(End(reason=Reason(Kind.FAULT)))

    arm = desk(each)
    recorder = FlightRecorder(path, arm.supervisor._limits, chain)
    arm.server._recorder = recorder
    arm.server.run()
    recorder.close()
    assert arm.supervisor.reason.kind is Kind.UNDECODABLE
    assert arm.supervisor.reason.numbers["num_bytes"] == len(content)
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:-1]]
    assert [line["undecodable"] for line in lines if "undecodable" in line] == [[content.hex()]]
    commands = np.array([line["command"] for line in lines if line["command"]])
    assert np.array_equal(commands[-1], commands[-2]) and commands[-1][0] < 0.4  # it stands
    assert replay(path).num_mismatches == 0


def test_a_policy_process_that_asks_is_told_why_the_arm_has_stopped(desk):
    told = []

    def each(arm):
        arm.joints = arm.target
        if arm.num_reads == 60:
            arm.fault = OVERLOAD
            arm.policy.send(ObservationRequest(number=5))
        told.extend(arm.policy.receive())
        if told:
            arm.operator.send(End(reason=Reason(Kind.FAULT)))

    desk(each).server.run()
    assert [message.reason for message in told] == [OVERLOAD]


def test_a_late_tick_is_not_made_up_for(desk):
    written = []

    class Slow(Desk):
        def write(self, joints):
            written.append(time.monotonic())
            if len(written) == 5:
                time.sleep(0.09)
            if len(written) == 10:
                self.operator.send(End(reason=Reason(Kind.ASKED_FOR)))

    arm = desk(lambda _: None, Slow, tick_s=0.02)
    arm.server.run()
    assert written[5] - written[4] > 0.08 and written[6] - written[5] > 0.018


@pytest.mark.parametrize("name", ["arm server", "watchdog", "policy process"])
def test_who_is_killed_moves_nothing_more(rehearsal, name):
    with rehearsal() as run:
        run.arm()
        run.wait_moving()
        run.kill(name)
        before = run.joint_targets.read()
        time.sleep(0.5)
        if name == "arm server":
            np.testing.assert_array_equal(run.joint_targets.read(), before)
            np.testing.assert_allclose(run.joints, before, atol=1e-6)
            assert run.children["watchdog"].wait(2.0) == 1
    commands = np.array([joints for _, joints in run.trace])
    assert np.isfinite(commands).all()
    assert replay(run.record).num_mismatches == 0


def test_an_arm_that_is_unplugged_or_blocked_is_a_fault(rehearsal, tmp_path):
    for mishap, kinds in (
        (("unplugged", True), [Kind.STALE_JOINTS]),
        (("blocked", 0), [Kind.JOINT_STUCK, Kind.JOINT_BEHIND]),
    ):
        run = rehearsal()
        run.record = tmp_path / f"{mishap[0]}.jsonl"
        with run:
            run.arm()
            run.wait_moving()
            setattr(run, *mishap)
            assert run.wait(State.FAULTED).reason.kind in kinds


def test_the_arm_server_has_no_torch_and_no_simulator(rehearsal):
    with rehearsal() as run:
        run.arm()
        maps = open(f"/proc/{run.children['arm server'].pid}/maps").read()
        assert "torch" not in maps and "mujoco" not in maps and "numpy" in maps


def test_nothing_moves_before_it_is_armed_or_after_it_is_stopped(rehearsal):
    with rehearsal() as run:
        run.wait(State.IDLE)
        time.sleep(0.3)
        assert run.joint_targets.read() is None
        run.operator.send(Request(event=Event.ARM))
        run.wait_moving()
        run.operator.send(Request(event=Event.STOP))
        run.wait(State.IDLE)
        time.sleep(0.3)
        before = run.joint_targets.read()
        time.sleep(0.3)
        np.testing.assert_array_equal(run.joint_targets.read(), before)


def test_commands_keep_the_limits_at_every_tick(rehearsal):
    with rehearsal() as run:
        run.arm()
        time.sleep(2.0)
    lines = [json.loads(line) for line in run.record.read_text().splitlines()][1:-1]
    commands = [line["command"] for line in lines if line["command"] is not None]
    start = next(line["seed"] for line in lines if "seed" in line)
    assert len(commands) > 80
    found = violations(run.limits, run.chain.corners, np.array([start, *commands]))
    assert not any(found.values())


def test_who_may_not_go_first_goes_on_without(monkeypatch):
    def refuse(_):
        raise PermissionError

    before = os.getpriority(os.PRIO_PROCESS, 0)
    monkeypatch.setattr(os, "nice", refuse)
    lower_niceness()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_the_arm_server_is_let_in_at_once(rehearsal):
    """With short turns, not at the end of somebody else's."""
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    if platform.machine() != "x86_64" or release < (6, 12):
        pytest.skip("Linux gives no process a slice of its own before 6.12")
    with rehearsal() as run:
        run.wait(State.IDLE)
        seen = ctypes.create_string_buffer(48)
        pid = run.children["arm server"].pid
        assert ctypes.CDLL(None).syscall(315, pid, seen, 48, 0) == 0  # sched_getattr
        assert struct.unpack("IIQiIQQQ", seen.raw)[5] == 100_000
