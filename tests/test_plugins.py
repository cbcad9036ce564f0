"""The LeRobot plugins as a user has them: installed beside LeRobot, driven by its own commands."""

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fake_so101 import show_goal
from PIL import Image

from robot_wm.deployment.robots import build_robot
from robot_wm.deployment.settings import SO101
from robot_wm.robots import so100
from sim_envs.tabletop import Tabletop

PLUGINS = ("lerobot_policy_robot_wm", "lerobot_robot_robot_wm")
ROOT = Path(__file__).resolve().parents[1]
ROBOTS = ROOT / "tests" / "lerobot_robots"  # strangers', beside LeRobot like the plugins
HAS_ROLLOUT = bool(find_spec("lerobot") and find_spec("lerobot.rollout"))  # since LeRobot 0.6
rollout_only = pytest.mark.skipif(not HAS_ROLLOUT, reason="before 0.6 there is no lerobot-rollout")
SEED, FPS, SIZE = 1, 15, 128
KEYS = build_robot(SO101).device.keys


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where pip has put both, offline."""
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    paths = [str(ROOT / "plugins" / name) for name in PLUGINS]
    subprocess.run([sys.executable, *words, "--target", str(folder), *paths], check=True)
    with pytest.MonkeyPatch.context() as patch:
        for path in (ROBOTS, folder):
            patch.syspath_prepend(str(path))
        patch.setenv("HF_LEROBOT_HOME", str(folder / "home"))
        yield folder


def load(name):
    return importlib.import_module(name)


def load_arm():
    return so100().chain


@pytest.fixture(scope="module")
def goal(tmp_path_factory):
    """The picture's path, and where the tool is in it `[3]`, m."""
    path = tmp_path_factory.mktemp("goal") / "goal.png"
    env = Tabletop(so100(), image_size=SIZE)
    env.reset(SEED)
    goal_m = show_goal(env, path)
    env.close()
    return path, goal_m


@pytest.fixture(scope="module")
def policy_dir(site, tmp_path_factory):
    out = tmp_path_factory.mktemp("policy") / "reach"
    words = [str(out), "checkpoint=so100_tabletop", "robot.limits.tip_speed=0.25"]
    assert load("lerobot_policy_robot_wm.__main__").main(words) == 0
    return out


def features(names=KEYS, fps=FPS):
    named = {"names": list(names)}
    return SimpleNamespace(fps=fps, features={"observation.state": named, "action": named})


@pytest.fixture
def make_policy(policy_dir):
    def make(meta, clock=time.monotonic, path=policy_dir, **changes):
        configs = load("lerobot.configs.policies")
        config = configs.PreTrainedConfig.from_pretrained(
            path, cli_overrides=[f"--{key}={value}" for key, value in changes.items()]
        )
        cls = load("lerobot.policies.factory").get_policy_class(config.type)
        return cls.from_pretrained(
            path, config=config, dataset_meta=meta, revision=None, clock=clock
        )

    return make


class Clock:
    """Stands until it is moved on."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def call(policy, batch, clock, period_s):
    """What the policy asks for `[1, J]`, called a period after the last time."""
    clock.now_s += period_s
    with torch.inference_mode():
        return policy.select_action(dict(batch))


def show(seen, names=KEYS, camera="front"):
    """The batch that LeRobot makes of what a robot shows."""
    picture = torch.from_numpy(seen["front"].copy()).permute(2, 0, 1)[None] / 255
    state = torch.tensor([[seen[name] for name in names]])
    return {"observation.state": state, f"observation.images.{camera}": picture}


def distance_m(values, goal_m):
    """Of the tool to the goal, by joints of LeRobot's names."""
    joints = build_robot(SO101).device
    return float(np.linalg.norm(load_arm().tool(joints.angles(values))[:3, 3] - goal_m))


@pytest.fixture
def robot(site):
    config = load("lerobot_robot_robot_wm").RobotWMSimConfig(seed=SEED, image_size=SIZE)
    robot = load("lerobot.robots").make_robot_from_config(config)
    robot.connect()
    yield robot
    robot.disconnect()


def test_lerobot_finds_them_by_name(site):
    assert set(PLUGINS) <= {found.metadata["Name"] for found in distributions(path=[str(site)])}


