"""What an encoder is pretrained on: looks that move nothing, clips that a seed decides."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

from robot_wm.deployment.parts import Part
from robot_wm.deployment.robots import build_arm
from robot_wm.deployment.settings import LimitSettings
from robot_wm.robots import so100
from robot_wm.types import UserError
from robot_wm.workflows.rendering import RenderedSettings, render_clips
from sim_envs.factors import Factor
from sim_envs.meshes import coarsen, triangles
from sim_envs.play import Play
from sim_envs.reach import ReachTask
from sim_envs.tabletop import Tabletop


@pytest.fixture(scope="module")
def dressed():
    env = Tabletop(so100(), image_size=48, random_appearance=True)
    yield env
    env.close()


@pytest.fixture(scope="module")
def play():
    play = Play(so100(), image_size=48)
    yield play
    play.close()


def picture(env):
    return env.observe().images["front"].astype(int)


def test_a_look_is_drawn_from_its_seed_and_undone(dressed):
    dressed.randomize_appearance(None)
    plain = picture(dressed)
    dressed.randomize_appearance(1)
    first = picture(dressed)
    dressed.randomize_appearance(2)
    second = picture(dressed)
    dressed.randomize_appearance(1)
    np.testing.assert_array_equal(picture(dressed), first)
    dressed.randomize_appearance(None)
    np.testing.assert_array_equal(picture(dressed), plain)
    assert min(abs(a - b).mean() for a, b in ((plain, first), (first, second))) > 10


def test_a_look_changes_nothing_that_moves(dressed):
    plain = Tabletop(so100(), image_size=48)
    moves = np.random.default_rng(0).uniform(-0.04, 0.04, (4, 4))
    paths = []
    for env in (plain, dressed):
        env.reset(5)
        for i, move in enumerate(moves):
            env.randomize_appearance(i)
            env.apply(move)
        paths.append((env.proprio(), env.object_pose("cube")))
    plain.close()
    np.testing.assert_allclose(paths[0][0], paths[1][0], atol=1e-9)
    np.testing.assert_allclose(paths[0][1], paths[1][1], atol=1e-9)


def test_the_own_look_of_a_dressed_env_is_the_plain_scene(dressed):
    plain = Tabletop(so100(), image_size=48)
    plain.reset(3)
    dressed.reset(3)
    dressed.randomize_appearance(None)
    assert abs(picture(plain) - picture(dressed)).mean() < 0.5
    plain.close()


def test_an_episode_has_one_look_in_goal_and_start(dressed):
    """Goal picture and observation differ by the arm alone: their corners are alike."""
    task = ReachTask(dressed)
    corners = []
    for seed in (1, 2, 3):
        goal = task.start(task.episode(seed)).images["front"].astype(int)
        now = picture(dressed)
        assert abs(goal[:8, :8] - now[:8, :8]).max() <= 1
        corners.append(now[:8, :8].mean((0, 1)))
    assert np.ptp(corners, axis=0).max() > 10  # and another in the next episode


def test_a_clip_is_decided_by_its_seed(play):
    frames, actions = play.clip((0, 7), 3)
    assert frames.shape == (3, 48, 48, 3) and frames.dtype == np.uint8
    assert actions.shape == (2, 7)
    play.clip((0, 8), 2)
    again, same = play.clip((0, 7), 3)
    np.testing.assert_array_equal(frames, again)
    np.testing.assert_array_equal(actions, same)
    other, _ = play.clip((1, 7), 3)
    assert (other != frames).any()


def test_clips_move_arm_and_object_and_say_so(play):
    actions = np.concatenate([play.clip((2, i), 4)[1] for i in range(12)])
    assert (abs(actions[:, :3]) < 0.06).all() and (actions[:, :4].std(0) > 0.005).all()
    still = (abs(actions[:, 4:]) < 1e-3).all(1).mean()
    assert 0.05 < still < 0.7 and (actions[:, 4:].std(0) > 0.005).all()


@pytest.mark.parametrize(
    ("share", "rises", "with_tool"),
    [
        ("object_share", False, False),
        ("flying_share", True, False),
        ("held_share", True, True),
        ("pushed_share", False, False),
    ],
)
def test_an_object_slides_flies_is_held_or_pushed(share, rises, with_tool):
    only = {"object_share": 0.0, "flying_share": 0.0, "held_share": 0.0, "pushed_share": 0.0}
    limits = LimitSettings(
        workspace_low=(0.15, -0.16, 0.016, 0.0), workspace_high=(0.33, 0.16, 0.19, 0.08)
    )
    play = Play(
        build_arm("so100", limits),
        image_size=16, release_share=0.0, **{**only, share: 1.0},
    )  # fmt: skip
    moved = np.concatenate([play.clip((0, i), 4)[1] for i in range(12)])
    play.close()
    tool, cube = moved[:, :3], moved[:, 4:]
    assert (abs(cube[:, :2]).max(1) > 2e-3).mean() > (0.3 if share == "pushed_share" else 0.7)
    assert (abs(cube[:, 2]).max() > 0.01) == rises
    assert (np.median(np.linalg.norm(cube - tool, axis=1)) < 5e-3) == with_tool


def test_an_object_that_is_not_grasped_does_not_follow_the_gripper(monkeypatch):
    play = Play(so100(), image_size=16, object_share=0.0, flying_share=0.0, held_share=1.0,
                pushed_share=0.0)  # fmt: skip
    monkeypatch.setattr("sim_envs.play._NUM_CLOSING", 0)
    moved = np.concatenate([play.clip((0, i), 3)[1] for i in range(3)])
    play.close()
    assert abs(moved[:, :3]).max() > 0.005 and abs(moved[:, 6]).max() < 0.005


def test_shares_of_clips_add_up_to_one_at_most():
    with pytest.raises(UserError, match="their sum is"):
        Play(so100(), object_share=0.6, held_share=0.6)


def test_looks_change_within_a_clip_as_often_as_asked():
    for share, alike in ((0.0, True), (1.0, False)):
        play = Play(so100(), image_size=48, new_appearance_share=share, own_appearance_share=0.0)
        frames, _ = play.clip((0, 3), 3)
        corners = frames[:, :6, :6].astype(int)
        assert (abs(corners[1:] - corners[:-1]).mean() < 2) == alike
        play.close()
    with pytest.raises(ValueError, match="new_appearance_share: got 2"):
        Play(so100(), new_appearance_share=2.0)


def test_coarser_meshes_look_the_same_and_are_smaller():
    (base,) = (mesh for name, mesh in so100().assets.items() if name.startswith("Base-"))
    coarse = coarsen(base, 0.003)
    assert coarsen(base, 5.0) == base
    assert 50 < len(triangles(coarse)) < 0.6 * len(triangles(base))
    for corner in (np.min, np.max):
        np.testing.assert_allclose(
            corner(triangles(coarse), axis=(0, 1)), corner(triangles(base), axis=(0, 1)), atol=0.003
        )
    fine, rough = Tabletop(so100(), image_size=64), Tabletop(so100(), image_size=64, detail_m=0.003)
    assert abs(picture(fine) - picture(rough)).mean() < 1.5
    fine.close()
    rough.close()


def rendered(tmp_path, **changes):
    seed = changes.pop("seed", 0)
    settings = RenderedSettings(
        **{"num_clips": 5, "num_workers": 1, "play": Part("play", image_size=40), **changes}
    )
    return render_clips(settings, 2, (32, 32), tmp_path, seed=seed)


def test_rendered_clips_do_not_depend_on_who_renders(tmp_path, monkeypatch):
    monkeypatch.setattr("robot_wm.workflows.rendering._PER_TASK", 2)
    alone = rendered(tmp_path / "alone")
    assert alone.frames.shape == (5, 2, 32, 32, 3) and alone.actions.shape == (5, 1, 7)
    assert alone.frames.reshape(5, -1).std(1).min() > 5
    monkeypatch.undo()  # the processes of the other call would not have it
    together = rendered(tmp_path / "together", num_workers=2)
    np.testing.assert_array_equal(alone.frames, together.frames)
    np.testing.assert_array_equal(alone.actions, together.actions)
    assert rendered(tmp_path / "other", seed=1).key != alone.key


def test_workers_end_with_a_parent_that_is_killed():
    work = "import time; print('up', flush=True); time.sleep(600)"
    code = (
        "from robot_wm.workflows.workers import map_in_order\n"
        f"list(map_in_order(exec, [{work!r}] * 2, num_workers=2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == [b"up\n"] * 2
    parent.kill()
    parent.communicate(timeout=30)  # returns when nobody holds the pipe any more


def test_an_interrupted_rendering_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("robot_wm.workflows.rendering._PER_TASK", 2)
    whole = rendered(tmp_path)
    expected = np.array(whole.frames)
    (part,) = tmp_path.glob("rendered-*/actions_2.npy")
    part.unlink()
    seen = []

    def spy(*args):
        seen.append(args[-1])
        return original(*args)

    from robot_wm.workflows import rendering

    original = rendering._render
    monkeypatch.setattr(rendering, "_render", spy)
    again = rendered(tmp_path)
    assert seen == [2]
    np.testing.assert_array_equal(again.frames, expected)
    np.testing.assert_array_equal(again.actions, whole.actions)


def varied(*factors, seed=3, env=None):
    env = env or Tabletop(so100(), image_size=48, vary=factors)
    env.reset(seed)
    return env


@pytest.mark.parametrize("factor", get_args(Factor))
def test_a_factor_changes_what_it_says_and_nothing_else(factor):
    plain, env = varied(), varied(factor)
    seen = factor in ("light", "colours", "camera", "distractor", "size")
    one, other = (each.observe().images["front"].astype(int) for each in (plain, env))
    assert (np.abs(one - other).max() > 8) == seen
    move = np.array([0.02, 0.01, -0.01, 0.0])
    for each in (plain, env):
        each.apply(move)
    apart = np.abs(plain.proprio() - env.proprio()).max()
    assert (apart > 5e-4) == (factor == "noise")
    old = np.abs(env.observe().proprio - env.proprio()).max()
    assert (old > 2e-4) == (factor == "latency")
    again = varied(factor)
    again.apply(move)
    assert np.array_equal(again.observe().images["front"], env.observe().images["front"])
    assert np.array_equal(again.proprio(), env.proprio())


@pytest.mark.parametrize("factor", get_args(Factor))
def test_what_is_tried_on_the_simulator_changes_nothing(factor):
    env = varied(factor)
    task = ReachTask(env)
    task.start(task.episode(1))
    moves = np.full((2, 2, 4), 0.01)
    first = task.simulate(moves)
    assert np.array_equal(task.simulate(moves), first)
    before = env.snapshot()
    env.apply(moves[0, 0])
    tried = env.proprio()
    env.restore(before)
    task.look_ahead(moves)
    env.apply(moves[0, 0])
    assert np.array_equal(env.proprio(), tried)


def test_a_factor_is_the_same_whatever_else_varies():
    one, both = (Tabletop(so100(), image_size=16, vary=f) for f in (("size",), ("light", "size")))
    for seed in (3, 4):
        for env in (one, both):
            env.reset(seed)
        assert np.array_equal(one.physics.model.geom("cube/cube").size,
                              both.physics.model.geom("cube/cube").size)  # fmt: skip
    both.randomize_appearance(None)
    built = Tabletop(so100(), image_size=16).physics.model
    for what in ("geom_size", "geom_friction", "body_mass", "body_inertia"):
        for name in ("cube/cube",) if what.startswith("geom") else ("cube/",):
            of = what.partition("_")
            got, want = (getattr(getattr(m, of[0])(name), of[2]) for m in
                         (both.physics.model, built))  # fmt: skip
            np.testing.assert_allclose(got, want, err_msg=what)


def test_a_cube_of_another_size_is_seen_under_every_appearance(dressed):
    for half_size_m in (0.01, 0.02):
        dressed.change_object("cube", half_size_m=half_size_m)
        for seed in (None, 1):
            dressed.randomize_appearance(seed)
            assert dressed.physics.model.geom("cube/cube").size[0] == half_size_m
    dressed.change_object("cube")


def test_factors_of_the_body_vary_by_a_share_of_their_range():
    env, sizes = Tabletop(so100(), image_size=16, vary=("size",), vary_share=0.5), []
    for seed in range(12):
        env.reset(seed)
        sizes.append(env.physics.model.geom("cube/cube").size[0])
    assert 0.0125 <= min(sizes) < 0.0135 and 0.0165 < max(sizes) <= 0.0175
    with pytest.raises(UserError, match="vary_share"):
        Tabletop(so100(), image_size=16, vary=("size",), vary_share=3.0)


def test_factors_of_the_body_are_drawn_for_every_episode():
    env = Tabletop(so100(), image_size=16, vary=("size", "mass", "friction"))
    model, drawn = env.physics.model, []
    for seed in range(12):
        env.reset(seed)
        geom = model.geom("cube/cube")
        density = model.body("cube/").mass[0] / np.prod(2 * geom.size)
        drawn.append((geom.size[0], density, geom.friction[0]))
    size, density, friction = np.array(drawn).T
    assert 0.01 <= size.min() < 0.013 and 0.017 < size.max() <= 0.02
    usual = 0.03 / 0.03**3
    assert usual / 2 <= density.min() < 0.8 * usual and 1.3 * usual < density.max() <= 2 * usual
    assert 0.4 <= friction.min() < 0.6 and 0.8 < friction.max() <= 1.0
    with pytest.raises(UserError, match="vary"):
        Tabletop(so100(), image_size=16, vary=("smell",))
    with pytest.raises(UserError, match="vary"):
        Tabletop(so100(), image_size=16, vary=("light",), random_appearance=True)
