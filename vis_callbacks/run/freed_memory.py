"""Memory that was freed, and that the C library keeps."""

import ctypes
import sys


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it.

    glibc keeps what lies between blocks in use, and the peak of the first training step would come on top of that.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
