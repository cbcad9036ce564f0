"""Shows the progress of long work: a bar on stderr, and the stages of a command."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

log = logging.getLogger(__name__)


class Progress:
    """A progress bar on stderr, called as the library's `progress(done, total)` callbacks.

    Args:
        what: Name of the work.
        unit: Name of what is counted.
    """

    def __init__(self, what: str, unit: str) -> None:
        self._what = what
        self._unit = unit
        self._bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        """Moves the bar; it ends when all is done."""
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
        """Shows figures beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()}, refresh=False)

    def close(self) -> None:
        """Leaves the bar as it is and ends its line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stages:
    """Logs which stage of a long command begins, and about how much time is left.

    Args:
        expected_s: Expected time of each stage, in their order, s.
    """

    def __init__(self, expected_s: Mapping[str, float]) -> None:
        self._expected_s = dict(expected_s)
        self._begin = time.monotonic()

    def begin(self, name: str, text: str) -> None:
        """Logs that a stage begins.

        Args:
            name: Name of the stage.
            text: What is done in it.
        """
        names = list(self._expected_s)
        position = names.index(name)
        left = sum(self._expected_s[n] for n in names[position:])
        passed = time.monotonic() - self._begin
        log.info(
            f"[{position + 1}/{len(names)}] {text} "
            f"({passed / 60:.1f} min so far, about {left / 60:.1f} min left)"
        )
