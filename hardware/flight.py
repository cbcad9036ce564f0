"""The flight record: one line of JSON per tick of a run, from which the run can be replayed.

The first line holds the limits and the kinematic chain, so that the governor can be run again on
the recorded targets and its commands compared, with the file alone. Lines go to the operating
system as they are written: a process that is killed loses none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hardware.governor import Governor
from hardware.messages import (
    from_plain,
    to_plain,
)
from hardware.reasons import Reason
from hardware.tasks import (
    ChainData,
)
from hardware.ticks import Reading, TickResult
from robot_wm.kinematics import Chain
from robot_wm.kinematics.limits import Limits
from robot_wm.types import UserError

FORMAT = 3
# Formats of before: reasons were sentences; the governor moved each joint at a pace of its own.
_WITH_SENTENCES, _BY_ANOTHER_GOVERNOR = (1,), (1, 2)
_DAMAGED = (  # what reading a file that is no flight record can raise
    *(ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, RecursionError),
)
_MAX_LINE = 1 << 20  # bytes; no flight record has a longer line


class RecordError(OSError):
    """A flight record can no longer be written: the disk is full, or gone."""


class FlightRecorder:
    """Writes a flight record.

    Args:
        path: Path of the file, which must not exist.
        limits: Limits of the governor.
        chain: Kinematics of the arm.
        about: Further facts about the run, for people.

    Raises:
        FileExistsError: the file exists.
        OSError: the file cannot be written.
    """

    def __init__(
        self, path: Path, limits: Limits, chain: Chain, about: Mapping[str, Any] | None = None
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._path = path
        self._num_ticks, self._torn = 0, False  # torn: a line was begun and not finished
        self._line(
            {
                "format": FORMAT,
                "about": dict(about or {}),
                "limits": limits,
                "chain": ChainData.of(chain),
            }
        )

    def write(
        self,
        now_s: float,
        reading: Reading,
        result: TickResult,
        *,
        late_s: float = 0.0,
        undecodable: Sequence[bytes] = (),
    ) -> None:
        """Writes a tick.

        Args:
            now_s: Time of the tick, s, on the run's clock.
            reading: The reading that the supervisor was given.
            result: The supervisor's decision.
            late_s: Time by which the tick began late, s.
            undecodable: Bytes from other processes that are no message for the arm server.

        Raises:
            RecordError: the file cannot be written; its last line may be cut.
        """
        line: dict[str, Any] = {
            "t": now_s,
            "state": result.state,
            "target": result.target,
            "command": result.command,
            "joints": reading.joints,
            "late": late_s,
        }
        if result.seed is not None:
            line["seed"] = result.seed
        if result.reason is not None:
            line["reason"] = result.reason
        if result.notes:
            line["notes"] = result.notes
        if reading.fault is not None:
            line["fault"] = reading.fault
        if undecodable:
            line["undecodable"] = [content.hex() for content in undecodable]
        self._line(line)
        self._num_ticks += 1

    def _line(self, values: Mapping[str, Any]) -> None:
        # Not msgspec's own JSON, which writes what is not finite as null.
        plain = msgspec.to_builtins(values, enc_hook=to_plain)
        text = (json.dumps(plain) + "\n").encode()
        if self._torn:  # nothing may follow half a line
            raise RecordError(f"{self._path}: it ended within a line")
        self._torn = True
        try:
            while text:
                text = text[os.write(self._file, text) :]
        except OSError as error:
            raise RecordError(f"{self._path}: {error.strerror or error}") from error
        self._torn = False

    def close(self) -> None:
        """Writes the end line, which marks the record as complete, and syncs the file to disk.

        A record that could not be written to its end gets no end line.
        """
        try:
            if not self._torn:
                self._line({"end": self._num_ticks})
            os.fsync(self._file)
        finally:
            os.close(self._file)


@dataclass(frozen=True)
class Replay:
    """Result of replaying a flight record.

    Attributes:
        num_ticks: Number of ticks in the record.
        num_commands: Number of commands in the record.
        num_compared: Number of them that were computed again: none of a record that an earlier
            version's governor made.
        num_mismatches: Number of commands that are not, bit for bit, what the governor returns now.
        largest_rad: Largest difference of a joint in those commands, rad.
        faults: Reasons of the faults, in order.
        cut: Whether the record has no end line: its process died, or its end was lost.
    """

    num_ticks: int
    num_commands: int
    num_compared: int
    num_mismatches: int
    largest_rad: float
    faults: tuple[str, ...]
    cut: bool


def replay(path: Path) -> Replay:
    """Runs the governor again on a record's targets and compares its commands with those recorded.

    Args:
        path: Path of the flight record.

    Returns:
        Counts, and the largest difference.

    Raises:
        UserError: the file is not a flight record, or is damaged.
        OSError: the file cannot be read.
    """
    lines, cut = _lines(path)
    try:
        header = next(lines)
        if header.get("format") not in (*_BY_ANOTHER_GOVERNOR, FORMAT):
            raise UserError(f"got format {header.get('format')!r}, want at most {FORMAT}")
        limits = msgspec.convert(header["limits"], Limits, dec_hook=from_plain)
        chain = msgspec.convert(header["chain"], ChainData, dec_hook=from_plain).chain()
        governor: Governor | None = None
        ticks = commands = mismatches = 0
        moving = whole = faulted = False
        largest, faults = 0.0, []
        for line in lines:
            if whole:
                raise UserError("it goes on after its end")
            if "end" in line:
                whole = line["end"] == ticks
                if not whole:
                    raise UserError(f"it has {ticks} ticks, and ends after {line['end']}")
                continue
            ticks += 1
            if line["state"] == "faulted":
                reason = line["reason"]
                if header["format"] not in _WITH_SENTENCES:
                    reason = str(msgspec.convert(reason, Reason))
                if not faulted or faults[-1] != reason:  # one fault lasts for many ticks
                    faults.append(str(reason))
            faulted = line["state"] == "faulted"
            if "seed" in line:
                measured = limits.clip_within_tolerance(np.array(line["joints"], np.float64))
                if line["seed"] != measured.tolist() or moving:
                    raise UserError(f"tick {ticks}: a governor began where the arm did not stand")
                governor = Governor(limits, chain.corners, np.array(line["seed"], np.float64))
            if line["command"] is None:
                continue
            commands += 1
            if header["format"] in _BY_ANOTHER_GOVERNOR:
                continue
            if governor is None:
                raise UserError(f"tick {ticks} has a command, and no governor began before it")
            command = np.array(line["command"], np.float64)
            if line["target"] is not None and line["state"] == "idle":
                raise UserError(f"tick {ticks}: a target while idle")
            step = governor.step(line["target"])
            again, moving = step.joints, bool(step.speed.any())
            if again.tobytes() != command.tobytes():
                mismatches += 1
                largest = max(largest, float(np.abs(again - command).max()))
    except StopIteration:
        raise UserError(f"{path}: empty, not a flight record") from None
    except UserError as error:
        raise UserError(f"{path}: not a flight record, or damaged: {error!s:.200}") from error
    except _DAMAGED as error:
        raise UserError(f"{path}: not a flight record, or damaged: {error!r:.120}") from error
    compared = 0 if header["format"] in _BY_ANOTHER_GOVERNOR else commands
    whole = whole and not cut
    return Replay(ticks, commands, compared, mismatches, largest, tuple(faults), not whole)


def _lines(path: Path) -> tuple[Iterator[dict[str, Any]], list[bool]]:
    """Returns a record's lines, and a list that gets an item where the last one is cut."""
    cut: list[bool] = []

    def read() -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:
            for text in iter(lambda: file.readline(_MAX_LINE), b""):
                if len(text) == _MAX_LINE:
                    raise UserError("a line is too long")
                if not text.endswith(b"\n"):
                    cut.append(True)
                    return
                yield json.loads(text)

    return read(), cut
