"""Replay a flight record: the ticks of the arm, the commands computed again, and the faults."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from hardware.flight import replay


def main(file: str) -> None:
    """Replays a record of `robot-wm deploy` and sums it up.

    Args:
        file: The record.
    """
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    ticks = [line for line in lines if "state" in line]
    print("ticks by state:", dict(Counter(line["state"] for line in ticks)))
    result = replay(Path(file))
    print(f"{result.num_commands} commands computed again: {result.num_mismatches} differ")
    for fault in result.faults:
        print("fault:", fault)


if __name__ == "__main__":
    main(sys.argv[1])
