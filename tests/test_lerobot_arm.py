"""A LeRobot robot as an arm: the unmodified SO-101 driver on servos that are not."""

import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
from fake_feetech import GRIPPER, MOTORS, TICKS, FakeBus
from lerobot.motors.feetech import feetech

import hardware.lerobot_arm
from hardware.arm import ArmError
from hardware.contracts import check_arm
from hardware.lerobot_bus import DeviceLock, open_robot
from hardware.reasons import Kind, Reason
from robot_wm.kinematics.joints import JointMap
from robot_wm.robots import so100

pytestmark = pytest.mark.alone  # the servos are a thread, which has to answer in time

LOW, HIGH = np.full(6, -3.0), np.full(6, 3.0)
POSE = np.array([0.3, -0.6, 0.9, 0.4, -0.2, 0.5])


def joint_map():
    degree = math.pi / 180
    opening = (GRIPPER[1] - GRIPPER[0]) / TICKS / 100  # rad per percent
    shut = (2048 - GRIPPER[0]) / TICKS / opening  # percent at angle 0
    keys, zero = tuple(f"{name}.pos" for name in MOTORS), np.array([0, 0, 0, 0, 0, shut])
    return JointMap(so100().joints, keys, zero, np.array([degree] * 5 + [opening]))


@pytest.fixture
def bus(monkeypatch):
    patience = feetech.patch_setPacketTimeout

    def patient(port, length):  # the servos are a thread here, and the machine may be busy
        patience(port, length)
        port.packet_timeout += 200.0

    monkeypatch.setattr(feetech, "patch_setPacketTimeout", patient)
    bus = FakeBus(POSE)
    yield bus
    bus.close()


def connect(bus, folder, *, joints=None, dry_run=False, low=LOW, high=HIGH, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "fake.json").write_text(json.dumps(bus.calibration()))
    own = {"port": bus.port, "id": "fake", "calibration_dir": folder, **settings}
    return hardware.lerobot_arm.connect(
        "so101_follower",
        own,
        joints or joint_map(),
        low=low,
        high=high,
        frames={},
        reply_s=0.2,
        dry_run=dry_run,
    )


def test_the_driver_of_an_so101_keeps_the_contract_of_an_arm(bus, tmp_path):
    check_arm(lambda: connect(bus, tmp_path / "cal"))


@pytest.fixture
def arm(bus, tmp_path):
    arm = connect(bus, tmp_path / "cal")
    yield arm
    arm.close()


def test_angles_are_the_model_s(arm, bus):
    reading = arm.read()
    np.testing.assert_allclose(reading.joints, POSE, atol=3e-3)
    assert reading.fault is None and time.monotonic() - reading.stamp_s < 1
    arm.write(POSE + 0.1)
    time.sleep(0.5)
    np.testing.assert_allclose(bus.angles, POSE + 0.1, atol=3e-3)
    np.testing.assert_allclose(arm.read().joints, POSE + 0.1, atol=4e-3)
    assert arm.limits().names == so100().joints


def test_connecting_moves_nothing_whatever_the_servos_were_told_before(bus, tmp_path):
    for number in range(1, 7):
        bus._registers[number][40] = 0
        bus.set_goal(number, POSE[number - 1] + 1.0)
    arm = connect(bus, tmp_path / "cal")
    time.sleep(0.3)
    np.testing.assert_allclose(bus.angles, POSE, atol=3e-3)
    assert all(bus.torque())
    arm.close()


def test_lost_packets_are_asked_for_again(arm, bus):
    bus.loss = 0.02
    for _ in range(150):
        assert np.isfinite(arm.read().joints).all()
    assert bus.num_lost > 5


def test_a_late_reply_in_the_place_of_the_next_is_asked_for_again(arm, bus):
    bus.late = 2
    for _ in range(6):
        assert np.isfinite(arm.read().joints).all()
    assert bus.late == 0 and arm.num_retries > 0


