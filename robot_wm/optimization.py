"""The training loop of everything that trains: batches, steps, saves; it can stop and resume."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robot_wm.files import check_space, replacing
from robot_wm.types import UserError

Metrics = dict[str, float]
Loss = Callable[[], tuple[Tensor, Metrics]]
_NOTE = "training"  # key in the metadata of a save
_ROWS = "rows"  # tensor that holds JSON as bytes
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


@dataclass(frozen=True)
class LoopConfig:
    """How a run is optimised.

    Attributes:
        num_steps: Number of steps of a whole run.
        learning_rate: A function that returns the learning rate of a step, from its number (from 0)
            and the progress of the run in [0, 1].
        betas: Decay rates of AdamW's moments.
        grad_clip: Largest norm of the gradient.
        dtype: Data type of matrix products; bfloat16 by autocast.
        ema: Decay of an exponential moving average of the weights, which becomes the result of the
            run; 0: the last weights are.
        time_limit_s: Training time after which the run ends, s; None: no limit.
    """

    num_steps: int
    learning_rate: Callable[[int, float], float]
    betas: tuple[float, float]
    grad_clip: float
    dtype: torch.dtype = torch.float32
    ema: float = 0.0
    time_limit_s: float | None = None


class Stateful(Protocol):
    """What can be saved and loaded: a module, or a world model."""

    def state_dict(self) -> Any:
        """Returns the state."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Loads a state."""
        ...


class Job(Protocol):
    """What a run trains, and by which loss."""

    @property
    def modules(self) -> Mapping[str, Stateful]:
        """All that a run changes, by the name that it is saved under."""
        ...

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        """Generators of random numbers that continue from step to step, by name."""
        ...

    def groups(self) -> list[dict[str, Any]]:
        """Returns AdamW's parameter groups, each with a list `params` and a `weight_decay`."""
        ...

    def losses(self, step: int) -> Iterator[tuple[float, Loss]]:
        """Iterates over the parts of a step's loss.

        The batch depends on the step alone, so that a resumed run is the same run. A part that is
        not finite, or was computed from such, raises FloatingPointError.

        Args:
            step: Number of the step, from 0.

        Returns:
            For each part its share of the batch, and a function that returns its loss and metrics.
        """
        ...

    def end_step(self, progress: float) -> None:
        """Ends an optimiser's step, at a progress of the run in [0, 1]."""
        ...


