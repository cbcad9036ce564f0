"""Demonstrations in joints, as LeRobot records them, learned as steps of the tool."""

import json
import signal
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from robot_wm.checkpoint import load_checkpoint
from robot_wm.cli import main
from robot_wm.cli.config import load_command
from robot_wm.data import DatasetWriter, DataSpec, align, open_dataset
from robot_wm.deployment.joints import joint_record, learned_joints, tool_view
from robot_wm.deployment.policy_process import check_robot, learned_actions, make_actions
from robot_wm.deployment.robots import build_robot
from robot_wm.robots import so100
from sim_envs.tabletop import Tabletop

POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
POSE_WORDS = [f"robot.action_names=[{','.join(POSE)}]"]


def robot(*words):
    return load_command("deploy", ["robot=lerobot", "checkpoint=x", "goal=y", *words]).robot


KEYS = build_robot(robot()).device.keys
GOOD = {"keys": KEYS, "zero": [0.0] * 6, "rad_per_unit": [1.0] * 6, "posture": [0.0] * 6}
GOOD |= {"low": [0.0] * 4, "high": [1.0] * 4}
SHORT = ["encoder=pixels", "train.num_steps=2", "model.holdout=0.5", "model.held_out_horizon=2"]


@pytest.fixture(scope="module")
def moved():
    """Joints `[2, 12, 6]`, rad, where an arm went; its tool `[2, 12, 4]`, m, as MuJoCo has it."""
    env, rng = Tabletop(so100(), image_size=64), np.random.default_rng(0)
    joints, tool = np.empty((2, 12, 6)), np.empty((2, 12, 4))
    for episode in range(2):
        env.reset(episode)
        for frame in range(12):
            env.apply(rng.uniform(-0.03, 0.03, 4))
            joints[episode, frame] = env.joints()
            tool[episode, frame, :3] = env.physics.site_position("so100/ee")
            tool[episode, frame, 3] = 0.1 * env.joints()[-1]
    env.close()
    return joints, tool


def write(root, episodes, robot_type="so101_follower"):
    """Joints, rad, as LeRobot records them: degrees and percent, in an order of its own."""
    rng, joints = np.random.default_rng(1), build_robot(robot()).device
    with DatasetWriter(
        root, fps=5, robot_type=robot_type, cameras={"front": (64, 64)},
        state_names=KEYS[::-1], action_names=KEYS[::-1],
    ) as writer:  # fmt: skip
        for episode in episodes:
            for angles in episode:
                state = [joints.values(angles)[key] for key in KEYS[::-1]]
                writer.add({"front": rng.integers(0, 255, (64, 64, 3), np.uint8)}, state, state)
            writer.end_episode("reach")
    return root


@pytest.fixture(scope="module")
def recorded(moved, tmp_path_factory):
    return write(tmp_path_factory.mktemp("tool") / "data", moved[0])


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
    chain = so100().chain
    turned = Rotation.from_euler("xyz", data.proprio[0][-1, 3:6]).as_matrix()
    np.testing.assert_allclose(turned, chain.tool(moved[0][0, -1])[:3, :3], atol=1e-3)


