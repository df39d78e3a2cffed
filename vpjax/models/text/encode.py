"""Many prompts through the text tower, with as little work as gives the same features.

Equal prompts are encoded once. They are sorted by length and cut where their batch's longest ends,
which changes nothing (`vpjax.models.text.tower`): names of species have 7 to 25 tokens of 77. Lengths are
rounded up to multiples of 8, so that few programs are compiled.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32

from vpjax.core.errors import UserError
from vpjax.models.text.tower import TextTower

log = logging.getLogger(__name__)

STEP = 8  # tokens
EVERY = 10.0  # seconds between lines of progress


def encode_prompts(
    tower: TextTower,
    ids_of: Callable[[list[str]], np.ndarray],
    prompts: Sequence[str],
    batch_size: int = 256,
) -> Float32[np.ndarray, "N D"]:
    """Returns the text features of `prompts`, float32, not normalised.

    `ids_of` is a tokenizer: texts to ids (N T), the end token the largest of a row.
    Raises: UserError if the tokenizer has ids or lengths that the tower has not.
    """
    different = list(dict.fromkeys(prompts))
    if not different:
        return np.zeros((0, tower.dim), np.float32)
    ids = np.asarray(ids_of(different))
    lengths = ids.argmax(1) + 1
    if ids.max() >= tower.vocab or lengths.max() > tower.context:
        raise UserError(
            f"the tokenizer gives ids up to {ids.max()} and {lengths.max()} tokens a text; this "
            f"text tower knows ids below {tower.vocab} and {tower.context} tokens. Tokenizer and "
            "weights belong to different models."
        )
    order = np.argsort(lengths, kind="stable")
    features = np.empty((len(different), tower.dim), np.float32)
    graph, state = nnx.split(tower)
    start = said = time.monotonic()
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        length = min(-(-lengths[rows].max() // STEP) * STEP, tower.context, ids.shape[1])
        batch = np.zeros((_rows(len(rows), batch_size), length), np.int32)
        batch[: len(rows)] = ids[rows, :length]
        features[rows] = np.asarray(_features(graph, state, batch))[: len(rows)]
        if (now := time.monotonic()) - said > EVERY or first + batch_size >= len(order):
            done, said = first + len(rows), now
            rate = done / max(now - start, 1e-9)
            log.info("text      %d of %d prompts, %.0f a second", done, len(order), rate)
    place = {prompt: i for i, prompt in enumerate(different)}
    return features[[place[prompt] for prompt in prompts]]


def _rows(count: int, batch_size: int) -> int:
    """How many rows are computed for `count`: a power of two, or a whole batch."""
    return min(batch_size, 1 << (count - 1).bit_length())


@functools.partial(jax.jit, static_argnums=0)
def _features(graph: nnx.GraphDef, state: nnx.State, ids: jax.Array) -> jax.Array:
    # Highest: by default some accelerators multiply float32 in a shorter format.
    with jax.default_matmul_precision("highest"):
        return nnx.merge(graph, state)(ids).astype(jnp.float32)
