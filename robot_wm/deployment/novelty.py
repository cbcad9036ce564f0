"""What is seen and what is wanted, judged before an arm moves."""

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
    """What `check_views` finds, where that is allowed.

    Raises:
        UserError: it is not.
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
    """What is wrong with what is seen and what is wanted, before an arm moves; empty where nothing.

    Args:
        monitors: judge.
        model: whose cameras matter.
        images: by camera, what is seen now.
        goals: by name, what is wanted: pictures by camera.
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
    seen = {name: images[name] for name in cameras}
    for what, views in ((f"what camera {', '.join(cameras)} sees", seen), *goals.items()):
        try:
            _look(monitors, model, what, views)
        except MonitorError as error:
            problems.append(str(error))
            if views is seen and len(cameras) == 1:
                problems += _swapped(monitors, model, cameras[0], images)
    return problems


def _look(
    monitors: Monitors, model: WorldModel, what: str, views: Mapping[str, ImageArray]
) -> None:
    monitors.look(what, model.embed(views), [views[name] for name in model.info.cameras])


def _swapped(
    monitors: Monitors, model: WorldModel, camera: str, images: Mapping[str, ImageArray]
) -> list[str]:
    """Whether another camera sees what one should."""
    swapped = []
    for other, view in images.items():
        if other == camera or view.shape != images[camera].shape:
            continue
        try:
            _look(monitors, model, other, {camera: view})
        except (MonitorError, ValueError):
            continue
        swapped.append(f"camera {other} sees what {camera} should: are they swapped?")
    return swapped
