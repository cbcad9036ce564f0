"""`robot-wm deploy` and `replay`: five processes, a simulated arm, and what stops them."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hardware import reasons, ticks
from hardware.supervisor import Supervisor
from robot_wm.cli.config import load_command
from robot_wm.cli.console import ask
from robot_wm.cli.main import main
from robot_wm.data import DataSpec, align, open_dataset
from robot_wm.deployment.fault_bench import FaultBench
from robot_wm.deployment.policy_process import check_robot, make_actions
from robot_wm.deployment.robots import build_robot
from robot_wm.robots import so100
from robot_wm.types import ActionSpec

GOAL = Path(__file__).parents[1] / "docs" / "images" / "goal.png"


# Patient, for a machine that is busy with other tests.
PATIENT = (
    "robot.settings={max_tick_s: 3.0, max_reading_age_s: 2.0, max_frame_gap_s: 2.0, "
    "max_silence_s: 2.0, max_frame_age_s: 2.0, tracking_s: 5.0}"
)


def deploy(out, *words):
    command = [sys.executable, "-c", "from robot_wm.cli import main; raise SystemExit(main())"]
    command += ["deploy", "checkpoint=so100_tabletop", f"goal={GOAL}", f"out={out}", "num_steps=2"]
    return subprocess.Popen(
        [*command, PATIENT, "mode=run", "confirm=false", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def family(pid):
    """A process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids, timeout_s=20.0):
    until_s = time.monotonic() + timeout_s
    while any(alive(pid) for pid in pids) and time.monotonic() < until_s:
        time.sleep(0.1)
    return not any(alive(pid) for pid in pids)


