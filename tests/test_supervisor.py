"""The supervisor: what it writes in every tick, what it holds for, and what it calls a fault."""

import math

import msgspec
import numpy as np
import pytest
from governor_checks import TICK_S, corners, limits

from hardware.plans import JointPlan, Motion
from hardware.reasons import Kind, Reason, quoted
from hardware.states import Event, State
from hardware.supervisor import Supervisor, SupervisorSettings
from hardware.ticks import NoteKind, PolicyLife, Reading
from hardware.verify import violations

FAR = [1.0, 0.8]
ASKED = Reason(Kind.ASKED_FOR)
OVERLOAD = quoted(Kind.DEVICE, "motor 3: overload")


class Desk:
    """A supervisor with an arm that follows its last command, and a clock."""

    def __init__(self, settings=None, *, rest=(0.1, 0.1), own=None):
        self.limits = own or limits()
        self.supervisor = Supervisor(
            self.limits, corners, settings, park_pose=None if rest is None else np.array(rest)
        )
        self.now_s, self.joints, self.written, self.notes = 100.0, np.zeros(2), [], []
        self.seq, self.parts = 0, []
        self.reading, self.policy, self.frame_s = {}, {}, None

    def tick(self, *events, plans=(), num=1, every=TICK_S):
        for _ in range(num):
            self.now_s += every
            frame_s = self.now_s if self.frame_s is None else self.frame_s
            reading = {"joints": self.joints, "stamp_s": self.now_s, "frames_s": {"front": frame_s}}
            policy = {"alive": True, "heard_s": self.now_s}
            result = self.supervisor.tick(
                self.now_s,
                Reading(**{**reading, **self.reading}),
                PolicyLife(**{**policy, **self.policy}),
                events=[(event, ASKED) for event in events],
                plans=plans,
            )
            self.notes += result.notes
            if result.seed is not None:
                self.parts.append([result.seed])
            if result.command is not None:
                self.parts[-1].append(result.command)
                self.written.append(result.command)
                self.joints = result.command
            events, plans = (), ()
        return result

    def arm(self):
        self.tick(num=10)  # it is seen to stand
        return self.tick(Event.ARM)

    def plan(self, *waypoints, **changes):
        self.seq += 1
        own = {
            "epoch": self.supervisor.epoch,
            "seq": self.seq,
            "observed_s": self.now_s - 0.05,
            "begun_s": self.now_s,
            "start": self.joints,
            "waypoints": waypoints or [FAR],
            "valid_until_s": self.now_s + 5.0,
        }
        return JointPlan(**{**own, **changes})

    def running(self, num=10):
        self.arm()
        self.tick(plans=[self.plan()])
        self.tick(num=num)
        assert self.supervisor.state is State.RUNNING
        return self

    def told(self, kind, *notes):
        """How often a reason of a kind was told, in notes of these kinds or any."""
        return sum(
            kind in kinds(note.reason) and (not notes or note.kind in notes) for note in self.notes
        )

    def stands(self):
        return np.array_equal(self.written[-1], self.written[-2])


def kinds(reason):
    """Of a reason and its causes."""
    return [] if reason is None else [reason.kind, *kinds(reason.cause)]


def test_a_plan_is_followed_to_its_end_and_the_next_taken():
    desk = Desk()
    assert desk.tick(num=30).command is None  # nothing is written before it is armed
    assert desk.arm().state is State.ARMED
    assert desk.tick(plans=[desk.plan([0.2, 0.1], FAR)]).state is State.RUNNING
    result = desk.tick(num=120)
    assert result.state is State.HOLDING and result.at_rest
    np.testing.assert_allclose(desk.joints, FAR, atol=2e-3)
    assert desk.tick(plans=[desk.plan([0.0, 0.0])]).state is State.RUNNING
    desk.tick(num=120)
    np.testing.assert_allclose(desk.joints, 0, atol=2e-3)
    commands = np.array([np.zeros(2), *desk.written])
    assert not any(violations(desk.limits, corners, commands).values())
    done = [note for note in desk.notes if note.reason.kind is Kind.TARGETS_DONE]
    assert done[0].reason.numbers == {"num": 2}
    assert (done[0].before, done[0].after) == (State.RUNNING, State.HOLDING)


