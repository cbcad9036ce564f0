"""How well a model imagines an object is told apart for each kind of step."""

from __future__ import annotations

import types

import numpy as np
import pytest
from test_proposals import Exact

from robot_wm.types import Futures
from robot_wm.workflows.objects import PRIVILEGED, never_moves, object_errors, object_table


class Still(Exact):
    """Imagines that only the robot moves, and that the object drifts by a given amount."""

    def __init__(self, drift_m):
        super().__init__()
        self.drift_m = drift_m

    def latent(self, state):
        return state[0]

    def observe(self, state, obs, applied):
        return obs.tokens, obs.proprio

    def rollout(self, state, actions, generator=None, *, select=None):
        latents = state[0][:, None].repeat(1, actions.shape[1], 1, 1)
        latents[..., 0, :2] += actions.cumsum(1)  # the robot's place
        latents[..., 0, 2] += self.drift_m  # the object's
        return Futures(latents)


def episodes(moves):
    """Of 31 frames each: the robot wanders; the object stays, is pushed, or carried."""
    rng, proprio, actions, tokens, places = np.random.default_rng(0), [], [], [], []
    for kind in moves:
        steps = rng.uniform(-0.02, 0.02, (30, 2)).astype(np.float32)
        path = np.concatenate((rng.uniform(0.2, 0.4, (1, 2)), steps)).cumsum(0).astype(np.float32)
        place = np.tile(np.append(rng.uniform(0.2, 0.4, 2), 0.015), (31, 1))
        place[1:, 0] += (kind != "free") * 0.01 * np.arange(1, 31)
        place[1:-1, 2] += (kind == "carried") * 0.05
        token = np.zeros((31, 2, 6), np.float32)
        token[:, 0, :2], token[:, 0, 2:4], token[:, 0, 4] = path, place[:, :2], place[:, 2]
        proprio.append(path)
        actions.append(steps)
        tokens.append(token)
        places.append(place)
    names = ("cube.x", "cube.y", "cube.z", "cube.yaw")
    columns = [{PRIVILEGED: np.pad(place, ((0, 0), (0, 1)))} for place in places]
    return types.SimpleNamespace(
        lengths=[31] * len(moves),
        proprio=proprio,
        actions=actions,
        episodes=range(len(moves)),
        indices=[np.arange(31)] * len(moves),
        dataset=types.SimpleNamespace(
            features={PRIVILEGED: types.SimpleNamespace(names=names)},
            episode=lambda i: types.SimpleNamespace(columns=columns[i]),
        ),
    ), tokens


KINDS = ["free", "pushed", "carried"] * 6


def measure(drift_m, kinds=KINDS):
    data, tokens = episodes(kinds)
    return object_errors(Still(drift_m), data, tokens, range(12), range(12, 18), horizon=5)  # type: ignore[arg-type]


def test_what_is_not_foreseen_is_told_by_kind():
    figures = measure(0.0)
    assert figures["free"]["error"] < 1e-6
    assert figures["pushed"]["error"] > 1e-3 and figures["carried"]["error"] > 1e-3
    assert [figures[kind]["n"] for kind in ("free", "pushed", "carried")] == [10, 10, 10]
    assert figures["phantom_m"] < 0.002 and figures["phantom_floor_m"] < 0.002
    assert "phantom" in object_table(figures)


def test_an_object_that_drifts_in_imagination_is_phantom_motion():
    assert measure(0.02)["phantom_m"] == pytest.approx(0.02, abs=0.003)


@pytest.mark.parametrize("damage", ["missing", "not finite"])
def test_an_object_that_is_not_known_everywhere_is_left_out(damage):
    data, tokens = episodes(KINDS)
    damaged = data.dataset.episode(3).columns
    if damage == "missing":
        del damaged[PRIVILEGED]
    else:
        damaged[PRIVILEGED][2] = np.nan
    assert object_errors(Still(0.0), data, tokens, range(12), range(12, 18), horizon=5) is None  # type: ignore[arg-type]
    assert not never_moves(data)  # type: ignore[arg-type]


def test_demonstrations_without_contact_are_told():
    data, _ = episodes(["free"] * 18)
    assert measure(0.0, ["free"] * 18) is None and never_moves(data)  # type: ignore[arg-type]
    data, _ = episodes(KINDS)
    assert not never_moves(data)  # type: ignore[arg-type]
    data.dataset.features = {}
    assert not never_moves(data)  # type: ignore[arg-type]
