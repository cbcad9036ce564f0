"""A task of your own: lift the gripper high above the table, and let the model do it."""

from __future__ import annotations

import numpy as np

from robot_wm import (
    Goal,
    Judgement,
    Measure,
    PlanningSettings,
    check_task,
    load,
    make_controller,
    run_episode,
    simulation,
)
from sim_envs.trying import look_ahead, simulate

HEIGHT_M = 0.2


class Lift:
    """Succeeds if the gripper is at least 18 cm above the table (robot_wm.types.Task)."""

    def __init__(self, env):
        self.env = env

    def episode(self, seed):
        """Returns an episode; all are the same."""
        return {"seed": seed}

    def start(self, episode):
        """Takes the goal picture high above the table, then puts the arm low."""
        robot = self.env.robot
        middle = (robot.workspace_low + robot.workspace_high) / 2
        cube = {"cube": np.array([*robot.table_low, 0.0])}
        self.env.place(np.array([*middle[:2], HEIGHT_M, 0.02]), cube)
        goal = Goal(self.env.observe().images)
        self.env.place(np.array([*middle[:2], 0.08, 0.02]), cube)
        return goal

    def judge(self):
        """Measures the height of the gripper."""
        height = float(self.env.proprio()[2])
        return Judgement(height > 0.18, {"height": Measure(height, "m", enough=0.18, rising=True)})

    def simulate(self, actions):
        """Returns the true cost `[N, H]` after each action of `[N, H, A]` from here."""
        return simulate(self.env, actions, self.judge)

    def look_ahead(self, actions):
        """Returns the cameras' pictures after each action of `[N, H, A]` from here."""
        return look_ahead(self.env, actions)


def main() -> None:
    """Checks the task against its contract, then runs the shipped model on it."""
    env = simulation("so100_reach").env
    check_task(lambda: Lift(env))
    task, controller = Lift(env), make_controller(load("so100_tabletop"), env, PlanningSettings())
    goal = task.start(task.episode(0))
    run_episode(env, controller, goal, num_steps=10)
    name, measure = task.judge().first
    print(f"{name} {measure.value:.3f} {measure.unit}: {'done' if task.judge().success else 'not'}")


if __name__ == "__main__":
    main()
