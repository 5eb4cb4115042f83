"""How much memory a volume needs, whether the machine has it, and what becomes of it between two blocks."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from ..errors import UnusableInput

BYTES_A_VOXEL = 12  # labels, their copy in axial order, the outline, and the CT twice
BYTES_FOR_A_BLOCK = 2_500_000_000  # Python, PyTorch, the weights and one block's activations
TYPICAL_SPEED = 1.5e6  # voxels a second, of two CPU cores
SECONDS_TO_START = 6.0  # of the worker process with PyTorch


def estimated_bytes(voxels: int) -> int:
    """Peak memory of generating a volume of ``voxels``."""
    return voxels * BYTES_A_VOXEL + BYTES_FOR_A_BLOCK


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def estimated_seconds(voxels: int, voxels_a_second: float | None = None) -> float:
    """How long generating a volume of ``voxels`` takes, at the speed of an earlier run or, without one, of a CPU with few cores."""
    return SECONDS_TO_START * (voxels_a_second is None) + voxels / (voxels_a_second or TYPICAL_SPEED)


def check_memory(voxels: int) -> None:
    """Refuse a volume that would not fit.

    Raises
    ------
    UnusableInput
        With the estimate and what to do.
    """
    available = available_bytes()
    if available is not None and estimated_bytes(voxels) > available:
        raise UnusableInput(
            f"A volume of {voxels / 1e6:.0f} million voxels needs about {estimated_bytes(voxels) / 1e9:.1f} GB of memory and "
            f"{available / 1e9:.1f} GB are free; use a coarser spacing or crop the segmentation."
        )


def prepare_process() -> None:
    """What a process that computes does before PyTorch is loaded: keep freed memory, and wait without spinning.

    OpenMP's threads spin while they wait for each other. Beside one other busy process (3D Slicer always draws) each then holds the
    processor that the other needs, and a run on two threads takes several times as long; asleep they cost next to nothing.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when PyTorch is loaded
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Have the allocator keep what this process frees for what it needs next, until :func:`give_memory_back`.

    The activations of a block are hundreds of megabytes. By default glibc returns each to the system and gets the next one from there, page
    by page, which took 40 % of a run's processor time. With other allocators (macOS, Windows) nothing is changed.
    """
    if mallopt := _glibc("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never by itself


def give_memory_back() -> None:
    """Return to the system what this process has freed."""
    if trim := _glibc("malloc_trim"):
        trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def _glibc(function: str):
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