def test_the_first_command_is_where_the_arm_stands():
    desk = Desk()
    desk.joints = np.array([0.7, -0.3])
    desk.arm()
    np.testing.assert_allclose(desk.written[0], [0.7, -0.3], atol=1e-8)
    desk.tick(Event.STOP)
    desk.reading = {"joints": np.array([0.2, 0.1])}  # moved by hand
    desk.arm()
    np.testing.assert_allclose(desk.written[-1], [0.2, 0.1], atol=1e-8)


@pytest.mark.parametrize(
    ("reading", "policy", "kind"),
    [
        ({"fault": OVERLOAD}, {}, Kind.DEVICE),
        ({"joints": np.array([np.nan, 0])}, {}, Kind.JOINTS_NOT_FINITE),
        ({"joints": np.zeros(3)}, {}, Kind.WRONG_NUM_JOINTS),
        ({"stamp_s": 0.0}, {}, Kind.STALE_JOINTS),
        ({"stamp_s": math.nan}, {}, Kind.STALE_JOINTS),
        ({}, {"alive": False}, Kind.POLICY_GONE),
    ],
)
def test_what_is_wrong_is_a_fault_that_stays(reading, policy, kind):
    desk = Desk().running()
    desk.reading, desk.policy = reading, policy
    result = desk.tick()
    assert result.state is State.FAULTED and result.reason.kind is kind
    desk.tick(num=15)
    assert desk.stands()  # 0.3 s later
    desk.reading, desk.policy = {}, {}
    result = desk.tick(plans=[desk.plan()], num=50)
    assert result.state is State.FAULTED and desk.stands()
    assert desk.told(Kind.NOT_READY, NoteKind.PLAN_REFUSED)
    assert desk.tick(Event.RESET).state is State.IDLE
    assert desk.tick(num=5).state is State.IDLE and desk.stands()


def test_it_is_not_reset_while_it_is_wrong():
    desk = Desk().running()
    desk.reading = {"fault": OVERLOAD}
    desk.tick()
    assert desk.tick(Event.RESET).state is State.FAULTED
    assert desk.told(Kind.DEVICE, NoteKind.NOT_RESET)


def test_a_late_tick_is_a_fault_and_enlarges_no_step():
    desk = Desk().running()
    result = desk.tick(every=0.2)
    assert result.state is State.FAULTED and result.reason.kind is Kind.LATE_TICK
    assert result.reason.numbers["took_ms"] == pytest.approx(200)
    desk.tick(num=30)
    commands = np.array([np.zeros(2), *desk.written])
    assert not any(violations(desk.limits, corners, commands).values())


@pytest.mark.parametrize("speed", [0.2, 0.5])
def test_a_blocked_joint_is_found_within_half_a_second_however_slow_it_goes(speed):
    desk = Desk(own=limits(max_speed=[speed, speed])).running(num=25)
    blocked, begin_s = desk.joints.copy(), desk.now_s
    while desk.supervisor.state is State.RUNNING:
        desk.reading = {"joints": [blocked[0], desk.joints[1]]}
        desk.tick()
    assert desk.now_s - begin_s < 0.5
    assert desk.supervisor.reason.numbers["joint"] == 0


def test_an_arm_that_lags_is_not_stuck():
    desk = Desk().running(num=1)
    measured = desk.joints.copy()
    for _ in range(200):
        measured = measured + (desk.joints - measured) * TICK_S / 0.08
        desk.reading = {"joints": measured}
        desk.tick()
    assert desk.supervisor.state is State.HOLDING and np.allclose(desk.joints, FAR, atol=1e-3)


