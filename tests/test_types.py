from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from robot_wm.types import ActionSpec, UserError, check_image


def spec(low=(-1.0, -2.0), high=(1.0, 2.0), names=("x", "y")):
    return ActionSpec(names, np.array(low), np.array(high), ("m",) * len(names))


def test_clip_moves_into_bounds():
    assert spec().clip(np.array([5.0, -5.0])).tolist() == [1.0, -2.0]
    assert spec().clip(np.zeros((4, 3, 2))).shape == (4, 3, 2)


@pytest.mark.parametrize("bad", [[np.nan, 0.0], [np.inf, 0.0], [0.0], [0.0, 0.0, 0.0]])
def test_clip_refuses_what_it_cannot_clip(bad):
    with pytest.raises(ValueError, match="action"):
        spec().clip(np.array(bad))


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ((1.0, 0.0), (-1.0, 1.0)),
        ((np.nan, 0.0), (1.0, 1.0)),
        ((0.0, 0.0), (1.0, np.inf)),
        ((0.0,), (1.0,)),
    ],
)
def test_impossible_bounds_are_refused(low, high):
    with pytest.raises(ValueError, match="ActionSpec"):
        spec(low, high)


def test_bounds_cannot_be_changed_behind_the_specs_back():
    low = np.array([-1.0, -2.0])
    made = spec(low)
    low[0] = 7
    assert made.low[0] == -1
    with pytest.raises(ValueError, match="read-only"):
        made.low[0] = 7


def test_within_takes_the_narrower_bounds():
    both = spec((-1.0, -0.5), (0.5, 2.0)).within(spec())
    assert both.low.tolist() == [-1.0, -0.5] and both.high.tolist() == [0.5, 2.0]
    with pytest.raises(ValueError, match="x, z"):
        spec().within(spec(names=("x", "z")))
    with pytest.raises(ValueError, match="bounded"):
        spec((3.0, 3.0), (4.0, 4.0)).within(spec())


def test_clip_leaves_fixed_dimensions_and_the_trust_region_alone():
    ball = dataclasses.replace(spec(), fixed={"y": 0.5}, trust_radius=0.5)
    assert ball.clip(np.array([0.3, 9.0])).tolist() == [0.3, 0.5]
    assert ball.clip(np.array([0.9, 0.0])).tolist() == [0.5, 0.5]
    assert ball.rest.tolist() == [0.0, 0.5] and ball.free.tolist() == [True, False]
    free = dataclasses.replace(spec(), trust_radius=0.5)
    np.testing.assert_allclose(free.clip(np.array([1.0, 2.0])), [0.5**1.5, 2 * 0.5**1.5])
    box = dataclasses.replace(free, trust_norm="box")
    assert box.clip(np.array([1.0, 2.0])).tolist() == [0.5, 1.0]
    for made in (ball, free, box):
        once = made.clip(np.random.default_rng(0).uniform(-3, 3, (50, 2)))
        np.testing.assert_allclose(made.clip(once), once)


def test_rest_is_the_legal_action_nearest_to_none():
    assert spec((0.2, -1.0), (1.0, 1.0)).rest.tolist() == [0.2, 0.0]


def test_within_keeps_what_else_a_spec_says():
    narrow = dataclasses.replace(spec(), fixed={"y": 0.1}, trust_radius=1.0).within(
        spec((-0.5, -0.5), (0.5, 0.5))
    )
    assert narrow.fixed == {"y": 0.1} and narrow.trust_radius == 1.0
    assert narrow.unit.tolist() == [0.5, 0.5]  # of the narrower bounds
    other = dataclasses.replace(spec(), fixed={"x": 0.2}, trust_radius=0.5)
    both = spec().within(other).within(dataclasses.replace(spec(), trust_radius=0.4))
    assert both.fixed == {"x": 0.2} and both.trust_radius == 0.4
    with pytest.raises(ValueError, match="fixed"):
        other.within(dataclasses.replace(spec(), fixed={"x": 0.3}))
    with pytest.raises(ValueError, match="trust"):
        other.within(dataclasses.replace(spec(), trust_radius=1.0, trust_norm="box"))


@pytest.mark.parametrize(
    "bad",
    [
        {"scale": [1.0]},
        {"scale": [1.0, 0.0]},
        {"scale": [1.0, np.nan]},
        {"fixed": {"z": 0.0}},
        {"fixed": {"x": 3.0}},
        {"fixed": {"x": np.nan}},
        {"trust_radius": 0.0},
        {"trust_radius": np.nan},
        {"trust_radius": "far"},
        {"scale": ["a", "b"]},
        {"scale": {"x": 1}},
        {"fixed": ["x"]},
        {"trust_norm": "l1"},
    ],
    ids=str,
)
def test_impossible_limits_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        dataclasses.replace(spec(), **bad)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), None, "x"]
)
def test_check_image_refuses_other_things(image):
    with pytest.raises(ValueError, match="uint8") as told:
        check_image(image)
    assert not isinstance(told.value, UserError)


def test_a_trust_region_keeps_its_size_within_another_spec():
    """It was measured by the scale of the spec that has it."""
    wide = ActionSpec(("x",), np.full(1, -1.0), np.ones(1), ("m",), scale=np.ones(1))
    region = ActionSpec(
        ("x",), np.full(1, -1.0), np.ones(1), ("m",), scale=np.full(1, 0.1), trust_radius=1.0
    )
    for both in (wide.within(region), region.within(wide)):
        assert both.clip(np.array([0.9])) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="units"):
        wide.within(ActionSpec(("x",), np.full(1, -40.0), np.full(1, 40.0), ("mm",)))
