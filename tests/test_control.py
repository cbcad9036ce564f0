"""From configuration to a controller."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import SPEC, PointEnv, make_model

from robot_wm.cli.config import load_command
from robot_wm.deployment.control import check_same_arm, legal_actions, make_controller
from robot_wm.deployment.planning import ActionLimits
from robot_wm.robots import so100
from robot_wm.types import Goal

LIMITS = ActionLimits()


def config(*words):
    return load_command("eval", ["checkpoint=x", *(f"controller.{word}" for word in words)])


def first_action(model, *words):
    env = PointEnv()
    controller = make_controller(model, env, config(*words))
    controller.reset(Goal(env.reset(1).images))
    return controller.act(env.reset(0), None).action


def test_limits_narrow_what_is_planned():
    model, env = make_model(), PointEnv()
    limited = legal_actions(model, env, ActionLimits(fixed={"y": 0.01}, trust_radius=0.5))
    assert limited.free.tolist() == [True, False]
    open_ = legal_actions(model, env, LIMITS)
    assert open_.free.all() and open_.trust_radius is None
    action = first_action(model, "limits.fixed={y: 0.01}", "limits.trust_radius=0.25")
    assert action[1] == pytest.approx(0.01)
    assert 0 < abs(action[0]) <= 0.25 * SPEC.unit[0] * (1 + 1e-5)


def test_a_robot_s_own_trust_region_stays_as_it_is():
    env = PointEnv()
    env.action_spec = replace(SPEC, trust_radius=0.5, trust_norm="box")
    limited = legal_actions(make_model(), env, LIMITS)
    assert (limited.trust_radius, limited.trust_norm) == (0.5, "box")


def test_a_margin_in_steps_is_asked_only_of_a_checkpoint_that_knows_them():
    knows, other = make_model(), make_model()
    knows.spec = replace(knows.spec, step_energy={"l1": 0.1, "l2": 0.01})
    with pytest.raises(ValueError, match="no step_energy"):
        make_controller(other, PointEnv(), config("margin=0.5"))
    make_controller(knows, PointEnv(), config("margin=0.5"))
    held = first_action(knows, "margin=1e6")
    np.testing.assert_array_equal(held, SPEC.rest)


def test_a_model_of_another_arm_is_told():
    """By the arm's name, or by LeRobot's name of the device."""
    for robot, kind, same in (
        (None, None, True),
        ("so100", None, True),
        ("so101_follower", None, True),
        ("koch_follower", "koch_follower", True),
        ("jaco", None, False),
        ("somebodys_arm", None, False),
        ("koch_follower", "so101_follower", False),
    ):
        info = replace(make_model().info, robot=robot)
        if same:
            check_same_arm(info, so100(), kind)
            continue
        with pytest.raises(ValueError, match=f"{robot}, this is a so100"):
            check_same_arm(info, so100(), kind)
