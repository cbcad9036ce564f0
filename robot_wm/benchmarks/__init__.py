"""Measurements: what planners find, what the cache saves, where training's time goes."""
