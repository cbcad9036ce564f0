"""Watches the controller from another process: when it falls silent, the device is told to hold.

An SO-101's servos have no watchdog of their own and keep their last goal for ever. As every goal is
small, that is safe by itself; this process makes the end known, and does what the device can do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from hardware.wire import Wire

SILENCE_S = 0.1


def watch(wire: Wire, hold: Callable[[], None], alarm: Callable[[str], None]) -> bool:
    """Watches until the controller says goodbye, or is gone.

    Args:
        wire: the controller says something on it in every tick.
        hold: the device's safe act; may raise, which is told.
        alarm: tells the human; may raise.

    Returns:
        Whether it said goodbye.
    """
    heard_s, begun, silent = time.monotonic(), False, False
    while True:
        waiting = begun and not silent
        ready = wire.wait(heard_s + SILENCE_S - time.monotonic() if waiting else None)
        messages = wire.receive() if ready else []
        if any(isinstance(message, dict) and "goodbye" in message for message in messages):
            return True
        if messages:
            # An arm that was never armed is not driven: a controller that is still loading is slow.
            begun = any(isinstance(m, dict) and m.get("armed") for m in messages[-1:])
            silent, heard_s = False, time.monotonic()
        if wire.closed:
            _act("the controller is gone", hold, alarm)
            return False
        if waiting and not messages and time.monotonic() - heard_s > SILENCE_S:
            silent = True  # told once; it may come back
            _act("the controller is silent", hold, alarm)


def _act(why: str, hold: Callable[[], None], alarm: Callable[[str], None]) -> None:
    for act in (hold, lambda: alarm(why)):
        try:
            act()
        except Exception as error:  # noqa: BLE001 - the stop path: whatever it is, go on
            with contextlib.suppress(Exception):
                alarm(f"{why}, and then: {error!r}")
