"""The governor: no command it returns breaks a limit, nor does the stop that may follow it."""

import re
import types
from pathlib import Path

import governor_checks
import numpy as np
import pytest
from governor_checks import CHECKS, corners, limits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hardware import governor
from hardware.governor import Governor
from hardware.verify import violations
from robot_wm.kinematics.limits import Limits


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it(check):
    check(governor)


@settings(deadline=None, max_examples=60)
@given(
    targets=arrays.arrays(
        np.float64, (30, 2), elements=st.floats(width=64, allow_nan=True, allow_infinity=True)
    ),
    near=st.floats(0.01, 2.0),
    tip_speed=st.floats(0.05, 3.0),
    tick_s=st.floats(0.005, 0.1),
)
def test_whatever_is_asked_nothing_illegal_comes_out(targets, near, tip_speed, tick_s):
    own = limits(tip_speed=tip_speed, tick_s=tick_s, box_high=[9, 0.3, 9])
    supervisor = Governor(own, corners, np.zeros(2))
    targets = np.where(np.abs(targets) < 5, targets * near, targets)
    commands = [np.zeros(2), *(supervisor.step(target).joints for target in targets)]
    assert not any(violations(own, corners, np.array(commands)).values())


def test_what_breaks_a_limit_is_counted():
    still = np.zeros((6, 2))
    assert not any(violations(limits(), corners, still).values())
    jump = still.copy()
    jump[3:] = 0.05  # 2.5 rad/s, 125 rad/s^2
    found = violations(limits(tip_speed=0.5), corners, jump)
    assert found["speed"] == 1 and found["acceleration"] == 2 and found["tip_speed"] == 1
    assert violations(limits(), corners, still + [1.6, 0.0])["joints"] == 5
    assert violations(limits(box_high=[0.6, 9, 9]), corners, still)["box"] == 5
    still[2, 1] = np.nan
    assert violations(limits(), corners, still) == {"finite": 1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"low": [0.0, np.nan]}, "low: got"),
        ({"low": [2.0, 0.0]}, "want less than high"),
        ({"high": [np.inf, 1.0]}, "high: got"),
        ({"box_low": [9.0, 0, 0]}, "want less than box_high"),
        ({"box_low": [0.0, 0]}, "box_low: got shape"),
        ({"max_speed": [-1.0, 1.0]}, "max_speed: got"),
        ({"max_speed": [1.0, 0.0]}, "numbers above zero"),
        ({"max_acceleration": [1.0]}, "max_acceleration: got shape"),
        ({"tip_speed": np.nan}, "tip_speed: got"),
        ({"tip_speed": -0.1}, "tip_speed: got"),
        ({"tick_s": 0.0}, "tick_s: got"),
        ({"max_jump": "far"}, "max_jump: got"),
        ({"max_jump": None}, "max_jump: got"),
        ({"low": []}, "low: got shape"),
        ({"low": 0.0}, "low: got shape"),
    ],
)
def test_limits_that_make_no_sense_are_refused(change, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        limits(**change)


def test_limits_do_not_change_under_the_governor():
    low = np.array([-1.0, -1.0])
    own = limits(low=low)
    low[:] = -9.0
    assert own.low.tolist() == [-1.0, -1.0]
    with pytest.raises(ValueError, match="read-only"):
        own.low[0] = -9.0
    assert isinstance(own, Limits)


SOURCE = Path(governor.__file__).read_text().splitlines()


def code_lines():
    """Numbers of the lines that are neither blank, comment nor docstring."""
    quoted = False
    for number, line in enumerate(SOURCE):
        text = line.strip()
        marks = text.count('"""')
        if not quoted and not marks and text and not text.startswith("#"):
            yield number
        quoted ^= marks % 2 == 1


def test_the_governor_stays_small():
    assert len(SOURCE) <= 150


@pytest.mark.parametrize("number", code_lines(), ids=lambda n: f"{n + 1}: {SOURCE[n].strip()[:50]}")
def test_every_line_of_it_is_needed(number):
    text = "\n".join(line for i, line in enumerate(SOURCE) if i != number)
    try:
        code = compile(text, "mutant", "exec")
        mutant = types.ModuleType("mutant")
        exec(code, mutant.__dict__)
    except (SyntaxError, NameError, TypeError, ImportError):
        return
    with np.errstate(all="ignore"):
        for check in CHECKS:
            try:
                check(mutant)
            except Exception:  # noqa: BLE001
                return
    pytest.fail(f"nothing notices that this line is gone: {SOURCE[number]}")


def test_the_checks_are_the_ones_that_are_run():
    assert len(governor_checks.CHECKS) >= 8


def test_a_device_s_own_ends_narrow_the_limits():
    own = limits().within(np.array([-1.0, -5.0]), np.array([9.0, 0.5]))
    assert own.low.tolist() == [-1.0, -1.0] and own.high.tolist() == [1.5, 0.5]
    with pytest.raises(ValueError, match="low: the arm has 3 joints"):
        limits().within(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="low: got"):
        limits().within(np.array([2.0, 0.0]), np.array([3.0, 1.0]))


def test_brakes_too_weak_to_stop_within_reason_are_refused():
    with pytest.raises(ValueError, match="max_acceleration: a stop takes"):
        limits(max_acceleration=[1e-3, 1.0])
