"""Inter-process communication: small messages that never block, and pictures in shared memory.

Nothing has a name in the file system: a killed process leaves nothing behind, and no stranger can
connect.
"""

from __future__ import annotations

import math
import mmap
import os
import select
import socket
import struct

import numpy as np

from hardware.messages import Message, Undecodable, decode, encode
from robot_wm.types import ImageArray

MAX_BYTES = 64 * 1024


class Wire:
    """One end of a connection that keeps messages whole.

    Args:
        end: One end of a SOCK_SEQPACKET pair.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end, self.closed = end, False

    @classmethod
    def pair(cls) -> tuple[Wire, Wire]:
        """Returns the two ends of a new connection."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    @classmethod
    def at(cls, descriptor: int) -> Wire:
        """Returns the end that another process handed over by descriptor."""
        os.set_inheritable(descriptor, False)  # children of this process do not keep it open
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """Returns the descriptor, for select and for a child's `pass_fds`."""
        return self._end.fileno()

    def send(self, message: Message) -> bool:
        """Sends a message without waiting.

        Args:
            message: The message.

        Returns:
            False if the other end is gone or does not read, or the message is too long.
        """
        content = encode(message)
        if len(content) > MAX_BYTES:
            return False
        try:
            self._end.send(content, socket.MSG_NOSIGNAL)
        except OSError:  # what the other end sent before can still be received
            return False
        return True

    def wait(self, timeout_s: float | None) -> bool:
        """Waits until something comes or the other end is gone.

        Args:
            timeout_s: Longest wait, s; None: no limit.

        Returns:
            False if nothing came in time.
        """
        poll = select.poll()  # not select(), which takes no descriptor above 1023
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else max(0.0, 1000 * timeout_s)))

    def receive(self) -> list[Message | Undecodable]:
        """Receives what has come, at most 64 messages, without waiting.

        `closed` becomes True once the other end is found gone.

        Returns:
            The messages, in order.
        """
        messages: list[Message | Undecodable] = []
        while not self.closed and len(messages) < 64:
            try:
                content = self._end.recv(MAX_BYTES + 1)
            except BlockingIOError:
                break
            except ConnectionResetError:  # it went with messages unread: what it sent comes next
                continue
            except OSError:
                self.closed = True
                break
            if not content:
                self.closed = True
                break
            messages.append(decode(content))
        return messages

    def close(self) -> None:
        """Closes this end."""
        self.closed = True
        self._end.close()


class Slot:
    """A value in shared memory that one process writes and others read, always whole.

    The memory holds two copies and a counter: the writer fills the copy that is not read, then
    increments the counter. A reader that was overtaken while it copied reads again.

    Args:
        num_bytes: Size of the value, bytes.
        descriptor: Descriptor of the memory, if another process made it; None: it is made here.
    """

    _HEAD = 8

    def __init__(self, num_bytes: int, descriptor: int | None = None) -> None:
        size = self._HEAD + 2 * num_bytes
        if descriptor is None:
            descriptor = os.memfd_create("robot_wm", 0)
            os.ftruncate(descriptor, size)
        if os.fstat(descriptor).st_size != size:
            raise ValueError(f"shared memory: {os.fstat(descriptor).st_size} bytes, want {size}")
        os.set_inheritable(descriptor, False)
        self._descriptor, self._num_bytes = descriptor, num_bytes
        self._memory = mmap.mmap(descriptor, size)
        # Written as one 64-bit word: a counter written byte by byte can be read half written.
        self._count = memoryview(self._memory)[: self._HEAD].cast("Q")

    def fileno(self) -> int:
        """Returns the descriptor, for a child's `pass_fds`."""
        return self._descriptor

    def count(self) -> int:
        """Returns the number of values that were written so far."""
        return self._count[0]

    def write(self, value: bytes) -> None:
        """Writes a value."""
        assert len(value) == self._num_bytes
        count = self.count()
        begin = self._HEAD + (count + 1) % 2 * self._num_bytes
        self._memory[begin : begin + self._num_bytes] = value
        self._count[0] = count + 1

    def read(self, num_bytes: int | None = None) -> bytes | None:
        """Reads the newest value.

        Args:
            num_bytes: Number of its first bytes to read; None: all.

        Returns:
            The bytes; None if no value was written yet.
        """
        num_bytes = self._num_bytes if num_bytes is None else num_bytes
        while True:
            before = self.count()
            if not before:
                return None
            begin = self._HEAD + before % 2 * self._num_bytes
            value = self._memory[begin : begin + num_bytes]
            if self.count() == before:
                return value

    def close(self) -> None:
        """Releases the memory."""
        self._count.release()
        self._memory.close()
        os.close(self._descriptor)


class FrameSlot:
    """A camera's newest picture and its stamp, in shared memory.

    Args:
        height: Height of the picture, pixels.
        width: Width of the picture, pixels.
        descriptor: Descriptor of the memory, if another process made it; None: it is made here.
    """

    _STAMP = struct.Struct("<d")

    def __init__(self, height: int, width: int, descriptor: int | None = None) -> None:
        self.shape = (height, width, 3)
        self._slot = Slot(self._STAMP.size + height * width * 3, descriptor)

    def fileno(self) -> int:
        """Returns the descriptor, for a child's `pass_fds`."""
        return self._slot.fileno()

    def write(self, image: ImageArray, stamp_s: float) -> None:
        """Writes a picture.

        Args:
            image: The picture `[height, width, 3]`, uint8 RGB.
            stamp_s: Time when it was taken, s, time.monotonic().

        Raises:
            ValueError: the picture has another shape or type.
        """
        if image.shape != self.shape or image.dtype != np.uint8:
            raise ValueError(f"image: got {image.dtype} {image.shape}, want uint8 {self.shape}")
        self._slot.write(self._STAMP.pack(stamp_s) + image.tobytes())

    def read(self) -> tuple[ImageArray, float] | None:
        """Returns the newest picture and its stamp, s; None if there is none yet."""
        value = self._slot.read()
        if value is None:
            return None
        (stamp_s,) = self._STAMP.unpack_from(value)
        image = np.frombuffer(value, np.uint8, offset=self._STAMP.size).reshape(self.shape).copy()
        return image, stamp_s

    def stamp_s(self) -> float:
        """Returns when the newest picture was taken, s; -inf if there is none yet."""
        value = self._slot.read(self._STAMP.size)
        return -math.inf if value is None else self._STAMP.unpack(value)[0]

    def close(self) -> None:
        """Releases the memory."""
        self._slot.close()