@pytest.fixture
def command(site, tmp_path):
    """LeRobot's own command that drives an arm with a policy, in a process of its own."""

    def run(words):
        paths = (str(site), str(ROBOTS), *filter(None, [os.environ.get("PYTHONPATH")]))
        own = {"HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": str(tmp_path)}
        own["PYTHONPATH"] = os.pathsep.join(paths)
        script = f"lerobot.scripts.lerobot_{'rollout' if HAS_ROLLOUT else 'record'}"
        words = [sys.executable, "-m", script, *words, "--play_sounds=false"]
        return subprocess.run(words, env={**os.environ, **own}, capture_output=True, text=True)

    return run


def simulated(kind, policy_dir, goal_path):
    """The words that every command here has in common."""
    return [
        f"--robot.type={kind}", f"--robot.seed={SEED}", f"--robot.image_size={SIZE}",
        f"--policy.path={policy_dir}", f"--policy.goal_image={goal_path}", "--policy.device=cpu",
    ]  # fmt: skip


@pytest.mark.alone
def test_a_recorded_run_reaches_a_picture(command, policy_dir, goal, tmp_path):
    path, goal_m = goal
    words = [
        *simulated("robot_wm_sim", policy_dir, path), f"--dataset.root={tmp_path / 'set'}",
        f"--dataset.fps={FPS}", "--dataset.single_task=reach", "--dataset.num_episodes=1",
        "--dataset.episode_time_s=10", "--dataset.push_to_hub=false", "--display_data=false",
    ]  # fmt: skip
    if HAS_ROLLOUT:
        words += [
            "--strategy.type=episodic", f"--fps={FPS}", "--return_to_initial_position=false",
            "--dataset.repo_id=me/rollout_reach", "--dataset.rgb_encoder.vcodec=h264",
        ]  # fmt: skip
    else:
        words += ["--dataset.repo_id=me/eval_reach", "--dataset.vcodec=h264"]
    ran = command(words)
    assert ran.returncode == 0, ran.stderr[-4000:]
    (file,) = (tmp_path / "set" / "data").rglob("*.parquet")
    table = pq.read_table(file, columns=["observation.state", "action"]).to_pydict()
    assert list((tmp_path / "set" / "videos").rglob("*.mp4"))
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text())
    assert info["robot_type"] == "robot_wm_sim" and info["total_frames"] > FPS
    assert info["features"]["action"]["names"] == list(KEYS)
    states = [dict(zip(KEYS, state, strict=True)) for state in table["observation.state"]]
    assert distance_m(states[0], goal_m) > 0.08 and distance_m(states[-1], goal_m) < 0.03
    actions = np.array(table["action"])
    assert np.isfinite(actions).all()
    assert np.abs(np.diff(actions[:, :5], axis=0)).max() < np.degrees(1.5) / FPS + 1e-3


