"""Eight simulated devices for the whole test run, set before anything imports jax; and the tiers.

--times FILE      append every test's node and seconds, for `tests.tiers`
--minutes M       start no test after M minutes: CI gives the slow tier the time that is left
"""

import datetime
import gc
import logging
import os
import random
import tempfile
import time

import pytest

from tests import tiers

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"  # a test of downloads has a hub of its own
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

BEGIN = time.monotonic()


def pytest_addoption(parser):
    parser.addoption("--times", help="append every test's node and seconds to this file")
    parser.addoption("--minutes", type=float, help="start no test after so many minutes")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    known = tiers.read()
    for item in items:
        if known.get(item.nodeid) == "slow":
            item.add_marker("slow")
    if config.getoption("--minutes"):
        # Another order every day, so that what one day has no time for comes first on another.
        files = list(dict.fromkeys(item.path for item in items))
        random.Random(datetime.date.today().toordinal()).shuffle(files)
        items.sort(key=lambda item: files.index(item.path))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    minutes = item.config.getoption("--minutes")
    if minutes and time.monotonic() - BEGIN > 60 * minutes:
        pytest.skip(f"no time left: {minutes:g} minutes are over")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    # Wall time grows where the machine is busy, CPU time where a test uses several cores.
    wall, cpu = time.perf_counter(), sum(os.times()[:4])  # with that of processes it started
    outcome = yield
    seconds = min(time.perf_counter() - wall, sum(os.times()[:4]) - cpu)
    if path := item.config.getoption("--times"):
        with open(path, "a") as file:
            file.write(f"{item.nodeid}\t{seconds:.2f}\n")
        return
    may = item.get_closest_marker("slow") or tiers.read().get(item.nodeid) == "run"
    if seconds > tiers.LIMIT and not may and outcome.excinfo is None:
        outcome.force_exception(
            AssertionError(
                f"a unit test took {seconds:.1f} s, the limit is {tiers.LIMIT:g}: make it shorter, "
                "or see tests/tiers.py"
            )
        )


@pytest.fixture(autouse=True)
def messages():
    """Leave the library's logger as it was: a test that runs the command line silences it."""
    logger = logging.getLogger("vpjax")
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
