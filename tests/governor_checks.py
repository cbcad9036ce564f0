"""What a governor must do, asked of the module that holds it: so that mutants can be tried."""

from __future__ import annotations

import numpy as np

from hardware.reasons import Kind, NotLegalError, Reason
from hardware.verify import violations
from robot_wm.kinematics.limits import Limits

TICK_S = 0.02


def limits(**changes) -> Limits:
    own = {
        "low": [-2.0, -1.0],
        "high": [1.5, 2.0],
        "max_speed": [2.0, 3.0],
        "max_acceleration": [8.0, 12.0],
        "box_low": [-9.0, -9.0, -9.0],
        "box_high": [9.0, 9.0, 9.0],
        "tip_speed": 99.0,
        "max_jump": 5.0,
        "tick_s": TICK_S,
    }
    return Limits(**{**own, **changes})


def corners(joints):
    """A planar arm of two links, 0.4 and 0.3 m: elbow and tip."""
    first, both = joints[:, 0], joints[:, 0] + joints[:, 1]
    elbow = 0.4 * np.stack((np.cos(first), np.sin(first), 0 * first), -1)
    tip = elbow + 0.3 * np.stack((np.cos(both), np.sin(both), 0 * both), -1)
    return np.stack((elbow, tip), 1)


def drive(module, targets, start=(0.0, 0.0), **changes):
    """Commands `[T + 1, J]` under targets, the start first, and what the governor said."""
    governor = module.Governor(limits(**changes), corners, np.array(start))
    said = [governor.step(target) for target in targets]
    return np.array([np.array(start), *(command.joints for command in said)]), said


def check_wild_targets_break_nothing(module):
    rng = np.random.default_rng(0)
    for changes in (
        {},
        {"tip_speed": 0.3},
        {"box_low": [-9, -0.2, -9]},
        {"box_high": [9, 0.25, 9]},
        {"box_low": [0.3, -9, -9], "tip_speed": 0.5},
    ):
        held = np.repeat(rng.uniform(-3, 3, (40, 2)), rng.integers(1, 12, 40), axis=0)
        commands, _ = drive(module, held, **changes)
        assert not any(violations(limits(**changes), corners, commands).values()), changes


def check_its_way_is_straight(module):
    goal = np.array([1.2, -0.3])
    commands, _ = drive(module, [goal] * 90)
    np.testing.assert_allclose(commands[:, 1], commands[:, 0] * goal[1] / goal[0], atol=1e-9)
    back, _ = drive(
        module, [goal] * 12 + [[-0.6, -0.5]] * 120
    )  # one joint turns round, one goes on
    assert (np.diff(back[13:24, 1]) < 0).all()
    np.testing.assert_allclose(back[-1], [-0.6, -0.5], atol=1e-6)


def check_it_gets_there_and_no_farther(module):
    goal = np.array([1.2, -0.7])
    commands, said = drive(module, [goal] * 90)
    assert np.abs(commands[-1] - goal).max() < 1e-6
    assert (np.diff(commands, axis=0) * np.sign(goal) >= -1e-12).all()  # no overshoot
    assert np.abs(commands[45] - goal).max() < 0.02  # and at once
    assert all(command.blend == 1 and not command.refused for command in said)
    np.testing.assert_allclose(said[10].speed, np.diff(commands[10:12], axis=0)[0] / TICK_S)


def check_nonsense_brakes(module):
    nonsense = (
        [np.nan, 0.0], [np.inf, 0.0], [0.1], [0.1, 0.2, 0.3], 0.3, None, "left", ["0.1", "0.2"],
        [[0.1, 0.2]], [6.5, 0.0], [None, 0.0], [True, False], [1j, 0], [[0.1], 0.2],
    )  # fmt: skip
    for wish in nonsense:
        commands, said = drive(module, [[1.0, 1.0]] * 10 + [wish] * 20)
        assert not any(violations(limits(), corners, commands).values()), wish
        assert np.array_equal(commands[-1], commands[-2]), wish
        assert said[9].speed.all() and not said[-1].speed.any()
        assert said[-1].refused == (wish is not None) and said[-1].blend == 0
        again, _ = drive(module, [[1.0, 1.0]] * 10 + [wish] * 20 + [[1.0, 1.0]] * 90)
        assert np.abs(again[-1] - 1.0).max() < 1e-6  # and it goes on after that


def check_a_wall_is_reached_and_not_crossed(module):
    wall = {"box_high": [9, 0.3, 9]}
    commands, said = drive(module, [[1.4, 0.0]] * 200, **wall)
    assert 0.28 < corners(commands[-1:])[..., 1].max() <= 0.3
    assert said[-1].blend < 1 and not said[-1].refused
    back, _ = drive(module, [[1.4, 0.0]] * 200 + [[0.0, 0.0]] * 100, **wall)
    assert np.abs(back[-1]).max() < 1e-6


