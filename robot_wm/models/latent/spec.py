"""What a LatentWorldModel was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robot_wm.models.protocol import View
from robot_wm.types import ActionSpec, UserError, check_counts


@dataclass(frozen=True)
class ModelSpec:
    """What a LatentWorldModel was trained for: with the weights, all that a checkpoint needs.

    Attributes:
        views: the cameras that it looks through; their tokens are concatenated in this order.
        dt: seconds between two frames.
        state_names: one per proprioceptive dimension, Q.
        action_spec: the actions seen in training, 1 % to 99 % quantile: a trust region. Units
            are the dataset's, which does not state them.
        proprio: `"integrate"`: actions are changes of the proprioceptive state, and a rollout adds
            them up; `"pose"`: state and actions are those of robot_wm.poses, seven numbers each;
            `"none"`: the predictor sees no proprioception.
        context_frames: frames it remembers while planning.
        features: the space it imagines in. `"raw"`: the encoder's tokens; `"layer_norm"`: each
            token normalised over its channels, as V-JEPA 2-AC has it; `"channel_norm"`: each
            channel normalised by its statistics over the training frames.
        extrinsics: the camera's pose, for a predictor that sees it.
        step_energy: `"l1"` and `"l2"` distance between the latents of neighbouring frames, mean
            over the training episodes: what one step is worth where a planner has to tell whether
            it has arrived. None: not known.
        robot: name of the arm that it was trained on; None: not known.
    """

    views: tuple[View, ...]
    dt: float
    state_names: tuple[str, ...]
    action_spec: ActionSpec
    proprio: Literal["integrate", "pose", "none"] = "integrate"
    context_frames: int = 2
    features: Literal["raw", "layer_norm", "channel_norm"] = "raw"
    extrinsics: tuple[float, ...] = ()
    step_energy: Mapping[str, float] | None = None
    robot: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple(self.views))
        object.__setattr__(self, "state_names", tuple(self.state_names))
        if isinstance(self.dt, int):
            object.__setattr__(self, "dt", float(self.dt))
        object.__setattr__(self, "extrinsics", tuple(float(x) for x in self.extrinsics))
        if self.proprio not in ("integrate", "pose", "none"):
            raise UserError(f"proprio: got {self.proprio!r}, want 'integrate', 'pose' or 'none'")
        if self.features not in ("raw", "layer_norm", "channel_norm"):
            raise UserError(
                f"features: got {self.features!r}, want 'raw', 'layer_norm' or 'channel_norm'"
            )
        if self.proprio == "pose" and not len(self.state_names) == self.action_spec.size == 7:
            raise UserError(
                f"proprio: 'pose' needs 7 states and 7 actions (x y z, roll pitch yaw, gripper), "
                f"got {self.state_names} and {self.action_spec.names}"
            )
        if self.proprio == "integrate" and len(self.state_names) != self.action_spec.size:
            raise UserError(
                f"proprio: 'integrate' needs one action per state dimension, got actions "
                f"{self.action_spec.names} and states {self.state_names}"
            )
        names = (*self.state_names, *([] if self.robot is None else [self.robot]))
        if not all(isinstance(name, str) for name in names):
            raise UserError(f"state_names, robot: got {names}, want text")
        check_counts(context_frames=self.context_frames, views=len(self.views))
        if len({view.camera for view in self.views}) != len(self.views):
            raise UserError(f"views: got {self.views}, want each camera once")
        if not (isinstance(self.dt, float) and 0 < self.dt < np.inf):
            raise UserError(f"dt: got {self.dt!r}, want seconds above zero")
        if not np.isfinite(self.extrinsics).all():
            raise UserError(f"extrinsics: got {self.extrinsics}, want finite numbers")
        energy = self.step_energy
        if energy is not None and not (
            set(energy) == {"l1", "l2"} and all(0 <= float(e) < np.inf for e in energy.values())
        ):
            raise UserError(f"step_energy: got {energy}, want finite l1 and l2, 0 or more")