@pytest.mark.parametrize(
    ("words", "action", "told"),
    [
        ([], "recorded", "data.action: got recorded, want state_delta of ee.x"),
        ([], "pose_delta", "want state_delta"),
        (POSE_WORDS, "state_delta", "want pose_delta of x, y, z"),
        (["robot.action_names=[x,y]"], "state_delta", r"robot\.action_names: got .*, want 4"),
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
    with pytest.raises(ValueError, match=r"episode 0: elbow_flex\.pos runs from .*units, zeros"):
        # Not an episode's damage: no other one would be right.
        align(open_dataset(recorded), DataSpec(), view=view, drop_corrupt=True)


def test_a_policy_of_the_tool_is_learned_from_joints(recorded, moved, tmp_path, capsys):
    out, cache = tmp_path / "out", f"cache={tmp_path / 'cache'}"
    words = [f"data={recorded}", cache]
    assert main(["train", *words, *SHORT, "robot=lerobot", f"out={out}"]) == 0
    err = capsys.readouterr().err
    assert "as ee.x, ee.y, ee.z, gripper" in err and "the tool is at ee.x 0." in err
    assert "warning: the dataset is of" not in err and "robot.limits" not in err
    assert "name: lerobot" in (card := (out / "card.md").read_text()) and "84.27" in card
    model, saved = load_checkpoint(out)
    spec, learned = model.info.action_spec, learned_joints(saved)
    arm = build_robot(robot())
    check_robot(spec, model.info.dt, robot(), arm, learned_actions(saved), learned)
    # What the model was taught of a pose is what it is told of it on the arm, which holds its tool
    # as the demonstrations did.
    chain = so100().chain
    held = robot("robot.posture=[0,-1,1,-1.5,0,0.3]")
    actions = make_actions(build_robot(held), spec, held, learned)
    before = moved[0][0, 5]
    after = actions.targets(before, np.array([0.0, 0.01, 0.0, 0.0]))[-1]
    np.testing.assert_allclose(chain.tool(after)[2, :3], chain.tool(before)[2, :3], atol=0.05)
    np.testing.assert_allclose(actions.proprio(moved[0][0, 5]), moved[1][0, 5], atol=1e-4)
    with pytest.raises(ValueError, match=r"trained with robot\.joints\.zero=\[0\.0, 84\.27"):
        other = robot("robot.joints.zero=[0,80,-90,5.73,0,9.09]")
        check_robot(spec, model.info.dt, other, build_robot(other), "state_delta", learned)
    # What is normal is looked for through the same eyes, without being told.
    assert main(["monitors", f"checkpoint={out}", f"data={recorded}", cache]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] > 0


def test_a_training_goes_on_with_the_arm_that_it_began_with(
    recorded, tmp_path, monkeypatch, capsys
):
    words = ["train", f"data={recorded}", f"cache={tmp_path / 'cache'}", f"out={tmp_path / 'out'}"]
    words += [*SHORT, "robot=lerobot"]
    with monkeypatch.context() as patch:
        patch.setattr(
            "robot_wm.workflows.train.stop_on_signal", lambda: nullcontext([signal.SIGTERM])
        )
        with pytest.raises(SystemExit):
            main(words)
    assert not (tmp_path / "out").exists()
    assert main([*words, "robot.arm=robot_wm.robots.so100.so100"]) == 2
    assert "by its robot.arm" in capsys.readouterr().err
    assert main([*words, "robot.port=/dev/other"]) == 0
    assert (tmp_path / "out").is_dir()


def test_nothing_draws_a_tool_into_the_box_that_it_was_not_in(moved, tmp_path, capsys):
    """Demonstrations far above where the simulation's are: the policy stays where they were."""
    chain = so100().chain
    high = moved[0] + np.array([0.0, 0.0, -0.6, 0.0, 0.0, 1.2])
    assert (np.array([chain.tool(joints)[2, 3] for joints in high[0]]) > 0.2).any()
    data, out = write(tmp_path / "data", high, "koch_follower"), tmp_path / "out"
    words = [f"data={data}", f"out={out}", f"cache={tmp_path}", *SHORT, "robot=lerobot"]
    assert main(["train", *words, "robot.limits.box_high=[0.45,0.35,0.2]"]) == 0
    err = capsys.readouterr().err
    assert "the dataset is of a koch_follower" in err
    assert "% of the frames the tool is outside the box of robot.limits" in err
    model, saved = load_checkpoint(out)
    for learned in (learned_joints(saved), None):  # what it knows, and the simulation's box
        arm = build_robot(robot())
        actions = make_actions(arm, model.info.action_spec, robot(), learned)
        for joints in high.reshape(-1, 6)[::5]:
            stay = actions.targets(joints, np.zeros(4))[-1]
            np.testing.assert_allclose(actions.moved(joints, stay), 0, atol=2e-3)
    ends = [actions.proprio(joints) for joints in high.reshape(-1, 6)]
    known = learned_joints(saved)
    np.testing.assert_allclose(known.low, np.min(ends, 0), atol=1e-3)
    np.testing.assert_allclose(known.high, np.max(ends, 0), atol=1e-3)


def test_how_the_tool_was_held_is_of_the_episodes_that_were_learned(moved, tmp_path):
    good, bad = moved[0][:1], moved[0][1:] + np.array([0, 0, 0, -0.9, 0, 0])
    data = write(tmp_path / "data", [*bad, *bad, *bad, *good])
    aligned = align(open_dataset(data), DataSpec(), view=tool_view(robot(), "state_delta"))
    kept = replace(aligned, episodes=(3,), proprio=aligned.proprio[3:])
    away = np.abs(good[0] - joint_record(kept, robot())["posture"]).max(1)
    assert away.min() < 1e-3


def test_what_is_of_the_tool_already_is_left_alone(tmp_path, recorded, capsys):
    names = ("ee.x", "ee.y", "ee.z", "gripper")
    root, rng = tmp_path / "data", np.random.default_rng(2)
    with DatasetWriter(
        root, fps=5, robot_type="so101_follower", cameras={"front": (64, 64)},
        state_names=names, action_names=names,
    ) as writer:  # fmt: skip
        for _ in range(2):
            for _ in range(8):
                values = rng.uniform(0.1, 0.2, 4)
                writer.add({"front": np.zeros((64, 64, 3), np.uint8)}, values, values)
            writer.end_episode("reach")
    view = tool_view(robot(), "state_delta")
    seen, plain = (align(open_dataset(root), DataSpec(), view=v) for v in (view, None))
    np.testing.assert_array_equal(seen.proprio, plain.proprio)
    words = [f"data={root}", f"out={tmp_path / 'out'}", *SHORT, "robot=lerobot"]
    assert main(["train", *words]) == 2
    assert "is of the tool already; leave robot out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data=rendered"], "got 'rendered'"),
        (["robot.action_names=[1,2,3,3]"], "robot.action_names[0]: got 1"),
        (["robot.joints.zero=[{a: 1},0,0,0,0,0]"], "robot.joints.zero[0]: got"),
        (["data.state=action+observation.state"], "or more than one"),
    ],
)
def test_mistakes_are_told_in_a_line(recorded, tmp_path, capsys, words, told):
    own = [f"data={recorded}", f"out={tmp_path / 'out'}", "encoder=pixels", "robot=lerobot"]
    own = own[1:] if words == ["data=rendered"] else own
    assert main(["train", *own, *words]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "joints",
    [
        "all",
        {},
        {**GOOD, "keys": None},
        {**GOOD, "zero": ["a"] * 6},
        {**GOOD, "rad_per_unit": [0.0] * 6},
        {**GOOD, "posture": [0.0] * 5},
        {**GOOD, "low": [0.0] * 3},
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
