"""Frozen values that pass between env, controller, world model and planner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from robot_wm.types.checks import FloatArray, ImageArray
from robot_wm.types.errors import RunError

OutcomeKind = Literal["arrived", "stalled", "out of time"]
DecisionKind = Literal["plan", "continue", "hold", "act", OutcomeKind]
VerdictKind = Literal["go on", "hold", "fault"]


@dataclass(frozen=True, eq=False)
class Observation:
    """Pictures and proprioception at one moment.

    Attributes:
        images: Pictures by camera name, uint8 RGB `[height, width, 3]`.
        proprio: Proprioception, `[Q]` float64, in the robot's units.
        stamp_s: Time at capture by time.monotonic(), or the simulated time, s.
    """

    images: Mapping[str, ImageArray]
    proprio: FloatArray
    stamp_s: float


@dataclass(frozen=True, eq=False)
class Goal:
    """A goal, given by pictures.

    Attributes:
        images: Pictures by camera name, uint8 RGB `[height, width, 3]`.
    """

    images: Mapping[str, ImageArray]


def list_goals(goals: Goal | Sequence[Goal]) -> list[Goal]:
    """Returns one goal, or several that are to be reached one after the other, as a list."""
    return [goals] if isinstance(goals, Goal) else list(goals)


@dataclass(frozen=True, eq=False)
class Futures:
    """The futures that a world model imagines, as torch.Tensors.

    Attributes:
        latents: Latents after each action `[N, H, P, D]`, or `[N, H, K, P, D]` of a model with K
            heads.
        reward: Predicted reward after each action `[N, H]`; None if the family predicts none.
        value: Predicted value of the state after each action `[N, H]`; None likewise.
        continuation: Predicted chance that the episode goes on `[N, H]`; None likewise.
        kept: Indices of these candidates `[N]`; None for all candidates.
    """

    latents: Any
    reward: Any = None
    value: Any = None
    continuation: Any = None
    kept: Any = None

    @property
    def mean(self) -> Any:
        """Latents `[N, H, P, D]`: the mean of the heads if there are several."""
        return self.latents.mean(-3) if self.latents.ndim == 5 else self.latents


@dataclass(frozen=True, eq=False)
class Plan:
    """The result of a planner.

    Attributes:
        actions: Actions `[H, A]`, in the robot's units, inside the ActionSpec.
        cost: Predicted cost of `actions`; lower is better, finite.
        elites: The best sequences `[K, H, A]`, best first, which start the next search.
        info: Diagnostics by name, numbers or lists of numbers: `cost_by_iteration` (the least so
            far, after every batch of candidates), `num_evaluated`, `num_finite`, `num_gradients`,
            `elite_costs`. They are for people and reports; no code decides on them.
    """

    actions: FloatArray
    cost: float
    elites: FloatArray | None = None
    info: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How the pursuit of a goal ended, judged by observations only.

    Attributes:
        kind: Kind of the ending. `"arrived"`: the observation is near enough to the goal and comes
            no nearer; `"stalled"`: it is not, but comes no nearer; `"out of time"`: the steps were
            used up before either.
        energy: Distance of the last observation to the goal picture, as the objective measures it.
        step_energy: Mean of the same distance between consecutive pictures of the training data;
            None if the checkpoint does not contain it.
        goal: Number of the goal, from 0.
    """

    kind: OutcomeKind
    energy: float
    step_energy: float | None = None
    goal: int = 0

    @property
    def steps_left(self) -> float | None:
        """The energy in steps of the training data; None if `step_energy` is not known."""
        return self.energy / self.step_energy if self.step_energy else None

    def __str__(self) -> str:
        remaining = f"energy {self.energy:.3f} is left"
        if self.steps_left is not None:
            remaining += f", {self.steps_left:.2g} times what a step of the demonstrations changes"
        endings = {
            "arrived": "arrived at the goal",
            "stalled": "stalled: this is as near as it gets",
            "out of time": "out of time before it arrived",
        }
        return f"{endings[self.kind]}; {remaining}"