def test_what_comes_too_late_is_not_taken_for_what_is_asked_next(arm, bus):
    for _ in range(3):
        bus.delayed = 1
        np.testing.assert_allclose(arm.read().joints, POSE, atol=3e-3)
        time.sleep(0.35)  # now it lies there
        tries = arm.num_retries
        for _ in range(6):
            np.testing.assert_allclose(arm.read().joints, POSE, atol=3e-3)
        assert arm.num_retries == tries


def test_a_servo_s_error_is_told_within_a_round(arm, bus):
    bus.errors[3] = 0x20
    faults = [arm.read().fault for _ in range(12)]
    overload = Reason(Kind.SERVO, {"servo": "elbow_flex", "errors": "overload"})
    assert faults[0] is None and all(fault == overload for fault in faults[6:])
    bus.errors[3] = 0
    assert [arm.read().fault for _ in range(6)][-1] is None


def test_an_unplugged_bus_is_an_error_and_leaving_raises_nothing(arm, bus):
    bus.unplug()
    with pytest.raises(ArmError):
        arm.read()
    arm.hold()
    arm.close()


def test_holding_and_leaving_keep_torque_and_place(arm, bus):
    arm.write(POSE + 0.8)
    time.sleep(0.05)
    arm.hold()
    time.sleep(0.1)
    there = bus.angles.copy()
    arm.close()
    time.sleep(0.3)
    np.testing.assert_allclose(bus.angles, there, atol=0.03)
    assert all(bus.torque()) and np.abs(there - POSE).max() < 0.7


def test_torque_goes_only_where_it_may_relax(bus, tmp_path):
    arm = connect(bus, tmp_path / "cal")
    arm.close(relax=True)
    assert not any(bus.torque())


def test_one_broken_servo_does_not_keep_the_others_from_holding(arm, bus, monkeypatch):
    def broken(*_, **__):
        raise ConnectionError("no status packet")

    monkeypatch.setattr(arm._robot, "get_observation", broken)
    read = arm._robot.bus.read

    def read_most(what, motor):
        return broken() if motor == "elbow_flex" else read(what, motor)

    monkeypatch.setattr(arm._robot.bus, "read", read_most)
    bus.goals.clear()
    arm.hold()
    assert {number for number, _ in bus.goals} == {1, 2, 4, 5, 6}


def test_a_joint_that_the_robot_does_not_have_is_named(bus, tmp_path):
    own = joint_map()
    strange = JointMap(so100().joints, (*own.keys[:5], "claw.pos"), own.zero, own.rad_per_unit)
    with pytest.raises(ValueError, match=r"has no claw.pos, but shoulder_pan.pos"):
        connect(bus, tmp_path, joints=strange)
    assert all(bus.torque())  # an arm that holds is not let go for a slip of the pen
    connect(bus, tmp_path).close()  # nor its port kept


def test_the_calibrated_range_is_the_arm_s_whatever_the_model_s(bus, tmp_path):
    bus._ranges[1] = (1024, 3072)
    bus._registers[2][9:13] = np.array([1024, 3072], "<u2").tobytes()
    arm = connect(bus, tmp_path)
    assert arm.limits().high[1] == pytest.approx(math.pi / 2, abs=0.01)
    assert arm.limits().low[1] == pytest.approx(-math.pi / 2, abs=0.01)
    assert arm.limits().high[0] == pytest.approx(3.0)
    arm.close()


def test_units_that_are_not_the_robot_s_are_refused(bus, tmp_path):
    with pytest.raises(ValueError, match=r"rad_per_unit: shoulder_pan.pos goes 3.49 rad by it, 6"):
        connect(bus, tmp_path, use_degrees=False)
    own = joint_map()
    wide = JointMap(so100().joints, own.keys, own.zero, own.rad_per_unit * [1, 1, 1, 1, 1, 1.5])
    with pytest.raises(ValueError, match=r"gripper.pos goes 3.30 rad by it, 2.20"):
        connect(bus, tmp_path, joints=wide)


