"""Writes files and directories atomically, and locks them against other processes."""

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

LOCK = ".robot_wm.lock"  # name of the lock file in a directory whose parent is not writable
_SPARE_BYTES = 16 * 2**20  # must stay free on the disk after a write


def sha256_file(path: Path) -> str:
    """Returns the sha256 of a file's content in hexadecimal."""
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
    """Checks that a disk has enough free space before a file is written.

    Args:
        place: A directory on the disk.
        num_bytes: Number of bytes that are going to be written.

    Raises:
        OSError: there is less free space.
    """
    free = shutil.disk_usage(place).free
    if free < num_bytes + _SPARE_BYTES:
        raise OSError(
            f"{place}: {num_bytes / 2**20:.0f} MiB are to be written, "
            f"{free / 2**20:.0f} MiB are free"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path that is moved to `path` on success, and removed on an error."""
    with replacing_all([path]) as (scratch,):
        yield scratch


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yields temporary paths that are moved to `paths`, in this order, on success.

    They are in a new directory beside the first path, so that no other process writes to them.

    Args:
        paths: Files on one file system; their directories are created.

    Yields:
        list[Path]: the temporary paths, one for each of `paths`.
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
    """Yields a new temporary directory that replaces `directory` on success."""
    # If the process is killed in between, the old or the new directory remains complete.
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
    """Locks a file or directory against other processes while the block runs.

    The lock is a file beside it that names the process, or inside a directory whose parent is not
    writable. The kernel releases it when the process ends in any way. First, temporary files of a
    killed process are removed, and a replacement that it had begun is completed.

    Args:
        place: The file or directory to be written, existing or not.
        *beside: Further files that are written with it.

    Raises:
        FileExistsError: another process writes to it; the message names that process.
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
            for leftover in _leftovers(path):
                _restore(path, leftover)
                shutil.rmtree(leftover, ignore_errors=True)
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
    """Finds the temporary directories that a killed process left for this path, and no other."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.tmp")
    return [other for other in path.parent.iterdir() if name.fullmatch(other.name)]


def _restore(path: Path, leftover: Path) -> None:
    """Completes an exchange of directories that was interrupted."""
    for name in ("new", "old"):
        if not path.exists() and (leftover / "old").exists() and (leftover / name).exists():
            (leftover / name).rename(path)


def output_dir(out: str, *, replaced: bool = False) -> Path:
    """Checks, before any work is done, that `out` is or can become a directory.

    Args:
        out: The directory.
        replaced: Whether it is going to be replaced as a whole (`replacing_directory`).

    Returns:
        Its path.

    Raises:
        FileExistsError: a file has that path, or the path of one of its parents.
        PermissionError: it is not writable, or it cannot be replaced: its parent is not writable,
            or something is mounted there.
    """
    path = Path(out)
    if replaced and path.is_dir():
        place = path.resolve()
        if os.path.ismount(place) or not os.access(place.parent, os.W_OK):
            raise PermissionError(
                f"out: {place} cannot be replaced as a whole (a mounted volume, or {place.parent} "
                f"cannot be written to); want a directory in it, such as {place / 'checkpoint'}"
            )
    for place in (path, *path.absolute().parents):
        if place.exists():
            if not place.is_dir():
                raise FileExistsError(f"out: {place} is a file, want a directory")
            if not os.access(place, os.W_OK):
                raise PermissionError(f"out: {place} cannot be written to")
            break
    return path
