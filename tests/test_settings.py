"""Settings: every default stands once, in the type that it configures."""

from __future__ import annotations

import importlib
import inspect
import math
import re
import shutil
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import pytest
from fakes import make_model
from omegaconf import OmegaConf

from hardware.supervisor import SupervisorSettings
from robot_wm.cli import config as cli_config
from robot_wm.cli import main
from robot_wm.cli.config import load_command, sweep
from robot_wm.cli.fields import TABLES, ChoiceTable, settings_of
from robot_wm.cli.main import COMMANDS, module_of
from robot_wm.controller import MPC, GoalSequence
from robot_wm.data import DataSpec
from robot_wm.deployment.extensions import CONFIG_DIR
from robot_wm.deployment.parts import Part
from robot_wm.deployment.planning import suggested_planning
from robot_wm.deployment.run import DeploySettings
from robot_wm.deployment.settings import SO101, RobotSettings, SimulatedRobot, with_seed
from robot_wm.encoders import MiniConfig, random_mini
from robot_wm.imagination import SearchBudget
from robot_wm.models import FitConfig
from robot_wm.monitors import MonitorSettings
from robot_wm.objectives import GoalEnergy
from robot_wm.planners import CEM, PLANNERS, QuasiNewton
from robot_wm.predictor import PredictorConfig
from robot_wm.pretrain import PretrainConfig
from robot_wm.proposals import FILE, Prior, PriorShape
from robot_wm.training import TrainConfig
from robot_wm.types import (
    Count,
    NonNegative,
    Positive,
    Share,
    UserError,
    checked,
    plain_settings,
    read_settings,
)
from robot_wm.workflows.data import make_encoder
from sim_envs.reach import ReachTask
from sim_envs.tabletop import Tabletop

DRIVE = ["checkpoint=x", "goal=y"]
MADE = ["data=x", "out=y.safetensors"]
CHECK = ["checkpoint=x"]
# A command and its words, a key, and what the bare constructor makes of the same.
CASES = [
    ("train", MADE, "train.num_steps", lambda: TrainConfig().num_steps),
    ("train", MADE, "train.learning_rate", lambda: TrainConfig().learning_rate),
    ("train", MADE, "model.batch_size", lambda: FitConfig().batch_size),
    ("train", MADE, "model.rollout_prefix", lambda: FitConfig().rollout_prefix),
    ("train", MADE, "data.dt_s", lambda: DataSpec().dt_s),
    ("train", MADE, "predictor.conditioning", lambda: default(PredictorConfig, "conditioning")),
    ("pretrain", MADE, "train.num_steps", lambda: PretrainConfig().num_steps),
    ("pretrain", MADE, "train.anti_collapse_weight", lambda: PretrainConfig().anti_collapse_weight),
    ("pretrain", MADE, "encoder.width", lambda: MiniConfig().width),
    (
        "eval",
        CHECK,
        "controller.arrival_decisions",
        lambda: default(GoalSequence, "arrival_decisions"),
    ),
    ("eval", CHECK, "controller.patience", lambda: default(GoalSequence, "patience")),
    ("eval", CHECK, "controller.margin", lambda: default(MPC, "margin")),
    ("eval", CHECK, "controller.search_budget.keep_share", lambda: SearchBudget().keep_share),
    ("eval", CHECK, "controller.search_budget", lambda: default(MPC, "search_budget")),
    ("eval", CHECK, "planner.num_samples", lambda: QuasiNewton().num_samples),
    ("eval", [*CHECK, "planner=cem"], "planner.init_std", lambda: CEM().init_std),
    ("eval", CHECK, "objective.distance", lambda: default(GoalEnergy, "distance")),
    ("eval", CHECK, "env.simulator.image_size", lambda: default(Tabletop, "image_size")),
    ("eval", CHECK, "env.task.success_m", lambda: default(ReachTask, "success_m")),
    ("deploy", DRIVE, "monitors.prediction_error_p", lambda: MonitorSettings().prediction_error_p),
    ("plan", DRIVE, "monitors.novelty_ratio", lambda: MonitorSettings().novelty_ratio),
    ("deploy", DRIVE, "robot.camera_hz", lambda: SimulatedRobot().camera_hz),
    ("deploy", DRIVE, "robot.settings.max_tick_s", lambda: SupervisorSettings().max_tick_s),
    ("deploy", [*DRIVE, "robot=lerobot"], "robot.limits.tip_speed", lambda: SO101.limits.tip_speed),
    ("deploy", [*DRIVE, "robot=lerobot"], "robot.joints.zero", lambda: SO101.joints.zero),
    ("demo", [], "num_train_steps", lambda: TrainConfig().num_steps),
]


