"""What the C library's allocator is told, in a process that shall stay small."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
"""glibc's malloc.h."""


def one_arena() -> None:
    """Threads share one heap, where the C library is glibc.

    It would give each thread that allocates a heap of its own, up to eight for each core, and
    keep them.  gRPC's threads come and go with each renewal, so that they would grow
    for nothing: hardly ever do two of them allocate at once.  Before any thread starts.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
