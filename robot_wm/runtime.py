"""The only closed loop of the project: evaluation, demo and deployment all run episodes here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from robot_wm.types import (
    Controller,
    Decision,
    Env,
    FloatArray,
    Goal,
    Guard,
    Observation,
    RunError,
    Verdict,
)


class GuardError(RunError):
    """A guard found that what happens is not what it should be; the arm was stopped.

    Attributes:
        verdict: what it said.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


@runtime_checkable
class Holdable(Protocol):
    """A controller that wants to know of it when a guard holds the arm."""

    def held(self) -> None:
        """The last decision was not executed."""
        ...


@dataclass(frozen=True, eq=False)
class Step:
    """One turn of the loop.

    Attributes:
        observation: what was seen before acting.
        decision: what the controller made of it, its action `[A]` included.
        applied: what was really executed `[A]`.
        plan_s: seconds the controller took, encoding included.
        verdicts: of the guards, in their order.
    """

    observation: Observation
    decision: Decision
    applied: FloatArray
    plan_s: float
    verdicts: tuple[Verdict, ...] = ()

    @property
    def numbers(self) -> dict[str, float]:
        """What the guards measured, name -> number."""
        return {name: value for own in self.verdicts for name, value in own.numbers.items()}


class Recorder(Protocol):
    """Is shown every step of an episode as it happens, and what was seen at its end."""

    def record(self, step: Step) -> None: ...

    def finish(self, last: Observation) -> None: ...


def run_episode(
    env: Env,
    controller: Controller,
    goal: Goal | Sequence[Goal],
    *,
    num_steps: int,
    guards: Sequence[Guard] = (),
    recorders: Sequence[Recorder] = (),
    realtime: bool = False,
) -> Observation:
    """Runs one episode from where the env stands.

    Args:
        env: stands at its start.
        controller: is reset to `goal` first.
        goal: what is wanted, or several, one after the other, of a controller that takes them.
        num_steps: actions to execute.
        guards: asked about every decision before it is executed; where one holds, the env's rest
            is executed instead, and a controller that has `held` is told.
        recorders: shown every step; `finish` only where the episode ran to its end.
        realtime: hold each turn to `env.control_dt` of wall time; a late turn is not made up for.

    Returns:
        The last observation. The env is stopped on every way out.

    Raises:
        GuardError: a guard found a fault.
    """
    applied: FloatArray | None = None
    try:
        controller.reset(goal)
        for _ in range(num_steps):
            begin = time.monotonic()
            observation = env.observe()
            planned = time.monotonic()
            decision = controller.act(observation, applied)
            plan_s = time.monotonic() - planned
            verdicts = tuple(guard.check(observation, decision, applied) for guard in guards)
            for verdict in verdicts:
                if verdict.kind == "fault":
                    raise GuardError(verdict)
            held = any(verdict.kind == "hold" for verdict in verdicts)
            applied = env.apply(env.action_spec.rest if held else decision.action)
            if held and isinstance(controller, Holdable):
                controller.held()
            step = Step(observation, decision, applied, plan_s, verdicts)
            for recorder in recorders:
                recorder.record(step)
            if realtime:
                time.sleep(max(0.0, begin + env.control_dt - time.monotonic()))
        last = env.observe()
        for recorder in recorders:
            recorder.finish(last)
        return last
    finally:
        env.stop()
