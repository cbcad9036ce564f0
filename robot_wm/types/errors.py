"""What a person can put right, told from what is a fault of the code."""

from __future__ import annotations


class UserError(ValueError):
    """A setting, a file or a device is not what it should be; the message says what would be.

    A command shows it in one line. Any other ValueError is a bug, and keeps its traceback.
    """


class RunError(RuntimeError):
    """A run ended without what it was for: no plan, a fault, a promise that does not hold.

    A command shows it in one line.
    """