@dataclass(frozen=True, eq=False)
class Decision:
    """A controller's decision on one observation, and its reasons.

    Attributes:
        action: The action to execute, `[A]`, in the robot's units.
        kind: What the action is. `"plan"`: the first action of a new plan; `"continue"`: the next
            of the last one; `"hold"`: a no-op, because no plan is better than that by the margin;
            `"arrived"`: a no-op, the last goal is reached; `"stalled"`: a no-op, the last goal
            comes no nearer; `"out of time"`: a no-op, the last goal's time is over; `"act"`: an
            action without a plan.
        goal: Number of the goal that is pursued.
        energy: Distance of the observation to the goal picture, as the objective measures it; None
            for a controller that measures none.
        plan: The plan that the action is from; None without one.
        rest_cost: Predicted cost of the no-op, if a plan was made.
        left: How the pursuit of the previous goal ended, if it ended at this observation.
        latent: Latent of the observation, `[P, D]`, a torch.Tensor; None for a controller without
            a model.
        predict: Predicts the result of any action `[A]`, or of several in a row `[H, A]`, from this
            observation. Returns the latent `[P, D]` after the last one, the mean if there are
            several, and its energy.
    """

    action: FloatArray
    kind: DecisionKind = "act"
    goal: int = 0
    energy: float | None = None
    plan: Plan | None = None
    rest_cost: float | None = None
    left: Outcome | None = None
    latent: Any = None
    predict: Callable[[FloatArray], tuple[Any, float]] | None = None

    def __post_init__(self) -> None:
        _check_kind("decision", self.kind, DecisionKind)

    @property
    def planned(self) -> bool:
        """Whether a plan was made for this decision and compared with the no-op."""
        return self.rest_cost is not None


@dataclass(frozen=True, eq=False)
class Verdict:
    """A guard's judgement of a decision.

    Attributes:
        kind: What happens next. `"go on"`: the decision is executed; `"hold"`: the arm stands still
            in this step; `"fault"`: the run ends.
        reason: The reason, in a sentence for people; empty for `"go on"`.
        numbers: Measured values by name, for people and records.
    """

    kind: VerdictKind = "go on"
    reason: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:  # an unknown kind would be treated as "go on"
        _check_kind("verdict", self.kind, VerdictKind)


def _check_kind(what: str, kind: str, allowed: Any) -> None:
    """Raises ValueError unless `kind` is a member of the Literal `allowed`."""
    kinds = get_args(allowed)  # a Literal within a Literal is flattened
    if kind not in kinds:
        raise ValueError(f"{what}: got kind {kind!r}, want one of {', '.join(kinds)}")


@dataclass(frozen=True)
class Measure:
    """A quantity that a task measures, for people and reports.

    Attributes:
        value: The measured value, in `unit`.
        unit: Unit, such as `"m"`, `"deg"`, `"share"` or `"N"`.
        enough: Threshold from which on the measure counts as reached; None without a threshold.
        rising: Whether a larger value is better.
    """

    value: float
    unit: str
    enough: float | None = None
    rising: bool = False

    @property
    def reached(self) -> bool:
        """Whether the value is beyond `enough`."""
        if self.enough is None:
            return False
        return self.value > self.enough if self.rising else self.value < self.enough


@dataclass(frozen=True)
class Judgement:
    """A task's judgement of the true state.

    Attributes:
        success: Whether an episode that ended now would be a success.
        measures: The measures by name; reports plot the first over time.
        to_go: What an oracle minimises, such as the way that is left; None: the first measure.
    """

    success: bool
    measures: Mapping[str, Measure]
    to_go: float | None = None

    def __post_init__(self) -> None:
        if not self.measures:
            raise ValueError("measures: got none, want at least 1")

    @property
    def first(self) -> tuple[str, Measure]:
        """Name and value of the measure that reports plot over time."""
        return next(iter(self.measures.items()))

    @property
    def cost(self) -> float:
        """What oracles minimise: `to_go`, or the first measure with lower being better."""
        if self.to_go is not None:
            return self.to_go
        _, measure = self.first
        return -measure.value if measure.rising else measure.value


class PlanningError(RunError):
    """The planner found no valid plan, so there is no action."""