def default(made, name):
    """The default of an argument."""
    return inspect.signature(made).parameters[name].default


def disagreements(capsys) -> list[str]:
    """The settings that `--cfg job` and the bare constructor have another value for."""
    found, shown = [], {}
    for command, words, key, constructed in CASES:
        if (command, *words) not in shown:
            capsys.readouterr()
            assert main([*command.split(), *words, "--cfg", "job"]) == 0
            shown[(command, *words)] = OmegaConf.create(capsys.readouterr().out)
        typed = OmegaConf.select(shown[(command, *words)], key)
        typed = OmegaConf.to_container(typed) if OmegaConf.is_config(typed) else typed
        if typed != plain_settings(constructed()):
            found.append(key)
    return found


def test_the_command_line_and_the_constructor_have_the_same_defaults(capsys):
    assert disagreements(capsys) == []


def test_a_second_default_is_seen(monkeypatch, tmp_path, capsys):
    """As somebody would plant it: in YAML."""
    shutil.copytree(cli_config.config_dir(), tmp_path / "configs")
    planted = tmp_path / "configs" / "experiment" / "default.yaml"
    planted.write_text("# @package _global_\ntrain: {learning_rate: 3e-4}\n")
    monkeypatch.setattr(cli_config, "config_dir", lambda: tmp_path / "configs")
    assert disagreements(capsys) == ["train.learning_rate"]


def test_what_is_wrong_with_a_setting_is_told_by_its_name():
    for word, told in (
        ("robot.image_size=4", "robot.image_size: got 4"),
        ("robot.kind=toy", "robot.kind: got 'toy', want simulated or lerobot"),
        ("robot.park_pose=somewhere", "robot.park_pose: got 'somewhere', want home"),
        ("mode=fast", "mode: got 'fast', want dry-run or run"),
        ("monitors.prediction_error_p=-1", "monitors.prediction_error_p: got -1"),
        ("controller.limits.trust_norm=l3", "controller.limits.trust_norm: got 'l3'"),
        ("robot.settings.max_tick_s=0", "max_tick_s: got 0"),
    ):
        with pytest.raises(UserError, match=told.replace("[", r"\[")):
            load_command("deploy", [*DRIVE, word])


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
        msgspec.structs.replace(SO101, port="/dev/x", park_pose=(0.0, 1.0)),
    ):
        assert read_settings("robot", plain_settings(robot), RobotSettings) == robot


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_key_says_what_it_means(command, capsys):
    """From the docstring of its type: a line for each key, and none without a meaning."""
    assert main([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(f"  robot-wm {command}") for line in lines) == 2  # examples
    settings = list(settings_of(importlib.import_module(module_of(command)).SETTINGS))
    assert [setting.key for setting in settings if not setting.meaning] == []
    for setting in settings:
        assert any(line.startswith(f"  {setting.key}") for line in lines), setting.key


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("train", "optimizer.num_steps=3", "train.num_steps"),
        ("train", "fit.batch_size=3", "model.batch_size"),
        ("train", "fit.seed=3", "seed"),
        ("pretrain", "pretrain.objective=vjepa", "train.objective"),
        ("eval", "env.robot.random_look=true", "env.simulator.random_appearance"),
        ("eval", "controller.economy.keep_share=1", "controller.search_budget.keep_share"),
        ("plan", "monitors.allow_strange=true", "monitors.allow_novel"),
    ],
)
def test_an_old_name_is_answered_with_the_new_one(command, old, new):
    with pytest.raises(UserError, match=rf"now called {new}$"):
        load_command(command, [old])


