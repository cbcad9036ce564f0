"""Measures how much of the device a training step uses, and which kernels take the time."""

from __future__ import annotations

import logging
import os
import statistics
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from torch.profiler import ProfilerActivity, profile

from robot_wm.benchmarks.flops import MATMUL_SIZE, flop_counter, sustained_rate
from robot_wm.benchmarks.untrained import untrained_model
from robot_wm.data import Batch
from robot_wm.encoders import shipped_config
from robot_wm.models import LatentWorldModel
from robot_wm.precision import choose_precision, pick_device
from robot_wm.predictor import PREDICTORS, PredictorConfig, PredictorShape
from robot_wm.training import TrainConfig, train
from robot_wm.types import Count, Precision, Seed, Settings

log = logging.getLogger(__name__)
_ACTION_DIM = 4
# Names of kernels by their purpose; a kernel with another name counts as "other".
_GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear", "gemm", "cutlass", "nvjet"),
    "attention": ("scaled_dot_product", "softmax", "flash", "fmha"),
    "GELU": ("gelu",),
    "LayerNorm": ("layer_norm",),
    "optimiser": ("fused_adam", "foreach", "lerp", "addcdiv", "addcmul", "sqrt", "vector_norm"),
    "copies": ("copy", "cat", "clone", "contiguous", "stack"),
    "element by element": (
        "mul",
        "add",
        "sub",
        "neg",
        "div",
        "sum",
        "fill",
        "zero",
        "mean",
        "elementwise",
    ),
}


