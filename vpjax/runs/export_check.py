"""The check of every export: what was written must compute what the run computes."""

import numpy as np

from vpjax.core.errors import UserError
from vpjax.runs.run import Run

IMAGES = 4  # a check computes
# Largest allowed difference of a logit, relative to the largest logit.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}


def sample(size: tuple[int, int], channels: int) -> np.ndarray:
    """Return random images to compare outputs on, uint8 B H W C: blocks, and noise on them."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (IMAGES, 4, 4, channels))
    rows, columns = (np.arange(edge) * 4 // edge for edge in size)
    blocks = coarse[:, rows][:, :, columns]
    noise = random.integers(-40, 41, blocks.shape)
    return np.clip(blocks + noise, 0, 255).astype(np.uint8)


def compare(run: Run, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference of logits, relative to the largest of the run's.

    Args:
        run: the run.
        ours: its logits, B C.
        theirs: those of what was written.

    Raises:
        UserError: if the difference is above `TOLERANCE`, or a number is not finite.
    """
    if ours.shape != theirs.shape:
        raise UserError(
            f"what was exported gives logits {theirs.shape}, the run {ours.shape}: nothing was "
            "written"
        )
    differ, allowed = differing(ours, theirs, run.config.dtype)
    if not differ <= allowed:
        raise UserError(
            "what was exported computes something else than the run: outputs differ by "
            f"{differ:.2g} of the largest, and {allowed:g} is allowed. Nothing was written."
        )
    return differ


def differing(ours: np.ndarray, theirs: np.ndarray, dtype: str) -> tuple[float, float]:
    """Return the largest difference, relative to the largest of ours, and what is allowed.

    Of other shapes it is infinite.

    Args:
        ours: outputs, of any shape.
        theirs: the same of what should be equal.
        dtype: that they were computed in.
    """
    if ours.shape != theirs.shape:
        return float("inf"), TOLERANCE[dtype]
    largest = max(float(np.abs(ours).max()), 1e-6)
    return float(np.abs(ours - theirs).max()) / largest, TOLERANCE[dtype]