def test_an_arm_whose_readings_are_lost_for_some_ticks_is_not_stuck():
    desk = Desk(own=limits(max_acceleration=[16.0, 24.0]))
    desk.arm()
    desk.tick(num=40)  # it stands for longer than is looked back
    measured = desk.joints.copy()
    desk.tick(plans=[desk.plan()])
    for tick in range(200):
        measured = measured + (desk.joints - measured) * TICK_S / 0.06
        if tick % 5 == 0:
            desk.reading = {"joints": measured, "stamp_s": desk.now_s + TICK_S}
        desk.tick()
    assert desk.supervisor.state is State.HOLDING and np.allclose(desk.joints, FAR, atol=1e-3)


def test_a_joint_that_does_not_follow_is_a_fault_within_half_a_second():
    desk = Desk().running(num=1)
    stuck, begin = desk.joints.copy(), desk.now_s
    while desk.supervisor.state is State.RUNNING and desk.now_s < begin + 2:
        desk.reading = {"joints": stuck + 0.3 * (desk.joints - stuck)}
        desk.tick()
    assert (
        desk.supervisor.state is State.FAULTED and desk.supervisor.reason.kind is Kind.JOINT_BEHIND
    )
    assert desk.now_s - begin < 0.6


@pytest.mark.parametrize(
    ("policy", "frame_s", "kind"),
    [
        ({"heard_s": 100.0}, None, Kind.POLICY_SILENT),
        ({}, 100.0, Kind.CAMERA_STALE),
    ],
)
def test_a_silence_holds_the_arm_until_the_next_plan(policy, frame_s, kind):
    desk = Desk().running()
    desk.policy, desk.frame_s = policy, frame_s
    result = desk.tick()
    assert result.state is State.HOLDING
    desk.tick(num=14)
    assert desk.stands() and desk.told(kind)
    desk.policy, desk.frame_s = {}, None
    assert desk.tick(num=20).state is State.HOLDING and desk.stands()
    assert desk.tick(plans=[desk.plan()]).state is State.RUNNING


def test_a_human_s_stop_brakes_at_once():
    desk = Desk().running()
    assert desk.tick(Event.STOP).state is State.IDLE
    desk.tick(num=14)
    assert desk.stands()
    assert desk.tick(plans=[desk.plan()]).state is State.IDLE and desk.stands()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"epoch": 0}, Kind.OTHER_EPOCH),
        ({"epoch": 2}, Kind.OTHER_EPOCH),
        ({"seq": 0}, Kind.OLD_NUMBER),
        ({"observed_s": 100.4}, Kind.OLD_PICTURE),
        ({"observed_s": 99.0}, Kind.SEEN_IN_MOTION),
        ({"begun_s": 200.0}, Kind.WRONG_ORDER),
        ({"begun_s": 50.0}, Kind.WRONG_ORDER),
        ({"valid_until_s": 90.0}, Kind.WRONG_VALIDITY),
        ({"valid_until_s": 900.0}, Kind.WRONG_VALIDITY),
        ({"start": [0.06, 0.0]}, Kind.WRONG_START),
        ({"start": [0.0], "waypoints": [[0.0]]}, Kind.OTHER_ARM),
        ({"waypoints": [[0.1, 2.5]]}, Kind.JOINT_OUTSIDE),
    ],
)
def test_a_plan_that_is_not_legal_is_refused_and_three_are_a_fault(changes, kind):
    desk = Desk()
    desk.arm()
    desk.tick(plans=[desk.plan([0.01, 0.0])])
    desk.tick(num=20)
    assert desk.supervisor.state is State.HOLDING
    before = desk.joints
    for _ in range(2):
        assert desk.tick(plans=[desk.plan(**changes)]).state is State.HOLDING
    assert desk.told(kind, NoteKind.PLAN_REFUSED) == 2
    result = desk.tick(plans=[desk.plan(**changes)])
    assert result.state is State.FAULTED and result.reason.kind is Kind.PLANS_REFUSED
    assert result.reason.numbers == {"num": 3} and kind in kinds(result.reason)
    desk.tick(num=20)
    np.testing.assert_array_equal(desk.joints, before)


