"""What a command says while it works, and the one line of JSON it ends with."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tqdm import tqdm

from robot_wm.types import Outcome, UserError


class Progress:
    """A progress bar on stderr, as the library's `progress(done, total)` callbacks drive it."""

    def __init__(self, what: str, unit: str) -> None:
        self._what = what
        self._unit = unit
        self._bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=total,
                desc=self._what,
                unit=self._unit,
                mininterval=1.0 if sys.stderr.isatty() else 20.0,
                file=sys.stderr,
            )
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def note(self, **figures: float) -> None:
        """Figures to show beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()}, refresh=False)

    def close(self) -> None:
        """Leaves the bar as it stands and ends its line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def say_outcomes(outcomes: Sequence[Outcome], num_goals: int) -> None:
    """How it ended, a line for each goal picture that was wanted until the end came.

    Args:
        outcomes: in the order of the goals.
        num_goals: that were given.
    """
    for outcome in outcomes:
        say(f"goal {outcome.goal + 1} of {num_goals}: {outcome}" if num_goals > 1 else f"{outcome}")


def ask(text: str) -> str:
    """Asks the human on stderr: stdout is for the result.

    Raises:
        UserError: the input has ended (Ctrl-D).
    """
    print(text, end="", file=sys.stderr, flush=True)
    try:
        return input()
    except EOFError:
        raise UserError("nobody answers: the input has ended") from None


def finish(figures: Mapping[str, object]) -> None:
    """The last line of every command that measures: one line of strict JSON on stdout."""
    print(json.dumps(figures, allow_nan=False), flush=True)


def output_dir(out: str) -> Path:
    """`out` as a path that is, or can become, a directory: asked before the work, not after it.

    Raises:
        FileExistsError: a file stands there, or where one of its parents should be.
        PermissionError: it cannot be written to.
    """
    path = Path(out)
    for place in (path, *path.absolute().parents):
        if place.exists():
            if not place.is_dir():
                raise FileExistsError(f"out: {place} is a file, want a directory")
            if not os.access(place, os.W_OK):
                raise PermissionError(f"out: {place} cannot be written to")
            break
    return path


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """SIGINT and SIGTERM, once, become an entry in the list; a second one acts as ever."""
    received: list[int] = []
    before = {}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(received: Sequence[int], text: str) -> NoReturn:
    """Ends a command whose work is saved: Ctrl-C as ever, SIGTERM with exit code 0."""
    say(text)
    if signal.SIGTERM in received:
        raise SystemExit(0)
    raise KeyboardInterrupt


def git_sha() -> str | None:
    """Commit of the checkout this runs from, `-dirty` where it was changed; None elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def machine() -> str:
    """What a figure was measured on, in words."""
    import torch  # here: a command that only says something needs none of it

    where = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        where += f", {torch.cuda.get_device_name()}"
    return f"{where}, torch {torch.__version__.partition('+')[0]}"


class Stages:
    """Says which stage of a long command begins, and about how long is left."""

    def __init__(self, expected_s: Mapping[str, float]) -> None:
        self._expected_s = dict(expected_s)
        self._begin = time.monotonic()

    def begin(self, name: str, text: str) -> None:
        names = list(self._expected_s)
        position = names.index(name)
        left = sum(self._expected_s[n] for n in names[position:])
        passed = time.monotonic() - self._begin
        say(
            f"[{position + 1}/{len(names)}] {text} "
            f"({passed / 60:.1f} min so far, about {left / 60:.1f} min left)"
        )
