"""STS3215 servos behind a pseudo-terminal: the protocol of the real ones, and their faults.

Packets: FF FF id length instruction parameters... checksum; replies carry an error byte where the
instruction was (Feetech's protocol 0, as in the STS3215 manual).
"""

from __future__ import annotations

import contextlib
import os
import pty
import struct
import threading
import time
import tty

import numpy as np

MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
GRIPPER = (1918, 3352)  # its calibrated range, ticks
PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 1, 2, 3, 0x82, 0x83
BROADCAST = 254
TORQUE, GOAL, PRESENT = 40, 42, 56  # registers
TICKS = 4096 / (2 * np.pi)  # of a rad
_STEP_S = 0.005
_SPEED = 5.0  # rad/s


class FakeBus:
    """Six servos that follow their goals.

    Args:
        angles: where they stand, rad from the middle of their range.
        loss: share of the replies that never come.
        zeros: ticks at angle 0; the middle of the turn where not given.
        ranges: calibrated, ticks `[6, 2]`.
    """

    def __init__(self, angles, *, loss=0.0, seed=0, zeros=None, ranges=None):
        self.angles, self.loss = np.array(angles, float), loss
        self._zeros = np.full(6, 2048) if zeros is None else np.array(zeros)
        self._ranges = np.array([(0, 4095)] * 5 + [GRIPPER] if ranges is None else ranges)
        self.errors, self.blocked = dict.fromkeys(range(1, 7), 0), set()
        self.num_packets, self.num_lost, self.goals = 0, 0, []
        self.watch = lambda: None  # after every write
        self.delayed, self.delay_s = 0, 0.3  # replies to come that come so late
        self.late = 0  # replies to come that an empty one, of an earlier question, precedes
        self._rng = np.random.default_rng(seed)
        self._registers = {i: self._servo(i) for i in range(1, 7)}
        self._host, device = pty.openpty()
        tty.setraw(self._host)
        tty.setraw(device)
        self._device, self.port = device, os.ttyname(device)
        self._end, self._plugged = threading.Event(), True
        self._threads = [threading.Thread(target=work, daemon=True)
                         for work in (self._talk, self._move)]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def _servo(self, number):
        registers = bytearray(128)
        registers[0], registers[1] = 3, 10  # firmware
        struct.pack_into("<H", registers, 3, 777)  # model
        registers[5] = number
        struct.pack_into("<HH", registers, 9, *self._ranges[number - 1].tolist())
        registers[62], registers[63] = 120, 35  # 12 V, 35 degrees
        registers[TORQUE] = 1
        struct.pack_into("<H", registers, GOAL, self._ticks(number))
        return registers

    def _ticks(self, number):
        ticks = self._zeros[number - 1] + self.angles[number - 1] * TICKS
        return int(np.clip(round(ticks), 0, 4095))

    def _goal(self, number):
        (goal,) = struct.unpack_from("<H", self._registers[number], GOAL)
        return (goal - self._zeros[number - 1]) / TICKS

    def torque(self):
        """Which servos hold, `[6]`."""
        return [bool(registers[TORQUE]) for registers in self._registers.values()]

    def set_goal(self, number, angle):
        """What a servo was told before anyone connected."""
        ticks = round(self._zeros[number - 1] + angle * TICKS)
        struct.pack_into("<H", self._registers[number], GOAL, ticks)

    def unplug(self):
        """The cable is out: nothing is heard, nothing is answered."""
        self._plugged = False

    def _move(self):
        while not self._end.is_set():
            for number, registers in self._registers.items():
                way = self._goal(number) - self.angles[number - 1]
                if registers[TORQUE] and number not in self.blocked:
                    self.angles[number - 1] += np.clip(way, -_SPEED * _STEP_S, _SPEED * _STEP_S)
            time.sleep(_STEP_S)

    def _talk(self):
        heard = b""
        while not self._end.is_set():
            try:
                heard += os.read(self._host, 4096)
            except OSError:
                return
            while True:
                begin = heard.find(b"\xff\xff")
                heard = heard[begin:] if begin >= 0 else b""
                if len(heard) < 4 or len(heard) < 4 + heard[3]:
                    break
                number, length, instruction = heard[2], heard[3], heard[4]
                parameters, heard = heard[5 : 3 + length], heard[4 + length :]
                if self._plugged:
                    self.num_packets += 1
                    self._answer(number, instruction, parameters)

    def _answer(self, number, instruction, parameters):
        servos = self._registers if number == BROADCAST else {number: self._registers.get(number)}
        reply = b""
        if instruction == PING:
            reply = b"".join(self._status(i) for i in servos if i in self._registers)
        elif instruction == READ and number in self._registers:
            reply = self._status(number, self._read(number, *parameters[:2]))
        elif instruction == WRITE and number in self._registers:
            self._write(number, parameters[0], parameters[1:])
            reply = self._status(number)
        elif instruction == SYNC_READ:
            address, size, *numbers = parameters
            wanted = [i for i in numbers if i in self._registers]
            reply = b"".join(self._status(i, self._read(i, address, size)) for i in wanted)
        elif instruction == SYNC_WRITE:
            address, size, rest = parameters[0], parameters[1], parameters[2:]
            for at in range(0, len(rest), size + 1):
                if rest[at] in self._registers:
                    self._write(rest[at], address, rest[at + 1 : at + 1 + size])
        if self.late and instruction == READ:
            self.late -= 1
            reply = self._status(number) + reply
        if reply and self.delayed and instruction in (READ, SYNC_READ):
            self.delayed -= 1
            threading.Timer(self.delay_s, self._send, [reply]).start()
        elif reply:
            self._send(reply)

    def _send(self, reply):
        if not self._end.is_set():
            with contextlib.suppress(OSError):  # nobody is there any more
                os.write(self._host, reply)

    def _read(self, number, address, size):
        struct.pack_into("<H", self._registers[number], PRESENT, self._ticks(number))
        return bytes(self._registers[number][address : address + size])

    def _write(self, number, address, values):
        self._registers[number][address : address + len(values)] = values
        self.watch()
        if address == GOAL:
            self.goals.append((number, self._goal(number)))

    def _status(self, number, parameters=b""):
        if self._rng.random() < self.loss:
            self.num_lost += 1
            return b""
        body = bytes([number, len(parameters) + 2, self.errors[number]]) + parameters
        return b"\xff\xff" + body + bytes([~sum(body) & 255])

    def calibration(self):
        """What lerobot's calibration file of these servos holds."""
        return {
            name: {
                "id": i + 1,
                "drive_mode": 0,
                "homing_offset": 0,
                "range_min": int(self._ranges[i, 0]),
                "range_max": int(self._ranges[i, 1]),
            }
            for i, name in enumerate(MOTORS)
        }

    def close(self):
        if not self._end.is_set():
            self._end.set()
            os.close(self._host)
            os.close(self._device)
