"""Prints the table of faults; exit code 1 if a trial did not survive."""

import argparse
import os
import sys
import tempfile
import time

# Before anything imports jax: as tests do, several devices, and programs that compile quickly.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
FAST = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST}"
os.environ["HF_HUB_OFFLINE"] = "1"
# A cache of its own: a large one is read at every start of a run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="vpjax-xla-"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from tests.faults import table  # noqa: E402
from tests.faults.kinds import load  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=200, help="damages of each file")
    parser.add_argument("--only", nargs="*", default=[], help="kinds whose name holds one of these")
    arguments = parser.parse_args()
    load()
    rows = []
    for name in table.KINDS:
        if not arguments.only or any(part in name for part in arguments.only):
            begin = time.monotonic()
            row = table.run(name, arguments.trials)
            rows.append(row)
            said = f"{name}: {dict(row.ends)}, {time.monotonic() - begin:.0f} s {row.lost or ''}"
            print(said, file=sys.stderr, flush=True)
    print(table.as_table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
