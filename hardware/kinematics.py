"""Where an arm's bodies are, and where its joints must go: forward and inverse kinematics in numpy.

Read from MuJoCo's compiled model once (hardware.mjcf); no simulator is needed after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from robot_wm.types import FloatArray

_ENOUGH_TILT_RAD = 0.02
_TILT_WEIGHT = 1e-3  # m/rad


@dataclass(frozen=True, eq=False)
class Link:
    """One body of the arm and the hinge that carries it.

    Attributes:
        parent: number of the link it hangs on; -1: the base frame.
        joint: number of its joint; -1: it is fixed to its parent.
        T_parent: pose in the parent's frame at joint angle 0, `[4, 4]`.
        axis: of the hinge, in its own frame, `[3]`, of unit length.
        pivot: a point on that axis, in its own frame, `[3]`, m.
        corners: of the convex hull of its shape, in its own frame, `[P, 3]`, m.
    """

    parent: int
    joint: int
    T_parent: FloatArray
    axis: FloatArray
    pivot: FloatArray
    corners: FloatArray


class Chain:
    """An arm's links, and the point on one of them that is its tool.

    Args:
        links: parents before their children.
        joint_names: J of them.
        joint_range: `[J, 2]`, rad.
        tool_link: number of the link that carries the tool.
        tool: the tool's point in that link's frame, `[3]`, m.

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
        self._moves_tool = np.zeros(len(joint_names), bool)
        at = tool_link
        while at >= 0:
            if links[at].joint >= 0:
                self._moves_tool[links[at].joint] = True
            at = links[at].parent
        # T(q) = fixed + sin(q) odd + (1 - cos(q)) even, by Rodrigues' formula about the pivot.
        self._parts = [_rodrigues(link) for link in links]
        self._corners = [np.c_[link.corners, np.ones(len(link.corners))].T for link in links]

    @property
    def num_joints(self) -> int:
        """J."""
        return len(self.joint_names)

    def poses(self, joints: FloatArray) -> list[FloatArray]:
        """Every link's pose in the base frame `[N, 4, 4]` at `joints` `[N, J]`, rad."""
        sin, rest = np.sin(joints)[..., None, None], 1 - np.cos(joints)[..., None, None]
        poses: list[FloatArray] = []
        for link, (fixed, odd, even) in zip(self.links, self._parts, strict=True):
            own = fixed
            if link.joint >= 0:
                own = fixed + sin[:, link.joint] * odd + rest[:, link.joint] * even
            above = poses[link.parent] if link.parent >= 0 else None
            poses.append(
                np.broadcast_to(own, (len(joints), 4, 4)) if above is None else above @ own
            )
        return poses

    def corners(self, joints: FloatArray) -> FloatArray:
        """Corners of all moving bodies `[N, P, 3]`, base frame, m, at `joints` `[N, J]`, rad."""
        points = [
            pose[:, :3] @ corners
            for pose, corners in zip(self.poses(joints), self._corners, strict=True)
        ]
        return np.concatenate(points, axis=2).transpose(0, 2, 1)

    def tool(self, joints: FloatArray) -> FloatArray:
        """The tool's pose in the base frame `[4, 4]` at `joints` `[J]`, rad."""
        pose = self.poses(np.asarray(joints, np.float64)[None])[self.tool_link][0].copy()
        pose[:, 3] = pose @ self._tool
        return pose

    def jacobian(self, joints: FloatArray) -> FloatArray:
        """Of the tool's position and rotation vector `[6, J]`, base frame, m/rad and rad/rad."""
        poses = self.poses(np.asarray(joints, np.float64)[None])
        tip = (poses[self.tool_link][0] @ self._tool)[:3]
        jacobian = np.zeros((6, self.num_joints))
        for link, pose in zip(self.links, poses, strict=True):
            if link.joint >= 0 and self._moves_tool[link.joint]:
                axis = pose[0, :3, :3] @ link.axis
                pivot = pose[0, :3, :3] @ link.pivot + pose[0, :3, 3]
                jacobian[:3, link.joint] = np.cross(axis, tip - pivot)
                jacobian[3:, link.joint] = axis
        return jacobian


@dataclass(frozen=True)
class IKSettings:
    """How joints are sought.

    Attributes:
        damping: what keeps a step finite at a singularity, m/rad.
        max_step: of one joint in one iteration, rad.
        tolerance_m: position error that is good enough.
        tolerance_rad: rotation error that is good enough.
        max_iterations: after which the best so far is taken.
    """

    damping: float = 0.02
    max_step: float = 0.3
    tolerance_m: float = 2e-4
    tolerance_rad: float = 2e-3
    max_iterations: int = 60


