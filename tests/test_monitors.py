"""What deploy checks: pictures, cameras, predictions, progress, by the shipped model."""

import shutil

import numpy as np
import pytest
import torch
from test_loop import Tape

from robot_wm.checkpoint import CheckpointError, add_to_checkpoint, find_checkpoint, load_checkpoint
from robot_wm.cli.config import load_command
from robot_wm.cli.main import main
from robot_wm.deployment.control import make_controller
from robot_wm.deployment.novelty import check_views
from robot_wm.deployment.pictures import taken_by
from robot_wm.deployment.simulation import build_simulation
from robot_wm.monitors import (
    FILE,
    MonitorError,
    MonitorGuard,
    Monitors,
    MonitorSettings,
    ReferenceStatistics,
    load_reference,
)
from robot_wm.runtime import GuardError, run_episode
from robot_wm.types import Decision, Observation, PlanningError
from robot_wm.workflows.record_goal import save_goal


@pytest.fixture(scope="module")
def shipped():
    directory = find_checkpoint("so100_tabletop")
    model, _ = load_checkpoint(directory)
    return model, load_reference(directory, model.info)


@pytest.fixture(scope="module")
def simulation():
    simulation = build_simulation(load_command("eval", ["checkpoint=so100_tabletop"]).env)
    yield simulation
    simulation.env.close()


def monitors(shipped, **settings):
    model, reference = shipped
    return Monitors(
        reference, MonitorSettings(**settings), step_energy=model.spec.step_energy["l2"]
    )


def drive(shipped, simulation, goal, env=None, **settings):
    """One run under guard; its steps."""
    model, _ = shipped
    controller = make_controller(model, simulation.env, load_command("eval", ["checkpoint=x"]))
    guard = MonitorGuard(monitors(shipped, **settings), ["front"], simulation.env.joints)
    tape = Tape()
    run_episode(
        env or simulation.env,
        controller,
        goal,
        num_steps=simulation.num_steps,
        guards=[guard],
        recorders=[tape],
    )
    return tape.steps


class Liar:
    """An arm that says it did what was asked, and did a part of it."""

    def __init__(self, env, share):
        self._env, self._share = env, share
        self.action_spec, self.control_dt = env.action_spec, env.control_dt
        self.num_applied = 0

    def observe(self):
        return self._env.observe()

    def apply(self, action):
        self._env.apply(action * self._share)
        self.num_applied += 1
        return action

    def stop(self):
        self._env.stop()


def test_nothing_is_said_of_a_run_that_goes_well(shipped, simulation):
    seen = []
    for episode in simulation.episodes("dev", 3):
        goal = simulation.task.start(episode)
        now = simulation.env.observe().images
        assert check_views(monitors(shipped), shipped[0], now, {"goal": goal.images}) == []
        steps = drive(shipped, simulation, goal)
        assert "p_value" not in steps[0].numbers
        seen += [step.numbers["p_value"] for step in steps[1:]]
    values = seen
    assert len(values) == 3 * (simulation.num_steps - 1)
    assert np.mean(np.array(values) < 0.05) < 0.2


def test_an_arm_that_does_not_do_as_it_says_is_stopped_within_four_decisions(shipped, simulation):
    goal = simulation.task.start(simulation.episodes("dev", 1)[0])
    liar = Liar(simulation.env, 0.0)
    with pytest.raises(GuardError, match="not what it imagined, 3 times in a row"):
        drive(shipped, simulation, goal, liar)
    assert liar.num_applied <= 3


def test_progress_is_missed_where_prediction_errors_are_not_watched(shipped, simulation):
    goal = simulation.task.start(simulation.episodes("dev", 1)[0])
    with pytest.raises(GuardError, match="no progress: 6 plans predicted"):
        drive(shipped, simulation, goal, Liar(simulation.env, 0.0), large_errors=99)


