"""`robot-wm deploy` on the unmodified SO-101 driver of lerobot, on servos that are MuJoCo's."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from so101 import FakeSO101

from robot_wm.cli.main import main

# Patient, for a machine that is busy; what is measured is not among them.
PATIENT = (
    "robot.settings={max_tick_s: 2.0, max_reading_age_s: 2.0, max_frame_gap_s: 2.0, "
    "max_silence_s: 2.0, max_frame_age_s: 2.0}"
)
RUN = ["mode=run", "confirm=false", "robot.reply_s=0.05"]


@pytest.fixture
def arm(tmp_path):
    arm = FakeSO101(tmp_path / "arm")
    yield arm
    arm.close()


def deploy(arm, out, *words):
    command = [sys.executable, "-c", "from robot_wm.cli import main; raise SystemExit(main())"]
    command += [
        "deploy",
        "checkpoint=so100_tabletop",
        f"goal={arm.folder / 'goal.png'}",
        f"out={out}",
    ]
    return subprocess.Popen(
        [*command, *RUN, *arm.words(), PATIENT, *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=arm.environ(),
    )  # fmt: skip


def ticks(out):
    (record,) = out.glob("flight-*.jsonl")
    lines = [json.loads(line) for line in record.read_text().splitlines()[1:]]
    assert lines[-1] == {"end": len(lines) - 1}
    return lines[:-1]


# Alone: the servos are a process that has to answer in time.
@pytest.mark.alone
@pytest.mark.parametrize("loss", [0.02, pytest.param(0.0, marks=pytest.mark.slow)])
def test_it_reaches_the_goal_picture_though_packets_are_lost(arm, tmp_path, loss):
    before = arm.say(loss=loss)
    run = deploy(arm, tmp_path, "num_steps=10", "robot.limits.tip_speed=0.25", "robot.reply_s=0.2")
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    after = arm.say()
    assert before["away_m"] > 0.08 and after["away_m"] < 0.015
    result = json.loads(out.splitlines()[-1])
    assert result["fault"] == ""
    assert main(["replay", result["record"]]) == 0


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mishap", "kinds"),
    [
        ({"error": [3, 32]}, ["servo"]),
        ({"unplug": True}, ["no_answer"]),
        ({"block": 1}, ["joint_stuck", "joint_behind"]),
    ],
)
def test_a_mishap_is_a_fault_within_half_a_second_and_the_rest_stops(arm, tmp_path, mishap, kinds):
    run = deploy(arm, tmp_path, "num_steps=5000", "controller.arrival=0")
    while "-> running" not in (line := run.stderr.readline()):
        assert line, run.communicate()
    if mishap == {"error": [3, 32]}:  # beside it: nobody else may drive the arm meanwhile
        second = deploy(arm, tmp_path / "second")
        out, err = second.communicate(timeout=120)
        assert second.returncode == 2 and "another process drives it" in err
        while "-> running" not in (line := run.stderr.readline()):
            assert line, run.communicate()
    time.sleep(0.1)
    at_s = arm.say(**mishap)["at_s"]
    out, err = run.communicate(timeout=120)
    assert run.returncode == 1
    flown = ticks(tmp_path)
    fault = next(tick for tick in flown if tick["state"] == "faulted")
    assert 0 <= fault["t"] - at_s < 0.5
    assert fault["reason"]["kind"] in kinds
    resting = arm.say()["angles"]
    time.sleep(0.5)
    assert np.abs(np.subtract(resting, arm.say()["angles"])).max() < 2e-3
    commands = np.array([tick["command"] for tick in flown if tick["command"]])
    assert (commands[-1] == commands[-2]).all()  # at rest


@pytest.mark.alone
def test_what_keeps_an_arm_from_being_driven_is_told(arm, tmp_path):
    patient = "robot.reply_s=0.5"
    eye = deploy(arm, tmp_path, patient, "robot.cameras.front.type=eye")  # comes not to the arm
    for words, told in (
        ("robot.type=so999", "robot.type: got 'so999'"),
        ("robot.id=stranger", "not calibrated"),
    ):
        run = deploy(arm, tmp_path, patient, words)
        _, err = run.communicate(timeout=240)
        assert run.returncode == 2 and told in err.splitlines()[-1], err
    _, err = eye.communicate(timeout=240)
    assert eye.returncode == 2 and "robot.cameras.front.type: got 'eye'" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("robot.port=/dev/nothing", "robot.port: no device /dev/nothing"),
        ("robot.cameras={}", "robot.cameras: got none"),
        ("robot.cameras={front: 3}", "robot.cameras.front: got 3"),
        (
            "robot.cameras={front: {type: opencv, width: 64}}",
            "robot.cameras.front.height: got None",
        ),
        ("robot.camera_latency_s=-1", "robot.camera_latency_s"),
    ],
)
def test_a_mistake_in_the_robot_s_settings_is_one_line(tmp_path, capsys, words, told):
    known = ["checkpoint=so100_tabletop", "goal=docs/images/goal.png", "robot=lerobot"]
    if "cameras" not in words:
        known.append("robot.cameras={front: {type: opencv, width: 64, height: 64}}")
    assert main(["deploy", *known, "confirm=false", f"out={tmp_path}", words]) == 2
    assert told in capsys.readouterr().err