def test_one_seed_decides_all_that_is_random():
    """In whatever order commands are read: hydra's store is one for all."""
    random = ["data=x", "out=y", "encoder=random", "seed=4"]
    for _ in range(2):
        assert load_command("train", random).encoder.settings["seed"] == 4
        assert load_command("deploy", [*DRIVE, "seed=5"]).robot.seed == 5
        assert load_command("record-goal", []).robot.seed is None
        assert load_command("deploy", [*DRIVE, "seed=5", "robot.seed=2"]).robot.seed == 2


def test_the_seed_of_a_command_is_the_same_in_python():
    made = DeploySettings(checkpoint="x", goal="y", seed=5)
    typed = load_command("deploy", [*DRIVE, "seed=5"])
    assert with_seed(made.robot, made.seed) == with_seed(typed.robot, typed.seed)
    assert with_seed(SimulatedRobot(seed=2), 5).seed == 2 and with_seed(SO101, 5) == SO101
    weights = [make_encoder(Part("random", **own), seed=5).fingerprint for own in ({}, {"seed": 2})]
    assert weights == [random_mini(seed=seed).fingerprint for seed in (5, 2)]


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["seed=range(0,2)", "mode=run"], [["seed=0", "mode=run"], ["seed=1", "mode=run"]]),
        (["task='a, b'"], [["task=a, b"]]),
        (["task='a, b',c"], [["task=a, b"], ["task=c"]]),
        (["out=~/ä,~/b"], [["out=~/ä"], ["out=~/b"]]),
        (["then=[a,b],[c]"], [["then=[a,b]"], ["then=[c]"]]),
    ],
)
def test_quotes_and_brackets_keep_a_value_together(words, runs):
    assert sweep(words) == runs


@pytest.mark.parametrize("word", ["seed=interval(0,1)", "seed=range(0,1,0)", "task='a,b"])
def test_a_sweep_that_cannot_be_is_told(word):
    with pytest.raises(UserError, match=word.partition("=")[0]):
        sweep([word])


def test_every_run_has_outputs_of_its_own(capsys):
    def outputs(*words):
        assert main(["deploy", "-m", *DRIVE, *words, "--cfg", "job"]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if line.partition(":")[0] in ("out", "record", "view")]

    assert outputs("out=a,b") == [
        *("out: a", "record: null", "view: null"), *("out: b", "record: null", "view: null")
    ]  # fmt: skip
    assert outputs("seed=0,1", "view=v.rrd", "record=r") == [
        *("out: outputs/deploy/0", "record: r/0", "view: v-0.rrd"),
        *("out: outputs/deploy/1", "record: r/1", "view: v-1.rrd"),
    ]
    assert outputs("seed=0,1", "out=a,b", "view=rerun")[::3] == [
        "out: a/0",
        "out: b/1",
        "out: a/2",
        "out: b/3",
    ]


