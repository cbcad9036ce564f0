"""Robots behind robot_wm.types.Env. Builds on robot_wm.types alone; never imports torch."""
