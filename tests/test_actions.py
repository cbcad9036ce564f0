"""How a policy's actions become joint targets: tool steps, pose steps, joint steps."""

import numpy as np
import pytest
import torch

from hardware.actions import JointActions, PoseActions, ToolActions
from hardware.contracts import check_actions
from robot_wm.kinematics.joints import JointMap
from robot_wm.poses import integrate_poses
from robot_wm.robots import so100
from robot_wm.types import ActionSpec

CHAIN = so100().chain
POSE = np.array([0.1, -2.0, 1.7, 1.2, 0.2, 0.5])


def spec(size, reach):
    reach = np.broadcast_to(reach, size)
    names = tuple(f"a{i}" for i in range(size))
    return ActionSpec(names, -reach, reach, ("",) * size)


def tool():
    return ToolActions(so100(), spec(4, 0.5), posture=POSE)


def pose(weight=0.02):
    return PoseActions(so100(), spec(7, 1.0), rotation_weight=weight)


def test_tool_steps_move_the_tool_and_keep_its_tilt():
    actions, joints, rng = tool(), POSE, np.random.default_rng(0)
    tilt = CHAIN.tool(POSE)[2, :3]
    for _ in range(40):
        wish = rng.uniform(-0.02, 0.02, 4) * [1, 1, 1, 0.3]
        target = actions.targets(joints, wish)[-1]
        inside = actions.proprio(joints) + wish
        if ((inside > so100().workspace_low) & (inside < so100().workspace_high)).all():
            np.testing.assert_allclose(actions.moved(joints, target), wish, atol=1e-3)
        joints = target
    np.testing.assert_allclose(CHAIN.tool(joints)[2, :3], tilt, atol=0.2)


def test_pose_steps_are_those_that_the_model_integrates():
    # Turns that five joints can follow: about the vertical through the base, and the roll.
    actions, joints = pose(), POSE
    for wish in ([0.01, 0, 0.01, 0, 0, 0, 0.1], [0, 0.01, -0.01, 0, 0, 0, -0.05]):
        target = actions.targets(joints, np.array(wish))[-1]
        imagined = integrate_poses(
            torch.tensor(actions.proprio(joints))[None], torch.tensor([[wish]])
        )[0, 0].numpy()
        came = actions.proprio(target)
        np.testing.assert_allclose(came[:3], imagined[:3], atol=4e-3)
        np.testing.assert_allclose(came[6], imagined[6], atol=1e-6)
        joints = target
    np.testing.assert_allclose(actions.moved(POSE, POSE), 0, atol=1e-9)


def test_a_pose_step_s_turn_comes_back_as_moved():
    actions, after = pose(), POSE + [0.2, 0, 0, 0, 0.3, 0.4]
    change = actions.moved(POSE, after)
    again = integrate_poses(
        torch.tensor(actions.proprio(POSE))[None], torch.tensor(change)[None, None]
    )[0, 0].numpy()
    np.testing.assert_allclose(again, actions.proprio(after), atol=1e-6)
    assert change[6] < 0  # the jaw opened
    back = actions.targets(POSE, change)[-1]
    np.testing.assert_allclose(actions.proprio(back), actions.proprio(after), atol=3e-3)


@pytest.mark.parametrize("make", [tool, pose])
def test_wishes_out_of_reach_end_inside_the_joints_ranges(make):
    actions, rng, joints = make(), np.random.default_rng(1), POSE
    low, high = CHAIN.joint_range.T
    for _ in range(60):
        wish = rng.uniform(-0.5, 0.5, actions.spec.size)
        joints = actions.targets(joints, wish)[-1]
        assert np.isfinite(joints).all() and (joints >= low).all() and (joints <= high).all()


