"""A robot that is a point, a camera that paints it, and a model small enough to test with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import torch

from robot_wm.data import WindowSampler
from robot_wm.encoders import MiniConfig, random_mini
from robot_wm.models import LatentWorldModel, ModelSpec, View
from robot_wm.predictor import Predictor, PredictorConfig
from robot_wm.preprocess import NormStats
from robot_wm.types import ActionSpec, Goal, Judgement, Measure, Observation

SPEC = ActionSpec(("x", "y"), np.full(2, -0.1), np.full(2, 0.1), ("m", "m"))


class PointEnv:
    """A dot on a 32x32 picture, moved by (dx, dy) within the unit square."""

    action_spec = SPEC
    control_dt = 0.2

    def __init__(self) -> None:
        self.position = np.zeros(2)
        self.time_s = 0.0
        self.stopped = 0
        self.closed = False

    def reset(self, seed: int) -> Observation:
        self.position = np.random.default_rng(seed).uniform(0.1, 0.9, 2)
        self.time_s = 0.0
        return self.observe()

    def observe(self) -> Observation:
        rows, columns = np.mgrid[0:32, 0:32] / 31
        distance = np.hypot(columns - self.position[0], rows - self.position[1])
        picture = np.repeat((255 * np.exp(-20 * distance**2))[..., None], 3, 2).astype(np.uint8)
        return Observation({"front": picture}, self.position.copy(), self.time_s)

    def apply(self, action: np.ndarray) -> np.ndarray:
        before = self.position
        self.position = np.clip(before + SPEC.clip(action), 0, 1)
        self.time_s += self.control_dt
        return self.position - before

    def stop(self) -> None:
        self.stopped += 1

    def close(self) -> None:
        self.closed = True


class PointTask:
    """Reach a place in the picture."""

    def __init__(self) -> None:
        self.env = PointEnv()
        self.goal = np.zeros(2)

    def episode(self, seed: int) -> dict[str, object]:
        return {"seed": seed}

    def start(self, episode: Mapping[str, object]) -> Goal:
        seed = int(str(episode["seed"]))
        self.env.reset(seed + 1000)
        self.goal = self.env.position
        images = self.env.observe().images
        self.env.reset(seed)
        return Goal(images)

    def judge(self) -> Judgement:
        away = Measure(float(np.linalg.norm(self.env.position - self.goal)), "m", enough=0.05)
        return Judgement(away.reached, {"distance": away})

    def simulate(self, actions: np.ndarray) -> np.ndarray:
        path = np.clip(self.env.position + actions.cumsum(1), 0, 1)
        return np.linalg.norm(path - self.goal, axis=-1)

    def look_ahead(self, actions: np.ndarray) -> list[list[Mapping[str, np.ndarray]]]:
        before, seen = self.env.position, []
        for path in np.clip(before + actions.cumsum(1), 0, 1):
            seen.append([])
            for self.env.position in path:
                seen[-1].append(self.env.observe().images)
        self.env.position = before
        return seen


def make_model(*, seed: int = 0, **changes) -> LatentWorldModel:
    """An untrained LatentWorldModel for PointEnv."""
    encoder = random_mini(
        seed=seed,
        config=MiniConfig(
            image_size=32, patch_size=8, width=16, depth=1, num_heads=2, dim=6, num_tokens=2
        ),
    )
    spec = {
        "views": (View("front", 32, 32),),
        "dt": 0.2,
        "state_names": ("x", "y"),
        "action_spec": SPEC,
    }
    names = ("proprio", "context_frames", "features", "extrinsics")
    own = {key: changes.pop(key) for key in list(changes) if key in names}
    num_outputs = changes.pop("num_outputs", 1)
    torch.manual_seed(seed)
    predictor = Predictor(
        PredictorConfig(
            token_dim=6,
            grid=(1, 2),
            action_dim=2,
            state_dim=0 if own.get("proprio") == "none" else 2,
            width=24,
            depth=1,
            num_heads=2,
            output_norm=own.get("features") == "layer_norm",
            num_outputs=num_outputs,
            conditioning="tokens",
            residual=False,
        )
    ).eval()
    model = LatentWorldModel(
        encoder,
        predictor,
        ModelSpec(**spec, **own),
        action_stats=NormStats(np.zeros(2), np.full(2, 0.05)),
        proprio_stats=NormStats(np.full(2, 0.5), np.full(2, 0.3)),
        **changes,
    )
    return model.eval()


def point_windows(
    episodes: Sequence[int], *, num_frames: int = 6, batch_size: int = 32, num_episodes: int = 40
) -> WindowSampler:
    """Windows of tokens that are the point's place in disguise: a predictor can learn them exactly.

    Args:
        episodes: of `num_episodes`, 12 frames each, that windows are cut from.
        num_frames: of a window.
        batch_size: windows of a batch.
        num_episodes: that there are.
    """
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(2, 12))
    proprio, actions, tokens = [], [], []
    for _ in range(num_episodes):
        moves = rng.uniform(-0.1, 0.1, (11, 2)).astype(np.float32)
        path = np.concatenate((rng.uniform(0.2, 0.8, (1, 2)), moves)).cumsum(0).astype(np.float32)
        proprio.append(path)
        actions.append(moves)
        tokens.append((3 * np.sin(path @ mix)).reshape(12, 2, 6).astype(np.float32))
    data = SimpleNamespace(
        num_episodes=num_episodes,
        lengths=(12,) * num_episodes,
        proprio=proprio,
        actions=actions,
        episodes=range(num_episodes),
    )
    return WindowSampler(
        data,  # type: ignore[arg-type] - all of it that is looked at
        tokens,
        episodes=episodes,
        num_frames=num_frames,
        batch_size=batch_size,
        seed=0,
    )