def test_a_good_plan_between_bad_ones_is_no_fault():
    desk = Desk()
    desk.arm()
    for place in (0.1, 0.2, 0.3):
        desk.tick(plans=[desk.plan(epoch=9)])
        desk.tick(plans=[desk.plan(epoch=9)])
        assert desk.tick(plans=[desk.plan([place, 0.0])]).state is State.RUNNING
        desk.tick(num=20)


def test_no_plan_outlives_its_deadline_or_its_arming():
    desk = Desk()
    desk.arm()
    desk.tick(plans=[desk.plan(valid_until_s=desk.now_s + 0.1)])
    result = desk.tick(num=20)
    assert result.state is State.HOLDING and np.abs(desk.joints).max() < 0.2
    old = desk.plan()
    desk.tick(Event.STOP)
    desk.arm()
    assert desk.tick(plans=[old]).state is State.ARMED


def test_waiting_warns_and_then_faults():
    desk = Desk(SupervisorSettings(wait_warn_s=0.5, wait_fault_s=1.0))
    desk.arm()
    assert desk.tick(num=26).state is State.ARMED
    assert desk.told(Kind.NO_PLAN, NoteKind.WAITING) == 1
    result = desk.tick(num=30)
    assert result.state is State.FAULTED and result.reason.kind is Kind.NO_PLAN
    assert result.reason.numbers["waited_s"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("prepare", "kind"),
    [
        (lambda desk: setattr(desk, "joints", np.array([1.6, 0.0])), Kind.JOINT_OUTSIDE),
        (lambda desk: setattr(desk, "frame_s", 90.0), Kind.CAMERA_STALE),
        (lambda desk: setattr(desk, "policy", {"alive": False}), Kind.POLICY_MISSING),
    ],
)
def test_it_is_not_armed_without_reason(prepare, kind):
    desk = Desk()
    prepare(desk)
    result = desk.arm()
    assert result.state is State.IDLE and result.command is None
    assert desk.told(kind, NoteKind.NOT_ARMED)


def test_it_is_armed_at_rest_alone():
    desk = Desk().running(num=20)
    desk.tick(Event.STOP)
    assert desk.arm().state is State.IDLE
    assert desk.told(Kind.NOT_AT_REST, NoteKind.NOT_ARMED)
    desk.tick(num=15)
    assert desk.arm().state is State.ARMED


def test_parking_is_a_governed_way_to_rest():
    desk = Desk().running(num=20)
    desk.tick(Event.STOP)
    desk.tick(num=15)
    assert desk.tick(Event.PARK).state is State.PARKING
    assert desk.tick(num=80).state is State.IDLE
    np.testing.assert_allclose(desk.joints, [0.1, 0.1], atol=2e-3)
    commands = np.array([np.zeros(2), *desk.written])
    assert not any(violations(desk.limits, corners, commands).values())


def test_parking_that_cannot_be_is_told():
    desk = Desk(rest=None)
    assert desk.tick(Event.PARK).state is State.IDLE
    assert desk.told(Kind.NO_PARK_POSE, NoteKind.NOT_PARKED)
    desk = Desk()
    assert desk.tick(Event.PARK).state is State.IDLE
    assert desk.told(Kind.NEVER_ARMED, NoteKind.NOT_PARKED)
    desk = Desk(SupervisorSettings(parking_s=0.2)).running(num=20)
    desk.tick(Event.STOP)
    desk.tick(Event.PARK)
    result = desk.tick(num=20)
    assert result.state is State.FAULTED and result.reason.kind is Kind.PARKING_SLOW