def check_a_joint_at_its_limit_does_not_hold_the_others(module):
    commands, said = drive(module, [[1.5, 3.5]] * 120)
    assert np.abs(commands[-1] - [1.5, 2.0]).max() < 1e-6
    assert min(command.blend for command in said) == 1
    commands, _ = drive(module, [[0.5, 2.0]] * 60, start=(1.5, 2.0))
    assert np.abs(commands[-1] - [0.5, 2.0]).max() < 1e-6


def check_an_arm_that_begins_at_an_end_is_governed_from_the_first_tick(module):
    for start in ((1.5, 2.0), (-2.0, -1.0), (1.5, 0.0)):
        for tick_s in (0.001, 0.02):
            own = {"tick_s": tick_s}
            for goal in ((0.5, 0.5), start, (9.0, 9.0), (1.5, 0.3)):
                commands, _ = drive(module, [goal] * 10, start=start, **own)
                assert not any(violations(limits(**own), corners, commands).values()), (start, goal)
            commands, _ = drive(module, [[0.5, 0.5]] * int(3 / tick_s), start=start, **own)
            assert np.abs(commands[-1] - 0.5).max() < 1e-6
    governor = module.Governor(limits(), corners, np.array([1.5, 2.0]))
    np.testing.assert_array_equal(governor.joints, [1.5, 2.0])


def check_a_slow_tip_moves(module):
    for tip_speed in (1e-3, 5e-3, 2e-2):
        commands, _ = drive(module, [[1.0, 0.5]] * 100, tip_speed=tip_speed)
        assert not any(violations(limits(tip_speed=tip_speed), corners, commands).values())
        moved = np.linalg.norm(np.diff(corners(commands), axis=0), axis=-1).sum(0).max()
        assert 0.2 < moved / (100 * TICK_S * tip_speed) <= 1


def check_it_begins_only_where_it_may(module):
    for start, told in (
        ((0.0, 2.1), Reason(Kind.JOINT_OUTSIDE, {"joint": 1, "angle_rad": 2.1})),
        ((-2.5, 0.0), Reason(Kind.JOINT_OUTSIDE, {"joint": 0, "angle_rad": -2.5})),
        ((np.nan, 0.0), Reason(Kind.NOT_ANGLES, {"want": 2})),
        ((0.0,), Reason(Kind.NOT_ANGLES, {"want": 2})),
        ((1.4, 0.0), Reason(Kind.BOX_LEFT)),
    ):
        try:
            module.Governor(limits(box_high=[9, 0.3, 9]), corners, np.array(start))
        except NotLegalError as error:
            assert error.reason == told
        else:
            raise AssertionError(start)
    governor = module.Governor(limits(), corners, np.array([0.5, 0.25]))
    assert governor.problem(np.array([0.5, 0.25])) is None
    np.testing.assert_allclose(governor.joints, [0.5, 0.25])
    command = governor.step([1.0, 1.0])
    before = command.joints.copy()
    command.joints[:] = command.speed[:] = governor.joints[:] = 9.0  # whoever holds them
    np.testing.assert_array_equal(governor.joints, before)
    assert np.abs(governor.step([1.0, 1.0]).joints).max() < 1


def check_its_braking_path_is_legal_at_every_tick(module):
    rng = np.random.default_rng(1)
    changes = {"box_high": [9, 0.35, 9], "tip_speed": 0.6}
    for ticks in range(1, 60, 3):
        wish = np.repeat(rng.uniform(-2, 2, (6, 2)), 10, axis=0)[:ticks]
        commands, said = drive(module, [*wish, *[None] * 30], **changes)
        assert not any(violations(limits(**changes), corners, commands).values())
        assert not said[-1].speed.any()


def check_legal_is_this_tick_and_the_stop_after_it(module):
    governor = module.Governor(limits(), corners, np.array([1.45, -0.95]))
    assert governor.legal(np.array([0.1, -0.1])) and governor.legal(np.array([-2.0, 3.0]))
    assert not governor.legal(np.array([1.5, 0.0]))  # 1.48 next, but it cannot stop before 1.5
    assert not governor.legal(np.array([0.0, -2.0]))
    assert not governor.legal(np.array([np.nan, 0.0]))
    slow = module.Governor(limits(tip_speed=0.5), corners, np.zeros(2))
    assert slow.legal(np.array([0.7, 0.0])) and not slow.legal(np.array([0.75, 0.0]))


CHECKS = [check for name, check in sorted(globals().items()) if name.startswith("check_")]