class Loop:
    """A run of training: its state, and its steps to the end.

    Attributes:
        step: Number of steps done.
        elapsed_s: Time spent in them, s.
        rows: Metrics that the caller keeps, which are saved with the run.

    Args:
        job: What is trained, in place.
        config: How it is optimised.
    """

    step: int
    elapsed_s: float
    rows: list[Metrics]

    def __init__(self, job: Job, config: LoopConfig) -> None:
        self._job, self._config = job, config
        groups = job.groups()
        self._parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        self._optimizer = torch.optim.AdamW(groups, lr=1.0, betas=config.betas)
        self._average = [p.detach().clone() for p in self._parameters] if config.ema else []
        self.step = 0
        self.elapsed_s = 0.0
        self.rows = []

    @property
    def num_steps(self) -> int:
        """Number of steps of a whole run."""
        return self._config.num_steps

    @property
    def progress(self) -> float:
        """Share of the run that is over, in [0, 1]."""
        limit_s = self._config.time_limit_s
        share = self.step / self._config.num_steps
        return min(1.0, max(share, self.elapsed_s / limit_s if limit_s else 0.0))

    def steps(self) -> Iterator[Metrics]:
        """Trains to the end of the run, from its current state.

        Yields:
            Metrics: after each step `step` (from 1), `loss` and its parts, `learning_rate`,
                `grad_norm`, `elapsed_s`.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; the weights are those before the
                step.
        """
        if self._parameters[0].device.type == "cpu":
            _keep_freed_memory()
        while self.progress < 1:
            begin_s = time.monotonic()
            metrics = self._train()
            self.step += 1
            self.elapsed_s += time.monotonic() - begin_s
            yield {"step": self.step, **metrics, "elapsed_s": self.elapsed_s}
        with torch.no_grad():
            for mean, value in zip(self._average, self._parameters, strict=False):
                value.copy_(mean)

    def _train(self) -> Metrics:
        config, step = self._config, self.step
        device = self._parameters[0].device
        rate = config.learning_rate(step, self.progress)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        reduced = config.dtype != torch.float32
        autocast = functools.partial(torch.autocast, device.type, config.dtype, enabled=reduced)
        self._optimizer.zero_grad(set_to_none=True)
        total: Metrics = {}
        for share, part in self._job.losses(step):
            with autocast():
                loss, metrics = part()
            (share * loss).backward()
            for name, value in metrics.items():
                total[name] = total.get(name, 0.0) + share * value
        norm = float(nn.utils.clip_grad_norm_(self._parameters, config.grad_clip))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite: {total}")
        self._optimizer.step()
        self._job.end_step(self.progress)
        with torch.no_grad():
            for mean, value in zip(self._average, self._parameters, strict=False):
                # A shorter average at first: else the initial weights would dominate it.
                mean.lerp_(value, 1 - min(config.ema, (1 + step) / (10 + step)))
        return {**total, "learning_rate": rate, "grad_norm": norm}

    def save(self, path: Path, *, about: Mapping[str, object]) -> None:
        """Writes the state of the run, for `resume`.

        Args:
            path: A safetensors file, which is replaced completely or not at all.
            about: A description of the run (data, settings), which must be the same on resuming.

        Raises:
            OSError: there is no room, or the file cannot be written.
        """
        note = {"step": self.step, "elapsed_s": self.elapsed_s, "about": about}
        note["threads"] = torch.get_num_threads()
        tensors = {name: t.detach().cpu().contiguous() for name, t in self._state().items()}
        rows = bytearray(json.dumps(self.rows).encode())  # too many for a file's metadata
        tensors[_ROWS] = torch.frombuffer(rows, dtype=torch.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        check_space(path.parent, sum(t.numel() * t.element_size() for t in tensors.values()))
        try:
            with replacing(path) as scratch:
                save_file(tensors, scratch, metadata={_NOTE: json.dumps(note)})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(f"cannot write {path}: {error}") from error

    def _state(self) -> dict[str, Tensor]:
        state = {}
        for name, module in self._job.modules.items():
            state.update({f"{name}.{key}": value for key, value in module.state_dict().items()})
        for i, parameter in enumerate(self._parameters):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{i}.{name}"] = torch.as_tensor(value)
        state |= {f"average.{i}": value for i, value in enumerate(self._average)}
        for name, generator in self._job.generators.items():
            state[f"generator.{name}"] = generator.get_state()
        return state

    def resume(self, path: Path, *, about: Mapping[str, object]) -> None:
        """Continues from what `save` wrote, with as many threads: sums depend on their number.

        Args:
            path: The file that `save` wrote.
            about: A description of the run, which must be the one that was saved.

        Raises:
            ValueError: the file is another run's, is damaged, or does not exist.
        """
        try:
            with safe_open(path, "pt") as file:
                note = read_note(file.metadata())
                state = {name: file.get_tensor(name) for name in file.keys()}
            saved, current = note["about"], json.loads(json.dumps(about))
            differing = sorted(k for k in {*saved, *current} if saved.get(k) != current.get(k))
            if differing:
                raise ValueError(f"it is of another run, by its {', '.join(differing)}")
            for name, module in self._job.modules.items():
                module.load_state_dict(_part(state, f"{name}."))
            groups = self._optimizer.state_dict()["param_groups"]
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _part(state, "optimizer.").items():
                index, _, what = name.partition(".")
                moments.setdefault(int(index), {})[what] = value
            self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
            for i, mean in enumerate(self._average):
                mean.copy_(state[f"average.{i}"])
            for name, generator in self._job.generators.items():
                generator.set_state(state[f"generator.{name}"])
            self.step, self.elapsed_s = int(note["step"]), float(note["elapsed_s"])
            self.rows = [dict(row) for row in json.loads(state[_ROWS].numpy().tobytes())]
            threads = int(note.get("threads", torch.get_num_threads()))
            torch.set_num_threads(min(threads, os.cpu_count() or 1))  # sums depend on it
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"cannot go on from {path}: {error}") from error


def _keep_freed_memory() -> None:
    """Makes glibc keep the memory that a step frees, for the next step.

    It would return large tensors to the system, which zeroes every page that it hands out again:
    60 MB a step of pretraining, a fifth of its time (docs/log.md).
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def read_note(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Reads a save's record of its run: `step`, `elapsed_s`, `about`.

    Args:
        metadata: Metadata of the safetensors file.

    Returns:
        The record.

    Raises:
        KeyError: the file is not a save of a training run.
        ValueError: the file is not a save of a training run.
    """
    note = json.loads((metadata or {})[_NOTE])
    if not isinstance(note, dict) or not isinstance(note.get("about"), dict):
        raise ValueError("it is no save of a training")
    return note


def saved_about(path: Path) -> dict[str, Any]:
    """Returns the description of a saved run; empty where no save can be read."""
    try:
        with safe_open(path, "pt") as file:
            return read_note(file.metadata())["about"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return {}


def train_and_save(
    loop: Loop,
    steps: Iterator[Metrics],
    save: Path,
    *,
    about: Mapping[str, object],
    save_every_s: float,
    stopped: Sequence[object] = (),
) -> Iterator[Metrics]:
    """Trains to the end, saving on the way; resumes an earlier save of the same run.

    Args:
        loop: The run.
        steps: Iterator `loop.steps()`, or one over its steps.
        save: Path of the save.
        about: A description of the run, as in `Loop.save`.
        save_every_s: Time between saves, s; 0: the run is saved after every step.
        stopped: A sequence that becomes non-empty when the run is to be saved and left.

    Yields:
        Metrics: what `steps` yields.

    Raises:
        UserError: the save is of another run; the message says what to do.
    """
    if save.is_file():
        try:
            loop.resume(save, about=about)
        except ValueError as error:
            raise UserError(f"{error}; delete it to begin anew, or give another out=") from error
    saved_s = time.monotonic()
    for row in steps:
        yield row
        if loop.progress < 1 and (stopped or time.monotonic() - saved_s >= save_every_s):
            loop.save(save, about=about)
            saved_s = time.monotonic()
        if stopped and loop.progress < 1:
            return


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
