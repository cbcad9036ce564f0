"""The evaluation protocol: fixed episodes, a fixed budget, judged on the true final state."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from robot_wm.controller import MPC
from robot_wm.data import Batch
from robot_wm.files import replacing
from robot_wm.imagination import EXACT
from robot_wm.models import EncodedFrames, ModelInfo, Select, WorldModel
from robot_wm.objectives import Objective
from robot_wm.planners import Planner, shift
from robot_wm.runtime import Recorder, Step, run_episode
from robot_wm.types import (
    ActionSpec,
    Controller,
    Decision,
    FloatArray,
    Futures,
    Goal,
    ImageArray,
    Judgement,
    Measure,
    Observation,
    Outcome,
    Plan,
    PlanningError,
    Task,
    list_goals,
)

Episode = Mapping[str, object]


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one episode.

    Attributes:
        seed: Seed of the episode in its manifest.
        judged: The task's judgements, at the start and after every step.
        error: Why the planner gave up, after which the arm stays where it is; None: it did not.
    """

    seed: int
    judged: tuple[Judgement, ...]
    error: str | None = None

    @property
    def success_final(self) -> bool:
        """Whether the task was solved at the end."""
        return self.judged[-1].success

    @property
    def success_any(self) -> bool:
        """Whether the task was solved at any time; reported beside `success_final` only."""
        return any(judgement.success for judgement in self.judged)

    @property
    def measure(self) -> Measure:
        """The task's first measure at the end."""
        return self.judged[-1].first[1]

    @property
    def curve(self) -> tuple[float, ...]:
        """The task's first measure at the start and after every step."""
        return tuple(judgement.first[1].value for judgement in self.judged)


@dataclass(frozen=True)
class EpisodeTrace:
    """What the controller recorded over an episode.

    Attributes:
        energies: Energy before every action.
        plan_s: Time that every plan took, s.
        outcome: How the controller says that the episode ended; None: no plan was found, or it does
            not say.
    """

    energies: tuple[float, ...] = ()
    plan_s: tuple[float, ...] = ()
    outcome: Outcome | None = None


class _Row(msgspec.Struct, frozen=True):
    """A finished episode, as a line of the log."""

    method: str
    result: EpisodeResult
    trace: EpisodeTrace


def _to_plain(value: object) -> object:
    """Turns a numpy number into Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"got a {type(value).__name__}, want what a log may hold")


class EpisodeLog:
    """Writes every episode to disk as it ends, so that a stopped evaluation can be resumed.

    Args:
        path: A file of JSON lines, begun anew where it is of another evaluation; None: no file is
            written.
        about: A description of what is evaluated, which must be the same on resuming.
    """

    def __init__(self, path: Path | None, about: Mapping[str, object]) -> None:
        self._path, self._rows = path, dict[tuple[str, int], _Row]()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps({"about": about}, sort_keys=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = []
        for line in lines[1:] if lines[:1] == [head] else []:
            try:
                row = msgspec.convert(json.loads(line), _Row)
            except (ValueError, msgspec.ValidationError):  # cut off in the middle
                break
            self._rows[row.method, row.result.seed] = row
            rows.append(line)
        with replacing(path) as scratch:
            scratch.write_text("".join(f"{line}\n" for line in [head, *rows]), encoding="utf-8")

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, method: str, seed: int) -> tuple[EpisodeResult, EpisodeTrace] | None:
        """Returns the result and trace of an episode; None where it is not finished."""
        row = self._rows.get((method, seed))
        return None if row is None else (row.result, row.trace)

    def results(self, method: str) -> list[EpisodeResult]:
        """Returns the finished episodes of a method, in the order in which they ended."""
        return [row.result for (name, _), row in self._rows.items() if name == method]

    def add(self, method: str, result: EpisodeResult, trace: EpisodeTrace) -> None:
        """Adds a finished episode."""
        row = _Row(method, result, trace)
        self._rows[method, result.seed] = row
        if self._path is not None:
            # Not msgspec's own JSON, which writes what is not finite as null.
            plain = msgspec.to_builtins(row, enc_hook=_to_plain)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(plain) + "\n")


class _JudgementRecorder:
    """Records the task's judgement after every step."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.judged = [task.judge()]

    def record(self, step: Step) -> None:
        """See `Recorder.record`."""
        self.judged.append(self._task.judge())

    def finish(self, last: Observation) -> None:
        """Does nothing: the last judgement was recorded with the last step."""


