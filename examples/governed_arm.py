"""Drive the simulated arm's joints through the governor that drives the real one."""

from __future__ import annotations

import numpy as np

from hardware.governor import Governor
from robot_wm import make_arm


def main(num_ticks: int = 150) -> None:
    """Asks for a wild motion, and prints what the governor makes of it.

    Args:
        num_ticks: Number of ticks of 0.02 s.
    """
    arm = make_arm("so100")
    limits = arm.limits
    governor = Governor(limits, arm.chain.corners, limits.clip_within_tolerance(arm.home))
    start, fastest, lowest = arm.chain.tool(governor.joints)[:3, 3], 0.0, np.inf
    for tick in range(num_ticks):
        target = governor.joints.copy()
        target[1] += 0.5 * np.sign(np.sin(tick / 20))  # the shoulder, up and down at full swing
        before = governor.joints
        command = governor.step(target)
        fastest = max(fastest, float(np.abs(command.joints - before).max() / limits.tick_s))
        lowest = min(lowest, float(arm.chain.corners(command.joints[None])[0, :, 2].min()))
    end = arm.chain.tool(governor.joints)[:3, 3]
    print(f"the tool went from {start.round(3)} to {end.round(3)} m")
    print(f"no joint moved faster than {fastest:.2f} rad/s (allowed {limits.max_speed.max():.2f})")
    print(f"no corner came below {lowest:.3f} m (allowed {limits.box_low[2]:.3f})")


if __name__ == "__main__":
    main()
