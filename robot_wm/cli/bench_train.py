"""`robot-wm bench train`: how much of the machine a training step uses, and what uses the rest."""

from __future__ import annotations

import os
import statistics
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch.profiler import ProfilerActivity, profile

from robot_wm.cli.config import compose_config
from robot_wm.cli.console import finish, say
from robot_wm.cli.flops import MATMUL_SIZE, flop_counter, sustained_rate
from robot_wm.data import Batch
from robot_wm.encoders import shipped_config
from robot_wm.models import LatentWorldModel, ModelSpec, View
from robot_wm.precision import choose_precision, pick_device
from robot_wm.predictor import Predictor, PredictorConfig
from robot_wm.preprocess import NormStats
from robot_wm.training import TrainConfig, train
from robot_wm.types import ActionSpec, check_counts

_ACTION_DIM = 4
# Kernels by what they are for; whatever has another name is "other".
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


@dataclass(frozen=True)
class _Shape:
    """The part of an encoder that a model asks about before it sees a picture."""

    dim: int
    grid: tuple[int, int]


class _OneBatch:
    """A sampler of random tokens: the same batch at every step, so that no reading is timed."""

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
        return self._batch


def run(config: DictConfig) -> None:
    """Benchmarks the configured predictor, and the shipped size beside it."""
    settings: Any = OmegaConf.to_container(config)
    check_counts(repeats=config.repeats, batch_size=config.batch_size)
    check_counts(3, num_frames=config.num_frames)
    shipped: Any = OmegaConf.to_container(compose_config("train", []).predictor)
    encoder = shipped_config()
    results = {
        "configured": _measure(config, settings["predictor"], config.token_dim, settings["grid"],
                               config.batch_size),
        "shipped": _measure(config, shipped, encoder.dim, [1, encoder.num_tokens],
                            8 * config.batch_size),
    }  # fmt: skip
    ours = results["configured"]
    finish(
        {
            "samples_per_s": ours["samples_per_s"],
            "matmul_share": ours["matmul_share"],
            "configured": ours,
            "shipped": results["shipped"],
        }
    )


def _measure(
    config: DictConfig, predictor: dict[str, Any], token_dim: int, grid: list[int], batch_size: int
) -> dict[str, Any]:
    device = pick_device(config.device)
    precision = choose_precision(config.precision, device)
    model, shape = _untrained(
        predictor, token_dim, grid, num_frames=config.num_frames, seed=config.seed, device=device
    )
    sampler: Any = _OneBatch(shape, config.num_frames, batch_size, config.seed)

    name = str(precision).removeprefix("torch.")

    def steps(num: int, *, compiled: bool = config.compile) -> Iterator[float]:
        """When each of `num` steps after a first one, which prepares, had been done; seconds."""
        how = TrainConfig(num_steps=num + 1, compile=compiled, precision=name)  # type: ignore[arg-type]
        return (row["elapsed_s"] for row in train(model, sampler, how))

    with flop_counter() as counter:
        list(steps(0, compiled=False))
    flops = counter.get_total_flops()
    rates, times = [], []
    for _ in range(config.repeats):  # in turn: a busy moment falls on both
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
    say(
        f"predictor {shape.width} x {shape.depth}, {shape.num_tokens} tokens of {token_dim}, "
        f"{batch_size} windows of {config.num_frames} frames; {device.type}, "
        f"{torch.get_num_threads()} threads, {name}"
    )
    say(
        f"  {batch_size / step_s:.1f} samples/s, {step_s * 1e3:.0f} ms a step of "
        f"{flops / 1e9:.1f} GFLOP: {share:.0%} of the {statistics.median(rates) / 1e9:.0f} GFLOP/s "
        f"that a {MATMUL_SIZE} x {MATMUL_SIZE} matrix product reaches"
    )
    for name, part in sorted(spent.items(), key=lambda item: -item[1]):
        say(f"  {part:6.1%} {name}")
    return {
        "samples_per_s": batch_size / step_s,
        "matmul_share": share,
        "step_s": step_s,
        "gflop_per_step": flops / 1e9,
        "matmul_gflop_per_s": statistics.median(rates) / 1e9,
        "time_by_kernel": spent,
    }


def shipped_steps_s(num_steps: int, *, batch_size: int = 64, num_frames: int = 6) -> list[float]:
    """Seconds of each training step of the shipped predictor on random tokens, in float32."""
    rows = shipped_training(num_steps + 1, batch_size=batch_size, num_frames=num_frames)
    return np.diff([row["elapsed_s"] for row in rows]).tolist()


def shipped_training(
    num_steps: int, *, batch_size: int = 64, num_frames: int = 6
) -> Iterator[Mapping[str, float]]:
    """Trains the shipped predictor on random tokens, in float32; yields a row after every step."""
    predictor: Any = OmegaConf.to_container(compose_config("train", []).predictor)
    encoder = shipped_config()
    model, shape = _untrained(
        predictor,
        encoder.dim,
        [1, encoder.num_tokens],
        num_frames=num_frames,
        seed=0,
        device=torch.device("cpu"),
    )
    sampler: Any = _OneBatch(shape, num_frames, batch_size, 0)
    how = TrainConfig(num_steps=num_steps, precision="float32")
    yield from train(model, sampler, how)


def _untrained(
    predictor: dict[str, Any],
    token_dim: int,
    grid: list[int],
    *,
    num_frames: int,
    seed: int,
    device: torch.device,
) -> tuple[LatentWorldModel, PredictorConfig]:
    """A model with random weights that trains on tokens alone."""
    shape = PredictorConfig(
        token_dim=token_dim,
        grid=grid,  # type: ignore[arg-type]  # made a tuple, and checked, by PredictorConfig
        action_dim=_ACTION_DIM,
        state_dim=_ACTION_DIM,
        max_frames=num_frames,
        **predictor,
    )
    names = tuple("abcd")
    same = NormStats(np.zeros(_ACTION_DIM), np.ones(_ACTION_DIM))
    bound = np.ones(_ACTION_DIM)
    spec = ModelSpec(
        (View("front", 96, 96),), 0.2, names, ActionSpec(names, -bound, bound, ("",) * 4)
    )
    model = LatentWorldModel(
        _Shape(token_dim, shape.grid),  # type: ignore[arg-type]  # never called
        Predictor(shape, generator=torch.Generator().manual_seed(seed)).to(device),
        spec,
        action_stats=same,
        proprio_stats=same,
    )
    return model, shape


def _is_one_of(name: str, words: tuple[str, ...]) -> bool:
    """Whether a kernel is one of these, or a part of its name of four letters or more is."""
    return any(name == word or (len(word) >= 4 and word in name) for word in words)


def _by_group(events: Any, device: str) -> dict[str, float]:
    """Share of the kernels' own time by what they are for."""
    total: dict[str, float] = {}
    for event in events:
        name = event.key.removeprefix("aten::").strip("_")
        if device == "cuda" and event.device_type.name != "CUDA":
            continue  # only kernels: their launches show the same time again
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        group = next((g for g, words in _GROUPS.items() if _is_one_of(name, words)), "other")
        total[group] = total.get(group, 0.0) + own
    everything = sum(total.values()) or 1.0
    return {name: own / everything for name, own in total.items()}
