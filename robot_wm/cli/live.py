"""The operator's terminal during a run: a question, single keys, and a line of progress."""

from __future__ import annotations

import shutil
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from hardware.messages import Status
from robot_wm.cli.console import ask, say
from robot_wm.kinematics import Limits
from robot_wm.types import UserError


@contextmanager
def single_keys() -> Iterator[None]:
    """Makes a terminal deliver every key at once, not only whole lines."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def ask_human(limits: Limits) -> None:
    """Asks the operator whether the arm may move.

    Args:
        limits: Limits of the arm.

    Raises:
        UserError: the answer is not yes.
    """
    say(
        f"The arm is going to move, its tip at up to {float(limits.tip_speed):g} m/s. Keep people "
        f"out of its reach and a hand on its power switch. Any key stops it."
    )
    if ask("Type yes to arm: ").strip().lower() != "yes":
        raise UserError("not armed: the answer was not yes")


class Live:
    """Shows the state of a run in the last line of a terminal; nothing if stderr is no terminal."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._energy, self._fault = "", "none"

    def say(self, text: str) -> None:
        """Prints a line above it, which stays."""
        self._write("")
        say(text)

    def note(self, *, energy: str = "", fault: str = "") -> None:
        """Sets what the line shows from now on; an empty text changes nothing."""
        self._energy = energy or self._energy
        self._fault = fault or self._fault

    def show(self, status: Status) -> None:
        """Shows a status of the arm server."""
        age = status.plan_age_s
        plan = "no plan yet" if age is None else f"plan {age:.1f} s old"
        late = f"ticks {status.late_ms_p99:.1f} ms late (p99)"
        state = status.state.value
        self._write(f"{state}: {self._energy}{plan}, {late}, last fault: {self._fault}")

    def _write(self, text: str) -> None:
        if self._on:
            width = shutil.get_terminal_size().columns - 1
            line = text[:width]
            print(f"\r{line:{width}}\r{line}", end="", file=sys.stderr, flush=True)
