"""How fast a recipe's own training and evaluation steps are, and what they need.

    python -m benchmarks.step --config configs/vpt_cifar.py
    python -m benchmarks.step --config configs/vpt_cifar.py --config.method.num_tokens=50 --batch 8,32

The steps are those that `main.py` compiles, on random weights and random images, so neither need to
be on disk. `--nosynthetic` takes the recipe's images and times its loader too. Work is counted by
XLA in the program as it is before the device's own rewriting, with attention written out; so the
count is the same for every device and every attention implementation.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from benchmarks import measure
from vpjax import build, cli
from vpjax.data import Loader, open_source, preset
from vpjax.errors import UserError
from vpjax.model import Parts
from vpjax.train import experiment, optim, sharding, step
from vpjax.train.evaluate import make_eval_step
from vpjax.train.log import table

WARMUP = 3  # steps before the clock starts
PACKAGES = ("jax", "jaxlib", "flax", "optax")
HEADER = ("step", "batch", "images/s", "ms/step [min .. max]", "GFLOP/image", "of peak")
HEADER += ("temporary MB", "arguments MB", "device MB", "trace s", "compile s")


def main(argv: list[str]) -> None:
    """Parses the command line, measures, prints, and writes the files of --out."""
    given = parse(argv)
    config = cli.settle(
        given.config, set(config_flags.get_override_values(given.find_module_defining_flag and given["config"]))
    )
    record, text = benchmark(
        config, [int(b) for b in given.batch], given.classes, given.steps, given.synthetic
    )
    print(text, flush=True)
    if given.out:
        measure.save(Path(given.out), record, text)
