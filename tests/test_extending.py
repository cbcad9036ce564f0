"""What a stranger adds from outside, with not one edit in ours: each thing is one file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robot_wm.cli.config import load_command

ROOT = Path(__file__).resolve().parents[1]
FILES = Path(__file__).parent / "extending"
SMALL = ["experiment=debug", "env.simulator.image_size=64", "env.num_steps=8"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder of the stranger's, with their files."""
    folder = tmp_path_factory.mktemp("theirs")
    for path in FILES.glob("*.py"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def on_the_path(theirs):
    sys.path.insert(0, str(theirs))
    yield
    sys.path.remove(str(theirs))


def robot_wm(folder, *words, ok=True):
    """Runs a command as the stranger does; the JSON of its last line, or what it says."""
    command = Path(sys.executable).with_name("robot-wm")  # which puts no folder on the path
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [command, *words],
        cwd=folder, env=env, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    if not ok:
        assert done.returncode == 2, done.stderr
        return done.stderr
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-3000:]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def used(what, *files):
    print(f"{what}: {', '.join(files)}; edits in robot_wm: none")


@pytest.fixture(scope="module")
def data(theirs):
    """A few demonstrations of the stranger's task."""
    words = [*SMALL, "env.task._target_=hover.Hover", "env.demonstrator._target_=hover.Expert"]
    told = robot_wm(theirs, "collect", *words, "env.name=hover", "out=data", "num_episodes=6")
    assert told["episodes"] == 6 and told["demonstrator_distance_m_median"] < 0.05
    return theirs / "data"


def test_a_task_is_one_file(theirs, data):
    from hover import Hover

    from robot_wm.contracts import check_task
    from robot_wm.robots import so100
    from sim_envs.tabletop import Tabletop

    check_task(lambda: Hover(Tabletop(so100(), image_size=32)))
    words = ["env.task._target_=hover.Hover", "env.name=hover", "env.task.within_m=0.04"]
    out = ["out=report", "num_videos=0", "floors=[]", "split=9000", "num_episodes=2"]
    told = robot_wm(theirs, "eval", "checkpoint=so100_tabletop", *words, *out)
    figures = told["tasks"]["so100_hover"]
    assert {"final_distance_m_median", "final_opening_m_median"} <= set(figures)
    page = (theirs / "report" / "report.html").read_text()
    assert "distance below 4 cm" in page
    used("a task", "hover.py")


def test_a_family_is_one_file(theirs, data):
    from toy_rssm import ToyRSSM

    from robot_wm.checkpoint import load_checkpoint
    from robot_wm.contracts import check_world_model
    from robot_wm.robots import so100
    from sim_envs.tabletop import Tabletop

    theirs_too = ["--import", "toy_rssm"]
    words = [
        "experiment=debug",
        "data=data",
        "cache=cache",
        "family=toy_rssm",
        "family_settings.width=32",
    ]
    told = robot_wm(theirs, *theirs_too, "train", *words, "train.num_steps=60", "out=rssm")
    assert np.isfinite(told["train_loss"])
    model, _ = load_checkpoint(theirs / "rssm")
    assert isinstance(model, ToyRSSM)

    env = Tabletop(so100(), image_size=64)
    observations = [(env.reset(0), None)]
    for step in np.full((3, 4), 0.01):
        observations.append((None, env.apply(step)))
        observations[-1] = (env.observe(), observations[-1][1])
    check_world_model(lambda: load_checkpoint(theirs / "rssm")[0], observations)

    # In a fresh process each.
    error = robot_wm(theirs, "plan", "checkpoint=rssm", "goal=none.png", "out=plan", ok=False)
    assert "toy_rssm" in error and "--import" in error and len(error.splitlines()) == 1
    goal = theirs / "goal.png"
    from PIL import Image

    Image.fromarray(env.reset(3).images["front"]).save(goal)
    env.close()
    small = ["planner.num_iterations=1", "env.simulator.image_size=64", "monitors.allow_novel=true"]
    words = ["checkpoint=rssm", "goal=goal.png", *small, "out=plan", "env.num_steps=3"]
    told = robot_wm(theirs, *theirs_too, "plan", *words)
    assert told["energy_end"] > 0 and (theirs / "plan" / "plan.mp4").is_file()
    words = ["checkpoint=rssm", *SMALL, "planner=cem", "num_videos=1", "floors=[]", "out=eval"]
    assert robot_wm(theirs, *theirs_too, "eval", *words, "split=9000", "num_episodes=1")["tasks"]
    told = robot_wm(
        theirs, *theirs_too, "probe", "checkpoint=rssm", "data=data", "cache=cache",
        "baselines=false",
    )  # fmt: skip
    assert told["num_numbers"] > 0
    words = ["checkpoint=rssm", "goal=goal.png", "robot.image_size=64", "mode=run", "confirm=false"]
    words += ["num_steps=1", "monitors.allow_novel=true", "out=deploy"]
    assert robot_wm(theirs, *theirs_too, "deploy", *words)["ended"].startswith("done")
    used("a family", "toy_rssm.py")


