"""Pushing and carrying: episodes of every list, who judges them, and the expert that does both."""

import itertools
import json
from typing import get_args

import msgspec
import numpy as np
import pytest

from robot_wm.contracts import check_controller, check_task
from robot_wm.data import open_dataset
from robot_wm.deployment.parts import Part
from robot_wm.deployment.settings import ENVS
from robot_wm.deployment.simulation import build_simulation
from robot_wm.robots import make_arm
from robot_wm.types import Observation, UserError
from robot_wm.workflows.collect import CollectSettings, collect
from sim_envs.manifest import MANIFESTS
from sim_envs.move import AWAY, PARKED, Goals, MoveTask
from sim_envs.move_demonstrator import MoveDemonstrator
from sim_envs.placing import is_reached
from sim_envs.state import Displacement
from sim_envs.subgoals import via
from sim_envs.tabletop import Tabletop

TASKS = {"push": "so100_push", "carry": "so100_pick_place"}


def simulation(way, goals="on", *, governed=False):
    env = ENVS[TASKS[way]]
    return build_simulation(
        msgspec.structs.replace(
            env,
            task=Part(env.task.name, goals=goals),
            simulator=Part("tabletop", image_size=16, detail_m=0.003),
            governed=governed,
        )
    )


@pytest.fixture(scope="module", params=TASKS)
def way(request):
    return request.param


@pytest.fixture(scope="module")
def tasks():
    made = {}

    def get(way, goals="on"):
        if (way, goals) not in made:
            made[way, goals] = simulation(way, goals)
        return made[way, goals]

    yield get
    for one in made.values():
        one.env.close()


def demonstrate(task, episode, num_steps, **settings):
    """Runs the expert without pictures; the judgement at its best and at its end."""
    task.start(episode)
    expert = MoveDemonstrator(task, num_steps=num_steps, **settings)
    expert.reset([])
    reached = False
    for _ in range(num_steps):
        action = expert.act(Observation({}, task.env.proprio(), 0.0), None).action
        task.env.apply(action)
        reached |= task.judge().success
    return reached


@pytest.mark.parametrize("goals", ["on", "around", "moved"])
def test_it_is_a_task(way, goals):
    def make():
        return simulation(way, goals).task

    check_task(make)


@pytest.mark.parametrize("goals", get_args(Goals))
def test_episodes_are_what_their_list_says(tasks, way, goals):
    task = tasks(way, goals).task
    shortest, longest = {"far": (0.16, 0.24), "around": (0.12, 0.2)}.get(goals, (0.08, 0.2))
    for seed in range(30):
        episode = task.episode(seed)
        assert json.loads(json.dumps(episode)) == episode == task.episode(seed)
        apart = np.linalg.norm(np.subtract(episode["cube"], episode["goal"])[:2])
        assert shortest - 1e-4 <= apart <= longest + 1e-4
        arm = np.abs(episode["arm"])
        low, high = np.abs(AWAY if goals == "away" else PARKED)
        assert (arm[[0, 2, 3]] >= low[[0, 2, 3]] - 1e-4).all()
        assert (arm <= np.maximum(low, high) + 1e-4).all()
        task.start(episode)
        assert not task.judge().success


def test_the_lists_that_are_judged_are_fixed(tasks, way):
    for goals in get_args(Goals):
        one = tasks(way, goals)
        path = MANIFESTS / f"{one.name}_test_v1.json"
        assert path.is_file(), path
        listed = one.episodes("test", 100)
        assert listed[7] == one.task.episode(9_000_007)
        robot = one.robot
        for episode in listed:
            poses = [np.array(episode[name]) for name in ("start", "arm")]
            assert all(is_reached(robot, pose) for pose in poses), episode["seed"]


def test_the_expert_does_it(tasks, way):
    one = tasks(way)
    reached = [
        demonstrate(one.task, one.task.episode(seed), one.num_steps) for seed in range(600, 620)
    ]
    assert sum(reached) >= 19


def test_the_expert_keeps_the_contract_of_a_controller(way):
    one = simulation(way)
    goal = one.task.start(one.task.episode(3))
    check_controller(one.demonstrator, one.env, goal)


