"""Starts a fake SO-101 for tests, and says how `robot-wm deploy` finds it."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


class FakeSO101:
    """tests/fake_so101.py in a process of its own."""

    def __init__(self, folder, seed=0, shift=()):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "fake_so101.py"), *map(str, (folder, seed, *shift))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
        )  # fmt: skip
        self.port = json.loads(self._process.stdout.readline())["port"]

    def say(self, **what):
        """A mishap, or nothing; what `fake_so101.py` answers."""
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def words(self):
        """What tells `robot-wm` where it is."""
        camera = f"{{type: fake, path: {self.folder / 'front.frames'}, width: 128, height: 128}}"
        return [
            "robot=lerobot",
            f"robot.port={self.port}",
            "robot.id=fake",
            f"robot.config={{calibration_dir: {self.folder}}}",
            f"robot.cameras={{front: {camera}}}",
        ]

    @staticmethod
    def environ():
        """With the camera's plugin."""
        return {**os.environ, "PYTHONPATH": str(TESTS / "lerobot_plugins")}

    def close(self):
        self._process.stdin.close()
        self._process.wait(20)
