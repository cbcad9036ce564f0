"""Prints what a command tells the user, asks questions, and prints the result."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence

from robot_wm.types import Outcome, UserError


class TerminalHandler(logging.Handler):
    """Prints the library's log as lines on stderr; stdout is for the result."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record to the current stderr."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        print(f"{prefix}{record.getMessage()}", file=sys.stderr, flush=True)


def show_log() -> None:
    """Prints the library's log from now on; a second call changes nothing."""
    root = logging.getLogger("robot_wm")
    if not any(isinstance(handler, TerminalHandler) for handler in root.handlers):
        root.addHandler(TerminalHandler())
    root.setLevel(logging.INFO)
    root.propagate = False


def say(text: str) -> None:
    """Prints a line for the user on stderr."""
    print(text, file=sys.stderr, flush=True)


def say_outcomes(outcomes: Sequence[Outcome], num_goals: int) -> None:
    """Prints how the run ended, one line for each goal that was pursued.

    Args:
        outcomes: The outcomes in the order of the goals.
        num_goals: Number of goals that were given.
    """
    for outcome in outcomes:
        say(f"goal {outcome.goal + 1} of {num_goals}: {outcome}" if num_goals > 1 else f"{outcome}")


def ask(text: str) -> str:
    """Asks the user a question on stderr; stdout is for the result.

    Args:
        text: The question.

    Returns:
        The answer.

    Raises:
        UserError: the input has ended (Ctrl-D).
    """
    print(text, end="", file=sys.stderr, flush=True)
    try:
        return input()
    except EOFError:
        raise UserError("nobody answers: the input has ended") from None


def finish(figures: Mapping[str, object]) -> None:
    """Prints figures as one line of strict JSON on stdout, the last line of a command."""
    print(json.dumps(figures, allow_nan=False), flush=True)
