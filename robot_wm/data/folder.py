"""Loads a folder of videos as frames for pretraining, without actions, at any frame rate."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from robot_wm.data.tokens import Progress, scale_frames
from robot_wm.data.video import DecodeError, sample_video
from robot_wm.files import replacing_all, sha256_file
from robot_wm.types import ImageArray, Positive, UserError, checked

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg")


@dataclass(frozen=True, eq=False)
class FolderFrames:
    """The frames of a folder's videos.

    Attributes:
        frames: Pictures, uint8 RGB `[sum of lengths, height, width, 3]`, video by video, a
            read-only memory map.
        lengths: Frames per video.
        corrupt: File and reason for each video that was left out.
        key: Hash of everything that the frames depend on.
    """

    frames: ImageArray
    lengths: tuple[int, ...]
    corrupt: tuple[str, ...]
    key: str


def find_videos(folder: Path) -> list[Path]:
    """Finds the video files under a folder by their suffix.

    Args:
        folder: The folder, searched with all its subfolders.

    Returns:
        The files, sorted.

    Raises:
        FileNotFoundError: no such folder.
        UserError: no video in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"videos: no folder {folder}")
    videos = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
    )
    if not videos:
        raise UserError(f"videos: none in {folder}; looked for {', '.join(VIDEO_SUFFIXES)}")
    return videos


@checked
def load_video_folder(
    folder: Path,
    size: tuple[int, int],
    *,
    dt_s: Positive,
    cache_dir: Path,
    drop_corrupt: bool = False,
    progress: Progress | None = None,
) -> FolderFrames:
    """Loads every video of a folder at equal steps of its own clock, decoding each only once.

    Args:
        folder: The folder, searched with all its subfolders.
        size: Height and width of the frames, pixels; they are cropped and resized as
            `prepare_images` does it.
        dt_s: Time between frames.
        cache_dir: Directory of the cache; created if missing.
        drop_corrupt: Whether to leave out and list files that do not decode, instead of raising.
        progress: Called with the number of files done and the total.

    Returns:
        The frames of all videos.

    Raises:
        FileNotFoundError: no such folder.
        UserError: no video in it, or some do not decode; names all of them.
    """
    paths = find_videos(folder)
    content = [(str(path.relative_to(folder)), sha256_file(path)) for path in paths]
    settings = json.dumps({"files": content, "size": size, "dt_s": dt_s})
    key = hashlib.sha256(settings.encode()).hexdigest()[:32]
    stem = Path(cache_dir) / f"videos-{key}"
    raw, note_path = stem.with_suffix(".raw"), stem.with_suffix(".json")
    note = _read_note(raw, note_path, size)
    if note is None:
        # The note is replaced last: frames without their note are incomplete.
        with replacing_all([raw, note_path]) as (scratch, note_scratch):
            note = _decode(folder, paths, size, dt_s, scratch, progress)
            note_scratch.write_text(json.dumps(note), encoding="utf-8")
    lengths, corrupt = tuple(note["lengths"]), tuple(note["corrupt"])
    if corrupt and (not drop_corrupt or not lengths):
        raise UserError(
            f"videos: {len(corrupt)} of {len(paths)} do not decode: {'; '.join(corrupt)}"
            + ("" if drop_corrupt else "; data.drop_corrupt=true leaves them out")
        )
    frames = np.memmap(raw, np.uint8, mode="r", shape=(sum(lengths), *size, 3))
    return FolderFrames(frames, lengths, corrupt, key)


def _decode(
    folder: Path,
    paths: list[Path],
    size: tuple[int, int],
    dt_s: float,
    out: Path,
    progress: Progress | None,
) -> dict[str, list]:
    """Writes all frames to `out`, one video after another; returns lengths and damaged files."""
    lengths: list[int] = []
    corrupt: list[str] = []
    with open(out, "wb") as file:
        for done, path in enumerate(paths, start=1):
            begin, length = file.tell(), 0
            try:
                pictures = sample_video(path, dt_s)
                while chunk := list(islice(pictures, 64)):
                    file.write(scale_frames(np.stack(chunk), size).tobytes())
                    length += len(chunk)
                lengths.append(length)
            except DecodeError as error:
                corrupt.append(f"{path.relative_to(folder)}: {error}")
                file.seek(begin)
                file.truncate()
            if progress is not None:
                progress(done, len(paths))
    return {"lengths": lengths, "corrupt": corrupt}


def _read_note(raw: Path, note_path: Path, size: tuple[int, int]) -> dict[str, list] | None:
    try:
        note = json.loads(note_path.read_text(encoding="utf-8"))
        whole = raw.stat().st_size == sum(note["lengths"]) * size[0] * size[1] * 3
        return note if whole and isinstance(note["corrupt"], list) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
