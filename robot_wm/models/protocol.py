"""The interface of world models: they observe, keep a state, and imagine.

Everything that calls them uses the robot's units and uint8 pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from robot_wm.data import Batch
from robot_wm.encoders import Encoder
from robot_wm.types import (
    ActionSpec,
    Count,
    FloatArray,
    Futures,
    ImageArray,
    Observation,
    Positive,
    UserError,
    check_fields,
)

State = Any  # only the model that made it may look inside


@dataclass(frozen=True)
class View:
    """A camera that a model looks through.

    Attributes:
        camera: Name of the camera.
        height: Height of its pictures in training, pixels.
        width: Width of its pictures in training, pixels.
    """

    camera: Annotated[str, Meta(min_length=1)]
    height: Count
    width: Count

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ModelInfo:
    """The facts of a model that its callers need, whatever its family.

    Attributes:
        views: The cameras that the model looks through, V of them.
        state_names: One name per proprioceptive dimension, Q.
        action_spec: The actions that the model was trained on, A dimensions, in the robot's units.
        dt: Time between two frames, s.
        longest_horizon: The most actions that a rollout takes.
        context_frames: Frames that the model should observe before it imagines, if there are that
            many.
        grid: Number of views, and rows and columns of each, of a latent's P tokens.
        dim: Numbers per token, D.
        predicts: What its futures carry besides latents: any of "reward", "value", "continuation".
        error: How latents are compared: mean absolute ("l1") or squared ("l2") difference.
        step_energy: Mean `"l1"` and `"l2"` distance between the latents of neighbouring frames of
            the training data; None if it is not known.
        robot: Name of the arm that the model was trained on; None if it is not known.
    """

    views: tuple[View, ...]
    state_names: tuple[str, ...]
    action_spec: ActionSpec
    dt: Positive
    longest_horizon: Count
    context_frames: Count
    grid: tuple[int, int, int]
    dim: Count
    predicts: tuple[str, ...] = ()
    error: Literal["l1", "l2"] = "l2"
    step_energy: Mapping[str, float] | None = None
    robot: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_views_and_energy(self.views, self.step_energy)
        if self.grid[0] != len(self.views):
            raise UserError(f"grid: got {self.grid} of {len(self.views)} views")

    @property
    def num_tokens(self) -> int:
        """Number of tokens of a latent, P."""
        views, rows, columns = self.grid
        return views * rows * columns

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras that the model looks through."""
        return tuple(view.camera for view in self.views)


def check_views_and_energy(views: Sequence[View], energy: Mapping[str, float] | None) -> None:
    """Raises UserError if a camera comes twice or never, or `step_energy` has other keys or values.

    Args:
        views: The cameras of a model.
        energy: Its `step_energy`.
    """
    cameras = [view.camera for view in views]
    if not cameras or len({*cameras}) != len(cameras):
        raise UserError(f"views: got {', '.join(cameras) or 'none'}, want each camera once")
    if energy is not None and not (
        {*energy} == {"l1", "l2"} and all(0 <= float(e) < np.inf for e in energy.values())
    ):
        raise UserError(f"step_energy: got {energy}, want finite l1 and l2, 0 or more")


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """One frame each of B episodes of a dataset, already encoded.

    Attributes:
        tokens: Tokens of the model's encoder `[B, P, D]`, float32.
        proprio: Proprioception `[B, Q]`, float32, in the robot's units.
    """

    tokens: Tensor
    proprio: Tensor

    @classmethod
    def of(
        cls, tokens: FloatArray, proprio: FloatArray, device: torch.device | str = "cpu"
    ) -> EncodedFrames:
        """Takes frames from a dataset's arrays.

        Args:
            tokens: Tokens of the model's encoder `[B, P, D]`, of any float type.
            proprio: Proprioception `[B, Q]`, in the robot's units, of any float type.
            device: Device of the model.

        Returns:
            The frames.
        """
        arrays = (np.array(values, np.float32) for values in (tokens, proprio))
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))


# A function that is called after every imagined step but the last, with the latents so far
# `[n, h, ...]`. It returns the indices `[m]` of the candidates to go on with, or None for all.
Select = Callable[[Tensor], Tensor | None]


class WorldModel(Protocol):
    """A model that imagines what actions lead to. Only the model itself reads its state.

    A model that is trained, saved or moved to another device is also a torch.nn.Module, and all
    parameters of that module are trained.
    """

    @property
    def info(self) -> ModelInfo:
        """The facts of this model that its callers need."""
        ...

    def initial(self) -> State:
        """Returns the state before the first observation."""
        ...

    def observe(
        self,
        state: State,
        obs: Observation | EncodedFrames,
        applied: FloatArray | Tensor | None,
    ) -> State:
        """Returns the state after an observation.

        Args:
            state: The state before it: of B episodes if `obs` has B frames, or the initial one.
            obs: A robot's observation, or B frames of a dataset.
            applied: The action that led to `obs`, `[A]` or `[B, A]`, in the robot's units; None at
                the first observation.

        Returns:
            The state that includes `obs`.
        """
        ...

    def latent(self, state: State) -> Tensor:
        """Returns latents `[B, P, D]` of the last observation, as `embed`; B is 1 for a robot."""
        ...

    def embed(self, images: Mapping[str, ImageArray]) -> Tensor:
        """Returns the latent `[P, D]` of pictures by camera name, such as a goal's."""
        ...

    def rollout(
        self,
        state: State,
        actions: Tensor,
        generator: Any = None,
        *,
        select: Select | None = None,
    ) -> Futures:
        """Imagines the futures of candidate action sequences.

        Args:
            state: The state of 1 episode, or of N.
            actions: Action sequences `[N, H, A]`, in the robot's units, float32, on the model's
                device.
            generator: A torch.Generator, the only source of randomness; torch's default one if
                None. All candidates share what is drawn, so that equal actions lead to equal
                futures and costs can be compared.
            select: Drops candidates on the way. A family may ignore it; one that calls it goes on
                with the candidates that it returns.

        Returns:
            The futures of all candidates, or of those that `Futures.kept` names.
        """
        ...

    def loss(self, batch: Batch, *, generator: Any = None) -> tuple[Tensor, dict[str, float]]:
        """Returns the training loss (scalar, with gradient) and metrics; draws from `generator`."""
        ...


@runtime_checkable
class Encoded(Protocol):
    """A world model with a frozen encoder, as all have that learn from a dataset's tokens."""

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder, whose tokens the model learns from."""
        ...
