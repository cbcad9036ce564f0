"""How the processes talk."""

import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from hardware.messages import Heartbeat, ObservationRequest, PolicyFailed, Trouble, Undecodable
from hardware.wire import MAX_BYTES, FrameSlot, Slot, Wire

LAST = PolicyFailed(text="last")


def test_messages_stay_whole_and_in_order():
    one, other = Wire.pair()
    assert other.receive() == []
    for i in range(20):
        assert one.send(ObservationRequest(number=i))
    assert other.receive() == [ObservationRequest(number=i) for i in range(20)]


def test_who_does_not_read_blocks_nobody():
    one, other = Wire.pair()
    begin = time.monotonic()
    sent = sum(one.send(Trouble(text="x" * 10_000)) for _ in range(1000))
    assert 0 < sent < 1000 and time.monotonic() - begin < 2
    assert not one.closed and len(other.receive()) == sent


def test_a_closed_end_is_told():
    one, other = Wire.pair()
    one.send(LAST)
    one.close()
    assert other.receive() == [LAST] and other.closed
    assert other.receive() == [] and not other.send(Heartbeat())


def test_a_killed_process_closes_its_end():
    one, other = Wire.pair()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                             pass_fds=[other.fileno()])  # fmt: skip
    other.close()
    assert one.receive() == [] and not one.closed
    child.kill()
    child.wait()
    assert one.receive() == [] and one.closed


def test_garbage_comes_as_it_was_sent():
    one, other = Wire.pair()
    garbage = (b"{", b"\xff\xfe", b"[" * 50_000)
    for content in garbage:
        os.write(one.fileno(), content)
    assert other.receive() == [Undecodable(content) for content in garbage]


def test_a_message_has_a_size():
    one, other = Wire.pair()
    assert not one.send(Trouble(text="x" * MAX_BYTES))
    assert one.send(LAST) and other.receive() == [LAST]


def test_what_was_said_before_the_end_is_heard_after_it():
    one, other = Wire.pair()
    one.send(LAST)
    one.close()
    assert not other.send(Heartbeat())
    assert other.receive() == [LAST]


def test_what_was_said_is_heard_though_its_end_left_something_unread():
    one, other = Wire.pair()
    other.send(Heartbeat())
    one.send(LAST)
    one.close()
    assert other.receive() == [LAST] and other.closed


def test_a_flood_comes_in_parts():
    one, other = Wire.pair()
    for i in range(100):
        one.send(ObservationRequest(number=i))
    assert len(other.receive()) == 64 and len(other.receive()) == 36
    assert not other.wait(0.01)
    one.send(Heartbeat())
    assert other.wait(1.0)


def test_a_reader_never_sees_half_a_value():
    slot = Slot(200_000)
    assert slot.read() is None
    code = (
        "import sys; from hardware.wire import Slot; slot = Slot(200_000, int(sys.argv[1]))\n"
        "for i in range(4000): slot.write(bytes([i % 251]) * 200_000)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(slot.fileno())],
                             pass_fds=[slot.fileno()])  # fmt: skip
    seen = set()
    while child.poll() is None:
        value = slot.read()
        if value is not None:
            assert value == value[:1] * len(value)
            seen.add(value[0])
    assert child.returncode == 0 and len(seen) > 3


def test_a_counter_is_never_read_half_written():
    """Written byte by byte, 255 becomes 0 on its way to 256: as if nothing had been written."""
    slot = Slot(8)
    code = (
        "import sys; from hardware.wire import Slot; slot = Slot(8, int(sys.argv[1]))\n"
        "for i in range(400_000): slot.write(b'x' * 8)"
    )
    slot.write(b"x" * 8)
    child = subprocess.Popen([sys.executable, "-c", code, str(slot.fileno())],
                             pass_fds=[slot.fileno()])  # fmt: skip
    last = 0
    while child.poll() is None:
        for _ in range(1000):
            count = slot.count()
            assert count >= last
            last = count
    assert child.returncode == 0 and last > 300


def test_frames_carry_their_stamps():
    slot = FrameSlot(4, 6)
    assert slot.read() is None and slot.stamp_s() == -math.inf
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    slot.write(picture, 12.5)
    again = FrameSlot(4, 6, os.dup(slot.fileno()))
    image, stamp_s = again.read()
    np.testing.assert_array_equal(image, picture)
    assert stamp_s == again.stamp_s() == 12.5
    for wrong in (picture[:3], picture.astype(np.float32)):
        with pytest.raises(ValueError, match="want uint8"):
            slot.write(wrong, 13.0)
    with pytest.raises(ValueError, match="shared memory"):
        FrameSlot(8, 6, os.dup(slot.fileno()))