def test_it_moves_toward_the_picture_and_leaves_a_record(tmp_path, capsys):
    dataset, view = tmp_path / "run", tmp_path / "run.rrd"
    run = deploy(tmp_path, f"record={dataset}", f"view={view}", "task=wave")
    out, err = run.communicate(timeout=180)
    assert run.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["fault"] == "" and result["decisions"] == ["plan", "plan", "end"]
    assert result["energies"][-1] < result["energies"][0] - 0.5  # steps
    assert result["outcome"]["kind"] == "out of time"
    assert result["outcome"]["energy"] == result["energies"][-1]
    assert main(["replay", result["record"]]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["mismatches"] == 0 and found["commands"] > 20
    assert "prediction p = 0." in err and view.stat().st_size > 10_000
    data = align(open_dataset(dataset), DataSpec(action="recorded", dt_s=0.2))
    assert data.lengths == (3,) and data.dataset.episode(0).task == "wave"
    moved = np.diff(data.proprio[0], axis=0)
    np.testing.assert_allclose(data.actions[0], moved, atol=0.01)


def test_a_picture_may_be_wanted_twice(tmp_path):
    view = tmp_path / "run.rrd"
    run = deploy(tmp_path, f"then=[{GOAL}]", "controller.timeout_steps=1", f"view={view}")
    out, err = run.communicate(timeout=180)
    assert run.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    assert "out of time" in result["decisions"]  # and went on to the next
    assert [outcome["kind"] for outcome in result["outcomes"]] == ["out of time"] * 2
    assert "goal 2 of 2: out of time" in err


def test_once_done_it_parks_where_that_was_asked_for(tmp_path):
    run = deploy(tmp_path, "park=true", "num_steps=1")
    out, err = run.communicate(timeout=180)
    assert run.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    last = json.loads(Path(result["record"]).read_text().splitlines()[-2])
    assert last["state"] == "idle"
    np.testing.assert_allclose(last["joints"], [0.0, -2.0, 1.7, 1.2, 0.0, 0.3], atol=0.05)


def test_a_dry_run_writes_nothing(tmp_path):
    command = [sys.executable, "-c", "from robot_wm.cli import main; raise SystemExit(main())"]
    command += ["deploy", "checkpoint=so100_tabletop", f"goal={GOAL}", f"out={tmp_path}", PATIENT]
    run = subprocess.Popen(
        [*command, "controller.patience=1", "num_steps=3"],  # and nobody said mode=run
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, err = run.communicate(timeout=180)
    assert run.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    energies = result["energies"]
    # Nothing comes nearer where nothing may move: that is no way for it to end.
    assert result["decisions"] == ["plan"] * 3 + ["end"] and result["outcome"] is None
    assert "nothing was written" in err
    assert max(energies) - min(energies) < 0.02 * energies[0]  # the arm stood


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGINT"])
def test_the_end_of_the_human_s_process_is_the_end_of_all(tmp_path, name):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as behind an & in a script
    run = deploy(tmp_path, "num_steps=500", "controller.arrival=0")
    signal.signal(signal.SIGINT, before)
    said = [run.stderr.readline()]
    while said[-1] and "energy" not in said[-1]:
        said.append(run.stderr.readline())
    assert run.poll() is None and said[-1], said
    children = family(run.pid)
    assert len(children) == 4
    os.kill(run.pid, getattr(signal, name))
    run.communicate(timeout=30)
    assert gone(children)
    (record,) = tmp_path.glob("flight-*.jsonl")
    assert main(["replay", str(record)]) == 0


def test_at_a_terminal_it_asks_shows_how_it_goes_and_any_key_stops_it(tmp_path):
    """As a human has it: yes, and then a key without Enter."""
    host, terminal = pty.openpty()
    command = [sys.executable, "-c", "from robot_wm.cli import main; raise SystemExit(main())"]
    command += ["deploy", "checkpoint=so100_tabletop", f"goal={GOAL}", f"out={tmp_path}"]
    run = subprocess.Popen(
        [*command, PATIENT, "mode=run", "num_steps=500", "controller.arrival=0"],
        stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, text=True, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    seen = ""

    def read_until(text, timeout_s=120.0):
        nonlocal seen
        until_s = time.monotonic() + timeout_s
        while text not in seen:
            assert select.select([host], [], [], max(0.0, until_s - time.monotonic()))[0], seen
            seen += os.read(host, 4096).decode(errors="replace")

    read_until("a hand on its power switch")
    os.write(host, b"yes\n")
    read_until("holding -> running")
    read_until("ms late (p99), last fault: none")
    os.write(host, b" ")
    read_until("key; flight record")
    out, _ = run.communicate(timeout=60)
    assert json.loads(out.splitlines()[-1])["ended"] == "key" and run.returncode == 1
    os.close(host)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["mode=fast"], "mode: got 'fast'"),
        (["park=true", "robot=lerobot"], "park: robot.park_pose is not given"),
        (["view=film.mp4"], "view: got 'film.mp4'"),
        (["record=run"], "a dry run moves nothing"),
        (["robot.kind=toy"], "robot.kind: got 'toy'"),
        (["robot.image_size=3"], "robot.image_size: got 3"),
        (["num_steps=0"], "num_steps: got 0"),
        (["goal=nowhere.png"], "no file nowhere.png"),
        (["then=[nowhere.png]"], "no file nowhere.png"),
        (["robot.limits.tip_speed=-1"], "tip_speed: got -1"),
        (["robot.limits.box_low=[1,0,0]"], "box_low: got"),
        (["robot.settings={patience: 3}"], "robot.settings"),
        (["robot.settings={max_tick_s: -1}"], "max_tick_s"),
        (["robot=stranger"], "stranger"),
        (["checkpoint=nowhere"], "nowhere"),
        (["mode=run", "confirm=true"], "nobody at a terminal"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.setattr(sys, "stdin", open(os.devnull))
    known = [f"goal={GOAL}", "checkpoint=so100_tabletop", "confirm=false", f"out={tmp_path / 'o'}"]
    assert main(["deploy", *known, *words]) == 2
    err = capsys.readouterr().err
    assert told in err and err.splitlines()[-1].startswith("robot-wm deploy: ")


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("lerobot", ["deploy", f"goal={GOAL}", "checkpoint=so100_tabletop", "robot=lerobot"]),
        ("lerobot", ["record-goal", "robot=lerobot"]),
        ("rerun", ["deploy", f"goal={GOAL}", "checkpoint=so100_tabletop", "view=rerun"]),
    ],
)
def test_a_package_that_is_not_installed_is_named(tmp_path, capsys, monkeypatch, package, command):
    monkeypatch.setitem(sys.modules, package, None)
    assert main([*command, "confirm=false", f"out={tmp_path / 'o.png'}"]) == 2
    assert f"robot-wm[{package}]" in capsys.readouterr().err.splitlines()[-1]


def test_a_recording_is_not_overwritten(tmp_path, capsys):
    view = tmp_path / "run.rrd"
    view.write_text("of yesterday")
    words = [f"goal={GOAL}", "checkpoint=so100_tabletop", "confirm=false", f"out={tmp_path / 'o'}"]
    assert main(["deploy", *words, f"view={view}"]) == 2
    assert "run.rrd exists" in capsys.readouterr().err and view.read_text() == "of yesterday"


def test_the_end_of_the_input_is_no_answer(monkeypatch, capsys):
    def gone():
        raise EOFError

    monkeypatch.setattr("builtins.input", gone)
    with pytest.raises(ValueError, match="nobody answers"):
        ask("Type yes: ")


@pytest.mark.parametrize("name", ["missing.jsonl", "README.md"])
def test_replay_names_what_is_no_record(capsys, name):
    path = Path(__file__).parents[1] / name
    assert main(["replay", str(path)]) == 2
    assert name in capsys.readouterr().err


def test_the_safety_bench_ends_with_its_figures(capsys):
    words = ["sequences=3", "stops=1", "kills=1", "jitter_s=1.0"]
    words += ["robot.settings={max_tick_s: 3.0, max_reading_age_s: 2.0, tracking_s: 5.0}"]
    assert main(["bench", "safety", *words]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("violations", "illegal_plans_run", "nan_motion", "replay_mismatch",
                 "refusals_missed"):  # fmt: skip
        assert figures[name] == 0
    assert figures["commands"] > 300 and figures["overtravel_ticks_max"] <= 1
    assert figures["stop_s_max"] < 2 and figures["tick_jitter_ms_p99"] < 1000


@pytest.fixture
def bench(tmp_path):
    """The safety bench on the SO-100, in this process."""
    robot = build_robot(load_command("bench safety", []).robot)
    assert robot.park is not None
    return FaultBench(robot, robot.park, tmp_path, 0)


def test_the_safety_bench_sees_a_pilot_that_runs_what_it_must_not(bench, monkeypatch):
    monkeypatch.setattr(Supervisor, "_misfit", lambda *_: None)
    figures = bench.faults(20, 400)
    assert figures["illegal_plans_run"] > 0
    assert bench.refusals()["refusals_missed"] > 0


def test_no_figure_of_the_safety_bench_hangs_on_words(bench, monkeypatch):
    before = bench.faults(5, 400), bench.refusals()
    for kind in reasons.Kind:
        monkeypatch.setitem(reasons._SENTENCES, kind, "plan 1: armed, not refused, done")
    for kind in ticks.NoteKind:
        monkeypatch.setitem(ticks._PREFIXES, kind, "plan ")
    assert (bench.faults(5, 400), bench.refusals()) == before


def test_the_model_s_wishes_stay_inside_the_box_that_the_human_gave():
    spec = ActionSpec(("x", "y", "z", "g"), -np.ones(4), np.ones(4), ("",) * 4)
    words = ["checkpoint=x", "goal=y", "robot.limits.box_high=[0.45, 0.1, 0.45]"]
    config = load_command("deploy", words).robot
    robot = build_robot(config)
    actions = make_actions(robot, spec, config)
    target = actions.targets(robot.home, np.array([0.0, 0.5, 0.0, 0.0]))[-1]
    assert robot.state(target)[1] == pytest.approx(0.08, abs=2e-3)
    words[-1] = "robot.limits.box_high=[0.16, 0.35, 0.45]"
    config = load_command("deploy", words).robot
    with pytest.raises(ValueError, match="leaves nothing"):
        make_actions(build_robot(config), spec, config)


def joint_spec(names):
    return ActionSpec(tuple(names), -np.full(6, 20.0), np.full(6, 20.0), ("",) * 6)


def test_a_policy_of_the_device_s_own_joints_speaks_its_units():
    """As one that was trained on what LeRobot records with an SO-101: degrees and percent."""
    config = load_command("deploy", ["robot=lerobot", "checkpoint=x", "goal=y"]).robot
    robot = build_robot(config)
    spec = joint_spec(config.joints.keys)
    check_robot(spec, 0.2, config, robot, "state_delta")
    for learned in ("recorded", None):
        with pytest.raises(ValueError, match="LeRobot records goals"):
            check_robot(spec, 0.2, config, robot, learned)
    actions = make_actions(robot, spec, config)
    posture = robot.home
    np.testing.assert_allclose(actions.proprio(posture)[2], np.degrees(1.7) - 90, atol=0.01)
    target = actions.targets(posture, np.array([2.0, 0, 0, 0, 0, 0]))[-1]
    np.testing.assert_allclose(np.degrees(target - posture), [2.0, 0, 0, 0, 0, 0], atol=1e-3)


def test_joints_in_units_that_nobody_names_are_refused():
    names = [f"main_{name}" for name in so100().joints]
    own = ["robot=lerobot", "checkpoint=x", "goal=y"]
    config = load_command("deploy", own).robot
    robot = build_robot(config)
    with pytest.raises(ValueError, match="made for another robot"):
        check_robot(joint_spec(names), 0.2, config, robot, None)
    own += [f"robot.action_names=[{','.join(names)}]"]
    config = load_command("deploy", own).robot
    check_robot(joint_spec(names), 0.2, config, robot, None)
    with pytest.raises(ValueError, match=r"neither robot\.joints\.keys nor"):
        make_actions(robot, joint_spec(names), config)
    config = load_command("deploy", [*own, f"robot.action_units=[{','.join(['rad'] * 6)}]"]).robot
    step = np.array([0.1, 0, 0, 0, 0, 0])
    target = make_actions(robot, joint_spec(names), config).targets(robot.home, step)[-1]
    np.testing.assert_allclose(target - robot.home, step, atol=1e-9)
