"""Many prompts through the text tower, with no more work than the same features need.

Equal prompts are encoded once. They are sorted by length and each batch is cut at its longest
prompt, which changes nothing (see `vpjax.models.text.tower`): names of species have 7 to 25 tokens
of 77. Lengths are rounded up to multiples of 8, so that few programs are compiled.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32, Int

from vpjax.core.errors import UserError
from vpjax.models.text.tower import TextTower

log = logging.getLogger(__name__)

STEP = 8  # tokens
EVERY = 10.0  # seconds between lines of progress


def encode_prompts(
    tower: TextTower,
    tokenize: Callable[[list[str]], np.ndarray],
    prompts: Sequence[str],
    batch_size: int = 256,
) -> Float32[np.ndarray, "N D"]:
    """Return the text features of `prompts`, float32, not normalised.

    Args:
        tower: with weights.
        tokenize: texts to ids (N T), the end token the largest of a row.
        prompts: N sentences, some of which may be equal.
        batch_size: sentences that are encoded at once.

    Raises:
        UserError: if the tokenizer gives ids or lengths that the tower does not know.
    """
    different = list(dict.fromkeys(prompts))
    if not different:
        return np.zeros((0, tower.dim), np.float32)
    ids = np.asarray(tokenize(different))
    lengths = check_ids(ids, tower)
    order = np.argsort(lengths, kind="stable")
    features = np.empty((len(different), tower.dim), np.float32)
    graph, state = nnx.split(tower)
    start = shown = time.monotonic()
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        length = min(-(-lengths[rows].max() // STEP) * STEP, tower.context, ids.shape[1])
        batch = np.zeros((_padded(len(rows), batch_size), length), np.int32)
        batch[: len(rows)] = ids[rows, :length]
        features[rows] = np.asarray(_features(graph, state, batch))[: len(rows)]
        if (now := time.monotonic()) - shown > EVERY or first + batch_size >= len(order):
            done, shown = first + len(rows), now
            rate = done / max(now - start, 1e-9)
            log.info("text      %d of %d prompts, %.0f a second", done, len(order), rate)
    row = {prompt: i for i, prompt in enumerate(different)}
    return features[[row[prompt] for prompt in prompts]]


def check_ids(ids: Int[np.ndarray, "N T"], tower: TextTower) -> Int[np.ndarray, " N"]:
    """Return the lengths of texts, end tokens included.

    Args:
        ids: of the texts.
        tower: that they are for.

    Raises:
        UserError: if the tower does not know such ids or lengths.
    """
    lengths = ids.argmax(1) + 1
    if ids.max() >= tower.vocab or lengths.max() > tower.context:
        raise UserError(
            f"the tokenizer gives ids up to {ids.max()} and {lengths.max()} tokens a text; this "
            f"text tower knows ids below {tower.vocab} and {tower.context} tokens. Tokenizer and "
            "weights belong to different models."
        )
    return lengths


def _padded(count: int, batch_size: int) -> int:
    """Return how many rows are computed for `count`: a power of two, or a whole batch."""
    return min(batch_size, 1 << (count - 1).bit_length())


@functools.partial(jax.jit, static_argnums=0)
def _features(graph: nnx.GraphDef, state: nnx.State, ids: jax.Array) -> jax.Array:
    # Highest: by default some accelerators multiply float32 in a shorter format.
    with jax.default_matmul_precision("highest"):
        return nnx.merge(graph, state)(ids).astype(jnp.float32)
