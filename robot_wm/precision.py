"""Picks the device, and measures which data type it multiplies matrices in faster."""

from __future__ import annotations

import time

import torch

from robot_wm.types import UserError


def pick_device(name: str) -> torch.device:
    """Finds a device by its name.

    Args:
        name: A name that torch knows, or `auto`: a CUDA device if there is one, else the processor.

    Returns:
        The device.

    Raises:
        UserError: not a device of this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device: got {name!r}, want auto, cpu, or a GPU of this machine"
        ) from error
    return device


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int) -> float:
    """Measures the floating point operations per second of a matrix product; best of three."""
    a = torch.ones(size, size, dtype=dtype, device=device)

    def seconds() -> float:
        begin = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        return time.perf_counter() - begin

    seconds()
    return 2 * size**3 / min(seconds() for _ in range(3))


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Returns the data type to multiply matrices in; see `TrainConfig.precision`."""
    if precision == "auto":
        # Small on a processor: those without bfloat16 emulate it, hundreds of times slower.
        size = 4096 if device.type == "cuda" else 256
        rates = [matmul_rate(t, device, size) for t in (torch.float32, torch.bfloat16)]
        return torch.bfloat16 if rates[1] > 1.3 * rates[0] else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16
