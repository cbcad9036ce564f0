"""Forward kinematics of an arm's bodies in numpy.

A chain is read from MuJoCo's compiled model once (robot_wm.kinematics.mjcf); after that no
simulator is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from robot_wm.kinematics.hull import enclose
from robot_wm.types import FloatArray


@dataclass(frozen=True, eq=False)
class Link:
    """One body of the arm and the hinge that carries it.

    Attributes:
        parent: Number of the parent link; -1 for the base frame.
        joint: Number of the joint; -1 if the link is fixed to its parent.
        T_parent: Pose in the parent's frame at joint angle 0, `[4, 4]`.
        axis: Axis of the hinge in the link's frame, `[3]`, of unit length.
        pivot: A point on that axis in the link's frame, `[3]`, m.
        points: Points in the link's frame whose convex hull contains its shape, `[N, 3]`, m.
        few: Whether the points are few enough to be used as the corners.
    """

    parent: int
    joint: int
    T_parent: FloatArray
    axis: FloatArray
    pivot: FloatArray
    points: FloatArray
    few: bool = False

    @cached_property
    def corners(self) -> FloatArray:
        """A few corners `[P, 3]`, m, that enclose the points; computed on first use."""
        return self.points if self.few else enclose(self.points)


class Chain:
    """An arm's links, and the point on one of them that is its tool.

    Args:
        links: The links, parents before their children.
        joint_names: Names of the joints, J of them.
        joint_range: Smallest and largest angle of each joint, `[J, 2]`, rad.
        tool_link: Number of the link that carries the tool.
        tool: The tool's point in that link's frame, `[3]`, m.

    Raises:
        ValueError: a link before its parent, or a joint that moves no link or several.
    """

    def __init__(
        self,
        links: Sequence[Link],
        *,
        joint_names: tuple[str, ...],
        joint_range: FloatArray,
        tool_link: int,
        tool: FloatArray,
    ) -> None:
        if any(link.parent >= i for i, link in enumerate(links)):
            raise ValueError("links: got a child before its parent")
        moved = sorted(link.joint for link in links if link.joint >= 0)
        if moved != list(range(len(joint_names))):
            raise ValueError(f"links: got joints {moved}, want each of {len(joint_names)} once")
        self.links, self.joint_names, self.joint_range = tuple(links), joint_names, joint_range
        self.tool_link, self.tool_point = tool_link, np.array(tool, np.float64)
        self._tool = np.append(tool, 1.0)
        self._tool_links: list[int] = []  # the links from the base to the tool's
        number = tool_link
        while number >= 0:
            self._tool_links.insert(0, number)
            number = links[number].parent
        self._path = [i for i in self._tool_links if links[i].joint >= 0]
        # T(q) = fixed + sin(q) odd + (1 - cos(q)) even, by Rodrigues' formula about the pivot.
        self._parts = [_rodrigues(link) for link in links]
        # The same for all links at once; the odd and even parts of a fixed link are zero.
        self._moved = np.array([max(link.joint, 0) for link in links])
        turns = np.array([link.joint >= 0 for link in links])[:, None, None]
        fixed, odd, even = (np.array(part) for part in zip(*self._parts, strict=True))
        self._stacked = fixed, odd * turns, even * turns

    def with_range(self, joint_range: FloatArray) -> Chain:
        """Returns the same links with other joint ranges `[J, 2]`, rad."""
        return Chain(
            self.links,
            joint_names=self.joint_names,
            joint_range=joint_range,
            tool_link=self.tool_link,
            tool=self.tool_point,
        )

    @property
    def num_joints(self) -> int:
        """Number of joints, J."""
        return len(self.joint_names)

    def poses(self, joints: FloatArray) -> list[FloatArray]:
        """Returns every link's pose in the base frame `[N, 4, 4]` at `joints` `[N, J]`, rad."""
        sin = np.sin(joints)[:, self._moved, None, None]  # [N, L, 1, 1]
        versine = 1 - np.cos(joints)[:, self._moved, None, None]
        fixed, odd, even = self._stacked
        local = fixed + sin * odd + versine * even  # [N, L, 4, 4]: each in its parent's frame
        poses: list[FloatArray] = []
        for i, link in enumerate(self.links):
            poses.append(local[:, i] if link.parent < 0 else poses[link.parent] @ local[:, i])
        return poses

    @cached_property
    def _corners(self) -> list[FloatArray]:
        """Homogeneous corners of every link, each `[4, P]`."""
        return [np.c_[link.corners, np.ones(len(link.corners))].T for link in self.links]

    def corners(self, joints: FloatArray) -> FloatArray:
        """Returns corners of all bodies `[N, P, 3]`, base frame, m, at `joints` `[N, J]`, rad."""
        points = [
            pose[:, :3] @ corners
            for pose, corners in zip(self.poses(joints), self._corners, strict=True)
        ]
        return np.concatenate(points, axis=2).transpose(0, 2, 1)

    def tool(self, joints: FloatArray) -> FloatArray:
        """Returns the tool's pose in the base frame `[4, 4]` at `joints` `[J]`, rad."""
        return self._to_tool(joints)[0]

    def jacobian(self, joints: FloatArray) -> FloatArray:
        """Returns the Jacobian of the tool's position and rotation `[6, J]`, base frame, m, rad."""
        return self.tool_jacobian(joints)[1]

    def tool_jacobian(self, joints: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns the tool's pose `[4, 4]` and its Jacobian `[6, J]`, computed together."""
        tool, axes, pivots = self._to_tool(joints)
        moved = [self.links[i].joint for i in self._path]
        jacobian = np.zeros((6, self.num_joints))
        (x, y, z), (a, b, c) = axes.T, (tool[:3, 3] - pivots).T
        jacobian[:3, moved] = y * c - z * b, z * a - x * c, x * b - y * a  # the cross product
        jacobian[3:, moved] = axes.T
        return tool, jacobian

    def _to_tool(self, joints: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Returns the tool's pose, and axes `[K, 3]`, pivots `[K, 3]` of the joints before it."""
        joints = np.asarray(joints, np.float64)
        sin, versine = np.sin(joints), 1 - np.cos(joints)
        pose, axes, pivots = np.eye(4), [], []
        for number in self._tool_links:
            link, (fixed, odd, even) = self.links[number], self._parts[number]
            if link.joint < 0:
                pose = pose @ fixed
                continue
            pose = pose @ (fixed + sin[link.joint] * odd + versine[link.joint] * even)
            axes.append(pose[:3, :3] @ link.axis)
            pivots.append(pose[:3, :3] @ link.pivot + pose[:3, 3])
        pose = pose.copy()
        pose[:, 3] = pose @ self._tool
        return pose, np.array(axes), np.array(pivots)


def _rodrigues(link: Link) -> tuple[FloatArray, FloatArray, FloatArray]:
    x, y, z = link.axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])

    def about_pivot(turn: FloatArray) -> FloatArray:
        pose = np.zeros((4, 4))
        pose[:3, :3], pose[:3, 3] = turn, -turn @ link.pivot
        return link.T_parent @ pose

    return link.T_parent, about_pivot(skew), about_pivot(skew @ skew)
