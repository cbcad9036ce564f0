"""Samples cameras, state and actions of a dataset at the model's time step, and checks them.

Damage that LeRobot loads without an error is found here, episode by episode: values that are not
finite, rows out of order or missing, clocks that disagree, columns of the wrong shape. A damaged
episode is refused, or dropped and counted; nothing is put in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from robot_wm.data.dataset import Dataset, Episode
from robot_wm.data.keys import dim_names, find_cameras, find_state
from robot_wm.poses import POSE_NAMES, pose_change
from robot_wm.types import FloatArray, Positive, UserError, check_fields

ActionMode = Literal["state_delta", "command_delta", "pose_delta", "recorded"]

_STEP_TOLERANCE = 0.02  # share of dt_s by which it may miss a multiple of the period
_GAP_PERIODS = 1.5  # the largest distance of neighbouring rows, in periods
_CLOCK_TOLERANCE = 0.1  # share of the period by which the median distance of rows may miss it
_LEAST_AGREEMENT = 0.5  # correlation of a command with the change that it makes
_NUM_LISTED = 3  # damaged episodes that a message describes
_ANGLES = frozenset("roll pitch yaw rx ry rz angle theta heading joint pan wrist".split())
_JAWS = frozenset("gripper jaw finger".split())
_TURNS = (2 * np.pi, 360.0)  # one revolution in rad and in degrees
_TURN_TOLERANCE = 1.001


@dataclass(frozen=True)
class DataSpec:
    """The columns to use from a dataset, and the time step.

    Attributes:
        camera: Key or short name (`front` for `observation.images.front`), or several joined by
            `+`. If None, the only camera, or the most likely fixed camera.
        state: Key or short name, or several joined by `+`. If None, `observation.state`, or its
            parts.
        action: What an action is. `state_delta`: the motion of the robot, state[t+1] - state[t] of
            the sampled frames; angles that wrap around are subtracted as angles. `command_delta`:
            the recorded action, where that is the change of what the state was to be; a gripper
            that is closed on something goes on squeezing. `pose_delta`: the motion of states that
            are poses (see robot_wm.poses: x y z, roll pitch yaw, gripper), whose rotations cannot
            be subtracted as numbers; `recorded`, only if `dt_s` is the dataset's own period: its
            own `action`, the command to the robot, in a unit that it does not state.
        dt_s: Time step of the model, s; a multiple of the dataset's period within 2 %.

    Raises:
        UserError: an action mode that does not exist, or `dt_s` not above zero.
    """

    camera: str | None = None
    state: str | None = None
    action: ActionMode = "state_delta"
    dt_s: Positive = 0.2

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class StateView:
    """A derived state: a function of the recorded state, such as the tool pose of an arm's joints.

    Attributes:
        needs: Names of the N recorded numbers that it is computed from, in this order.
        names: Names of the Q numbers of the derived state.
        of: Maps `[T, N]` to `[T, Q]`, float64; raises UserError if the numbers are implausible.
    """

    needs: tuple[str, ...]
    names: tuple[str, ...]
    of: Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Finding:
    """A damaged episode.

    Attributes:
        episode: Number of the episode.
        file: Its file, within the dataset.
        reason: What is wrong with it.
    """

    episode: int
    file: str
    reason: str

    def __str__(self) -> str:
        return f"episode {self.episode} ({self.file}): {self.reason}"


@dataclass(frozen=True, eq=False)
class AlignedData:
    """Sampled and checked episodes.

    Sequences have one entry per episode that was kept. Position i in them is not the episode's
    number, which is `episodes[i]`.

    Attributes:
        dataset: The dataset that the frames are read from.
        spec: The columns and the time step that were requested.
        cameras: Keys of the cameras, V of them.
        state: Keys of the state's columns, joined by `+`.
        dt_s: Time between sampled frames, s: the multiple of the period nearest to `spec.dt_s`.
        episodes: The episodes' numbers.
        indices: Sampled rows of each episode, `[T]` int64.
        timestamps_s: Time since the episode's start, `[T]` float64 for each episode.
        proprio: Proprioception, `[T, Q]` float32 for each episode, in the robot's units.
        actions: Actions, `[T-1, A]` float32 for each episode, in the robot's units; action t leads
            to frame t+1.
        proprio_names: Names of the proprioception's dimensions, Q of them.
        action_names: Names of the action's dimensions, A of them.
        dropped: Damaged episodes that were left out.
        warnings: Oddities in the data, in words, that prevent nothing.
    """

    dataset: Dataset
    spec: DataSpec
    cameras: tuple[str, ...]
    state: str
    dt_s: float
    episodes: tuple[int, ...]
    indices: tuple[np.ndarray, ...]
    timestamps_s: tuple[FloatArray, ...]
    proprio: tuple[FloatArray, ...]
    actions: tuple[FloatArray, ...]
    proprio_names: tuple[str, ...]
    action_names: tuple[str, ...]
    dropped: tuple[Finding, ...]
    warnings: tuple[str, ...]

    @property
    def num_episodes(self) -> int:
        """Number of episodes that were kept."""
        return len(self.episodes)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Sampled frames per episode, T of each."""
        return tuple(len(rows) for rows in self.indices)

    @property
    def num_frames(self) -> int:
        """Sampled frames over all episodes."""
        return sum(self.lengths)