@pytest.fixture
def rollout(site, monkeypatch):
    """`lerobot-rollout` in this process: what it changes there is put back."""
    root, numbers = logging.getLogger(), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept, level, handlers = root.handlers[:], root.level, [signal.getsignal(n) for n in numbers]

    def run(words):
        monkeypatch.setattr(sys, "argv", ["lerobot-rollout", *words, "--play_sounds=false"])
        load("lerobot.scripts.lerobot_rollout").main()

    yield run
    root.handlers[:], root.level = kept, level
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def read_log(path):
    """What a fake robot has written, as (what, joints by name)."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["what"], line["values"]) for line in lines]


@rollout_only
def test_rollout_drives_joints_in_another_order_by_name(rollout, policy_dir, goal, tmp_path):
    path, goal_m = goal
    log = tmp_path / "log"
    words = [*simulated("fake", policy_dir, path), f"--robot.log={log}", "--robot.reverse=true"]
    # So many goals, however long a busy machine plans.
    words += ["--robot.stops_after=100", f"--fps={FPS}", "--duration=120"]
    rollout([*words, "--return_to_initial_position=false"])
    events = read_log(log)
    shown = [values for what, values in events if what == "shown"]
    asked = [values for what, values in events if what == "asked"]
    assert tuple(shown[0]) == tuple(asked[0]) == KEYS[::-1]
    assert distance_m(shown[0], goal_m) > 0.08 and distance_m(shown[-1], goal_m) < 0.03
    # While the rate is measured, the arm is asked to stay where it is.
    assert all(values == asked[0] for values in asked[:8]) and asked[-1] != asked[0]
    assert asked[0] == pytest.approx(shown[1], abs=1e-3)  # shown[0] is LeRobot's, at connecting


@rollout_only
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--robot.lacks=elbow_flex.pos", f"--fps={FPS}"], r"has no elbow_flex\.pos"),
        ([f"--policy.fps={FPS}", "--fps=30"], f"policy.fps: got {FPS}, but LeRobot calls 30"),
        (["--inference.type=rtc", f"--fps={FPS}"], "RTC inference is not supported"),
    ],
)
def test_rollout_is_refused_before_anything_moves(rollout, policy_dir, goal, tmp_path, words, told):
    log = tmp_path / "log"
    words = [*simulated("fake", policy_dir, goal[0]), f"--robot.log={log}", *words]
    with pytest.raises(ValueError, match=told) as refused:
        rollout([*words, "--duration=4", "--return_to_initial_position=false"])
    assert "\n" not in str(refused.value)
    assert not log.exists() or not [what for what, _ in read_log(log) if what == "asked"]


@rollout_only
def test_nothing_moves_after_a_fault_in_a_rollout(rollout, policy_dir, goal, tmp_path):
    log = tmp_path / "log"
    words = [*simulated("fake", policy_dir, goal[0]), f"--robot.log={log}", f"--fps={FPS}"]
    words += ["--robot.breaks_after=20", "--duration=60", "--return_to_initial_position=false"]
    with pytest.raises(ValueError, match="6 finite angles"):
        rollout(words)
    events = read_log(log)
    assert [what for what, _ in events[-3:]] == ["asked", "shown", "ended"]
    assert sum(what == "asked" for what, _ in events) >= 20
    (_, shown), (_, ended) = events[-2:]
    assert ended == pytest.approx(shown, abs=0.5)  # degrees: it settles where it was asked to be


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
    clock = Clock()
    policy = make_policy(features(KEYS[::-1]), clock, goal_image=goal[0])
    seen = robot.get_observation()
    batch = show(seen, KEYS[::-1])
    state = batch["observation.state"]
    asked = torch.cat([call(policy, batch, clock, 1 / FPS) for _ in range(4 * FPS)])
    policy.reset()
    again = call(policy, batch, clock, 1 / FPS)
    policy.reset()
    with pytest.raises(ValueError, match="sees through front, the robot has top"):
        call(policy, show(seen, KEYS[::-1], "top"), clock, 1 / FPS)
    # It stays where it is until the rate is known, which it is in a second episode.
    begins = int((asked != asked[0]).any(dim=1).int().argmax())
    assert 8 <= begins < FPS and torch.allclose(asked[:begins], state, atol=1e-3)
    assert asked.isfinite().all() and torch.equal(again[0], asked[begins])
    # Before it looks again it stands, for as long as a picture may be old.
    stands = (asked[begins:].diff(dim=0).abs() < 1e-4).all(dim=1).tolist()  # degrees
    assert any(all(stands[i : i + 3]) for i in range(len(stands) - 3))
    one_call = np.degrees(1.5) / FPS + 1e-3
    steps = torch.cat((state, asked)).diff(dim=0).abs()[:, 1:].amax(1)
    away = (asked - state).abs()[:, 1:].amax(1)
    # This arm never moves: goals go away from it, but not ever farther, and begin at it anew.
    assert 5 < away.max() < 45
    assert ((steps < one_call) | (away < one_call)).all() and (steps > one_call).any()


def begin_to_move(policy, batch, clock):
    """Calls at the policy's rate until it asks for another pose; what it then asks for."""
    first = call(policy, batch, clock, 1 / FPS)
    for _ in range(3 * FPS):
        asked = call(policy, batch, clock, 1 / FPS)
        if not torch.equal(asked, first):
            return asked
    raise AssertionError("it never moves")


def test_calls_faster_than_told_are_refused_before_anything_moves(make_policy, goal, robot):
    clock = Clock()
    policy = make_policy(features(), clock, goal_image=goal[0])
    batch = show(robot.get_observation())
    for _ in range(2):  # and again, should somebody go on
        asked = []
        with pytest.raises(ValueError, match=f"fps: got {2 * FPS:.1f} .*want {FPS}"):
            for _ in range(20):
                asked.append(call(policy, batch, clock, 1 / FPS / 2))
        assert all(torch.equal(values, asked[0]) for values in asked)


