"""What is handed down and comes back: frozen, and without a word on where it came from."""

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
    """What the robot sees and feels at one moment.

    Attributes:
        images: camera name -> uint8 RGB `[height, width, 3]`.
        proprio: `[Q]` float64, in the robot's units.
        stamp_s: time.monotonic() at capture, or simulated seconds.
    """

    images: Mapping[str, ImageArray]
    proprio: FloatArray
    stamp_s: float


@dataclass(frozen=True, eq=False)
class Goal:
    """A picture of what is wanted: camera name -> uint8 RGB `[height, width, 3]`."""

    images: Mapping[str, ImageArray]


def list_goals(wanted: Goal | Sequence[Goal]) -> list[Goal]:
    """One goal, or several that are to be reached one after the other, as a list."""
    return [wanted] if isinstance(wanted, Goal) else list(wanted)


@dataclass(frozen=True, eq=False)
class Futures:
    """What a world model imagines, as torch.Tensors.

    Attributes:
        latents: after each action `[N, H, P, D]`; of a model with K heads `[N, H, K, P, D]`.
        reward: predicted after each action `[N, H]`; None of a family that predicts none.
        value: of being there `[N, H]`; None likewise.
        continuation: chance that the episode goes on `[N, H]`; None likewise.
        kept: which candidates these are, indices `[N]`; None: all that were asked for.
    """

    latents: Any
    reward: Any = None
    value: Any = None
    continuation: Any = None
    kept: Any = None

    @property
    def mean(self) -> Any:
        """Latents `[N, H, P, D]`: the mean of the heads, where there are several."""
        return self.latents.mean(-3) if self.latents.ndim == 5 else self.latents


@dataclass(frozen=True, eq=False)
class Plan:
    """A planner's answer.

    Attributes:
        actions: `[H, A]` in the robot's units, inside the ActionSpec.
        cost: predicted cost of `actions`, lower is better, finite.
        elites: the best sequences `[K, H, A]`, best first: seeds of the next search.
        info: diagnostics, name -> number or list of numbers: `cost_by_iteration` (the least so far,
            after every batch of candidates), `num_evaluated`, `num_finite`, `num_gradients`,
            `elite_costs`. For people and reports; no code decides on it.
    """

    actions: FloatArray
    cost: float
    elites: FloatArray | None = None
    info: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How the way to a goal ended, judged by what is seen alone.

    Attributes:
        kind: `"arrived"`: what is seen is near enough to the goal picture, and comes no nearer;
            `"stalled"`: it is not, and yet comes no nearer; `"out of time"`: the steps were used
            up before either.
        energy: distance of what is seen at the end to the goal picture, as the objective measures
            it.
        step_energy: the same distance between a picture of the training data and the next, on
            average; None where the checkpoint does not know it.
        goal: number of the goal picture, from 0.
    """

    kind: OutcomeKind
    energy: float
    step_energy: float | None = None
    goal: int = 0

    @property
    def steps_left(self) -> float | None:
        """The energy in steps of the training data; None where nobody knows what one is worth."""
        return self.energy / self.step_energy if self.step_energy else None

    def __str__(self) -> str:
        left = f"energy {self.energy:.3f} is left"
        if self.steps_left is not None:
            left += f", {self.steps_left:.2g} times what a step of the demonstrations changes"
        said = {
            "arrived": "arrived at the goal",
            "stalled": "stalled: this is as near as it gets",
            "out of time": "out of time before it arrived",
        }
        return f"{said[self.kind]}; {left}"


@dataclass(frozen=True, eq=False)
class Decision:
    """What a controller does about one look, and why.

    Attributes:
        action: to be executed, `[A]`, in the robot's units.
        kind: `"plan"`: the first action of a new plan; `"continue"`: the next of the last one;
            `"hold"`: nothing, for no plan is better than that by the margin; `"arrived"`: nothing,
            the last goal is reached; `"stalled"`: nothing, the last goal comes no nearer;
            `"out of time"`: nothing, the last goal's time is over; `"act"`: an action that no plan
            is behind.
        goal: number of the goal picture that it is after.
        energy: of what it saw: its distance to the goal picture, in the objective's terms; None
            of a controller that measures none.
        plan: behind the action; None where there is none.
        rest_cost: what doing nothing was predicted to cost, where a plan was made.
        left: how the way to a goal ended that it left behind at this look.
        latent: of what it saw, `[P, D]`, a torch.Tensor; None of a controller without a model.
        predict_one_step: what an action `[A]` leads to from this observation; it need not be the
            action above. Returns the latent `[P, D]` imagined, the mean of them where there are
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
    predict_one_step: Callable[[FloatArray], tuple[Any, float]] | None = None

    def __post_init__(self) -> None:
        _check_kind("decision", self.kind, DecisionKind)

    @property
    def planned(self) -> bool:
        """Whether a plan was made for it and held against doing nothing."""
        return self.rest_cost is not None


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a guard says of a decision.

    Attributes:
        kind: `"go on"`; `"hold"`: the arm does nothing in this turn; `"fault"`: the run is over.
        reason: why, in a sentence for people; empty where it goes on.
        numbers: what was measured, name -> number; for people and records.
    """

    kind: VerdictKind = "go on"
    reason: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:  # one that nobody knows would be taken for "go on"
        _check_kind("verdict", self.kind, VerdictKind)


def _check_kind(what: str, kind: str, allowed: Any) -> None:
    """Raises ValueError unless a kind is one of a Literal's."""
    known = [one for group in get_args(allowed) for one in (get_args(group) or (group,))]
    if kind not in known:
        raise ValueError(f"{what}: got kind {kind!r}, want one of {', '.join(known)}")


@dataclass(frozen=True)
class Measure:
    """One thing that a task measures, for people and reports.

    Attributes:
        value: what was measured, in `unit`.
        unit: `"m"`, `"deg"`, `"share"`, `"N"`, ...
        enough: from where on it counts as reached; None: it decides nothing by itself.
        rising: whether more is better.
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
    """What a task says of the true state.

    Attributes:
        success: whether an episode that ended now would be one.
        measures: name -> measure; the first is what reports draw over time.
    """

    success: bool
    measures: Mapping[str, Measure]

    def __post_init__(self) -> None:
        if not self.measures:
            raise ValueError("measures: got none, want at least 1")

    @property
    def first(self) -> tuple[str, Measure]:
        """The measure that reports draw over time, and its name."""
        return next(iter(self.measures.items()))

    @property
    def cost(self) -> float:
        """The first measure, its sign so that lower is better."""
        _, measure = self.first
        return -measure.value if measure.rising else measure.value


class PlanningError(RunError):
    """The planner found nothing it can stand behind; no action comes out."""
