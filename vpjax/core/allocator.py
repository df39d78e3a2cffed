"""Memory of a step on a CPU: kept from step to step, in large pages, where a user asks for it.

A step's temporary arrays are one block, a gigabyte for ViT-B/16, that XLA asks the C library for
and gives back every time. By default it then goes back to the system, which hands it out anew as
hundreds of thousands of zeroed pages: 5 to 15 % of a step's time. With VPJAX_KEEP_MEMORY=1 in the
environment the C library keeps it, so a process stays as large as its largest step. This changes
the allocator of the whole process, so it is not done unasked.
"""

import ctypes
import os
import sys

import jax

# Of <malloc.h> and <sys/mman.h> under Linux, with the C library of GNU.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MADV_HUGEPAGE = 14
PAGE = 4096  # bytes


def keep() -> bool:
    """Make this process keep freed memory for its next step, if VPJAX_KEEP_MEMORY is 1.

    Call it before anything asks for a device.

    Returns:
        Whether memory is kept: never for other devices than CPUs, nor without Linux and the C
        library of GNU.
    """
    if os.environ.get("VPJAX_KEEP_MEMORY") != "1" or sys.platform != "linux":
        return False
    # From a thread of its own XLA would not be given the memory that is kept.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() != "cpu":
        return False
    library = ctypes.CDLL(None)
    try:
        kept = library.mallopt(M_MMAP_MAX, 0) and library.mallopt(M_TRIM_THRESHOLD, -1)
    except AttributeError:  # another C library
        return False
    _large_pages(library)
    return bool(kept)


def _large_pages(library: ctypes.CDLL) -> None:
    """Ask for large pages wherever the heap will grow to; touch none of them."""
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    library.free.restype, library.free.argtypes = None, (ctypes.c_void_p,)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if block := library.malloc(size):  # addresses only; None where a limit forbids them
        begin = -(-block // PAGE) * PAGE
        library.madvise(begin, (block + size - begin) // PAGE * PAGE, MADV_HUGEPAGE)
        library.free(block)
