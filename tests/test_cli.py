"""The commands as a person meets them: what they print, what they leave, how they refuse."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from robot_wm.checkpoint import load_checkpoint, save_checkpoint
from robot_wm.cli import main
from robot_wm.cli.config import config_dir, load_command
from robot_wm.cli.main import COMMANDS
from robot_wm.data import open_dataset
from robot_wm.encoders import load_mini
from robot_wm.models import LATENT
from robot_wm.types import UserError
from robot_wm.workflows import evaluate


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A tiny dataset and a checkpoint trained on it."""
    root = tmp_path_factory.mktemp("cli")
    assert main(["collect", "experiment=debug", f"out={root / 'data'}"]) == 0
    words = ["train", "experiment=debug", f"data={root / 'data'}", f"out={root / 'ckpt'}"]
    assert main([*words, f"cache={root / 'cache'}"]) == 0
    return root


def run(capsys, *words):
    """Exit code, stdout and stderr of a command run in this process.

    Of words with the same key the last one holds, so that a test can change one of several.
    """
    last = {str(word).partition("=")[0]: str(word) for word in words}
    code = main(list(last.values()))
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *words):
    """The one line a command says when it refuses."""
    code, out, err = run(capsys, *words)
    assert code == 2, (out, err)
    said = [line for line in err.splitlines() if line.startswith("robot-wm ")]
    assert len(said) == 1 and "Traceback" not in err
    return err.splitlines()[-1]


