"""World models: look, remember, imagine. Everything above speaks robot units and uint8 pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from robot_wm.data import Batch
from robot_wm.encoders import Encoder
from robot_wm.types import (
    ActionSpec,
    FloatArray,
    Futures,
    ImageArray,
    Observation,
    UserError,
    check_counts,
)

State = Any  # opaque to all but the model that made it


@dataclass(frozen=True)
class View:
    """A camera that a model looks through.

    Attributes:
        camera: its name.
        height, width: of its pictures in training, pixels.
    """

    camera: str
    height: int
    width: int

    def __post_init__(self) -> None:
        check_counts(height=self.height, width=self.width)
        if not isinstance(self.camera, str) or not self.camera:
            raise UserError(f"camera: got {self.camera!r}, want a name")


@dataclass(frozen=True)
class ModelInfo:
    """What a model is for, whatever its family.

    Attributes:
        views: the cameras that it looks through, V of them.
        state_names: one per proprioceptive dimension, Q.
        action_spec: the actions that it knows, A dimensions, in the robot's units.
        dt: seconds between two frames.
        longest_horizon: actions that a rollout takes.
        context_frames: frames that it is to be shown before it imagines, where there are so many.
        grid: (V, rows, columns) of a latent's P tokens.
        dim: numbers of a token, D.
        predicts: what its futures carry beside latents: of "reward", "value", "continuation".
        error: of its latents: mean absolute ("l1") or squared ("l2") difference.
        step_energy: `"l1"` and `"l2"` distance between the latents of neighbouring frames of the
            training data, on average; None: not known.
        robot: name of the arm that it was trained on; None: not known.
    """

    views: tuple[View, ...]
    state_names: tuple[str, ...]
    action_spec: ActionSpec
    dt: float
    longest_horizon: int
    context_frames: int
    grid: tuple[int, int, int]
    dim: int
    predicts: tuple[str, ...] = ()
    error: Literal["l1", "l2"] = "l2"
    step_energy: Mapping[str, float] | None = None
    robot: str | None = None

    def __post_init__(self) -> None:
        check_counts(
            longest_horizon=self.longest_horizon,
            context_frames=self.context_frames,
            dim=self.dim,
            views=len(self.views),
        )
        if not (isinstance(self.dt, float) and 0 < self.dt < np.inf):
            raise UserError(f"dt: got {self.dt!r}, want seconds above zero")
        if self.grid[0] != len(self.views):
            raise UserError(f"grid: got {self.grid} of {len(self.views)} views")
        if len({*self.cameras}) != len(self.views):
            raise UserError(f"views: got {', '.join(self.cameras)}, want each camera once")
        if self.error not in ("l1", "l2"):
            raise UserError(f"error: got {self.error!r}, want 'l1' or 'l2'")
        energy = self.step_energy
        if energy is not None and not (
            {*energy} == {"l1", "l2"} and all(0 <= float(e) < np.inf for e in energy.values())
        ):
            raise UserError(f"step_energy: got {energy}, want finite l1 and l2, 0 or more")

    @property
    def num_tokens(self) -> int:
        """P."""
        views, rows, columns = self.grid
        return views * rows * columns

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras that it looks through."""
        return tuple(view.camera for view in self.views)


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """A frame each of B episodes, already encoded: what is known of a dataset.

    Attributes:
        tokens: of the model's encoder `[B, P, D]`, float32.
        proprio: `[B, Q]`, float32, the robot's units.
    """

    tokens: Tensor
    proprio: Tensor


# Called after every imagined step but the last, with the latents so far `[n, h, ...]`; returns
# which of the candidates go on, indices `[m]`, or None for all.
Select = Callable[[Tensor], Tensor | None]


class WorldModel(Protocol):
    """Imagines under actions. Its state is its own affair.

    What is trained, saved or moved to another device is a torch.nn.Module besides, whose parameters
    are those that learn.
    """

    @property
    def info(self) -> ModelInfo:
        """What it is for."""
        ...

    def initial(self) -> State:
        """The state before anything was seen."""
        ...

    def observe(
        self,
        state: State,
        obs: Observation | EncodedFrames,
        applied: FloatArray | Tensor | None,
    ) -> State:
        """The state after seeing `obs`, which `applied` led to.

        Args:
            state: before; of B episodes where `obs` is of B, unless it is the initial one.
            obs: what is seen: by a robot, or B frames of a dataset.
            applied: `[A]`, or `[B, A]`, robot's units; None at the first.
        """
        ...

    def latent(self, state: State) -> Tensor:
        """Latents `[B, P, D]` of what was seen last, as `embed` makes them; B is 1 of a robot."""
        ...

    def embed(self, images: Mapping[str, ImageArray]) -> Tensor:
        """The latent `[P, D]` of pictures, by camera name: a goal, or what is not observed."""
        ...

    def rollout(
        self,
        state: State,
        actions: Tensor,
        generator: Any = None,
        *,
        select: Select | None = None,
    ) -> Futures:
        """Imagines.

        Args:
            state: of 1 episode, or of N.
            actions: `[N, H, A]`, robot's units, float32, where the model is.
            generator: a torch.Generator: all the randomness there is; the default one where None.
                What is drawn is the same for all candidates, so that equal actions lead to equal
                futures, and costs compare.
            select: drops candidates on the way; a family that calls it goes on with those that
                it names, and one may leave it alone.

        Returns:
            Of all candidates, or of those that `Futures.kept` names.
        """
        ...

    def loss(self, batch: Batch, *, generator: Any = None) -> tuple[Tensor, dict[str, float]]:
        """Training loss (scalar, with gradient) and metrics, random by `generator` alone."""
        ...


@runtime_checkable
class Encoded(Protocol):
    """A world model behind a frozen encoder, as all are that learn from a dataset's tokens."""

    @property
    def encoder(self) -> Encoder: ...