def test_targets_too_far_apart_are_refused_and_parking_goes_by_steps():
    desk = Desk(own=limits(max_jump=0.5))
    desk.arm()
    for waypoints in ([[0.9, 0.0]], [[0.4, 0.0], [0.4, 0.48]]):
        assert desk.tick(plans=[desk.plan(waypoints=waypoints)]).state is State.ARMED
        assert desk.notes[-1].reason.kind is Kind.LONG_STEP
    desk.tick(plans=[desk.plan([0.4, 0.0], [0.8, 0.4])])
    desk.tick(num=80)
    np.testing.assert_allclose(desk.joints, [0.8, 0.4], atol=2e-3)
    desk.tick(Event.STOP)
    desk.tick(Event.PARK)
    assert desk.tick(num=100).state is State.IDLE
    np.testing.assert_allclose(desk.joints, 0.1, atol=2e-3)


def test_a_rest_pose_where_the_arm_may_not_stand_is_refused():
    for rest in ([0.0, 2.5], [0.0], [np.nan, 0.0]):
        with pytest.raises(ValueError, match="stands where it may not"):
            Desk(rest=rest)


def test_one_wrong_reading_is_no_place_to_begin():
    desk = Desk()
    desk.tick(num=10)
    desk.reading = {"joints": np.array([1.2, 0.9])}
    assert desk.tick(Event.ARM).state is State.IDLE
    assert desk.told(Kind.NOT_AT_REST, NoteKind.NOT_ARMED)


def test_after_a_blocked_joint_the_goal_comes_back_to_the_arm():
    desk = Desk().running(num=1)
    stuck = desk.joints.copy()
    while desk.supervisor.state is State.RUNNING:
        desk.reading = {"joints": stuck}
        desk.tick()
    assert np.abs(desk.joints - stuck).max() > 0.2
    result = desk.tick(num=40)  # braked, and seen to stand
    np.testing.assert_allclose(desk.joints, stuck, atol=1e-8)
    assert result.state is State.FAULTED and desk.told(Kind.TARGET_MOVED)
    desk.reading = {}
    desk.tick(num=40)
    np.testing.assert_allclose(desk.joints, stuck, atol=1e-8)  # nothing springs


def test_a_servo_that_complains_does_not_keep_the_goal_away():
    """Overload is what a servo says of something in its way."""
    desk = Desk().running(num=1)
    stuck = desk.joints.copy()
    for i in range(60):
        desk.reading = {"joints": stuck, "fault": OVERLOAD if i > 10 else None}
        result = desk.tick()
    np.testing.assert_allclose(desk.joints, stuck, atol=1e-8)
    assert result.state is State.FAULTED and desk.told(Kind.TARGET_MOVED)


def test_a_human_s_stop_does_not_leave_it_pushing():
    desk = Desk().running(num=1)
    desk.reading = {"joints": desk.joints.copy()}
    desk.tick(num=10)
    assert desk.tick(Event.STOP).state is State.IDLE
    desk.tick(num=30)
    np.testing.assert_allclose(desk.joints, desk.reading["joints"], atol=1e-8)


def test_an_arm_that_sinks_under_its_load_is_not_followed_down():
    desk = Desk().running()
    desk.tick(Event.FAULT)
    desk.tick(num=20)
    for _ in range(40):  # it stands a little below whatever it is told
        desk.reading = {"joints": desk.joints - [0.1, 0.0]}
        desk.tick(num=20)
    assert desk.told(Kind.TARGET_MOVED) == 1


def test_a_plan_from_before_the_last_move_is_refused():
    desk = Desk()
    desk.arm()
    old = desk.plan([0.02, 0.0])
    desk.tick(plans=[desk.plan([0.01, 0.0])])
    desk.tick(num=5)
    assert desk.tick(plans=[msgspec.structs.replace(old, seq=9)]).state is State.HOLDING
    assert desk.notes[-1].reason.kind is Kind.SEEN_IN_MOTION


def test_a_plan_that_was_thought_over_for_too_long_is_refused():
    desk = Desk(SupervisorSettings(max_thought_s=0.5))
    desk.arm()
    old = desk.plan()
    desk.tick(num=30)
    assert desk.tick(plans=[old]).state is State.ARMED
    assert desk.notes[-1].reason.kind is Kind.OLD_PLAN


