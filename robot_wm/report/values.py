"""Values of a report, without how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from robot_wm.report.units import show_enough
from robot_wm.types import FloatArray, ImageArray, Measure, check_image

Figures = Mapping[str, object]


@dataclass(frozen=True)
class MeasureLabel:
    """What a curve shows: the first measure of a task, without its value.

    Attributes:
        name: Name of the measure, such as `"distance"`.
        unit: Unit of the values, such as `"m"`.
        enough: Threshold of success; None: the measure alone does not decide it.
        rising: Whether a larger value is better.
    """

    name: str = "distance"
    unit: str = "m"
    enough: float | None = None
    rising: bool = False

    @classmethod
    def of(cls, name: str, measure: Measure) -> MeasureLabel:
        """Returns the label of a measure."""
        return cls(name, measure.unit, measure.enough, measure.rising)

    def reached(self, value: float) -> bool:
        """Returns whether a value is beyond `enough`."""
        return Measure(value, self.unit, self.enough, self.rising).reached

    @property
    def target(self) -> str:
        """`enough` in words, such as `"distance below 4 cm"`; empty where there is none."""
        if self.enough is None:
            return ""
        beyond = "above" if self.rising else "below"
        return f"{self.name} {beyond} {show_enough(self.enough, self.unit)}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Landscape:
    """The predicted cost over the first action, with the other dimensions held constant.

    Attributes:
        title: Title for people.
        dx_m: First action along x, `[K]`, metres, increasing.
        dy_m: First action along y, `[K]`, metres, increasing.
        energy: Predicted cost `[K, K]`, row = dy, column = dx; lower is better; no unit.
        toward_goal_m: (dx, dy) from the gripper to the true goal, metres; drawn as an arrow.
        planned_m: (dx, dy) of the planner's first action, metres; drawn as a dot.

    Raises:
        ValueError: shapes disagree, there are fewer than two columns or rows, or an axis does not
            increase.
    """

    title: str
    dx_m: FloatArray
    dy_m: FloatArray
    energy: FloatArray
    toward_goal_m: tuple[float, float]
    planned_m: tuple[float, float]

    def __post_init__(self) -> None:
        dx, dy, energy = (np.asarray(v) for v in (self.dx_m, self.dy_m, self.energy))
        if dx.ndim != 1 or dy.ndim != 1 or energy.shape != (dy.size, dx.size):
            raise ValueError(
                f"Landscape {self.title!r}: got dx_m {dx.shape}, dy_m {dy.shape} and energy "
                f"{energy.shape}, want [K], [K] and [K, K]"
            )
        for name, axis in (("dx_m", dx), ("dy_m", dy)):
            # NaN passes here: it is refused, with its key, when the report is rendered.
            if axis.size < 2 or (np.diff(axis) <= 0).any():
                raise ValueError(
                    f"Landscape {self.title!r}: {name} is {axis}, want 2 or more, increasing"
                )
        for name, pair in (("toward_goal_m", self.toward_goal_m), ("planned_m", self.planned_m)):
            if np.shape(pair) != (2,):
                raise ValueError(f"Landscape {self.title!r}: {name} is {pair}, want (dx, dy)")


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeVideo:
    """One episode as the camera saw it.

    Attributes:
        title: Title for people.
        frames: Camera pictures at the start and after every step, uint8 `[T, H, W, 3]`.
        goal: The goal picture, uint8 `[H, W, 3]`; or the one that was pursued at each frame, where
            there are sub-goals, `[T, H, W, 3]`.
        measured: The task's measure at each frame, `[T]`; None: it cannot be measured.
        fps: Frames per second to play at.

    Raises:
        ValueError: pictures are of another shape or type, there is another number of measurements
            than of frames, or `fps` is outside 0.1 to 240.
    """

    title: str
    frames: ImageArray
    goal: ImageArray
    measured: FloatArray | None
    fps: float

    def __post_init__(self) -> None:
        what = f"EpisodeVideo {self.title!r}"
        if np.ndim(self.frames) != 4 or not len(self.frames):
            raise ValueError(f"{what}: frames are {np.shape(self.frames)}, want [T, H, W, 3]")
        check_image(self.frames[0], f"{what}: frames")
        if np.ndim(self.goal) == 4 and len(self.goal) != len(self.frames):
            raise ValueError(
                f"{what}: got {len(self.frames)} frames and {len(self.goal)} goals, want one per "
                f"frame"
            )
        check_image(self.goal[0] if np.ndim(self.goal) == 4 else self.goal, f"{what}: goal")
        if self.measured is not None and np.shape(self.measured) != (len(self.frames),):
            raise ValueError(
                f"{what}: got {len(self.frames)} frames and measured {np.shape(self.measured)}, "
                f"want one value per frame"
            )
        if not 0.1 <= self.fps <= 240:
            raise ValueError(f"{what}: fps is {self.fps}, want 0.1 to 240")


@dataclass(frozen=True, eq=False, kw_only=True)
class Imagined:
    """What a model imagined at some moments of an episode, beside what then happened.

    Attributes:
        title: Title for people.
        steps: The moments, K of them, as numbers of actions since the start.
        horizon: Number of actions that it looked ahead.
        seen: What the camera saw then, uint8 `[K, H, W, 3]`.
        imagined: Pictures of what it imagined, likewise: real ones whose latents are nearest.
        happened: What the camera saw that many actions later, or at the end, likewise.

    Raises:
        ValueError: the pictures are not as many as the moments, or of another shape or type.
    """

    title: str
    steps: Sequence[int]
    horizon: int
    seen: ImageArray
    imagined: ImageArray
    happened: ImageArray

    def __post_init__(self) -> None:
        for name in ("seen", "imagined", "happened"):
            pictures = getattr(self, name)
            if np.ndim(pictures) != 4 or len(pictures) != len(self.steps) or not len(self.steps):
                raise ValueError(
                    f"Imagined {self.title!r}: {name} are {np.shape(pictures)}, want "
                    f"{len(self.steps)} pictures"
                )
            check_image(pictures[0], f"Imagined {self.title!r}: {name}")


@dataclass(frozen=True, eq=False, kw_only=True)
class Report:
    """An evaluation, or several; the page leaves out a section that has no data.

    Attributes:
        title: Title for people.
        tasks: Figures of each task, by its name, as `robot-wm eval` prints them: `n`,
            `success_final` and `success_final_ci95` [low, high] (shares, 0 to 1); optionally
            `success_any` (a share), a median of each measure such as `final_distance_m_median`,
            `floors` and `ceilings` (the same figures by method; `n` is optional), `plan_s`
            {`median`, `p95`} (seconds per plan), and `outcomes` (by how the controller says that an
            episode ended: `n`, and `success`, those of them that succeeded).
        measure: The measure that the curves and videos show.
        settings: What the numbers depend on: git sha, hashes, planner settings, machine.
        curves: The measure of each method by episode and step, `[n, steps + 1]`.
        energies: Energy of every observation, by episode; an episode that was broken off has fewer.
        outcomes: How the controller says that each episode ended, `[n]`.
        episodes: Seeds in the manifest, `[n]`, for pairing two reports.
        training: Rows with `step` and metrics, in order; a row may lack a metric.
        held_out: Latent error at horizon 1, 2, ... H by what the predictor was given.
        landscapes: Predicted cost around chosen starts.
        videos: Videos of chosen episodes.
        imagined: What the model imagined in chosen episodes.
        chapters: Reports of further evaluations, which follow on the same page.

    Raises:
        ValueError: a curve is not `[n, steps + 1]`, or a training row has no step.
    """

    title: str
    tasks: Mapping[str, Figures]
    measure: MeasureLabel = MeasureLabel()
    settings: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, FloatArray] = field(default_factory=dict)
    energies: Sequence[Sequence[float]] = ()
    outcomes: Sequence[str] = ()
    episodes: Sequence[int] = ()
    training: Sequence[Mapping[str, float]] = ()
    held_out: Mapping[str, Sequence[float]] = field(default_factory=dict)
    landscapes: Sequence[Landscape] = ()
    videos: Sequence[EpisodeVideo] = ()
    imagined: Sequence[Imagined] = ()
    chapters: Sequence[Report] = ()

    def __post_init__(self) -> None:
        for label, curves in self.curves.items():
            if np.ndim(curves) != 2 or not np.size(curves):
                raise ValueError(f"curves.{label}: got {np.shape(curves)}, want [n, steps + 1]")
        for index, row in enumerate(self.training):
            if "step" not in row:
                raise ValueError(f"training[{index}]: got {sorted(row)}, want a step among them")
