"""Choose a device, limit and measure its memory, and send tensors to it without waiting."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdssl.errors import check_name


def pick_device(device: str) -> str:
    """``cuda`` becomes this process's own GPU, and ``auto`` the same if there is one, else cpu.

    Under torchrun that is the GPU with the number of its LOCAL_RANK. A GPU becomes the current device, and computes
    float32 in float32: cuDNN's default is TF32, which has the 10 bits of float16.

    Raises:
        ValueError: no such device, or none here.
    """
    if device != "auto":
        check_device(device)
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    own = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
    index = int(device.partition(":")[2] or own)
    torch.cuda.set_device(index)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return f"cuda:{index}"


def multiplies_bf16(device: str) -> bool:
    """Whether ``device`` does so in hardware. Elsewhere bfloat16 is several times slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def check_device(device: str) -> None:
    """Raise ``ValueError`` unless ``device`` is cpu, or cuda or cuda:N of this machine."""
    if device == "cpu":
        return
    count = torch.cuda.device_count()
    allowed = ["cuda", *(f"cuda:{index}" for index in range(count))] if count else []
    missing = "" if count else "This machine has no GPU that PyTorch can use."
    check_name("device", device, ["auto", "cpu", *allowed], missing)


def limit_memory(device: str, part: float) -> None:
    """Limit this process to a share of a GPU's memory, from 0 to 1, because Ray does not.

    A process that needs more gets an out-of-memory error, and the others on that GPU are not affected.
    """
    if device.startswith("cuda") and part < 1:
        torch.cuda.set_per_process_memory_fraction(part, device)


def reset_peak_memory(device: str) -> None:
    """Let `peak_memory` count from now on. A system other than Linux cannot reset that of a process."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """Most bytes in use since `reset_peak_memory`: on a GPU those of its tensors, else those of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = ""
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
    # A reset does not change the maximum that getrusage returns.
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def fits(size: int, device: str | torch.device) -> bool:
    """Whether ``size`` bytes leave a GPU two thirds of the memory that this process may still take there.

    On other devices they always fit.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.get_per_process_memory_fraction(device) * total - torch.cuda.memory_reserved(device)
    return 3 * size <= min(free, own)


def send(numbers: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of ``numbers`` of the host on ``device``, copied without waiting.

    From pinned memory: a copy from pageable memory waits for all earlier work of the GPU.
    """
    tensor = numbers if isinstance(numbers, torch.Tensor) else torch.from_numpy(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Fetched:
    """A tensor on its way from its device. What is asked of it waits for the work that led to it, and for no other.

    Args:
        copies: whether a tensor that is on the host already is copied, because it will change.
    """

    def __init__(self, x: torch.Tensor, *, copies: bool = False):
        self.made_at, self.numbers = time.perf_counter(), x.clone() if copies and not x.is_cuda else x
        self.copied = torch.cuda.Event(enable_timing=True) if x.is_cuda else None
        if self.copied:
            # Into pinned memory, for the same reason.
            self.numbers = torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True)
            self.copied.record()

    def arrived(self) -> torch.Tensor:
        """The tensor on the host."""
        if self.copied:
            self.copied.synchronize()
        return self.numbers

    def tolist(self) -> list[Any]:
        return self.arrived().tolist()

    def seconds_since(self, other: Fetched) -> float:
        """Between the arrivals of two tensors of one device."""
        if not (self.copied and other.copied):
            return self.made_at - other.made_at
        self.copied.synchronize()
        return other.copied.elapsed_time(self.copied) / 1000