def test_a_planner_is_one_file(theirs):
    from line_search import LineSearch

    from robot_wm.contracts import check_planner

    check_planner(LineSearch)
    words = ["planner._target_=line_search.LineSearch", "planner.num_rounds=3", "floors=[]"]
    words += ["objective=energy", "controller.proposals=[]"]
    told = robot_wm(
        theirs, "eval", "checkpoint=so100_tabletop", *words, "num_videos=0", "split=9000",
        "num_episodes=2",
    )  # fmt: skip
    assert told["tasks"]["so100_reach"]["success_final"] == 1.0
    used("a planner", "line_search.py")


def test_an_encoder_is_one_file(theirs, data):
    from tiny_encoder import TinyEncoder

    from robot_wm.checkpoint import load_checkpoint
    from robot_wm.contracts import check_encoder

    check_encoder(TinyEncoder)
    words = ["experiment=debug", "data=data", "cache=cache", "out=tiny"]
    robot_wm(theirs, "train", *words, "encoder._target_=tiny_encoder.TinyEncoder", "encoder.seed=5")
    model, saved = load_checkpoint(theirs / "tiny")
    assert isinstance(model.encoder, TinyEncoder) and model.encoder.seed == 5
    error = robot_wm(theirs, "plan", "checkpoint=tiny", "goal=none.png", "out=plan", ok=False)
    assert "'tiny' is not registered" in error and "--import" in error
    used("an encoder", "tiny_encoder.py")


def test_an_arm_is_one_file(theirs):
    from long_arm import long_arm

    from hardware.actions import ToolActions
    from robot_wm.contracts import check_env, check_robot
    from robot_wm.deployment.policy_process import make_actions
    from robot_wm.types import ActionSpec
    from sim_envs.tabletop import Tabletop

    check_robot(long_arm)
    # Three joints and a jaw: four actions are steps of its tool all the same.
    spec = ActionSpec(("ee.x", "ee.y", "ee.z", "gripper"), -np.ones(4), np.ones(4), ("m",) * 4)
    config = load_command("deploy", ["checkpoint=x", "goal=y"]).robot
    assert isinstance(make_actions(long_arm(), spec, config), ToolActions)
    check_env(lambda: Tabletop(long_arm(), image_size=32))
    words = ["--import", "long_arm", "collect", *SMALL, "env.arm=long_arm"]
    told = robot_wm(theirs, *words, "out=arm", "num_episodes=3", "env.num_steps=14")
    assert told["demonstrator_distance_m_median"] < 0.02
    used("an arm", "long_arm.py")


def test_two_cameras_together(theirs):
    """A front and a wrist camera from the dataset to the goal pictures, and to the arm."""
    from PIL import Image

    from robot_wm.checkpoint import load_checkpoint
    from robot_wm.robots import so100
    from sim_envs.tabletop import Tabletop

    views = ["env.simulator.wrist_camera=true", "env.simulator.image_size=64"]
    robot_wm(theirs, "collect", "experiment=debug", *views, "out=both", "env.num_steps=8")
    words = ["experiment=debug", "data=both", "cache=cache", "out=two", "data.camera=front+wrist"]
    robot_wm(theirs, "train", *words)
    model, _ = load_checkpoint(theirs / "two")
    assert model.info.cameras == ("front", "wrist") and model.info.grid[0] == 2
    assert model.info.robot == "so100"
    env = Tabletop(so100(), image_size=64, wrist_camera=True)
    for name, image in env.reset(3).images.items():
        Image.fromarray(image).save(theirs / f"{name}.png")
    env.close()
    pictures = ["goal.front=front.png", "goal.wrist=wrist.png"]
    words = ["checkpoint=two", "monitors.allow_novel=true", "out=both_plan", "env.num_steps=2"]
    told = robot_wm(theirs, "plan", *words, *pictures, *views)
    assert told["energy_end"] >= 0
    evaluated = ["checkpoint=two", *views, "num_videos=0", "floors=[]", "split=9000"]
    assert robot_wm(theirs, "eval", *evaluated, "num_episodes=1", "env.num_steps=2")["tasks"]
    words = ["checkpoint=two", *pictures, "robot.image_size=64", "robot.wrist_camera=true"]
    words += ["mode=run", "confirm=false", "num_steps=1", "monitors.allow_novel=true"]
    words += ["out=both_deploy"]
    assert robot_wm(theirs, "deploy", *words)["ended"].startswith("done")
    # A view that is not there is no view that is switched off.
    for more, why in (
        ([*pictures], "it needs the cameras front, wrist; the robot has front"),
        ([*views, "goal=front.png"], "goal.front=FILE goal.wrist=FILE"),
        ([*views, "goal.front=front.png"], "got front, the checkpoint sees through 2"),
    ):
        words = ["checkpoint=two", "out=no", "env.simulator.image_size=64", *more]
        error = robot_wm(theirs, "plan", *words, ok=False)
        assert why in error and len(error.splitlines()) == 1
    error = robot_wm(theirs, "eval", "checkpoint=two", "env=jaco_reach", ok=False)
    assert "trained on a so100, this is a jaco" in error
    used("front and wrist camera", "no file")