@pytest.mark.parametrize("what", ["mirrored", "upside down", "BGR", "dark", "noise", "white"])
def test_a_picture_that_no_demonstration_shows_is_told(shipped, simulation, what):
    simulation.env.reset(0)
    image = simulation.env.observe().images["front"]
    noise = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
    strange = {
        "mirrored": image[:, ::-1],
        "upside down": image[::-1],
        "BGR": image[..., ::-1],
        "dark": image // 2,
        "noise": noise,
        "white": np.clip(image.astype(int) // 64 + 250, 0, 255).astype(np.uint8),
    }[what]
    strange = np.ascontiguousarray(strange)
    found = check_views(
        monitors(shipped, novelty_ratio=1.4),
        shipped[0],
        {"front": image},
        {what: {"front": strange}},
    )
    assert len(found) == 1 and what in found[0] and "unlike the training pictures" in found[0]


def test_swapped_black_and_frozen_cameras_are_told(shipped, simulation):
    simulation.env.reset(0)
    image = simulation.env.observe().images["front"]
    wrist = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
    found = check_views(monitors(shipped), shipped[0], {"front": wrist, "wrist": image}, {})
    assert "unlike the training pictures" in found[0] and "are they swapped?" in found[1]
    found = check_views(monitors(shipped), shipped[0], {"front": image, "wrist": image // 64}, {})
    assert len(found) == 1 and found[0].startswith("camera wrist shows nothing")
    judge = monitors(shipped)
    judge.camera("front", image, np.zeros(6))
    judge.camera("front", image, np.full(6, 0.01))
    judge.camera("front", image + 1, np.full(6, 0.5))
    with pytest.raises(MonitorError, match="camera front is frozen"):
        judge.camera("front", image + 1, np.full(6, 0.6))
    judge = monitors(shipped)
    with pytest.raises(MonitorError, match="camera front is frozen"):
        for angle in (0.0, 0.02, 0.04):  # small steps add up
            judge.camera("front", image, np.full(6, angle))


def test_p_values_count_from_the_far_end():
    own = {name: torch.ones((2, 3)) for name in ("bank", "thumbnails")}
    distances = torch.linspace(0.01, 1, 99)
    names = ("novelty", "thumbnail_novelty", "prediction_errors")
    reference = ReferenceStatistics(**own, **{name: distances.clone() for name in names})
    assert reference.p_value(2.0) == pytest.approx(0.01)
    assert reference.p_value(0.0) == 1.0
    assert reference.p_value(0.505) == pytest.approx(0.5, abs=0.02)
    assert reference.p_value(float("nan")) == 0.0
    again = ReferenceStatistics.from_bytes(reference.to_bytes())
    assert torch.equal(again.prediction_errors, reference.prediction_errors) and torch.equal(
        again.thumbnails, reference.thumbnails
    )


def test_what_ships_is_not_looked_at_anew(capsys):
    assert main(["monitors", "checkpoint=so100_tabletop", "data=anywhere"]) == 2
    assert "ships with robot_wm" in capsys.readouterr().err


def test_a_file_that_would_take_anything_for_familiar_is_told(shipped):
    own = {**vars(shipped[1]), "thumbnail_novelty": torch.zeros(3)}
    with pytest.raises(ValueError, match="thumbnail_novelty ends at 0"):
        ReferenceStatistics(**own)


@pytest.mark.parametrize("damage", [b"", b"no", b"\x00" * 64])
def test_a_damaged_file_is_told(damage):
    with pytest.raises(ValueError, match=FILE):
        ReferenceStatistics.from_bytes(damage)


def test_another_model_s_file_is_told(shipped):
    model, reference = shipped
    other = ReferenceStatistics(**{**vars(reference), "bank": reference.bank[:, :5]})
    with pytest.raises(ValueError, match="bank of 5 numbers, want 64"):
        other.check(model.info)


@pytest.mark.parametrize(
    "own",
    [
        {"novelty_ratio": 0},
        {"prediction_error_p": -1},
        {"prediction_error_p": 5.0},
        {"large_errors": True},
        {"large_errors": 2.5},
        {"novelty_ratio": "x"},
    ],
)
def test_settings_that_make_no_sense_are_refused(own):
    with pytest.raises(ValueError, match=next(iter(own))):
        MonitorSettings(**own)


def test_a_file_is_added_to_a_checkpoint_and_checked_with_it(tmp_path, shipped):
    directory = tmp_path / "ckpt"
    shutil.copytree(find_checkpoint("so100_tabletop"), directory)
    add_to_checkpoint(directory, FILE, shipped[1].to_bytes())
    load_checkpoint(directory)
    (directory / FILE).write_bytes(b"changed")
    with pytest.raises(CheckpointError, match="changed or damaged"):
        load_checkpoint(directory)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        add_to_checkpoint(tmp_path, FILE, b"")


def test_goal_pictures_are_recorded_and_know_their_camera(tmp_path, capsys):
    out = tmp_path / "goals" / "goal.png"
    words = ["record-goal", "confirm=false", "checkpoint=so100_tabletop", f"out={out}"]
    assert main([*words, "num_pictures=2"]) == 0
    paths = sorted(out.parent.iterdir())
    assert [path.name for path in paths] == ["goal-1.png", "goal-2.png"]
    assert taken_by(paths[0]) == "front"
    told = capsys.readouterr().err
    assert "times as far from the training pictures" in told
    for more, message in (
        (["num_pictures=2"], "is there already"),
        (["num_pictures=0"], "num_pictures: got 0"),
        (["camera=wrist"], "camera: got 'wrist', want one of front"),
        (["out=goal.jpg"], "want a .png"),
        (["confirm=true"], "nobody at a terminal"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err


def test_a_goal_of_another_camera_or_of_another_world_is_refused(tmp_path, capsys):
    rng = np.random.default_rng(0)
    save_goal(tmp_path / "wrist.png", rng.integers(0, 256, (128, 128, 3), np.uint8), "wrist")
    save_goal(tmp_path / "odd.png", rng.integers(0, 256, (128, 128, 3), np.uint8), "front")
    words = ["deploy", "checkpoint=so100_tabletop", "confirm=false", f"out={tmp_path / 'out'}"]
    for name, told in (("wrist", "was taken by camera 'wrist'"), ("odd", "unlike the training")):
        assert main([*words, f"goal={tmp_path / name}.png"]) == 2
        assert told in capsys.readouterr().err


def test_an_imagined_latent_that_is_not_finite_is_a_fault():
    def diverge(action):
        raise PlanningError("the energy of a latent is not finite")

    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    obs = Observation({"front": image}, np.zeros(2), 0.0)
    decision = Decision(np.zeros(2), "plan", energy=1.0, predict=diverge)
    watched = Monitors(None, MonitorSettings(), step_energy=None)
    guard = MonitorGuard(watched, ["front"], lambda: np.zeros(2))
    assert guard.check(obs, decision, None).kind == "go on"
    assert guard.check(obs, decision, np.zeros(2)).kind == "fault"