@pytest.mark.parametrize(
    ("periods", "told"),
    [
        ([1.0], None),
        ([1.1], None),  # a little slower
        ([0.9], None),  # hardly faster: held up by the clock
        ([0.3, 1.7], None),  # its reading takes long, and then not
        ([3.0, 2.0, 9.0, 2.5], None),  # a busy machine
        ([0.8], "got 18.8"),
        ([0.1], "got 150.0"),
        ([0.0], "got countless"),
    ],
)
def test_the_rate_is_measured(site, periods, told):
    pace, clock = load("lerobot_policy_robot_wm.pace").Pace(FPS), Clock()

    def measure():
        for number in range(9):
            pace.note_call(clock())
            clock.now_s += periods[number % len(periods)] / FPS

    if told is None:
        measure()
    else:
        with pytest.raises(ValueError, match=told):
            measure()
    assert pace.is_known == (told is None)


def test_no_calls_make_more_ticks_than_the_clock(site):
    rng = np.random.default_rng(0)
    for scale in (0.05, 0.5, 0.9, 1.0, 2.0):
        pace, clock, at_s = load("lerobot_policy_robot_wm.pace").Pace(FPS), Clock(), []
        for _ in range(400):
            clock.now_s += scale / FPS * rng.choice([1, rng.uniform(0, 2), 20], p=[0.5, 0.48, 0.02])
            if pace.take_tick(clock()):
                at_s.append(clock())
        # From each to each: one may be half a period early.
        took_s = np.subtract.outer(at_s, at_s)
        ticks = np.subtract.outer(np.arange(len(at_s)), np.arange(len(at_s)))
        assert (took_s * FPS >= ticks - 0.5 - 1e-6)[ticks > 0].all() and len(at_s) > 10


def test_calls_that_become_faster_make_the_arm_no_faster(make_policy, goal, robot):
    batch, clock = show(robot.get_observation()), Clock()
    policy = make_policy(features(), clock, goal_image=goal[0])
    asked = [begin_to_move(policy, batch, clock)]
    for _ in range(40):
        batch["observation.state"] = asked[-1]  # the arm follows
        asked.append(call(policy, batch, clock, 1 / FPS / 4))
    moves = torch.cat(asked).diff(dim=0).abs().amax(1) > 0
    assert 3 <= moves.sum() <= 40 / 4 + 1


def test_a_machine_that_is_late_is_not_refused(make_policy, goal, robot):
    batch, clock = show(robot.get_observation()), Clock()
    policy = make_policy(features(), clock, goal_image=goal[0])
    asked = [call(policy, batch, clock, late / FPS) for late in (2, 3, 2, 9, 2, 2, 3, 2, 4, 2, 2)]
    assert not torch.equal(asked[-1], asked[0])


def test_a_plan_that_takes_long_is_followed_by_no_leap(make_policy, goal, robot):
    """After it LeRobot calls at once again: its loop is late, and does not wait."""
    batch, clock = show(robot.get_observation()), Clock()
    policy = make_policy(features(), clock, goal_image=goal[0])
    plan = policy._controller.act

    def plan_slowly(*args):
        clock.now_s += 2.0
        return plan(*args)

    policy._controller.act = plan_slowly
    asked = begin_to_move(policy, batch, clock)
    assert torch.equal(call(policy, batch, clock, 0.01), asked)
    assert not torch.equal(call(policy, batch, clock, 1 / FPS), asked)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "policy.goal_image: got none"),
        ({"goal_image": "WIDE"}, "want the aspect of 128x128"),
        ({"goal_image": "TEXT"}, "is not a picture"),
        ({"goal_image": "GOAL", "checkpoint": "so100"}, "one that ships: so100_tabletop"),
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
    with pytest.raises(ValueError, match="made for another robot: .* no shoulder_pan.pos"):
        make_policy(features(KEYS[1:]), goal_image=goal[0])
    layout = load("lerobot_policy_robot_wm.layout")
    for names, told in (
        ([], "no shoulder_pan.pos, shoulder_lift.pos"),
        ((*KEYS, "a.pos"), "more: a.pos"),
        ((*KEYS, KEYS[0]), "more: shoulder_pan.pos"),
    ):
        for layout_names in ((names, KEYS), (KEYS, names)):
            with pytest.raises(ValueError, match=f"made for another robot: .* {told}"):
                layout.check_layout(layout.Layout(*layout_names, FPS), KEYS, None)


