"""The pilot: what it writes in every tick, what it holds for, and what it calls a fault."""

import math

import numpy as np
import pytest
from governor_checks import TICK_S, corners, limits

from hardware.pilot import Pilot, PilotSettings, PlannerLife, Reading
from hardware.plans import JointPlan, Motion
from hardware.states import Event, State
from hardware.verify import violations

FAR = [1.0, 0.8]


class Desk:
    """A pilot with an arm that follows its last command, and a clock."""

    def __init__(self, settings=None, *, rest=(0.1, 0.1), own=None):
        self.limits = own or limits()
        self.pilot = Pilot(
            self.limits, corners, settings, rest=None if rest is None else np.array(rest)
        )
        self.now_s, self.joints, self.written, self.notes = 100.0, np.zeros(2), [], []
        self.seq, self.parts = 0, []
        self.reading, self.planner, self.frame_s = {}, {}, None

    def tick(self, *events, plans=(), num=1, every=TICK_S):
        for _ in range(num):
            self.now_s += every
            frame_s = self.now_s if self.frame_s is None else self.frame_s
            reading = {"joints": self.joints, "stamp_s": self.now_s, "frames_s": {"front": frame_s}}
            planner = {"alive": True, "heard_s": self.now_s}
            turn = self.pilot.tick(
                self.now_s,
                Reading(**{**reading, **self.reading}),
                PlannerLife(**{**planner, **self.planner}),
                events=[(event, "") for event in events],
                plans=plans,
            )
            self.notes += turn.notes
            if turn.seed is not None:
                self.parts.append([turn.seed])
            if turn.command is not None:
                self.parts[-1].append(turn.command)
                self.written.append(turn.command)
                self.joints = turn.command
            events, plans = (), ()
        return turn

    def arm(self):
        self.tick(num=10)  # it is seen to stand
        return self.tick(Event.ARM)

    def plan(self, *waypoints, **changes):
        self.seq += 1
        own = {
            "epoch": self.pilot.epoch,
            "seq": self.seq,
            "observed_s": self.now_s - 0.05,
            "begun_s": self.now_s,
            "start": self.joints,
            "waypoints": waypoints or [FAR],
            "valid_until_s": self.now_s + 5.0,
        }
        message = JointPlan(**own).message()
        return {**message, **changes}

    def running(self, num=10):
        self.arm()
        self.tick(plans=[self.plan()])
        self.tick(num=num)
        assert self.pilot.state is State.RUNNING
        return self

    def stands(self):
        return np.array_equal(self.written[-1], self.written[-2])


def test_a_plan_is_followed_to_its_end_and_the_next_taken():
    desk = Desk()
    assert desk.tick(num=30).command is None  # nothing is written before it is armed
    assert desk.arm().state is State.ARMED
    assert desk.tick(plans=[desk.plan([0.2, 0.1], FAR)]).state is State.RUNNING
    turn = desk.tick(num=120)
    assert turn.state is State.HOLDING and turn.at_rest
    np.testing.assert_allclose(desk.joints, FAR, atol=2e-3)
    assert desk.tick(plans=[desk.plan([0.0, 0.0])]).state is State.RUNNING
    desk.tick(num=120)
    np.testing.assert_allclose(desk.joints, 0, atol=2e-3)
    commands = np.array([np.zeros(2), *desk.written])
    assert not any(violations(desk.limits, corners, commands).values())
    assert "running -> holding: 2 targets done" in desk.notes


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
    ("reading", "planner", "told"),
    [
        ({"fault": "motor 3: overload"}, {}, "motor 3: overload"),
        ({"joints": np.array([np.nan, 0])}, {}, "not finite"),
        ({"joints": np.zeros(3)}, {}, "reads (3,) joints"),
        ({"stamp_s": 0.0}, {}, "the joints were read"),
        ({"stamp_s": math.nan}, {}, "the joints were read"),
        ({}, {"alive": False}, "the planner died"),
    ],
)
def test_what_is_wrong_is_a_fault_that_stays(reading, planner, told):
    desk = Desk().running()
    desk.reading, desk.planner = reading, planner
    turn = desk.tick()
    assert turn.state is State.FAULTED and told in turn.reason
    desk.tick(num=15)
    assert desk.stands()  # 0.3 s later
    desk.reading, desk.planner = {}, {}
    turn = desk.tick(plans=[desk.plan()], num=50)
    assert turn.state is State.FAULTED and desk.stands()
    assert any("plan refused: the arm is faulted" in note for note in desk.notes)
    assert desk.tick(Event.RESET).state is State.IDLE
    assert desk.tick(num=5).state is State.IDLE and desk.stands()


