"""Several processes that work on one run: which of them this is, and how they agree.

    join(...)                    before anything else asks for a device
    broadcast_from_zero(call)    process 0 calls, all get the result or the error
    all_max(number)              the largest of the processes' numbers
    with single_process():
        ...                      runs in here use this process's devices and no others

All processes run the same program; only process 0 prints and writes (see `vpjax.runs.workdir`).
`broadcast_from_zero` and `all_max` must be called by all processes at the same point.
"""

import contextlib
import io
import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from vpjax.core.errors import UserError

# Seconds that a process waits at its end for the others to end too. All end together, unless only
# one has an error; then this is how long the others go on without noticing.
PATIENCE = 60

_SINGLE = [False]  # whether `single_process` is in effect


def join(
    distributed: bool,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Join this process to the others, if it was started to be one of several.

    Args:
        distributed: join the processes that SLURM, Open MPI or a cloud has started; where they
            are is known from there.
        coordinator: to join by hand instead, HOST:PORT of process 0.
        num_processes: by hand, how many there are.
        process_id: by hand, which this is, from 0 on.

    Raises:
        UserError: if the others cannot be found, or only some of what joins by hand is given.
    """
    given = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if absent := [f"--{name}" for name, value in given.items() if value is None]:
        if len(absent) < len(given):
            raise UserError(
                "processes that join by hand need --coordinator, --num_processes and --process_id; "
                f"{' and '.join(absent)} not given"
            )
        if not distributed:
            return
    elif not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id is {process_id}; those of --num_processes={num_processes} are 0 to "
            f"{num_processes - 1}"
        )
    elif not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator is {coordinator!r}; expected HOST:PORT, as node1:7733")
    # vpjax.train.signals handles signals, by saving and ending; JAX would only record them.
    jax.config.update("jax_enable_preemption_service", False)
    # SLURM and others also assign devices to processes; by hand, each has all that it sees.
    ask = "deactivate" if coordinator else None
    more = {"cluster_detection_method": ask, "shutdown_timeout_seconds": PATIENCE}
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, **more)
    except (ValueError, RuntimeError) as e:
        reason = (str(e).splitlines() or [""])[0]
        raise UserError(
            f"the processes could not join: {reason} Start them with srun or mpirun, or give each "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I."
        ) from e
    for screen in logging.getLogger("vpjax").handlers:
        screen.addFilter(lambda message: not index() or message.levelno >= logging.ERROR)


@contextlib.contextmanager
def single_process() -> Iterator[None]:
    """Make this process work on its own devices only, as if there were no others."""
    before, _SINGLE[0] = _SINGLE[0], True
    try:
        yield
    finally:
        _SINGLE[0] = before


def index() -> int:
    """Return which process this is, from 0 on."""
    return 0 if _SINGLE[0] or not jax.distributed.is_initialized() else jax.process_index()


def count() -> int:
    """Return how many processes work on a run.

    Initialises no device where no processes were joined.
    """
    return 1 if _SINGLE[0] or not jax.distributed.is_initialized() else jax.process_count()


def is_single() -> bool:
    """Return whether there are other processes, and this one works separately from them."""
    return _SINGLE[0] and jax.distributed.is_initialized() and jax.process_count() > 1


def devices() -> list[Any]:
    """Return the devices of a run: all, or those of this process inside `single_process`."""
    return jax.local_devices() if _SINGLE[0] else jax.devices()


def screen() -> TextIO:
    """Return the stream for progress: standard error in process 0, nowhere in others."""
    return io.StringIO() if index() else sys.stderr


def prefix() -> str:
    """Return how messages of this process begin: "process 3: ", "" if there is only one."""
    return f"process {index()}: " if jax.distributed.is_initialized() else ""


def broadcast_from_zero(call: Callable[[], Any]) -> Any:
    """Call `call` in process 0 only, and return its result in all processes.

    Raises:
        UserError: in all processes, if `call` raises it.
    """
    if count() == 1:
        return call()
    outcome = b""
    if not index():
        try:
            outcome = pickle.dumps((call(), None))
        except UserError as e:
            outcome = pickle.dumps((None, e))
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(outcome))))
    sent = np.frombuffer(outcome.ljust(size, b"\0"), np.uint8)
    value, error = pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(sent)).tobytes())
    if error is not None:
        raise error
    return value


def all_max(number: int, meet: bool = True) -> int:
    """Return the largest of the numbers that the processes pass.

    Args:
        number: of this process.
        meet: whether to ask the other processes, which waits for them; the same in all. False: 0
            where there are several processes.
    """
    if count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max()) if meet else 0
