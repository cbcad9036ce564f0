"""Creates memory maps with their disk space reserved, and reads parquet columns."""

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
    """Creates a `.npy` file as a writable memory map, with its disk space reserved.

    Without the reservation, a full disk would end the process with SIGBUS on a write to the map.

    Args:
        path: The file to create.
        dtype: Data type of the array.
        shape: Shape of the array.

    Returns:
        The writable map.

    Raises:
        OSError: the disk is full.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def read_table(path: Path, *, only: Callable[[str], bool] = lambda name: True) -> pa.Table:
    """Reads columns of a parquet file.

    Args:
        path: The file.
        only: Returns whether to read the column of a name; by default all are read.

    Returns:
        The table of these columns.

    Raises:
        UserError: there is no such file, it is damaged, or two of its columns have one name.
    """
    try:
        names = [n for n in pq.read_schema(path).names if only(n)]
        if len(set(names)) < len(names):
            raise UserError(f"{path}: two columns have one name, among {sorted(names)}")
        return pq.ParquetFile(path).read(names)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable parquet file ({reason})") from error


def numbers(table: pa.Table, key: str, dtype: type[np.number], path: Path) -> np.ndarray:
    """Returns a column of one number per row.

    Args:
        table: The table.
        key: Name of the column.
        dtype: int64 or float64; a column of other numbers becomes it if no value changes.
        path: File of the table, for error messages.

    Returns:
        The numbers `[T]`, of `dtype`.

    Raises:
        UserError: there is no such column, or it has another type, or a row without a number.
    """
    if key not in table.column_names:
        raise UserError(f"{path}: no {key} column; it has {sorted(table.column_names)}")
    values = table[key]
    try:
        if values.null_count:
            raise pa.ArrowInvalid(f"{values.null_count} rows are empty")
        return values.cast(pa.from_numpy_dtype(dtype)).to_numpy()
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: {key} is not a column of numbers ({reason})") from error


def column(table: pa.Table, key: str) -> np.ndarray:
    """Returns a column as an array `[T]` or `[T, n]`; of dtype object if vectors are ragged."""
    values = table[key].combine_chunks()
    if not pa.types.is_nested(values.type):
        return values.to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(values.type) and not values.null_count:
        return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
    rows = values.to_pylist()
    try:
        return np.array(rows)
    except ValueError:
        return np.fromiter(rows, object, len(rows))
