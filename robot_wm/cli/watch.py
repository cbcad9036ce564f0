"""An arm whose every look is judged before the next action: what deploy does on a real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from robot_wm.controller import MPC
from robot_wm.monitors import MonitorError, Monitors
from robot_wm.types import ActionSpec, Env, FloatArray, ImageArray, Observation
from robot_wm.world_model import LatentWorldModel


class WatchedEnv:
    """An env that refuses to go on where what it sees is not normal (robot_wm.types.Env).

    Args:
        env: the arm.
        controller: that acts on it.
        model: of the controller.
        monitors: judge.
        joints: where the arm stood at the last look `[J]`, rad.
        moves: whether what it does really happens; else what comes of it is not judged.
    """

    def __init__(
        self,
        env: Env,
        controller: MPC,
        model: LatentWorldModel,
        monitors: Monitors,
        joints: Callable[[], FloatArray],
        *,
        moves: bool = True,
    ) -> None:
        self._env, self._controller, self._model = env, controller, model
        self._monitors, self._joints, self._moves = monitors, joints, moves
        self._expected: tuple[Tensor, float, int] | None = None
        self.p_value: float | None = None

    @property
    def action_spec(self) -> ActionSpec:
        return self._env.action_spec

    @property
    def control_dt(self) -> float:
        return self._env.control_dt

    def reset(self, seed: int) -> Observation:
        self._expected, self.p_value = None, None
        return self._env.reset(seed)

    def observe(self) -> Observation:
        """Looks.

        Raises:
            MonitorError: it is not normal, or not what was imagined.
        """
        observation = self._env.observe()
        camera = self._model.spec.camera
        if not self._moves:
            self._monitors.picture(camera, observation.images[camera])
            return observation
        self._monitors.camera(camera, observation.images[camera], self._joints())
        if self._expected is not None:
            expected, promised, goal = self._expected
            self._expected = None
            before = self._controller.looks[-1].energy
            self.p_value = self._monitors.predicted(expected, self._model.embed(observation.images))
            if goal == self._controller.goal_index:
                came = before - self._controller.energy(observation)
                self._monitors.progress(promised, came)
        return observation

    def apply(self, action: FloatArray) -> FloatArray:
        applied = self._env.apply(action)
        if not self._moves:
            return applied
        expected, energy = self._controller.foresee(applied)
        promised = self._controller.looks[-1].energy - energy
        self._expected = expected, promised, self._controller.goal_index
        return applied

    def stop(self) -> None:
        self._env.stop()

    def close(self) -> None:
        self._env.close()


def refuse_strange(
    monitors: Monitors,
    model: LatentWorldModel,
    images: Mapping[str, ImageArray],
    goals: Mapping[str, ImageArray],
    *,
    allow: bool,
) -> list[str]:
    """What `check_views` finds, where that is allowed.

    Raises:
        ValueError: it is not.
    """
    problems = check_views(monitors, model, images, goals)
    if problems and not allow:
        raise ValueError(f"{'; '.join(problems)} (monitors.allow_strange=true drives all the same)")
    return problems


def check_views(
    monitors: Monitors,
    model: LatentWorldModel,
    images: Mapping[str, ImageArray],
    goals: Mapping[str, ImageArray],
) -> list[str]:
    """What is wrong with what is seen and what is wanted, before an arm moves; empty where nothing.

    Args:
        monitors: judge.
        model: whose camera matters.
        images: by camera, what is seen now.
        goals: by file, what is wanted.
    """
    camera = model.spec.camera
    problems = []
    for name, image in images.items():
        try:
            monitors.picture(name, image)
        except MonitorError as error:
            problems.append(str(error))
    if problems:
        return problems
    for what, image in ((f"what camera {camera} sees", images[camera]), *goals.items()):
        try:
            monitors.look(what, model.embed({camera: image}), image)
        except MonitorError as error:
            problems.append(str(error))
            for other, view in images.items():
                if image is images[camera] and other != camera and view.shape == image.shape:
                    problems += _swapped(monitors, model, camera, other, view)
    return problems


def _swapped(
    monitors: Monitors, model: LatentWorldModel, camera: str, other: str, view: ImageArray
) -> list[str]:
    try:
        monitors.look(other, model.embed({camera: view}), view)
    except (MonitorError, ValueError):
        return []
    return [f"camera {other} sees what {camera} should: are they swapped?"]
