"""`robot-wm bench resume`: a training that is killed, and what it leaves: the same weights.

The same small training runs in a process that is killed with SIGKILL, at random moments and as soon
as a save has begun, and started again by the same command until it is done.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from safetensors.torch import load_file

from robot_wm.checkpoint import load_checkpoint
from robot_wm.cli.collect import collect
from robot_wm.cli.config import load_config
from robot_wm.cli.console import Progress, finish, say
from robot_wm.cli.train import resume_file
from robot_wm.types import RunError, check_counts

_FULL = {"kills": 50, "kills_in_save": 20}
_COMMAND = "import sys; from robot_wm.cli import main; sys.exit(main(sys.argv[1:]))"
_LONGEST_S = 300.0  # of one start to its end


class ResumeError(RunError):
    """A training that was killed came to other weights, or left what cannot be read."""


def run(config: DictConfig) -> None:
    """Kills trainings, compares what they come to, ends with one line of JSON.

    Raises:
        ResumeError: a promise does not hold.
    """
    kills = {name: int(_FULL[name] if config.full else config[name]) for name in _FULL}
    check_counts(0, **kills)
    check_counts(num_steps=config.num_steps)
    with tempfile.TemporaryDirectory(prefix="robot_wm_resume_") as folder:
        work = Path(folder)
        words = ["num_episodes=6", f"out={work / 'data'}", f"seed={config.seed}"]
        collect(load_config("collect", words), work / "data")
        bench = Bench(work, config.num_steps, np.random.default_rng(config.seed))
        bench.reference()
        with Progress("kills", "kill") as progress:
            total = sum(kills.values())
            bench.kill(kills["kills"], bench.at_random, lambda: progress(bench.num_kills, total))
            bench.kill(kills["kills_in_save"], bench.in_save,
                       lambda: progress(bench.num_kills, total))  # fmt: skip
    finish(
        {
            "kills": bench.num_kills,
            "resume_mismatches": bench.num_mismatches,
            "unreadable_checkpoints": bench.num_unreadable,
            "trainings": bench.num_trainings,
            "uninterrupted_s": bench.took_s,
        }
    )
    if bench.num_mismatches or bench.num_unreadable:
        raise ResumeError(
            f"resume_mismatches {bench.num_mismatches}, "
            f"unreadable_checkpoints {bench.num_unreadable}"
        )


@dataclass
class Bench:
    """The training that is killed.

    Attributes:
        work: a folder with its dataset in `data`.
        num_steps: of the training.
        rng: draws when to kill.
        num_kills, num_trainings: so far; of trainings, those that came to their end.
        num_mismatches: trainings that came to other weights than the uninterrupted one.
        num_unreadable: saves and checkpoints that could not be read after a kill.
        took_s: what the uninterrupted training took from its first save to its end.
    """

    work: Path
    num_steps: int
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
        say(f"uninterrupted: {self.num_steps} steps in {self.took_s:.1f} s")

    def kill(
        self, num: int, until: Callable[[Path], Callable[[], bool]], told: Callable[[], None]
    ) -> None:
        """Kills trainings so many times; each goes on until it is done, and is compared."""
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
                else:
                    self._end(child)
                    done = True
            self.num_trainings += 1
            self.num_mismatches += int(_weights(out) != self._expected)

    def at_random(self, out: Path) -> Callable[[], bool]:
        """A moment within the training, from its first save on."""
        wait_s, begun_s = self.rng.uniform(0, self.took_s), [0.0]

        def over() -> bool:
            if not begun_s[0] and resume_file(out).exists():
                begun_s[0] = time.monotonic()
            return bool(begun_s[0]) and time.monotonic() - begun_s[0] >= wait_s

        return over

    def in_save(self, out: Path) -> Callable[[], bool]:
        """A moment at which a save is being written, after some that were not killed."""
        save = resume_file(out)
        left = [int(self.rng.integers(1, self.num_steps // 2 + 2)), None]

        def over() -> bool:
            scratch = next(iter(out.parent.glob(f".{save.name}.*.tmp")), None)
            if scratch is not None and scratch != left[1]:
                left[:] = [left[0] - 1, scratch]
            return left[0] <= 0

        return over

    def _start(self, out: Path) -> subprocess.Popen[bytes]:
        words = [
            "train",
            f"data={self.work / 'data'}",
            f"out={out}",
            f"cache={self.work / 'cache'}",
            "device=cpu",
            "fit.batch_size=8",
            "optimizer.precision=float32",
            f"optimizer.num_steps={self.num_steps}",
            "save_every_s=0",
        ]
        with open(self.work / "stderr", "wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-c", _COMMAND, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def _wait(self, child: subprocess.Popen[bytes], over: Callable[[], bool]) -> bool:
        """Whether a moment came before the training's end."""
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
        """Reads what a kill has left."""
        try:
            if resume_file(out).exists():
                load_file(resume_file(out))
            if out.exists():
                load_checkpoint(out)
        except Exception as error:  # noqa: BLE001 - whatever reading raises, it is counted
            say(f"unreadable after kill {self.num_kills}: {error!r:.200}")
            self.num_unreadable += 1


def _weights(out: Path) -> dict[str, str]:
    """Every tensor of a checkpoint by the hash of its bytes."""
    tensors = load_file(out / "weights.safetensors")
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }
