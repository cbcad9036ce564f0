"""ModelSpec: the cameras, the robot and the latent space of a LatentWorldModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from robot_wm.models.protocol import View, check_views_and_energy
from robot_wm.types import ActionSpec, Count, Number, Positive, UserError, check_fields


@dataclass(frozen=True)
class ModelSpec:
    """What a LatentWorldModel was trained for: with the weights, all that a checkpoint needs.

    Attributes:
        views: The cameras that the model looks through; their tokens are concatenated in this
            order.
        dt: Time between two frames, s.
        state_names: One name per proprioceptive dimension, Q.
        action_spec: The range of the training actions, 1 % to 99 % quantile: a trust region. The
            units are the dataset's, which does not state them.
        proprio: What the predictor gets of proprioception. `"integrate"`: the state, to which a
            rollout adds the actions, which are its changes; `"pose"`: the same where state and
            actions are those of robot_wm.poses, seven numbers each; `"none"`: nothing.
        context_frames: Frames that the state keeps while planning.
        features: The latent space. `"raw"`: the encoder's tokens; `"layer_norm"`: each token
            normalised over its channels, as in V-JEPA 2-AC; `"channel_norm"`: each channel
            normalised by its statistics over the training frames.
        extrinsics: The camera's pose, for a predictor that takes it.
        step_energy: Mean `"l1"` and `"l2"` distance between the latents of neighbouring frames of
            the training episodes, the scale by which a planner judges whether it has arrived; None
            if it is not known.
        robot: Name of the arm that the model was trained on; None if it is not known.
    """

    views: tuple[View, ...]
    dt: Positive
    state_names: tuple[str, ...]
    action_spec: ActionSpec
    proprio: Literal["integrate", "pose", "none"] = "integrate"
    context_frames: Count = 2
    features: Literal["raw", "layer_norm", "channel_norm"] = "raw"
    extrinsics: tuple[Number, ...] = ()
    step_energy: Mapping[str, float] | None = None
    robot: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple(self.views))
        object.__setattr__(self, "state_names", tuple(self.state_names))
        object.__setattr__(self, "extrinsics", tuple(float(x) for x in self.extrinsics))
        check_fields(self)
        check_views_and_energy(self.views, self.step_energy)
        object.__setattr__(self, "dt", float(self.dt))
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
