"""Values and seams that every room of the house shares. numpy only, no torch.

Dimension legend, used in every docstring and tail comment of the project:

    B batch      T time (frames)   N candidates   H horizon (actions)   P tokens per frame
    D token dim  A action size     Q proprio size C channels

Units: metres, radians, seconds. Images are uint8 RGB `[height, width, 3]`. An `action` is in the
robot's own units everywhere above a world model; a normalised one is called `action_n`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
ImageArray = NDArray[np.uint8]
OutcomeKind = Literal["arrived", "stalled", "out of time"]
DecisionKind = Literal["plan", "continue", "hold", "act", OutcomeKind]
VerdictKind = Literal["go on", "hold", "fault"]


def check_counts(low: int = 1, **values: object) -> None:
    """Raises ValueError unless every value is a whole number of at least `low`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name}: got {value!r}, want a whole number of at least {low}")


def check_image(image: ImageArray, what: str = "image") -> None:
    """Raises ValueError unless `image` is uint8 RGB `[height, width, 3]`."""
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
        raise ValueError(f"{what}: got {dtype} {shape}, want uint8 [height, width, 3]")


@dataclass(frozen=True, eq=False)
class ActionSpec:
    """The legal actions of a robot: a named, bounded box, and within it a trust region.

    Attributes:
        names: one name per dimension, A of them, e.g. `("ee.x", "ee.y", "ee.z", "gripper")`.
        low: lower bound per dimension, `[A]`, in `units`.
        high: upper bound per dimension, `[A]`, in `units`, above `low`.
        units: one unit per dimension, e.g. `("m", "m", "m", "m")`.
        scale: what counts as a large action per dimension, `[A]`, in `units`: the unit of a
            search's spread and of the trust region; half of the range where None.
        fixed: name -> the value that this dimension always has; within the bounds.
        trust_radius: the largest norm of an action's free dimensions, seen from `rest`, over
            `scale`; None: the bounds alone.
        trust_norm: of that norm: `"l2"`, a ball, or `"box"`, the largest of the dimensions.

    Raises:
        ValueError: lengths differ, a bound is not finite, `low` is not below `high`, or a scale,
            a fixed value or a radius makes no sense.
    """

    names: tuple[str, ...]
    low: FloatArray
    high: FloatArray
    units: tuple[str, ...]
    scale: FloatArray | None = None
    fixed: Mapping[str, float] = field(default_factory=dict)
    trust_radius: float | None = None
    trust_norm: Literal["l2", "box"] = "l2"

    def __post_init__(self) -> None:
        low, high = np.array(self.low, np.float64), np.array(self.high, np.float64)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "units", tuple(self.units))
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        size = len(self.names)
        if not size or low.shape != (size,) or high.shape != (size,) or len(self.units) != size:
            raise ValueError(
                f"ActionSpec: got {size} names, {len(self.units)} units, low {low.shape} and "
                f"high {high.shape}; want one of each per dimension"
            )
        for name, lo, hi in zip(self.names, low, high, strict=True):
            if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
                raise ValueError(f"ActionSpec: {name} is bounded by [{lo}, {hi}]; want low < high")
        if self.scale is not None:
            try:
                scale = np.array(self.scale, np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(f"scale: got {self.scale!r}, want {size} numbers") from error
            if scale.shape != (size,) or not (np.isfinite(scale) & (scale > 0)).all():
                raise ValueError(f"scale: got {self.scale}, want {size} finite numbers above zero")
            scale.setflags(write=False)
            object.__setattr__(self, "scale", scale)
        try:
            object.__setattr__(self, "fixed", {k: float(v) for k, v in self.fixed.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"fixed: got {self.fixed!r}, want a number per name") from error
        for name, value in self.fixed.items():
            if name not in self.names:
                raise ValueError(f"fixed: got {name!r}, want one of {', '.join(self.names)}")
            i = self.names.index(name)
            if not low[i] <= value <= high[i]:
                raise ValueError(f"fixed: got {name}={value}, want {low[i]:g} to {high[i]:g}")
        if self.trust_norm not in ("l2", "box"):
            raise ValueError(f"trust_norm: got {self.trust_norm!r}, want 'l2' or 'box'")
        radius = self.trust_radius
        if radius is not None and not (isinstance(radius, int | float) and 0 < radius < np.inf):
            raise ValueError(f"trust_radius: got {radius}, want a number above zero, or None")
        low.setflags(write=False)
        high.setflags(write=False)

    @property
    def size(self) -> int:
        """Number of action dimensions, A."""
        return len(self.names)

    @property
    def unit(self) -> FloatArray:
        """`scale`, or half of the range where there is none, `[A]`."""
        return (self.high - self.low) / 2 if self.scale is None else self.scale

    @property
    def free(self) -> NDArray[np.bool_]:
        """Which dimensions may be chosen, `[A]`."""
        return np.array([name not in self.fixed for name in self.names])

    @property
    def rest(self) -> FloatArray:
        """The legal action nearest to none at all, `[A]`: what is done where nothing is."""
        rest = np.clip(np.zeros(self.size), self.low, self.high)
        for name, value in self.fixed.items():
            rest[self.names.index(name)] = value
        return rest

    def within(self, other: ActionSpec) -> ActionSpec:
        """What both allow: the narrower bounds, what either fixes, the trust region of both.

        Raises:
            ValueError: the two name different actions, or contradict each other.
        """
        if self.names != other.names:
            raise ValueError(
                f"actions: got {self.size} ({', '.join(self.names)}) and {other.size} "
                f"({', '.join(other.names)}), want the same"
            )
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        for name in self.fixed.keys() & other.fixed.keys():
            if self.fixed[name] != other.fixed[name]:
                raise ValueError(
                    f"fixed: got {name}={self.fixed[name]} and {other.fixed[name]}, want one"
                )
        scale, radius, norm = self.scale, self.trust_radius, self.trust_norm
        if radius is None:
            radius, norm = other.trust_radius, other.trust_norm
            scale = other.scale if scale is None else scale
        elif other.trust_radius is not None:
            if norm != other.trust_norm or not np.array_equal(self.unit, other.unit):
                raise ValueError(
                    "trust_radius: two trust regions of another shape cannot be joined"
                )
            radius = min(radius, other.trust_radius)
        return ActionSpec(
            self.names,
            low,
            high,
            self.units,
            scale=scale,
            fixed={**other.fixed, **self.fixed},
            trust_radius=radius,
            trust_norm=norm,
        )

    def clip(self, action: FloatArray) -> FloatArray:
        """Returns `action` `[..., A]` moved to a legal one, float64.

        Into the bounds dimension by dimension, then straight toward `rest` into the trust region.

        Raises:
            ValueError: wrong size, or not finite (clipping would let NaN through).
        """
        action = np.asarray(action, np.float64)
        if action.shape[-1:] != (self.size,):
            raise ValueError(f"action: got shape {action.shape}, want [..., {self.size}]")
        if not np.isfinite(action).all():
            raise ValueError(f"action: got {action}, want finite numbers")
        action = np.where(self.free, np.clip(action, self.low, self.high), self.rest)
        if self.trust_radius is None:
            return action
        away = (action - self.rest) / self.unit
        if self.trust_norm == "box":
            away = np.clip(away, -self.trust_radius, self.trust_radius)
        else:
            norm = np.linalg.norm(away, axis=-1, keepdims=True)
            away = away / np.maximum(1, norm / self.trust_radius)
        return self.rest + away * self.unit


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
        foresee: what an action `[A]` from this look leads to, which need not be the one above: the
            latent `[P, D]` imagined, the mean of them where there are several, and its energy.
    """

    action: FloatArray
    kind: DecisionKind = "act"
    goal: int = 0
    energy: float | None = None
    plan: Plan | None = None
    rest_cost: float | None = None
    left: Outcome | None = None
    latent: Any = None
    foresee: Callable[[FloatArray], tuple[Any, float]] | None = None

    @property
    def planned(self) -> bool:
        """Whether a plan was made for it, followed or not."""
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


class PlanningError(RuntimeError):
    """The planner found nothing it can stand behind; no action comes out."""


@runtime_checkable
class Env(Protocol):
    """A robot and what surrounds it, simulated or real."""

    @property
    def action_spec(self) -> ActionSpec: ...

    @property
    def control_dt(self) -> float:
        """Seconds from one `apply` to the next."""
        ...

    def reset(self, seed: int) -> Observation:
        """Brings the robot to a start that `seed` alone decides, and looks."""
        ...

    def observe(self) -> Observation: ...

    def apply(self, action: FloatArray) -> FloatArray:
        """Executes `action` `[A]` for `control_dt`; returns what was really executed, `[A]`."""
        ...

    def stop(self) -> None:
        """Brings the robot to rest and holds it there. Never raises."""
        ...

    def close(self) -> None: ...


class Controller(Protocol):
    """Chooses actions toward a goal picture, one look at a time."""

    def reset(self, goal: Goal | Sequence[Goal]) -> None:
        """Begins an episode toward a goal, or several, one after the other."""
        ...

    def act(self, obs: Observation, applied: FloatArray | None) -> Decision:
        """Decides what is done next; `applied` is what became of the last action, if any."""
        ...


class Guard(Protocol):
    """Judges every decision before it is executed."""

    def check(self, obs: Observation, decision: Decision, applied: FloatArray | None) -> Verdict:
        """Whether a decision on what is seen may be executed.

        Args:
            obs: what was seen.
            decision: about it.
            applied: what became of the last decision's action `[A]`; None at the first.
        """
        ...


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


class Task(Protocol):
    """A family of episodes on an Env that a true state can judge.

    The judge is for evaluation alone: no controller is ever handed a Task.
    """

    @property
    def env(self) -> Env: ...

    def episode(self, seed: int) -> Mapping[str, object]:
        """The episode that `seed` alone decides, as a manifest holds it: JSON, `seed` in it."""
        ...

    def start(self, episode: Mapping[str, object]) -> Goal | Sequence[Goal]:
        """Puts the env at the start of a manifest's episode; returns its goal picture, or several
        that are to be reached one after the other.
        """
        ...

    def judge(self) -> Judgement:
        """Whether the task is done now, and by what measures."""
        ...

    def simulate(self, actions: FloatArray) -> FloatArray:
        """`judge().cost` `[N, H]` after each action of `actions` `[N, H, A]` from here; leaves
        the env as it was.

        This is the state oracle's view of the simulator.
        """
        ...

    def look_ahead(self, actions: FloatArray) -> list[list[Mapping[str, ImageArray]]]:
        """What the cameras would see under `actions` `[N, H, A]`; leaves the env as it was.

        This is the latent oracle's view of the simulator: N lists of H pictures by camera name.
        """
        ...
