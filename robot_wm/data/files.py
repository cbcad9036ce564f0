"""Small tools on files: maps with room on the disk, parquet columns."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import DTypeLike

from robot_wm.types import UserError


def allocate(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """A new `.npy` file as a writable map, its room on the disk taken.

    Raises:
        OSError: the disk is full; written into a map without room, that would be a signal.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def read_table(path: Path, *, only: Callable[[str], bool] = lambda name: True) -> pa.Table:
    """Reads the columns of a parquet file whose names `only` accepts.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        names = [n for n in pq.read_schema(path).names if only(n)]
        return pq.ParquetFile(path).read(names)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable parquet file ({reason})") from error


def column(table: pa.Table, key: str) -> np.ndarray:
    """A column as an array, `[T]` or `[T, n]`; ragged vectors come back as dtype object."""
    values = table[key].combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        rows = values.to_pylist()
        if len({len(r) if r is not None else -1 for r in rows}) != 1:
            return np.array(rows, dtype=object)
        return np.array(rows)
    return values.to_numpy(zero_copy_only=False)