def evaluate(
    task: Task,
    controller: Controller,
    episodes: Sequence[Episode],
    *,
    num_steps: int,
    num_hold_steps: int = 0,
    recorder: Callable[[int, list[Goal]], Recorder | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[EpisodeResult]:
    """Runs every episode of a manifest with one controller.

    Args:
        task: The task that judges; the controller never sees it.
        controller: The controller, which is reset for each episode.
        episodes: Episodes of a manifest.
        num_steps: Number of actions per episode; success does not end an episode early.
        num_hold_steps: Number of actions of no motion after them, before the last judgement.
        recorder: A function that returns one more recorder, or None, for an episode's index and
            goals.
        progress: A function that is called with (done, total) after every episode.

    Returns:
        A result per episode.
    """
    results = []
    for index, episode in enumerate(episodes):
        goal = task.start(episode)
        judgements = _JudgementRecorder(task)
        extra = recorder(index, list_goals(goal)) if recorder else None
        recorders = [judgements] if extra is None else [judgements, extra]
        error = None
        try:
            run_episode(task.env, controller, goal, num_steps=num_steps, recorders=recorders)
        except PlanningError as failure:
            error = str(failure)
        num_missing = num_steps + 1 - len(judgements.judged)
        judged = [*judgements.judged, *[task.judge()] * num_missing]
        for _ in range(num_hold_steps):  # what slides or falls comes to rest
            task.env.apply(task.env.action_spec.rest)
            judged[-1] = task.judge()
        results.append(EpisodeResult(int(str(episode["seed"])), tuple(judged), error))
        if progress:
            progress(index + 1, len(episodes))
    return results


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Computes the Wilson 95 % score interval of a share (Wilson 1927).

    Args:
        successes: Number of episodes that succeeded.
        n: Number of episodes.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: there are no episodes, or more successes than episodes.
    """
    from scipy.stats import binomtest  # slow to import

    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"wilson: got {successes} of {n}, want 0 <= successes <= n and n > 0")
    interval = binomtest(successes, n).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def paired_difference_ci95(
    ours: Sequence[EpisodeResult], theirs: Sequence[EpisodeResult], *, seed: int = 0
) -> tuple[float, float]:
    """Computes the bootstrap 95 % interval of the difference in final success, by episode.

    Args:
        ours: Results of one method.
        theirs: Results of the other method, on the same episodes.
        seed: Seed of the bootstrap.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: the two did not run the same episodes, or ran fewer than two.
    """
    from scipy.stats import bootstrap  # slow to import

    if [result.seed for result in ours] != [result.seed for result in theirs]:
        raise ValueError("paired_difference_ci95: the two lists hold different episodes")
    difference = np.array(
        [float(a.success_final) - float(b.success_final) for a, b in zip(ours, theirs, strict=True)]
    )
    interval = bootstrap(
        (difference,),
        np.mean,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def summarize(results: Sequence[EpisodeResult]) -> dict[str, object]:
    """Computes a method's figures on one task, as the report and `eval`'s last line have them.

    Every measure of the task is there by its name and unit, such as `final_distance_m_median`.

    Args:
        results: One result per episode.

    Returns:
        Figures by name.
    """
    n = len(results)
    measures = [result.judged[-1].measures for result in results]
    medians = {
        f"final_{name}_{measure.unit}_median": float(
            np.median([measured[name].value for measured in measures])
        )
        for name, measure in measures[0].items()
    }
    num_successes = sum(result.success_final for result in results)
    return {
        "n": n,
        "success_final": num_successes / n,
        "success_final_ci95": list(wilson(num_successes, n)),
        "success_any": sum(result.success_any for result in results) / n,
        **medians,
    }


def count_outcomes(
    results: Sequence[EpisodeResult], outcomes: Sequence[Outcome | None]
) -> dict[str, dict[str, int]]:
    """Counts how the controller says that the episodes ended, and how many of each succeeded.

    Args:
        results: One result per episode.
        outcomes: One outcome per episode, as the controller says; None where it found no plan.

    Returns:
        Number of episodes `n` and of successes `success`, by kind of outcome.
    """
    counts: dict[str, dict[str, int]] = {}
    for result, outcome in zip(results, outcomes, strict=True):
        kind = outcome.kind if outcome else "no plan"
        count = counts.setdefault(kind, {"n": 0, "success": 0})
        count["n"] += 1
        count["success"] += result.success_final
    return counts


def plan_seconds(seconds: Sequence[float]) -> dict[str, float]:
    """Returns median and 95th percentile of planning times, s; zeros where there is none."""
    if not len(seconds):
        return {"median": 0.0, "p95": 0.0}
    return {"median": float(np.median(seconds)), "p95": float(np.percentile(seconds, 95))}


class RandomController:
    """A floor: executes random legal actions, the same ones for the same goal pictures."""

    def __init__(self, action_spec: ActionSpec, *, seed: int = 0) -> None:
        self._spec = action_spec
        self._seed = seed
        self._rng = np.random.default_rng(seed)

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """See `Controller.reset`."""
        pictures = b"".join(
            g.images[name].tobytes() for g in list_goals(goal) for name in sorted(g.images)
        )
        self._rng = np.random.default_rng((self._seed, zlib.crc32(pictures)))

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """See `Controller.act`."""
        return Decision(self._spec.clip(self._rng.uniform(self._spec.low, self._spec.high)))


class ZeroController:
    """A floor: does nothing."""

    def __init__(self, action_spec: ActionSpec) -> None:
        self._action = action_spec.clip(np.zeros(action_spec.size))

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Does nothing."""

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """See `Controller.act`."""
        return Decision(self._action, "hold")


class StateOracle:
    """A ceiling: plans with the same planner, on the true simulator and with the true cost.

    It shows that task, budget and action space are solvable before any model is judged.
    """

    def __init__(self, task: Task, planner: Planner, *, seed: int = 0) -> None:
        self._task = task
        self._planner = planner
        self._seed = seed
        self._generator = torch.Generator()
        self._plan: Plan | None = None

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """See `Controller.reset`."""
        self._generator.manual_seed(self._seed)
        self._plan = None

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """See `Controller.act`."""

        def cost(actions: Tensor) -> Tensor:
            costs = self._task.simulate(actions.detach().double().numpy())
            return torch.from_numpy(costs[:, -1]).float()

        init = None if self._plan is None else shift(self._plan, 1)
        self._plan = self._planner.plan(
            cost, self._task.env.action_spec, init=init, generator=self._generator
        )
        return Decision(self._plan.actions[0], "plan", plan=self._plan)


class LatentOracle(MPC):
    """A ceiling: plans with the same planner and latents, on futures that the simulator renders.

    No predictor behind this encoder can do better: a failure here is the encoder's, a failure
    beyond it the predictor's.

    Args:
        task: The task whose simulator renders the futures.
        model: The world model, of which only the embedding of pictures is used.
        planner: The planner that searches for the action sequence of the lowest cost.
        make_objective: A function that makes the objective from a goal's latent.
        action_spec: The legal actions, the same as the model's.
        seed: Seed of the planner's randomness.
    """

    def __init__(
        self,
        task: Task,
        model: WorldModel,
        planner: Planner,
        make_objective: Callable[[Tensor], Objective],
        action_spec: ActionSpec,
        *,
        seed: int = 0,
    ) -> None:
        future = _TrueFuture(task, model)
        # Nothing is saved: a rendered future costs what it costs, and is what it is.
        super().__init__(
            future, planner, make_objective, action_spec, seed=seed, search_budget=EXACT
        )


class _TrueFuture:
    """A world model that renders in the simulator instead of imagining (WorldModel)."""

    def __init__(self, task: Task, model: WorldModel) -> None:
        self._task = task
        self._model = model

    @property
    def info(self) -> ModelInfo:
        """See `WorldModel.info`."""
        return self._model.info

    def initial(self) -> None:
        """Does nothing: the simulator keeps the state."""

    def observe(
        self,
        state: Tensor | None,
        obs: Observation | EncodedFrames,
        applied: FloatArray | Tensor | None,
    ) -> Tensor:
        """Returns the observation's latent; the simulator keeps the rest of the state."""
        if isinstance(obs, EncodedFrames):
            raise NotImplementedError("a simulator sees for itself")
        return self.embed(obs.images)

    def latent(self, state: Tensor) -> Tensor:
        """See `WorldModel.latent`."""
        return state[None]

    def embed(self, images: Mapping[str, ImageArray]) -> Tensor:
        """See `WorldModel.embed`."""
        return self._model.embed(images).cpu()

    def rollout(
        self,
        state: Tensor,
        actions: Tensor,
        generator: Any = None,
        *,
        select: Select | None = None,
    ) -> Futures:
        """See `WorldModel.rollout`."""
        rendered = self._task.look_ahead(actions.detach().double().numpy())
        latents = [torch.stack([self.embed(images) for images in row]) for row in rendered]
        return Futures(torch.stack(latents))

    def loss(self, batch: Batch, *, generator: Any = None) -> tuple[Tensor, dict[str, float]]:
        """Raises NotImplementedError: a simulator is not trained."""
        raise NotImplementedError("a simulator does not learn")