def test_joint_steps_are_added_within_limits():
    low, high = CHAIN.joint_range.T
    actions = JointActions(spec(6, 0.5), low=low, high=high)
    step = np.array([0.1, -0.1, 0.1, 0, 0, 0.1])
    target = actions.targets(POSE, step)[-1]
    np.testing.assert_allclose(target, POSE + step)
    np.testing.assert_allclose(actions.moved(POSE, target), step)
    np.testing.assert_allclose(actions.proprio(POSE), POSE)
    assert (actions.targets(high, np.full(6, 0.5))[-1] == high).all()


def test_joint_steps_in_a_device_s_units_are_its_own():
    """Degrees, with a zero elsewhere, and one joint that turns the other way."""
    low, high = CHAIN.joint_range.T
    keys = tuple(f"{name}.pos" for name in so100().joints)
    unit = np.full(6, np.pi / 180) * [1, -1, 1, 1, 1, 1]
    joints = JointMap(so100().joints, keys, np.array([0.0, 84.0, -90, 5, 0, 9]), unit)
    actions = JointActions(spec(6, 20.0), low=low, high=high, joints=joints)
    step = np.array([2.0, 3.0, -4.0, 0, 0, 1.0])
    target = actions.targets(POSE, step)[-1]
    np.testing.assert_allclose(np.degrees(target - POSE), step * [1, -1, 1, 1, 1, 1])
    np.testing.assert_allclose(actions.moved(POSE, target), step)
    before, after = (np.array(list(joints.values(angles).values())) for angles in (POSE, target))
    np.testing.assert_allclose(actions.proprio(POSE), before)
    np.testing.assert_allclose(after - before, step)


@pytest.mark.parametrize("bad", [np.full(4, np.nan), np.zeros(3)])
def test_what_is_no_action_is_refused(bad):
    with pytest.raises(ValueError):
        tool().targets(POSE, bad)


def test_policies_of_another_size_are_refused():
    low, high = CHAIN.joint_range.T
    with pytest.raises(ValueError, match=r"got 3 .*, want 4"):
        ToolActions(so100(), spec(3, 1))
    with pytest.raises(ValueError, match=r"got 6 .*, want 7"):
        PoseActions(
            CHAIN, spec(6, 1), low=so100().workspace_low[:3], high=so100().workspace_high[:3]
        )
    with pytest.raises(ValueError, match=r"got 4 .*, want 6"):
        JointActions(spec(4, 1), low=low, high=high)


def small_tool():
    return ToolActions(so100(), spec(4, 0.04))


def small_pose():
    return PoseActions(so100(), spec(7, [0.04] * 3 + [0.1] * 3 + [0.2]))


def small_joints():
    low, high = CHAIN.joint_range.T
    return JointActions(spec(6, 0.1), low=low, high=high)


# Five joints cannot turn the tool about every axis.
@pytest.mark.parametrize(
    ("make", "followed"), [(small_tool, None), (small_pose, [0, 1, 2, 6]), (small_joints, None)]
)
def test_ways_to_move_joints_keep_the_contract(make, followed):
    robot, rng = so100(), np.random.default_rng(0)
    places = rng.uniform(robot.workspace_low, robot.workspace_high, (20, 4))
    postures = [robot.opened(robot.reach(p[:3], POSE)[0], p[3]) for p in places]
    check_actions(make, np.array(postures), followed=followed)


class Forward(ToolActions):
    def moved(self, before, after):
        return -super().moved(before, after)


class Leaping(ToolActions):
    def targets(self, joints, action):
        joints += 0.1
        return super().targets(joints, action)


class Trusting(ToolActions):
    def targets(self, joints, action):
        return super().targets(joints, np.nan_to_num(action[:4]))


@pytest.mark.parametrize(
    ("broken", "why"),
    [(Forward, "from what was asked"), (Leaping, "were changed"), (Trusting, "without a Value")],
)
def test_check_actions_sees_what_is_broken(broken, why):
    with pytest.raises(AssertionError, match=why):
        check_actions(lambda: broken(so100(), spec(4, 0.04)), np.tile(POSE, (3, 1)))
