"""The state machine: every pair of state and event, written down a second time."""

import itertools

import pytest

from hardware.reasons import Kind, Reason, quoted
from hardware.states import Event, State, StateMachine

# rows: state; columns: arm stop park reset plan wait fault parked
TABLE = """
idle     armed   idle    parking faulted faulted faulted faulted faulted
armed    faulted idle    faulted faulted running faulted faulted faulted
running  faulted idle    faulted faulted running holding faulted faulted
holding  faulted idle    faulted faulted running holding faulted faulted
faulted  faulted faulted faulted idle    faulted faulted faulted faulted
parking  faulted idle    faulted faulted faulted faulted faulted idle
"""
ROWS = {row.split()[0]: row.split()[1:] for row in TABLE.strip().splitlines()}
WAY = {
    "idle": [], "armed": ["arm"], "running": ["arm", "plan"], "holding": ["arm", "plan", "wait"],
    "faulted": ["fault"], "parking": ["park"],
}  # fmt: skip


def machine_in(state):
    machine = StateMachine()
    for event in WAY[state]:
        machine.on(Event(event), Reason(Kind.ASKED_FOR))
    assert machine.state is State(state)
    return machine


@pytest.mark.parametrize(("state", "event"), itertools.product(State, Event))
def test_every_pair(state, event):
    machine = machine_in(state.value)
    want = ROWS[state.value][[e.value for e in Event].index(event.value)]
    assert machine.on(event, Reason(Kind.ASKED_FOR)) is State(want) is machine.state


def test_a_fault_stays_with_its_first_reason():
    machine = machine_in("running")
    silent = quoted(Kind.NO_ANSWER, "the bus is silent")
    machine.on(Event.FAULT, silent)
    machine.on(Event.FAULT, quoted(Kind.DEVICE, "and another"))
    for event in Event:
        if event is not Event.RESET:
            assert machine.on(event) is State.FAULTED
            assert machine.reason is silent
    assert machine.on(Event.RESET) is State.IDLE and machine.reason is None


def test_what_may_not_happen_says_so():
    machine = machine_in("idle")
    machine.on(Event.PLAN)
    assert machine.reason == Reason(Kind.WRONG_EVENT, {"event": "plan", "state": "idle"})


def test_nothing_but_a_reset_leaves_a_fault():
    for events in itertools.product([e for e in Event if e is not Event.RESET], repeat=3):
        machine = machine_in("faulted")
        for event in events:
            assert machine.on(event) is State.FAULTED
