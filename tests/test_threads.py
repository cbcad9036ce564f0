"""How torch's threads wait: as the user chose, and else asleep while the machine is busy."""

import os
import subprocess
import sys
import time

import pytest
import torch

from robot_wm.cli import threads


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_chose_stays(name):
    assert threads.share_cores({name: "0"}) is None


def test_it_is_watched_once():
    watch = threads.share_cores({})
    assert watch is not None and watch.daemon and threads.share_cores({}) is watch


def test_nothing_is_done_where_nobody_tells_how_long_a_process_waits(monkeypatch):
    monkeypatch.setattr(threads, "waited_s", lambda: None)
    assert threads.share_cores({}) is None


def num_threads():
    return len(os.listdir("/proc/self/task"))


def wait_for(condition, timeout_s=30.0):
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_the_team_sleeps_and_changes_no_result():
    torch.manual_seed(0)
    weights, before = torch.randn(200, 200), num_threads()
    expected = weights @ weights
    sleepers = threads.Sleepers()
    sleepers.come()
    sleepers.come()
    try:
        cores = os.cpu_count() or 1
        assert sleepers.are_there and num_threads() >= before + cores + 1
        begin_s = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - begin_s < 0.25
        assert torch.equal(weights @ weights, expected)
    finally:
        sleepers.go()
    wait_for(lambda: num_threads() < before + cores + 1)
    assert not sleepers.are_there


WATCHED = """
import sys, time
from robot_wm.cli import threads
came = []
class Spy(threads.Sleepers):
    def come(self):
        came.append("torch" in sys.modules)
        super().come()
threads.Sleepers = Spy
threads.share_cores({})
import torch
a = torch.randn(400, 400)
until_s = time.monotonic() + 60
while not any(came) and time.monotonic() < until_s:
    a @ a
print(any(came))
"""


@pytest.mark.alone  # it keeps the machine busy
def test_a_busy_machine_is_noticed():
    busy = [sys.executable, "-c", "while True: pass"]
    children = [subprocess.Popen(busy) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        ran = subprocess.run(
            [sys.executable, "-c", WATCHED], capture_output=True, text=True, timeout=120
        )
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert ran.stdout.split() == ["True"], ran.stderr
