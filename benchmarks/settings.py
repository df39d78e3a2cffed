"""What both sides of a race run with; imported before JAX and PyTorch, which read it when they are.

`our_settings` is the one place for what the command line sets by default on our side: what holds
for users must hold in a benchmark, and nothing else may. With VPJAX_KEEP_MEMORY=1
`benchmarks.peer_torch` keeps memory (`vpjax.core.allocator`) for both sides.
"""

import os
from typing import Any, NamedTuple


class Settings(NamedTuple):
    """Ours."""

    environment: dict[str, str]  # for variables nobody has set
    step: dict[str, Any]  # keyword arguments of `vpjax.train.step.make_train_step`


def our_settings() -> Settings:
    """Return what a run from the command line has by default."""
    return Settings(environment={}, step={})


def environment() -> dict[str, str]:
    """Return the variables to set: those that nobody has set."""
    wanted = {
        # Both frameworks share one GPU.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # Waiting threads of PyTorch must not hold up JAX, nor wait awake for a core that is in use.
        "OMP_WAIT_POLICY": "passive",
    }
    wanted |= our_settings().environment
    return {name: value for name, value in wanted.items() if name not in os.environ}