def test_the_expert_parks_and_goes_on(tasks):
    one = tasks("push")
    one.task.start(one.task.episode(5))
    expert = MoveDemonstrator(one.task, num_steps=90, noise_m=0.0, miss_share=0.0, park_share=1.0)
    expert.reset([])
    first = one.task.object_goal
    places, heights = [], []
    for _ in range(90):
        obs = Observation({}, one.env.proprio(), 0.0)
        one.env.apply(expert.act(obs, None).action)
        places.append(one.env.object_pose("cube")[:2])
        heights.append(one.env.proprio()[2])
    moved = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert not np.array_equal(first, one.task.object_goal)  # it went on to one of its own
    assert one.task.judge().success
    assert max(heights) > 0.1 and 10 < (moved > 0.003).sum() < 60


def test_a_cube_in_the_gripper_is_not_put_down(tasks):
    one = tasks("carry")
    env, task = one.env, one.task
    assert demonstrate(task, task.episode(601), one.num_steps, noise_m=0.0, miss_share=0.0)
    task.start(task.episode(601))
    expert = MoveDemonstrator(task, noise_m=0.0, miss_share=0.0)
    expert.reset([])
    held = 0
    for _ in range(one.num_steps):
        env.apply(expert.act(Observation({}, env.proprio(), 0.0), None).action)
        judgement = task.judge()
        if env.is_touched("cube") and judgement.measures["distance"].reached:
            assert not judgement.success
            held += 1
    assert held


def test_a_hand_moves_the_cube_once_and_no_oracle_foresees_it(tasks):
    one = tasks("push", "moved")
    env, task = one.env, one.task
    episode = task.episode(0)
    step, *by = episode["displaced"]
    assert 0.04 - 1e-4 <= np.linalg.norm(by) <= 0.06 + 1e-4
    task.start(episode)
    still = np.zeros((1, step + 3, 4))
    assert np.ptp(task.simulate(still)) < 1e-3
    places = []
    for _ in range(step + 3):
        env.apply(np.zeros(4))
        places.append(env.object_pose("cube")[:2])
    jumps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert (jumps > 0.03).sum() == 1 and jumps.argmax() == step - 1


def test_a_hand_does_not_put_the_cube_into_the_gripper():
    one = simulation("push")
    env = one.env
    env.place(np.array([0.25, 0.0, 0.03, 0.0]), {"cube": np.array([0.2, 0.0, 0.0])})
    env.displacement = Displacement("cube", 0, np.array([0.05, 0.0]))
    env.apply(np.zeros(4))
    assert env.object_pose("cube")[0] < 0.2 and env.proprio()[2] < 0.04


def test_a_hand_moves_the_cube_as_far_at_the_table_s_edge():
    env = simulation("push").env
    env.place(np.array([0.2, 0.0, 0.15, 0.0]), {"cube": np.array([0.29, 0.14, 0.0])})
    before = env.object_pose("cube")[:2]
    env.displacement = Displacement("cube", 0, np.array([0.05, 0.01]))
    env.apply(np.zeros(4))
    moved = np.linalg.norm(env.object_pose("cube")[:2] - before)
    assert moved == pytest.approx(np.hypot(0.05, 0.01), abs=2e-3)


def test_an_oracle_sees_the_disc_even_where_the_cube_is_done(tasks, way):
    task = tasks(way, "around").task
    episode = task.episode(1)
    task.start({**episode, "cube": [*episode["disc"], 0.0]})
    task.judge()  # in the disc
    task.env.place_object("cube", np.array(episode["goal"]))
    assert task.judge().measures["distance"].value < 1e-3 and task.judge().cost >= 1
    assert not task.judge().success


def test_turned_axes_turn_what_is_done_and_not_what_is_told(tasks):
    env = tasks("push", "turned30").env
    env.place(np.array([0.22, 0.0, 0.15, 0.0]), {"cube": np.array([0.28, -0.1, 0.0])})
    env.turn(np.radians(30))
    before = env.proprio()
    told = env.apply(np.array([0.03, 0.0, 0.0, 0.0]))
    done = env.proprio() - before
    env.turn(0.0)
    assert told[:2] == pytest.approx([0.03, 0.0], abs=2e-3)
    assert np.degrees(np.arctan2(done[1], done[0])) == pytest.approx(30, abs=5)


