"""What computes: which device, in which precision, and whether its memory has run out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from dualstylegan.choices import read_precision
from dualstylegan.errors import UsageError

Result = TypeVar("Result")


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU. Raises UsageError for a device torch does not know or have."""
    if str(device) != "auto":
        try:
            chosen = torch.device(device)
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError):  # torch built without CUDA asserts
            raise UsageError(f"There is no device '{device}' here. Try auto or cpu.") from None
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor multiplies it faster than float32, else float32."""
    precision = read_precision(precision)
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16(device) else "float32"
    return getattr(torch, precision)


def has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # torch has no public question for these two processor features.
    return any(
        getattr(torch.cpu, ask, lambda: False)() for ask in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def to_device(tensor: Tensor, device: torch.device, **how: Any) -> Tensor:
    """`tensor.to(device, **how)`; to a GPU from pinned memory, so that the processor need not wait for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True, **how)
    return tensor.to(device, **how)


def unless_memory_runs_out(compute: Callable[[], Result], device: torch.device) -> Result | None:
    """What `compute` returns, or None where it ran out of memory: half as much at once may fit."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Past the handler, so that the traceback no longer holds the tensors that filled the memory.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    # CPUs have no error of their own for it
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "DefaultCPUAllocator")
    )