def test_a_run_for_every_combination(tmp_path, capsys):
    words = ["collect", "-m", "seed=0,1", "num_episodes=1", f"out={tmp_path / 'runs'}"]
    words += ["env.simulator.image_size=32", "num_workers=1", "env.num_steps=6"]
    assert main(words) == 0
    seeds = [OmegaConf.load(tmp_path / "runs" / n / "run.yaml").settings.seed for n in ("0", "1")]
    assert seeds == [0, 1]
    assert main(["train", "--multirun", "model.batch_size=0,8", "data=x", "out=y"]) == 2
    assert "model.batch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["ev"], "eval"),
        (["bench", "pl"], "planner"),
        (["eval", "chec"], "checkpoint="),
        (["eval", "planner=qu"], "planner=quasi_newton"),
        (["train", "train.num_s"], "train.num_steps="),
        (["eval", "planner=mppi", "planner.te"], "planner.temperature="),
    ],
)
def test_a_shell_completes(typed, offered, capsys):
    assert main(["--complete", *typed]) == 0
    assert capsys.readouterr().out.splitlines() == [offered]
    for shell in ("bash", "zsh"):
        assert main(["--shell-completion", shell]) == 0
        assert "complete" in capsys.readouterr().out
    assert main(["--shell-completion", "fish"]) == 2


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("planer=cem", "did you mean 'planner'"),
        ("planner.num_sample=3", "did you mean 'num_samples'"),
        ("controller.arival=1", "did you mean 'arrival'"),
        ("env.simulator.imagesize=64", "did you mean 'image_size'"),
        ("num_episodes=many", "num_episodes: got 'many'"),
        ("num_episodes=0", "num_episodes: got 0"),
        ("planner=annealing", "planner: got 'annealing'"),
        ("seed=-1", "seed: got -1"),
        ("floors=[random,best]", "floors"),
        ("controller=5", "controller: got 5"),
        ("env.robot.image_size=64", "env.simulator.image_size"),
    ],
)
def test_a_wrong_word_is_one_line_with_the_nearest_right_one(word, told, capsys):
    assert main(["eval", "checkpoint=so100_tabletop", word]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and told in err[0], err


FOLDER = {
    "planner/mine.yaml": "_target_: pathlib.PurePath\nhorizon: 2\n",
    "planner/typo.yaml": "defaults: [cem]\nnum_elite: 3\n",
    "env/mine.yaml": "defaults: [so100_reach]\nname: mine\ntask: {_target_: pathlib.PurePath}\n",
    "env/bad.yaml": "a: [\n",
    "robot/slow.yaml": "defaults: [lerobot]\nlimits: {tip_speed: 0.02}\n",
    "robot/typo.yaml": "defaults: [lerobot]\nlimits: {tip_spede: 0.02}\n",
    "experiment/mine.yaml": (
        "# @package _global_\ndefaults: [{override /planner: cem}]\n"
        "num_episodes: 7\nnum_train_steps: 3\nplanner: {num_samples: 50}\n"
    ),
    "experiment/old.yaml": "# @package _global_\noptimizer: {num_steps: 7}\n",
    "experiment/bad.yaml": "a: [\n",
    "experiment/nowhere.yaml": "# @package _global_\nseed: ${nowhere}\n",
    "experiment/flat.yaml": "# @package _global_\ncontroller: 5\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a caller's own settings."""
    for name, text in FOLDER.items():
        path = tmp_path / "it's, mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv(CONFIG_DIR, str(tmp_path / "it's, mine"))


@pytest.mark.parametrize(
    ("command", "words", "key", "value"),
    [
        ("eval", [*CHECK, "planner=mine"], "planner", Part("pathlib.PurePath", horizon=2)),
        ("eval", [*CHECK, "planner=mine", "experiment=debug"], "planner.settings", {"horizon": 2}),
        ("eval", [*CHECK, "env=mine"], "env.task.name", "pathlib.PurePath"),
        ("deploy", [*DRIVE, "robot=slow"], "robot.limits.tip_speed", 0.02),
        ("eval", [*CHECK, "experiment=mine"], "planner.name", "cem"),
        ("eval", [*CHECK, "experiment=mine"], "num_episodes", 7),
        ("eval", [*CHECK, "env.task={_target_: pathlib.PurePath, a: 1}"], "env.task.settings",
         {"a": 1}),
        ("train", [*MADE, "robot=null"], "robot", None),
        ("train", ["data=x", "out=2024"], "out", "2024"),
        ("train", ["data=x", "out=[x]"], "out", "[x]"),
        ("train", [*MADE, "encoder.weights=a, b #1.pt"], "encoder.settings.weights", "a, b #1.pt"),
        ("plan", ["checkpoint=x", "goal=[1].png"], "goal", "[1].png"),
        ("plan", ["checkpoint=x", "goal.front=a b.png"], "goal", {"front": "a b.png"}),
        ("deploy", [*DRIVE, "robot=lerobot", "robot.id=7"], "robot.id", "7"),
        ("deploy", [*DRIVE, "robot=lerobot", "robot.limits.max_speed=[1e-1,1]"],
         "robot.limits.max_speed", (0.1, 1.0)),
    ],
)  # fmt: skip
def test_what_is_given_is_what_comes(folder, command, words, key, value):
    found = load_command(command, words)
    for name in key.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("command", "words", "told"),
    [
        ("eval", [*CHECK, "planner=typo"], "did you mean 'num_elites'"),
        ("deploy", [*DRIVE, "robot=typo"], "did you mean 'tip_speed'"),
        ("train", [*MADE, "experiment=old"], "now called train"),
        ("eval", [*CHECK, "env=bad"], "bad.yaml"),
        ("eval", [*CHECK, "planner=null"], "planner: got null"),
        ("train", ["data=x", "out=null"], "out: got None"),
        ("train", [*MADE, "robot.port=/x"], "robot=lerobot"),
        ("train", [*MADE, "seed=1,2"], "--multirun"),
        ("collect", ["out=x", "env.simulator.wrist_camera=off"], "wrist_camera: got 'off'"),
        ("collect", ["out=x", "env.demonstrator.num_steps=5"], "env.demonstrator.num_steps"),
        ("plan", [*DRIVE, "goal.front=b"], "one or the other"),
        ("eval", [*CHECK, "seed=1\nfoo: 2"], "seed: got '1\\nfoo: 2'"),
        ("eval", [*CHECK, "a" + 2000 * ".b" + "=1"], "too deeply"),
        ("eval", [*CHECK, "floors=" + 3000 * "[" + 3000 * "]"], "too deeply"),
        (
            "plan",
            [*DRIVE, "controller.limits.fixed.grip=abc"],
            "controller.limits.fixed.grip: got 'abc', want a number",
        ),
        ("plan", [*DRIVE, "controller.limits.fixed={1: 0.5}"], "controller.limits.fixed: got 1"),
    ],
)
def test_what_cannot_be_is_told(folder, command, words, told):
    with pytest.raises(UserError, match=re.escape(told)):
        load_command(command, words)


@pytest.mark.parametrize(("word", "code"), [
    ("experiment=bad", 2), ("experiment=nowhere", 2), ("experiment=flat", 0), ("env=mine", 0),
])  # fmt: skip
def test_help_beside_a_file_of_one_s_own(folder, word, code, capsys):
    assert main(["eval", "--help", word]) == code
    assert "Traceback" not in capsys.readouterr().err


@dataclass(frozen=True)
class Point:
    x: Positive = 1.0


class Shape(msgspec.Struct):
    points: tuple[Point, ...] = ()
    named: dict[str, list[Point]] | None = None


def test_unknown_keys_are_found_in_lists_and_mappings():
    for values, told in (
        ({"points": [{}, {"y": 2}]}, "unknown key 'shape.points[1].y'"),
        ({"named": {"a": [{"z": 1}]}}, "unknown key 'shape.named.a[0].z'"),
        ({"named": {"a": [{"x": 0}]}}, "shape.named.a[0].x: got 0"),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            read_settings("shape", values, Shape)


def test_a_fault_inside_a_part_of_ours_is_no_user_s_mistake():
    def build(*, size: int = 3) -> object:
        return size + "3"  # type: ignore[operator]

    with pytest.raises(TypeError):
        Part("mine").make({"mine": build}, "part")
    with pytest.raises(UserError, match="wings"):
        Part("mine").make({"mine": build}, "part", wings=2)
    with pytest.raises(UserError, match="planner math.pi"):
        Part("math.pi").find({}, "planner")


def test_a_fault_of_a_table_of_ours_is_no_user_s_mistake(tmp_path, monkeypatch):
    (tmp_path / "broken_table.py").write_text("NAMES = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        ChoiceTable("Part", "broken_table", "NAMES").table()
    with pytest.raises(LookupError):
        TABLES["env"].default("env", {"name": "none of ours"})


def test_a_constructor_s_annotations_are_its_checks():
    @checked
    def reach(
        goal: object, *, within_m: Positive = 0.1, kind: Literal["far", "near"] = "near",
        patience: Count | None = None, share: Share = 0.5, least: NonNegative = 0.0,
    ) -> tuple:  # fmt: skip
        """Returns its arguments."""
        return within_m, kind, patience

    assert reach(None, within_m=np.float32(0.5), patience=3) == (0.5, "near", 3)
    assert reach("any", kind="far") == (0.1, "far", None)
    for name, value in (
        ("within_m", 0), ("within_m", math.nan), ("within_m", math.inf), ("within_m", "far"),
        ("within_m", True), ("kind", "middle"), ("patience", 0), ("patience", 1.5),
        ("share", math.nan), ("share", -0.1), ("least", math.nan), ("least", math.inf),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"{name}: got "):
            reach(None, **{name: value})
    with pytest.raises(TypeError):
        reach(None, within=0.1)


def test_a_checkpoint_plans_no_further_than_its_prior_proposes(tmp_path):
    info = make_model().info
    prior = Prior(info, PriorShape(chunk=3, width=8, depth=1, tasks=("reach",)))
    (tmp_path / FILE).write_bytes(prior.to_bytes())
    words = ["eval", [f"checkpoint={tmp_path}"]]
    assert load_command(*words).planner.settings["horizon"] == 3
    assert suggested_planning(str(tmp_path)).planner.settings == {"horizon": 3}
    other = load_command("eval", [f"checkpoint={tmp_path}", "planner=cem"]).planner
    assert (other.name, other.settings["horizon"]) == ("cem", PLANNERS["cem"]().horizon)


def test_the_last_word_for_a_key_counts():
    settings = load_command("eval", [*CHECK, "seed=1", "planner=cem", "planner=mppi", "seed=2"])
    assert settings.seed == 2 and settings.planner.name == "mppi"
    assert load_command("train", ["data=x", "data.source=y", "out=z"]).data.source == "y"


def test_a_checkpoint_with_a_prior_plans_with_it_unless_it_is_told_otherwise(tmp_path):
    (tmp_path / "prior.safetensors").write_bytes(b"")

    def planned(*words):
        return load_command("eval", [f"checkpoint={tmp_path}", *words])

    settings = planned()
    assert (settings.planner.name, settings.objective.name) == ("averaged", "steps_to_go")
    assert settings.controller.proposals == ("policy",)
    changed = planned("planner.horizon=3").planner
    assert (changed.name, changed.settings["horizon"]) == ("averaged", 3)
    other = planned("planner=cem", "controller.proposals=[]")
    assert (other.planner.name, other.objective.name) == ("cem", "steps_to_go")
    assert other.controller.proposals == ()
    same = planned("planner=averaged", "objective=steps_to_go").controller
    assert (same.arrival, same.patience) == (1.0, 15)  # to say the defaults changes nothing
    energy = planned("objective=energy").controller  # whose numbers are in other units
    assert (energy.arrival, energy.patience) == (0.1, 4) and energy.proposals == ("policy",)
    assert load_command("eval", ["checkpoint=so100_tabletop"]).planner.name == "averaged"
    assert load_command("eval", [f"checkpoint={tmp_path / 'x'}"]).planner.name == "quasi_newton"
    assert load_command("eval", ["checkpoint=~nobody/x"]).planner.name == "quasi_newton"
    deployed = load_command("deploy", [f"checkpoint={tmp_path}", "goal=a.png"])
    assert deployed.planner.name == "averaged"
