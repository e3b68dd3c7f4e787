"""Batch arrays whose memory is used again once nobody refers to it.

A fresh array of a few megabytes comes from the operating system page by page, and the page faults cost more than
copying a batch into it. So the memory of a batch that is no longer referred to serves for a later batch.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np

__all__ = ["BufferPool"]

_SMALLEST = 1 << 16


def _references_when_unused() -> int:
    """What ``sys.getrefcount`` says of an array that only a list and a loop over it refer to."""
    for buffer in [np.empty(1)]:
        return sys.getrefcount(buffer)
    raise AssertionError


_UNUSED = _references_when_unused()


class BufferPool:
    """Hands out uninitialised arrays.

    An array is an ordinary one: it may be kept, viewed and wrapped into a tensor for as long as one likes. Its memory
    is only handed out again when the pool holds the last reference to it.

    Args:
        n_kept: buffers that are remembered; more can be in use at a time.
    """

    def __init__(self, n_kept: int = 4) -> None:
        self.n_kept = n_kept
        self._lock = threading.Lock()
        self._buffers: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A C-contiguous array with arbitrary content."""
        kind = np.dtype(dtype)
        n_bytes = math.prod(shape) * kind.itemsize
        if n_bytes < _SMALLEST:
            return np.empty(shape, kind)
        with self._lock:
            for buffer in self._buffers:
                # Unused: referred to by the list, this loop and the call. Views and tensors add to that.
                if buffer.nbytes == n_bytes and sys.getrefcount(buffer) == _UNUSED:
                    return buffer.view(kind).reshape(shape)
            buffer = np.empty(n_bytes, np.uint8)
            # In front, so that the sizes asked for last stay.
            self._buffers.insert(0, buffer)
            del self._buffers[self.n_kept :]
            return buffer.view(kind).reshape(shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"n_kept": self.n_kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["n_kept"])  # type: ignore[misc]
