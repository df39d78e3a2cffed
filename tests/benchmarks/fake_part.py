"""Stands for a benchmark that `benchmarks.all` runs: fails, hangs, or writes a record."""

import json
import sys
import time
from pathlib import Path

if "--fail" in sys.argv:
    sys.exit("error: this part cannot be measured")
if "--hang" in sys.argv:
    time.sleep(60)
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.write_text(json.dumps({"rows": [{"value": 1}]}))
out.with_suffix(".md").write_text("# Fake\n\nmeasured\n")
print("measuring")
