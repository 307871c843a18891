"""Memory: how much there is, limits for a process, and what glibc keeps after it was freed."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path

MOST_MEMORY = 4 * 1024**3  # address space of a worker in bytes
MOST_PIXELS = 178_956_970  # of an image that is decoded, where nothing else is said: half a GB as RGB, Pillow's limit

# Files of a control group with its limit and use, and the key of memory.stat for cached files, which are given up first
CGROUP = ("memory.max", "memory.current", "inactive_file")
CGROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed(most: int) -> None:
    """Let glibc keep up to `most` freed bytes (below 2**31) for new arrays, instead of returning them to the system.

    The system zeroes every page that it gives out again. With that, training cats-dogs-cnn takes 1.8 times the CPU
    time; for small images there is no difference (AMD EPYC). Does nothing without Linux and glibc.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_TRIM_THRESHOLD, most)
            libc.mallopt(M_MMAP_THRESHOLD, most)


def limit(most: int) -> None:
    """Limit the address space of this process to `most` bytes. Beyond, Python raises MemoryError. Only on Linux."""
    if sys.platform == "linux" and most < address_space():
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def would_give(size: int = MOST_MEMORY) -> bool:
    """Whether the system would give this process `size` more bytes, without the limit MOST_MEMORY.

    If not, a MemoryError is due to the machine, not to the image that was being decoded.
    """
    import resource

    ours = resource.getrlimit(resource.RLIMIT_AS)
    if ours[0] == MOST_MEMORY:
        resource.setrlimit(resource.RLIMIT_AS, (ours[1], ours[1]))
    try:
        mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()  # reserves them without using any
        return True
    except OSError:
        return False
    finally:
        resource.setrlimit(resource.RLIMIT_AS, ours)


def address_space() -> float:
    """The limit of this process's address space in bytes (`ulimit -v`), or infinity."""
    import resource

    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def go_first() -> None:
    """Let the kernel kill this worker first when memory is short. Its stage survives, and tries the images again."""
    with suppress(OSError):  # no /proc on this system
        Path("/proc/self/oom_score_adj").write_text("1000")


def in_words() -> str:
    """The available memory in words, for an error message."""
    limited = address_space()
    if limited < available():
        return f"an address space of {limited / 1024**2:.0f} MB (ulimit -v)"
    return f"{available() / 1024**2:.0f} MB"


def available() -> int:
    """Bytes that this process may still take: the least of what the machine, its container and its job have left."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        return min([free, *left_to_groups(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup"))])
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def left_to_groups(listed: str, root: Path) -> list[int]:
    """Bytes left to each control group with a limit that a process is in; `listed` is its /proc/self/cgroup.

    Reads both versions of the kernel's files below `root`: docs.kernel.org/admin-guide/cgroup-v2.html.
    """
    left = []
    for line in listed.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, (limit, use, given_back) = (root / "memory", CGROUP_1) if controllers else (root, CGROUP)
        folder = top / path.strip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(top):
                with suppress(OSError, ValueError):  # the group has no limit, or a container hides its files
                    pages = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
                    used = int((group / use).read_text()) - int(pages[given_back])
                    left.append(max(0, int((group / limit).read_text()) - used))
    return left
