"""Planners: minimise a cost over action sequences. They see a function, never a model."""

from robot_wm.planners.averaged import Averaged, likeness
from robot_wm.planners.cem import CEM, ICEM
from robot_wm.planners.gradient import GradientCEM, GradientDescent, QuasiNewton
from robot_wm.planners.mppi import MPPI
from robot_wm.planners.protocol import Cost, Planner, shift
from robot_wm.planners.sampling import PredictiveSampling, RandomShooting
from robot_wm.planners.search import GRADIENT_COST, Space, finite_costs

# By the names that a command line and a file have for them.
PLANNERS = {
    "cem": CEM,
    "icem": ICEM,
    "mppi": MPPI,
    "random_shooting": RandomShooting,
    "predictive_sampling": PredictiveSampling,
    "gradient": GradientDescent,
    "gradient_cem": GradientCEM,
    "quasi_newton": QuasiNewton,
    "averaged": Averaged,
}

__all__ = [
    "CEM",
    "GRADIENT_COST",
    "ICEM",
    "MPPI",
    "PLANNERS",
    "Averaged",
    "Cost",
    "GradientCEM",
    "GradientDescent",
    "Planner",
    "PredictiveSampling",
    "QuasiNewton",
    "RandomShooting",
    "Space",
    "finite_costs",
    "likeness",
    "shift",
]
