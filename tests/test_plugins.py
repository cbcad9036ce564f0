"""The LeRobot plugins as a user has them: installed beside LeRobot, driven by its own commands."""

import importlib
import json
import os
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fake_so101 import show_goal
from PIL import Image

from hardware.mjcf import load_chain
from robot_wm.cli.config import compose_config
from robot_wm.cli.devices import joint_map
from sim_envs.so100_env import SO100Env
from sim_envs.so100_scene import EE_SITE, JOINTS, so100_scene

PLUGINS = ("lerobot_policy_robot_wm", "lerobot_robot_robot_wm")
ROOT = Path(__file__).resolve().parents[1]
SEED, FPS, SIZE = 1, 15, 128
KEYS = joint_map(compose_config("deploy", ["robot=lerobot"]).robot).keys


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where pip has put both, offline."""
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    paths = [str(ROOT / "plugins" / name) for name in PLUGINS]
    subprocess.run([sys.executable, *words, "--target", str(folder), *paths], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("HF_LEROBOT_HOME", str(folder / "home"))
        yield folder


def load(name):
    return importlib.import_module(name)


def load_arm():
    return load_chain(*so100_scene(), joints=JOINTS, tool=EE_SITE)


@pytest.fixture(scope="module")
def goal(tmp_path_factory):
    """The picture's path, and where the tool is in it `[3]`, m."""
    path = tmp_path_factory.mktemp("goal") / "goal.png"
    env = SO100Env(image_size=SIZE)
    env.reset(SEED)
    goal_m = show_goal(env, path)
    env.close()
    return path, goal_m


@pytest.fixture(scope="module")
def policy_dir(site, tmp_path_factory):
    out = tmp_path_factory.mktemp("policy") / "reach"
    words = [str(out), "checkpoint=so100_reach", "robot.limits.tip_speed=0.25"]
    assert load("lerobot_policy_robot_wm.__main__").main(words) == 0
    return out


def features(names=KEYS, fps=FPS):
    named = {"names": list(names)}
    return SimpleNamespace(fps=fps, features={"observation.state": named, "action": named})


@pytest.fixture
def make_policy(policy_dir):
    def make(meta, **changes):
        configs = load("lerobot.configs.policies")
        config = configs.PreTrainedConfig.from_pretrained(
            policy_dir, cli_overrides=[f"--{key}={value}" for key, value in changes.items()]
        )
        cls = load("lerobot.policies.factory").get_policy_class(config.type)
        return cls.from_pretrained(policy_dir, config=config, dataset_meta=meta)

    return make


@pytest.fixture
def robot(site):
    config = load("lerobot_robot_robot_wm").RobotWMSimConfig(seed=SEED, image_size=SIZE)
    robot = load("lerobot.robots").make_robot_from_config(config)
    robot.connect()
    yield robot
    robot.disconnect()


def test_lerobot_finds_them_by_name(site):
    assert set(PLUGINS) <= {found.metadata["Name"] for found in distributions(path=[str(site)])}


def test_lerobot_record_reaches_a_picture(site, policy_dir, goal, tmp_path):
    path, goal_m = goal
    words = [
        "--robot.type=robot_wm_sim", f"--robot.seed={SEED}", f"--robot.image_size={SIZE}",
        f"--policy.path={policy_dir}", f"--policy.goal_image={path}", "--policy.device=cpu",
        "--dataset.repo_id=me/eval_reach", f"--dataset.root={tmp_path / 'set'}",
        f"--dataset.fps={FPS}", "--dataset.single_task=reach", "--dataset.num_episodes=1",
        "--dataset.episode_time_s=8", "--dataset.push_to_hub=false", "--dataset.vcodec=h264",
        "--display_data=false", "--play_sounds=false",
    ]  # fmt: skip
    python_path = os.pathsep.join((str(site), *filter(None, [os.environ.get("PYTHONPATH")])))
    own = {"HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": str(tmp_path), "PYTHONPATH": python_path}
    command = [sys.executable, "-m", "lerobot.scripts.lerobot_record", *words]
    ran = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    (file,) = (tmp_path / "set" / "data").rglob("*.parquet")
    table = pq.read_table(file, columns=["observation.state", "action"]).to_pydict()
    assert list((tmp_path / "set" / "videos").rglob("*.mp4"))
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text())
    assert info["robot_type"] == "robot_wm_sim" and info["total_frames"] > 2 * FPS
    assert info["features"]["action"]["names"] == list(KEYS)
    joints = joint_map(compose_config("deploy", ["robot=lerobot"]).robot)
    chain = load_arm()
    away_m = [
        np.linalg.norm(
            chain.tool(joints.angles(dict(zip(KEYS, state, strict=True))))[:3, 3] - goal_m
        )
        for state in table["observation.state"]
    ]
    assert away_m[0] > 0.08 and away_m[-1] < 0.03
    actions = np.array(table["action"])
    assert np.isfinite(actions).all()
    assert np.abs(np.diff(actions[:, :5], axis=0)).max() < np.degrees(1.5) / FPS + 1e-3