def inverse(
    chain: Chain,
    position: FloatArray,
    start: FloatArray,
    *,
    rotation: FloatArray | None = None,
    like: FloatArray | None = None,
    low: FloatArray | None = None,
    high: FloatArray | None = None,
    rotation_weight: float = 0.1,
    settings: IKSettings | None = None,
) -> tuple[FloatArray, float, float]:
    """Joints that bring the tool somewhere: damped least squares within the joints' limits.

    Args:
        chain: the arm.
        position: wanted `[3]`, base frame, m.
        start: where to start `[J]`, rad; what the tool does not need stays near it.
        rotation: wanted `[3, 3]`; where None, the tool is tilted against gravity as at `like`, as
            far as the position allows, which has strict priority.
        like: joints `[J]`, rad, that show how the tool is to be tilted; `start` where None.
        low, high: of the joints `[J]`, rad; the chain's own range where None.
        rotation_weight: metres that a radian is worth, where a rotation is wanted.
        settings: how.

    Returns:
        Joints `[J]` within their limits, the position error that is left, m, and the error of
        rotation or tilt, rad.

    Raises:
        ValueError: a wish that is not finite, or of another shape.
    """
    settings = settings or IKSettings()
    position = np.asarray(position, np.float64)
    if position.shape != (3,) or not np.isfinite(position).all():
        raise ValueError(f"position: got {position}, want 3 finite numbers, m")
    if rotation is not None and (np.shape(rotation) != (3, 3) or not np.isfinite(rotation).all()):
        raise ValueError(f"rotation: got {rotation}, want a finite 3 x 3 matrix")
    low = chain.joint_range[:, 0] if low is None else low
    high = chain.joint_range[:, 1] if high is None else high
    joints = np.clip(np.asarray(start, np.float64), low, high)
    up = np.array([0.0, 0.0, 1.0])
    tilt = chain.tool(joints if like is None else like)[:3, :3].T @ up  # as the tool feels it
    best: tuple[float, FloatArray, float, float] | None = None
    for _ in range(settings.max_iterations):
        pose = chain.tool(joints)
        error = position - pose[:3, 3]
        if rotation is None:
            turn = np.cross(pose[:3, :3] @ tilt, up)
        else:
            turn = Rotation.from_matrix(rotation @ pose[:3, :3].T).as_rotvec()
        far, turned = float(np.linalg.norm(error)), float(np.linalg.norm(turn))
        # A tilt is worth something only once the tool is there.
        if rotation is None:
            score = max(far, settings.tolerance_m) + _TILT_WEIGHT * turned
        else:
            score = far + rotation_weight * turned
        if best is None or score < best[0]:
            best = (score, joints.copy(), far, turned)
        enough = _ENOUGH_TILT_RAD if rotation is None else settings.tolerance_rad
        if far < settings.tolerance_m and turned < enough:
            break
        jacobian = chain.jacobian(joints)
        free = np.ones(chain.num_joints, bool)
        while True:  # a joint that would leave its range is held, and the others solve again
            step = _step(jacobian * free, error, turn, rotation is None, rotation_weight, settings)
            leaving = free & ((joints <= low) & (step < 0) | (joints >= high) & (step > 0))
            if not leaving.any():
                break
            free &= ~leaving
        step = step * min(1.0, settings.max_step / (np.abs(step).max() + 1e-12))
        joints = np.clip(joints + step, low, high)
    assert best is not None
    return best[1:]


def _step(
    jacobian: FloatArray,
    error: FloatArray,
    turn: FloatArray,
    position_first: bool,
    rotation_weight: float,
    settings: IKSettings,
) -> FloatArray:
    if not position_first:
        rows = np.r_[jacobian[:3], rotation_weight * jacobian[3:]]
        return _damped(rows, np.r_[error, rotation_weight * turn], settings.damping)
    step = _damped(jacobian[:3], error, settings.damping)
    # The projector comes from the undamped pseudo-inverse: with the damped one, turning would pull
    # the tool off its position.
    apart = np.eye(len(step)) - np.linalg.pinv(jacobian[:3], rcond=1e-3) @ jacobian[:3]
    return step + apart @ _damped(jacobian[3:] @ apart, turn - jacobian[3:] @ step, 0.3)


def _damped(rows: FloatArray, error: FloatArray, damping: float) -> FloatArray:
    return rows.T @ np.linalg.solve(rows @ rows.T + damping**2 * np.eye(len(rows)), error)


def _rodrigues(link: Link) -> tuple[FloatArray, FloatArray, FloatArray]:
    x, y, z = link.axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])

    def about_pivot(turn: FloatArray) -> FloatArray:
        pose = np.zeros((4, 4))
        pose[:3, :3], pose[:3, 3] = turn, -turn @ link.pivot
        return link.T_parent @ pose

    return link.T_parent, about_pivot(skew), about_pivot(skew @ skew)
