"""The controller: when it acts, when it holds, when it has arrived, when it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from fakes import SPEC, PointEnv
from test_loop import PointModel, ahead

from robot_wm.controller import MPC, ActionChunks, Calibrated, GoalSequence
from robot_wm.objectives import GoalEnergy
from robot_wm.planners import CEM, QuasiNewton
from robot_wm.types import ActionSpec, Decision, Goal, Observation, Plan, PlanningError


class Kept(GoalSequence):
    """Keeps what it decided since it was reset."""

    def reset(self, goal):
        self.decisions = []
        super().reset(goal)

    def act(self, obs, applied):
        self.decisions.append(super().act(obs, applied))
        return self.decisions[-1]

    @property
    def outcomes(self):
        """Of the goals that it has left behind."""
        return [decision.left for decision in self.decisions if decision.left is not None]


def mpc(model=None, planner=None, **settings):
    steps = settings.pop("execute_steps", 1)
    own = {key: settings.pop(key) for key in ("seed", "margin") if key in settings}
    plans = MPC(model or PointModel(), planner or CEM(), GoalEnergy, SPEC, **own)
    return Kept(plans if steps == 1 else ActionChunks(plans, steps), **settings)


def drive(controller, env, num_steps):
    applied, actions = None, []
    for _ in range(num_steps):
        actions.append(controller.act(env.observe(), applied).action)
        applied = env.apply(actions[-1])
    return actions


class Fixed(CEM):
    """Always the same plan, whatever it costs."""

    def __init__(self, actions):
        super().__init__(horizon=len(actions))
        self.actions = np.array(actions, float)
        self.num_plans = 0

    def plan(self, cost, spec, *, init, generator):
        self.num_plans += 1
        return Plan(self.actions, 0.0)


def test_a_plan_that_is_worse_than_doing_nothing_is_not_executed():
    env = PointEnv()
    away = mpc(planner=Fixed([[-0.1, 0.0]]))
    away.reset(ahead(env))
    assert drive(away, env, 2) == [pytest.approx([0, 0])] * 2
    assert [look.kind for look in away.decisions] == ["hold", "hold"]
    assert all(decision.plan is None and decision.planned for decision in away.decisions)


def test_a_plan_must_win_by_the_margin():
    env = PointEnv()
    goal = ahead(env)
    for margin, decision in ((0.0, "plan"), (1.0, "hold")):
        controller = mpc(margin=margin)
        controller.reset(goal)
        controller.act(env.observe(), None)
        assert controller.decisions[0].kind == decision


def test_a_plan_is_judged_again_and_refused_where_it_is_not_finite():
    class Breaks(PointModel):
        def imagine(self, state, actions):
            latents = super().imagine(state, actions)
            return torch.full_like(latents, torch.nan) if len(actions) == 2 else latents

    env = PointEnv()
    controller = mpc(Breaks())
    controller.reset(ahead(env))
    with pytest.raises(PlanningError, match="not finite"):
        controller.act(env.observe(), None)


@pytest.mark.parametrize("planner", [CEM(), QuasiNewton()])
def test_one_imagined_latent_that_is_not_finite_is_no_plan(planner):
    class Breaks(PointModel):
        def imagine(self, state, actions):
            latents = super().imagine(state, actions).clone()
            latents[-1] = torch.nan
            return latents

    env = PointEnv()
    controller = mpc(Breaks(), planner)
    controller.reset(ahead(env))
    with pytest.raises(PlanningError, match="latents that are not finite"):
        controller.act(env.observe(), None)


def test_a_picture_whose_latent_is_not_finite_is_no_plan():
    class Blinded(PointModel):
        def embed(self, images):
            return super().embed(images) * (1.0 if len(self.embedded) < 2 else torch.nan)

    env = PointEnv()
    controller = mpc(Blinded())
    controller.reset(ahead(env))
    with pytest.raises(PlanningError, match="energy"):
        controller.act(env.observe(), None)


def test_it_executes_as_many_steps_of_a_plan_as_it_is_told():
    env, planner = PointEnv(), Fixed([[0.1, 0.0], [0.05, 0.0], [0.02, 0.0]])
    controller = mpc(planner=planner, execute_steps=2)
    controller.reset(ahead(env, steps=5))
    actions = drive(controller, env, 4)
    assert [a[0] for a in actions] == [0.1, 0.05, 0.1, 0.05]
    assert planner.num_plans == 2
    decisions = [look.kind for look in controller.decisions]
    assert decisions == ["plan", "continue", "plan", "continue"]


def test_the_warm_start_is_shifted_by_what_was_executed():
    given = []

    class Spy(Fixed):
        def plan(self, cost, spec, *, init, generator):
            given.append(init)
            return super().plan(cost, spec, init=init, generator=generator)

    env = PointEnv()
    controller = mpc(planner=Spy([[0.1, 0.0], [0.05, 0.0], [0.02, 0.0]]), execute_steps=2)
    controller.reset(ahead(env, steps=5))
    drive(controller, env, 3)
    assert given[0] is None and given[1].actions.tolist() == [[0.02, 0.0]]


def test_goals_are_reached_one_after_the_other_and_the_last_is_held():
    env = PointEnv()
    first, second = ahead(env, steps=2), ahead(env, steps=4)
    controller = mpc(arrival=2e-3, arrival_decisions=2)
    controller.reset([first, second])
    drive(controller, env, 20)
    assert [look.planned for look in controller.decisions] == [
        look.kind == "plan" for look in controller.decisions
    ]  # what was not planned counts for no planning time
    goals = [look.goal for look in controller.decisions]
    assert goals == sorted(goals) and set(goals) == {0, 1} and goals.count(0) < 10
    assert controller.decisions[-1].kind == "arrived"
    start = PointEnv()
    start.reset(0)
    assert env.position[0] - start.position[0] == pytest.approx(0.4, abs=0.06)
    where = env.position.copy()
    drive(controller, env, 3)
    assert np.array_equal(env.position, where)


def test_a_goal_on_the_way_is_passed_before_it_is_reached():
    env = PointEnv()
    goals = [ahead(env, steps=4), ahead(env, steps=8)]
    switched = []
    for passing in (None, 0.05):
        env.reset(0)
        controller = mpc(arrival=2e-3, passing=passing)
        controller.reset(goals)
        drive(controller, env, 20)
        kinds = [decision.kind for decision in controller.decisions]
        assert kinds[-1] == "arrived" and controller.decisions[-1].energy <= 2e-3
        switched.append([decision.goal for decision in controller.decisions].index(1))
    assert switched[1] < switched[0]


def test_nearness_must_last():
    env = PointEnv()
    controller = mpc(planner=Fixed([[0.1, 0.0]]), arrival=1e-3, arrival_decisions=2)
    controller.reset(ahead(env, steps=1))
    env.position = env.position + (0.1, 0.0)  # there, for one look
    controller.act(env.observe(), None)
    env.position = env.position - (0.2, 0.0)  # pushed away
    controller.act(env.observe(), np.zeros(2))
    assert controller.decisions[-1].kind == "plan"


def test_a_goal_that_cannot_be_reached_is_left_when_its_time_is_over():
    env = PointEnv()
    far, near = ahead(env, steps=8), ahead(env, steps=0)
    stuck = mpc(planner=Fixed([[0.0, 0.0]]), arrival=1e-4, timeout_steps=3)
    stuck.reset([far, near])
    drive(stuck, env, 6)
    assert [look.goal for look in stuck.decisions] == [0, 0, 0, 1, 1, 1]
    assert stuck.decisions[-1].kind == "arrived"
    stuck.reset(far)
    drive(stuck, env, 5)
    assert [look.kind for look in stuck.decisions] == ["hold"] * 3 + ["out of time"] * 2


class Blocked(PointEnv):
    """Something keeps it where it is."""

    def apply(self, action):
        return np.zeros(2)


def test_where_plans_promise_and_nothing_comes_it_holds_and_says_so():
    env = Blocked()
    controller = mpc(patience=3, step_energy=0.01)
    controller.reset(ahead(env, steps=5))
    actions = drive(controller, env, 6)
    decisions = [look.kind for look in controller.decisions]
    assert decisions == ["plan"] * 3 + ["stalled"] * 3
    assert all(np.array_equal(action, SPEC.rest) for action in actions[3:])
    outcome = controller.outcome(env.observe())
    assert (outcome.kind, outcome.goal) == ("stalled", 0)
    assert outcome.energy == controller.decisions[0].energy
    assert outcome.steps_left == pytest.approx(outcome.energy / 0.01)


def test_what_still_comes_nearer_is_not_stalled_however_slowly():
    env = PointEnv()
    goal = ahead(env, steps=5)
    slow = mpc(planner=Fixed([[0.005, 0.0]]), patience=2)
    slow.reset(goal)
    drive(slow, env, 30)  # a pixel is six steps: a look is the same picture as the last
    assert slow.decisions[-1].kind == "stalled"
    env.reset(0)
    slow = mpc(planner=Fixed([[0.005, 0.0]]), patience=8)
    slow.reset(goal)
    drive(slow, env, 30)
    assert {look.kind for look in slow.decisions} == {"plan"}
    assert slow.outcome(env.observe()).kind == "out of time"


def test_small_steps_add_up():
    env = PointEnv()
    slow = mpc(planner=Fixed([[1 / 31, 0.0]]), patience=4, progress=0.025)  # a pixel a look
    slow.reset(ahead(env, steps=5))
    drive(slow, env, 7)
    falls = -np.diff([look.energy for look in slow.decisions])
    assert (falls < 0.025).all()
    assert {look.kind for look in slow.decisions} == {"plan"}


def test_to_and_fro_ends_on_the_near_side():
    class Bounces(PointEnv):
        """Whatever it is told, it goes three steps on and three back."""

        way = 0.3

        def apply(self, action):
            self.position, self.way = self.position + (self.way, 0.0), -self.way
            return np.zeros(2)

    for first in (0.3, -0.3):
        env = Bounces()
        env.way = first
        controller = mpc(patience=4)
        controller.reset(ahead(env, steps=1))
        for _ in range(12):
            action = controller.act(env.observe(), None).action
            if controller.decisions[-1].kind == "stalled":
                break
            env.apply(action)
        energies = [look.energy for look in controller.decisions]
        assert controller.decisions[-1].kind == "stalled"
        assert energies[-1] == min(energies) < max(energies)


def test_a_goal_that_stalls_is_left_for_the_next():
    env = Blocked()
    far, here = ahead(env, steps=5), ahead(env, steps=0)
    controller = mpc(patience=2, arrival=1e-3)
    controller.reset([far, here])
    drive(controller, env, 6)
    assert [outcome.kind for outcome in controller.outcomes] == ["stalled"]
    assert controller.outcome(env.observe()).kind == "arrived"
    controller.reset(here)
    assert controller.outcomes == []


def test_without_patience_it_never_stalls():
    env = Blocked()
    controller = mpc(patience=None)
    controller.reset(ahead(env, steps=5))
    drive(controller, env, 12)
    assert {look.kind for look in controller.decisions} == {"plan"}
    assert controller.outcome(env.observe()).kind == "out of time"


def test_who_is_near_at_the_last_look_has_arrived():
    env = PointEnv()
    controller = mpc(arrival=2e-3, arrival_decisions=3)
    controller.reset(ahead(env, steps=2))
    drive(controller, env, 2)
    assert controller.decisions[-1].kind == "plan"
    assert controller.outcome(env.observe()).kind == "arrived"
    blind = mpc(arrival=None)
    blind.reset(ahead(env, steps=2))
    drive(blind, env, 2)
    assert blind.outcome(env.observe()).kind == "out of time"
    assert blind.outcome(env.observe()).steps_left is None


def test_near_is_not_yet_arrived_while_it_comes_nearer():
    env = PointEnv()
    controller = mpc(planner=Fixed([[0.05, 0.0]]), arrival=1.0, arrival_decisions=1, progress=1e-4)
    controller.reset(ahead(env, steps=2))
    drive(controller, env, 1)
    assert controller.decisions[0].kind == "arrived"  # near at the first look, and nothing before
    controller = mpc(planner=Fixed([[0.05, 0.0]]), arrival=1.0, arrival_decisions=2, progress=1e-4)
    controller.reset(ahead(env, steps=2))
    drive(controller, env, 8)
    decisions = [look.kind for look in controller.decisions]
    energies = [look.energy for look in controller.decisions]
    assert decisions[-1] == "arrived" and energies[-1] < 1e-2 < energies[1]


def test_energies_fall_on_the_way():
    env = PointEnv()
    controller = mpc()
    controller.reset(ahead(env, steps=5))
    drive(controller, env, 8)
    energies = [look.energy for look in controller.decisions]
    assert len(energies) == 8 and energies[-1] < 0.1 * energies[0]


@pytest.mark.parametrize(
    "bad",
    [
        {"execute_steps": 2},
        {"execute_steps": 0},
        {"margin": float("nan")},
        {"margin": -1.0},
        {"arrival": float("inf")},
        {"arrival_decisions": 0},
        {"timeout_steps": 0},
        {"patience": 0},
        {"progress": float("nan")},
        {"progress": -0.1},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        mpc(**bad)


def test_after_a_reset_that_failed_it_acts_toward_nothing():
    env = PointEnv()
    controller = mpc()
    controller.reset(ahead(env))
    controller.act(env.observe(), None)
    with pytest.raises(KeyError):
        controller.reset([ahead(env), Goal({})])
    with pytest.raises(RuntimeError, match="reset"):
        controller.act(env.observe(), None)


def test_a_refusal_in_between_counts_for_nothing():
    given = []

    class Moody(Fixed):
        def plan(self, cost, spec, *, init, generator):
            given.append(init)
            if len(given) == 2:
                raise PlanningError("not today")
            return super().plan(cost, spec, init=init, generator=generator)

    env = PointEnv()
    controller = mpc(planner=Moody([[0.1, 0.0], [0.05, 0.0], [0.02, 0.0]]), timeout_steps=3)
    controller.reset(ahead(env, steps=5))
    applied = env.apply(controller.act(env.observe(), None).action)
    with pytest.raises(PlanningError):
        controller.act(env.observe(), applied)
    drive(controller, env, 1)
    assert given[2].actions.tolist() == [[0.05, 0.0], [0.02, 0.0]]
    assert [look.kind for look in controller.decisions] == ["plan", "plan"]


def test_what_a_planner_returns_is_made_legal():
    env = PointEnv()
    controller = mpc(planner=Fixed([[5.0, 0.0]]))
    controller.reset(ahead(env))
    assert controller.act(env.observe(), None).action.tolist() == [0.1, 0.0]


def test_arrival_is_judged_by_the_picture_alone():
    env = PointEnv()
    spec = dataclasses.replace(SPEC, fixed={"y": 0.05})

    def objective(goal):
        return GoalEnergy(goal, action_weight=1.0)

    controller = GoalSequence(
        MPC(PointModel(), CEM(), objective, spec), arrival=1e-3, arrival_decisions=1
    )
    controller.reset(ahead(env, steps=0))
    assert controller.act(env.observe(), None).kind == "arrived"


def test_no_goal_is_refused():
    with pytest.raises(ValueError, match="goal"):
        mpc().reset([])


def test_sixteen_controllers_in_turn_do_as_each_alone():
    model = PointModel()

    def episode(i):
        env = PointEnv()
        controller = mpc(model, QuasiNewton(), seed=i)
        controller.reset(ahead(env, seed=i))
        return env, controller

    alone_env, alone = episode(7)
    expected = drive(alone, alone_env, 5)
    episodes, actions = [episode(i) for i in range(16)], [[] for _ in range(16)]
    applied = [None] * 16
    for _ in range(5):
        for i, (env, controller) in enumerate(episodes):
            actions[i].append(controller.act(env.observe(), applied[i]).action)
            applied[i] = env.apply(actions[i][-1])
    assert all(np.array_equal(a, b) for a, b in zip(expected, actions[7], strict=True))


class Toward:
    """Goes to the middle of the table, in steps of 3 cm."""

    def __init__(self, target):
        self.target, self.told = np.array(target), []

    def reset(self, goal):
        self.told = []

    def observe(self, obs, applied):
        self.place = obs.proprio
        self.told.append(applied)
        return float(np.linalg.norm(self.target - self.place))

    def decide(self):
        way = self.target - self.place
        step = way * min(1.0, 0.03 / np.linalg.norm(way))
        return Decision(step, predict=lambda action: (self.place + action, 0.0))

    rest, aim, energy = decide, None, None


@pytest.mark.parametrize("degrees", [0, 15, -30, 60])
def test_calibration_finds_where_the_axes_of_the_arm_point(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    bound = np.full(4, 0.04)
    spec = ActionSpec(("x", "y", "z", "gripper"), -bound, bound, ("m",) * 4)
    inner = Toward([0.3, 0.1, 0.1, 0.0])
    controller = Calibrated(inner, spec)  # type: ignore[arg-type]
    for _ in range(2):  # the second episode finds out anew
        controller.reset(Goal({}))
        place, applied, ways = np.array([0.1, -0.1, 0.05, 0.02]), None, []
        rng = np.random.default_rng(0)
        for _ in range(12):
            before, decision = applied, controller.act(Observation({}, place, 0.0), applied)
            assert np.abs(decision.action).max() <= 0.04 + 1e-12
            predicted, _ = decision.predict(decision.action)
            applied = decision.action
            moved = turn @ applied + rng.normal(0, 0.001, 4)
            ways.append(float(np.linalg.norm(predicted - (place + moved))))
            place = place + moved
        assert np.linalg.norm(place[:3] - inner.target[:3]) < 0.01
        assert ways[0] == pytest.approx(2 * 0.03 * abs(np.sin(np.radians(degrees) / 2)), abs=0.005)
        assert max(ways[6:]) < 0.006
        assert np.allclose(controller.rotation, turn[:3, :3], atol=0.1)
        assert np.allclose(inner.told[-1], turn @ before, atol=0.003)


def test_a_blocked_arm_tells_nothing_of_its_axes():
    bound = np.full(3, 0.04)
    spec = ActionSpec(("x", "y", "z"), -bound, bound, ("m",) * 3)
    controller = Calibrated(Toward([1.0, 0.0, 0.0]), spec)  # type: ignore[arg-type]
    controller.reset(Goal({}))
    place, applied = np.zeros(3), None
    for _ in range(10):
        applied = controller.act(Observation({}, place, 0.0), applied).action
        place = place + 1e-4 * applied
    assert np.allclose(applied, [0.03, 0.0, 0.0], atol=1e-6)
    controller.observe(Observation({}, np.full(3, np.nan), 0.0), applied)  # nor does such a reading
    assert np.allclose(controller.rotation, np.eye(3), atol=1e-6)


def test_a_setback_is_not_the_end_if_it_comes_nearer_from_there():
    """A hand takes it far away when it is nearly there: what was near before counts no more."""
    env = PointEnv()
    controller = mpc(planner=Fixed([[0.02, 0.0]]), patience=4)
    controller.reset(ahead(env, steps=4))
    drive(controller, env, 12)
    env.position = np.zeros(2)
    drive(controller, env, 12)
    energies = [decision.energy for decision in controller.decisions]
    assert energies[13] > energies[3]  # it took more than `patience` to make up for it
    assert {decision.kind for decision in controller.decisions} == {"plan"}
    env.apply = lambda action: np.zeros(2)
    drive(controller, env, 6)
    assert controller.decisions[-1].kind == "stalled"
