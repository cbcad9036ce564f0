"""Maintenance scripts run: nothing else in the project calls them, so they would rot unseen."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from robot_wm.checkpoint import find_checkpoint, load_checkpoint
from robot_wm.cli import main
from robot_wm.cli.config import load_command

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
TINY = {
    "train": {"experiment": "debug"},
    "eval": {"num_episodes": "2", "num_videos": "0", "env.num_steps": "2"},
    "pretrain": {"experiment": "debug", "data.num_clips": "8", "batch_size": "2"},
    "probe": {"holdout": "0.5"},
}


@pytest.fixture
def script(monkeypatch):
    """Imports a script by its name."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny dataset."""
    out = tmp_path_factory.mktemp("scripts") / "data"
    assert main(["collect", "experiment=debug", f"out={out}"]) == 0
    return out


def run(monkeypatch, module, *words):
    """Runs a script in this process; returns the lines that it prints."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    with redirect_stdout(io.StringIO()) as printed:
        module.main()
    return printed.getvalue().splitlines()


def tiny(cache):
    """Runs commands in this process, and with few steps, in place of a script's own way."""

    seconds = itertools.count()

    def robot_wm(command, *words):
        settings = {**dict(word.split("=", 1) for word in words), **TINY[command]}
        if "planner.num_samples" in settings:
            settings |= {"planner.num_samples": "2", "planner.num_elites": "1"}
        if command != "eval":
            settings["cache"] = str(cache)
        with redirect_stdout(io.StringIO()) as printed:
            assert main([command, *(f"{key}={value}" for key, value in settings.items())]) == 0
        return json.loads(printed.getvalue().splitlines()[-1]), float(next(seconds))

    return robot_wm


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_a_shell_script_can_be_read(path):
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_a_script_imports(script, path):
    assert script(path.stem).__doc__


def test_every_variant_is_settings_of_its_command(script):
    encoders, variants = script("compare_encoders"), script("compare_variants")
    words = [
        ("pretrain", own, "safetensors") for s in encoders.SUITES.values() for own in s.values()
    ]
    words += [("train", own, "folder") for s in variants.SUITES.values() for own in s.values()]
    for command, own, end in words:
        keys = dict(word.split("=", 1) for word in own)
        source = "rendered" if command == "pretrain" else "x"
        load_command(
            command, [f"data={source}", f"out=x.{end}", *(f"{k}={v}" for k, v in keys.items())]
        )


def test_variants_are_compared(script, data, tmp_path, monkeypatch):
    module = script("compare_variants")
    monkeypatch.setattr(module, "robot_wm", tiny(tmp_path))
    monkeypatch.setattr(module, "SUITES", {"own": {"a": [], "b": ["model.error=l1"]}})
    monkeypatch.setattr(module, "EVALUATIONS", {"H 1": ["planner.horizon=1"]})
    lines = run(monkeypatch, module, "own", data, tmp_path / "out", "1")
    assert len(lines) == 2 and lines[1].startswith("| b |")


def test_encoders_are_compared(script, data, tmp_path, monkeypatch):
    module = script("compare_encoders")
    monkeypatch.setattr(module, "robot_wm", tiny(tmp_path))
    monkeypatch.setattr(module, "SUITES", {"own": {"acjepa": []}})
    lines = run(monkeypatch, module, "own", data, tmp_path / "out", "1")
    assert len(lines) == 1 and lines[0].startswith("| acjepa |")
    assert (tmp_path / "out" / "table.md").read_text().count("\n") == 6


def test_planning_is_compared(script, data, tmp_path, monkeypatch):
    module = script("compare_planning")
    monkeypatch.setattr(module, "robot_wm", tiny(tmp_path))
    monkeypatch.setattr(module, "ENCODERS", ("mini", "pixels"))
    lines = run(monkeypatch, module, data, tmp_path / "out")
    assert len(lines) == 2 and "points" in lines[1]


def test_settings_are_compared(script, tmp_path, monkeypatch):
    module = script("compare_settings")
    for own in module.TABLES.values():
        for words in own.values():
            load_command("eval", ["checkpoint=so100_tabletop", *words])
    tables = {"own": {"a": ["planner.num_samples=2"], "b": ["controller.search=false"]}}
    monkeypatch.setattr(module, "TABLES", tables)
    words = ["checkpoint=so100_tabletop", "env=so100_push", "env.num_steps=2", "num_episodes=2"]
    for _ in range(2):  # the second finds what the first has done
        lines = run(monkeypatch, module, "own", tmp_path, *words)
        assert len(lines) == 2 and "points" in lines[1]


