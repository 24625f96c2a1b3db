"""glibc's allocator, told to keep what a training frees and asks for again."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


GLIBC_MAPS_FROM = 32 << 20  # bytes, where a process has freed such tensors before


def retain_freed_memory(device: str, keep: bool = True) -> None:
    """Have glibc, which gives large tensors back to the system and asks for them again at every step, keep them.

    Each time the system would fill them with zeros anew: a fifth of a small model's time. What is kept is in pieces,
    though, which makes the peak higher. Does nothing elsewhere.
    """
    if device == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        if not (keep and libc.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)):
            libc.mallopt(M_MMAP_THRESHOLD, GLIBC_MAPS_FROM)  # the most that older ones take
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 2 * GLIBC_MAPS_FROM)
