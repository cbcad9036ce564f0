"""Checks that any implementation of an arm, or of actions that move it, keeps its interface.

Each check raises an AssertionError that names what is broken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from hardware.arm import Arm, ArmLimits
from hardware.remote import Actions
from hardware.ticks import Reading
from robot_wm.types import ActionSpec, FloatArray

_NEAR_RAD = 0.02
_PATH_S, _TICK_S = 1.0, 0.02  # a path is cut into small commands, as no governor checks them


def check_arm(make: Callable[[], Arm], *, step_rad: float = 0.05, within_s: float = 2.0) -> None:
    """Checks a device against what the arm server expects of it; the device moves.

    No governor checks these commands: every joint moves by `step_rad` within a second, and back. On
    a real arm, keep a hand on the power switch.

    Args:
        make: Function that opens the device, which stands still, with room around it.
        step_rad: Angle by which every joint moves, and back, rad.
        within_s: Longest time that the device may take to arrive, s.

    Raises:
        AssertionError: the device breaks the interface; the message names how.
    """
    arm = make()
    try:
        _check_arm(arm, step_rad, within_s)
    finally:
        arm.close()
    arm.close()


def _check_arm(arm: Arm, step_rad: float, within_s: float) -> None:
    limits = arm.limits()
    assert isinstance(limits, ArmLimits), f"limits: returned {type(limits).__name__}"
    size = len(limits.names)
    for name in ("low", "high"):
        shape = np.shape(getattr(limits, name))
        assert shape == (size,), f"limits: {name} of shape {shape}, want {size} joints"
    assert (limits.low < limits.high).all(), f"limits: from {limits.low} to {limits.high}"

    first = _read(arm, limits)
    time.sleep(0.2)
    later = _read(arm, limits)
    assert later.stamp_s > first.stamp_s, "read: the stamp does not advance"
    assert set(later.frames_s) == set(arm.frames), "read: it tells of other cameras than it has"
    for bad in (np.full(size, np.nan), np.zeros(size + 1)):
        try:
            arm.write(bad)
        except ValueError:
            continue
        raise AssertionError(f"write: took {bad} without a ValueError")
    time.sleep(0.2)
    _assert_at(arm, limits, later.joints, 0.2, "write: what was refused moved it")

    start = later.joints
    middle = (limits.low + limits.high) / 2
    target = start + np.where(start < middle, step_rad, -step_rad)
    _go(arm, start, target)
    _assert_at(arm, limits, target, within_s, "write: it does not come")
    arm.hold()
    time.sleep(0.2)
    _assert_at(arm, limits, target, 0.2, "hold: it moved")
    _go(arm, target, start)
    _assert_at(arm, limits, start, within_s, "write: it does not come after a hold")


def _go(arm: Arm, start: FloatArray, target: FloatArray) -> None:
    """Writes a slow straight path from one posture `[J]`, rad, to another."""
    for share in np.linspace(0, 1, round(_PATH_S / _TICK_S) + 1):
        arm.write(start + share * (target - start))
        time.sleep(_TICK_S)


def _read(arm: Arm, limits: ArmLimits) -> Reading:
    reading, now_s = arm.read(), time.monotonic()
    assert isinstance(reading, Reading), f"read: returned {type(reading).__name__}"
    assert np.shape(reading.joints) == limits.low.shape, f"read: joints {reading.joints}"
    assert np.isfinite(reading.joints).all(), f"read: joints {reading.joints}"
    inside = (reading.joints >= limits.low - 0.1) & (reading.joints <= limits.high + 0.1)
    assert inside.all(), f"read: {reading.joints} is beyond its limits"
    age_s = now_s - reading.stamp_s
    assert 0 <= age_s < 1.0, f"read: stamped {age_s:.3f} s ago, want a time.monotonic() of now"
    assert reading.fault is None, f"read: {reading.fault}"
    return reading


def _assert_at(arm: Arm, limits: ArmLimits, joints: FloatArray, within_s: float, what: str) -> None:
    until_s = time.monotonic() + within_s
    while True:
        there = _read(arm, limits).joints
        away = np.abs(there - joints)
        if away.max() <= _NEAR_RAD:
            return
        if time.monotonic() > until_s:
            break
        time.sleep(0.02)
    joint = limits.names[int(away.argmax())]
    raise AssertionError(f"{what}: {joint} is {away.max():.3f} rad off after {within_s} s")


def check_actions(
    make: Callable[[], Actions], postures: FloatArray, *, followed: Sequence[int] | None = None
) -> None:
    """Checks a map from actions to joint targets against what `RemoteArm` expects of it.

    Args:
        make: Function that builds the map.
        postures: Joints `[N, J]`, rad, around which actions are possible.
        followed: Dimensions of the action that the arm can follow; None: all.

    Raises:
        AssertionError: the map breaks the interface; the message names how.
    """
    actions, postures = make(), np.asarray(postures, np.float64)
    spec = actions.spec
    assert isinstance(spec, ActionSpec), f"spec: got {type(spec).__name__}"
    rng, size = np.random.default_rng(0), postures.shape[1]
    shape = np.shape(actions.proprio(postures[0]))
    range_ = spec.high - spec.low
    errors = []
    for joints in postures:
        state = actions.proprio(joints)
        assert np.shape(state) == shape, f"proprio: {np.shape(state)}, want {shape} as before"
        assert np.isfinite(state).all(), f"proprio: {state}"
        still = actions.moved(joints, joints)
        assert np.shape(still) == (spec.size,), f"moved: shape {np.shape(still)}"
        assert np.abs(still).max() < 1e-9, f"moved: {still} from a posture to itself"
        action = spec.clip(rng.uniform(spec.low, spec.high) / 4)
        before = joints.copy()
        targets = actions.targets(joints, action)
        assert np.array_equal(joints, before), "targets: the commanded joints were changed"
        assert targets.ndim == 2 and targets.shape[1] == size and len(targets) > 0, (
            f"targets: shape {np.shape(targets)}, want [H, {size}]"
        )
        assert np.isfinite(targets).all(), f"targets: {targets}"
        again = actions.targets(joints, action)
        assert np.array_equal(again, targets), "targets: others of the same action"
        moved = actions.moved(joints, targets[-1])
        errors.append(np.abs(moved - action) / np.where(range_ > 0, range_, 1.0))
        far = actions.targets(joints, spec.high + 10 * range_)
        clipped = actions.targets(joints, spec.clip(spec.high + 10 * range_))
        assert np.array_equal(far, clipped), "targets: an action beyond the bounds is not clipped"
    medians = np.median(errors, axis=0)
    error = medians[slice(None) if followed is None else list(followed)].max()
    assert error < 0.1, f"targets: in the median {error:.0%} of the range from what was asked"
    for bad in (np.full(spec.size, np.nan), np.zeros(spec.size + 1)):
        try:
            actions.targets(postures[0], bad)
        except ValueError:
            continue
        raise AssertionError(f"targets: took {bad} without a ValueError")