class _OneBatch:
    """Returns the same batch of random tokens at every step, so that no reading is timed."""

    def __init__(self, config: PredictorConfig, num_frames: int, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        tokens = (size, num_frames, config.num_tokens, config.token_dim)
        self._batch = Batch(
            tokens=torch.randn(tokens, generator=generator),
            proprio=torch.randn((size, num_frames, _ACTION_DIM), generator=generator),
            actions=torch.randn((size, num_frames - 1, _ACTION_DIM), generator=generator),
            episodes=torch.zeros(size, dtype=torch.int64),
            starts=torch.zeros(size, dtype=torch.int64),
        )

    def batch(self, step: int) -> Batch:
        """Returns the batch."""
        return self._batch


class BenchTrainSettings(Settings, frozen=True):
    """What is trained, and how often it is measured.

    Attributes:
        predictor: Shape of the predictor, whose weights are random.
        grid: Rows and columns of the tokens.
        token_dim: Dimension of the tokens.
        num_frames: Frames of a window.
        batch_size: Windows per step.
        repeats: Number of measurements.
        precision: Precision of matrix products; `auto`: the one that the device computes faster.
        compile: Compiles the transformer blocks with torch.compile.
        seed: Seed of the weights and the tokens.
        device: Device to compute on: `auto`, `cpu`, `cuda`, `cuda:1`, ...
    """

    predictor: PredictorShape = PREDICTORS["medium"]
    grid: tuple[Count, Count] = (8, 8)
    token_dim: Count = 384
    num_frames: Annotated[int, Meta(ge=3)] = 6
    batch_size: Count = 8
    repeats: Count = 4
    precision: Precision = "auto"
    compile: bool = False
    seed: Seed = 0
    device: str = "auto"


def bench_train(settings: BenchTrainSettings) -> dict[str, Any]:
    """Measures training steps of the configured predictor and of the one that ships.

    Args:
        settings: What is trained, and how often it is measured.

    Returns:
        `configured` and `shipped`: speed, share of the device's rate, and time by kernel.
    """
    encoder = shipped_config()
    configured = _measure(
        settings, settings.predictor, settings.token_dim, settings.grid, settings.batch_size
    )
    shipped = _measure(
        settings,
        PREDICTORS["mini"],
        encoder.dim,
        (1, encoder.num_tokens),
        8 * settings.batch_size,
    )
    return {
        "samples_per_s": configured["samples_per_s"],
        "matmul_share": configured["matmul_share"],
        "configured": configured,
        "shipped": shipped,
    }


def _measure(
    settings: BenchTrainSettings,
    predictor: PredictorShape,
    token_dim: int,
    grid: tuple[int, int],
    batch_size: int,
) -> dict[str, Any]:
    device = pick_device(settings.device)
    precision = choose_precision(settings.precision, device)
    model, shape = _untrained(
        predictor,
        token_dim,
        grid,
        num_frames=settings.num_frames,
        seed=settings.seed,
        device=device,
    )
    sampler: Any = _OneBatch(shape, settings.num_frames, batch_size, settings.seed)

    name = str(precision).removeprefix("torch.")

    def steps(num: int, *, compiled: bool = settings.compile) -> Iterator[float]:
        """Returns the elapsed seconds after each of `num` + 1 steps; the first warms up."""
        config = TrainConfig(num_steps=num + 1, compile=compiled, precision=name)  # type: ignore[arg-type]
        return (row["elapsed_s"] for row in train(model, sampler, config))

    with flop_counter() as counter:
        list(steps(0, compiled=False))
    flops = counter.get_total_flops()
    rates, times = [], []
    for _ in range(settings.repeats):  # in turn: a busy moment falls on both
        rates.append(sustained_rate(precision, device))
        times.append(statistics.median(np.diff(list(steps(2)))))
    step_s = statistics.median(times)
    share = statistics.median(flops / t / rate for t, rate in zip(times, rates, strict=True))
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports missing GPUs as errors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        more = steps(1)
        next(more)
        with profile(activities=activities) as profiler:
            list(more)
    spent = _by_group(profiler.key_averages(), device.type)
    log.info(
        f"predictor {shape.width} x {shape.depth}, {shape.num_tokens} tokens of {token_dim}, "
        f"{batch_size} windows of {settings.num_frames} frames; {device.type}, "
        f"{torch.get_num_threads()} threads, {name}"
    )
    log.info(
        f"  {batch_size / step_s:.1f} samples/s, {step_s * 1e3:.0f} ms a step of "
        f"{flops / 1e9:.1f} GFLOP: {share:.0%} of the {statistics.median(rates) / 1e9:.0f} GFLOP/s "
        f"that a {MATMUL_SIZE} x {MATMUL_SIZE} matrix product reaches"
    )
    for name, part in sorted(spent.items(), key=lambda item: -item[1]):
        log.info(f"  {part:6.1%} {name}")
    return {
        "samples_per_s": batch_size / step_s,
        "matmul_share": share,
        "step_s": step_s,
        "gflop_per_step": flops / 1e9,
        "matmul_gflop_per_s": statistics.median(rates) / 1e9,
        "time_by_kernel": spent,
    }


def shipped_training(
    num_steps: int, *, batch_size: int = 64, num_frames: int = 6
) -> Iterator[Mapping[str, float]]:
    """Trains the shipped predictor on random tokens in float32; yields a row after every step."""
    encoder = shipped_config()
    model, shape = _untrained(
        PREDICTORS["mini"],
        encoder.dim,
        (1, encoder.num_tokens),
        num_frames=num_frames,
        seed=0,
        device=torch.device("cpu"),
    )
    sampler: Any = _OneBatch(shape, num_frames, batch_size, 0)
    config = TrainConfig(num_steps=num_steps, precision="float32")
    yield from train(model, sampler, config)


def _untrained(
    predictor: PredictorShape,
    token_dim: int,
    grid: tuple[int, int],
    *,
    num_frames: int,
    seed: int,
    device: torch.device,
) -> tuple[LatentWorldModel, PredictorConfig]:
    """Makes a model with random weights that trains on tokens alone."""
    config = PredictorConfig(
        token_dim=token_dim,
        grid=grid,
        action_dim=_ACTION_DIM,
        state_dim=_ACTION_DIM,
        max_frames=num_frames,
        **asdict(predictor),
    )
    generator = torch.Generator().manual_seed(seed)
    return untrained_model(config, device, generator), config


def _is_one_of(name: str, words: tuple[str, ...]) -> bool:
    """Returns whether a kernel has one of these names, or contains one of at least four letters."""
    return any(name == word or (len(word) >= 4 and word in name) for word in words)


def _by_group(events: Any, device: str) -> dict[str, float]:
    """Returns the share of the kernels' own time by their purpose."""
    total: dict[str, float] = {}
    for event in events:
        name = event.key.removeprefix("aten::").strip("_")
        if device == "cuda" and event.device_type.name != "CUDA":
            continue  # only kernels: their launches show the same time again
        time_us = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        group = next((g for g, words in _GROUPS.items() if _is_one_of(name, words)), "other")
        total[group] = total.get(group, 0.0) + time_us
    everything = sum(total.values()) or 1.0
    return {name: time_us / everything for name, time_us in total.items()}