def test_monitors_are_measured(script, monkeypatch):
    words = [1, "env.num_steps=3"]
    figures = json.loads(run(monkeypatch, script("measure_monitors"), *words)[-1])
    assert figures["episodes"] == 1 and figures["black_by_picture"] > 1


def test_endings_are_measured(script, monkeypatch):
    figures = json.loads(run(monkeypatch, script("measure_endings"), 1, "env.num_steps=6")[-1])
    assert sum(figures["outcomes"].values()) == 1


def test_busy_machines_are_measured(script, monkeypatch):
    module = script("measure_busy")
    monkeypatch.setattr(module, "NUM_STEPS", 1)
    assert all(min(module.child(what, 1)) > 0 for what in ("train", "plan"))
    asked = []

    def stand_in(command, **_):
        asked.append(command[3:])
        return subprocess.CompletedProcess(command, 0, '{"tick_late_ms_p99": 2.0}')

    monkeypatch.setattr(subprocess, "run", stand_in)
    assert module.late_ticks_s({}) == 0.002
    assert load_command(asked[0][0], asked[0][1:]).robot.settings.max_tick_s == 5.0


def test_a_checkpoint_is_migrated(script, tmp_path, monkeypatch):
    directory = tmp_path / "checkpoint"
    shutil.copytree(find_checkpoint("so100_tabletop"), directory)
    before = load_checkpoint(directory)[0].state_dict()
    run(monkeypatch, script("migrate_checkpoint"), directory, "jaco")
    after = load_checkpoint(directory)[0]
    assert after.info.robot == "jaco" and (directory / "card.md").exists()
    assert all(bool((before[key] == value).all()) for key, value in after.state_dict().items())


def test_the_readme_s_picture_is_drawn(script, tmp_path, monkeypatch):
    module = script("readme_picture")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "scripts" / "readme_picture.py"))
    monkeypatch.setattr(module, "SIZE_PX", 64)
    run(monkeypatch, module)
    drawn = {path.name for path in (tmp_path / "docs/images").iterdir()}
    assert drawn == {"goal.png", "push.png", "pick.png", "reach.png", "moves.png"}


def test_the_manifest_is_written_once():
    for words, told in (
        (["so100_push", "far"], b"exists"),
        ([], b"usage"),
        (["so1"], b"so100_push"),
    ):
        command = [sys.executable, str(SCRIPTS / "make_manifest.py"), *words]
        done = subprocess.run(command, capture_output=True)
        assert done.returncode == 1 and told in done.stderr


def test_goals_that_nobody_took_are_measured(script, monkeypatch, tmp_path):
    data, model = tmp_path / "data", tmp_path / "model"
    push = ["env=so100_push", "env.num_steps=8", "env.simulator.image_size=96"]
    assert main(["collect", *push, f"out={data}", "num_episodes=4", "num_workers=1"]) == 0
    words = ["experiment=debug", f"data={data}", f"out={model}", f"cache={tmp_path}"]
    assert main(["train", *words, "prior.num_steps=2"]) == 0
    module = script("measure_goals")
    words = [f"checkpoint={model}", *push, "planner.horizon=2", "split=dev", 2]
    lines = run(monkeypatch, module, *words)
    kinds = json.loads(lines[-1])["kinds"]
    assert list(kinds) == list(module.KINDS)
    assert all(sum(counts.values()) == 2 for counts in kinds.values())
    with pytest.raises(SystemExit, match="kind"):
        run(monkeypatch, module, *words, "drawn")


def test_a_pasted_cube_is_where_it_was_put(script):
    module = script("measure_goals")
    empty = np.full((20, 20, 3), 90, np.uint8)
    here, there = empty.copy(), empty.copy()
    here[2:5, 3:6], there[10:13, 12:15] = (0, 0, 200), (0, 0, 180)
    pasted = module.paste(empty, empty, here, there)
    assert (pasted[10:13, 12:15] == (0, 0, 200)).all() and (pasted[2:5, 3:6] == 90).all()
