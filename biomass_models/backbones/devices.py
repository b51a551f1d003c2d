"""Where tensors live, in which precision, and what to do when they do not fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from biomass_models.errors import UserError

ENCODING = "BIOMASS_ENCODING"  # environment: precision of frozen backbones, auto or float32


def pick_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one; anything else is torch's own name of a device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def precision(device: torch.device) -> torch.dtype:
    """Of the networks' matrix products: float32 on a CPU; on a GPU bfloat16 where it is native, else float16."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def encoding_precision(device: torch.device) -> torch.dtype:
    """Of a frozen backbone's passes: `precision`, and bfloat16 on a CPU that multiplies it natively (more
    than twice as fast: docs/measured.md). BIOMASS_ENCODING=float32 keeps them in float32 everywhere."""
    asked = os.environ.get(ENCODING, "auto")
    if asked not in ("auto", "float32"):
        raise UserError(f"{ENCODING} must be auto or float32, got {asked!r}")
    if asked == "float32":
        return torch.float32
    native = torch.cpu.get_capabilities()
    if device.type == "cpu" and (native.get("avx512_bf16") or native.get("amx_bf16")):
        return torch.bfloat16
    return precision(device)


def autocast(device: torch.device, half: torch.dtype | None = None) -> AbstractContextManager[object]:
    """Mixed precision, by default the device's own; nothing where that is float32."""
    half = precision(device) if half is None else half
    return nullcontext() if half is torch.float32 else torch.autocast(device.type, dtype=half)


def onto(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on the device; to a GPU through pinned memory, so that the copy does not hold the process up."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch computes with so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Inside, torch computes with one CPU thread: networks so small that threads would only wait for each other, and
    whose numbers must not depend on a slot's cores."""
    return threads(1)


class TooLargeError(UserError, torch.cuda.OutOfMemoryError):
    """Not even one picture fits into the GPU's memory."""


# How torch reports a GPU without room outside of its own allocator, as a RuntimeError: for a kernel that is loaded, a
# handle of cuBLAS or cuDNN. With several processes on one GPU that is likely.
NO_ROOM = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",  # before cuDNN 9
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU had no room for what was asked of it."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in str(error) for sign in NO_ROOM)


class DeviceLostError(UserError):
    """A GPU that does not answer this process any more: only another process can use it."""


def require_device() -> None:
    """Raise DeviceLostError where a kernel has failed on this process's GPU: every later call fails then, whatever it
    is for."""
    if not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise DeviceLostError(f"the GPU must answer, got: {first}; run the same command again") from error


class MicroBatch:
    """How many pictures fit at once: halved for good when the GPU's memory runs out, the work is done again."""

    def __init__(self, size: int, last_resort: Callable[[], bool] = lambda: False) -> None:
        """last_resort: asked when one picture alone does not fit; True if it has saved memory some other way."""
        self.size, self._last_resort = size, last_resort

    def slices(self, total: int) -> list[slice]:
        """`total` rows in order, at most `size` at a time."""
        return [slice(first, min(first + self.size, total)) for first in range(0, total, self.size)]

    def attempts(self, work: Callable[[], None]) -> None:
        """Run `work` until it fits; it must read `slices` anew and may be run several times from its beginning."""
        while True:
            try:
                work()
                return
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.size == 1 and not self._last_resort():
                    raise TooLargeError(
                        f"one picture alone must fit into the GPU's memory, got: {error}; choose a smaller size "
                        "or backbone or fewer trained blocks"
                    ) from error
            torch.cuda.empty_cache()
            self.size = max(1, self.size // 2)
