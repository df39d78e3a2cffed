"""Which of the processes that `jax.distributed` joined this is, and how they agree.

    join(...)                    before anything else asks for a device
    broadcast_from_zero(call)    process 0 calls, all get the result or the error
    all_max(number)              the largest of the processes' numbers
    with single_process():
        ...                      runs in here use this process's devices and no others

All processes run the same program; only process 0 prints, and writes (see `vpjax.runs.workdir`).
`broadcast_from_zero` and `all_max` must be called by all processes, at the same place of it.
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

# Seconds that a process which ends waits for the others to end too. All end together, unless an
# error is one process's own; then this is how long the others go without knowing.
PATIENCE = 60

_ALONE = [False]


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
    # Signals are for vpjax.train.signals, which saves and leaves; jax would only take note of them.
    jax.config.update("jax_enable_preemption_service", False)
    # What started them would also say which devices are whose; by hand, each has all that it sees.
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
    """Make this process work by itself."""
    before, _ALONE[0] = _ALONE[0], True
    try:
        yield
    finally:
        _ALONE[0] = before


def index() -> int:
    """Return the number of this process."""
    return 0 if _ALONE[0] or not jax.distributed.is_initialized() else jax.process_index()


def count() -> int:
    """Return how many processes work on a run. Asks for no device where none were joined."""
    return 1 if _ALONE[0] or not jax.distributed.is_initialized() else jax.process_count()


def is_single() -> bool:
    """Whether there are other processes, and this one works by itself."""
    return _ALONE[0] and jax.distributed.is_initialized() and jax.process_count() > 1


def devices() -> list[Any]:
    """Return the devices of a run."""
    return jax.local_devices() if _ALONE[0] else jax.devices()


def screen() -> TextIO:
    """Return where progress is shown: standard error, in process 0."""
    return io.StringIO() if index() else sys.stderr


def prefix() -> str:
    """Return what a message of this process begins with: "process 3: " where there are several."""
    return f"process {index()}: " if jax.distributed.is_initialized() else ""


def broadcast_from_zero(call: Callable[[], Any]) -> Any:
    """Return what `call` returns in process 0, where alone it is called.

    Raises: UserError, in all processes, if it does there.
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
    """Return the largest of the processes' numbers; 0 where there are several and none `meet`."""
    if count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max()) if meet else 0
