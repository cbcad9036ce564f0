"""Planners: search action sequences that a cost likes. They see a function, never a model."""

from robot_wm.planners.cem import CEM, ICEM
from robot_wm.planners.gradient import GradientCEM, GradientDescent, QuasiNewton
from robot_wm.planners.mppi import MPPI
from robot_wm.planners.protocol import Cost, Planner, shift
from robot_wm.planners.sampling import PredictiveSampling, RandomShooting
from robot_wm.planners.search import GRADIENT_COST, finite_costs

__all__ = [
    "CEM",
    "GRADIENT_COST",
    "ICEM",
    "MPPI",
    "Cost",
    "GradientCEM",
    "GradientDescent",
    "Planner",
    "PredictiveSampling",
    "QuasiNewton",
    "RandomShooting",
    "finite_costs",
    "shift",
]
