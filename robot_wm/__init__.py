"""robot_wm: show a robot arm a picture; it imagines what its actions would do, and moves there.

    from robot_wm import load, make_controller, run_episode, simulation

Importing this package is cheap and has no side effects: `sim_envs` and `hardware` build on
`robot_wm.types`, so torch must not come in here. What `robot_wm.api` offers is imported when it is
first asked for.
"""

from typing import TYPE_CHECKING

from robot_wm.version import __version__ as __version__

if TYPE_CHECKING:
    from robot_wm.api import *  # noqa: F403

_OFFERED = frozenset(
    """
    CEM ICEM MPC MPPI ActionChunks ActionSpec Averaged ControllerSettings DatasetSettings Decision
    FitConfig Goal GoalEnergy GoalSequence GradientCEM GradientDescent ImaginedCost
    Judgement Measure Observation Part Plan PlanningSettings PredictiveSampling
    PredictorShape Prior PriorConfig QuasiNewton RandomShooting SearchBudget SimulationSettings
    TrainConfig as_goal build_encoder check_encoder check_env check_planner check_task collect
    encode evaluate load load_prior make_arm make_controller plan register_arm register_encoder
    register_family run_episode simulation train
    """.split()
)


def __getattr__(name: str) -> object:
    if name not in _OFFERED:
        raise AttributeError(f"module 'robot_wm' has no attribute {name!r}")
    import robot_wm.api as api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_OFFERED})