# Number of an episode, its sampled rows, timestamps, proprioception, and actions.
_Sampled = tuple[int, np.ndarray, FloatArray, FloatArray, FloatArray | None]


class _DamagedError(UserError):
    """An episode cannot be used, for the reason in the message."""


def align(
    dataset: Dataset,
    spec: DataSpec,
    *,
    drop_corrupt: bool = False,
    view: StateView | None = None,
) -> AlignedData:
    """Samples every episode at the model's time step, and checks it.

    The sampled frames are those whose timestamps are nearest to the multiples of the time step.

    Args:
        dataset: A dataset as `open_dataset` returns it.
        spec: The columns and the time step to use.
        drop_corrupt: Whether to leave damaged episodes out (and list them in `dropped`), instead of
            refusing the dataset.
        view: A derived state to use instead of the recorded one, unless that has the same names;
            actions are then the changes of the derived state.

    Returns:
        The sampled episodes.

    Raises:
        UserError: a key that does not exist, a time step that the dataset's rate does not allow,
            damaged episodes, no episode left, or a state without the numbers that the view needs.
    """
    cameras, state = find_cameras(dataset, spec.camera), find_state(dataset, spec.state)
    stride = _stride(dataset, spec)
    recorded = spec.action in ("recorded", "command_delta")
    if recorded and "action" not in dataset.features:
        raise UserError(f"{dataset.source}: no action column; it has {sorted(dataset.features)}")
    proprio_names, derive = _proprio(dataset, spec, state, view)
    kept: list[_Sampled] = []
    findings: list[Finding] = []
    for index in range(dataset.num_episodes):
        try:
            episode = dataset.episode(index)
        except UserError as error:
            findings.append(Finding(index, "data", str(error)))
            continue
        try:
            kept.append((index, *_sample(dataset, episode, spec, cameras, state, stride, derive)))
        except _DamagedError as error:
            file = episode.file.relative_to(dataset.root).as_posix()
            findings.append(Finding(index, file, str(error)))
    if findings and (not drop_corrupt or not kept):
        raise UserError(_damage(dataset, findings, droppable=bool(kept)))
    action_names = dim_names(dataset, "action") if recorded else proprio_names
    episodes, indices, timestamps_s, proprio, actions = zip(*kept, strict=True)
    wrapped: list[str] = []
    if spec.action == "state_delta":
        actions, wrapped = _differences(proprio, proprio_names)
    if spec.action == "command_delta":
        _check_commands(dataset, proprio, proprio_names, actions, action_names)
    proprio = tuple(values.astype(np.float32) for values in proprio)
    actions = tuple(values.astype(np.float32) for values in actions)
    return AlignedData(
        dataset=dataset,
        spec=spec,
        cameras=cameras,
        state="+".join(state),
        dt_s=stride / dataset.fps,
        episodes=episodes,
        indices=indices,
        timestamps_s=timestamps_s,
        proprio=proprio,
        actions=actions,
        proprio_names=proprio_names,
        action_names=action_names,
        dropped=tuple(findings),
        warnings=(
            *wrapped,
            *_constant("state", proprio, proprio_names),
            *_constant("action", actions, action_names),
        ),
    )


def _proprio(
    dataset: Dataset, spec: DataSpec, state: Sequence[str], view: StateView | None
) -> tuple[tuple[str, ...], Callable[[FloatArray], FloatArray] | None]:
    """Returns the names of the proprioception, and how it is derived from the recorded state."""
    names = tuple(n for key in state for n in dim_names(dataset, key))
    derive = None
    if view is not None and names != view.names:  # otherwise the derived state itself was recorded
        missing = [name for name in view.needs if names.count(name) != 1]
        if missing:
            raise UserError(
                f"{dataset.source}: the state has no {', '.join(missing)}, or more than one; it "
                f"has {', '.join(names)}"
            )
        if spec.action == "recorded":
            raise UserError("action: 'recorded' is of the state as it was recorded, want a delta")
        names, derive = view.names, _deriving(view, names)
    if spec.action == "pose_delta" and len(names) != len(POSE_NAMES):
        raise UserError(
            f"action: 'pose_delta' needs a state of {', '.join(POSE_NAMES)}, got {', '.join(names)}"
        )
    return names, derive


