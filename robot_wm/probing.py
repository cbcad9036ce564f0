"""Probes an encoder: what its tokens tell linearly, and whether their distances are true ones.

A ridge regression in closed form, fitted on some episodes and tested on others, shows which
quantities are in the tokens *linearly*. The rank correlation of latent with true distance shows
whether a planner that descends in latent space approaches its goal: a good regression does not
imply it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from robot_wm.types import FloatArray, UserError

NEAR_M = 0.10
_MAX_FIT_FRAMES = 3000  # the closed form's time grows as the cube of this
_RIDGES = 10.0 ** np.arange(-6, 5, 0.5)  # strengths, in units of the mean eigenvalue
_FOLDS = 4
_CONSTANT = 1e-6  # m, or of a cosine: a quantity that varies less counts as constant


@dataclass(frozen=True)
class Probe:
    """Results of a probe, all on held-out episodes.

    Attributes:
        r2: Share of the variance that the regression explains, by quantity; of an angle, the mean
            over its cosine and sine. Constant quantities are left out.
        mm: Root mean square error of lengths, millimetres, by quantity.
        deg: Root mean square error of angles, degrees, by quantity.
        rank_correlation: Spearman's correlation of the distance of two frames in latent space with
            that of the gripper in space: `all` pairs of an episode, pairs `near`er than 10 cm, and
            pairs `across` episodes, whose appearance and objects differ, too.
        num_numbers: Number of numbers in a frame's tokens.
        num_frames: Number of frames of the held-out episodes.
    """

    r2: dict[str, float]
    mm: dict[str, float]
    deg: dict[str, float]
    rank_correlation: dict[str, float]
    num_numbers: int
    num_frames: int


@dataclass(frozen=True, eq=False)
class ProbeTargets:
    """True quantities of the frames of some episodes.

    Attributes:
        lengths_m: Lengths by name, per episode `[T]`, metres.
        angles_rad: Angles by name, per episode `[T]`, rad.
        positions_m: Positions of the gripper, per episode `[T, 3]`, metres.
        symmetry: Rotational symmetry of the object by name of an angle (a cube's yaw: 4).
    """

    lengths_m: dict[str, list[FloatArray]]
    angles_rad: dict[str, list[FloatArray]]
    positions_m: list[FloatArray]
    symmetry: dict[str, int] = field(default_factory=dict)


def targets_from_state(states: Sequence[FloatArray], names: Sequence[str]) -> ProbeTargets:
    """Takes the quantities from a dataset's state by name: `ee.x`, `gripper`, `cube.yaw`, ...

    Args:
        states: States per episode `[T, Q]`; lengths in m, angles in rad.
        names: Names of the Q columns.

    Returns:
        The quantities.

    Raises:
        UserError: the gripper's position is not among them.
    """
    columns = {name: [state[:, i] for state in states] for i, name in enumerate(names)}
    missing = [name for name in ("ee.x", "ee.y", "ee.z") if name not in columns]
    if missing:
        raise UserError(
            f"state: got {', '.join(names)}; a probe needs the gripper's position: "
            f"{', '.join(missing)}"
        )
    lengths = ("ee.x", "ee.y", "ee.z", "gripper", "cube.x", "cube.y", "cube.z")
    return ProbeTargets(
        {name.replace(".", "_"): columns[name] for name in lengths if name in columns},
        {"cube_yaw": columns["cube.yaw"]} if "cube.yaw" in columns else {},
        [
            np.stack(xyz, axis=1)
            for xyz in zip(*(columns[f"ee.{axis}"] for axis in "xyz"), strict=True)
        ],
        {"cube_yaw": 4},
    )


def probe(tokens: Sequence[FloatArray], targets: ProbeTargets, held_out: Sequence[int]) -> Probe:
    """Predicts the targets from the tokens.

    Args:
        tokens: Tokens per episode `[T, ...]`; those of a frame are flattened.
        targets: True quantities of the same frames.
        held_out: Positions of the episodes to test on; the regression is fitted on the others.

    Returns:
        The scores.

    Raises:
        UserError: there are fewer than two episodes to fit or to test on, or tokens and targets are
            of other numbers of frames.
    """
    flat = [np.asarray(t).reshape(len(t), -1) for t in tokens]
    if [len(t) for t in flat] != [len(p) for p in targets.positions_m]:
        raise UserError("tokens: got other numbers of frames than the targets have")
    judged = sorted(set(held_out))
    fitted = [i for i in range(len(flat)) if i not in set(judged)]
    check_split(len(fitted), len(judged))
    columns, kinds = _columns(targets)
    y_fit, y_judge = (np.concatenate([columns[i] for i in part]) for part in (fitted, judged))
    episodes = np.repeat(fitted, [len(flat[i]) for i in fitted])
    every = -(-len(y_fit) // _MAX_FIT_FRAMES)
    x_fit = np.concatenate([flat[i] for i in fitted])[::every].astype(np.float64)
    x_judge = np.concatenate([flat[i] for i in judged]).astype(np.float64)
    predicted = ridge(x_fit, y_fit[::every], x_judge, groups=episodes[::every])
    varies = np.minimum(y_fit.std(0), y_judge.std(0)) > _CONSTANT
    r2 = 1 - np.square(predicted - y_judge).mean(0) / np.where(varies, y_judge.var(0), 1.0)
    scores: dict[str, dict[str, float]] = {"r2": {}, "mm": {}, "deg": {}}
    for name, (kind, first) in kinds.items():
        parts = slice(first, first + (1 if kind == "length" else 2))  # an angle: cosine and sine
        if not varies[parts].any():
            continue
        scores["r2"][name] = float(r2[parts][varies[parts]].mean())
        if kind == "length":
            error = predicted[:, first] - y_judge[:, first]
            scores["mm"][name] = 1e3 * float(np.sqrt(np.mean(error**2)))
        else:
            turns = targets.symmetry.get(name, 1)
            angle, truth = (np.arctan2(v[:, first + 1], v[:, first]) for v in (predicted, y_judge))
            error = np.angle(np.exp(1j * (angle - truth))) / turns
            scores["deg"][name] = float(np.degrees(np.sqrt(np.mean(error**2))))
    correlation = _rank_correlations(
        [flat[i] for i in judged], [targets.positions_m[i] for i in judged]
    )
    return Probe(
        **scores,
        rank_correlation=correlation,
        num_numbers=flat[0].shape[1],
        num_frames=len(x_judge),
    )


def check_split(num_fitted: int, num_held_out: int) -> None:
    """Checks that there are two episodes to fit a regression on, and two to test it (UserError)."""
    if min(num_fitted, num_held_out) < 2:
        raise UserError(
            f"held_out: got {num_held_out} of {num_fitted + num_held_out} episodes, want 2 at "
            f"least, and 2 left"
        )


def ridge(
    x: FloatArray, y: FloatArray, x_new: FloatArray, *, groups: Sequence[int] | FloatArray
) -> FloatArray:
    """Predicts by ridge regression in closed form; cross-validation over groups sets its strength.

    Frames of an episode are alike: cross-validation over frames would choose far too little.

    Args:
        x: Inputs `[n, K]`.
        y: Targets `[n, Q]`; each has a strength of its own.
        x_new: Inputs to predict at `[m, K]`.
        groups: Episode of each row `[n]`; at least two differ.

    Returns:
        Predictions `[m, Q]`.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    fold = group % min(_FOLDS, group.max() + 1)
    error = np.zeros((len(_RIDGES), y.shape[1]))
    for k in range(fold.max() + 1):
        out = fold == k
        error += np.square(_ridges(x[~out], y[~out], x[out]) - y[out]).sum(1)
    return np.take_along_axis(_ridges(x, y, x_new), error.argmin(0)[None, None], 0)[0]


def _ridges(x: FloatArray, y: FloatArray, x_new: FloatArray) -> FloatArray:
    """Returns predictions `[strengths, m, Q]` of y at `x_new`, by the smaller Gram matrix."""
    mean, scale, offset = x.mean(0), x.std(0), y.mean(0)
    varies = scale > 1e-9 * (1 + np.abs(mean))
    scale = np.where(varies, scale, np.inf)
    a, b = (x - mean) / scale, (x_new - mean) / scale
    wide = a.shape[1] > len(a)
    values, vectors = np.linalg.eigh(a @ a.T if wide else a.T @ a)
    values = np.maximum(values, 0)
    target = vectors.T @ ((y - offset) if wide else a.T @ (y - offset))  # [r, Q]
    basis = (b @ a.T if wide else b) @ vectors  # [m, r]
    strengths = _RIDGES * max(values.mean(), 1e-12)
    return np.stack([offset + basis @ (target / (values + s)[:, None]) for s in strengths])


def principal_components(
    fit: FloatArray, frames: Sequence[FloatArray], num: int
) -> list[FloatArray]:
    """Returns the first principal components of pictures: a linear encoder.

    Args:
        fit: Pictures that define the components `[n, K]`.
        frames: Pictures per episode `[T, K]`.
        num: Number of components, at most n and K.

    Returns:
        Components per episode `[T, num]`.
    """
    mean = fit.mean(0)
    _, _, rows = np.linalg.svd(fit - mean, full_matrices=False)
    return [(episode - mean) @ rows[:num].T for episode in frames]


def _columns(
    targets: ProbeTargets,
) -> tuple[list[FloatArray], dict[str, tuple[str, int]]]:
    """Returns all targets as numbers per episode `[T, Q]`, and each quantity's first column."""
    parts: list[list[FloatArray]] = []
    kinds: dict[str, tuple[str, int]] = {}
    for name, values in targets.lengths_m.items():
        kinds[name] = ("length", len(parts))
        parts.append(values)
    for name, values in targets.angles_rad.items():
        kinds[name] = ("angle", len(parts))
        turns = targets.symmetry.get(name, 1)
        parts += [[np.cos(turns * v) for v in values], [np.sin(turns * v) for v in values]]
    return [np.stack(columns, axis=1) for columns in zip(*parts, strict=True)], kinds


def _rank_correlations(
    tokens: Sequence[FloatArray], positions: Sequence[FloatArray]
) -> dict[str, float]:
    latent, true = [], []
    for z, p in zip(tokens, positions, strict=True):
        latent.append(pdist(z))
        true.append(pdist(p))
    latent, true = np.concatenate(latent), np.concatenate(true)
    near = true < NEAR_M
    # Pairs frame t of an episode with frame t of the next, so that no pair is of one scene.
    shifted = [
        (a[: len(b)], b[: len(a)], p[: len(b)], q[: len(a)])
        for (a, p), (b, q) in zip(
            zip(tokens, positions, strict=True),
            [*zip(tokens[1:], positions[1:], strict=True)],
            strict=False,
        )
    ]
    a, b, p, q = (np.concatenate(part) for part in zip(*shifted, strict=True))
    across = _spearman(np.linalg.norm(a - b, axis=1), np.linalg.norm(p - q, axis=1))
    return {
        "all": _spearman(latent, true),
        "near": _spearman(latent[near], true[near]),
        "across": across,
    }


def _spearman(a: FloatArray, b: FloatArray) -> float:
    """Returns Spearman's correlation; 0 where one of the two is constant."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.asarray(spearmanr(a, b)[0]))
