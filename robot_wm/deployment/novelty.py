"""Checks current and goal pictures before an arm moves."""

from __future__ import annotations

from collections.abc import Mapping

from robot_wm.models import WorldModel
from robot_wm.monitors import MonitorError, Monitors
from robot_wm.types import ImageArray, UserError


def refuse_novel(
    monitors: Monitors,
    model: WorldModel,
    images: Mapping[str, ImageArray],
    goals: Mapping[str, Mapping[str, ImageArray]],
    *,
    allow: bool,
) -> list[str]:
    """Checks the pictures with `check_views`, and refuses what it finds unless that is allowed.

    Args:
        monitors: Monitors that check a picture.
        model: The model whose cameras matter.
        images: Current picture of each camera.
        goals: Pictures of each goal by the goal's name, and then by camera.
        allow: Whether to return the problems instead of raising.

    Returns:
        A sentence for each problem.

    Raises:
        UserError: there are problems, and they are not allowed.
    """
    problems = check_views(monitors, model, images, goals)
    if problems and not allow:
        raise UserError(f"{'; '.join(problems)} (monitors.allow_novel=true drives all the same)")
    return problems


def check_views(
    monitors: Monitors,
    model: WorldModel,
    images: Mapping[str, ImageArray],
    goals: Mapping[str, Mapping[str, ImageArray]],
) -> list[str]:
    """Checks the pictures with the monitors.

    Args:
        monitors: Monitors that check a picture.
        model: The model whose cameras matter.
        images: Current picture of each camera.
        goals: Pictures of each goal by the goal's name, and then by camera.

    Returns:
        A sentence for each problem.
    """
    cameras = model.info.cameras
    problems = []
    for name, image in images.items():
        try:
            monitors.picture(name, image)
        except MonitorError as error:
            problems.append(str(error))
    if problems:
        return problems
    current = {name: images[name] for name in cameras}
    for what, views in ((f"what camera {', '.join(cameras)} sees", current), *goals.items()):
        try:
            _check_novelty(monitors, model, what, views)
        except MonitorError as error:
            problems.append(str(error))
            if views is current and len(cameras) == 1:
                problems += _find_swapped(monitors, model, cameras[0], images)
    return problems


def _check_novelty(
    monitors: Monitors, model: WorldModel, what: str, views: Mapping[str, ImageArray]
) -> None:
    monitors.check_novelty(what, model.embed(views), [views[name] for name in model.info.cameras])


def _find_swapped(
    monitors: Monitors, model: WorldModel, camera: str, images: Mapping[str, ImageArray]
) -> list[str]:
    """Returns a sentence for each other camera that shows what this one should show."""
    swapped = []
    for other, view in images.items():
        if other == camera or view.shape != images[camera].shape:
            continue
        try:
            _check_novelty(monitors, model, other, {camera: view})
        except (MonitorError, ValueError):
            continue
        swapped.append(f"camera {other} sees what {camera} should: are they swapped?")
    return swapped