def test_it_is_not_reset_while_it_is_wrong():
    desk = Desk().running()
    desk.reading = {"fault": "no answer"}
    desk.tick()
    assert desk.tick(Event.RESET).state is State.FAULTED
    assert "not reset: no answer" in desk.notes


def test_a_late_tick_is_a_fault_and_enlarges_no_step():
    desk = Desk().running()
    turn = desk.tick(every=0.2)
    assert turn.state is State.FAULTED and "a tick took 200 ms" in turn.reason
    desk.tick(num=30)
    commands = np.array([np.zeros(2), *desk.written])
    assert not any(violations(desk.limits, corners, commands).values())


@pytest.mark.parametrize("speed", [0.2, 0.5])
def test_a_blocked_joint_is_found_within_half_a_second_however_slow_it_goes(speed):
    desk = Desk(own=limits(max_speed=[speed, speed])).running(num=25)
    blocked, begin_s = desk.joints.copy(), desk.now_s
    while desk.pilot.state is State.RUNNING:
        desk.reading = {"joints": [blocked[0], desk.joints[1]]}
        desk.tick()
    assert desk.now_s - begin_s < 0.5
    assert "joint 0" in desk.pilot.reason


def test_an_arm_that_lags_is_not_stuck():
    desk = Desk().running(num=1)
    measured = desk.joints.copy()
    for _ in range(200):
        measured = measured + (desk.joints - measured) * TICK_S / 0.08
        desk.reading = {"joints": measured}
        desk.tick()
    assert desk.pilot.state is State.HOLDING and np.allclose(desk.joints, FAR, atol=1e-3)


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
    assert desk.pilot.state is State.HOLDING and np.allclose(desk.joints, FAR, atol=1e-3)


def test_a_joint_that_does_not_follow_is_a_fault_within_half_a_second():
    desk = Desk().running(num=1)
    stuck, begin = desk.joints.copy(), desk.now_s
    while desk.pilot.state is State.RUNNING and desk.now_s < begin + 2:
        desk.reading = {"joints": stuck + 0.3 * (desk.joints - stuck)}
        desk.tick()
    assert desk.pilot.state is State.FAULTED and "behind its command" in desk.pilot.reason
    assert desk.now_s - begin < 0.6


@pytest.mark.parametrize(
    ("planner", "frame_s", "told"),
    [
        ({"heard_s": 100.0}, None, "the planner is silent"),
        ({}, 100.0, "camera front shows nothing"),
    ],
)
def test_a_silence_holds_the_arm_until_the_next_plan(planner, frame_s, told):
    desk = Desk().running()
    desk.planner, desk.frame_s = planner, frame_s
    turn = desk.tick()
    assert turn.state is State.HOLDING
    desk.tick(num=14)
    assert desk.stands() and any(told in note for note in desk.notes)
    desk.planner, desk.frame_s = {}, None
    assert desk.tick(num=20).state is State.HOLDING and desk.stands()
    assert desk.tick(plans=[desk.plan()]).state is State.RUNNING


