"""Eight simulated devices for the whole test run; set before anything imports jax."""

import gc
import logging
import os
import tempfile

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Programs here run once or twice: less optimising halves the time of the whole run.
    + " --xla_backend_optimization_level=0"
)
# Programs compiled once serve every test, and the processes tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="vpjax-xla-"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# A collection walks every traced program of the process; they stay, so it seldom finds anything.
gc.set_threshold(50_000, 50, 100)


@pytest.fixture(autouse=True)
def messages():
    """Leaves the library's logger as it was: a test that runs the command line silences it."""
    logger = logging.getLogger("vpjax")
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
