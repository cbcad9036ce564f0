"""States of the arm and the transitions between them: one table; faults stay until a reset."""

from __future__ import annotations

from enum import Enum

from hardware.reasons import Kind, Reason


class State(str, Enum):
    """What the arm is doing.

    idle: at rest, takes no plans. armed: checked, takes its first plan. running: follows a plan.
    holding: braked, waits for a plan and goes on by itself with the next. faulted: braked, and
    stays so until the operator resets it. parking: a governed move to its park pose, at the
    operator's request.
    """

    IDLE = "idle"
    ARMED = "armed"
    RUNNING = "running"
    HOLDING = "holding"
    FAULTED = "faulted"
    PARKING = "parking"


class Event(str, Enum):
    """What changes the state.

    arm, stop, park and reset are the operator's; plan: a valid plan has come; wait: the plan is
    done, or its time is over; fault: something is wrong; parked: the park pose is reached.
    """

    ARM = "arm"
    STOP = "stop"
    PARK = "park"
    RESET = "reset"
    PLAN = "plan"
    WAIT = "wait"
    FAULT = "fault"
    PARKED = "parked"


_IDLE, _ARMED, _RUNNING, _HOLDING, _FAULTED, _PARKING = State
TRANSITIONS: dict[tuple[State, Event], State] = {
    (_IDLE, Event.ARM): _ARMED,
    (_IDLE, Event.STOP): _IDLE,
    (_IDLE, Event.PARK): _PARKING,
    (_ARMED, Event.PLAN): _RUNNING,
    (_ARMED, Event.STOP): _IDLE,
    (_RUNNING, Event.PLAN): _RUNNING,
    (_RUNNING, Event.WAIT): _HOLDING,
    (_RUNNING, Event.STOP): _IDLE,
    (_HOLDING, Event.PLAN): _RUNNING,
    (_HOLDING, Event.WAIT): _HOLDING,
    (_HOLDING, Event.STOP): _IDLE,
    (_FAULTED, Event.STOP): _FAULTED,
    (_FAULTED, Event.FAULT): _FAULTED,
    (_FAULTED, Event.RESET): _IDLE,
    (_PARKING, Event.STOP): _IDLE,
    (_PARKING, Event.PARKED): _IDLE,
}


class StateMachine:
    """Keeps the current state; an event that the table does not have for it is a fault."""

    def __init__(self) -> None:
        self._state = State.IDLE
        self._reason: Reason | None = None

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    @property
    def reason(self) -> Reason | None:
        """Reason of the first fault since the last reset; None if there is no fault."""
        return self._reason

    def on(self, event: Event, reason: Reason | None = None) -> State:
        """Goes to the next state.

        Args:
            event: The event that happened.
            reason: Reason of a fault; None: the event does not belong in this state.

        Returns:
            The new state.
        """
        after = TRANSITIONS.get((self._state, event), State.FAULTED)
        if after is not State.FAULTED:
            self._reason = None
        elif self._state is not State.FAULTED:
            numbers = {"event": event.value, "state": self._state.value}
            self._reason = reason or Reason(Kind.WRONG_EVENT, numbers)
        self._state = after
        return after
