"""Watches the arm server from another process and tells the operator when it falls silent.

An SO-101's servos have no watchdog of their own and keep their last joint target for ever. As every
target is one tick away, that is safe by itself; this process makes the silence known.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from hardware.messages import ArmServerBeat, Goodbye
from hardware.wire import Wire

SILENCE_S = 0.1


def watch(wire: Wire, alarm: Callable[[str], None]) -> bool:
    """Watches until the arm server says goodbye, or is gone.

    Args:
        wire: The wire on which the arm server sends a heartbeat per tick.
        alarm: Function that tells the operator a text; it may raise.

    Returns:
        Whether the arm server said goodbye.
    """
    heard_s, begun, silent = time.monotonic(), False, False
    while True:
        waiting = begun and not silent
        ready = wire.wait(heard_s + SILENCE_S - time.monotonic() if waiting else None)
        messages = wire.receive() if ready else []
        if any(isinstance(message, Goodbye) for message in messages):
            return True
        if messages:
            # Silence counts only once the arm is armed: an arm server that is loading is slow.
            begun = isinstance(messages[-1], ArmServerBeat) and messages[-1].armed
            silent, heard_s = False, time.monotonic()
        if wire.closed:
            _tell("the arm server is gone", alarm)
            return False
        if waiting and not messages and time.monotonic() - heard_s > SILENCE_S:
            silent = True  # reported once; it may come back
            _tell("the arm server is silent", alarm)


def _tell(why: str, alarm: Callable[[str], None]) -> None:
    with contextlib.suppress(Exception):  # the stop path: whatever is raised, go on
        alarm(why)
