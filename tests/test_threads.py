"""How torch's threads wait is decided by the commands, and by the user before them."""

import os
import subprocess
import sys

import pytest

from robot_wm.cli.threads import share_cores


def test_threads_are_told_to_sleep_soon():
    environ = {}
    share_cores(environ)
    assert 0 <= int(environ["GOMP_SPINCOUNT"]) < 300_000


@pytest.mark.parametrize(
    "own", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "0"}]
)
def test_what_the_user_chose_stays(own):
    environ = dict(own)
    share_cores(environ)
    assert environ == own


def test_a_command_decides_before_torch_loads():
    script = (
        "import sys, os\n"
        "import robot_wm.cli\n"
        "command = sys.modules['robot_wm.cli.main']\n"
        "own = command.share_cores\n"
        "def spy():\n"
        "    print('torch' in sys.modules, 'GOMP_SPINCOUNT' in os.environ)\n"
        "    own()\n"
        "command.share_cores = spy\n"
        "command.main(['plan', 'checkpoint=nowhere', 'goal=x'])\n"
        "print('torch' in sys.modules, 'GOMP_SPINCOUNT' in os.environ)\n"
    )
    environ = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["False", "False", "True", "True"]
