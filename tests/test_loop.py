"""Controller, runtime and evaluation: the closed loop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import SPEC, PointEnv, PointTask, make_model

from robot_wm.controller import MPC
from robot_wm.evaluation import (
    EpisodeResult,
    LatentOracle,
    RandomController,
    StateOracle,
    ZeroController,
    evaluate,
    paired_difference_ci95,
    plan_seconds,
    summarize,
    wilson,
)
from robot_wm.models import EncodedFrames, ModelInfo, View
from robot_wm.objectives import GoalEnergy
from robot_wm.planners import CEM
from robot_wm.runtime import GuardError, run_episode
from robot_wm.types import Futures, Goal, Judgement, Measure, Plan, PlanningError, Verdict
from robot_wm.workflows.baselines import WrongGoal

EPISODES = [{"seed": seed} for seed in range(6)]


class PointModel:
    """Knows the point exactly: its latent is the position."""

    info = ModelInfo(
        views=(View("front", 32, 32),),
        state_names=("x", "y"),
        action_spec=SPEC,
        dt=0.2,
        longest_horizon=99,
        context_frames=1,
        grid=(1, 1, 1),
        dim=2,
    )

    def __init__(self):
        self.embedded = []
        self.applied = []

    def initial(self):
        return None

    def observe(self, state, obs, applied):
        if isinstance(obs, EncodedFrames):
            return SimpleNamespace(position=obs.proprio[:, None], latent=obs.tokens)
        self.applied.append(applied)
        for value in (obs.proprio, np.zeros(2) if applied is None else applied):
            if np.shape(value) != (2,) or not np.isfinite(value).all():
                raise ValueError(f"got {value}, want 2 finite numbers")
        if "front" not in obs.images:
            raise ValueError("camera: want front")
        position = torch.from_numpy(obs.proprio).float()
        return SimpleNamespace(position=position, latent=self.embed(obs.images)[None])

    def latent(self, state):
        return state.latent

    def embed(self, images):
        self.embedded.append(images["front"])
        picture = images["front"][..., 0]
        row, column = np.unravel_index(picture.argmax(), picture.shape)
        return torch.tensor([[column / 31, row / 31]], dtype=torch.float32)

    def rollout(self, state, actions, generator=None, *, select=None):
        return Futures(self.imagine(state, actions))

    def imagine(self, state, actions):
        return (state.position + actions.cumsum(1))[:, :, None]

    def loss(self, batch):
        raise NotImplementedError


class Tape:
    def __init__(self):
        self.steps, self.last = [], None

    def record(self, step):
        self.steps.append(step)

    def finish(self, last):
        self.last = last


def controller(model=None, seed=0):
    planner = CEM(horizon=2, num_samples=60, num_iterations=3, num_elites=8)
    return MPC(model or PointModel(), planner, GoalEnergy, SPEC, seed=seed)


def ahead(env, *, steps=3, seed=0):
    """A goal to the right of where the env then stands, at the start of `seed`."""
    env.reset(seed)
    env.position = env.position + (0.1 * steps, 0.0)
    goal = Goal(env.observe().images)
    env.reset(seed)
    return goal


def test_a_good_model_reaches_and_floors_do_not():
    task = PointTask()
    ours = evaluate(task, controller(), EPISODES, num_steps=15)
    random = evaluate(task, RandomController(SPEC), EPISODES, num_steps=15)
    zero = evaluate(task, ZeroController(SPEC), EPISODES, num_steps=15)
    oracle = evaluate(
        task,
        StateOracle(task, CEM(horizon=1, num_samples=40, num_elites=5)),
        EPISODES,
        num_steps=15,
    )
    assert summarize(ours)["success_final"] == 1.0
    assert summarize(oracle)["success_final"] == 1.0
    assert summarize(random)["success_final"] < 0.5
    assert all(len(set(result.curve)) == 1 for result in zero)


def test_the_latent_oracle_tells_a_poor_encoder_from_a_poor_predictor():
    class Wrong(PointModel):  # imagines the opposite, but sees well
        def imagine(self, state, actions):
            return super().imagine(state, -actions)

    class Blind(PointModel):
        def embed(self, images):
            return torch.zeros(1, 2)

    task, planner = PointTask(), CEM(horizon=1, num_samples=24, num_iterations=2, num_elites=4)

    def success(controller):
        return summarize(evaluate(task, controller, EPISODES, num_steps=15))["success_final"]

    assert success(MPC(Wrong(), planner, GoalEnergy, SPEC)) < 0.2
    assert success(LatentOracle(task, Wrong(), planner, GoalEnergy, SPEC)) == 1.0
    assert success(LatentOracle(task, Blind(), planner, GoalEnergy, SPEC)) < 0.5


def test_an_untrained_model_runs_the_same_loop():
    (result,) = evaluate(PointTask(), controller(make_model()), EPISODES[:1], num_steps=3)
    assert len(result.curve) == 4 and result.error is None


def test_the_goal_is_embedded_once_and_the_model_hears_what_was_applied():
    model, task = PointModel(), PointTask()
    tape = Tape()
    goal = task.start(EPISODES[0])
    run_episode(task.env, controller(model), goal, num_steps=4, recorders=[tape])
    assert sum(picture is goal.images["front"] for picture in model.embedded) == 1
    assert len(model.embedded) == 1 + 4  # and what is seen once a look
    assert model.applied[0] is None
    for heard, step in zip(model.applied[1:], tape.steps, strict=False):
        assert np.array_equal(heard, step.applied)
    assert np.array_equal(tape.last.proprio, task.env.position)


def test_an_episode_does_not_depend_on_those_before_it():
    task = PointTask()
    alone = evaluate(task, controller(), EPISODES[3:4], num_steps=5)
    among = evaluate(task, controller(), EPISODES, num_steps=5)
    assert alone[0].curve == among[3].curve
    for make in (RandomController, lambda spec: controller(seed=3)):
        shared = make(SPEC)
        a = evaluate(task, shared, EPISODES, num_steps=5)
        b = evaluate(task, shared, EPISODES[::-1], num_steps=5)
        assert [r.curve for r in a] == [r.curve for r in b[::-1]]


@pytest.mark.parametrize(
    "error", [RuntimeError("driver"), KeyboardInterrupt(), PlanningError("no")]
)
def test_the_env_is_stopped_on_every_way_out(error):
    class Failing:
        def reset(self, goal):
            pass

        def act(self, obs, applied):
            raise error

    env = PointEnv()
    with pytest.raises(type(error)):
        run_episode(env, Failing(), Goal(env.reset(0).images), num_steps=3)
    assert env.stopped == 1


class Doubtful:
    """A guard that holds in the second turn, and ends the run in the fourth."""

    def __init__(self):
        self.checked = []

    def check(self, obs, decision, applied):
        self.checked.append((decision, applied))
        turn = len(self.checked)
        if turn == 4:
            return Verdict("fault", "enough")
        return Verdict("hold" if turn == 2 else "go on", numbers={"turn": turn})


def test_guards_are_asked_between_deciding_and_applying():
    env, tape, guard = PointEnv(), Tape(), Doubtful()
    goal = ahead(env, steps=8)
    with pytest.raises(GuardError, match="enough"):
        run_episode(env, controller(), goal, num_steps=9, guards=[guard], recorders=[tape])
    assert env.stopped == 1 and len(tape.steps) == 3  # the fourth was not executed
    assert not tape.steps[1].applied.any() and tape.steps[1].decision.action.any()
    assert tape.steps[0].applied.any() and tape.steps[2].applied.any()
    assert [step.numbers["turn"] for step in tape.steps] == [1, 2, 3]
    decisions, applied = zip(*guard.checked, strict=True)
    assert list(decisions[:3]) == [step.decision for step in tape.steps]
    assert applied[0] is None
    assert all(a is step.applied for a, step in zip(applied[1:], tape.steps, strict=True))


def test_what_a_decision_foresees_is_what_the_model_imagines_from_that_look():
    env = PointEnv()
    mpc = controller()
    mpc.reset(ahead(env))
    seen = env.observe()
    decision = mpc.act(seen, None)
    mpc.act(env.observe(), env.apply(decision.action))  # whatever comes after it
    latent, energy = decision.predict(np.array([0.05, 0.0]))
    np.testing.assert_allclose(latent[0], seen.proprio + (0.05, 0.0), atol=1e-6)
    assert energy < decision.energy
    assert decision.plan.cost < decision.rest_cost and decision.planned


def test_a_planner_that_gives_up_is_a_failed_episode_not_a_crash():
    class Broken(PointModel):
        def imagine(self, state, actions):
            return super().imagine(state, actions) * torch.nan

    results = evaluate(PointTask(), controller(Broken()), EPISODES, num_steps=4)
    assert all("finite" in str(result.error) for result in results)
    assert all(len(result.curve) == 5 for result in results)


def test_what_plans_took_is_summed_up():
    assert plan_seconds([]) == {"median": 0.0, "p95": 0.0}
    assert plan_seconds([0.1, 0.3, 0.2]) == {"median": 0.2, "p95": pytest.approx(0.29)}


def test_act_before_reset_is_told():
    with pytest.raises(RuntimeError, match="reset"):
        controller().act(PointEnv().reset(0), None)


def test_realtime_keeps_the_rate():
    env = PointEnv()
    env.control_dt = 0.02
    tape = Tape()
    import time

    begin = time.monotonic()
    run_episode(env, ZeroController(SPEC), Goal({}), num_steps=5, recorders=[tape], realtime=True)
    assert time.monotonic() - begin >= 0.1


def result(seed, *distances):
    judged = [Judgement(m < 0.05, {"distance": Measure(m, "m", 0.05)}) for m in distances]
    return EpisodeResult(seed, tuple(judged))


def test_success_is_judged_at_the_end():
    passed_through = result(0, 0.3, 0.01, 0.2)
    assert passed_through.success_any and not passed_through.success_final
    figures = summarize([passed_through, result(1, 0.3, 0.04)])
    assert figures["success_final"] == 0.5 and figures["success_any"] == 1.0
    assert figures["final_distance_m_median"] == pytest.approx(0.12)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(16, 20, 0.584, 0.919), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (50, 100, 0.404, 0.596)],
)
def test_wilson_interval(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-4)


def test_wilson_refuses_nonsense():
    for successes, n in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="wilson"):
            wilson(successes, n)


def test_paired_difference():
    ours = [result(i, 0.01) for i in range(40)]
    theirs = [result(i, 0.01 if i % 2 else 0.3) for i in range(40)]
    low, high = paired_difference_ci95(ours, theirs)
    assert 0.3 < low < 0.5 < high < 0.7
    assert paired_difference_ci95(ours, ours) == (0.0, 0.0)
    with pytest.raises(ValueError, match="different episodes"):
        paired_difference_ci95(ours, theirs[1:])


def test_a_warm_start_is_the_rest_of_the_last_plan():
    given = []

    class Spy(CEM):
        def plan(self, cost, spec, *, init, generator):
            given.append(init)
            return Plan(actions=np.array([[0.01, 0.0], [0.02, 0.0]]), cost=1.0)

    mpc = MPC(PointModel(), Spy(), GoalEnergy, SPEC)
    env = PointEnv()
    goal = ahead(env)
    mpc.reset(goal)
    mpc.act(env.observe(), None)
    mpc.act(env.observe(), np.zeros(2))
    assert given[0] is None and given[1].actions.tolist() == [[0.02, 0.0]]
    mpc.reset(goal)
    mpc.act(env.observe(), None)
    assert given[2] is None


def test_the_wrong_goal_is_that_of_another_episode():
    env, shown = PointEnv(), []

    class Watched(ZeroController):
        def reset(self, goal):
            shown.append(goal)

    method = WrongGoal(Watched(env.action_spec))
    mine, other = ahead(env), ahead(env)
    method.show(other)
    run_episode(env, method, mine, num_steps=1)
    assert shown == [other]
