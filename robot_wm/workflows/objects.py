"""Tells how well a model imagines an object: untouched, pushed and carried, each for itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_wm.data import AlignedData, TokenStore
from robot_wm.models import EncodedFrames, TrainableModel, device_of
from robot_wm.probing import ridge
from robot_wm.proposals import Features
from robot_wm.types import FloatArray

log = logging.getLogger(__name__)
PRIVILEGED = "observation.environment_state"
STILL_M = 0.005  # an object that moves less counts as not moved
_LIFTED_M = 0.01  # above where it was lowest
_NUM_FITTED = 2000  # frames that the read-out of the object's place is fitted on
_KINDS = ("free", "pushed", "carried")


@torch.no_grad()
def object_errors(
    model: TrainableModel,
    data: AlignedData,
    tokens: TokenStore,
    fitted: Sequence[int],
    held_out: Sequence[int],
    *,
    horizon: int,
) -> dict[str, Any] | None:
    """Measures the error of imagined latents apart for each kind of step.

    Args:
        model: The trained model.
        data: The dataset.
        tokens: Tokens of all its frames.
        fitted: Positions of the episodes that it was trained on.
        held_out: Positions of other episodes.
        horizon: Number of actions that are imagined, H.

    Returns:
        For `free`, `pushed` and `carried` the `error` of the last latent, 1 being that of the mean
        latent, and the number `n` of windows; `phantom_m`, the median motion of the object in
        imagination where it stays, and `phantom_floor_m`, what the read-out makes of the true
        latents there. None: the dataset knows of no object, or of none that moves (`never_moves`).
    """
    places = _places(data)
    if places is None or _stays(places):
        return None
    info = model.info
    pool = Features(info.grid, info.dim).pool  # a read-out needs no more of a large token map
    total = sum(len(places[i]) for i in fitted)
    step = max(1, total // _NUM_FITTED)
    bank = np.concatenate(
        [pool(_latents(model, data, tokens, i)[::step]).cpu().numpy() for i in fitted]
    )
    where = np.concatenate([places[i][::step, :2] for i in fitted])
    group = np.concatenate([np.full(len(places[i][::step]), i) for i in fitted])
    mean = torch.stack([_latents(model, data, tokens, i).mean(0) for i in held_out]).mean(0)
    spread = float(
        np.mean(
            [float(_error(model, _latents(model, data, tokens, i) - mean).mean()) for i in held_out]
        )
    )
    kinds: list[str] = []
    spread = max(spread, 1e-12)  # the same latent everywhere
    errors, imagined, true = [], [], []
    for i in held_out:
        latents = _latents(model, data, tokens, i)
        for start in range(info.context_frames - 1, len(places[i]) - horizon, horizon):
            end = _imagine(model, data, tokens, i, start, horizon)
            after = latents[start + horizon]
            errors.append(float(_error(model, end - after).mean()) / spread)
            kinds.append(_kind(places[i][start : start + horizon + 1], places[i][:, 2].min()))
            imagined.append(torch.stack((pool(latents[start]), pool(end))).cpu())
            true.append(torch.stack((pool(latents[start]), pool(after))).cpu())

    def moved(pairs: Sequence[Tensor]) -> float:
        """Returns the median motion, by the read-out, in pairs of features `[2, F]`, m."""
        still = [pair for pair, kind in zip(pairs, kinds, strict=True) if kind == "free"]
        ends = torch.cat(still).numpy()
        read = ridge(bank, where, ends, groups=group.tolist()).reshape(-1, 2, 2)
        return float(np.median(np.linalg.norm(read[:, 1] - read[:, 0], axis=1)))

    by_kind = {
        kind: [error for error, its in zip(errors, kinds, strict=True) if its == kind]
        for kind in _KINDS
    }
    return {
        "horizon": horizon,
        **{
            kind: {"error": float(np.mean(its)) if its else None, "n": len(its)}
            for kind, its in by_kind.items()
        },
        "phantom_m": moved(imagined) if by_kind["free"] else None,
        "phantom_floor_m": moved(true) if by_kind["free"] else None,
    }


def never_moves(data: AlignedData) -> bool:
    """Tells whether a dataset knows of an object, and shows none of it moving."""
    places = _places(data)
    return places is not None and _stays(places)


def object_table(figures: Mapping[str, Any]) -> str:
    """Lays out the figures of `object_errors` for the terminal."""
    lines = [f"held-out error after {figures['horizon']} actions, by what becomes of the object"]
    for kind in _KINDS:
        error, num = figures[kind]["error"], figures[kind]["n"]
        lines.append(
            f"  {kind:9}{'none' if error is None else f'{error:.4f}':>8}  of {num} windows"
        )
    if figures["phantom_m"] is not None:
        lines.append(
            f"  phantom motion {1000 * figures['phantom_m']:.1f} mm where the object stays; the "
            f"read-out of true frames makes {1000 * figures['phantom_floor_m']:.1f} mm"
        )
    return "\n".join(lines)


def _places(data: AlignedData) -> list[FloatArray] | None:
    """Returns the true x, y and z of the first object `[T, 3]` of every episode, m."""
    feature = data.dataset.features.get(PRIVILEGED)
    if feature is None or [name.rpartition(".")[2] for name in feature.names[:3]] != [*"xyz"]:
        return None
    columns = [data.dataset.episode(episode).columns.get(PRIVILEGED) for episode in data.episodes]
    places = [
        np.asarray(column)[rows, :3]
        for column, rows in zip(columns, data.indices, strict=True)
        if column is not None
    ]
    if len(places) < len(columns) or not all(np.isfinite(path).all() for path in places):
        log.warning(f"{PRIVILEGED} is not there, or not finite, in every episode: it is not used")
        return None
    return places


def _stays(places: Sequence[FloatArray]) -> bool:
    return all((np.ptp(path, axis=0) < STILL_M).all() for path in places)


def _latents(model: TrainableModel, data: AlignedData, tokens: TokenStore, i: int) -> Tensor:
    """Returns the latents `[T, P, D]` of an episode's frames, each observed alone."""
    return model.latent(model.observe(model.initial(), _frames(model, data, tokens, i), None))


def _frames(
    model: TrainableModel,
    data: AlignedData,
    tokens: TokenStore,
    i: int,
    rows: slice = slice(None),
) -> EncodedFrames:
    return EncodedFrames.of(tokens[i][rows], data.proprio[i][rows], device_of(model))


def _imagine(
    model: TrainableModel,
    data: AlignedData,
    tokens: TokenStore,
    i: int,
    start: int,
    horizon: int,
) -> Tensor:
    """Returns what is imagined `[P, D]` after the actions that follow a frame of an episode."""
    device = device_of(model)
    actions = torch.from_numpy(np.array(data.actions[i], np.float32)).to(device)
    state, first = model.initial(), start - model.info.context_frames + 1
    for row in range(first, start + 1):
        applied = actions[row - 1][None] if row > first else None
        frame = _frames(model, data, tokens, i, slice(row, row + 1))
        state = model.observe(state, frame, applied)
    noise = torch.Generator(device).manual_seed(i)
    return model.rollout(state, actions[None, start : start + horizon], noise).mean[0, -1]


def _kind(places: FloatArray, lowest_m: float) -> str:
    if np.linalg.norm(places[-1, :2] - places[0, :2]) < STILL_M and np.ptp(places[:, 2]) < STILL_M:
        return "free"
    return "carried" if places[:, 2].max() > lowest_m + _LIFTED_M else "pushed"


def _error(model: TrainableModel, difference: Tensor) -> Tensor:
    return difference.abs() if model.info.error == "l1" else difference.square()
