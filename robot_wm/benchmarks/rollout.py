"""Measures what the key-value cache saves, and that it changes nothing."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor

from robot_wm.precision import pick_device
from robot_wm.predictor import (
    PREDICTORS,
    Predictor,
    PredictorConfig,
    PredictorShape,
    rollout_recomputed,
)
from robot_wm.types import Count, Seed, Settings

log = logging.getLogger(__name__)
_ACTION_DIM = _STATE_DIM = 4


class BenchRolloutSettings(Settings, frozen=True):
    """What is imagined, and how often.

    Attributes:
        predictor: Shape of the predictor, whose weights are random.
        grid: Rows and columns of the tokens.
        token_dim: Dimension of the tokens.
        num_candidates: Action sequences that are imagined at once.
        context_frames: Frames before the first action.
        horizons: Actions per sequence, one value after the other.
        repeats: Measurements of each horizon.
        seed: Seed of the weights and the tokens.
        device: Device to compute on: `auto`, `cpu`, `cuda`, `cuda:1`, ...
    """

    predictor: PredictorShape = PREDICTORS["medium"]
    grid: tuple[Count, Count] = (8, 8)
    token_dim: Count = 384
    num_candidates: Count = 16
    context_frames: Count = 2
    horizons: Annotated[tuple[Count, ...], Meta(min_length=1)] = (1, 2, 4, 8)
    repeats: Count = 3
    seed: Seed = 0
    device: str = "auto"


def bench_rollout(settings: BenchRolloutSettings) -> dict[str, Any]:
    """Times cached and recomputed rollouts in turn, and logs a table.

    Args:
        settings: What is imagined, and how often.

    Returns:
        Times, ratios and the largest difference, in plain values.
    """
    num, context, repeats = settings.num_candidates, settings.context_frames, settings.repeats
    horizons = sorted(settings.horizons)
    shape = PredictorConfig(
        token_dim=settings.token_dim,
        grid=settings.grid,
        action_dim=_ACTION_DIM,
        state_dim=_STATE_DIM,
        max_frames=context - 1 + horizons[-1],
        **asdict(settings.predictor),
    )
    generator = torch.Generator().manual_seed(settings.seed)
    device = pick_device(settings.device)
    predictor = Predictor(shape, generator=generator).to(device).eval()

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    tokens = draw(1, context, shape.num_tokens, shape.token_dim)
    past = draw(1, context - 1, _ACTION_DIM), draw(1, context - 1, _STATE_DIM)
    log.info(
        f"{num} candidates, {context} frames of context, {shape.num_tokens} tokens of "
        f"{shape.token_dim}, predictor {shape.width} x {shape.depth}; {device.type}, "
        f"{torch.get_num_threads()} threads, float32"
    )
    heads = ("horizon", 8), ("cached", 10), ("recomputed", 13), ("speed-up", 10)
    log.info(
        "".join(f"{text:>{width}}" for text, width in (*heads, ("max |diff|", 12), ("cache", 9)))
    )
    result: dict[str, Any] = {}
    worst = 0.0
    with torch.inference_mode():
        for horizon in horizons:
            ahead = draw(num, horizon, _ACTION_DIM), draw(num, horizon, _STATE_DIM)

            def cached(ahead: tuple[Tensor, Tensor] = ahead) -> Tensor:
                cache = None
                if context > 1:
                    _, cache = predictor.extend(None, tokens[:, :-1], *past)
                return predictor.rollout(cache, tokens[:, -1], *ahead)[0]

            def recomputed(ahead: tuple[Tensor, Tensor] = ahead) -> Tensor:
                whole = [
                    torch.cat((p.expand(num, -1, -1), a), dim=1)
                    for p, a in zip(past, ahead, strict=True)
                ]
                return rollout_recomputed(predictor, tokens.expand(num, -1, -1, -1), *whole)

            difference = float((cached() - recomputed()).abs().max())
            worst = max(worst, difference)
            # In turn, so that whatever else the machine does falls on both.
            times = [(_seconds(cached), _seconds(recomputed)) for _ in range(repeats)]
            fast, slow = (statistics.median(column) for column in zip(*times, strict=True))
            speedup = statistics.median(b / a for a, b in times)
            size = _cache_bytes(shape, num, context, horizon)
            log.info(
                f"{horizon:8}{fast * 1e3:7.0f} ms{slow * 1e3:10.0f} ms{speedup:9.2f}x"
                f"{difference:12.1e}{size / 2**20:6.0f} MB"
            )
            result[f"speedup_h{horizon}_c{context}"] = round(speedup, 3)
            result[f"cached_s_h{horizon}"] = fast
            result[f"recomputed_s_h{horizon}"] = slow
    return {**result, "max_abs_diff": worst, "device": device.type}


def _cache_bytes(shape: PredictorConfig, num: int, context: int, horizon: int) -> int:
    """Returns the bytes of the cache: the context once, each candidate's frames but the last."""
    frame = 2 * 4 * shape.depth * shape.width * (shape.num_conditions + shape.num_tokens)
    return frame * (context - 1 + num * (horizon - 1))


def _seconds(work: Callable[[], Tensor]) -> float:
    begin = time.perf_counter()
    float(work().sum())  # waits for the device
    return time.perf_counter() - begin
