"""Check vpjax against results recorded from the published implementations.

    python -m tests.golden DIR [DIR ...] [--only PATTERN]

Every npz file with an entry `meta` in a folder is a case, and `meta` says how to run it. A line a
case has its worst error as a share of what is allowed; then follows "N passed, M failed". The exit
status is 1 if any failed. A case with a key that is not known fails: "not understood". The rules
are in tests/golden/runner.py, those of tolerances in tests/golden/comparison.py.
"""

import argparse
import sys
from pathlib import Path

from tests.golden.runner import cases, check


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="such as 'vit_deep*'")
    options = parser.parse_args()
    failed = passed = 0
    for folder in options.folders:
        if not folder.is_dir():
            parser.error(f"{folder} is no folder")
        for path in cases(folder, options.only):
            good, text = check(path)
            passed, failed = passed + good, failed + (not good)
            print(f"{'ok  ' if good else 'FAIL'} {path.stem:32s} {text}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
