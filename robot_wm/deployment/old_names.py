"""Keys that had another name before: whoever gives one is told the new one."""

from __future__ import annotations

from robot_wm.types import UserError

_RENAMED = {
    "optimizer.seed": "seed",
    "fit.seed": "seed",
    "pretrain.seed": "seed",
    "data.seed": "seed",
    "optimizer": "train",
    "fit": "model",
    "pretrain": "train",
    "controller.economy": "controller.search_budget",
    "controller.arrival_looks": "controller.arrival_decisions",
    "env.robot": "env.simulator",
    "env.robot.random_look": "env.simulator.random_appearance",
    "robot.rest": "robot.park_pose",
    "robot.random_look": "robot.random_appearance",
    "data.play.own_look_share": "data.play.own_appearance_share",
    "data.play.new_look_share": "data.play.new_appearance_share",
    "monitors.strange": "monitors.novelty_ratio",
    "monitors.allow_strange": "monitors.allow_novel",
    "monitors.surprise_p": "monitors.prediction_error_p",
    "monitors.surprises": "monitors.large_errors",
    "monitors.progress_looks": "monitors.progress_plans",
}


_GONE = {
    "controller=mpc": "there is one controller; leave it out",
}


def refuse_old_name(word: str, command: str) -> None:
    """Raises UserError, with the new name, if a key has another name now.

    Args:
        word: A dotted key, or `key=value`.
        command: Name of the command; only `pretrain` and `train` had some of the keys.
    """
    key = word.partition("=")[0]
    if word in _GONE:
        raise UserError(f"{word}: {_GONE[word]}")
    if command != "train" and key.startswith(("optimizer", "fit")):
        return
    if command != "pretrain" and key.startswith(("pretrain", "data.seed")):
        return
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        old = ".".join(parts[:length])
        if old in _RENAMED:
            new = ".".join((_RENAMED[old], *parts[length:]))
            raise UserError(f"{key}: this key is now called {new}")
