"""Troubles of the machine, which no traceback explains: what ran out, and what to do.

with explained():
    train()           # out of memory, a full disk ...: a UserError with advice
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from vpjax.core.errors import UserError

MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|failed to allocate", re.IGNORECASE)
FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")
THREADS = re.compile(
    r"can't start new thread|pthread_create|Resource temporarily unavailable|thread constructor"
)
DEVICE = re.compile(
    r"Unable to initialize backend|Backend '\w+' (failed|is not)|Unknown backend|"
    r"not in the list of known backends|no supported devices found|CUDA_ERROR_NO_DEVICE",
    re.IGNORECASE,
)
NUMBERS = {  # of OSErrors that a disk or the system causes
    errno.EMFILE: "too many files are open. Raise the limit, as with: ulimit -n 65536",
    errno.ENFILE: "too many files are open on this machine. Close other programs",
    errno.EIO: "the disk reports an error. Look at the system's log; copy what is there elsewhere",
    errno.ESTALE: "the network folder was mounted anew. Run again",
    errno.EROFS: "the disk cannot be written to. Give another folder",
    errno.EACCES: "this user may not do that there. Change its permissions, or give another folder",
    errno.EPERM: "this user may not do that there. Change its permissions, or give another folder",
}
LOWER_MEMORY = (
    "Lower config.train.batch_size (or split it with config.train.accumulate) and "
    "config.data.eval_batch_size; recompute more with config.remat=full; compute with "
    "config.dtype=bfloat16; or take fewer prompts or a smaller backbone."
)


def explain(error: BaseException) -> str | None:
    """Return what an error means and what to do, if the machine is its cause; else None."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen and not isinstance(cause, UserError):
        if text := _of_one(cause):
            return text
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return None


def _of_one(error: BaseException) -> str | None:
    text = (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or FULL.search(str(error)):
        reason = os.strerror(number) if number else FULL.search(str(error))[0]
        return (
            f"the disk is full: {reason}{where}. Free some space and run again: what was saved "
            "before is as it was."
        )
    if isinstance(error, MemoryError) or number == errno.ENOMEM or MEMORY.search(str(error)):
        return f"out of memory{f': {text}' if text else ''}. {LOWER_MEMORY}"
    if THREADS.search(str(error)) or number == errno.EAGAIN:
        return (
            f"the system starts no more threads or processes: {text}. Raise the limit, as with: "
            "ulimit -u 65536; or close other programs."
        )
    if DEVICE.search(str(error)):
        return no_accelerator(text)
    if number in NUMBERS:
        return f"{os.strerror(number)}{where}: {NUMBERS[number]}."
    if type(error) is TimeoutError:
        return f"a disk or the network does not answer: {text}. Run again when it does."
    return None


def no_accelerator(reason: str) -> str:
    """Return the message for devices that are not there.

    Args:
        reason: in JAX's words.
    """
    return (
        f"the accelerator that JAX is to use is not there, or cannot be used: {reason}. Install "
        'JAX for it, as with: pip install "jax[cuda12]"; or compute on the CPU: JAX_PLATFORMS=cpu.'
    )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise a UserError with advice in the place of an error that the machine causes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (text := explain(error)) is None:
            raise
        raise UserError(text) from error
