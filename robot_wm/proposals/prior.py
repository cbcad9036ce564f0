"""What a planner may be told of what people do: a policy, a distance, and the demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from robot_wm.models import ModelInfo
from robot_wm.proposals.distance import TemporalDistance
from robot_wm.proposals.features import Features
from robot_wm.proposals.policy import FlowPolicy
from robot_wm.proposals.protocol import Proposer, Situation
from robot_wm.proposals.retrieval import Demonstrations
from robot_wm.proposals.waypoints import Waypoints
from robot_wm.shipped import PRIOR_FILE as FILE
from robot_wm.types import Settings, UserError

ProposerName = Literal["policy", "retrieval"]
MAX_TASKS = 4096
_NOTE = "shape"  # key in the file's metadata
_Size = Annotated[int, Meta(ge=1, le=4096)]


class PriorShape(Settings, frozen=True, kw_only=True):
    """Sizes of a prior's networks, and of what it keeps.

    Attributes:
        chunk: Actions that the policy proposes at once, C.
        width: Width of the networks.
        depth: Number of the policy's residual blocks, and of the distance's hidden layers.
        farthest: Largest number of steps from a frame of a demonstration to its goal.
        num_frames: Number of frames of the demonstrations that are kept.
        tasks: The tasks of the demonstrations, in the dataset's words.
    """

    chunk: _Size = 8
    width: _Size = 256
    depth: Annotated[int, Meta(ge=1, le=16)] = 3
    farthest: _Size = 30
    num_frames: Annotated[int, Meta(ge=0, le=2**20)] = 0
    tasks: Annotated[tuple[str, ...], Meta(max_length=MAX_TASKS)] = ()


class Prior(nn.Module):
    """A policy, a temporal distance and demonstrations, all on a world model's latents.

    Args:
        info: Facts about the world model.
        shape: Sizes of its parts.
    """

    def __init__(self, info: ModelInfo, shape: PriorShape) -> None:
        super().__init__()
        self.shape = shape
        num_actions = info.action_spec.size
        self.features = Features(info.grid, info.dim)
        size = self.features.size
        self.policy = FlowPolicy(
            size,
            len(info.state_names),
            num_actions,
            len(shape.tasks),
            chunk=shape.chunk,
            width=shape.width,
            depth=shape.depth,
        )
        self.distance = TemporalDistance(size, width=shape.width, depth=shape.depth)
        self.demonstrations = Demonstrations(
            shape.num_frames, size, num_actions, chunk=shape.chunk, farthest=shape.farthest
        )

    def proposer(
        self, name: ProposerName, task: str | None = None, *, waypoints: bool = False
    ) -> Proposer:
        """Returns a proposer.

        Args:
            name: Its name.
            task: Task of the demonstrations that it acts as, in the dataset's words; None: as any.
            waypoints: Whether it goes to a goal that is far away over frames of demonstrations.

        Returns:
            The proposer.

        Raises:
            UserError: no demonstration is of that task, or none is kept where one is needed.
        """
        tasks = self.shape.tasks
        if task is not None and task not in tasks:
            raise UserError(f"task: got {task!r}, the demonstrations are of {', '.join(tasks)}")
        number = None if task is None else tasks.index(task)
        kept = self.demonstrations.tasks
        needed = waypoints or name == "retrieval"
        if needed and not (len(kept) if number is None else (kept == number).any()):
            raise UserError(f"proposals: the prior keeps no demonstration of {task or 'any task'}")
        way = Waypoints(self.demonstrations, self.distance, number) if waypoints else None
        return {"policy": _Policy, "retrieval": _Retrieval}[name](self, number, way)

    def steps(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Returns the number of steps `[...]` from latents `[..., P, D]` to a goal's `[P, D]`."""
        return self.distance(*torch.broadcast_tensors(self.features(latents), self.features(goal)))

    def to_bytes(self) -> bytes:
        """Returns the content of the checkpoint's file; the networks' weights are in float16."""
        tensors = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
        for name, _ in self.named_parameters():
            tensors[name] = tensors[name].half()
        return save(tensors, metadata={_NOTE: msgspec.json.encode(self.shape).decode()})


class _Policy:
    """The policy of a prior (`Proposer`)."""

    def __init__(self, prior: Prior, task: int | None, way: Waypoints | None) -> None:
        self._prior, self._task, self._way = prior, task, way

    def propose(self, situation: Situation, num: int, generator: torch.Generator) -> Tensor:
        """See `Proposer.propose`."""
        now, goal = _features(self._prior, situation, self._way)
        policy = self._prior.policy
        return policy.sample(now, goal, situation.proprio, self._task, num, generator)


class _Retrieval:
    """The demonstrations of a prior (`Proposer`)."""

    def __init__(self, prior: Prior, task: int | None, way: Waypoints | None) -> None:
        self._prior, self._task, self._way = prior, task, way

    def propose(self, situation: Situation, num: int, generator: torch.Generator) -> Tensor:
        """See `Proposer.propose`."""
        now, goal = _features(self._prior, situation, self._way)
        return self._prior.demonstrations.look_up(now, goal, self._task, num)


def _features(prior: Prior, situation: Situation, way: Waypoints | None) -> tuple[Tensor, Tensor]:
    """Returns the features `[F]` of a situation's frame, and of its goal or a waypoint."""
    now, goal = prior.features(situation.latent), prior.features(situation.goal)
    return now, goal if way is None else way(now, goal)


def load_prior(directory: Path, info: ModelInfo) -> Prior | None:
    """Reads the prior of a checkpoint.

    Args:
        directory: Directory of the checkpoint.
        info: What its model says of itself.

    Returns:
        The prior, on the CPU; None: the checkpoint has none.

    Raises:
        UserError: the file is damaged, or is another model's.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            note = (file.metadata() or {})[_NOTE]
        shape = msgspec.json.decode(note, type=PriorShape)
        with torch.device("meta"):  # nothing is allocated by what a file merely says
            prior = Prior(info, shape)
        tensors = load(path.read_bytes())
        for name, _ in prior.named_parameters():
            tensors[name] = tensors[name].float()
        prior.load_state_dict(tensors, assign=True)
    except (SafetensorError, msgspec.MsgspecError, LookupError, RuntimeError) as error:
        raise UserError(f"{FILE}: {error}") from error
    for name, value in prior.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{FILE}: {name} is not finite")
    ends, tasks = prior.demonstrations.ends, prior.demonstrations.tasks
    if ((ends < 1) | (ends > len(ends))).any():
        raise UserError(f"{FILE}: demonstrations.ends is out of range")
    if ((tasks < 0) | (tasks >= max(len(shape.tasks), 1))).any():
        raise UserError(f"{FILE}: demonstrations.tasks is out of range")
    return prior.eval().requires_grad_(False)
