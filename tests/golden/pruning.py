"""Which prompts and pieces of E2VPT are pruned."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.golden.comparison import Comparison
from tests.golden.record import Record
from vpjax.studies import prune


def compare(meta: Record, arrays: Record, folder: Path) -> Iterator[Comparison]:
    """Yield importance, steps and masks of tokens and of pieces."""
    meta.ignore("case", "kind")
    meta.expect("method", "e2vpt")
    options = meta["options"]
    sizes = {"token": options["num_tokens"], "piece": options["pieces"]}
    for what, size in sizes.items():
        score = prune.importance(arrays[f"in/{what}_mask_gradients"])
        recorded = arrays[f"out/{what}_importance"]
        yield Comparison(f"{what} importance", score, recorded, meta["tolerance"])
        pruned = prune.counts(size, options[f"min_{what}s"], options["percents"])
        steps = np.diff(pruned, prepend=0)
        yield Comparison(f"{what} steps", steps, arrays[f"out/{what}_steps"], 0.0)
        found = prune.masks(score, pruned)
        yield Comparison(f"{what} masks", found, arrays[f"out/{what}_masks"], 0.0)
