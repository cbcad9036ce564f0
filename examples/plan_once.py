"""Load the checkpoint that ships, look at a simulated arm, and plan toward a picture."""

from __future__ import annotations

import sys

from robot_wm import load, plan, simulation


def main(goal: str) -> None:
    """Plans once, prints the action, and executes it.

    Args:
        goal: A picture of the arm in the desired pose.
    """
    model = load("so100_tabletop")
    env = simulation("so100_reach").env
    observation = env.reset(0)
    result = plan(model, observation, goal)
    action = result.actions[0]
    named = zip(model.info.action_spec.names, action, strict=True)
    print("the first action:", ", ".join(f"{name} {value:+.3f} m" for name, value in named))
    print(f"its imagined end is {result.cost:.3f} from the goal's latent")
    applied = env.apply(action)
    moved = env.observe().proprio - observation.proprio
    print("executed:", applied.round(3), "moved:", moved.round(3))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "docs/images/goal.png")
