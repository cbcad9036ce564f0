"""How torch's threads wait for each other: decided before torch loads, in every process of ours."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# Turns of GNU OpenMP's waiting loop before a thread sleeps; its own default is 300,000.
# scripts/measure_busy.py measures what it costs and brings, docs/log.md has the figures.
SPIN_COUNT = 1_000
_OF_THE_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def share_cores(environ: MutableMapping[str, str] = os.environ) -> None:
    """Lets torch's threads sleep soon where they have to wait, unless the user chose how they wait.

    Left alone, they wait by turning in a loop. On a machine whose cores are busy otherwise, a
    thread that turns keeps from its core the very thread that it waits for, and every operation
    takes a turn of the scheduler. The setting is read when torch loads, and processes that this
    one starts inherit it.

    Args:
        environ: the environment to set it in.
    """
    if not any(name in environ for name in _OF_THE_USER):
        environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
