"""robot_wm: show a robot arm a picture; it imagines what its actions would do, and moves there.

Importing this package is cheap and has no side effects: `sim_envs` and `hardware` build on
`robot_wm.types`, so torch must not come in here.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("robot-wm")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