def test_another_rate_is_told(make_policy, goal):
    for changes in ({"meta": features(fps=5)}, {"meta": None, "fps": 5}):
        with pytest.raises(ValueError, match="fps: got 5, want at least 10"):
            make_policy(**changes, goal_image=goal[0])
    with pytest.raises(ValueError, match=f"policy.fps: got 30, but LeRobot calls {FPS} times"):
        make_policy(features(), fps=30, goal_image=goal[0])


def test_a_caller_that_names_no_joints_is_refused(make_policy, goal, robot):
    policy = make_policy(None, fps=FPS, goal_image=goal[0])
    with pytest.raises(ValueError, match="order.*dataset_meta"):
        policy.select_action(show(robot.get_observation()))


def test_keywords_are_lerobots_or_ours(make_policy, goal, policy_dir):
    policy = make_policy(features(), goal_image=goal[0])
    assert not policy.supports_rtc()
    with pytest.raises(TypeError, match="dataset_mata"):
        type(policy).from_pretrained(policy_dir, config=policy.config, dataset_mata=features())


def test_a_directory_saved_by_lerobot_04_opens(make_policy, goal, robot):
    saved, clock = ROOT / "tests" / "lerobot_044_policy", Clock()
    policy = make_policy(features(), clock, saved, goal_image=goal[0])
    before, after = load("lerobot.policies.factory").make_pre_post_processors(
        policy_cfg=policy.config,
        pretrained_path=str(saved),
        preprocessor_overrides={
            "device_processor": {"device": "cpu"},
            "rename_observations_processor": {"rename_map": {}},
        },
    )
    batch = show(robot.get_observation())
    asked = [after(call(policy, before(dict(batch)), clock, 1 / FPS)) for _ in range(12)]
    assert asked[0].shape == (1, len(KEYS)) and not torch.equal(asked[-1], asked[0])


def test_the_hint_is_of_the_lerobot_that_is_installed(policy_dir, capsys):
    out = policy_dir.parent / "hint"
    assert load("lerobot_policy_robot_wm.__main__").main([str(out)]) == 0
    told = capsys.readouterr().err
    assert ("lerobot-rollout" in told) == HAS_ROLLOUT != ("lerobot-record" in told)
    assert f"--policy.path={out}" in told and "--play_sounds=false" in told
    assert ("--return_to_initial_position=false" in told) == HAS_ROLLOUT


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


@pytest.mark.parametrize(
    "word",
    ["robot.arm=os.getcwd", "planner._target_=os.getcwd", "env.task._target_=os.getcwd"],
)
def test_a_policy_s_file_names_nothing_that_is_imported(site, word):
    from lerobot_policy_robot_wm.configuration_robot_wm import RobotWMConfig
    from lerobot_policy_robot_wm.modeling_robot_wm import read_settings

    config = RobotWMConfig(checkpoint="so100_tabletop", goal_image="any.png", overrides=[word])
    with pytest.raises(ValueError, match="want a name of ours|want one of|unknown key"):
        read_settings(config, "any.png")


@pytest.mark.parametrize(
    ("word", "wide"),
    [("robot.limits.tip_speed=0.05", False), ("robot.limits.tip_speed=0.3", True)],
)
def test_a_policy_s_file_never_widens_the_arm_s_own_limits(site, word, wide):
    from lerobot_policy_robot_wm.configuration_robot_wm import RobotWMConfig
    from lerobot_policy_robot_wm.modeling_robot_wm import read_settings

    config = RobotWMConfig(checkpoint="so100_tabletop", goal_image="any.png", overrides=[word])
    if wide:
        with pytest.raises(ValueError, match="no wider"):
            read_settings(config, "any.png")
    else:
        assert read_settings(config, "any.png").robot.limits.tip_speed == 0.05


def test_a_policy_of_several_cameras_takes_a_goal_picture_of_each(site):
    from lerobot_policy_robot_wm.configuration_robot_wm import RobotWMConfig
    from lerobot_policy_robot_wm.modeling_robot_wm import read_settings

    words = ["goal.front=a.png", "goal.wrist=b.png", "then=[{front: c.png, wrist: d.png}]"]
    settings = read_settings(RobotWMConfig(checkpoint="so100_tabletop", overrides=words), "")
    assert dict(settings.goal) == {"front": "a.png", "wrist": "b.png"}
    assert [dict(goal) for goal in settings.then] == [{"front": "c.png", "wrist": "d.png"}]