@pytest.mark.parametrize("own", [{"max_relative_target": 5}, {"cameras": {"front": {}}}])
def test_settings_that_would_come_between_governor_and_arm_are_refused(bus, tmp_path, own):
    with pytest.raises(ValueError, match=f"robot.config.{next(iter(own))}: not taken"):
        connect(bus, tmp_path, **own)


def test_an_arm_that_holds_is_never_let_go_and_a_limp_one_is_caught_where_it_is(bus, tmp_path):
    lowest = []
    bus.watch = lambda: lowest.append(min(bus.torque()))
    connect(bus, tmp_path).close()
    assert min(lowest) == 1 and all(bus.torque())
    for registers in bus._registers.values():
        registers[40] = 0
    arm = connect(bus, tmp_path)
    time.sleep(0.2)
    assert all(bus.torque())
    np.testing.assert_allclose(bus.angles, POSE, atol=3e-3)
    arm.close()


def test_a_dry_run_leaves_torque_as_it_was(bus, tmp_path):
    for torque in (0, 1):
        for registers in bus._registers.values():
            registers[40] = torque
        arm = connect(bus, tmp_path, dry_run=True)
        assert np.isfinite(arm.read().joints).all()
        arm.close()
        assert set(bus.torque()) == {bool(torque)}


@pytest.mark.parametrize("seed", range(4))
def test_it_connects_though_packets_are_lost(tmp_path, seed, monkeypatch):
    bus = FakeBus(POSE, loss=0.02, seed=seed)
    connect(bus, tmp_path).close()
    assert all(bus.torque())
    bus.close()


def test_a_cable_that_is_really_out_is_an_error_and_nothing_else(bus, tmp_path):
    arm = connect(bus, tmp_path)
    bus.close()
    for _ in range(3):
        with pytest.raises(ArmError):
            arm.read()
        with pytest.raises(ArmError):
            arm.write(POSE)
    arm.hold()
    arm.close()


def test_mistakes_are_named(bus, tmp_path):
    for kind, settings, told in (
        ("so999", {}, "robot.type: got 'so999', want one of"),
        ("so101_follower", {"port": "/dev/nothing"}, "no device /dev/nothing"),
        ("so101_follower", {"port": bus.port, "speed": 3}, "robot: The fields `speed`"),
    ):
        with pytest.raises(ValueError, match=told):
            open_robot(kind, settings)
    with pytest.raises(ValueError, match="not calibrated"):
        open_robot("so101_follower", {"port": bus.port, "id": "new", "calibration_dir": tmp_path})


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": ("a.pos",) * 6},
        {"keys": ("a.pos",)},
        {"zero": np.full(6, np.nan)},
        {"rad_per_unit": np.zeros(6)},
        {"rad_per_unit": np.ones(5)},
    ],
)
def test_a_joint_map_that_makes_no_sense_is_refused(changes):
    own = {"names": so100().joints, "keys": tuple("abcdef"), "zero": np.zeros(6),
           "rad_per_unit": np.ones(6)}  # fmt: skip
    with pytest.raises(ValueError, match="joints"):
        JointMap(**{**own, **changes})


def test_a_robot_that_lacks_a_joint_is_told():
    with pytest.raises(ValueError, match="gripper.pos"):
        joint_map().angles({f"{name}.pos": 0.0 for name in MOTORS[:5]})


def test_a_port_has_one_driver(bus):
    lock = DeviceLock(bus.port)
    code = (
        "import sys; from hardware.lerobot_bus import DeviceLock, ArmError\n"
        "try: DeviceLock(sys.argv[1])\n"
        "except ArmError as error: print(error); sys.exit(7)"
    )
    second = [sys.executable, "-c", code, bus.port]
    found = subprocess.run(second, capture_output=True, text=True)
    assert found.returncode == 7 and "another process drives it" in found.stdout
    lock.close()
    assert subprocess.run(second).returncode == 0
    with pytest.raises(ValueError, match="No such file"):
        DeviceLock("/dev/nothing")
