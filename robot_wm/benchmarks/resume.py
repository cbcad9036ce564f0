"""Checks that a training that is killed and resumed ends with the same weights.

The same small training runs in a process that is killed with SIGKILL, at random moments and as soon
as a save has begun, and is started again with the same settings until it is done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from robot_wm.checkpoint import load_checkpoint
from robot_wm.deployment.simulation import NUM_RUN_SEEDS
from robot_wm.models import FitConfig
from robot_wm.progress import Progress
from robot_wm.training import TrainConfig
from robot_wm.types import Count, Index, RunError, Seed, Settings, plain_settings
from robot_wm.workflows.collect import CollectSettings, collect
from robot_wm.workflows.data import DatasetSettings
from robot_wm.workflows.train import TrainSettings, resume_file

log = logging.getLogger(__name__)
_FULL = {"kills": 50, "kills_in_save": 20}
_CHILD = """
import json, sys
from robot_wm.types import read_settings
from robot_wm.workflows.train import TrainSettings, train
train(read_settings("", json.loads(sys.argv[1]), TrainSettings))
"""
_LONGEST_S = 300.0  # of one start to its end


class ResumeError(RunError):
    """A killed training ended with other weights, or left a file that cannot be read."""


class BenchResumeSettings(Settings, frozen=True):
    """How often a training is killed.

    Attributes:
        full: Kills 50 times at random moments, and 20 times during a save.
        kills: Number of kills at random moments.
        kills_in_save: Number of kills as soon as a save has begun.
        num_steps: Optimiser steps of the training.
        seed: Seed of the training and of the moments.
    """

    full: bool = False
    kills: Index = 4
    kills_in_save: Index = 2
    num_steps: Count = 200
    seed: Seed = 0


def bench_resume(settings: BenchResumeSettings) -> dict[str, Any]:
    """Kills trainings, and compares the weights that they end with.

    Args:
        settings: How often a training is killed.

    Returns:
        `kills`, `resume_mismatches`, `unreadable_checkpoints`, and more, in plain values.

    Raises:
        ResumeError: a training does not end, or ends with an error.
    """
    kills = {"kills": settings.kills, "kills_in_save": settings.kills_in_save}
    kills = _FULL if settings.full else kills
    with tempfile.TemporaryDirectory(prefix="robot_wm_resume_") as folder:
        work = Path(folder)
        data = str(work / "data")
        collect(CollectSettings(out=data, num_episodes=6, seed=settings.seed % NUM_RUN_SEEDS))
        rng = np.random.default_rng(settings.seed)
        bench = Bench(work, settings.num_steps, settings.seed, rng)
        bench.reference()
        with Progress("kills", "kill") as progress:
            total = sum(kills.values())

            def show() -> None:
                progress(bench.num_kills, total)

            bench.kill(kills["kills"], bench.at_random, show)
            bench.kill(kills["kills_in_save"], bench.in_save, show)
    return {
        "kills": bench.num_kills,
        "resume_mismatches": bench.num_mismatches,
        "unreadable_checkpoints": bench.num_unreadable,
        "trainings": bench.num_trainings,
        "uninterrupted_s": bench.took_s,
    }


@dataclass
class Bench:
    """The training that is killed, and what has been counted.

    Attributes:
        work: A folder with the dataset in `data`.
        num_steps: Optimiser steps of the training.
        seed: Seed of the training.
        rng: Draws the moments of the kills.
        num_kills: Kills so far.
        num_trainings: Trainings that have come to their end so far.
        num_mismatches: Trainings that ended with other weights than the uninterrupted one.
        num_unreadable: Saves and checkpoints that could not be read after a kill.
        took_s: Time of the uninterrupted training from its first save to its end, s.
    """

    work: Path
    num_steps: int
    seed: int
    rng: np.random.Generator
    num_kills: int = 0
    num_trainings: int = 0
    num_mismatches: int = 0
    num_unreadable: int = 0
    took_s: float = 0.0
    _expected: dict[str, str] = field(default_factory=dict)

    def reference(self) -> None:
        """Trains without a kill."""
        out = self.work / "reference"
        child = self._start(out)
        self._wait(child, lambda: resume_file(out).exists())
        begin_s = time.monotonic()
        self._end(child)
        self.took_s = time.monotonic() - begin_s
        self._expected = _weights(out)
        log.info(f"uninterrupted: {self.num_steps} steps in {self.took_s:.1f} s")

    def kill(
        self, num: int, until: Callable[[Path], Callable[[], bool]], told: Callable[[], None]
    ) -> None:
        """Kills trainings `num` times; each is resumed until it is done, and is then compared.

        Args:
            num: Number of kills.
            until: Makes, from the checkpoint's directory, the condition on which a process is
                killed.
            told: Called after every kill.
        """
        while num > 0:
            out = self.work / f"killed{self.num_trainings}"
            done = False
            while not done:
                child = self._start(out)
                if num > 0 and self._wait(child, until(out)):
                    child.kill()
                    child.wait()
                    num -= 1
                    self.num_kills += 1
                    self._check(out)
                    told()
                    done = out.is_dir() and not resume_file(out).exists()  # killed after its end
                else:
                    self._end(child)
                    done = True
            self.num_trainings += 1
            self.num_mismatches += int(_weights(out) != self._expected)

    def at_random(self, out: Path) -> Callable[[], bool]:
        """Makes a condition that holds from a random moment after the first save on."""
        wait_s, begun_s = self.rng.uniform(0, self.took_s), [0.0]

        def over() -> bool:
            if not begun_s[0] and resume_file(out).exists():
                begun_s[0] = time.monotonic()
            return bool(begun_s[0]) and time.monotonic() - begun_s[0] >= wait_s

        return over

    def in_save(self, out: Path) -> Callable[[], bool]:
        """Makes a condition that holds while a save is written, after sparing some saves."""
        save = resume_file(out)
        left = [int(self.rng.integers(1, self.num_steps // 2 + 2)), None]

        def over() -> bool:
            scratch = next(iter(out.parent.glob(f".{save.name}.*.tmp")), None)
            if scratch is not None and scratch != left[1]:
                left[:] = [left[0] - 1, scratch]
            return left[0] <= 0

        return over

    def _start(self, out: Path) -> subprocess.Popen[bytes]:
        settings = TrainSettings(
            data=DatasetSettings(source=str(self.work / "data")),
            out=str(out),
            cache=str(self.work / "cache"),
            device="cpu",
            model=FitConfig(batch_size=8),
            train=TrainConfig(precision="float32", num_steps=self.num_steps),
            save_every_s=0.0,
            seed=self.seed,
        )
        with open(self.work / "stderr", "wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-c", _CHILD, json.dumps(plain_settings(settings))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # This process may be kept to one core while others are busy, and its children with
                # it; a training that begins with fewer threads comes to other sums.
                env={**os.environ, "OMP_NUM_THREADS": str(os.cpu_count() or 1)},
            )

    def _wait(self, child: subprocess.Popen[bytes], over: Callable[[], bool]) -> bool:
        """Returns whether a condition held before the training ended."""
        until_s = time.monotonic() + _LONGEST_S
        while child.poll() is None:
            if over():
                return True
            if time.monotonic() > until_s:
                child.kill()
                raise ResumeError(f"a training of {self.num_steps} steps is not done")
        return False

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        if child.wait(_LONGEST_S):
            raise ResumeError(
                f"the training ended with exit code {child.returncode}: "
                f"{(self.work / 'stderr').read_text(errors='replace')[-500:]}"
            )

    def _check(self, out: Path) -> None:
        """Reads the files that a kill has left, and counts those that cannot be read."""
        try:
            if resume_file(out).exists():
                load_file(resume_file(out))
            if out.exists():
                load_checkpoint(out)
        except Exception as error:  # noqa: BLE001 - whatever reading raises, it is counted
            log.info(f"unreadable after kill {self.num_kills}: {error!r:.200}")
            self.num_unreadable += 1


def _weights(out: Path) -> dict[str, str]:
    """Returns the hash of every tensor of a checkpoint, by name."""
    tensors = load_file(out / "weights.safetensors")
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }
