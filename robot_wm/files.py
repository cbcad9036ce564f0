"""Files that appear whole or not at all, and places that one process writes at a time."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".robot_wm.lock"  # in a directory whose parent cannot be written
_SPARE_BYTES = 16 * 2**20  # left on the disk beside what is written


def sha256_file(path: Path) -> str:
    """Hashes a file's content; hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Waits until a file's content, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(place: Path, num_bytes: int) -> None:
    """Checks that a place has room before it is written.

    Args:
        place: a directory.
        num_bytes: that are going to be written.

    Raises:
        OSError: the disk has less.
    """
    free = shutil.disk_usage(place).free
    if free < num_bytes + _SPARE_BYTES:
        raise OSError(
            f"{place}: {num_bytes / 2**20:.0f} MiB are to be written, "
            f"{free / 2**20:.0f} MiB are free"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a file's path to write to, which becomes `path` if all goes well, and is gone if not.

    The file is written in a new directory beside `path`, so that nobody else writes it.
    """
    with replacing_all([path]) as (scratch,):
        yield scratch


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yields paths to write to, which become `paths`, in this order, if all goes well.

    Args:
        paths: files on one file system; their directories are made.
    """
    first = paths[0].parent
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(first, paths[0].name) as folder:
        scratches = [folder / f"{i}-{path.name}" for i, path in enumerate(paths)]
        yield scratches
        for scratch in scratches:
            sync(scratch)
        for scratch, path in zip(scratches, paths, strict=True):
            scratch.replace(path)
        for parent in {path.parent for path in paths}:
            sync(parent)


@contextmanager
def replacing_directory(directory: Path) -> Iterator[Path]:
    """Yields a new directory to fill, which takes the place of `directory` if all goes well.

    A process that is killed in between leaves the old one, or the new one, whole.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(directory.parent, directory.name) as folder:
        new = folder / "new"
        new.mkdir()
        yield new
        for path in [*new.rglob("*"), new]:
            sync(path)
        if directory.exists():
            _exchange(directory, new, folder / "old")
        else:
            new.rename(directory)
        sync(directory.parent)


def _exchange(directory: Path, new: Path, old: Path) -> None:
    directory.rename(old)
    try:
        new.rename(directory)
    except OSError:
        old.rename(directory)
        raise


@contextmanager
def _scratch(parent: Path, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        dir=parent, prefix=f".{name}.", suffix=".tmp", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@contextmanager
def owning(place: Path, *beside: Path) -> Iterator[None]:
    """Keeps every other process from writing a place for as long as the block runs.

    A lock file beside the place says who writes; it is inside a directory whose parent cannot be
    written. The kernel lets go of it when its process ends, however it ends. What a killed process
    had half written is removed, and what it was about to put in its place is put there.

    Args:
        place: a file or a directory that is written, there or not.
        beside: further files that are written with it.

    Raises:
        FileExistsError: another process writes it; the message names that process.
    """
    place = place.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_of(place), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FileExistsError(f"{place} is being written by {_owner(lock.lock_file)}") from None
    try:
        Path(lock.lock_file).write_text(
            f"process {os.getpid()} ({' '.join(sys.argv)[:200]}) since "
            f"{time.strftime('%Y-%m-%d %H:%M:%S')}",
            encoding="utf-8",
            errors="replace",
        )
        for path in (place, *(other.resolve() for other in beside)):
            for left in _leftovers(path):
                _restore(path, left)
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _lock_of(place: Path) -> Path:
    if place.is_dir() and not os.access(place.parent, os.W_OK):
        return place / LOCK
    return place.with_name(f".{place.name}.lock")


def _owner(lock_file: str) -> str:
    try:
        return Path(lock_file).read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:
        return "another process"


def _leftovers(path: Path) -> list[Path]:
    """What a process that was killed has left of this file or directory, and of no other."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.tmp")
    return [left for left in path.parent.iterdir() if name.fullmatch(left.name)]


def _restore(path: Path, left: Path) -> None:
    """Finishes an exchange of directories that was cut in two."""
    for name in ("new", "old"):
        if not path.exists() and (left / "old").exists() and (left / name).exists():
            (left / name).rename(path)
