"""The examples as a stranger runs them: in a fresh process, in a folder of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
GOAL = ROOT / "docs" / "images" / "goal.png"
RECORD = ROOT / "tests" / "golden" / "flight_format_1.jsonl"


def run(name, *words, cwd):
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_there_is_none_that_is_not_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        *("plan_once", "train_model", "planner_on_a_cost", "own_task", "own_encoder"),
        *("energy_landscape", "governed_arm", "replay_record"),
    }


def test_plan_once(tmp_path):
    assert "the first action: ee.x" in run("plan_once", GOAL, cwd=tmp_path)


def test_planner_on_a_cost(tmp_path):
    costs = re.findall(r"cost (\d\.\d+)", run("planner_on_a_cost", cwd=tmp_path))
    assert len(costs) == 3 and max(map(float, costs)) < 0.01


def test_own_task(tmp_path):
    assert run("own_task", cwd=tmp_path).strip().endswith("done")


def test_energy_landscape(tmp_path):
    assert "least energy at" in run("energy_landscape", "here.png", cwd=tmp_path)
    assert (tmp_path / "here.png").read_bytes().startswith(b"\x89PNG")


def test_governed_arm(tmp_path):
    out = run("governed_arm", cwd=tmp_path)
    speed, allowed = map(float, re.findall(r"(\d\.\d+)(?: rad/s|\))", out)[:2])
    assert 0 < speed <= allowed + 0.005


def test_replay_record(tmp_path):
    assert ": 0 differ" in run("replay_record", RECORD, cwd=tmp_path)


def test_a_model_is_trained_and_an_encoder_probed(tmp_path):
    out = run("train_model", "work", 4, 20, cwd=tmp_path)
    assert out.count("steps ahead") == 4 and "so100" in out
    out = run("own_encoder", "work/data", "work/cache", cwd=tmp_path)
    assert "mini (probed)" in out and "Convolution (probed)" in out


@pytest.mark.parametrize("name", ["load", "train", "plan", "run_episode", "MPC", "CEM"])
def test_the_front_door_opens_late(name):
    """`import robot_wm` costs nothing; a name that is asked for is there."""
    code = (
        "import sys, robot_wm; assert 'torch' not in sys.modules;"
        f"from robot_wm import kinematics; assert 'torch' not in sys.modules;"
        f"from robot_wm import {name}; assert '{name}' in dir(robot_wm)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_front_door_is_one_list():
    import robot_wm
    from robot_wm import api

    assert set(api.__all__) == set(robot_wm._OFFERED)
    with pytest.raises(AttributeError):
        robot_wm.nonsense  # noqa: B018
