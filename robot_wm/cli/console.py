"""What a command says while it works, and the one line of JSON it ends with."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm


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
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def finish(figures: Mapping[str, object]) -> None:
    """The last line of every command that measures: one line of strict JSON on stdout."""
    print(json.dumps(figures, allow_nan=False), flush=True)


def output_dir(out: str) -> Path:
    """`out` as a path that is, or can become, a directory: asked before the work, not after it.

    Raises:
        FileExistsError: a file stands there, or where one of its parents should be.
    """
    path = Path(out)
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                raise FileExistsError(f"out: {place} is a file, want a directory")
            break
    return path


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
