"""What a command does to its process before it computes."""

import argparse
import logging
import os
import sys
import warnings
from types import TracebackType
from typing import Any

import jax

from vpjax.core import allocator, distributed, leftovers, programs
from vpjax.core.errors import UserError
from vpjax.core.files import cache_folder
from vpjax.core.troubles import explain, no_accelerator

# What threads of the storage library say to a loop that has ended, after a save that failed.
LATE = "Event loop is closed"


def start(arguments: argparse.Namespace | None = None) -> None:
    """Make this process ready to compute: one of several if asked to, and with kept programs.

    Args:
        arguments: values of the flags of `flags.add_joining`; None: a command without them.

    Raises:
        UserError: if the other processes, or the devices, cannot be found.
    """
    hide_notices()
    if arguments is not None:
        a = arguments
        distributed.join(a.distributed, a.coordinator, a.num_processes, a.process_id)
    cache_compilations()
    clean_cache()
    allocator.keep()
    check_devices()


def cache_compilations() -> None:
    """Keep compiled programs on disk, so that the same run starts faster the next time.

    JAX_COMPILATION_CACHE_DIR names another folder; JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    if jax.config.jax_compilation_cache_dir is None:
        folder = cache_folder() / "xla"
        programs.check(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Small ones too: a run begins with dozens, which together take a second.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def check_devices() -> None:
    """Ask for the devices, as JAX may fail in odd ways where those it is told to use are missing.

    Raises:
        UserError: if there are none.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as e:
        asked = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"
        raise UserError(explain(e) or no_accelerator(asked)) from e


def clean_cache() -> None:
    """Delete what killed processes have left half-written in the cache folder."""
    folder = cache_folder()
    leftovers.clean([folder, *(p for p in folder.glob("*/") if p.name != "xla")])


def hide_notices() -> None:
    """Hide other libraries' notices that a user cannot act on."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax's errors are raised too
    sys.excepthook = _hook
    if sys.unraisablehook is sys.__unraisablehook__:  # else somebody collects them
        sys.unraisablehook = _unraisable
    warnings.filterwarnings("ignore", module=r"(orbax|tensorflow_datasets|google)\b.*")


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error that nobody has caught, but not what a failed save leaves behind."""
    if str(error) != LATE:
        sys.__excepthook__(kind, error, trace)


def _unraisable(found: Any) -> None:
    """Show an error that nobody could catch, but not what a failed save leaves behind."""
    if str(found.exc_value) != LATE:
        sys.__unraisablehook__(found)
