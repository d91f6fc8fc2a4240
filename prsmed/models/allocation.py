"""How the C library hands out memory for maps: what is freed is kept for the next map, or returned."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
LARGEST_BYTES = 256 * 2**20
KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Let this process keep up to a gigabyte of freed memory, in place of returning each large map at once.

    glibc fetches everything above 32 MB from the system and returns it when it is freed. A frozen encoder's first maps
    are 64 MB each, so the system clears a gigabyte of pages for every picture, which takes as long as the arithmetic
    (docs/decisions/kept_memory.md). Arrays above `LARGEST_BYTES` are returned as before. Where the C library is another
    one, or an old glibc that refuses these sizes, nothing happens.

    Returns:
        Whether it was done.
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return False
    done = library.mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES) and library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    return bool(done)


def return_freed_memory() -> None:
    """Give back to the system all that was freed, also between what is in use; nothing happens without glibc."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