def test_the_robot_moves_in_real_time_and_says_what_it_was_told(robot):
    assert robot.is_connected and robot.is_calibrated and list(robot.cameras) == ["front"]
    seen = robot.get_observation()
    assert seen["front"].shape == robot.observation_features["front"] == (SIZE, SIZE, 3)
    assert seen["front"].dtype == np.uint8 and tuple(robot.action_features) == KEYS
    wish = {key: seen[key] for key in KEYS} | {"shoulder_pan.pos": seen["shoulder_pan.pos"] + 10}
    robot.send_action(wish)
    robot.get_observation()
    assert robot.get_observation()["shoulder_pan.pos"] - seen["shoulder_pan.pos"] < 8
    until_s = time.monotonic() + 20
    while abs(robot.get_observation()["shoulder_pan.pos"] - wish["shoulder_pan.pos"]) > 0.5:
        assert time.monotonic() < until_s
    told = robot.send_action(wish)
    assert told == pytest.approx(wish, abs=0.1)


def test_the_robot_refuses_nonsense_and_does_not_follow_what_is_illegal(robot):
    seen = robot.get_observation()
    here, chain = {key: seen[key] for key in KEYS}, load_arm()
    for key in ("shoulder_pan.pos", "gripper.pos"):
        for value in (float("nan"), float("inf"), None):
            with pytest.raises(ValueError, match="want finite numbers"):
                robot.send_action({**here, key: value})
        with pytest.raises(ValueError, match=f"got no {key}"):
            robot.send_action({other: here[other] for other in KEYS if other != key})
    for illegal in (
        {"shoulder_pan.pos": 1e6},
        {"shoulder_lift.pos": here["shoulder_lift.pos"] + 80},
    ):
        robot.send_action({**here, **illegal})
        for _ in range(8):
            time.sleep(0.1)
            robot.get_observation()
            told = robot._env.physics.data.ctrl[None]
            assert (chain.corners(told)[..., 2] >= 0.005).all() and np.isfinite(told).all()
    with pytest.raises(ValueError, match="image_size: got 0"):
        type(robot)(load("lerobot_robot_robot_wm").RobotWMSimConfig(image_size=0))


def test_a_policy_governs_what_it_asks_for(make_policy, goal, robot):
    policy = make_policy(features(KEYS[::-1]), goal_image=goal[0])
    seen = robot.get_observation()
    state = torch.tensor([[seen[key] for key in KEYS[::-1]]])
    picture = torch.from_numpy(seen["front"].copy()).permute(2, 0, 1)[None] / 255
    batch = {"observation.state": state, "observation.images.front": picture}
    with torch.inference_mode():
        asked = torch.cat([policy.select_action(dict(batch)) for _ in range(4 * FPS)])
        policy.reset()
        again = policy.select_action(dict(batch))
        with pytest.raises(ValueError, match="sees through 'front', the robot has top"):
            policy.reset()
            policy.select_action({"observation.state": state, "observation.images.top": picture})
    assert asked.isfinite().all() and torch.equal(again[0], asked[0])
    # Before it looks again it stands, for as long as a picture may be old.
    stands = (asked.diff(dim=0).abs() < 1e-4).all(dim=1).tolist()  # degrees
    assert any(all(stands[i : i + 3]) for i in range(len(stands) - 3))
    one_call = np.degrees(1.5) / FPS + 1e-3
    steps = torch.cat((state, asked)).diff(dim=0).abs()[:, 1:].amax(1)
    away = (asked - state).abs()[:, 1:].amax(1)
    # This arm never moves: goals go away from it, but not ever farther, and begin at it anew.
    assert 5 < away.max() < 45
    assert ((steps < one_call) | (away < one_call)).all() and (steps > one_call).any()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "policy.goal_image: got none"),
        ({"goal_image": "WIDE"}, "want the aspect of 128x128"),
        ({"goal_image": "TEXT"}, "is not a picture"),
        ({"goal_image": "GOAL", "checkpoint": "so100"}, "one that ships: so100_reach"),
        ({"goal_image": "GOAL", "overrides": '["planner.horizonn=2"]'}, "did you mean 'horizon'"),
        ({"goal_image": "GOAL", "overrides": '["planner.horizon=99"]'}, "want at most"),
    ],
)
def test_mistakes_are_told_before_anything_moves(make_policy, goal, tmp_path, changes, told):
    Image.new("RGB", (200, 128)).save(tmp_path / "WIDE.png")
    (tmp_path / "TEXT.png").write_text("not a picture")
    Image.open(goal[0]).save(tmp_path / "GOAL.png")
    if "goal_image" in changes:
        changes = {**changes, "goal_image": tmp_path / f"{changes['goal_image']}.png"}
    with pytest.raises(ValueError, match=told):
        make_policy(features(), **changes)


def test_another_robot_is_told(make_policy, goal):
    with pytest.raises(ValueError, match="dataset.fps: got 5, want at least 10"):
        make_policy(features(fps=5), goal_image=goal[0])
    with pytest.raises(ValueError, match="made for another robot: it has observation.state a.pos"):
        make_policy(features(["a.pos"]), goal_image=goal[0])


def test_the_directory_runs_no_code_and_overwrites_nothing(policy_dir, capsys):
    for file in ("policy_preprocessor.json", "policy_postprocessor.json"):
        steps = json.loads((policy_dir / file).read_text())["steps"]
        assert steps and all("registry_name" in step and "class" not in step for step in steps)
    main = load("lerobot_policy_robot_wm.__main__").main
    for words, told in (
        ([str(policy_dir)], "is not empty"),
        ([str(policy_dir / "new"), "checkpoint=nowhere"], "no directory nowhere"),
        ([str(policy_dir / "new"), "planner.horizonn=2"], "did you mean 'horizon'"),
        ([], "python -m lerobot_policy_robot_wm OUT"),
    ):
        assert main(words) == 2
        assert told in capsys.readouterr().err
