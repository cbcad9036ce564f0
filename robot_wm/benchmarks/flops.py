"""Floating point operations: how many a computation needs, and how many the device does."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

MATMUL_SIZE = 2048


def _attention_flops(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward_flops(
    grad: Any, q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


# torch counts attention on GPUs alone.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def flop_counter() -> FlopCounterMode:
    """Makes a context that counts what torch does within it; `get_total_flops()` has the sum."""
    return FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)


def sustained_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Measures the floating point operations per second of matrix products, over two seconds."""
    a = torch.ones(MATMUL_SIZE, MATMUL_SIZE, dtype=dtype, device=device)
    float((a @ a)[0, 0])
    num = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < 2.0:
        float((a @ a)[0, 0])  # waits for the device
        num += 1
    return num * 2 * MATMUL_SIZE**3 / (time.perf_counter() - begin)
