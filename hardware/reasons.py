"""Reasons why the arm was held, stopped or did not obey: a kind and its numbers.

Code compares kinds. The sentences for people are made here, when they are shown; no code reads one.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from enum import Enum

import msgspec

from robot_wm.types import UserError

_LONGEST_TEXT = 400  # characters of what a driver or a library says


class Kind(str, Enum):
    """What happened."""

    # What is wrong with the arm, its link, or the computer.
    DEVICE = "device"
    SERVO = "servo"
    NO_ANSWER = "no_answer"
    COMMAND_NOT_TAKEN = "command_not_taken"
    LATE_TICK = "late_tick"
    WRONG_NUM_JOINTS = "wrong_num_joints"
    JOINTS_NOT_FINITE = "joints_not_finite"
    STALE_JOINTS = "stale_joints"
    JOINT_BEHIND = "joint_behind"
    JOINT_STUCK = "joint_stuck"
    COMPUTER_SLEPT = "computer_slept"
    CAMERA_STALE = "camera_stale"
    # What is wrong with the processes.
    WATCHDOG_GONE = "watchdog_gone"
    ARM_SERVER_BROKE = "controller_broke"
    RECORD_LOST = "record_lost"
    ARM_SERVER_GONE = "controller_gone"
    POLICY_MISSING = "planner_missing"
    POLICY_GONE = "planner_gone"
    POLICY_FAILED = "planner_failed"
    POLICY_SILENT = "planner_silent"
    UNDECODABLE = "undecodable"
    FOREIGN_EVENT = "foreign_event"
    WRONG_EVENT = "wrong_event"
    # Where the arm may not stand.
    NOT_ANGLES = "not_angles"
    JOINT_OUTSIDE = "joint_outside"
    BOX_LEFT = "box_left"
    # Why a plan is not followed.
    NOT_READY = "not_ready"
    OTHER_EPOCH = "other_epoch"
    OLD_NUMBER = "old_number"
    WRONG_ORDER = "wrong_order"
    SEEN_IN_MOTION = "seen_in_motion"
    OLD_PLAN = "old_plan"
    OLD_PICTURE = "old_picture"
    WRONG_VALIDITY = "wrong_validity"
    OTHER_ARM = "other_arm"
    WRONG_START = "wrong_start"
    LONG_STEP = "long_step"
    ILLEGAL_TARGET = "illegal_target"
    PLANS_REFUSED = "plans_refused"
    # Progress of a run.
    PLAN = "plan"
    TARGETS_DONE = "targets_done"
    NO_PLAN = "no_plan"
    TARGET_MOVED = "reseated"
    NOT_AT_REST = "not_at_rest"
    TARGET_REFUSED = "target_refused"
    NO_PARK_POSE = "no_park_pose"
    NEVER_ARMED = "never_armed"
    PARKING_SLOW = "parking_slow"
    # Who or what asked for it.
    EVENT = "event"
    ASKED_FOR = "asked_for"
    SIGNAL = "signal"
    KEY = "key"
    TERMINAL_GONE = "terminal_gone"
    HUMAN_GONE = "human_gone"
    HUMAN_ENDS = "human_ends"
    FAULT = "fault"
    NOT_ARMED = "not_armed"
    DONE = "done"


_SENTENCES = {
    Kind.DEVICE: "{text}",
    Kind.SERVO: "servo {servo}: {errors}",
    Kind.NO_ANSWER: "the arm does not answer: {text}",
    Kind.COMMAND_NOT_TAKEN: "the arm did not take a command: {text}",
    Kind.LATE_TICK: "a tick took {took_ms:.0f} ms",
    Kind.WRONG_NUM_JOINTS: "the arm reads {got} joints, want {want}",
    Kind.JOINTS_NOT_FINITE: "the arm reads joints that are not finite",
    Kind.STALE_JOINTS: "the joints were read {age_ms:.0f} ms ago",
    Kind.JOINT_BEHIND: "joint {joint} is {error_rad:.2f} rad behind its command",
    Kind.JOINT_STUCK: "joint {joint} is stuck: it came {came_rad:.2f} of {asked_rad:.2f} rad",
    Kind.COMPUTER_SLEPT: "the computer slept for {slept_s:.0f} s",
    Kind.CAMERA_STALE: "camera {camera} shows nothing new for {age_s:.2f} s",
    Kind.WATCHDOG_GONE: "the watchdog is gone",
    Kind.ARM_SERVER_GONE: "the arm server died",
    Kind.ARM_SERVER_BROKE: "the arm server broke: {text}",
    Kind.RECORD_LOST: "the flight record cannot be written: {text}",
    Kind.POLICY_MISSING: "there is no policy process",
    Kind.POLICY_GONE: "the policy process died",
    Kind.POLICY_FAILED: "the policy process failed: {text}",
    Kind.POLICY_SILENT: "the policy process is silent for {silent_s:.2f} s",
    Kind.UNDECODABLE: "the {sender} sent {num_bytes} bytes that are no message for the arm server",
    Kind.FOREIGN_EVENT: "another process sent the event {event}, which is the supervisor's alone",
    Kind.WRONG_EVENT: "{event} while {state}",
    Kind.NOT_ANGLES: "these are not {want} finite angles",
    Kind.JOINT_OUTSIDE: "joint {joint} is at {angle_rad:.3f} rad",
    Kind.BOX_LEFT: "a corner of the arm is outside the workspace box",
    Kind.NOT_READY: "the arm is {state}",
    Kind.OTHER_EPOCH: "it is of epoch {got}, this is {want}",
    Kind.OLD_NUMBER: "its number is {got}, the last was {last}",
    Kind.WRONG_ORDER: "planning began before the picture was taken, or after now",
    Kind.SEEN_IN_MOTION: "it was made from a picture taken before the arm came to rest",
    Kind.OLD_PLAN: "its picture is {age_s:.0f} s old",
    Kind.OLD_PICTURE: "its picture was {age_ms:.0f} ms old when planning began",
    Kind.WRONG_VALIDITY: "it is valid for another {left_s:.1f} s",
    Kind.OTHER_ARM: "it is for {got} joints, want {want}",
    Kind.WRONG_START: "it starts {error_rad:.3f} rad from where the arm stands",
    Kind.LONG_STEP: "a target is {step_rad:.2f} rad from the one before",
    Kind.ILLEGAL_TARGET: "a target is not legal",
    Kind.PLANS_REFUSED: "{num} plans refused in a row, the last",
    Kind.PLAN: "plan {seq}: {num_targets} targets",
    Kind.TARGETS_DONE: "{num} targets reached",
    Kind.NO_PLAN: "no plan for {waited_s:.0f} s",
    Kind.TARGET_MOVED: "joint target moved by {moved_rad:.2f} rad to where the arm stands",
    Kind.NOT_AT_REST: "the arm has not come to rest",
    Kind.TARGET_REFUSED: "the governor refused a target",
    Kind.NO_PARK_POSE: "there is no park pose",
    Kind.NEVER_ARMED: "the arm was never armed",
    Kind.PARKING_SLOW: "parking takes longer than {waited_s:.0f} s",
    Kind.EVENT: "{event}",
    Kind.ASKED_FOR: "asked for",
    Kind.SIGNAL: "{name}",
    Kind.KEY: "key",
    Kind.TERMINAL_GONE: "the terminal is gone",
    Kind.HUMAN_GONE: "the operator's process is gone",
    Kind.HUMAN_ENDS: "the operator's process ends",
    Kind.FAULT: "fault",
    Kind.NOT_ARMED: "not armed",
    Kind.DONE: "done: the run is over",
}
_NUMBERS = {
    kind: {name for _, name, _, _ in string.Formatter().parse(sentence) if name}
    for kind, sentence in _SENTENCES.items()
}


class Reason(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Why something happened; `str` returns the sentence for people.

    Attributes:
        kind: Kind of what happened.
        numbers: Values in the sentence by name, such as `age_ms`.
        cause: Reason that led to it; None: there is no other.

    Raises:
        ValueError: the numbers are not those of this kind.
    """

    kind: Kind
    numbers: Mapping[str, float | int | str] = {}
    cause: Reason | None = None

    def __post_init__(self) -> None:
        if set(self.numbers) != _NUMBERS[self.kind]:
            raise ValueError(
                f"reason: {self.kind.value} got {', '.join(sorted(self.numbers)) or 'no numbers'}, "
                f"want {', '.join(sorted(_NUMBERS[self.kind])) or 'none'}"
            )

    def __str__(self) -> str:
        sentence = _SENTENCES[self.kind].format(**self.numbers)
        return sentence if self.cause is None else f"{sentence}: {self.cause}"


def quoted(kind: Kind, text: object) -> Reason:
    """Returns a reason that quotes a driver's or a library's own message."""
    return Reason(kind, {"text": clean(text, _LONGEST_TEXT)})


def clean(text: object, longest: int) -> str:
    """Cuts a driver's or library's text to `longest` characters of valid UTF-8; never empty."""
    content = str(text) or repr(text)
    return content[:longest].encode("utf-8", "replace").decode()


class NotLegalError(UserError):
    """The arm stands, or is to stand, where it may not.

    Args:
        reason: Reason why it may not.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"the arm stands where it may not: {reason}")
        self.reason = reason
