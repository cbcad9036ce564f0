"""Robots behind `robot_wm.types.Env`.

Builds on `robot_wm.types` and `robot_wm.kinematics` alone, and never imports torch.
"""
