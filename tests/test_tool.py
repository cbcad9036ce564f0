"""Demonstrations in joints, as LeRobot records them, learned as steps of the tool."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hardware.mjcf import load_chain
from robot_wm.checkpoint import load_checkpoint
from robot_wm.cli import main
from robot_wm.cli.config import load_config
from robot_wm.cli.deploy_planner import check_robot, learned_actions, make_actions
from robot_wm.cli.devices import joint_map
from robot_wm.cli.tool import learned_joints, tool_view
from robot_wm.data import DatasetWriter, DataSpec, align, open_dataset
from sim_envs.so100_env import SO100Env
from sim_envs.so100_scene import EE_SITE, JOINTS, so100_scene

POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
POSE_WORDS = [f"robot.action_names=[{','.join(POSE)}]"]


def robot(*words):
    return load_config("deploy", ["robot=lerobot", "checkpoint=x", "goal=y", *words]).robot


KEYS = joint_map(robot()).keys
GOOD = {"keys": KEYS, "zero": [0.0] * 6, "rad_per_unit": [1.0] * 6, "posture": [0.0] * 6}


@pytest.fixture(scope="module")
def moved():
    """Joints `[2, 12, 6]`, rad, where an arm went; its tool `[2, 12, 4]`, m, as MuJoCo has it."""
    env, rng = SO100Env(image_size=64), np.random.default_rng(0)
    joints, tool = np.empty((2, 12, 6)), np.empty((2, 12, 4))
    for episode in range(2):
        env.reset(episode)
        for frame in range(12):
            env.apply(rng.uniform(-0.03, 0.03, 4))
            joints[episode, frame] = env.joints()
            tool[episode, frame, :3] = env.physics.site_position(EE_SITE)
            tool[episode, frame, 3] = 0.1 * env.joints()[-1]
    env.close()
    return joints, tool


@pytest.fixture(scope="module")
def recorded(moved, tmp_path_factory):
    """The same as LeRobot records it: degrees and percent, in an order of its own."""
    root, rng = tmp_path_factory.mktemp("tool") / "data", np.random.default_rng(1)
    joints = joint_map(robot())
    with DatasetWriter(
        root, fps=5, robot_type="so101_follower", cameras={"front": (64, 64)},
        state_names=KEYS[::-1], action_names=KEYS[::-1],
    ) as writer:  # fmt: skip
        for episode in moved[0]:
            for angles in episode:
                state = [joints.values(angles)[key] for key in KEYS[::-1]]
                writer.add({"front": rng.integers(0, 255, (64, 64, 3), np.uint8)}, state, state)
            writer.end_episode("reach")
    return root


def test_joints_are_seen_as_where_the_tool_is(recorded, moved):
    data = align(open_dataset(recorded), DataSpec(), view=tool_view(robot(), "state_delta"))
    assert data.proprio_names == data.action_names == ("ee.x", "ee.y", "ee.z", "gripper")
    np.testing.assert_allclose(data.proprio, moved[1], atol=1e-4)
    np.testing.assert_allclose(data.actions, np.diff(moved[1], axis=1), atol=2e-4)


def test_joints_are_seen_as_the_pose_of_the_tool(recorded, moved):
    view = tool_view(robot(*POSE_WORDS), "pose_delta")
    data = align(open_dataset(recorded), DataSpec(action="pose_delta"), view=view)
    assert data.proprio_names == data.action_names == POSE
    np.testing.assert_allclose(np.array(data.proprio)[..., :3], moved[1][..., :3], atol=1e-4)
    chain = load_chain(*so100_scene(), joints=JOINTS, tool=EE_SITE)
    turned = Rotation.from_euler("xyz", data.proprio[0][-1, 3:6]).as_matrix()
    np.testing.assert_allclose(turned, chain.tool(moved[0][0, -1])[:3, :3], atol=1e-3)


@pytest.mark.parametrize(
    ("words", "action", "told"),
    [
        ([], "recorded", "data.action: got recorded, want state_delta of ee.x"),
        ([], "pose_delta", "want state_delta"),
        (POSE_WORDS, "state_delta", "want pose_delta of x, y, z"),
        (["robot.action_names=[x,y]"], "state_delta", "robot.action_names: got 2, want 4"),
    ],
)
def test_what_cannot_be_seen_so_is_refused(words, action, told):
    with pytest.raises(ValueError, match=told):
        tool_view(robot(*words), action)


def test_a_dataset_of_something_else_is_refused(recorded):
    words = ["robot.joints.keys=[a.pos,b.pos,c.pos,d.pos,e.pos,gripper.pos]"]
    view = tool_view(robot(*words), "state_delta")
    with pytest.raises(ValueError, match=r"the state has no a\.pos, .* it has gripper\.pos, "):
        align(open_dataset(recorded), DataSpec(), view=view)
    with pytest.raises(ValueError, match="'recorded' is of the state as it was recorded"):
        fits = tool_view(robot(), "state_delta")
        align(open_dataset(recorded), DataSpec(action="recorded"), view=fits)


def test_angles_that_the_arm_does_not_have_are_refused(recorded):
    words = ["robot.joints.rad_per_unit=[0.0174533,0.0174533,-0.0174533,0.0174533,0.0174533,0.022]"]
    view = tool_view(robot(*words), "state_delta")
    with pytest.raises(ValueError, match=r"2 of 2 episodes are damaged.*elbow_flex\.pos runs from"):
        align(open_dataset(recorded), DataSpec(), view=view)


def test_a_policy_of_the_tool_is_learned_from_joints(recorded, moved, tmp_path, capsys):
    out, cache = tmp_path / "out", f"cache={tmp_path / 'cache'}"
    words = [f"data={recorded}", "encoder=pixels", cache]
    short = ["optimizer.num_steps=2", "fit.holdout=0.5", "fit.held_out_horizon=2"]
    assert main(["train", *words, *short, "robot=lerobot", f"out={out}"]) == 0
    assert "as ee.x, ee.y, ee.z, gripper" in capsys.readouterr().err
    assert "robot: lerobot" in (out / "card.md").read_text()
    model, saved = load_checkpoint(out)
    spec, learned = model.spec.action_spec, learned_joints(saved)
    check_robot(spec, model.dt, robot(), learned_actions(saved), learned)
    # What the model was taught of a pose is what it is told of it on the arm, which holds its tool
    # as the demonstrations did.
    chain = load_chain(*so100_scene(), joints=JOINTS, tool=EE_SITE)
    actions = make_actions(chain, spec, robot("robot.posture=[0,-1,1,-1.5,0,0.3]"), learned)
    before = moved[0][0, 5]
    after = actions.targets(before, np.array([0.0, 0.01, 0.0, 0.0]))[-1]
    np.testing.assert_allclose(chain.tool(after)[2, :3], chain.tool(before)[2, :3], atol=0.05)
    np.testing.assert_allclose(actions.proprio(moved[0][0, 5]), moved[1][0, 5], atol=1e-4)
    with pytest.raises(ValueError, match=r"trained with robot\.joints\.zero=\[0\.0, 84\.27"):
        other = robot("robot.joints.zero=[0,80,-90,5.73,0,9.09]")
        check_robot(spec, model.dt, other, "state_delta", learned)
    # What is normal is looked for through the same eyes, without being told.
    assert main(["monitors", f"checkpoint={out}", f"data={recorded}", cache]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] > 0


@pytest.mark.parametrize(
    "joints",
    [
        "all",
        {},
        {**GOOD, "keys": None},
        {**GOOD, "zero": ["a"] * 6},
        {**GOOD, "rad_per_unit": [0.0] * 6},
        {**GOOD, "posture": [0.0] * 5},
        {**GOOD, "posture": [float("nan")] * 6},
    ],
)
def test_nonsense_in_a_checkpoint_is_told(joints):
    assert learned_joints({"training": {"data": {"joints": GOOD}}}) is not None
    with pytest.raises(ValueError, match="the joints in its config.json"):
        learned_joints({"training": {"data": {"joints": joints}}})


def test_a_robot_without_joints_of_its_own_is_refused(recorded, tmp_path, capsys):
    words = [f"data={recorded}", "encoder=pixels", f"out={tmp_path / 'out'}"]
    assert main(["train", *words, "robot=sim"]) == 2
    assert "robot: sim has no joints of its own" in capsys.readouterr().err
