"""Simulated robots: MuJoCo scenes that implement robot_wm.types.Env.

Of robot_wm they import `types` and `kinematics` only.
"""