def _damage(dataset: Dataset, findings: Sequence[Finding], *, droppable: bool) -> str:
    """Describes damaged episodes in one line."""
    listed = "; ".join(str(f) for f in findings[:_NUM_LISTED])
    unlisted = len(findings) - _NUM_LISTED
    more = f"; and {unlisted} more" if unlisted > 0 else ""
    hint = " (drop_corrupt=true leaves them out)" if droppable else ""
    return (
        f"{dataset.source}: {len(findings)} of {dataset.num_episodes} episodes are damaged"
        f"{hint}: {listed}{more}"
    )


def _stride(dataset: Dataset, spec: DataSpec) -> int:
    """Returns the rows of the dataset per time step of the model."""
    stride = max(1, round(spec.dt_s * dataset.fps))
    if abs(stride / dataset.fps - spec.dt_s) > _STEP_TOLERANCE * spec.dt_s:
        near = sorted({max(1, stride - 1), stride, stride + 1})
        allowed = ", ".join(f"{n / dataset.fps:.4g}" for n in near)
        raise UserError(
            f"dt_s: got {spec.dt_s}, want a multiple of 1/{dataset.fps:g} s for {dataset.source}: "
            f"{allowed}, ..."
        )
    if spec.action == "recorded" and stride != 1:
        raise UserError(
            f"dt_s: got {spec.dt_s} with action='recorded', want {1 / dataset.fps:.4g}, the period "
            f"of {dataset.source} (or action='state_delta', which allows its multiples)"
        )
    return stride


def _sample(
    dataset: Dataset,
    episode: Episode,
    spec: DataSpec,
    cameras: Sequence[str],
    state: Sequence[str],
    stride: int,
    derive: Callable[[FloatArray], FloatArray] | None,
) -> tuple[np.ndarray, FloatArray, FloatArray, FloatArray | None]:
    """Samples rows `[T]`, timestamps `[T]`, proprio `[T, Q]` and actions `[T-1, A]` or None."""
    # Actions are None for `state_delta`: the caller subtracts the states of all episodes at once.
    times_s, period_s = episode.timestamps_s, 1 / dataset.fps
    _check_clock(times_s, period_s)
    rows, declared_rows = len(episode), dataset.num_rows(episode.index)
    if rows != declared_rows:
        raise _DamagedError(f"the data has {rows} rows, the metadata says {declared_rows}")
    for camera in cameras:
        span_s = dataset.video_span_s(episode.index, camera)
        if span_s is not None and span_s < times_s[-1] - times_s[0] - 0.5 * period_s:
            raise _DamagedError(
                f"the video of {camera} is {span_s:.3f} s long, the data {times_s[-1]:.3f}"
            )
    proprio = np.concatenate([_values(dataset, episode, key) for key in state], axis=1)  # [rows, Q]
    num_steps = int((times_s[-1] - times_s[0]) / (stride * period_s) + 0.5 / stride) + 1
    sample_s = times_s[0] + np.arange(num_steps) * stride * period_s
    after = np.clip(np.searchsorted(times_s, sample_s), 1, rows - 1)
    before_is_nearer = sample_s - times_s[after - 1] <= times_s[after] - sample_s
    indices = np.where(before_is_nearer, after - 1, after)
    if num_steps < 2 or (np.diff(indices) <= 0).any():
        raise _DamagedError(f"{rows} rows give {num_steps} frame(s) at dt_s={spec.dt_s}, want 2")
    sampled = proprio[indices]
    if derive is not None:
        try:
            sampled = derive(sampled)
        except UserError as error:  # not damage of this episode: the view does not fit the dataset
            raise UserError(f"{dataset.source}: episode {episode.index}: {error}") from error
    actions: FloatArray | None = None
    if spec.action == "pose_delta":
        gripper = sampled[:, 6]
        if gripper.min() < -0.01 or gripper.max() > 1.01:
            raise _DamagedError(
                f"the gripper of a pose runs from {gripper.min():g} to {gripper.max():g}, want 0 "
                f"(open) to 1 (closed) for action='pose_delta'"
            )
        poses = torch.from_numpy(sampled)
        actions = pose_change(poses[:-1], poses[1:]).numpy()
    elif spec.action == "recorded":
        actions = _values(dataset, episode, "action")[indices[:-1]]
    elif spec.action == "command_delta":
        total = np.cumsum(_values(dataset, episode, "action"), axis=0)
        total = np.concatenate((np.zeros((1, total.shape[1])), total))
        actions = total[indices[1:]] - total[indices[:-1]]
    return indices, times_s[indices], sampled, actions


