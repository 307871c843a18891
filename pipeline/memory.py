"""Memory that a process has freed and will want again."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed(most: int) -> None:
    """Let glibc keep `most` freed bytes (below 2**31), where it would give large blocks back to the system at once.

    Arrays come and go by the megabyte: to have each one's pages mapped and zeroed again takes as long as working on it.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_TRIM_THRESHOLD, most)
            libc.mallopt(M_MMAP_THRESHOLD, most)
