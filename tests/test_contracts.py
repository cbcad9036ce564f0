"""One suite per seam, run over every implementation, fakes included."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import SPEC, PointEnv, PointTask, make_model
from test_goldens import PLANNERS
from test_loop import PointModel

from robot_wm.contracts import (
    check_controller,
    check_encoder,
    check_env,
    check_guard,
    check_objective,
    check_planner,
    check_task,
    check_world_model,
)
from robot_wm.controller import MPC, ActionChunks, GoalSequence
from robot_wm.encoders import MiniConfig, build_encoder, load_mini, random_mini, shipped_weights
from robot_wm.evaluation import LatentOracle, RandomController, StateOracle, ZeroController
from robot_wm.models import EncodedFrames
from robot_wm.monitors import MonitorGuard, Monitors, MonitorSettings
from robot_wm.objectives import GoalEnergy
from robot_wm.planners import CEM, Averaged
from robot_wm.robots import so100
from robot_wm.runtime import run_episode
from robot_wm.types import Decision, Env, Futures, Goal, Observation, Task, Verdict
from sim_envs.reach import ReachTask
from sim_envs.reach_demonstrator import ReachDemonstrator
from sim_envs.tabletop import Tabletop

ENCODERS = {
    "pixels": lambda: build_encoder("pixels"),
    "patches": lambda: build_encoder("mini_patches"),
    "shipped": lambda: load_mini(shipped_weights()),
    "random": lambda: random_mini(seed=0),
    "several tokens": lambda: random_mini(
        seed=0, config=MiniConfig(image_size=64, patch_size=16, num_tokens=4, dim=24)
    ),
}
MODELS = {
    "latent": make_model,
    "one frame": lambda: make_model(context_frames=1),
    "no proprio": lambda: make_model(proprio="none"),
}


def test_the_fake_env_keeps_the_contract():
    check_env(PointEnv)
    assert isinstance(PointTask().env, Env)
    task: Task = PointTask()
    assert task.judge().measures


class Forgetful(PointEnv):
    def apply(self, action):
        super().apply(np.nan_to_num(action[:2]))
        return action[:2]


class Frozen(PointEnv):
    def reset(self, seed):
        return super().reset(0)


@pytest.mark.parametrize(("make", "why"), [(Forgetful, "took"), (Frozen, "start alike")])
def test_check_env_sees_a_broken_env(make, why):
    with pytest.raises(AssertionError, match=why):
        check_env(make)


@pytest.mark.parametrize("name", [*sorted(PLANNERS), "averaged"])
def test_planners_keep_the_contract(name):
    planners = {**PLANNERS, "averaged": Averaged(horizon=2, num_samples=24)}
    check_planner(lambda: planners[name])


class Illegal(CEM):
    def plan(self, cost, spec, *, init, generator):
        found = super().plan(cost, spec, init=init, generator=generator)
        return dataclasses.replace(found, actions=found.actions + 1)


class Careless(CEM):
    def plan(self, cost, spec, *, init, generator):
        torch.rand(1)
        return super().plan(cost, spec, init=init, generator=generator)


class Boastful(CEM):
    def plan(self, cost, spec, *, init, generator):
        found = super().plan(cost, spec, init=init, generator=generator)
        return dataclasses.replace(found, cost=found.cost - 1)


class Stubborn(CEM):
    def plan(self, cost, spec, *, init, generator):
        return super().plan(lambda a: cost(a).nan_to_num(), spec, init=init, generator=generator)


@pytest.mark.parametrize(
    ("make", "why"),
    [(Illegal, "beyond what"), (Careless, "randomness"), (Boastful, "cost:"), (Stubborn, "broken")],
)
def test_check_planner_sees_a_broken_planner(make, why):
    with pytest.raises(AssertionError, match=why):
        check_planner(make)


OBJECTIVES = {
    "l2": GoalEnergy,
    "l1": lambda goal: GoalEnergy(goal, distance="l1"),
    "mean": lambda goal: GoalEnergy(goal, horizon="mean", discount=0.9),
    "weighted": lambda goal: GoalEnergy(goal, token_weights=[0.0, 1.0, 2.0, 1.0]),
    "costly": lambda goal: GoalEnergy(
        goal,
        action_weight=0.1,
        smoothness_weight=0.1,
        disagreement_weight=0.1,
        action_unit=[0.1, 0.1, 0.1],
    ),
}


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_objectives_keep_the_contract(name):
    check_objective(OBJECTIVES[name])


class Ranked(GoalEnergy):
    def __call__(self, futures, actions):
        return super().__call__(futures, actions).argsort().argsort().float()


class Rewarding(GoalEnergy):
    def __call__(self, futures, actions):
        return -super().__call__(futures, actions)


class Signed(GoalEnergy):
    def energy(self, latents):
        return super().energy(latents) - 0.5


@pytest.mark.parametrize(
    ("make", "why"),
    [(Ranked, "other candidates"), (Rewarding, "being at the goal"), (Signed, "below zero")],
)
def test_check_objective_sees_a_broken_objective(make, why):
    with pytest.raises(AssertionError, match=why):
        check_objective(make)


def point_goal():
    env = PointEnv()
    env.reset(5)
    return Goal(env.observe().images)


CONTROLLERS = {
    "mpc": lambda: MPC(make_model(), PLANNERS["cem"], GoalEnergy, SPEC),
    "chunks": lambda: ActionChunks(MPC(make_model(), PLANNERS["cem"], GoalEnergy, SPEC), 2),
    "sequence": lambda: GoalSequence(
        MPC(make_model(), PLANNERS["cem"], GoalEnergy, SPEC), arrival=1e-3, timeout_steps=2
    ),
    "random": lambda: RandomController(SPEC),
    "zero": lambda: ZeroController(SPEC),
}


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_controllers_keep_the_contract(name):
    check_controller(CONTROLLERS[name], PointEnv(), point_goal())


class Holding:
    """Holds some turns, whatever is decided."""

    def __init__(self, turns):
        self.turns, self.turn = turns, 0

    def check(self, obs, decision, applied):
        self.turn += 1
        return Verdict("hold", "wait") if self.turn in self.turns else Verdict()


def test_a_hold_drops_the_plan_and_is_no_stall():
    """What was planned elsewhere is not executed, and an arm that may not move did not stall."""
    env, steps = PointEnv(), []
    mpc = MPC(make_model(), PLANNERS["cem"], GoalEnergy, SPEC)
    controller = GoalSequence(ActionChunks(mpc, 2), arrival=1e-9, patience=2)
    env.reset(0)
    tape = SimpleNamespace(record=steps.append, finish=lambda last: None)
    guards = [Holding(range(2, 9))]
    run_episode(env, controller, point_goal(), num_steps=9, guards=guards, recorders=[tape])
    kinds = [step.decision.kind for step in steps]
    assert "continue" not in kinds[2:8] and "stalled" not in kinds
    assert all((step.applied == 0).all() for step in steps[1:8])


def test_demonstrators_keep_the_contract():
    task = ReachTask(Tabletop(so100(), image_size=32))
    goal = task.start(task.episode(3))
    check_controller(lambda: ReachDemonstrator(task), task.env, goal)


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("name", ["state", "latent"])
def test_oracles_keep_the_contract(name, planner):
    task = PointTask()
    make = {
        "state": lambda: StateOracle(task, PLANNERS[planner]),
        "latent": lambda: LatentOracle(task, make_model(), PLANNERS[planner], GoalEnergy, SPEC),
    }[name]
    check_controller(make, task.env, point_goal())


class Unsteady(ZeroController):
    """Goes on where it was, whatever is asked of it."""

    num = 0

    def act(self, obs, applied):
        self.num += 1
        return Decision(SPEC.high / (1 + self.num))


class Bare(ZeroController):
    def act(self, obs, applied):
        return SPEC.rest


class Wild(ZeroController):
    def act(self, obs, applied):
        return Decision(SPEC.high * 2)


@pytest.mark.parametrize(
    ("make", "why"), [(Unsteady, "decides otherwise"), (Bare, "returned"), (Wild, "beyond")]
)
def test_check_controller_sees_a_broken_controller(make, why):
    with pytest.raises(AssertionError, match=why):
        check_controller(lambda: make(SPEC), PointEnv(), point_goal())


class Still:
    """Says the same of everything."""

    def __init__(self, verdict=None):
        self.verdict = verdict or Verdict()

    def check(self, obs, decision, applied):
        return self.verdict


def test_guards_keep_the_contract():
    def check(make):
        check_guard(make, PointEnv(), ZeroController(SPEC), point_goal())

    check(Still)
    monitors = Monitors(None, MonitorSettings(), step_energy=None)
    check(lambda: MonitorGuard(monitors, ["front"], lambda: np.zeros(2)))
    for kind in ("stop", "Fault", None):  # would pass for "go on"
        with pytest.raises(ValueError, match="kind"):
            Verdict(kind, "now")
    with pytest.raises(ValueError, match="kind"):
        Decision(SPEC.rest, "Plan")
    for verdict, why in (
        (Verdict("fault"), "no reason"),
        (Verdict("fault", "I do not like it"), "nothing was wrong"),
        (Verdict(numbers={"p": np.nan}), "not finite"),
    ):
        with pytest.raises(AssertionError, match=why):
            check(lambda verdict=verdict: Still(verdict))


def test_tasks_keep_the_contract():
    check_task(PointTask)
    check_task(lambda: ReachTask(Tabletop(so100())), seeds=(8_000_000, 8_000_001))


class Moved(PointTask):
    def simulate(self, actions):
        self.env.position = self.env.position + 0.1
        return super().simulate(actions)


class Wishful(PointTask):
    def simulate(self, actions):
        return super().simulate(actions) / 2


@pytest.mark.parametrize(
    ("make", "why"), [(Moved, "changed the cost"), (Wishful, "from what apply")]
)
def test_check_task_sees_a_broken_task(make, why):
    with pytest.raises(AssertionError, match=why):
        check_task(make)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_encoders_keep_the_contract(name):
    check_encoder(ENCODERS[name])


class Wrapped(torch.nn.Module):
    """A good encoder but for what a subclass spoils."""

    def __init__(self):
        super().__init__()
        self.inner = random_mini(seed=0)
        self.dim, self.grid, self.image = self.inner.dim, self.inner.grid, self.inner.image
        self.fingerprint = self.inner.fingerprint

    def forward(self, frames):
        return self.inner(frames)


class Averaging(Wrapped):
    def forward(self, frames):
        tokens = self.inner(frames)
        return (tokens + tokens.mean(1, keepdim=True)) / 2


class Learning(Wrapped):
    def forward(self, frames):
        return self.inner(frames).requires_grad_()


class Newborn(Wrapped):
    def __init__(self):
        super().__init__()
        self.inner = random_mini(seed=int(torch.randint(1000, ())))


@pytest.mark.parametrize(
    ("make", "why"),
    [(Averaging, "another frame"), (Learning, "want a gradient"), (Newborn, "a twin's")],
)
def test_check_encoder_sees_a_broken_encoder(make, why):
    check_encoder(Wrapped)
    with pytest.raises(AssertionError, match=why):
        check_encoder(make)


@pytest.fixture(params=sorted(MODELS))
def model(request):
    return MODELS[request.param]()


def looks(num):
    env = PointEnv()
    observation, applied = env.reset(1), None
    rng = np.random.default_rng(0)
    for _ in range(num):
        yield observation, applied
        applied = env.apply(rng.uniform(SPEC.low, SPEC.high))
        observation = env.observe()


def remember(model, num):
    state = model.initial()
    for observation, applied in looks(num):
        state = model.observe(state, observation, applied)
    return state


def test_models_keep_the_contract(request):
    for make in (*MODELS.values(), PointModel):
        check_world_model(make, list(looks(4)))


class Leaky(PointModel):
    def imagine(self, state, actions):
        return super().imagine(state, actions.flip(1))


class Restless(PointModel):
    def rollout(self, state, actions, generator=None, *, select=None):
        latents = self.imagine(state, actions)
        return Futures(latents + torch.randn(latents.shape))


class Deaf(PointModel):
    def imagine(self, state, actions):
        return super().imagine(state, 0 * actions.detach())


class Trusting(PointModel):
    def observe(self, state, obs, applied):
        if not isinstance(obs, EncodedFrames):
            clean = np.nan_to_num(obs.proprio)
            obs = Observation(obs.images, clean, obs.stamp_s)
        return super().observe(state, obs, None)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Leaky, "a later action changed"),
        (Restless, "another one of the same generator"),
        (Deaf, "grad"),
        (Trusting, "a proprio that is not finite"),
    ],
)
def test_check_world_model_sees_a_broken_model(make, why):
    with pytest.raises((AssertionError, RuntimeError), match=why):
        check_world_model(make, list(looks(4)))


def test_model_imagines_one_latent_per_action(model):
    assert model.info.dt > 0
    for num in (1, 2, 5):
        state = remember(model, num)
        latents = model.rollout(state, torch.zeros(7, 3, 2)).latents
        goal = model.embed(PointEnv().observe().images)
        assert latents.shape == (7, 3, *goal.shape)
        assert latents.isfinite().all()


def test_the_latent_of_a_state_is_that_of_the_picture_seen_last(model):
    for num in (1, 3):
        *_, (observation, _) = looks(num)
        torch.testing.assert_close(
            model.latent(remember(model, num))[0], model.embed(observation.images)
        )


def test_model_judges_each_candidate_alone(model):
    state = remember(model, 3)
    actions = torch.rand(6, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.2 - 0.1
    together = model.rollout(state, actions).latents
    alone = model.rollout(state, actions[2:3]).latents
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)


def test_later_actions_do_not_change_earlier_latents(model):
    state = remember(model, 3)
    actions = torch.zeros(2, 3, 2)
    actions[1, 2] = 0.1
    latents = model.rollout(state, actions).latents
    torch.testing.assert_close(latents[0, :2], latents[1, :2], atol=1e-6, rtol=0)
    assert not torch.allclose(latents[0, 2], latents[1, 2])


def test_observing_does_not_change_the_old_state(model):
    state = remember(model, 2)
    actions = torch.full((2, 1, 2), 0.05)
    before = model.rollout(state, actions).latents
    model.observe(state, PointEnv().observe(), np.zeros(2))
    assert torch.equal(model.rollout(state, actions).latents, before)


@pytest.mark.parametrize(
    ("proprio", "applied"),
    [([np.nan, 0], None), ([0, 0, 0], None), ([0, 0], [np.inf, 0]), ([0, 0], [0.0])],
)
def test_model_refuses_numbers_that_make_no_sense(model, proprio, applied):
    state = remember(model, 1)
    picture = PointEnv().observe().images
    applied = None if applied is None else np.array(applied)
    with pytest.raises(ValueError, match="proprio|applied"):
        model.observe(state, Observation(picture, np.array(proprio, float), 0.0), applied)


def test_model_refuses_pictures_that_do_not_fit(model):
    with pytest.raises(ValueError, match="want front"):
        model.embed({"wrist": np.zeros((32, 32, 3), np.uint8)})
    with pytest.raises(ValueError, match="aspect"):
        model.embed({"front": np.zeros((32, 64, 3), np.uint8)})
    with pytest.raises(ValueError, match="uint8"):
        model.embed({"front": np.zeros((32, 32, 3))})
    with pytest.raises(ValueError, match=r"actions: got \(1, 1, 3\)"):
        model.rollout(remember(model, 1), torch.zeros(1, 1, 3))
