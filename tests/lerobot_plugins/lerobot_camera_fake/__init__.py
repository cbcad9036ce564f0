"""A LeRobot camera as a stranger would plug one in: it shows what tests/fake_so101.py sees."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from lerobot.cameras.camera import Camera
from lerobot.cameras.configs import CameraConfig

from hardware.wire import FrameSlot


@CameraConfig.register_subclass("fake")
@dataclass(kw_only=True)
class FakeCameraConfig(CameraConfig):
    path: Path


class FakeCamera(Camera):
    config_class = FakeCameraConfig

    def __init__(self, config):
        super().__init__(config)
        self.config, self._slot, self._seen_s = config, None, 0.0

    @property
    def is_connected(self):
        return self._slot is not None

    @staticmethod
    def find_cameras():
        return []

    def connect(self, warmup=True):
        descriptor = os.open(self.config.path, os.O_RDWR)
        self._slot = FrameSlot(self.config.height, self.config.width, descriptor)

    def read(self):
        return self._slot.read()[0]

    def async_read(self, timeout_ms=200):
        until_s = time.monotonic() + timeout_ms / 1000
        while self._slot.stamp_s() <= self._seen_s:
            if time.monotonic() > until_s:
                raise TimeoutError("no new picture")
            time.sleep(0.002)
        picture, self._seen_s = self._slot.read()
        return picture

    def disconnect(self):
        self._slot = None
