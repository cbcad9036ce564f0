"""Errors that a user can correct, which are shown without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A setting, a file or a device is wrong; the message says what is needed.

    A command shows it in one line. Any other ValueError is a bug, and is shown with its traceback.
    """


class RunError(RuntimeError):
    """A run ended without its result: no plan was found, or a fault occurred.

    A command shows it in one line.
    """