def test_a_second_plan_waits_until_the_arm_stands():
    desk = Desk().running()
    desk.tick(plans=[desk.plan([0.0, 0.0])])
    assert desk.notes[-1].reason.kind is Kind.SEEN_IN_MOTION


def test_when_all_fails_it_brakes():
    desk = Desk().running(num=20)
    broken = quoted(Kind.ARM_SERVER_BROKE, "a bug")
    results = [desk.supervisor.fail(desk.now_s, broken) for _ in range(20)]
    assert results[-1].state is State.FAULTED and results[-1].reason == broken
    assert results[-1].at_rest and results[-1].seed is None
    commands = np.array([np.zeros(2), *desk.written, *(result.command for result in results)])
    assert not any(violations(desk.limits, corners, commands).values())
    assert Desk().supervisor.fail(1.0, broken).command is None


def test_random_faults_break_no_limit():
    rng = np.random.default_rng(0)
    own = limits(tip_speed=0.4, box_high=[9, 0.4, 9])
    faults = [
        {"fault": OVERLOAD}, {"joints": np.array([np.nan, 0])}, {"joints": np.zeros(0)},
        {"stamp_s": -1.0}, {"joints": np.full(2, 1e9)},
    ]  # fmt: skip
    for _ in range(40):
        desk = Desk(own=own)
        for _ in range(300):
            events = [list(Event)[i] for i in rng.integers(len(Event), size=rng.integers(2))]
            if rng.random() < 0.2:
                events = [Event.RESET, Event.ARM]
            waypoints = rng.uniform(-3, 3, (rng.integers(1, 4), 2))
            plans = [desk.plan(waypoints=waypoints)] if rng.random() < 0.3 else []
            desk.reading = faults[rng.integers(len(faults))] if rng.random() < 0.02 else {}
            desk.policy = {"alive": False} if rng.random() < 0.02 else {}
            desk.tick(*events, plans=plans,
                      every=TICK_S if rng.random() < 0.97 else 0.3)  # fmt: skip
        for part in desk.parts:
            assert not any(violations(own, corners, np.array(part)).values())


def test_what_only_the_pilot_knows_is_not_said_from_outside():
    for event in (Event.PLAN, Event.WAIT, Event.PARKED):
        desk = Desk().running()
        assert desk.tick(event).state is State.FAULTED
        assert desk.supervisor.reason.kind is Kind.FOREIGN_EVENT


def test_a_target_that_the_governor_refuses_is_a_fault():
    desk = Desk().running()
    desk.supervisor._motion.target = lambda *_: np.array([math.nan, 0.0])
    result = desk.tick()
    assert result.state is State.FAULTED and result.reason.kind is Kind.TARGET_REFUSED
    desk.tick(num=60)
    assert desk.stands() and np.isfinite(desk.written).all()


def test_an_arm_at_the_end_of_its_range_is_armed_though_measured_a_hair_beyond():
    desk = Desk()
    desk.joints = np.array([-2.004, 0.3])
    result = desk.arm()
    assert result.state is State.ARMED and result.seed.tolist() == [-2.0, 0.3]
    desk = Desk()
    desk.joints = np.array([-2.02, 0.3])
    assert desk.arm().state is State.IDLE
    assert desk.notes[-1].reason.numbers == {"joint": 0, "angle_rad": -2.02}


def test_settings_that_make_no_sense_are_refused():
    for change in ({"max_tick_s": 0}, {"wait_fault_s": math.nan}, {"tracking_s": -1.0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            SupervisorSettings(**change)


def test_a_motion_goes_from_target_to_target():
    motion = Motion(np.array([[0.1, 0.0], [0.2, 0.0]]), deadline_s=5.0)
    assert motion.target(np.zeros(2), 0.0).tolist() == [0.1, 0.0]
    assert motion.target(np.array([0.1, 0.0]), 1.0).tolist() == [0.2, 0.0] and motion.done == 1
    assert motion.target(np.array([0.15, 0.0]), 6.0) is None
    assert motion.target(np.array([0.2, 0.0]), 2.0) is None and motion.done == 2
