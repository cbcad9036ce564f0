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
    """A guard reported a fault; the arm was stopped.

    Args:
        verdict: The guard's verdict.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


@runtime_checkable
class Holdable(Protocol):
    """A controller that is told when a guard holds the arm."""

    def held(self) -> None:
        """Takes note that the last decision was not executed."""
        ...


@dataclass(frozen=True, eq=False)
class Step:
    """One cycle of the loop.

    Attributes:
        observation: The observation before acting.
        decision: The controller's decision, its action `[A]` included.
        applied: The action that was really executed `[A]`.
        plan_s: Time that the controller took, encoding included, s.
        verdicts: Verdicts of the guards, in their order.
    """

    observation: Observation
    decision: Decision
    applied: FloatArray
    plan_s: float
    verdicts: tuple[Verdict, ...] = ()

    @property
    def numbers(self) -> dict[str, float]:
        """The guards' measured numbers, by name."""
        return {name: value for v in self.verdicts for name, value in v.numbers.items()}


class Recorder(Protocol):
    """Records every step of an episode as it happens, and the last observation."""

    def record(self, step: Step) -> None:
        """Records a step."""
        ...

    def finish(self, last: Observation) -> None:
        """Records the last observation."""
        ...


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
    """Runs one episode from where the env stands, and stops the env on every way out.

    Args:
        env: The env, at the start of the episode.
        controller: The controller, which is reset to `goal` first.
        goal: The goal; or several, one after the other, for a controller that takes them.
        num_steps: Number of actions to execute.
        guards: Guards that judge every decision before it is executed; where one holds, the env's
            no-op is executed instead, and a controller that has `held` is told.
        recorders: Recorders of every step; their `finish` is called only if the episode runs to its
            end.
        realtime: Whether each cycle is held to `env.control_dt` of wall time; a late one is not
            made up for.

    Returns:
        The last observation.

    Raises:
        GuardError: a guard reported a fault.
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