def test_settings_of_their_own(theirs):
    folder = theirs / "conf" / "planner"
    folder.mkdir(parents=True)
    settings = "_target_: line_search.LineSearch\nhorizon: 1\nnum_rounds: 2\n"
    (folder / "line.yaml").write_text(settings)
    words = ["checkpoint=so100_tabletop", "planner=line", "num_videos=0", "floors=[]", "split=9000"]
    told = robot_wm(theirs, "--config-dir", "conf", "eval", *words, "num_episodes=1")
    assert told["tasks"]["so100_reach"]["n"] == 1
    assert "no folder" in robot_wm(theirs, "--config-dir", "nowhere", "eval", ok=False)


def test_what_keeps_no_contract_is_refused(theirs):
    (theirs / "nothing.py").write_text("class Nothing:\n    def __init__(self, **own): ...\n")
    words = ["eval", "checkpoint=so100_tabletop", "num_episodes=1"]
    for key, why in (
        ("planner", "without horizon"),
        ("env.task", "without env, episode"),
    ):
        error = robot_wm(theirs, *words, f"{key}._target_=nothing.Nothing", ok=False)
        assert why in error and len(error.splitlines()) == 1
    assert "nowhere" in robot_wm(theirs, "--import", "nowhere", *words, ok=False)


BROKEN = """
import torch
from hover import Hover
from line_search import LineSearch
from tiny_encoder import TinyEncoder
from toy_rssm import ToyRSSM
from dataclasses import replace
from robot_wm.models import find_family, register_family

TOY_RSSM = find_family("toy_rssm")


class Wild(LineSearch):
    def plan(self, *args, **words):
        found = super().plan(*args, **words)
        return replace(found, actions=found.actions + 1.0)


class Boastful(Hover):
    def simulate(self, actions):
        return super().simulate(actions) - 0.1


class Blended(TinyEncoder):
    def forward(self, frames):
        tokens = super().forward(frames)
        return tokens + tokens.mean(1, keepdim=True)


class Restless(ToyRSSM):
    def rollout(self, *args, **words):
        futures = super().rollout(*args, **words)
        return replace(futures, latents=futures.latents + torch.rand(()))


def build(known, config, settings):
    model = TOY_RSSM.build(known, config, settings)
    model.__class__ = Restless
    return model


register_family(replace(TOY_RSSM, name="restless", model_type=Restless, build=build))
"""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["plan", "checkpoint=so100_tabletop", "goal=docs/images/goal.png", "out=p",
          "planner._target_=broken.Wild"], "broken.Wild: plan: 0.95 beyond what bounds allows"),
        (["eval", "checkpoint=so100_tabletop", "env.task._target_=broken.Boastful"],
         "broken.Boastful: simulate: 0.1000 from what apply does"),
        (["train", "experiment=debug", "data=data", "out=x", "encoder._target_=broken.Blended"],
         "broken.Blended: tokens: a frame's depend on another frame"),
        (["train", "experiment=debug", "data=data", "out=x", "cache=cache", "family=restless"],
         "broken.Restless: rollout: another one of the same generator"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_told_before_any_work(theirs, data, words, why):
    (theirs / "broken.py").write_text(BROKEN)
    words = [word.replace("docs/", f"{ROOT}/docs/") for word in words]
    error = robot_wm(theirs, "--import", "broken", *words, ok=False)
    assert why in error.splitlines()[-1] and "Traceback" not in error


def test_the_page_shows_exactly_these_files():
    page = (ROOT / "docs" / "extending.md").read_text()
    for path in sorted(FILES.glob("*.py")):
        assert path.read_text().strip() in page, path.name
