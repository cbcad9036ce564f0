"""Encodes an episode as a small mp4: camera and goal side by side, step and measure above."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robot_wm.report.units import show
from robot_wm.report.values import EpisodeVideo, Imagined, MeasureLabel
from robot_wm.types import ImageArray

PICTURE_PX = 256  # height of each picture
MARGIN_PX, STATUS_PX, LABEL_PX = 8, 34, 22  # players draw their controls over the lower edge
_ROW_LABEL_PX = 170  # left of the pictures of what was imagined
HOLD_S = 1.0  # the last frame stays, so that a looping video shows where it ended

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GROUND, _INK, _DIM = (32, 36, 44), (236, 239, 244), (150, 158, 170)
_TRACK, _FAR, _NEAR = (62, 68, 80), (95, 150, 235), (64, 190, 125)
# What every browser plays. SMPTE 170M is the matrix that swscale converts RGB with.
_CODEC_OPTIONS = {"profile": "baseline", "preset": "medium", "crf": "20"}
_SMPTE_170M, _LIMITED_RANGE = 6, 1


def encode_video(video: EpisodeVideo, measure: MeasureLabel | None = None) -> bytes:
    """Draws and encodes an episode: T frames, then the last one repeated for `HOLD_S`.

    The camera's picture is on the left, the goal on the right. The bar above is as long as the
    measure, relative to the episode's largest, with a tick where it is enough; beyond that it is
    green.

    Args:
        video: The episode.
        measure: Name and unit of what `video.measured` holds; None: a distance in m.

    Returns:
        An mp4 file: h264 baseline, yuv420p.
    """
    import av

    rate = Fraction(video.fps).limit_denominator(1000)
    frames = _draw(video, measure or MeasureLabel())
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=_CODEC_OPTIONS)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = _SMPTE_170M
        stream.codec_context.color_range = _LIMITED_RANGE
        stream.codec_context.thread_count = 1  # the same bytes wherever it runs
        frames += [frames[-1]] * num_held_frames(video.fps)
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def num_held_frames(fps: float) -> int:
    """Returns how often the last frame is repeated, at least once."""
    return max(1, round(HOLD_S * fps))


def _draw(video: EpisodeVideo, measure: MeasureLabel) -> list[ImageArray]:
    """Returns the composed pictures, uint8 RGB, of even height and width."""
    goals = video.goal if np.ndim(video.goal) == 4 else video.goal[None]
    goal = _resize(goals[0])
    goal_x = 2 * MARGIN_PX + _resize(video.frames[0]).width
    right, top = goal_x + goal.width, STATUS_PX + LABEL_PX
    width, height = right + MARGIN_PX, top + PICTURE_PX + MARGIN_PX
    width, height = width + width % 2, height + height % 2  # h264 halves the colour planes

    ground = Image.new("RGB", (width, height), _GROUND)
    draw = ImageDraw.Draw(ground)
    for x, label in ((MARGIN_PX, "camera"), (goal_x, "goal")):
        draw.text((x, STATUS_PX + LABEL_PX / 2), label, _DIM, _small_font(), anchor="lm")

    pictures = []
    for step, frame in enumerate(video.frames):
        picture = ground.copy()
        picture.paste(_resize(frame), (MARGIN_PX, top))
        picture.paste(_resize(goals[min(step, len(goals) - 1)]), (goal_x, top))
        draw = ImageDraw.Draw(picture)
        progress = f"step {step} of {len(video.frames) - 1}"
        draw.text((MARGIN_PX, STATUS_PX / 2), progress, _INK, _font(), anchor="lm")
        if video.measured is not None:
            largest = max(float(np.max(video.measured)), measure.enough or 0.0, 1e-9)
            _draw_bar(draw, float(video.measured[step]), largest, measure, goal_x, right)
        pictures.append(np.asarray(picture))
    return pictures


def _draw_bar(
    draw: ImageDraw.ImageDraw,
    value: float,
    largest: float,
    measure: MeasureLabel,
    left: int,
    right: int,
) -> None:
    """Draws the bar between x = `left` and `right`, with its number."""
    middle, end = STATUS_PX / 2, max(left, right - 64)
    draw.text((left - 2 * MARGIN_PX, middle), measure.name, _DIM, _small_font(), anchor="rm")
    draw.text((right, middle), show(value, measure.unit), _INK, _font(), anchor="rm")
    draw.rectangle((left, middle - 4, end, middle + 4), _TRACK)
    tip = left + (end - left) * max(0.0, value) / largest
    color = _NEAR if measure.reached(value) else _FAR
    draw.rectangle((left, middle - 4, tip, middle + 4), color)
    if measure.enough is not None:
        tick = left + (end - left) * max(0.0, measure.enough) / largest
        draw.line((tick, middle - 8, tick, middle + 8), _INK, 2)


def _font() -> Font:
    return ImageFont.load_default(15)


def _small_font() -> Font:
    return ImageFont.load_default(13)


def _resize(image: ImageArray) -> Image.Image:
    height, width = image.shape[:2]
    size = (max(1, round(width * PICTURE_PX / height)), PICTURE_PX)
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def draw_imagined(imagined: Imagined) -> bytes:
    """Draws what a model imagined: a column for each moment; seen, imagined, and what happened.

    Args:
        imagined: The moments.

    Returns:
        A PNG file.
    """
    actions = "1 action" if imagined.horizon == 1 else f"{imagined.horizon} actions"
    rows = {
        "seen": imagined.seen,
        f"imagined, {actions} on": imagined.imagined,
        "what happened": imagined.happened,
    }
    height, width = imagined.seen.shape[1:3]
    side, across = PICTURE_PX // 2, max(1, round(PICTURE_PX / 2 * width / height))
    width = _ROW_LABEL_PX + len(imagined.steps) * (across + MARGIN_PX)
    sheet = Image.new("RGB", (width, LABEL_PX + len(rows) * (side + MARGIN_PX)), _GROUND)
    draw = ImageDraw.Draw(sheet)
    for row, (label, pictures) in enumerate(rows.items()):
        y = LABEL_PX + row * (side + MARGIN_PX)
        draw.text((MARGIN_PX, y + side / 2), label, _INK, _small_font(), anchor="lm")
        for column, picture in enumerate(pictures):
            x = _ROW_LABEL_PX + column * (across + MARGIN_PX)
            sheet.paste(Image.fromarray(picture).resize((across, side)), (x, y))
    for column, step in enumerate(imagined.steps):
        x = _ROW_LABEL_PX + column * (across + MARGIN_PX) + across / 2
        draw.text((x, LABEL_PX / 2), f"step {step}", _DIM, _small_font(), anchor="mm")
    buffer = io.BytesIO()
    sheet.save(buffer, "png", optimize=True)
    return buffer.getvalue()
