"""The flight record: every tick of a run, one line of JSON each, that can be flown again.

The first line says what the arm may do and how it is built; so the governor can be run again on
what it was asked, and its commands compared, with nothing but the file. Lines go to the operating
system as they are written: a process that is killed loses none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from hardware.governor import Governor
from hardware.pilot import Reading, Turn
from robot_wm.kinematics import Chain, Link
from robot_wm.kinematics.limits import Limits

FORMAT = 1
_MISFITS = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, RecursionError),
)
_MAX_LINKS, _MAX_CORNERS = 64, 4096  # of an arm that may be real
_MAX_LINE = 1 << 20  # bytes; a longer one is none of ours


class FlightRecorder:
    """Writes a run.

    Args:
        path: a file that must not exist.
        limits: of the governor.
        chain: of the arm.
        about: what else is to be known of the run, for people.

    Raises:
        FileExistsError: there is such a file.
        OSError: it cannot be written.
    """

    def __init__(
        self, path: Path, limits: Limits, chain: Chain, about: Mapping[str, Any] | None = None
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._num_ticks, self._torn = 0, False
        self._line(
            {
                "format": FORMAT,
                "about": dict(about or {}),
                "limits": {
                    field.name: np.asarray(getattr(limits, field.name)).tolist()
                    for field in fields(limits)
                },
                "chain": chain_message(chain),
            }
        )

    def write(self, now_s: float, reading: Reading, turn: Turn, *, late_s: float = 0.0) -> None:
        """A tick.

        Args:
            now_s: on the run's clock.
            reading: what the pilot was told of the arm.
            turn: what it decided.
            late_s: of the tick's beginning.
        """
        line: dict[str, Any] = {
            "t": now_s,
            "state": turn.state.value,
            "target": _plain(turn.target),
            "command": _plain(turn.command),
            "joints": _plain(reading.joints),
            "late": late_s,
        }
        if turn.seed is not None:
            line["seed"] = _plain(turn.seed)
        if turn.reason:
            line["reason"] = turn.reason
        if turn.notes:
            line["notes"] = list(turn.notes)
        if reading.fault:
            line["fault"] = reading.fault
        self._line(line)
        self._num_ticks += 1

    def _line(self, values: Mapping[str, Any]) -> None:
        text = (json.dumps(values) + "\n").encode()
        if self._torn:
            raise OSError("a line of the flight record was not written whole: it ends there")
        self._torn = True
        while text:
            text = text[os.write(self._file, text) :]
        self._torn = False

    def close(self) -> None:
        """Says that it is whole, and brings it to the disk."""
        try:
            self._line({"end": self._num_ticks})
            os.fsync(self._file)
        finally:
            os.close(self._file)


@dataclass(frozen=True)
class Replay:
    """What flying a record again found.

    Attributes:
        num_ticks: in it.
        num_commands: that were written to the arm.
        num_mismatches: commands that are not, bit for bit, what the governor says again.
        largest_rad: the largest difference.
        faults: reasons, in order.
        cut: it does not say that it is whole: its process died, or its end was lost.
    """

    num_ticks: int
    num_commands: int
    num_mismatches: int
    largest_rad: float
    faults: tuple[str, ...]
    cut: bool


def replay(path: Path) -> Replay:
    """Runs the governor again over what it was asked, and compares.

    Raises:
        ValueError: not a flight record, or a damaged one.
        OSError: it cannot be read.
    """
    lines, cut = _lines(path)
    try:
        header = next(lines)
        if header.get("format") != FORMAT:
            raise ValueError(f"got format {header.get('format')!r}, want {FORMAT}")
        limits, chain = Limits(**header["limits"]), parse_chain(header["chain"])
        governor: Governor | None = None
        ticks = commands = mismatches = 0
        moving = whole = False
        largest, faults = 0.0, []
        for line in lines:
            if whole:
                raise ValueError("it goes on after its end")
            if "end" in line:
                whole = line["end"] == ticks
                if not whole:
                    raise ValueError(f"it has {ticks} ticks, and ends after {line['end']}")
                continue
            ticks += 1
            if line["state"] == "faulted" and faults[-1:] != [line["reason"]]:
                faults.append(str(line["reason"]))
            if "seed" in line:
                seat = limits.seat(np.array(line["joints"], np.float64))
                if line["seed"] != seat.tolist() or moving:
                    raise ValueError(f"tick {ticks}: a governor began where the arm did not stand")
                governor = Governor(limits, chain.corners, np.array(line["seed"], np.float64))
            if line["command"] is None:
                continue
            commands += 1
            if governor is None:
                raise ValueError(f"tick {ticks} has a command, and no governor began before it")
            command = np.array(line["command"], np.float64)
            if line["target"] is not None and line["state"] == "idle":
                raise ValueError(f"tick {ticks}: a target while idle")
            step = governor.step(line["target"])
            again, moving = step.joints, bool(step.speed.any())
            if again.tobytes() != command.tobytes():
                mismatches += 1
                largest = max(largest, float(np.abs(again - command).max()))
    except StopIteration:
        raise ValueError(f"{path}: empty, not a flight record") from None
    except _MISFITS as error:
        raise ValueError(f"{path}: not a flight record, or damaged: {error!r:.120}") from error
    return Replay(ticks, commands, mismatches, largest, tuple(faults), bool(cut) or not whole)


def _lines(path: Path) -> tuple[Iterator[dict[str, Any]], list[bool]]:
    """The lines of a record, and a list that is filled where the last is not whole."""
    cut: list[bool] = []

    def read() -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:
            for text in iter(lambda: file.readline(_MAX_LINE), b""):
                if len(text) == _MAX_LINE:
                    raise ValueError("a line is too long")
                if not text.endswith(b"\n"):
                    cut.append(True)
                    return
                yield json.loads(text)

    return read(), cut


def chain_message(chain: Chain) -> dict[str, Any]:
    """A chain for JSON; `parse_chain` reads it back."""
    return {
        "links": [
            {
                "parent": link.parent,
                "joint": link.joint,
                "T_parent": link.T_parent.tolist(),
                "axis": link.axis.tolist(),
                "pivot": link.pivot.tolist(),
                "corners": link.corners.tolist(),
            }
            for link in chain.links
        ],
        "joint_names": list(chain.joint_names),
        "joint_range": chain.joint_range.tolist(),
        "tool_link": chain.tool_link,
        "tool": chain.tool_point.tolist(),
    }


def parse_chain(message: Mapping[str, Any]) -> Chain:
    """A chain that came as JSON."""
    links, num_corners = [], sum(len(link["corners"]) for link in message["links"])
    if len(message["links"]) > _MAX_LINKS or num_corners > _MAX_CORNERS:
        raise ValueError(
            f"chain: got {len(message['links'])} links with {num_corners} corners, want at most "
            f"{_MAX_LINKS} and {_MAX_CORNERS}"
        )
    for link in message["links"]:
        arrays = {name: np.array(link[name], np.float64) for name in ("T_parent", "axis", "pivot")}
        corners = np.array(link["corners"], np.float64).reshape(-1, 3)
        links.append(
            Link(int(link["parent"]), int(link["joint"]), points=corners, few=True, **arrays)
        )
    return Chain(
        links,
        joint_names=tuple(message["joint_names"]),
        joint_range=np.array(message["joint_range"], np.float64),
        tool_link=int(message["tool_link"]),
        tool=np.array(message["tool"], np.float64),
    )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
