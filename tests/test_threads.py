"""How torch's threads share the cores: as the user chose, and else by how busy the machine is."""

import os
import subprocess
import sys
import time

import pytest
import torch

from robot_wm.deployment import threads


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_chose_stays(name):
    assert threads.share_cores({name: "0"}) is None


def test_it_is_watched_once():
    watcher = threads.share_cores({})
    assert watcher is not None and watcher.daemon and threads.share_cores({}) is watcher


def test_nothing_is_done_where_nobody_tells_how_long_a_process_waits(monkeypatch):
    monkeypatch.setattr(threads.CpuCounter, "read", lambda self: None)
    assert threads.share_cores({}) is None


def test_nothing_is_known_where_no_thread_s_waits_are_told(monkeypatch):
    monkeypatch.setattr(threads.CpuCounter, "_waits_ns", lambda self: iter(()))
    assert threads.CpuCounter(threads.Cores().all).read() is None


def thread_ids():
    return {*os.listdir("/proc/self/task")}


def wait_for(condition, timeout_s=30.0):
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_the_team_sleeps_and_changes_no_result():
    torch.manual_seed(0)
    weights, before = torch.randn(200, 200), thread_ids()
    expected = weights @ weights
    idle_team = threads.IdleTeam()
    idle_team.come()
    idle_team.come()
    try:
        cores = os.cpu_count() or 1
        come = thread_ids() - before  # those of other tests may end meanwhile
        assert idle_team.are_there and len(come) >= cores + 1
        begin_s = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - begin_s < 0.25
        assert torch.equal(weights @ weights, expected)
    finally:
        idle_team.go()
    wait_for(lambda: len(thread_ids() & come) < cores + 1)
    assert not idle_team.are_there


def test_what_others_compute_is_counted():
    cores = threads.Cores().all
    counter = threads.CpuCounter(cores)
    before = counter.read()
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(2.0)
        after = counter.read()
    finally:
        counter.close()
        child.kill()
        child.wait()
    assert before is not None and after is not None
    passed_s = after.time_s - before.time_s
    assert 0.5 < after.others_s - before.others_s < passed_s * len(cores) + 0.1


@pytest.mark.parametrize(
    ("num_others", "num_kept"),
    [([0.3], 8), ([1.0], 7), ([7.6], 1), ([8.0], 1), ([3.0, 5.0], 3), ([3.0, 2.4], 5),
     ([3.0, 2.2], 6), ([5.0, 0.0], 8)],
)  # fmt: skip
def test_as_many_cores_are_left_as_others_use(monkeypatch, num_others, num_kept):
    monkeypatch.setattr(threads, "_cores_of", lambda task: set(range(8)))
    moved = {}
    monkeypatch.setattr(threads, "_move", lambda task, cores: moved.update({task: cores}))
    cores = threads.Cores()
    for num in num_others:
        cores.leave(num)
    assert len(moved[os.getpid()]) == num_kept and cores.are_fewer == (num_kept < 8)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_fewer_cores_change_no_result_and_children_have_all():
    torch.manual_seed(0)
    weights, cores = torch.randn(200, 200), threads.Cores()
    expected = weights @ weights
    child = None
    try:
        cores.leave(len(cores.all) - 1)
        assert len(os.sched_getaffinity(0)) == 1
        assert torch.equal(weights @ weights, expected)
        child = subprocess.Popen(["sleep", "60"])
        assert len(os.sched_getaffinity(child.pid)) == 1
        cores.leave(len(cores.all) - 1)
        assert os.sched_getaffinity(child.pid) == cores.all
    finally:
        cores.leave(0)
        if child is not None:
            child.kill()
            child.wait()
    assert os.sched_getaffinity(0) == cores.all


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 3, reason="two cores leave no other choice")
def test_a_thread_that_someone_placed_stays():
    cores = threads.Cores()
    placed = set(sorted(cores.all)[:2])
    os.sched_setaffinity(0, placed)
    try:
        cores.leave(len(cores.all) - 1)
        assert os.sched_getaffinity(0) == placed
    finally:
        os.sched_setaffinity(0, cores.all)
        cores.leave(0)


WATCHED = """
import sys, time
from robot_wm.deployment import threads
came = []
class Spy(threads.IdleTeam):
    def come(self):
        came.append("torch" in sys.modules)
        super().come()
threads.IdleTeam = Spy
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
