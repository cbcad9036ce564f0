"""What is seen and what is wanted, judged before an arm moves."""

from __future__ import annotations

from collections.abc import Mapping

from robot_wm.monitors import MonitorError, Monitors
from robot_wm.types import ImageArray
from robot_wm.world_model import LatentWorldModel


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