def test_another_cube_stands_on_the_table_and_slides_farther(tasks):
    env = tasks("push").env
    away = np.array([0.2, 0.12, 0.15, 0.0])

    def slide(**changes):
        env.change_object("cube", **changes)
        env.place(away, {"cube": np.array([0.22, -0.08, 0.0])})
        height = env.object_pose("cube")[2]
        env.physics.data.joint("cube/").qvel[:2] = 0.0, 0.6
        for _ in range(4):
            env.apply(np.zeros(4))
        return height, env.object_pose("cube")[1] + 0.08

    height, way = slide()
    small, _ = slide(half_size_m=0.01)
    large, _ = slide(half_size_m=0.02)
    assert (small, height, large) == pytest.approx((0.01, 0.015, 0.02), abs=1e-3)
    assert slide(friction=0.25)[1] > 2 * way > 0.01
    assert slide()[1] == pytest.approx(way, abs=1e-3)


def test_what_moves_must_be_one_object():
    with pytest.raises(UserError, match="objects"):
        MoveTask(Tabletop(make_arm("so100"), objects=(), image_size=16))


def test_one_dataset_holds_several_tasks_each_as_long_as_it_takes(tmp_path):
    out = tmp_path / "data"
    collect(
        CollectSettings(
            out=str(out),
            env=ENVS["so100_push"],
            also=("so100_reach", "so100_pick_place"),
            num_episodes=6,
            num_workers=1,
        )
    )
    data = open_dataset(out)
    words = [ENVS[name].instruction for name in ("so100_push", "so100_reach", "so100_pick_place")]
    assert [data.episode(i).task for i in range(6)] == 2 * words
    lengths = [data.num_rows(i) for i in range(6)]
    assert lengths[1] == lengths[4] == 21
    # An expert that is done parks the arm, as for a picture, and then ends the episode.
    assert min(lengths) > 20 and max(lengths[::3]) <= 41 and max(lengths[2::3]) < 61
    moves = [data.episode(i) for i in (0, 2, 3, 5)]
    assert np.median([move.columns["observation.state"][-1][2] for move in moves]) > 0.09
    with pytest.raises(UserError, match="jaco_reach is of"):
        collect(CollectSettings(out=str(tmp_path / "other"), also=("jaco_reach",)))
    with pytest.raises(UserError, match="also"):
        collect(CollectSettings(out=str(tmp_path / "other"), also=("so100_fly",)))
    assert not (tmp_path / "other").exists()


def test_a_way_in_two_legs_stays_out_of_the_disc(tasks, way):
    task = tasks(way, "around").task
    for seed in range(40):
        episode = task.episode(seed)
        cube, goal, disc = (np.array(episode[key])[:2] for key in ("cube", "goal", "disc"))
        place = via(cube, goal, disc)
        legs = np.concatenate([np.linspace(cube, place, 50), np.linspace(place, goal, 50)])
        assert np.linalg.norm(legs - disc, axis=1).min() > 0.037
        assert ((place > (0.17, -0.14)) & (place < (0.31, 0.14))).all()


def test_pictures_of_subgoals_come_before_the_goal(way):
    one = simulation(way)
    usual = one.task
    task = MoveTask(one.env, way=way, subgoals=True)
    check_task(lambda: MoveTask(simulation(way).env, way=way, subgoals=True))
    episode = usual.episode(4)
    (goal,) = usual.start(episode)
    start = one.env.observe()
    *subgoals, last = task.start(episode)
    assert len(subgoals) == {"push": 1, "carry": 2}[way]
    assert np.array_equal(last.images["front"], goal.images["front"])
    assert np.array_equal(one.env.observe().images["front"], start.images["front"])
    shown = [picture.images["front"].astype(int) for picture in (*subgoals, last)]
    assert all(np.abs(np.subtract(a, b)).max() > 30 for a, b in itertools.pairwise(shown))
    one.env.close()