def test_a_human_s_stop_brakes_at_once():
    desk = Desk().running()
    assert desk.tick(Event.STOP).state is State.IDLE
    desk.tick(num=14)
    assert desk.stands()
    assert desk.tick(plans=[desk.plan()]).state is State.IDLE and desk.stands()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epoch": 0}, "epoch 0, this is 1"),
        ({"epoch": 2}, "epoch 2, this is 1"),
        ({"seq": 0}, "its number is 0"),
        ({"observed_s": 100.4}, "ms old when planning began"),
        ({"observed_s": 99.0}, "before the arm came to rest"),
        ({"begun_s": 200.0}, "begun before it looked, or after now"),
        ({"begun_s": 50.0}, "begun before it looked, or after now"),
        ({"valid_until_s": 90.0}, "valid for another"),
        ({"valid_until_s": 900.0}, "valid for another"),
        ({"valid_until_s": 10**400}, "want finite seconds"),
        ({"seq": "x" * 100_000}, "want a whole number"),
        ({"waypoints": [[0.1, 10**400]]}, "want finite angles"),
        ({"waypoints": [[0.1, 0.1]] * 17}, "want 1 to 16"),
        ({"start": [0.06, 0.0]}, "rad from where the arm stands"),
        ({"start": [0.0], "waypoints": [[0.0]]}, "for 1 joints"),
        ({"waypoints": [[0.1, 2.5]]}, "joint 1 is at 2.500 rad"),
        ({"waypoints": [[0.1, math.nan]]}, "want finite angles"),
        ({"waypoints": [[0.1, None]]}, "want finite angles"),
        ({"waypoints": [["0.1", "0.2"]]}, "want finite angles"),
        ({"waypoints": [[0.1], [0.1, 0.2]]}, "ragged"),
        ({"waypoints": []}, "want finite angles"),
        ({"waypoints": [[]]}, "one angle per joint"),
        ({"waypoints": "go"}, "want finite angles"),
        ({"start": [math.inf, 0.0]}, "want finite angles"),
        ({"seq": "7"}, "want a whole number"),
        ({"epoch": True}, "want a whole number"),
        ({"begun_s": math.nan}, "want finite seconds"),
        ({"begun_s": "now"}, "want seconds"),
        ({"torque": 3}, "want begun_s"),
    ],
)
def test_a_plan_that_is_not_legal_is_refused_and_three_are_a_fault(changes, told):
    desk = Desk()
    desk.arm()
    desk.tick(plans=[desk.plan([0.01, 0.0])])
    desk.tick(num=20)
    assert desk.pilot.state is State.HOLDING
    before = desk.joints
    for _ in range(2):
        assert desk.tick(plans=[desk.plan(**changes)]).state is State.HOLDING
    assert any(told in note for note in desk.notes), desk.notes
    turn = desk.tick(plans=[desk.plan(**changes)])
    assert turn.state is State.FAULTED and "3 plans refused" in turn.reason
    desk.tick(num=20)
    np.testing.assert_array_equal(desk.joints, before)


@pytest.mark.parametrize("message", [None, "plan", 3, [], {}])
def test_what_is_no_plan_is_refused(message):
    desk = Desk()
    desk.arm()
    assert desk.tick(plans=[message]).state is State.ARMED
    assert "plan refused" in desk.notes[-1]


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
    turn = desk.tick(num=20)
    assert turn.state is State.HOLDING and np.abs(desk.joints).max() < 0.2
    old = desk.plan()
    desk.tick(Event.STOP)
    desk.arm()
    assert desk.tick(plans=[old]).state is State.ARMED


