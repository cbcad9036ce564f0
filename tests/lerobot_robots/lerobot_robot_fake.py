"""The simulated arm as strangers would have it: other joints in another order, or broken.

It writes what it is asked for, and what it shows, into a file: lines of JSON.
"""

import json
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from lerobot.robots.config import RobotConfig

from lerobot_robot_robot_wm import RobotWMSimConfig
from lerobot_robot_robot_wm.robot_wm_sim import RobotWMSim


@RobotConfig.register_subclass("fake")
@dataclass(kw_only=True)
class FakeConfig(RobotWMSimConfig):
    """Of a `Fake`.

    Attributes:
        log: the file.
        reverse: lists its joints the other way round.
        lacks: a joint that it does not have.
        breaks_after: goals, after which its elbow reports no number any more.
        stops_after: goals, at the last of which somebody presses Ctrl-C.
    """

    log: Path
    reverse: bool = False
    lacks: str = ""
    breaks_after: int | None = None
    stops_after: int | None = None


class Fake(RobotWMSim):
    config_class = FakeConfig
    name = "fake"

    def __init__(self, config):
        super().__init__(config)
        self._num_sent = 0
        config.log.write_text("")

    @property
    def action_features(self):
        names = [name for name in super().action_features if name != self.config.lacks]
        return dict.fromkeys(names[::-1] if self.config.reverse else names, float)

    def get_observation(self):
        seen = super().get_observation()
        seen.pop(self.config.lacks, None)
        self._write("shown", {key: seen[key] for key in self.action_features})
        breaks_after = self.config.breaks_after
        if breaks_after is not None and self._num_sent >= breaks_after:
            seen["elbow_flex.pos"] = math.nan
        return seen

    def send_action(self, action):
        self._num_sent += 1
        self._write("asked", dict(action))
        if self._num_sent == self.config.stops_after:
            signal.raise_signal(signal.SIGINT)
        return super().send_action(action)

    def disconnect(self):
        self._write(
            "ended", {key: super(Fake, self).get_observation()[key] for key in self.action_features}
        )
        super().disconnect()

    def _write(self, what, values):
        with self.config.log.open("a") as file:
            file.write(json.dumps({"what": what, "s": time.monotonic(), "values": values}) + "\n")
