"""Waypoints: frames of demonstrations on the way to a goal that is far away."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from robot_wm.proposals.distance import TemporalDistance
from robot_wm.proposals.retrieval import Demonstrations
from robot_wm.types import FloatArray

_MAX_NODES = 2500  # frames of the demonstrations that ways lead over, at most
_NUM_NEIGHBOURS = 48  # frames like a frame that a way may go on from


class Waypoints:
    """Finds frames on the shortest way from a frame to its goal (Eysenbach et al., 1906.05253).

    A learned distance is right between frames that are few steps apart, and saturates beyond. So a
    long way is put together of short pieces: from frame to frame of a demonstration, whose number
    of steps is known, and from one demonstration to a frame of another that looks alike, by the
    distance.

    Args:
        demonstrations: The demonstrations.
        distance: The temporal distance.
        task: Number of the task whose demonstrations ways may lead over; None: any of them.
        longest_hop: Largest number of steps from one frame of a way to the next; a goal that is no
            further away than that is its own waypoint.
        ahead: A waypoint is the first frame of the way that is so many steps away.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        distance: TemporalDistance,
        task: int | None = None,
        *,
        longest_hop: float = 8.0,
        ahead: float = 6.0,
    ) -> None:
        self._distance, self._longest_hop, self._ahead = distance, longest_hop, ahead
        rows = torch.arange(len(demonstrations.ends))
        if task is not None:
            rows = rows[demonstrations.tasks.cpu() == task]
        rows = rows[:: max(1, -(-len(rows) // _MAX_NODES))]
        self._nodes = demonstrations.features[rows].float()
        self._goal: Tensor | None = None
        self._edges = self._connect(rows, demonstrations.ends.cpu()[rows])

    @torch.no_grad()
    def __call__(self, features: Tensor, goal: Tensor) -> Tensor:
        """Finds the waypoint of a frame.

        Args:
            features: Normalised features of the frame `[F]`.
            goal: Those of the goal `[F]`.

        Returns:
            Those of the waypoint `[F]`; the goal itself where it is near, or where no way leads
            there.
        """
        if self._goal is None or not torch.equal(self._goal, goal):
            self._lead_to(goal)
        if float(self._distance(features, goal)) <= self._longest_hop:
            return goal
        here = self._steps(features.expand_as(self._nodes), self._nodes)
        total = np.where(here <= self._longest_hop, here, np.inf) + self._left
        node = int(total.argmin()) if len(total) else -1
        if node < 0 or not np.isfinite(total[node]):
            return goal
        begin = self._left[node] + here[node]
        while begin - self._left[node] < self._ahead:
            node = int(self._next[node])
            if node == len(self._nodes):
                return goal
        return self._nodes[node]

    def _connect(self, rows: Tensor, ends: Tensor) -> csr_array:
        """Returns the steps from each node to others `[n, n]`; 0 where no way leads."""
        n, nodes = len(rows), self._nodes
        if not n:
            return csr_array((0, 0))
        k = min(_NUM_NEIGHBOURS + 1, n)
        alike = torch.cdist(nodes, nodes).topk(k, largest=False).indices  # [n, k]
        first = torch.arange(n, device=nodes.device).repeat_interleave(k)
        second = alike.flatten()
        steps = self._steps(nodes[first], nodes[second])
        kept = (steps <= self._longest_hop) & (first != second).cpu().numpy()
        follows = (rows[1:] < ends[:-1]).numpy()  # the next node is of the same episode
        places = np.concatenate(
            (
                np.stack((np.arange(n - 1)[follows], np.arange(1, n)[follows])),
                np.stack((first.cpu().numpy()[kept], second.cpu().numpy()[kept])),
            ),
            axis=1,
        )
        weights = np.concatenate(((rows[1:] - rows[:-1]).numpy()[follows], steps[kept]))
        # Of two figures for one piece the first counts, which is known.
        places, at = np.unique(places, axis=1, return_index=True)
        return csr_array((np.maximum(weights[at], 1e-3), tuple(places)), shape=(n, n))

    def _lead_to(self, goal: Tensor) -> None:
        """Finds the steps to a goal that are left at each node, and the node that comes next."""
        n = len(self._nodes)
        last = self._steps(self._nodes, goal.expand_as(self._nodes))
        near = np.flatnonzero(last <= self._longest_hop)
        edges = self._edges.tocoo()
        whole = csr_array(
            (
                np.concatenate((edges.data, np.maximum(last[near], 1e-3))),
                (np.concatenate((edges.col, np.full(len(near), n))),  # from the goal backwards
                 np.concatenate((edges.row, near))),
            ),
            shape=(n + 1, n + 1),
        )  # fmt: skip
        left, following = dijkstra(whole, indices=n, return_predecessors=True)
        self._goal, self._left, self._next = goal.clone(), left[:n], following[:n]

    def _steps(self, features: Tensor, goals: Tensor) -> FloatArray:
        """Returns the steps `[m]` from frames to goals, by their features `[m, F]`."""
        parts = zip(features.split(8192), goals.split(8192), strict=True)
        return torch.cat([self._distance(a, b) for a, b in parts]).cpu().numpy()
