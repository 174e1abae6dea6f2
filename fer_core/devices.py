"""The one module that knows devices: which there are, their precision and threads, determinism, memory faults.

Importing it does not import torch, so that a plan can be made, and keys compared, within a blink.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_core.schema import FerError, Params

if TYPE_CHECKING:
    import torch

# cuBLAS sums in a fixed order only with workspaces of its own; it reads this when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@cache
def _cuda_devices() -> int:
    """How many CUDA devices the driver offers, asked of the driver itself."""
    import ctypes

    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@cache
def device_type(requested: str = "auto") -> str:
    """cpu, cuda or mps.

    Raises
    ------
    FerError: the device asked for is not there.
    """
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    there = {"cuda": _cuda_devices() > 0, "mps": apple, "cpu": True}
    if requested == "auto":
        return next(name for name, found in there.items() if found)
    if not there[requested]:
        raise FerError(f"DEVICE is {requested}, but this machine has none: use DEVICE=auto or DEVICE=cpu.")
    return requested


@cache
def _bfloat16_in_hardware() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16"))


def cpu_count() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve(params: Params, requested: str = "auto") -> tuple[Params, str]:
    """`precision` and `threads` without `auto`, and the device's type.

    FER_THREADS, which make sets to 1, says what `threads: auto` means; else it is all cores. Where a GPU computes,
    CPU threads do not bear on the result and count as 1.
    """
    device = device_type(requested)
    precision, threads = params.precision, params.threads
    if precision == "auto":
        precision = "bfloat16" if device == "cuda" or (device == "cpu" and _bfloat16_in_hardware()) else "float32"
    if device != "cpu":
        threads = 1
    elif threads == "auto":
        threads = int(os.environ.get("FER_THREADS") or cpu_count())
    return dataclasses.replace(params, precision=precision, threads=threads), device


@contextmanager
def ready(device: str, threads: int) -> Iterator[None]:
    """Deterministic algorithms and so many threads, and the caller's settings again afterwards."""
    import torch

    _keep_freed_memory()
    # Deterministic mode would fill every new tensor with NaN, to show reads of what was never written: 6 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.backends.cudnn.benchmark = before[2]


def _keep_freed_memory() -> None:
    """Ask glibc not to give large blocks back to the system: a step's tensors then cost no page faults (13 to 19 %)."""
    import ctypes

    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((-4, 0), (-1, -1)):  # M_MMAP_MAX: no mappings of their own; M_TRIM_THRESHOLD: never
            libc.mallopt(option, value)


def autocast(device: str, precision: str) -> torch.autocast:
    """Convolutions and products in bfloat16 where that is the precision."""
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")


def out_of_memory(fault: BaseException) -> bool:
    """Whether this is the allocator's refusal, on a GPU or a CPU."""
    import torch

    refused = isinstance(fault, torch.OutOfMemoryError | MemoryError)
    return refused or (isinstance(fault, RuntimeError) and "can't allocate memory" in str(fault))


def describe(device: str) -> dict[str, Any]:
    """The machine for a page's provenance: processor, cores, GPU, libraries."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "host_system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{package: installed(package) for package in ("torchvision", "numpy", "papermill", "nbconvert", "wandb")},
        },
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