def test_waiting_warns_and_then_faults():
    desk = Desk(PilotSettings(wait_warn_s=0.5, wait_fault_s=1.0))
    desk.arm()
    assert desk.tick(num=26).state is State.ARMED
    assert sum("no plan for" in note for note in desk.notes) == 1
    turn = desk.tick(num=30)
    assert turn.state is State.FAULTED and "no plan for 1 s" in turn.reason


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda desk: setattr(desk, "joints", np.array([1.6, 0.0])), "joint 0 is at 1.600"),
        (lambda desk: setattr(desk, "frame_s", 90.0), "camera front shows nothing new"),
        (lambda desk: setattr(desk, "planner", {"alive": False}), "no planner"),
    ],
)
def test_it_is_not_armed_without_reason(prepare, told):
    desk = Desk()
    prepare(desk)
    turn = desk.arm()
    assert turn.state is State.IDLE and turn.command is None
    assert any("not armed" in note and told in note for note in desk.notes)


def test_it_is_armed_at_rest_alone():
    desk = Desk().running(num=20)
    desk.tick(Event.STOP)
    assert desk.arm().state is State.IDLE
    assert "not armed: the arm has not come to rest" in desk.notes
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
    assert "not parked: no rest pose is known" in desk.notes
    desk = Desk()
    assert desk.tick(Event.PARK).state is State.IDLE
    assert "not parked: the arm was never armed" in desk.notes
    desk = Desk(PilotSettings(parking_s=0.2)).running(num=20)
    desk.tick(Event.STOP)
    desk.tick(Event.PARK)
    turn = desk.tick(num=20)
    assert turn.state is State.FAULTED and "parking takes longer" in turn.reason


def test_targets_too_far_apart_are_refused_and_parking_goes_by_steps():
    desk = Desk(own=limits(max_jump=0.5))
    desk.arm()
    for waypoints in ([[0.9, 0.0]], [[0.4, 0.0], [0.4, 0.48]]):
        assert desk.tick(plans=[desk.plan(waypoints=waypoints)]).state is State.ARMED
        assert "rad from the one before" in desk.notes[-1]
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
    assert "not armed: the arm has not come to rest" in desk.notes


def test_after_a_blocked_joint_the_goal_comes_back_to_the_arm():
    desk = Desk().running(num=1)
    stuck = desk.joints.copy()
    while desk.pilot.state is State.RUNNING:
        desk.reading = {"joints": stuck}
        desk.tick()
    assert np.abs(desk.joints - stuck).max() > 0.2
    turn = desk.tick(num=40)  # braked, and seen to stand
    np.testing.assert_allclose(desk.joints, stuck, atol=1e-8)
    assert turn.state is State.FAULTED and any("set" in note for note in desk.notes)
    desk.reading = {}
    desk.tick(num=40)
    np.testing.assert_allclose(desk.joints, stuck, atol=1e-8)  # nothing springs


def test_a_servo_that_complains_does_not_keep_the_goal_away():
    """Overload is what a servo says of something in its way."""
    desk = Desk().running(num=1)
    stuck = desk.joints.copy()
    for i in range(60):
        desk.reading = {"joints": stuck, "fault": "servo 1: overload" if i > 10 else ""}
        turn = desk.tick()
    np.testing.assert_allclose(desk.joints, stuck, atol=1e-8)
    assert turn.state is State.FAULTED and any("set" in note for note in desk.notes)


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
    assert sum("goal set" in note for note in desk.notes) == 1


def test_a_plan_from_before_the_last_move_is_refused():
    desk = Desk()
    desk.arm()
    old = desk.plan([0.02, 0.0])
    desk.tick(plans=[desk.plan([0.01, 0.0])])
    desk.tick(num=5)
    assert desk.tick(plans=[{**old, "seq": 9}]).state is State.HOLDING
    assert "before the arm came to rest" in desk.notes[-1]


def test_a_plan_that_was_thought_over_for_too_long_is_refused():
    desk = Desk(PilotSettings(max_thought_s=0.5))
    desk.arm()
    old = desk.plan()
    desk.tick(num=30)
    assert desk.tick(plans=[old]).state is State.ARMED and "s old" in desk.notes[-1]


