"""Stops long work on a signal at a point from which it can be resumed."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

log = logging.getLogger(__name__)


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Yields a list that gets the first SIGINT or SIGTERM; a second one has its usual effect."""
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
    """Ends a command whose work is saved: Ctrl-C as usual, SIGTERM with exit code 0."""
    log.info(text)
    if signal.SIGTERM in received:
        raise SystemExit(0)
    raise KeyboardInterrupt
