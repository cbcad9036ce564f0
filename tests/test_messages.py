"""What the processes of a run tell each other: whole, exact, or not at all."""

from __future__ import annotations

import math
import typing

import governor_checks
import msgspec
import numpy as np
import pytest

from hardware import messages, reasons
from hardware.messages import (
    ArmObservation,
    ArmServerReady,
    DecisionTaken,
    End,
    PlanProposal,
    Refused,
    Request,
    RunEnded,
    Status,
    Undecodable,
    decode,
    encode,
    to_plain,
)
from hardware.plans import MAX_WAYPOINTS, JointPlan
from hardware.reasons import Kind, Reason, quoted
from hardware.states import Event, State
from hardware.tasks import (
    ChainData,
)
from hardware.ticks import Note, NoteKind
from robot_wm.robots import so100
from robot_wm.types import Outcome

PLAN = JointPlan(1, 2, 10.0, 10.1, [0.1, 1 / 3], [[0.2, 0.3]], 12.0)  # type: ignore[arg-type]
FAULT = Reason(Kind.PLANS_REFUSED, {"num": 3}, Reason(Kind.WRONG_START, {"error_rad": 0.1}))
SENT = [
    PlanProposal(plan=PLAN),
    ArmObservation(number=3, epoch=1, joints=np.arange(3.0), commanded=np.ones(3), observed_s=4.5),
    Request(event=Event.ARM),
    End(reason=FAULT),
    ArmServerReady(low=np.array([-math.pi]), high=np.array([math.pi])),
    Refused(text="robot.port: no device"),
    Status(
        joints=np.zeros(0),
        state=State.FAULTED,
        reason=FAULT,
        notes=(Note(NoteKind.TRANSITION, FAULT, State.RUNNING, State.FAULTED),),
        plan_age_s=None,
        late_ms_p99=np.float64(0.1),  # type: ignore[arg-type]
        num_ticks=7,
    ),
    DecisionTaken(kind="plan", energy=0.5, plan_s=0.1, p_value=None),
    RunEnded(energy=0.5, outcomes=(Outcome("arrived", 0.5, 0.1, 1),)),
]


@pytest.mark.parametrize("message", SENT, ids=lambda message: type(message).__name__)
def test_a_message_comes_as_it_was_sent(message):
    got = decode(encode(message))
    assert type(got) is type(message)
    assert msgspec.to_builtins(got, enc_hook=to_plain) == msgspec.to_builtins(
        message, enc_hook=to_plain
    )


def test_arrays_are_exact():
    got = decode(encode(SENT[0]))
    assert isinstance(got, PlanProposal)
    assert got.plan.start.tolist() == [0.1, 1 / 3] and got.plan.start.dtype == np.float64


@pytest.mark.parametrize(
    "changes",
    [
        {"valid_until_s": math.nan},
        {"begun_s": math.inf},
        {"begun_s": "now"},
        {"seq": -1},
        {"seq": "7"},
        {"seq": 1.5},
        {"epoch": True},
        {"start": [math.inf, 0.0]},
        {"start": None},
        {"start": [True, False]},
        {"waypoints": [[0.1, math.nan]]},
        {"waypoints": [[0.1, None]]},
        {"waypoints": [["0.1", "0.2"]]},
        {"waypoints": [[0.1], [0.1, 0.2]]},
        {"waypoints": []},
        {"waypoints": [[]]},
        {"waypoints": "go"},
        {"waypoints": [[0.1, 0.1]] * (MAX_WAYPOINTS + 1)},
        {"waypoints": {"0": [0.1, 0.2]}},
        {"torque": 3},
    ],
)
def test_a_plan_that_is_none_does_not_decode(changes):
    plain = {name: getattr(PLAN, name) for name in JointPlan.__struct_fields__}
    content = msgspec.msgpack.encode(
        {"type": "PlanProposal", "plan": plain | changes}, enc_hook=to_plain
    )
    assert decode(content) == Undecodable(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"\x91" * 50_000,
        msgspec.msgpack.encode(None),
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode({"type": "Heartbeat", "more": 1}),
        msgspec.msgpack.encode({"type": "ArmServerTask"}),
        msgspec.msgpack.encode({"type": "End", "reason": {"kind": "done", "numbers": {"x": 1}}}),
        msgspec.msgpack.encode({"type": "Request", "event": "fly"}),
        encode(SENT[0])[:-1],
    ],
    ids=range(11),
)
def test_bytes_that_are_no_message_are_kept_as_they_came(content):
    assert decode(content) == Undecodable(content)


def test_every_message_has_its_own_name():
    kinds = typing.get_args(messages.Message)
    assert len({kind.__name__ for kind in kinds}) == len(kinds) > 10


def test_every_kind_has_a_sentence_that_its_numbers_fit():
    for kind in Kind:
        names = reasons._NUMBERS[kind]
        assert str(Reason(kind, dict.fromkeys(names, 1.0)))
        with pytest.raises(ValueError, match=kind.value):
            Reason(kind, {"nonsense": 1, **dict.fromkeys(names, 1.0)})


def test_what_a_driver_says_is_cut_short_and_never_empty():
    assert len(str(quoted(Kind.DEVICE, "x" * 10_000))) < 1000
    assert str(quoted(Kind.DEVICE, TimeoutError()))


def test_what_a_driver_says_can_be_sent_whatever_is_in_it():
    odd = quoted(Kind.DEVICE, b"/dev/\xff".decode(errors="surrogateescape"))
    assert decode(encode(End(reason=odd))) == End(reason=odd)


def test_a_chain_comes_as_it_was_sent():
    chain = so100().chain
    content = msgspec.msgpack.encode(ChainData.of(chain), enc_hook=to_plain)
    data = msgspec.msgpack.decode(content, type=ChainData, dec_hook=messages.from_plain)
    joints = np.random.default_rng(0).uniform(-1, 1, (5, chain.num_joints))
    assert np.array_equal(data.chain().corners(joints), chain.corners(joints))
    assert np.array_equal(data.chain().tool(joints[0]), chain.tool(joints[0]))


def test_a_chain_beyond_any_arm_is_refused():
    link = {"parent": -1, "joint": -1, "T_parent": np.eye(4), "axis": [0, 0, 1], "pivot": [0] * 3}
    plain = {"joint_names": [], "joint_range": [], "tool_link": 0, "tool": [0, 0, 0]}
    for links in ([{**link, "corners": [[0, 0, 0]]}] * 65, [{**link, "corners": [[0] * 3] * 5000}]):
        with pytest.raises((ValueError, msgspec.ValidationError)):
            msgspec.convert(
                msgspec.to_builtins({**plain, "links": links}, enc_hook=to_plain),
                ChainData,
                dec_hook=messages.from_plain,
            ).chain()


def test_limits_that_contradict_each_other_do_not_decode():
    content = msgspec.msgpack.encode(governor_checks.limits(), enc_hook=to_plain)
    kind = type(governor_checks.limits())
    again = msgspec.msgpack.decode(content, type=kind, dec_hook=messages.from_plain)
    assert again.low.tolist() == governor_checks.limits().low.tolist()
    plain = msgspec.msgpack.decode(content)
    with pytest.raises(msgspec.ValidationError, match="want less than"):
        msgspec.convert({**plain, "low": plain["high"]}, kind, dec_hook=messages.from_plain)