def _check_commands(
    dataset: Dataset,
    states: Sequence[FloatArray],
    state_names: Sequence[str],
    actions: Sequence[FloatArray],
    action_names: Sequence[str],
) -> None:
    """Raises UserError unless the recorded actions are changes of what the state was to be."""
    if tuple(action_names) != tuple(state_names):
        raise UserError(
            f"action: 'command_delta' needs actions of {', '.join(state_names)}; those of "
            f"{dataset.source} are of {', '.join(action_names)}"
        )
    changes = np.concatenate([np.diff(values, axis=0) for values in states])
    commands = np.concatenate(actions)
    for name, change, command in zip(state_names, changes.T, commands.T, strict=True):
        if change.std() < 1e-9 or command.std() < 1e-9:
            continue
        agreement = float(np.corrcoef(change, command)[0, 1])
        if agreement < _LEAST_AGREEMENT:
            raise UserError(
                f"action: 'command_delta' needs changes of the state; the recorded action "
                f"{name} of {dataset.source} is none (its correlation with the change is "
                f"{agreement:.2f}, want {_LEAST_AGREEMENT})"
            )


def _differences(
    states: Sequence[FloatArray], names: Sequence[str]
) -> tuple[list[FloatArray], list[str]]:
    """Returns the change from each state `[T, Q]` to the next, `[T-1, Q]`, and warnings."""
    # A number that is named like an angle and stays within one revolution may wrap around. No arm
    # turns by three quarters of a revolution in a step: such a step is the remainder of the
    # revolution in the other direction. The largest angle tells whether a revolution is 2 pi or
    # 360.
    changes, warnings = [np.diff(values, axis=0) for values in states], []
    words = [set(re.split(r"[^a-z]+", name.lower())) for name in names]
    angles = [i for i, parts in enumerate(words) if parts & _ANGLES and not parts & _JAWS]
    largest = max((np.abs(values[:, angles]).max() for values in states if angles), default=0.0)
    turn = next((turn for turn in _TURNS if largest <= turn * _TURN_TOLERANCE), np.inf)
    for i in angles:
        name, jumps = names[i], 0
        for change in changes:
            jumped = np.abs(change[:, i]) > 0.75 * turn
            change[jumped, i] -= np.sign(change[jumped, i]) * turn
            jumps += int(jumped.sum())
        if jumps:
            warnings.append(
                f"state {name} is taken for an angle: {jumps} steps of more than three quarters of "
                f"a turn of {turn:g} are read as turns in the other direction"
            )
    return changes, warnings


def _deriving(view: StateView, names: Sequence[str]) -> Callable[[FloatArray], FloatArray]:
    """Returns a function from states with these names, `[T, names]`, to derived ones `[T, Q]`."""
    order = [names.index(name) for name in view.needs]
    return lambda values: view.of(values[:, order])


def _check_clock(times_s: FloatArray, period_s: float) -> None:
    if not np.isfinite(times_s).all():
        raise _DamagedError(f"timestamp of row {_first(~np.isfinite(times_s))} is not finite")
    steps = np.diff(times_s)
    if (steps <= 0).any():
        row = _first(steps <= 0) + 1
        kind = "repeats" if steps[row - 1] == 0 else "runs backwards"
        raise _DamagedError(f"time {kind} at row {row} ({times_s[row]:.3f} s)")
    if not len(steps):
        raise _DamagedError("it has a single row")
    if abs(np.median(steps) - period_s) > _CLOCK_TOLERANCE * period_s:
        raise _DamagedError(
            f"rows are {np.median(steps):.4g} s apart, info.json's fps says {period_s:.4g}"
        )
    if (steps > _GAP_PERIODS * period_s).any():
        row = _first(steps > _GAP_PERIODS * period_s) + 1
        raise _DamagedError(f"a gap of {steps[row - 1]:.3f} s before row {row}")


def _values(dataset: Dataset, episode: Episode, key: str) -> FloatArray:
    """Returns a vector column of the episode, checked, `[rows, n]` float64."""
    if key not in episode.columns:
        raise _DamagedError(f"no column {key}; it has {sorted(episode.columns)}")
    values = episode.columns[key]
    values = values[:, None] if values.ndim == 1 and values.dtype != object else values
    want = (len(episode), *dataset.features[key].shape)
    if values.shape != want or not np.issubdtype(values.dtype, np.number):
        raise _DamagedError(f"{key} is {values.dtype} {values.shape}, want numbers {want}")
    values = values.astype(np.float64)
    broken = ~np.isfinite(values)
    if broken.any():
        raise _DamagedError(f"{key} of row {_first(broken.any(axis=1))} is not finite")
    return values


def _first(mask: ArrayLike) -> int:
    return int(np.flatnonzero(mask)[0])


def _constant(what: str, values: Sequence[FloatArray], names: Sequence[str]) -> list[str]:
    spread = np.ptp(np.concatenate(values), axis=0)
    return [f"{what} {name} never varies" for name, s in zip(names, spread, strict=True) if s == 0]
