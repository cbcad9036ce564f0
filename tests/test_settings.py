"""Settings: every default stands once, in the type that it configures."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from hardware.supervisor import SupervisorSettings
from robot_wm.cli import config as cli_config
from robot_wm.cli.config import load_config
from robot_wm.cli.deploy import run_settings
from robot_wm.deployment.settings import (
    SO101,
    ControllerSettings,
    RobotSettings,
    SimulatedRobot,
)
from robot_wm.models import FitConfig
from robot_wm.monitors import MonitorSettings
from robot_wm.pretrain import PretrainConfig
from robot_wm.training import TrainConfig
from robot_wm.types import UserError, read_settings

DRIVE = ["checkpoint=x", "goal=y"]
MADE = ["data=x", "out=y.safetensors"]
CASES = [
    ("train", MADE, "optimizer.num_steps", TrainConfig()),
    ("train", MADE, "optimizer.learning_rate", TrainConfig()),
    ("train", MADE, "fit.batch_size", FitConfig()),
    ("train", MADE, "fit.rollout_prefix", FitConfig()),
    ("pretrain", MADE, "pretrain.num_steps", PretrainConfig()),
    ("pretrain", MADE, "pretrain.anti_collapse_weight", PretrainConfig()),
    ("eval", ["checkpoint=x"], "controller.arrival", ControllerSettings()),
    ("deploy", DRIVE, "controller.search_budget.keep_share", ControllerSettings()),
    ("deploy", DRIVE, "monitors.prediction_error_p", MonitorSettings()),
    ("plan", DRIVE, "monitors.novelty_ratio", MonitorSettings()),
    ("deploy", DRIVE, "robot.camera_hz", SimulatedRobot()),
    ("deploy", DRIVE, "robot.settings.max_tick_s", SupervisorSettings()),
    ("deploy", [*DRIVE, "robot=lerobot"], "robot.limits.tip_speed", SO101),
    ("deploy", [*DRIVE, "robot=lerobot"], "robot.joints.zero", SO101),
]


def disagreements() -> list[str]:
    """The settings that the command line and the bare constructor have another default for."""
    found = []
    for command, words, key, made in CASES:
        value: Any = made
        names = key.split(".")
        for name in names[1:] if not isinstance(made, SupervisorSettings) else names[-1:]:
            value = getattr(value, name)
        typed = OmegaConf.select(load_config(command, words), key)
        if typed != msgspec.to_builtins(value):
            found.append(key)
    return found


def test_the_command_line_and_the_constructor_have_the_same_defaults():
    assert disagreements() == []


def test_a_second_default_is_seen(monkeypatch, tmp_path):
    """As somebody would plant it: in the YAML of a command."""
    for path in cli_config.config_dir().rglob("*.yaml"):
        copy = tmp_path / path.relative_to(cli_config.config_dir())
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    train = tmp_path / "train.yaml"
    train.write_text(train.read_text() + "optimizer: {num_steps: 3000}\n")
    monkeypatch.setattr(cli_config, "config_dir", lambda: tmp_path)
    assert disagreements() == ["optimizer.num_steps"]


def test_what_is_wrong_with_a_setting_is_told_by_its_name():
    for word, told in (
        ("robot.image_size=4", "robot.image_size: got 4"),
        ("robot.kind=toy", "robot.kind: got 'toy', want simulated or lerobot"),
        ("robot.rest=somewhere", "robot.rest: got 'somewhere', want home"),
        ("mode=fast", "mode: got 'fast', want run or dry-run"),
        ("monitors.prediction_error_p=-1", "monitors.prediction_error_p: got -1"),
        ("controller.limits.trust_norm=l3", "controller.limits.trust_norm: got 'l3'"),
        ("robot.settings.max_tick_s=0", "max_tick_s: got 0"),
    ):
        with pytest.raises(UserError, match=told.replace("[", r"\[")):
            run_settings(load_config("deploy", [*DRIVE, word]))


@pytest.mark.parametrize("values", [None, [], {}, {"kind": 3}, {"kind": "simulated", "wings": 2}])
def test_what_are_no_settings_is_refused(values):
    with pytest.raises(UserError, match="robot"):
        read_settings("robot", values, RobotSettings)


def test_a_device_that_is_not_told_whole_is_no_so101():
    """Its joints' zeros would be another arm's."""
    own = {"kind": "lerobot", "name": "mine", "type": "koch_follower", "arm": "so100"}
    with pytest.raises(UserError, match="joints"):
        read_settings("robot", own, RobotSettings)


def test_settings_come_as_they_were_sent():
    for robot in (
        SimulatedRobot(seed=3),
        msgspec.structs.replace(SO101, port="/dev/x", rest=(0.0, 1.0)),
    ):
        assert read_settings("robot", msgspec.to_builtins(robot), RobotSettings) == robot


def test_what_hydra_is_given_stands_in_no_choice_of_ours():
    """`settings` is a group's inside, and nothing that a person would name."""
    load_config("train", MADE)
    assert "settings.yaml" in ConfigStore.instance().repo["optimizer"]
    assert "optimizer" not in cli_config.groups()
