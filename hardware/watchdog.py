"""Watches the controller from another process: when it falls silent, the device is told to hold.

An SO-101's servos have no watchdog of their own and keep their last goal for ever. As every goal is
small, that is safe by itself; this process makes the end known, and does what the device can do.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from hardware.wire import Wire

SILENCE_S = 0.1


def watch(wire: Wire, hold: Callable[[], None], alarm: Callable[[str], None]) -> str:
    """Returns when the controller says goodbye, is gone, or is silent for too long.

    Args:
        wire: the controller says something on it in every tick.
        hold: the device's safe act; may raise, which is told.
        alarm: tells the human.

    Returns:
        Why it came back: `"goodbye"`, `"the controller is gone"` or `"the controller is silent"`.
    """
    heard_s = time.monotonic()
    begun = False
    while True:
        left = heard_s + SILENCE_S - time.monotonic()
        ready, _, _ = select.select([wire], [], [], max(0.0, left) if begun else None)
        messages = wire.receive() if ready else []
        if any(isinstance(message, dict) and "goodbye" in message for message in messages):
            return "goodbye"
        if messages:
            begun, heard_s = True, time.monotonic()
        why = ""
        if wire.closed:
            why = "the controller is gone"
        elif begun and time.monotonic() - heard_s > SILENCE_S:
            why = "the controller is silent"
        if why:
            alarm(why)
            try:
                hold()
            except Exception as error:  # noqa: BLE001 - the stop path: whatever it is, tell it
                alarm(f"holding the device failed: {error!r}")
            return why
