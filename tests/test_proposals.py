"""The prior: what it proposes, how far it takes a goal to be, and what it refuses to load."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import types

import numpy as np
import pytest
import torch
from fakes import SPEC, PointEnv, make_model
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from test_loop import PointModel, ahead

from robot_wm.contracts import check_objective
from robot_wm.controller import MPC
from robot_wm.data import EncodedEpisodes, HindsightSampler, ImaginedGoals
from robot_wm.deployment.control import make_controller, make_objective, make_proposals
from robot_wm.deployment.parts import Part
from robot_wm.deployment.planning import ControllerSettings, PlanningSettings
from robot_wm.objectives import GoalEnergy
from robot_wm.planners import CEM, Averaged, Space, shift
from robot_wm.proposals import (
    FILE,
    Features,
    Prior,
    PriorShape,
    Proposals,
    Situation,
    Waypoints,
    densest,
    load_prior,
)
from robot_wm.training import PriorConfig, PriorTraining, check_prior_data, imagine_goals
from robot_wm.types import Futures, Plan, PlanningError, UserError

STEP = 0.05


def walks(num_episodes=60, num_frames=16, slow=1.0):
    """Walks to a goal, straight and in steps of 5 cm, and then a stay; tokens tell the place.

    Every other is a stroll, which may be slower.
    """
    rng, mix = np.random.default_rng(0), np.random.default_rng(1).normal(size=(2, 12))
    proprio, actions, tokens = [], [], []
    for i in range(num_episodes):
        step = STEP * (1.0, slow)[i % 2]
        place, goal = rng.uniform(0.1, 0.9, (2, 2))
        path = [place]
        for _ in range(num_frames - 1):
            way = goal - path[-1]
            path.append(path[-1] + way * min(1, step / max(np.linalg.norm(way), 1e-9)))
        proprio.append(np.array(path, np.float32))
        actions.append(np.diff(path, axis=0).astype(np.float32))
        tokens.append((3 * np.sin(np.array(path) @ mix)).reshape(-1, 2, 6).astype(np.float32))
    tasks = [types.SimpleNamespace(task=("walk", "stroll")[i % 2]) for i in range(num_episodes)]
    data = types.SimpleNamespace(
        lengths=(num_frames,) * num_episodes,
        proprio=proprio,
        actions=actions,
        episodes=range(num_episodes),
        spec=types.SimpleNamespace(action="state_delta"),
        dataset=types.SimpleNamespace(episode=lambda i: tasks[i]),
    )
    return data, tokens, mix


def training(num_steps=800, slow=1.0, **changes):
    data, tokens, _ = walks(slow=slow)
    # The model has learned nothing, and can imagine nothing.
    own = {"num_steps": num_steps, "batch_size": 256, "width": 96, "depth": 2, "imagined_share": 0}
    config = PriorConfig(**{**own, **changes})
    return PriorTraining(make_model(), data, tokens, range(60), config)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def prior():
    run = training(1500)
    for _ in run.steps():
        pass
    return run.prior


def situation(place, goal):
    _, _, mix = walks(1)
    tokens = [
        torch.tensor(3 * np.sin(np.array(p) @ mix), dtype=torch.float32) for p in (place, goal)
    ]
    state = torch.tensor(place, dtype=torch.float32)
    return Situation(tokens[0].view(2, 6), tokens[1].view(2, 6), state)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


WAYS = [((0.3, 0.3), (0.7, 0.3)), ((0.7, 0.6), (0.3, 0.5)), ((0.5, 0.2), (0.5, 0.8))]


@pytest.mark.parametrize(("place", "goal"), WAYS)
def test_the_policy_goes_to_the_goal_as_the_demonstrations_do(prior, place, goal):
    actions = prior.proposer("policy").propose(situation(place, goal), 64, generator())
    assert actions.shape == (64, prior.shape.chunk, 2)
    step = actions.mean(0)[0].numpy()
    way = np.subtract(goal, place) / np.linalg.norm(np.subtract(goal, place))
    assert step @ way == pytest.approx(STEP, rel=0.4)
    assert np.linalg.norm(step - (step @ way) * way) < 0.3 * STEP


def test_the_policy_stays_where_the_goal_is(prior):
    actions = prior.proposer("policy").propose(situation((0.4, 0.6), (0.4, 0.6)), 64, generator())
    assert actions.mean(0).norm(dim=1).max() < 0.3 * STEP


def test_retrieval_knows_what_was_done_on_such_a_way(prior):
    for place, goal in WAYS:
        actions = prior.proposer("retrieval").propose(situation(place, goal), 5, generator())
        way = np.subtract(goal, place) / np.linalg.norm(np.subtract(goal, place))
        assert actions.shape == (5, prior.shape.chunk, 2)
        assert float(actions[0, 0] @ torch.tensor(way).float()) > 0.5 * STEP


def test_a_goal_that_is_far_away_is_reached_over_frames_of_the_demonstrations(prior):
    data, _, _ = walks()
    way, places = Waypoints(prior.demonstrations, prior.distance), np.concatenate(data.proprio)
    for start, goal in (((0.15, 0.2), (0.85, 0.8)), ((0.85, 0.25), (0.2, 0.8))):
        told, place, passed = situation(start, goal), np.array(start), []
        end = prior.features(told.goal)
        while not torch.equal(point := way(prior.features(told.latent), end), end):
            (row,) = (prior.demonstrations.features.float() == point).all(1).nonzero()[:1, 0]
            passed.append(place := places[row])  # what `fit` keeps is in the order of the walks
            told = situation(place, goal)
            assert len(passed) < 10
        legs = [start, *passed, goal]
        lengths = [math.dist(a, b) for a, b in itertools.pairwise(legs)]
        assert passed and max(lengths) < 12 * STEP  # of 18
        assert sum(lengths) < 1.3 * math.dist(start, goal)


def test_a_goal_that_is_near_or_that_no_way_leads_to_is_its_own_waypoint(prior):
    way = Waypoints(prior.demonstrations, prior.distance)
    told = situation((0.4, 0.5), (0.5, 0.5))
    near = prior.features(told.goal)
    assert torch.equal(way(prior.features(told.latent), near), near)
    nowhere = torch.full_like(near, 30.0)
    assert torch.equal(way(prior.features(told.latent), nowhere), nowhere)


def test_ways_lead_over_demonstrations_of_the_task_alone(prior):
    place = situation((0.15, 0.2), (0.85, 0.8))
    tasks = prior.demonstrations.tasks
    for number in (0, 1):
        way = Waypoints(prior.demonstrations, prior.distance, number)
        point = way(prior.features(place.latent), prior.features(place.goal))
        row = (prior.demonstrations.features.float() == point).all(1).nonzero()[0, 0]
        assert tasks[row] == number
    empty = training(2, max_frames=0).prior
    with pytest.raises(UserError, match="keeps no demonstration"):
        empty.proposer("policy", waypoints=True)


def test_no_policy_proposes_more_actions_than_the_model_imagines():
    longest = make_model().info.longest_horizon
    run = training(1, chunk=longest + 3)
    assert run.prior.shape.chunk == longest
    actions = run.prior.proposer("policy").propose(situation(*WAYS[0]), 4, generator())
    assert actions.shape == (4, longest, 2)


def test_absolute_actions_are_not_taken_for_changes_of_the_state():
    data, tokens, _ = walks()
    data.spec.action = "recorded"
    small = {"num_steps": 3, "batch_size": 16, "width": 16, "depth": 1}
    priors = []
    for share in (0.0, 0.5):
        config = PriorConfig(**small, imagined_share=share)
        run = PriorTraining(make_model(), data, tokens, range(60), config)
        for _ in run.steps():
            pass
        priors.append(run.prior.to_bytes())
    assert priors[0] == priors[1]  # nothing was imagined


def test_data_that_no_prior_can_be_trained_on_is_refused_before_the_work():
    data, _, _ = walks()
    check_prior_data(data, range(60))
    data.lengths = (2,) * 60
    with pytest.raises(UserError, match="three frames"):
        check_prior_data(data, range(60))
    many = [types.SimpleNamespace(task=str(i)) for i in range(5000)]
    data.lengths, data.episodes, data.dataset.episode = (9,) * 5000, range(5000), many.__getitem__
    with pytest.raises(UserError, match="5000 tasks"):
        check_prior_data(data, range(5000))


def test_a_batch_in_which_no_distance_is_to_be_learned_has_a_loss():
    rows = list(training(30, batch_size=1).steps())
    assert all(math.isfinite(row["loss"]) for row in rows)


def test_it_acts_as_the_task_that_is_named():
    run = training(600, slow=0.3)
    for _ in run.steps():
        pass
    told = situation((0.4, 0.5), (0.6, 0.5))
    for name, num in (("policy", 64), ("retrieval", 1)):
        lengths = {
            task: float(
                run.prior.proposer(name, task).propose(told, num, generator())[:, 0, 0].mean()
            )
            for task in ("walk", "stroll", None)
        }
        assert lengths["walk"] > 2 * lengths["stroll"]
        assert lengths["stroll"] - 0.01 < lengths[None] < lengths["walk"] + 0.01
    with pytest.raises(UserError, match="stroll, walk"):
        run.prior.proposer("policy", "fly")


def test_the_distance_counts_steps(prior):
    rng = np.random.default_rng(5)
    places, goals = rng.uniform(0.2, 0.8, (2, 200, 2))
    found = []
    for place, goal in zip(places, goals, strict=True):
        told = situation(place, goal)
        found.append(float(prior.steps(told.latent, told.goal)))
        assert float(prior.steps(told.goal, told.goal)) == 0
    steps = np.linalg.norm(goals - places, axis=1) / STEP
    assert spearmanr(found, steps).statistic > 0.9
    assert np.median(np.abs(found - steps)) < 2


def test_the_distance_is_an_objective(prior):
    part = Part("steps_to_go")
    make = make_objective(make_model(), part, prior)
    check_objective(make, num_tokens=2, dim=6, action_size=2)
    with pytest.raises(UserError, match="no prior"):
        make_objective(make_model(), part)


def test_a_stopped_training_comes_to_the_same_prior(tmp_path):
    whole = training(40)
    for _ in whole.steps():
        pass
    first = training(40)
    for row in first.steps():
        if row["step"] == 17:
            break
    first.loop.save(tmp_path / "save", about={})
    second = training(40)
    second.loop.resume(tmp_path / "save", about={})
    for _ in second.steps():
        pass
    for name, value in whole.prior.state_dict().items():
        assert torch.equal(value, second.prior.state_dict()[name]), name


def test_goals_in_hindsight_are_of_the_same_episode_and_end_the_actions():
    lengths = (4, 30, 9)
    numbers = [np.arange(n - 1, dtype=np.float32)[:, None] + 1 + 100 * i for i, n in
               enumerate(lengths)]  # fmt: skip
    rows = [torch.zeros(n, 1) for n in lengths]
    states = [np.zeros((n, 1)) for n in lengths]
    episodes = EncodedEpisodes.join(rows, states, numbers, [0, 1, 0], np.zeros(1))
    sampler = HindsightSampler(
        episodes, chunk=5, farthest=7, stay_share=0.1, batch_size=500, seed=0
    )
    batch = sampler.batch(3)
    again = sampler.batch(3)
    assert torch.equal(batch.rows, again.rows) and not torch.equal(
        batch.rows, sampler.batch(4).rows
    )
    away = batch.goals - batch.rows
    assert away.min() == 0 and away.max() == 7
    assert torch.equal(episodes.ends[batch.goals], episodes.ends[batch.rows])
    for row, steps, actions, weights in zip(
        batch.rows, away, batch.actions[..., 0], batch.weights, strict=True
    ):
        wanted = [float(episodes.actions[row + i, 0]) if i < steps else 0.0 for i in range(5)]
        assert actions.tolist() == wanted
        assert (weights[:steps] == 1).all()
        assert steps == 0 or (weights[steps:] < 1).all()
    with pytest.raises(UserError, match="three frames"):
        short = EncodedEpisodes.join([torch.zeros(2, 1)], [np.zeros((2, 1))], [np.zeros((1, 1))],
                                     [0], np.zeros(1))  # fmt: skip
        HindsightSampler(short, chunk=5, farthest=7, stay_share=0.1, batch_size=5, seed=0)


class Exact:
    """A model of the walks that is never wrong: whoever moves is there."""

    def __init__(self):
        self.info = make_model().info
        _, _, self.mix = walks(1)
        self.parameters = make_model().parameters

    def initial(self):
        return None

    def observe(self, state, obs, applied):
        return obs.tokens, obs.proprio

    def latent(self, state):
        return state[0]

    def rollout(self, state, actions, generator=None, *, select=None):
        places = state[1][:, None] + actions.cumsum(1)
        return Futures((3 * (places @ torch.tensor(self.mix).float()).sin()).unflatten(2, (2, 6)))


def test_goals_are_imagined_with_the_robot_where_its_actions_lead():
    data, tokens, mix = walks()
    prior, horizon = (
        Prior(make_model().info, PriorShape(width=8)),
        make_model().info.longest_horizon,
    )
    goals = imagine_goals(Exact(), prior, data, tokens, range(60), seed=0)  # type: ignore[arg-type]
    states = np.concatenate(data.proprio)
    ends = states + goals.actions.numpy() * goals.num_steps[:, None].numpy()
    assert np.allclose(goals.features.numpy(), 3 * np.sin(ends @ mix), atol=1e-4)
    assert (np.abs(goals.actions.numpy()) <= 0.1 + 1e-6).all()  # each a legal action
    assert goals.num_steps.min() >= 1 and goals.num_steps.max() <= horizon
    low, high = states.min(0), states.max(0)
    assert ((ends > low - 0.01) & (ends < high + 0.01)).all()
    assert (ends.std(0) > 0.2 * (high - low)).all()  # everywhere


def test_the_actions_toward_an_imagined_goal_go_on_as_imagined():
    rows = [torch.zeros(30, 1)]
    numbers = np.arange(29, dtype=np.float32)[:, None] + 1
    episodes = EncodedEpisodes.join(rows, [np.zeros((30, 1))], [numbers], [0], np.zeros(1))
    imagined = ImaginedGoals(torch.zeros(30, 1), torch.full((30, 1), 0.5), torch.full((30,), 2))
    sampler = HindsightSampler(
        episodes, chunk=6, farthest=7, stay_share=0.1, batch_size=400, seed=0, imagined=imagined
    )
    batch = sampler.batch(0)
    assert 0.3 < batch.imagined.float().mean() < 0.6
    for row, goal, moved, actions, weights in zip(
        batch.rows, batch.goals, batch.imagined, batch.actions[..., 0], batch.weights, strict=True
    ):
        wanted = [float(row) + 1 + i for i in range(goal - row)] + [0.5, 0.5] * moved
        wanted = (wanted + [0.0] * 6)[:6]
        assert actions.tolist() == wanted
        told = min(6, int(goal - row) + 2 * int(moved))
        assert (weights[:told] == 1).all() and (goal == row or (weights[told:] < 1).all())


def test_a_prior_is_saved_and_loaded(prior, tmp_path):
    info = make_model().info
    assert load_prior(tmp_path, info) is None
    (tmp_path / FILE).write_bytes(prior.to_bytes())
    loaded = load_prior(tmp_path, info)
    assert loaded is not None and not any(p.requires_grad for p in loaded.parameters())
    told = situation(*WAYS[0])
    for name in ("policy", "retrieval"):
        one, other = (p.proposer(name).propose(told, 7, generator()) for p in (prior, loaded))
        assert torch.equal(one, other)
    assert torch.equal(prior.steps(told.latent, told.goal), loaded.steps(told.latent, told.goal))


def test_files_that_are_no_prior_of_the_model_are_refused(prior, tmp_path):
    info, path = make_model().info, tmp_path / FILE
    path.write_bytes(prior.to_bytes())
    tensors = load_file(path)
    shape = {**json.loads(msg(path)["shape"])}

    def check(name, values, **shapes):
        save_file(values, path, metadata={"shape": json.dumps({**shape, **shapes})})
        with pytest.raises(UserError, match=name):
            load_prior(tmp_path, info)

    check("width", tensors, width=10**9)
    check("size mismatch", tensors, width=4096, depth=2)
    check("Missing", {k: v for k, v in tensors.items() if k != "policy.rest"})
    check("not finite", {**tensors, "policy.unit": torch.full((2,), torch.nan)})
    ends = tensors["demonstrations.ends"]
    check("ends is out of range", {**tensors, "demonstrations.ends": ends + 10**6})
    check("tasks is out of range", {**tensors, "demonstrations.tasks": ends + 2})
    check("size mismatch", tensors, num_frames=2**20)
    other = dataclasses.replace(info, grid=(1, 1, 3))
    path.write_bytes(prior.to_bytes())
    with pytest.raises(UserError, match="size mismatch"):
        load_prior(tmp_path, other)
    for content in (b"", prior.to_bytes()[:1000], b"x" * 5000):
        path.write_bytes(content)
        with pytest.raises(UserError):
            load_prior(tmp_path, info)


def msg(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


def test_the_features_of_a_large_map_are_its_regions():
    features = Features((2, 16, 16), 3)
    assert features.size == 2 * 16 * 3
    latents = torch.zeros(5, 512, 3)
    latents[:, 256 + 4 * 16 + 15] = 1.0  # of the second view: row 4, last column
    pooled = features.pool(latents).view(5, 2, 3, 4, 4)
    assert (pooled[:, 0] == 0).all() and (pooled[:, 1, :, 1, 3] == 1 / 16).all()
    assert pooled.sum() == 5 * 3 / 16
    assert torch.equal(features.pool(latents[0]), features.pool(latents)[0])


def test_the_densest_is_of_the_larger_group_and_not_between():
    rng = torch.Generator().manual_seed(0)
    left = -1 + 0.1 * torch.randn((9, 8, 2), generator=rng)
    right = 1 + 0.1 * torch.randn((7, 8, 2), generator=rng)
    assert densest(torch.cat((right, left))) >= 7
    assert densest(torch.ones(3, 2, 2)) == 0


def test_a_commitment_keeps_to_the_smaller_group_that_the_last_plan_was_of():
    rng = torch.Generator().manual_seed(0)
    left = -1 + 0.1 * torch.randn((9, 8, 2), generator=rng)
    right = 1 + 0.1 * torch.randn((7, 8, 2), generator=rng)
    both, last = torch.cat((right, left)), torch.ones(8, 2)
    assert densest(both, last, 0.5 * 16) < 7
    assert densest(both, last, 0.0) >= 7
    assert densest(both, -last, 0.5 * 16) >= 7


def test_an_average_without_proposals_keeps_trying():
    spec, place, plan = SPEC, np.zeros(SPEC.size), None
    goal = torch.full((SPEC.size,), 3.0)
    noise, lengths = generator(), []
    for _ in range(12):
        here = torch.tensor(place, dtype=torch.float32)
        plan = Averaged(horizon=4).plan(
            lambda actions: (here + actions.sum(1) - goal).square().sum(1),  # noqa: B023
            spec,
            init=None if plan is None else shift(plan, 1),
            generator=noise,
        )
        place = place + plan.actions[0]
        lengths.append(np.linalg.norm(plan.actions[0]))
    assert min(lengths[4:]) > 0.2 * max(lengths) > 0


def test_an_average_stays_within_the_better_of_two_ways():
    """What the mean of all would do, go between the ways, costs most."""
    rng = torch.Generator().manual_seed(0)
    ways = torch.cat(
        [x + 0.01 * torch.randn((32, 8, 2), generator=rng) for x in (-0.05, 0.05)]
    ).numpy()

    def cost(actions):
        x = actions[:, 0, 0]
        return torch.where(x.abs() < 0.02, 100.0, (x - 0.045).abs())

    init = Plan(ways[0], 0.0, elites=ways)
    plan = Averaged().plan(cost, SPEC, init=init, generator=generator())
    assert 0.03 < plan.actions[0, 0] < 0.07
    assert plan.cost < float(cost(torch.tensor(ways[:1])))
    # Colder, it is nearer to the best; hotter, to the middle of its way.
    cold = Averaged(temperature=0.01).plan(cost, SPEC, init=init, generator=generator())
    assert cold.cost < plan.cost


class Around:
    """Proposes one action again and again, and noise."""

    def __init__(self, action):
        self.action, self.told = torch.tensor(action), []

    def propose(self, situation, num, generator):
        self.told.append(situation)
        noise = 0.01 * torch.randn((num, 4, 2), generator=generator)
        return torch.cat((self.action.expand(1, 4, 2), self.action + noise[1:]))


def mpc(proposer, planner=None, *, margin=0.0, **settings):
    proposals = Proposals((proposer,), 16, **settings)
    planner = planner or Averaged(horizon=3)
    return MPC(PointModel(), planner, GoalEnergy, SPEC, margin=margin, proposals=proposals)


def decide(controller, env, num=1):
    controller.reset(ahead(env))
    for _ in range(num):
        decision = controller.act(env.observe(), None)
    return decision


def test_without_a_search_what_is_proposed_is_executed_though_it_costs_more():
    env, proposer = PointEnv(), Around([-0.05, 0.0])  # away from the goal
    decision = decide(mpc(proposer, search=False), env)
    assert decision.kind == "plan" and decision.plan is not None
    assert decision.action == pytest.approx([-0.05, 0.0], abs=0.02)
    assert decision.plan.cost > decision.rest_cost
    assert decision.plan.actions.shape == (3, 2) and decision.plan.elites.shape == (16, 3, 2)
    assert proposer.told[0].proprio.tolist() == pytest.approx(env.position.tolist())


def test_a_search_must_beat_what_is_proposed_by_the_margin():
    env = PointEnv()
    proposed = decide(mpc(Around([0.02, 0.0]), search=False), env)
    better = decide(mpc(Around([0.02, 0.0]), CEM(horizon=3)), env)
    assert better.plan.cost < proposed.plan.cost
    kept = decide(mpc(Around([0.02, 0.0]), CEM(horizon=3), margin=1e9), env)
    assert np.array_equal(kept.action, proposed.action)
    assert kept.plan.info["num_evaluated"] > 0


def test_the_rest_of_the_last_plan_can_be_among_the_proposals():
    env = PointEnv()
    decision = decide(mpc(Around([0.02, 0.0]), search=False, keep_last=True), env, num=2)
    assert len(decision.plan.elites) == 17
    assert (decision.plan.elites[0, -1] == 0).all()  # goes on without motion


@pytest.mark.parametrize("search", [True, False])
def test_a_proposal_that_is_not_finite_moves_nothing(search):
    with pytest.raises(PlanningError, match="not finite"):
        decide(mpc(Around([np.nan, 0.0]), search=search), PointEnv())


def test_a_planner_begins_with_some_of_every_proposer():
    class Constant:
        def __init__(self, value):
            self.value = value

        def propose(self, situation, num, generator):
            return torch.full((num, 2, 2), self.value)

    proposals = Proposals((Constant(0.01), Constant(0.02)), 8)
    space = Space(SPEC, 2, torch.device("cpu"))
    plan = proposals.propose(situation(*WAYS[0]), space, last=None, generator=generator())
    assert len({float(first) for first in plan.elites[:2, 0, 0]}) == 2


def test_waypoints_and_floors_without_proposals_are_refused_and_not_left_out():
    with pytest.raises(UserError, match="waypoints"):
        make_proposals(ControllerSettings(waypoints=True), CEM(), None)


def test_retrieval_keeps_episodes_from_all_over_the_dataset():
    run = training(1, max_frames=100)
    kept = run.prior.demonstrations
    assert 80 <= len(kept.actions) <= 100  # of 60 episodes of 16 frames
    whole = training(1).prior.demonstrations
    last = kept.actions[int(kept.ends[-1]) - 16]
    assert int((whole.actions == last).all(1).nonzero()[0]) > 0.7 * len(whole.actions)
    none = training(1, max_frames=0).prior
    assert len(none.demonstrations.actions) == 0
    with pytest.raises(UserError, match="keeps no demonstration"):
        none.proposer("retrieval")


def test_retrieval_gives_no_frame_of_another_task():
    shape = PriorShape(width=8, num_frames=6, tasks=("a", "b"))
    few = Prior(make_model().info, shape)
    bank = few.demonstrations
    bank.ends.fill_(6)
    bank.tasks.copy_(torch.tensor([0, 0, 0, 0, 1, 1]))
    bank.actions.copy_(bank.tasks[:, None].float().expand(6, 2))
    found = few.proposer("retrieval", "b").propose(situation(*WAYS[0]), 5, generator())
    assert found.shape == (2, 8, 2) and (found == 1).all()


def test_where_no_task_is_named_the_policy_proposes_what_each_would_do():
    def proposed(task, instruction=None):
        prior = Prior(make_model().info, PriorShape(width=8, tasks=("a", "b")))
        torch.manual_seed(0)
        for parameter in prior.policy.parameters():
            torch.nn.init.normal_(parameter)
        settings = ControllerSettings(proposals=("policy",), task=task)
        made = make_proposals(settings, CEM(num_samples=8), prior, instruction)
        space = Space(SPEC, 2, torch.device("cpu"))
        plan = made.propose(situation(*WAYS[0]), space, last=None, generator=generator())
        return plan.elites

    assert len(proposed(None)) == len(proposed("a")) == 8
    assert not np.array_equal(proposed(None), proposed("a"))
    assert np.array_equal(proposed(None, "a"), proposed("a"))


def test_illegal_proposals_become_legal():
    decision = decide(mpc(Around([5.0, 0.0])), PointEnv())
    assert np.abs(decision.plan.elites).max() <= 0.1 + 1e-9


def test_proposals_of_a_checkpoint_without_a_prior_are_refused(prior):
    model, env = make_model(), PointEnv()

    def controller(own=prior, **settings):
        words = PlanningSettings(
            planner=Part("averaged", horizon=2), controller=ControllerSettings(**settings)
        )
        return make_controller(model, env, words, prior=own)

    with pytest.raises(UserError, match="no prior"):
        controller(None, proposals=("policy",))
    for settings in ({"search": False}, {"proposals": ("last_plan",)}):
        with pytest.raises(UserError, match="want policy or retrieval"):
            controller(**settings)
    for settings in ({}, {"proposals": ("policy", "retrieval", "last_plan"), "num_proposals": 5}):
        acts = controller(**settings)
        acts.reset(ahead(env))
        assert acts.act(env.observe(), None).plan is not None or not settings


def test_no_proposal_is_longer_than_a_plan():
    prior = Prior(make_model().info, PriorShape(width=8, num_frames=0))
    proposals = Proposals((prior.proposer("policy"),), 3)
    plan = proposals.propose(
        situation(*WAYS[0]), Space(SPEC, 2, torch.device("cpu")), last=None, generator=generator()
    )
    assert plan.elites is not None and plan.elites.shape == (3, 2, 2)


class OwnSteps(GoalEnergy):
    """An objective of somebody's own that counts steps; its `steps` is a number like any other."""

    def __init__(self, goal, steps: int = 3):
        super().__init__(goal)
        self.steps = steps


class OwnDistance(GoalEnergy):
    """An objective of somebody's own that is made with the prior's distance."""

    def __init__(self, goal, temporal_distance):
        super().__init__(goal)
        self.measure = temporal_distance


def test_an_objective_of_ones_own_gets_the_distance_that_it_asks_for_and_nothing_else():
    model = make_model()
    prior = Prior(model.info, PriorShape(width=8, num_frames=0))
    plain = make_objective(model, Part(f"{__name__}.OwnSteps", steps=5))
    assert plain(torch.zeros(model.info.num_tokens, model.info.dim)).steps == 5
    made = make_objective(model, Part(f"{__name__}.OwnDistance"), prior)
    assert made(torch.zeros(model.info.num_tokens, model.info.dim)).measure == prior.steps
    with pytest.raises(UserError, match="prior"):
        make_objective(model, Part(f"{__name__}.OwnDistance"))
