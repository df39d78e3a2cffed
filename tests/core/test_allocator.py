"""Memory that a step on a CPU needs is kept where a user asks for it, and only there."""

import os
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import jax, jax.numpy as jnp
from vpjax.core import allocator
kept = allocator.keep()
# 100 MB in between that no fusion can do without.
step = jax.jit(lambda x: jnp.sin(x @ x.T).sum())
x = jnp.ones((5000, 8)); step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): step(x).block_until_ready()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[int, int]:
    """Returns whether memory is kept, and how many pages three steps were handed anew."""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    env.pop("VPJAX_KEEP_MEMORY", None)
    env |= environment
    out = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, env=env
    )
    kept, pages = out.stdout.split()
    return int(kept), int(pages)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of GNU is Linux's")
def test_a_step_gets_no_page_anew():
    kept, pages = faults(VPJAX_KEEP_MEMORY="1")
    unasked, fresh = faults()
    assert (kept, unasked) == (1, 0)
    assert faults(VPJAX_KEEP_MEMORY="0")[0] == 0
    assert pages < 1000 < 10_000 < fresh
