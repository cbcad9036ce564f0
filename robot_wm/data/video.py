"""Decodes pictures from video files and parquet cells with PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robot_wm.types import FloatArray, ImageArray, UserError

if TYPE_CHECKING:  # imported in the functions that use it: other callers do not need PyAV
    import av


_ROUNDING_S = 5e-4  # times in a file are rounded, by at most this much


class DecodeError(UserError):
    """A picture is missing or cannot be decoded; the message gives the reason, not the file."""


def decode_video(path: Path, times_s: FloatArray, tolerance_s: float) -> ImageArray:
    """Decodes the frames of a video that are shown at given times, in one pass.

    Args:
        path: The video file.
        times_s: Requested times `[n]`, s, increasing, on the video's clock.
        tolerance_s: The largest difference of a frame's presentation time from the requested one.

    Returns:
        uint8 RGB `[n, height, width, 3]`.

    Raises:
        DecodeError: the file is no video, is damaged, or has no frame at one of the times.
    """
    import av
    from av.error import FFmpegError

    pictures: list[ImageArray] = []
    before: av.VideoFrame | None = None  # the last frame before the requested time
    try:
        with av.open(str(path), "r") as container:
            if not container.streams.video:
                raise DecodeError("the file has no video in it")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # episodes are too short to gain from more
            if times_s[0] > tolerance_s and stream.time_base:
                start = int((times_s[0] - tolerance_s) / stream.time_base)
                container.seek(max(0, start), stream=stream)
            for frame in container.decode(stream):
                shown_s = _time_s(frame)
                while len(pictures) < len(times_s) and shown_s >= times_s[len(pictures)]:
                    want_s = float(times_s[len(pictures)])
                    nearest = frame
                    if before is not None and want_s - _time_s(before) < shown_s - want_s:
                        nearest = before
                    pictures.append(_picture(nearest, want_s, tolerance_s))
                if len(pictures) == len(times_s):
                    break
                before = frame
    except FFmpegError as error:
        raise DecodeError(f"the video does not decode ({error.strerror})") from error
    if len(pictures) == len(times_s) - 1 and before is not None:
        # Timestamps are rounded to float32: the last frame may come slightly before its row.
        if times_s[-1] - _time_s(before) <= tolerance_s:
            pictures.append(_picture(before, float(times_s[-1]), tolerance_s))
    if len(pictures) < len(times_s):
        raise DecodeError(
            f"the video has fewer frames than the data has rows: it ends before the frame at "
            f"{times_s[len(pictures)]:.3f} s"
        )
    return np.stack(pictures)


def sample_video(path: Path, dt_s: float) -> Iterator[ImageArray]:
    """Samples the pictures of a video at equal steps of its own clock, whatever its frame rate.

    Args:
        path: The video file.
        dt_s: Time step, s; each picture is the first one shown at or after its time.

    Yields:
        ImageArray: uint8 RGB `[height, width, 3]`.

    Raises:
        DecodeError: the file is no video, or is damaged.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path), "r") as container:
            if not container.streams.video:
                raise DecodeError("the file has no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            num, begin_s, last_s, size = 0, 0.0, 0.0, None
            for frame in container.decode(stream):
                now_s = _time_s(frame)
                if frame.is_corrupt:
                    raise DecodeError(f"the video frame at {now_s:.3f} s is damaged")
                if size is None:
                    begin_s, last_s, size = now_s, now_s, (frame.height, frame.width)
                if (frame.height, frame.width) != size:
                    raise DecodeError(f"the picture changes its size at {now_s:.3f} s")
                if now_s - last_s > 1.5 * dt_s:
                    raise DecodeError(
                        f"its frames at {last_s:.3f} and {now_s:.3f} s are too far apart for steps "
                        f"of {dt_s:g} s"
                    )
                last_s = now_s
                if now_s - begin_s >= num * dt_s - _ROUNDING_S:
                    num = int((now_s - begin_s + _ROUNDING_S) / dt_s) + 1
                    yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            if not num:
                raise DecodeError("the video has no frames")
            declared_s = None
            if stream.duration is not None and stream.time_base is not None:
                declared_s = float(stream.duration * stream.time_base)
            elif container.duration is not None and len(container.streams) == 1:
                declared_s = container.duration / av.time_base
            if declared_s is not None and declared_s - (last_s - begin_s) > max(1.0, 2 * dt_s):
                raise DecodeError(
                    f"the video ends at {last_s - begin_s:.1f} s and says it has {declared_s:.1f} s"
                )
    except FFmpegError as error:
        raise DecodeError(f"the video does not decode ({error.strerror})") from error


def _time_s(frame: av.VideoFrame) -> float:
    if frame.time is None:
        raise DecodeError("a video frame has no presentation time")
    return frame.time


def _picture(frame: av.VideoFrame, want_s: float, tolerance_s: float) -> ImageArray:
    """Returns the frame as RGB; raises DecodeError if it is damaged or too far from `want_s`."""
    if abs(_time_s(frame) - want_s) > tolerance_s:
        raise DecodeError(
            f"no video frame within {tolerance_s:.3f} s of {want_s:.3f} s: the clocks of the data "
            f"and the video disagree"
        )
    if frame.is_corrupt:
        raise DecodeError(f"the video frame at {want_s:.3f} s is damaged")
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def decode_image(cell: Mapping[str, object] | None, root: Path) -> ImageArray:
    """Decodes the picture of a parquet cell.

    Args:
        cell: The cell, with the picture as `bytes` or as a `path` under `root`.
        root: The dataset's directory.

    Returns:
        uint8 RGB `[height, width, 3]`.

    Raises:
        DecodeError: there is no picture, or it does not decode.
    """
    import av
    from av.error import FFmpegError

    cell = cell or {}
    content, path = cell.get("bytes"), cell.get("path")
    if isinstance(content, bytes):
        source: io.BytesIO | str = io.BytesIO(content)
    elif isinstance(path, str) and path:
        source = str(root / path)
    else:
        raise DecodeError("a row has no picture")
    try:
        with av.open(source, "r") as container:
            for frame in container.decode(video=0):
                return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except FFmpegError as error:
        raise DecodeError(f"a picture does not decode ({error.strerror})") from error
    raise DecodeError("a picture is empty")