@pytest.mark.parametrize("command", ["deploy", "plan", "collect", "eval"])
def test_a_name_that_is_not_utf8_is_the_user_s_mistake(command, capsys):
    key = "goal" if command in ("deploy", "plan") else "out"
    word = os.fsdecode(key.encode() + b"=bild-\xff.png")
    assert main([command, word]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_fault_of_ours_keeps_its_traceback_and_says_where_to_report_it(capsys, monkeypatch):
    def broken(config):
        raise ValueError("nobody's mistake but ours")

    monkeypatch.setattr("robot_wm.cli.collect.run", broken)
    code, _, err = run(capsys, "collect", "out=x")
    assert code == 70 and "Traceback" in err and "nobody's mistake but ours" in err
    assert "report it" in err.splitlines()[-2] + err.splitlines()[-1]


@pytest.mark.parametrize(
    ("word", "texts"),
    [
        ("[bild-ä.png]", ["bild-ä.png"]),
        ("[~/b.png,a(1).png]", [str(Path.home() / "b.png"), "a(1).png"]),
        ("['it''s.png', b=c.png, x y.png]", ["it's.png", "b=c.png", "x y.png"]),
        ("[a.png,/data/b.png]", ["a.png", "/data/b.png"]),
    ],
)
def test_text_in_a_list_is_taken_as_text_outside_of_one(word, texts):
    settings = load_command("plan", ["checkpoint=x", "goal=y", f"then={word}"])
    assert list(settings.then) == texts
    cameras = f"robot.cameras={{front: {{type: opencv, names: {word}}}}}"
    settings = load_command("deploy", ["robot=lerobot", "checkpoint=x", "goal=y", cameras])
    assert settings.robot.cameras["front"]["names"] == texts


def test_a_list_that_does_not_end_is_one_line(capsys):
    assert "then" in refused(capsys, "plan", "checkpoint=x", "goal=y", "then=[a(1).png")


def test_help_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_lists_its_keys(capsys, command):
    code, out, _ = run(capsys, *command.split(), "--help")
    assert code == 0 and "keys and defaults" in out and "experiment={debug,default}" in out


def test_cfg_job_shows_the_settings_and_runs_nothing(capsys, tmp_path):
    words = ["collect", f"out={tmp_path / 'data'}", "num_episodes=7", "--cfg", "job"]
    code, out, _ = run(capsys, *words)
    assert code == 0 and OmegaConf.create(out).num_episodes == 7
    assert not (tmp_path / "data").exists()
    assert "want job" in refused(capsys, *words[:-1], "hydra")
    assert "num_episode" in refused(capsys, "collect", "num_episode=3", "--cfg", "job")


def test_what_made_a_result_is_kept_beside_it(work):
    for folder, command, key in (("data", "collect", "num_episodes"), ("ckpt", "train", "model")):
        text = (work / folder / "run.yaml").read_text()
        run = OmegaConf.to_container(OmegaConf.create(text))
        assert run["command"] == command and key in run["settings"]
        assert run["versions"]["numpy"] == np.__version__
        assert str(work) not in text
    assert open_dataset(str(work / "data")).num_episodes == 4
    load_checkpoint(work / "ckpt")


def test_train_prints_that_it_beats_nothing_yet_but_measures(work, capsys):
    words = ["train", "experiment=debug", f"data={work / 'data'}", f"out={work / 'again'}"]
    code, out, err = run(capsys, *words, f"cache={work / 'cache'}")
    assert code == 0
    figures = json.loads(out.splitlines()[-1])
    assert set(figures["held_out_error"]) == {"true", "shuffled", "zero", "copy_last"}
    assert "held-out error" in err and "copy last frame" in err
    rows = (work / "again" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 21 and rows[0].startswith("step,")
    assert len((work / "again" / "metrics.jsonl").read_text().splitlines()) == 20
    card = (work / "again" / "card.md").read_text()
    assert "copy last frame" in card and "| seed | 0" in card
    # Nothing that is left behind says where on this machine the data lay.
    left = [path.read_text() for path in (work / "again").glob("*.[jm][sd]*")]
    assert len(left) > 2 and not any(str(work) in text for text in left)


def test_eval_ends_with_its_figures_and_writes_the_report(work, capsys):
    words = ["eval", "experiment=debug", f"checkpoint={work / 'ckpt'}", f"out={work / 'report'}"]
    code, out, err = run(capsys, *words, "num_episodes=2", "env.num_steps=3", "split=dev")
    assert code == 0
    figures = json.loads(out.splitlines()[-1])["tasks"]["so100_reach"]
    assert figures["n"] == 2 and 0 <= figures["success_final"] <= 1
    assert len(figures["success_final_ci95"]) == 2 and figures["plan_s"]["median"] > 0
    assert set(figures["floors"]) == {"random", "zero"}
    assert "so100_reach" in err and "random" in err
    assert (
        json.loads((work / "report" / "report.json").read_text())["tasks"]["so100_reach"] == figures
    )
    page = (work / "report" / "report.html").read_text()
    assert "<video" in page and 'id="imagined"' in page


@pytest.mark.parametrize("word", ["goals=far", "subgoals=given"])
def test_a_task_without_such_episodes_says_so(work, capsys, word):
    line = refused(capsys, "eval", f"checkpoint={work / 'ckpt'}", word)
    assert word.partition("=")[0] in line and "reach" in line


def test_eval_says_the_same_twice(work, capsys):
    words = ["eval", "experiment=debug", f"checkpoint={work / 'ckpt'}", "split=dev"]
    words += ["num_episodes=2", "env.num_steps=3", "floors=[random,wrong_goal]", "num_videos=0"]
    results = [json.loads(run(capsys, *words)[1].splitlines()[-1]) for _ in range(2)]
    for result in results:
        result["tasks"]["so100_reach"].pop("plan_s")
    assert results[0] == results[1]


@pytest.fixture
def goal(tmp_path):
    path = tmp_path / "goal.png"
    Image.fromarray(np.full((96, 96, 3), 128, np.uint8)).save(path)
    return path


def plan(work, goal, out, *more):
    words = ["plan", "experiment=debug", f"checkpoint={work / 'ckpt'}", f"goal={goal}"]
    return [*words, f"out={out}", "env.num_steps=2", "monitors.allow_novel=true", *more]


def test_plan_runs_to_a_picture_and_leaves_a_video(work, goal, tmp_path, capsys):
    code, out, _ = run(capsys, *plan(work, goal, tmp_path / "a folder, with = signs"))
    assert code == 0
    figures = json.loads(out.splitlines()[-1])
    assert np.isfinite([figures["energy_start"], figures["energy_end"]]).all()
    import av

    with av.open(str(tmp_path / "a folder, with = signs" / "plan.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3 + 5  # and the last one held for a second


def test_bench_rollout_compares_cached_with_recomputed(capsys):
    small = ["grid=[2,2]", "token_dim=8", "predictor.width=24", "predictor.depth=1"]
    small += ["predictor.num_heads=2"]
    code, out, _ = run(capsys, "bench", "rollout", "experiment=debug", *small, "horizons=[1,4]")
    assert code == 0
    result = json.loads(out.splitlines()[-1])
    assert result["max_abs_diff"] < 1e-5 and result["speedup_h4_c2"] > 0
    assert "speedup_h1_c2" in result
    for word in ("horizons=[0]", "horizons=[a]", "horizons=[1.5]", "horizons=[]", "grid=[8]",
                 "grid=[a,b]", "num_candidates=0"):  # fmt: skip
        line = refused(capsys, "bench", "rollout", "experiment=debug", *small, word)
        assert word.split("=")[0].split("_")[-1] in line and "want" in line


def test_bench_planner_compares_what_planners_find(capsys, tmp_path):
    small = ["reference.grid=[1,2]", "reference.token_dim=8", "predictor.width=24"]
    small.append("exploitation=[4,16]")
    small += ["predictor.depth=1", "predictor.num_heads=2", f"out={tmp_path / 'bench'}"]
    code, out, err = run(capsys, "bench", "planner", "experiment=debug", *small)
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["speedup_vs_reference"] > 0 and result["plan_s_median"] > 0
    assert result["sample_efficiency_ci95"][0] <= result["sample_efficiency"]
    whole = json.loads((tmp_path / "bench" / "planners.json").read_text())
    assert len(whole["planners"]) == 9 * 2
    rows = whole["exploitation"]
    assert [row["num_samples"] for row in rows] == [4, 16]
    assert all(np.isfinite([row["gap"], row["random_gap"]]).all() for row in rows)
    assert all(row["regret_mean"] >= 0 and row["gflop"] > 0 for row in whole["planners"])
    assert (
        "quasi_newton" in (tmp_path / "bench" / "planners.svg").read_text()
        or "<svg" in (tmp_path / "bench" / "planners.svg").read_text()
    )
    for word in ("budgets=[4]", "budgets=[]", "num_pairs=0", "planners=[cem,annealing]",
                 "reference.horizon=40"):  # fmt: skip
        line = refused(capsys, "bench", "planner", "experiment=debug", *small, word)
        assert word.split("=")[0].split(".")[-1] in line


def test_plan_refuses_a_goal_unlike_anything_seen(work, goal, tmp_path, capsys):
    words = plan(work, goal, tmp_path / "run", "checkpoint=so100_tabletop", "env.num_steps=1")
    line = refused(capsys, *words, "monitors.allow_novel=false")
    assert str(goal) in line and "unlike the training pictures" in line
    assert "monitors.allow_novel=true" in line and not (tmp_path / "run").exists()
    code, _, err = run(capsys, *words)
    assert code == 0 and "unlike the training pictures" in err


def test_a_plan_says_how_it_ended(work, tmp_path, capsys):
    goal = Path(__file__).parents[1] / "docs" / "images" / "goal.png"
    words = plan(work, goal, tmp_path, "checkpoint=so100_tabletop", "monitors.allow_novel=false")
    for num_steps, kind in ((2, "out of time"), (10, "arrived")):
        code, out, err = run(capsys, *words, f"env.num_steps={num_steps}")
        assert code == 0, err
        figures = json.loads(out.splitlines()[-1])
        assert figures["outcome"]["kind"] == kind
        assert figures["outcome"]["energy"] == figures["energy_end"]
        assert figures["outcome"]["step_energy"] > 0 and kind in err.splitlines()[-1]


def test_a_plan_through_several_goals_moves_on(work, goal, tmp_path, capsys):
    then = f"then=[{goal},{goal}]"
    words = plan(work, goal, tmp_path / "three", then, "controller.timeout_steps=1")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert figures["goals"] == [0, 1, 2, 2, 2, 2] and len(figures["energies"]) == 6
    assert set(figures["decisions"]) <= {"plan", "hold", "arrived", "out of time"}
    assert [outcome["goal"] for outcome in figures["outcomes"]] == [0, 1, 2]
    assert figures["outcome"] == figures["outcomes"][-1]
    assert {outcome["kind"] for outcome in figures["outcomes"]} == {"out of time"}
    assert err.count("out of time") == 3
    never = ["controller.arrival=0", "controller.patience=0"]
    line = refused(capsys, *plan(work, goal, tmp_path / "no", then, *never))
    assert "timeout_steps" in line


def test_limits_and_regions_that_cannot_be_are_named(work, goal, tmp_path, capsys):
    for word, told in (
        ("controller.limits.fixed={elbow: 0.0}", "fixed: got 'elbow', want one of"),
        ("controller.limits.fixed.elbow=0.0", "fixed: got 'elbow', want one of"),
        ("controller.limits.fixed={gripper: far}", "fixed"),
        ("controller.limits.trust_radius=abc", "trust_radius"),
        ("controller.limits.scale=[1,2]", "scale"),
        ("controller.search_budget.precision=int8", "precision"),
        ("objective.region=5", "region"),
        ("objective.token_weights=abc", "token_weights"),
        ("controller.limits.trust_radius=-1", "trust_radius"),
        ("controller.search_budget.keep_share=2", "keep_share"),
        ("controller.execute_steps=9", "execute_steps"),
        ("objective.region=[0,0,1,1]", "no place in the picture"),
        ("objective.region=[0,0]", "region"),
    ):
        assert told in refused(capsys, *plan(work, goal, tmp_path / "no", word))


def test_what_is_known_of_steps_is_written_beside_the_weights(work):
    spec = json.loads((work / "ckpt" / "config.json").read_text())["model"]["spec"]
    assert 0 < spec["step_energy"]["l2"] and 0 < spec["step_energy"]["l1"]


def test_bench_train_says_where_the_time_goes(capsys):
    small = ["grid=[2,2]", "token_dim=8", "predictor.width=24", "predictor.depth=1"]
    small += ["predictor.num_heads=2"]
    code, out, _ = run(capsys, "bench", "train", "experiment=debug", *small)
    assert code == 0
    result = json.loads(out.splitlines()[-1])
    assert result["samples_per_s"] > 0 and 0 < result["matmul_share"] < 2
    for part in ("configured", "shipped"):
        assert sum(result[part]["time_by_kernel"].values()) == pytest.approx(1)
        assert result[part]["time_by_kernel"]["matrix products"] > 0.02


def test_an_unknown_benchmark_is_told(capsys):
    assert "bench rollout, bench planner, bench safety, bench train" in refused(
        capsys, "bench", "rolout"
    )
    assert "bench rollout, bench planner, bench safety, bench train" in refused(capsys, "bench")


TINY = ("encoder.width=16", "encoder.depth=1", "encoder.image_size=32", "batch_size=4")


def pretrain(capsys, work, out, *words):
    words = (*words, f"out={out}", f"cache={work / 'cache'}", *TINY, "train.log_every=2")
    return run(capsys, "pretrain", *words)


def test_pretrain_writes_an_encoder_that_train_takes(work, capsys):
    file = work / "encoder.safetensors"
    code, out, _ = pretrain(
        capsys, work, file, f"data={work / 'data'}", "train.num_steps=4", "seed=7"
    )
    last = json.loads(out.splitlines()[-1])
    assert code == 0 and last["step"] == 4 and last["std"] > 0
    card = (work / "encoder.md").read_text()
    assert "| seed | 7 |" in card and "`acjepa`" in card and "(encoder.svg)" in card
    assert "num_steps: 4" in card and "torch" in card
    assert load_mini(file).fingerprint.weights[:16] in card
    assert "source: data" in card and str(work) not in card  # it travels with the weights
    assert (work / "encoder.svg").read_text().count("<svg") == 1
    log = [json.loads(line) for line in (work / "encoder.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [2, 4]
    assert not (work / "encoder.resume.safetensors").exists()
    words = ["train", "experiment=debug", f"data={work / 'data'}", f"out={work / 'own'}"]
    words += [f"cache={work / 'cache'}", f"encoder.weights={file}"]
    assert run(capsys, *words)[0] == 0
    card = (work / "own" / "card.md").read_text()
    assert "weights: encoder.safetensors" in card and str(work) not in card


def test_pretrain_begins_from_a_file(work, capsys):
    data, steps = f"data={work / 'data'}", "train.num_steps=2"
    first, second = work / "first.safetensors", work / "second.safetensors"
    assert pretrain(capsys, work, first, data, steps, "encoder.num_tokens=2")[0] == 0
    calm = ("train.learning_rate=1e-9", "encoder.num_tokens=3")
    assert pretrain(capsys, work, second, data, steps, *calm, f"init={first}")[0] == 0
    before, after = load_mini(first), load_mini(second)
    assert after.config == before.config  # the file's shape, not the words'
    torch.testing.assert_close(after.registers, before.registers, atol=1e-6, rtol=0)
    card = (work / "second.md").read_text()
    assert before.fingerprint.weights[:16] in card and "num_tokens: 2" in card
    line = refused(
        capsys, "pretrain", data, f"out={work / 'z.safetensors'}", "init=none.safetensors"
    )
    assert "no file none.safetensors" in line


@pytest.mark.parametrize("objective", ["vjepa", "acjepa+ijepa"])
def test_pretrain_renders_its_own_data(work, capsys, objective):
    file = work / f"{objective}.safetensors"
    tokens = 0 if objective == "vjepa" else 4
    code, out, _ = pretrain(
        capsys, work, file, "data=rendered", "data.num_clips=4", "data.num_workers=1",
        "data.play.image_size=32", f"train.objective={objective}", "train.num_steps=2",
        f"encoder.num_tokens={tokens}",
    )  # fmt: skip
    assert code == 0 and "masked" in json.loads(out.splitlines()[-1])
    line = refused(capsys, "train", "data=rendered", f"out={work / 'no'}")
    assert "got 'rendered'" in line


def test_pretraining_on_rendered_clips_needs_neither_lerobot_nor_video(tmp_path):
    """A bare machine with a GPU has neither: scripts/pretrain_gpu.sh."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('av', 'lerobot', 'datasets', 'timm')));"
        "from robot_wm.cli import main; raise SystemExit(main())"
    )
    words = ["pretrain", "data=rendered", "data.num_clips=4", "data.num_workers=1", *TINY]
    words += [f"out={tmp_path / 'e.safetensors'}", f"cache={tmp_path}", "train.num_steps=2"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "e.safetensors").is_file()


def test_pretrain_on_a_folder_of_videos(work, capsys):
    videos = work / "data" / "videos"
    masked = ("train.objective=ijepa", "encoder.num_tokens=0", "train.num_steps=2")
    code, _, err = pretrain(capsys, work, work / "v.safetensors", f"data={videos}", *masked)
    assert code == 0 and "data: 1 videos" in err
    out = f"out={work / 'w.safetensors'}"
    line = refused(capsys, "pretrain", f"data={videos}", out, f"cache={work / 'cache'}")
    assert "objective acjepa: the data has no actions" in line
    for word in ("camera=front", "state=x", "action=pose_delta", "revision=main"):
        line = refused(capsys, "pretrain", f"data={videos}", f"data.{word}", out, *masked)
        assert f"data.{word.partition('=')[0]}" in line
    bad = work / "bad"
    bad.mkdir()
    assert "videos: none in" in refused(capsys, "pretrain", f"data={bad}", out, *masked)
    (bad / "x.mp4").write_bytes(b"no video")
    shutil.copy(next(videos.rglob("*.mp4")), bad)
    line = refused(capsys, "pretrain", f"data={bad}", out, f"cache={work / 'cache'}", *masked)
    assert "1 of 2 do not decode" in line and "x.mp4" in line
    code, _, err = pretrain(
        capsys, work, work / "w.safetensors", f"data={bad}", "data.drop_corrupt=true", *masked
    )
    assert code == 0 and "dropped: x.mp4" in err


def test_pretrain_goes_on_after_a_stop(work, capsys):
    """SIGTERM saves; the same command goes on; another one's file is refused."""
    file = work / "stopped.safetensors"
    words = [f"data={work / 'data'}", f"out={file}", f"cache={work / 'cache'}", *TINY]
    words += ["train.num_steps=100000", "train.log_every=10", "train.precision=float32"]
    command = [sys.executable, "-c", "from robot_wm.cli import main; raise SystemExit(main())"]
    process = subprocess.Popen([*command, "pretrain", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    while "step/s" not in said:  # it trains
        said += process.stderr.read(1)
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0 and "the same command goes on" in rest
    assert (work / "stopped.resume.safetensors").is_file() and not file.exists()
    line = refused(capsys, "pretrain", *words, "train.learning_rate=0.5")
    assert "of another run, by its learning_rate" in line and "delete it to begin anew" in line
    line = refused(capsys, "pretrain", *words, "train.precision=bfloat16")
    assert "of another run, by its precision" in line
    line = refused(capsys, "pretrain", *words, "encoder.depth=2")
    assert "another run, by its data or encoder" in line


COMMAND = [sys.executable, "-c", "from robot_wm.cli import main; raise SystemExit(main())"]


def test_train_goes_on_after_a_stop_and_comes_to_the_same_weights(work, capsys, tmp_path):
    """A second run into the same folder is refused meanwhile, and no checkpoint is replaced."""
    words = ["train", f"data={work / 'data'}", f"cache={work / 'cache'}", "model.batch_size=8"]
    words += ["train.num_steps=400", "train.precision=float32", "device=cpu"]
    assert run(capsys, *words, f"out={tmp_path / 'whole'}")[0] == 0
    out = f"out={tmp_path / 'stopped'}"
    process = subprocess.Popen([*COMMAND, *words, out], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    while "step/s" not in said:  # it trains
        said += process.stderr.read(1)
    process.send_signal(signal.SIGSTOP)
    assert f"process {process.pid}" in refused(capsys, *words, out)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0 and "the same command goes on" in rest
    assert not (tmp_path / "stopped").exists()
    assert "by its seed" in refused(capsys, *words, out, "seed=5")
    save = tmp_path / "stopped.train.safetensors"
    saved = save.read_bytes()
    assert run(capsys, *words, out)[0] == 0
    save.write_bytes(saved)  # as if it had been killed at its very end
    assert run(capsys, *words, out)[0] == 0 and not save.exists()
    files = [tmp_path / name / "weights.safetensors" for name in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
    rows = (tmp_path / "stopped" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 401 and rows[-1].startswith("400,")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]
    assert "overwrite=true" in refused(capsys, *words, out)
    assert run(capsys, *words, out, "overwrite=true", "train.num_steps=2")[0] == 0


def test_two_collections_into_one_folder_leave_the_first_whole(tmp_path, capsys):
    words = ["collect", "num_episodes=8", "num_workers=1", f"out={tmp_path / 'data'}"]
    process = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "data" / "meta" / "info.json").exists():
        assert process.poll() is None
    told = refused(capsys, *words, "seed=3")
    assert f"process {process.pid}" in told
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 0, rest
    dataset = open_dataset(str(tmp_path / "data"))
    assert dataset.num_episodes == 8
    assert "not empty" in refused(capsys, *words)


def test_a_prior_is_trained_beside_the_model_and_proposes(work, capsys, tmp_path):
    """Stopped while the prior trains, the same command goes on and comes to the same prior."""
    words = ["train", "experiment=debug", f"data={work / 'data'}", f"cache={work / 'cache'}"]
    words += ["prior.num_steps=300", "prior.width=16", "prior.depth=1", "device=cpu"]
    assert run(capsys, *words, f"out={tmp_path / 'whole'}")[0] == 0
    out = f"out={tmp_path / 'stopped'}"
    process = subprocess.Popen([*COMMAND, *words, out], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    while "prior: " not in said or "step/s" not in said.partition("prior: ")[2]:
        said += process.stderr.read(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0 and not (tmp_path / "stopped").exists()
    assert (tmp_path / "stopped.prior.safetensors").is_file()
    assert run(capsys, *words, out)[0] == 0
    for name in ("weights.safetensors", "prior.safetensors"):
        files = [tmp_path / run / name for run in ("whole", "stopped")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]
    evaluate = ["eval", "experiment=debug", "num_episodes=2", "num_videos=0", "planner=averaged"]
    evaluate += ["planner.horizon=2", "objective=steps_to_go", "controller.proposals=[policy]"]
    floors = ["policy", "retrieval", "search", "random_weights"]
    evaluate.append(f"floors=[{','.join(floors)}]")
    code, said, _ = run(capsys, *evaluate, f"checkpoint={tmp_path / 'whole'}")
    assert code == 0
    (figures,) = json.loads(said.splitlines()[-1])["tasks"].values()
    assert sorted(figures["floors"]) == sorted(floors)
    assert all(len(floor["ahead_ci95"]) == 2 for floor in figures["floors"].values())
    bare = [f"checkpoint={work / 'ckpt'}", f"out={tmp_path / 'refused'}"]
    assert "no prior" in refused(capsys, *evaluate, *bare)
    plain = ["eval", "experiment=debug", "num_videos=0", *bare]
    assert "no prior" in refused(capsys, *plain, "floors=[zero,policy]")
    assert not (tmp_path / "refused" / "episodes.part.jsonl").exists()  # before any episode
    assert "waypoints" in refused(capsys, *plain, "subgoals=found")


def test_kills_do_not_change_what_a_training_comes_to(capsys):
    code, out, err = run(capsys, "bench", "resume", "experiment=debug", "num_steps=60")
    assert code == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert figures["kills"] == 2 and figures["trainings"] >= 2
    assert figures["resume_mismatches"] == figures["unreadable_checkpoints"] == 0


def test_pretrain_refuses_before_it_trains(work, capsys):
    data, out = f"data={work / 'data'}", f"out={work / 'x.safetensors'}"
    line = refused(capsys, "pretrain", data, out, "encoder.image_size=100")
    assert "patch_size: got 16, want a divisor of image_size=100" in line
    assert "objective" in refused(capsys, "pretrain", data, out, "train.objective=mae")
    assert "ends in .safetensors" in refused(capsys, "pretrain", data, f"out={work / 'x'}")
    line = refused(capsys, "pretrain", data, out, "encoder.num_tokens=0")
    assert "num_tokens is 0" in line
    line = refused(capsys, "pretrain", data, out, "encoder.num_tokens=1", "encoder.dim=2")
    assert "1 tokens of 2, want at least 4 numbers" in line


@pytest.mark.parametrize("word", ["augment=1.5", "augment=nan", "save_every_s=nan"])
def test_pretrain_refuses_before_it_renders(word, tmp_path, capsys):
    words = ["data=rendered", f"out={tmp_path / 'x.safetensors'}", f"cache={tmp_path / 'cache'}"]
    assert word.partition("=")[0] in refused(capsys, "pretrain", *words, word)
    assert not (tmp_path / "cache").exists()


def test_debug_renders_few_clips():
    data = load_command("pretrain", ["data=rendered", "out=x", "experiment=debug"]).data
    assert data.num_clips <= 20 and data.num_workers == 1


def test_a_collapse_is_told_in_one_line(work, capsys):
    code, _, err = pretrain(
        capsys, work, work / "c.safetensors", f"data={work / 'data'}", "encoder.num_tokens=0",
        "train.objective=ijepa", "train.num_steps=500", "train.ema=0",
        "train.variance_weight=0", "train.covariance_weight=0", "train.log_every=20",
    )  # fmt: skip
    assert code == 1 and "the encoder has collapsed" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_probe_tells_what_an_encoder_knows(work, capsys, tmp_path):
    data = tmp_path / "data"  # enough of it to fit 64 numbers
    assert run(capsys, "collect", "experiment=debug", "num_episodes=12", f"out={data}")[0] == 0
    words = ["probe", f"data={data}", f"cache={work / 'cache'}", "holdout=0.5"]
    code, out, err = run(capsys, *words)
    found = json.loads(out.splitlines()[-1])
    assert code == 0
    quantities = {"ee_x", "ee_y", "ee_z", "gripper", "cube_x", "cube_y", "cube_yaw"}
    assert set(found["r2"]) == quantities and set(found["mm"]) == quantities - {"cube_yaw"}
    assert {"all", "near"} <= set(found["rank_correlation"])
    assert set(found["baselines"]) == {"random", "pixels", "pixels_pca"}
    for name in ("ee_x", "ee_y", "ee_z"):
        assert found["r2"][name] > found["baselines"]["random"]["r2"][name]
    for name in ("mini", "random", "pixels", "pixels_pca", "rank, all"):
        assert name in err
    code, out, err = run(capsys, *words, "encoder=random", "encoder.seed=5")
    other = json.loads(out.splitlines()[-1])
    assert "random (probed)" in err and "\nrandom  " in err
    assert other["r2"] != other["baselines"]["random"]["r2"]
    code, out, _ = run(capsys, *words, "encoder=pixels", "baselines=false")
    assert code == 0 and json.loads(out.splitlines()[-1])["baselines"] == {}
    assert "want 2 at least, and 2 left" in refused(capsys, *words[:-1], "holdout=0.1")


def test_unknown_words_are_named_with_what_is_allowed(work, capsys):
    assert "'evla'" in refused(capsys, "evla")
    ckpt = f"checkpoint={work / 'ckpt'}"
    line = refused(capsys, "eval", ckpt, "planer=cem")
    assert "'planer'" in line and "did you mean 'planner'" in line and "num_episodes" in line
    line = refused(capsys, "eval", ckpt, "planner=cma")
    assert "planner" in line and "cem" in line
    line = refused(capsys, "eval", ckpt, "planner.num_sampels=3")
    assert "num_sampels" in line
    line = refused(capsys, "train", "data=x", "out=y", "train.num_step=3")
    assert "did you mean 'num_steps'" in line
    assert "key=value" in refused(capsys, "eval", "checkpoint")
    assert "want a whole number" in refused(capsys, "eval", ckpt, "num_episodes=many")
    assert "checkpoint=..." in refused(capsys, "eval")
    assert "data=..." in refused(capsys, "train", "out=x")
    assert "experiment" in refused(capsys, "eval", ckpt, "experiment=nothing")
    assert "allowed in planner: horizon" in refused(capsys, "eval", ckpt, "planner.num_sampels=3")
    for name, why in (
        ("os.system", "os.system"),
        ("nowhere.Planner", "nowhere"),
        ("robot_wm.planners.nothing", "nothing"),
        ("pathlib.Path", "without horizon"),
    ):
        assert why in refused(capsys, "eval", ckpt, f"planner._target_={name}")
    assert "'controller._target_'" in refused(capsys, "eval", ckpt, "controller._target_=os.system")


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("split=tset", "dev"),
        ("split=-1", "split"),
        ("num_episodes=0", "num_episodes"),
        ("num_episodes=101", "has 100"),
        ("seed=-1", "seed"),
        ("floors=random", "a list"),
        ("floors=[expert]", "random or zero"),
        ("env.simulator=null", "env.simulator"),
        ("checkpoint=null", "checkpoint"),
        ("env.num_steps=0", "env.num_steps"),
        ("env.simulator.control_hz=7", "control_hz"),
        ("env.simulator.control_hz=10", "imagines steps"),
        ("planner.horizon=50", "planner.horizon"),
        ("planner.num_elites=500", "num_elites"),
        ("objective.distance=cosine", "l1"),
    ],
)
def test_values_that_cannot_be_are_refused_before_the_work(work, capsys, word, why):
    assert why in refused(capsys, "eval", f"checkpoint={work / 'ckpt'}", word)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("model.rollout_steps=6", "rollout_steps"),
        ("model.held_out_horizon=0", "held_out_horizon"),
        ("model.held_out_horizon=40", "longest"),
        ("model.holdout=1.5", "holdout"),
        ("predictor.num_heads=0", "num_heads: got 0"),
        ("predictor.width=130", "multiple"),
        ("train.learning_rate=0", "learning_rate"),
        ("data.action=recorded", "proprio"),
        ("data.dt_s=0.3", "dt_s"),
        ("encoder.weights=nowhere.safetensors", "nowhere"),
        ("device=tpu0", "device: got 'tpu0'"),
    ],
)
def test_training_that_cannot_be_is_refused_before_the_work(work, capsys, tmp_path, word, why):
    words = ["train", f"data={work / 'data'}", f"out={tmp_path / 'out'}", word]
    assert why in refused(capsys, *words, f"cache={work / 'cache'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "word", "why"),
    [
        ("latent", "family_settings.width=16", "predictor.KEY"),
        ("other", "predictor.width=96", "family_settings.KEY"),
    ],
)
def test_settings_of_another_family_are_refused(capsys, tmp_path, monkeypatch, family, word, why):
    families = {"latent": LATENT, "other": replace(LATENT, name="other")}
    monkeypatch.setattr("robot_wm.models.families._FAMILIES", families)
    words = ["train", "data=nowhere", f"out={tmp_path / 'out'}", f"family={family}", word]
    assert why in refused(capsys, *words)


def test_a_training_that_diverges_says_so_and_leaves_nothing(work, capsys, tmp_path):
    words = ["train", "experiment=debug", f"data={work / 'data'}", f"out={tmp_path / 'out'}"]
    code, _, err = run(capsys, *words, f"cache={work / 'cache'}", "train.learning_rate=1e30")
    assert code == 1 and "finite" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_the_demo_runs_through(capsys, tmp_path):
    out = tmp_path / "demo"
    for _ in range(2):  # a second demo takes the place of the first
        code, text, err = run(capsys, "demo", "experiment=debug", f"out={out}")
        assert code == 0
    assert "[1/5]" in err and "min left" in err and "report.html" in err
    assert "so100_reach" in json.loads(text.splitlines()[-1])["tasks"]
    assert {"report.html", "report.json", "data", "checkpoint"} <= {p.name for p in out.iterdir()}


def test_a_missing_dataset_leaves_nothing_behind(capsys, tmp_path):
    words = ["train", f"data={tmp_path / 'nowhere'}", f"out={tmp_path / 'out'}"]
    line = refused(capsys, *words, f"cache={tmp_path / 'cache'}")
    assert "nowhere" in line
    assert list(tmp_path.iterdir()) == []


def test_a_missing_camera_lists_those_there(work, capsys, tmp_path):
    words = ["train", f"data={work / 'data'}", "data.camera=wrist", f"out={tmp_path / 'out'}"]
    line = refused(capsys, *words, f"cache={tmp_path / 'cache'}")
    assert "wrist" in line and "observation.images.front" in line
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_robot_is_refused(work, capsys, tmp_path):
    import dataclasses

    from robot_wm.types import ActionSpec

    model, _ = load_checkpoint(work / "ckpt")
    names = ("a", "b", "c", "d")
    other = ActionSpec(names, -np.ones(4), np.ones(4), ("rad",) * 4)
    model.spec = dataclasses.replace(model.spec, action_spec=other)
    save_checkpoint(model, tmp_path / "other")
    line = refused(capsys, "eval", f"checkpoint={tmp_path / 'other'}", f"out={tmp_path / 'out'}")
    assert "a, b, c, d" in line and "ee.x" in line
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_none_is_refused(capsys, tmp_path):
    line = refused(capsys, "eval", f"checkpoint={tmp_path}")
    assert "not a checkpoint directory" in line
    (tmp_path / "model.pt").write_bytes(b"PK")
    line = refused(capsys, "eval", f"checkpoint={tmp_path / 'model.pt'}")
    assert f"robot-wm convert checkpoint={tmp_path / 'model.pt'} out=DIR" in line


def test_a_public_encoder_trains_and_plans(work, goal, capsys, tmp_path):
    """The video model with random weights, a block deep, its tokens pooled."""
    words = ["encoder=vjepa2_vitl", "encoder.pretrained=false", "encoder.num_blocks=1"]
    words += ["encoder.image_size=64", "encoder.pool=2", "model.features=layer_norm"]
    words += ["predictor.conditioning=adaln", "model.proprio=none", "train.num_steps=2"]
    code, _, err = run(
        capsys, "train", "experiment=debug", f"data={work / 'data'}", f"out={tmp_path / 'c'}",
        f"cache={tmp_path / 'cache'}", *words,
    )  # fmt: skip
    assert code == 0 and "encoder 4 x 1024" in err, err
    words = plan(work, goal, tmp_path / "plan", f"checkpoint={tmp_path / 'c'}")
    code, out, err = run(capsys, *words)
    assert code == 0 and (tmp_path / "plan" / "plan.mp4").exists(), err


def test_public_weights_out_of_reach_are_explained(work, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("robot_wm.encoders.hub.PLACE", str(tmp_path / "place"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    line = refused(
        capsys, "train", f"data={work / 'data'}", f"out={tmp_path / 'c'}", "encoder=ijepa_vith"
    )
    assert "https://huggingface.co/facebook/ijepa_vith14_1k/resolve/" in line
    assert str(tmp_path / "place" / "ijepa_vith.safetensors") in line
    assert not (tmp_path / "c").exists()


def test_goal_pictures_that_do_not_fit_are_refused(work, capsys, tmp_path):
    out = tmp_path / "out"
    wide = tmp_path / "wide.png"
    Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(wide)
    assert "128x64" in refused(capsys, *plan(work, wide, out))
    text = tmp_path / "goal.txt"
    text.write_text("not a picture")
    assert "not a picture" in refused(capsys, *plan(work, text, out))
    cut = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    assert "not a picture" in refused(capsys, *plan(work, cut, out))
    assert "no file" in refused(capsys, *plan(work, tmp_path / "none.png", out))
    assert not out.exists()


def test_output_folders_with_other_things_are_left_alone(work, capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert refused(capsys, "collect", "experiment=debug", f"out={tmp_path}")
    words = ["train", "experiment=debug", f"data={work / 'data'}", f"out={tmp_path}"]
    assert "something else" in refused(capsys, *words, f"cache={work / 'cache'}")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_demo_does_not_clear_a_folder_of_someone_elses(capsys, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    assert "something else" in refused(capsys, "demo", "experiment=debug", f"out={tmp_path}")
    assert (tmp_path / "data" / "thesis.tex").exists()


@pytest.mark.parametrize("command", ["eval", "plan", "train", "collect"])
def test_an_out_that_is_a_file_is_refused_before_the_work(work, goal, capsys, tmp_path, command):
    file = tmp_path / "file"
    file.touch()
    words = {
        "eval": [f"checkpoint={work / 'ckpt'}"],
        "plan": [f"checkpoint={work / 'ckpt'}", f"goal={goal}"],
        "train": [f"data={work / 'data'}"],
        "collect": [],
    }[command]
    assert "is a file" in refused(capsys, command, *words, f"out={file / 'deeper'}")


def test_a_phone_picture_is_turned_upright(tmp_path):
    from robot_wm.deployment.pictures import read_picture

    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").shape == (20, 10, 3)


def test_choices_are_few_files():
    """Everything else is said by the types."""
    assert 0 < len(list(config_dir().rglob("*.yaml"))) <= 20


def test_pipeline_from_pictures_to_motion_in_a_fresh_process(work, goal, tmp_path):
    """Dataset, a few training steps, checkpoint; then plan where the dataset is gone."""
    lonely = tmp_path / "ckpt"
    shutil.copytree(work / "ckpt", lonely)
    words = plan(work, goal, tmp_path / "run", f"checkpoint={lonely}")
    script = "import sys; from robot_wm.cli import main; sys.exit(main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "energy_end" in json.loads(result.stdout.splitlines()[-1])
    assert (tmp_path / "run" / "plan.mp4").exists()


@pytest.mark.parametrize(
    "word",
    [
        "objective.token_weights={_target_: os.mkdir, _args_: [PWNED]}",
        "objective.token_weights=[{_target_: os.mkdir, path: PWNED}]",
        "robot.config={a: {_target_: os.mkdir, path: PWNED}}",
        "planner={_target_: os.mkdir, path: PWNED}",
        "planner._target_=os.mkdir",
    ],
)
def test_settings_run_nothing(word, tmp_path, monkeypatch):
    """What a value names is imported at most, and made only where a part of one's own stands."""
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(UserError):
        load_command("deploy", ["checkpoint=x", "goal=y", "robot=lerobot", word])
    assert not (tmp_path / "PWNED").exists()


def test_an_evaluation_that_is_stopped_goes_on_after_the_episodes_that_are_done(
    work, tmp_path, capsys, monkeypatch
):
    words = ["eval", "experiment=debug", f"checkpoint={work / 'ckpt'}", "num_episodes=4"]
    words += ["num_videos=0", "env.num_steps=2", f"out={tmp_path / 'out'}"]
    code, out, _ = run(capsys, *words, f"out={tmp_path / 'whole'}")
    assert code == 0
    whole = json.loads(out.splitlines()[-1])["tasks"]["so100_reach"]
    done, one = [], evaluate.evaluate

    def counted(*args, **more):
        done.append(args)
        return one(*args, **more)

    def interrupted(*args, **more):
        if len(done) == 3:
            raise KeyboardInterrupt
        return counted(*args, **more)

    monkeypatch.setattr(evaluate, "evaluate", interrupted)
    code, out, _ = run(capsys, *words)
    assert code == 130 and json.loads(out.splitlines()[-1])["stopped_after"] == 3
    assert len((tmp_path / "out" / "episodes.part.jsonl").read_text().splitlines()) == 1 + 3
    with open(tmp_path / "out" / "episodes.part.jsonl", "a") as file:
        file.write('{"method":"model","result":{"se')  # killed in the middle of a line
    done.clear()
    monkeypatch.setattr(evaluate, "evaluate", counted)
    code, out, err = run(capsys, *words)
    assert code == 0 and "going on after 3 episodes" in err
    assert len(done) == 1 + 4 + 4  # the floors
    again = json.loads(out.splitlines()[-1])["tasks"]["so100_reach"]
    del whole["plan_s"], again["plan_s"]
    assert again == whole
    assert not (tmp_path / "out" / "episodes.part.jsonl").exists()
    assert len((tmp_path / "out" / "episodes.jsonl").read_text().splitlines()) == 1 + 12
