"""Decodes pictures from video files and parquet cells with PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robot_wm.data import layout
from robot_wm.types import FloatArray, ImageArray, UserError

if TYPE_CHECKING:  # imported in the functions that use it: other callers do not need PyAV
    import av
    from av.container import InputContainer


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
    from av.error import FFmpegError

    pictures: list[ImageArray] = []
    before: av.VideoFrame | None = None  # the last frame before the requested time
    try:
        with _open(path) as container:
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
    except OverflowError as error:
        raise DecodeError(f"no video is as long as {times_s[0]:g} s") from error
    if len(pictures) == len(times_s) - 1 and before is not None:
        # Timestamps are rounded to float32: the last frame may come slightly before its row.
        if times_s[-1] - _time_s(before) <= tolerance_s:
            pictures.append(_picture(before, float(times_s[-1]), tolerance_s))
    if len(pictures) < len(times_s):
        raise DecodeError(
            f"the video has fewer frames than the data has rows: it ends before the frame at "
            f"{times_s[len(pictures)]:.3f} s"
        )
    return _stack(pictures)


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
        with _open(path) as container:
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


def _open(source: Path | io.BytesIO) -> InputContainer:
    """Opens a file or its content; raises DecodeError if it has no video or picture in it."""
    import av

    # FFmpeg takes a relative path such as `http:/...` for a URL, and opens what a playlist names.
    is_file = isinstance(source, Path)
    container = av.open(
        str(source.absolute()) if is_file else source,
        "r",
        options={"protocol_whitelist": "file" if is_file else "none"},
        metadata_errors="replace",  # titles and comments may be in any encoding
    )
    if not container.streams.video:
        container.close()
        raise DecodeError("the file has no video or picture in it")
    return container


def _stack(pictures: Sequence[ImageArray]) -> ImageArray:
    """Stacks pictures; raises DecodeError if they are not of one size."""
    sizes = sorted({picture.shape[:2] for picture in pictures})
    if len(sizes) > 1:
        raise DecodeError(f"pictures of several sizes: {sizes[0]} and {sizes[1]}")
    return np.stack(pictures)


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


def decode_images(cells: Sequence[object], root: Path) -> ImageArray:
    """Decodes the pictures of parquet cells.

    Args:
        cells: The cells, n of them, each a mapping with a picture as `bytes` or as a `path` under
            `root`.
        root: The dataset's directory.

    Returns:
        uint8 RGB `[n, height, width, 3]`.

    Raises:
        DecodeError: a picture is missing, does not decode, or has another size than the first.
        OSError: a file cannot be read.
        UserError: a path leads out of `root`.
    """
    return _stack([_decode_image(cell, root) for cell in cells])


def _decode_image(cell: object, root: Path) -> ImageArray:
    from av.error import FFmpegError

    content, path = None, None
    if isinstance(cell, Mapping):
        content, path = cell.get("bytes"), cell.get("path")
    if not isinstance(content, bytes) and isinstance(path, str) and path:
        content = layout.inside(root, path).read_bytes()
    if not isinstance(content, bytes):
        raise DecodeError("a row has no picture")
    try:
        with _open(io.BytesIO(content)) as container:
            for frame in container.decode(video=0):
                return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except FFmpegError as error:
        raise DecodeError(f"a picture does not decode ({error.strerror})") from error
    raise DecodeError("a picture is empty")
