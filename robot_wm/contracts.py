"""The promises of the seams as checks that run on anyone's implementation.

Each raises an AssertionError that names the promise that is broken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np

from robot_wm.kinematics import RobotModel
from robot_wm.types import (
    ActionSpec,
    Controller,
    Decision,
    DecisionKind,
    Env,
    FloatArray,
    Goal,
    Guard,
    Observation,
    Plan,
    PlanningError,
    Task,
    Verdict,
    VerdictKind,
    check_image,
    list_goals,
)

if TYPE_CHECKING:  # torch takes a second, and whoever checks an env needs none
    from torch import Tensor

    from robot_wm.models import WorldModel
    from robot_wm.planners import Planner

_STILL_M = 1e-5  # a simulator may compute what follows from its state anew


def check_env(make: Callable[[], Env], *, num_steps: int = 3) -> None:
    """Runs an Env through what the loop expects of it.

    Args:
        make: builds the env; called twice, so that determinism can be seen.
        num_steps: actions to try.

    Raises:
        AssertionError: names the promise that is broken.
    """
    env, twin = make(), make()
    try:
        _check(env, twin, num_steps)
    finally:
        env.close()
        twin.close()


def _check(env: Env, twin: Env, num_steps: int) -> None:
    assert isinstance(env, Env), "env: a member of robot_wm.types.Env is missing"
    spec = env.action_spec
    assert isinstance(spec, ActionSpec), f"action_spec: got {type(spec).__name__}"
    assert env.control_dt > 0, f"control_dt: got {env.control_dt}, want seconds above zero"

    first, same = env.reset(7), twin.reset(7)
    _check_observation(first)
    assert_same(first, same, "reset(7) twice")
    other = env.reset(8)
    assert not np.array_equal(other.proprio, first.proprio), "reset: 7 and 8 start alike"
    env.reset(7)

    rng = np.random.default_rng(0)
    stamp_s = env.observe().stamp_s
    for _ in range(num_steps):
        action = rng.uniform(spec.low, spec.high)
        applied, twin_applied = env.apply(action), twin.apply(action)
        assert applied.shape == (spec.size,), f"apply: returned shape {applied.shape}"
        assert np.isfinite(applied).all(), f"apply: returned {applied}"
        assert np.array_equal(applied, twin_applied), "apply: the same action was applied otherwise"
        observation = env.observe()
        _check_observation(observation)
        assert_same(observation, twin.observe(), "the same actions from the same seed")
        assert observation.stamp_s > stamp_s, "observe: the stamp does not advance"
        stamp_s = observation.stamp_s

    before = env.observe().proprio
    for bad in (np.full(spec.size, np.nan), np.full(spec.size, np.inf), np.zeros(spec.size + 1)):
        try:
            env.apply(bad)
        except ValueError:
            continue
        raise AssertionError(f"apply: took {bad} without a ValueError")
    assert np.array_equal(env.observe().proprio, before), "apply: a refused action moved the robot"
    beyond = env.apply(spec.high + 10 * (spec.high - spec.low))
    assert (beyond <= spec.high + 1e-2 * (spec.high - spec.low)).all(), (
        f"apply: executed {beyond}, beyond the spec's {spec.high}"
    )
    env.stop()
    env.stop()


def assert_same(a: Observation, b: Observation, what: str) -> None:
    """Asserts that two observations are equal bit for bit."""
    assert np.array_equal(a.proprio, b.proprio), f"{what}: proprio differs"
    assert set(a.images) == set(b.images), f"{what}: cameras differ"
    for name in a.images:
        assert np.array_equal(a.images[name], b.images[name]), f"{what}: picture {name} differs"


def _check_observation(observation: Observation) -> None:
    assert observation.images, "observe: no picture"
    for name, image in observation.images.items():
        check_image(image, f"camera {name!r}")
    assert observation.proprio.ndim == 1, f"proprio: got shape {observation.proprio.shape}"
    assert np.isfinite(observation.proprio).all(), f"proprio: got {observation.proprio}"


def check_planner(make: Callable[[], Planner]) -> None:
    """Runs a Planner through what a controller expects of it.

    Args:
        make: builds the planner; called anew for each promise.

    Raises:
        AssertionError: names the promise that is broken.
    """
    import torch

    size, horizon = 3, make().horizon
    assert isinstance(horizon, int) and horizon > 0, f"horizon: got {horizon!r}"
    names, unit = ("x", "y", "z"), np.full(size, 0.1)
    specs = {
        "bounds": ActionSpec(names, -unit, unit, ("m",) * size),
        "a fixed action": ActionSpec(names, -unit, unit, ("m",) * size, fixed={"y": 0.05}),
        "a trust region": ActionSpec(names, -unit, unit, ("m",) * size, trust_radius=0.5),
        "a bound at rest": ActionSpec(names, -unit, np.array([0.1, 0.0, 0.1]), ("m",) * size),
    }
    target = torch.tensor([0.04, -0.03, 0.02]).expand(horizon, size)

    def cost(actions: Tensor) -> Tensor:
        return (actions - target).square().sum((1, 2))

    def plan(of: Callable[[Tensor], Tensor], spec: ActionSpec, init: Plan | None = None) -> Plan:
        return make().plan(of, spec, init=init, generator=torch.Generator().manual_seed(3))

    for what, spec in specs.items():
        before = torch.get_rng_state()
        found = plan(cost, spec)
        assert torch.equal(torch.get_rng_state(), before), "plan: torch's own randomness was used"
        assert isinstance(found, Plan), f"plan: returned {type(found).__name__}"
        assert found.actions.shape == (horizon, size), f"plan: {found.actions.shape} under {what}"
        legal = np.abs(spec.clip(found.actions) - found.actions).max()
        assert legal < 1e-6, f"plan: {legal:.2g} beyond what {what} allows"
        exact = float(cost(torch.tensor(found.actions, dtype=torch.float32)[None])[0])
        assert abs(found.cost - exact) < 1e-6 + 1e-3 * exact, f"cost: {found.cost}, is {exact}"
        rest = float(cost(torch.tensor(np.tile(spec.rest, (horizon, 1))).float()[None])[0])
        assert found.cost <= rest + 1e-9, f"plan: costs {found.cost} under {what}, rest {rest}"
        again = plan(cost, spec)
        assert np.array_equal(found.actions, again.actions), "plan: another one from the same seed"
        warm = plan(cost, spec, init=found)
        assert warm.cost <= found.cost + 1e-9, "plan: worse than the one it started from"

    for budget in (16, 96, 400):
        num = _count_evaluations(make().with_budget(budget), cost, specs["bounds"])
        assert num <= 1.5 * budget + 16, f"with_budget({budget}): evaluates {num} sequences"
        assert num >= budget / 4, f"with_budget({budget}): evaluates {num} sequences"

    def broken(actions: Tensor) -> Tensor:
        return torch.full((len(actions),), torch.nan)

    def shaped(actions: Tensor) -> Tensor:
        return cost(actions)[:, None]

    for of, error in ((broken, PlanningError), (shaped, ValueError)):
        try:
            plan(of, specs["bounds"])
        except error:
            continue
        raise AssertionError(f"plan: took costs that are {of.__name__}, want a {error.__name__}")


def _count_evaluations(planner: Planner, cost: Callable[[Tensor], Tensor], spec: ActionSpec) -> int:
    """Sequences that a plan evaluates; a gradient counts as the work it is."""
    import torch

    from robot_wm.planners import GRADIENT_COST

    num = 0

    def counted(actions: Tensor) -> Tensor:
        nonlocal num
        num += len(actions) * (1 + GRADIENT_COST * actions.requires_grad)
        return cost(actions)

    planner.plan(counted, spec, init=None, generator=torch.Generator().manual_seed(3))
    return num


def check_controller(
    make: Callable[[], Controller],
    env: Env,
    goal: Goal,
    *,
    num_steps: int = 3,
    seed: int = 0,
) -> None:
    """Runs a Controller through what `run_episode` expects of it.

    Args:
        make: builds the controller; called twice.
        env: that it acts on.
        goal: that it can be after.
        num_steps: decisions to ask for.
        seed: of the env's start.

    Raises:
        AssertionError: names the promise that is broken.
    """
    controller = make()
    first = _decisions(controller, env, goal, num_steps, seed)
    for what, other in (("a twin", make()), ("the same after another reset", controller)):
        for a, b in zip(first, _decisions(other, env, goal, num_steps, seed), strict=True):
            assert np.array_equal(a.action, b.action), f"act: {what} decides otherwise"
            assert a.kind == b.kind and a.energy == b.energy, f"act: {what} decides otherwise"


def _decisions(
    controller: Controller, env: Env, goal: Goal, num_steps: int, seed: int
) -> list[Decision]:
    spec, decisions = env.action_spec, []
    env.reset(seed)
    controller.reset(goal)
    applied: FloatArray | None = None
    for _ in range(num_steps):
        decision = controller.act(env.observe(), applied)
        assert isinstance(decision, Decision), f"act: returned {type(decision).__name__}"
        action = decision.action
        assert np.shape(action) == (spec.size,), f"act: action of shape {np.shape(action)}"
        assert np.isfinite(action).all(), f"act: action {action}"
        beyond = np.abs(spec.clip(action) - action).max()
        assert beyond < 1e-6, f"act: action {action}, beyond what is legal by {beyond:.2g}"
        _check_kind("decision", decision.kind, get_args(DecisionKind))
        assert decision.goal == 0, f"act: after goal {decision.goal} of one"
        assert decision.energy is None or math.isfinite(decision.energy), "act: energy not finite"
        if decision.foresee is not None:
            _, energy = decision.foresee(spec.rest)
            assert math.isfinite(energy), "foresee: an energy that is not finite"
        applied = env.apply(action)
        decisions.append(decision)
    return decisions


def _check_kind(what: str, kind: str, allowed: Sequence[object]) -> None:
    flat = [one for group in allowed for one in (get_args(group) or (group,))]
    assert kind in flat, f"{what}: of kind {kind!r}, want one of {flat}"


def check_guard(make: Callable[[], Guard], env: Env, controller: Controller, goal: Goal) -> None:
    """Runs a Guard beside a controller that does nothing wrong.

    Args:
        make: builds the guard; called twice.
        env: the robot.
        controller: acts on it.
        goal: that it is after.

    Raises:
        AssertionError: names the promise that is broken.
    """
    for guard in (make(), make()):
        env.reset(0)
        controller.reset(goal)
        applied: FloatArray | None = None
        for _ in range(3):
            seen = env.observe()
            decision = controller.act(seen, applied)
            before = decision.action.copy()
            verdict = guard.check(seen, decision, applied)
            assert isinstance(verdict, Verdict), f"check: returned {type(verdict).__name__}"
            _check_kind("verdict", verdict.kind, get_args(VerdictKind))
            assert verdict.kind == "go on" or verdict.reason, "check: no reason given"
            assert all(map(math.isfinite, verdict.numbers.values())), "check: numbers not finite"
            assert np.array_equal(decision.action, before), "check: changed the decision's action"
            if verdict.kind == "fault":
                break
            applied = env.apply(decision.action)


def check_task(
    make: Callable[[], Task], *, seeds: tuple[int, int] = (0, 1), tolerance: float = 2e-3
) -> None:
    """Runs a Task through what evaluation and the oracles expect of it.

    Args:
        make: builds the task.
        seeds: of two episodes.
        tolerance: by which the cost that `simulate` says may differ from what `apply` leads to.

    Raises:
        AssertionError: names the promise that is broken.
    """
    task = make()
    env, spec = task.env, task.env.action_spec
    try:
        first, second = (task.episode(seed) for seed in seeds)
        assert json.loads(json.dumps(first)) == first, "episode: it is no JSON"
        assert first.get("seed") == seeds[0], "episode: want its seed in it"
        assert task.episode(seeds[0]) == first, "episode: another one of the same seed"
        goals = list_goals(task.start(first))
        for goal in goals:
            assert set(goal.images) <= set(env.observe().images), (
                "start: a goal by no camera of the env"
            )
            for name, image in goal.images.items():
                check_image(image, f"goal {name!r}")
        seen, said = env.observe(), task.judge()
        for name, measure in said.measures.items():
            assert math.isfinite(measure.value), f"judge: {name} is {measure.value}"
            assert measure.unit, f"judge: {name} has no unit"
        task.start(second)
        again = list_goals(task.start(first))
        assert len(again) == len(goals), "start: other goals the second time"
        for one, other in zip(goals, again, strict=True):
            for name, image in one.images.items():
                assert np.array_equal(image, other.images[name]), (
                    "start: another goal the second time"
                )
        assert_same(env.observe(), seen, "start")
        rng = np.random.default_rng(0)
        actions = spec.clip(rng.uniform(spec.low, spec.high, (3, 2, spec.size)))
        told = task.simulate(actions)
        assert told.shape == (3, 2), f"simulate: returned shape {told.shape}, want (3, 2)"
        assert np.isfinite(told).all(), "simulate: costs are not finite"
        pictures = task.look_ahead(actions)
        assert [len(row) for row in pictures] == [2, 2, 2], "look_ahead: want a picture an action"
        changed = abs(task.judge().cost - said.cost)
        assert changed < _STILL_M, f"simulate, look_ahead: they changed the cost by {changed:.2g}"
        moved = np.abs(env.observe().proprio - seen.proprio).max()
        assert moved < _STILL_M, f"simulate, look_ahead: they moved the env by {moved:.2g}"
        for h in range(2):
            env.apply(actions[0, h])
            off = abs(task.judge().cost - told[0, h])
            assert off < tolerance, f"simulate: {off:.4f} from what apply does"
    finally:
        env.close()


def check_world_model(
    make: Callable[[], WorldModel], looks: Sequence[tuple[Observation, FloatArray | None]]
) -> None:
    """Runs a WorldModel through what training, examination, planning and monitors expect of it.

    Args:
        make: builds the model, the same at every call.
        looks: three or more in a row through its cameras, and what became of the action before
            each; None with the first.

    Raises:
        AssertionError: names the promise that is broken.
    """
    import torch

    from robot_wm.data import Batch
    from robot_wm.models import EncodedFrames, ModelInfo

    model = make()
    info = model.info
    assert isinstance(info, ModelInfo), f"info: got a {type(info).__name__}"
    size, tokens, device = info.action_spec.size, (info.num_tokens, info.dim), None
    for parameter in getattr(model, "parameters", lambda: ())():
        device = parameter.device
    horizon = min(3, info.longest_horizon)
    rng = torch.Generator().manual_seed(0)
    bounds = torch.tensor(info.action_spec.high, dtype=torch.float32)
    actions = ((2 * torch.rand((5, horizon, size), generator=rng) - 1) * bounds).to(device)

    def noise() -> torch.Generator:
        return torch.Generator(actions.device).manual_seed(3)

    def imagine(state: object, some: torch.Tensor = actions) -> torch.Tensor:
        with torch.no_grad():
            return model.rollout(state, some, noise()).mean

    state, before = model.initial(), None
    for look, applied in looks:
        before, state = state, model.observe(state, look, applied)
        (latent,) = model.latent(state)
        assert tuple(latent.shape) == tokens, f"latent: got {tuple(latent.shape)}, want {tokens}"
        seen = model.embed(look.images)
        assert torch.allclose(latent, seen, atol=1e-5), (
            "latent: another than embed's of the picture"
        )
    known = torch.get_rng_state()
    futures = imagine(state)
    assert futures.shape == (5, horizon, *tokens), f"rollout: got {tuple(futures.shape)}"
    assert futures.isfinite().all(), "rollout: not finite"
    assert torch.equal(imagine(state), futures), "rollout: another one of the same generator"
    assert torch.equal(torch.get_rng_state(), known), "rollout: torch's own randomness was used"
    last = actions.clone()
    last[:, -1] = -last[:, -1]
    early = imagine(state, last)[:, : horizon - 1]
    assert torch.allclose(early, futures[:, : horizon - 1], atol=1e-5), (
        "rollout: a later action changed an earlier latent"
    )
    old = imagine(before)
    model.observe(before, looks[-1][0], looks[-1][1])
    assert torch.equal(imagine(before), old), "observe: it changed the state that it was given"
    wanted = actions.clone().requires_grad_()
    model.rollout(state, wanted, noise()).mean[:, -1].square().sum().backward()
    assert wanted.grad is not None and wanted.grad.abs().sum() > 0, (
        "rollout: no gradient of actions"
    )

    num, frames = 4, max(4, info.context_frames + horizon)
    data = Batch(
        tokens=torch.randn((num, frames, *tokens), generator=rng),
        proprio=torch.randn((num, frames, len(info.state_names)), generator=rng) * 0.1,
        actions=(2 * torch.rand((num, frames - 1, size), generator=rng) - 1) * bounds,
        episodes=torch.arange(num),
        starts=torch.zeros(num, dtype=torch.int64),
    )
    state = model.initial()
    for t in range(info.context_frames):
        applied = data.actions[:, t - 1].to(device) if t else None
        state = model.observe(state, EncodedFrames(data.tokens[:, t], data.proprio[:, t]), applied)
    shape = tuple(model.latent(state).shape)
    assert shape == (num, *tokens), f"latent: of {num} episodes got {shape}"
    assert len(imagine(state, actions[:num])) == num, "rollout: of as many episodes as candidates"

    if hasattr(model, "parameters"):
        learner = make()
        learner.train().requires_grad_(True)  # type: ignore[attr-defined] - it is an nn.Module
        losses = [learner.loss(data, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
        assert float(losses[0][0].detach()) == float(losses[1][0].detach()), (
            "loss: another one of the same generator"
        )
        assert "loss" in losses[0][1], "loss: its metrics have no 'loss'"
        losses[0][0].backward()
        learned = sum(float(p.grad.abs().sum()) for p in learner.parameters() if p.grad is not None)  # type: ignore[attr-defined]
        assert learned > 0, "loss: no gradient of any parameter"

    first, _ = looks[0]
    bad_proprio = Observation(first.images, np.full_like(first.proprio, np.nan), 0.0)
    for what, look, applied in (
        ("a proprio that is not finite", bad_proprio, None),
        ("no picture", Observation({}, first.proprio, 0.0), None),
        ("an action that is not finite", first, np.full(size, np.nan)),
        ("an action of another size", first, np.zeros(size + 1)),
    ):
        try:
            model.observe(model.observe(model.initial(), first, None), look, applied)
        except ValueError:
            continue
        raise AssertionError(f"observe: took {what}, want a ValueError")


def check_robot(make: Callable[[], RobotModel], *, num: int = 40) -> None:
    """Runs a RobotModel through what simulation, governor and actions expect of it.

    Args:
        make: builds the arm.
        num: places of its workspace that are tried.

    Raises:
        AssertionError: names the promise that is broken.
    """
    from robot_wm.kinematics.mjcf import load_mujoco

    robot = make()
    chain, limits, rng = robot.chain, robot.limits, np.random.default_rng(0)
    low, high = chain.joint_range.T
    assert robot.name and "/" not in robot.name, f"name: got {robot.name!r}"
    mujoco = load_mujoco()
    model = mujoco.MjModel.from_xml_string(robot.xml, dict(robot.assets))
    data = mujoco.MjData(model)
    servos = [model.actuator(i).name for i in range(model.nu)]
    assert sorted(servos) == sorted(robot.joints), f"xml: actuators {servos}, want one per joint"
    qpos = [int(model.joint(name).qposadr[0]) for name in robot.joints]
    for joints in rng.uniform(low, high, (5, len(low))):
        data.qpos[qpos] = joints
        mujoco.mj_kinematics(model, data)
        off_m = np.abs(chain.tool(joints)[:3, 3] - data.site(robot.tool).xpos).max()
        assert off_m < 1e-9, f"chain: its tool is {off_m:.2g} m from MuJoCo's"
        step = 1e-6
        moved = [chain.tool(joints + step * axis)[:3, 3] for axis in np.eye(len(low))]
        slope = (np.array(moved) - chain.tool(joints)[:3, 3]).T / step
        assert np.abs(slope - chain.jacobian(joints)[:3]).max() < 1e-4, "chain: a wrong Jacobian"
    _check_stands(robot, robot.home, "home")
    if robot.park is not None:
        _check_stands(robot, robot.park, "park")
    assert (limits.low >= low - 1e-9).all() and (limits.high <= high + 1e-9).all(), (
        "limits: wider than the joints"
    )
    for place in rng.uniform(robot.workspace_low, robot.workspace_high, (num, 4)):
        joints, error_m = robot.reach(place[:3], robot.home)
        joints = robot.opened(joints, place[3])
        assert error_m < 5e-3, f"workspace: {place[:3]} is {error_m:.3f} m out of reach"
        off_m = np.abs(robot.state(joints) - place).max()
        assert off_m < 5e-3, f"workspace: at {place} its state is {off_m:.3f} m off"
        _check_stands(robot, joints, f"workspace: at {place.round(3)}")
    if robot.device is not None:
        assert robot.device.names == robot.joints, "device: other joints than the arm's"
        again = robot.device.angles(robot.device.values(robot.home))
        assert np.abs(again - robot.home).max() < 1e-9, "device: its values do not come back"


def _check_stands(robot: RobotModel, joints: FloatArray, what: str) -> None:
    limits, corners = robot.limits, robot.chain.corners(joints[None])
    assert ((joints >= limits.low) & (joints <= limits.high)).all(), f"{what}: beyond the joints"
    inside = (corners >= limits.box_low).all() and (corners <= limits.box_high).all()
    assert inside, f"{what}: a corner of the arm is outside the box of its limits"