def test_a_second_plan_waits_until_the_arm_stands():
    desk = Desk().running()
    desk.tick(plans=[desk.plan([0.0, 0.0])])
    assert "before the arm came to rest" in desk.notes[-1]


def test_when_all_fails_it_brakes():
    desk = Desk().running(num=20)
    turns = [desk.pilot.fail(desk.now_s, "broken") for _ in range(20)]
    assert turns[-1].state is State.FAULTED and turns[-1].reason == "broken"
    assert turns[-1].at_rest and turns[-1].seed is None
    commands = np.array([np.zeros(2), *desk.written, *(turn.command for turn in turns)])
    assert not any(violations(desk.limits, corners, commands).values())
    assert Desk().pilot.fail(1.0, "broken").command is None


def test_random_faults_break_no_limit():
    rng = np.random.default_rng(0)
    own = limits(tip_speed=0.4, box_high=[9, 0.4, 9])
    faults = [
        {"fault": "overload"}, {"joints": np.array([np.nan, 0])}, {"joints": np.zeros(0)},
        {"stamp_s": -1.0}, {"joints": np.full(2, 1e9)},
    ]  # fmt: skip
    for _ in range(40):
        desk = Desk(own=own)
        for _ in range(300):
            events = [list(Event)[i] for i in rng.integers(len(Event), size=rng.integers(2))]
            if rng.random() < 0.2:
                events = [Event.RESET, Event.ARM]
            waypoints = rng.uniform(-3, 3, (rng.integers(1, 4), 2))
            waypoints[rng.random(waypoints.shape) < 0.05] = np.nan
            plans = [desk.plan(waypoints=waypoints.tolist())] if rng.random() < 0.3 else []
            desk.reading = faults[rng.integers(len(faults))] if rng.random() < 0.02 else {}
            desk.planner = {"alive": False} if rng.random() < 0.02 else {}
            desk.tick(*events, plans=plans,
                      every=TICK_S if rng.random() < 0.97 else 0.3)  # fmt: skip
        for part in desk.parts:
            assert not any(violations(own, corners, np.array(part)).values())


def test_what_only_the_pilot_knows_is_not_said_from_outside():
    for event in (Event.PLAN, Event.WAIT, Event.PARKED):
        desk = Desk().running()
        assert desk.tick(event).state is State.FAULTED
        assert "not for others to say" in desk.pilot.reason


def test_a_target_that_the_governor_refuses_is_a_fault():
    desk = Desk().running()
    desk.pilot._motion.target = lambda *_: np.array([math.nan, 0.0])
    turn = desk.tick()
    assert turn.state is State.FAULTED and "refused a target" in turn.reason
    desk.tick(num=60)
    assert desk.stands() and np.isfinite(desk.written).all()


def test_an_arm_at_the_end_of_its_range_is_armed_though_measured_a_hair_beyond():
    desk = Desk()
    desk.joints = np.array([-2.004, 0.3])
    turn = desk.arm()
    assert turn.state is State.ARMED and turn.seed.tolist() == [-2.0, 0.3]
    desk = Desk()
    desk.joints = np.array([-2.02, 0.3])
    assert desk.arm().state is State.IDLE and "joint 0 is at -2.020" in desk.notes[-1]


def test_settings_that_make_no_sense_are_refused():
    for change in ({"max_tick_s": 0}, {"wait_fault_s": math.nan}, {"tracking_s": -1.0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            PilotSettings(**change)


def test_a_motion_goes_from_target_to_target():
    motion = Motion(np.array([[0.1, 0.0], [0.2, 0.0]]), deadline_s=5.0)
    assert motion.target(np.zeros(2), 0.0).tolist() == [0.1, 0.0]
    assert motion.target(np.array([0.1, 0.0]), 1.0).tolist() == [0.2, 0.0] and motion.done == 1
    assert motion.target(np.array([0.15, 0.0]), 6.0) is None
    assert motion.target(np.array([0.2, 0.0]), 2.0) is None and motion.done == 2
