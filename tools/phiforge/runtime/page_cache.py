"""Dropping files from the system's page cache, so that the next load reads them from the disk."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Above this share of the pages still in memory a load is not called cold.
_LEFT_FRACTION_MAX = 0.01
_NOT_NEEDED = 4  # POSIX_FADV_DONTNEED
_READ, _SHARED, _FAILED = 1, 1, ctypes.c_void_p(-1).value


def drop_cached(folder: Path) -> bool:
    """Drop the files of a folder from the page cache; return whether they really left it.

    Linux only: `posix_fadvise` with POSIX_FADV_DONTNEED needs no privilege, and `mincore` tells what it did. It leaves
    pages that another process has mapped, and those of a file system that keeps its files in memory.
    """
    advise = getattr(os, "posix_fadvise", None) if sys.platform == "linux" else None
    if advise is None:
        return False
    left = pages = 0
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not written yet stay
            advise(descriptor, 0, 0, _NOT_NEEDED)
            resident = _resident_pages(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
        if resident is None:
            return False
        left, pages = left + resident[0], pages + resident[1]
    return pages > 0 and left <= pages * _LEFT_FRACTION_MAX


def _resident_pages(descriptor: int, size: int) -> tuple[int, int] | None:
    """Return the pages of a file that are in memory, and all its pages; None where the system does not tell.

    Source: mincore(2); for a file that the process could not write, Linux calls every page resident.
    """
    if size == 0:
        return 0, 0
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = library.mmap(None, size, _READ, _SHARED, descriptor, 0)
    if address == _FAILED:
        return None
    pages = -(-size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    told = library.mincore(address, size, found)
    library.munmap(address, size)
    return (sum(page & 1 for page in bytes(found)), pages) if told == 0 else None
