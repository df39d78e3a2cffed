"""The loop over layers: the only one in the library, and what its backward pass recomputes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from vpjax.core.errors import UserError, unknown
from vpjax.nn import fsdp
from vpjax.nn.context import Context

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def run_layers(
    layers: Sequence[Callable],
    state: Any,
    step: Callable,
    ctx: Context,
    num_outputs: int | None = None,
    remat: str = "none",
    segments: int = 0,
) -> Any:
    """Apply layers one after the other.

    Args:
        layers: of the backbone.
        state: what enters the first layer, any pytree.
        step: layer, state, context -> state; applies one layer.
        ctx: `step` gets it with the index of the layer.
        num_outputs: leading tokens that the last layer must return (`ctx.num_outputs`); None: all.
        remat: what the backward pass recomputes. "none"; "full": all but the input of each segment
            of layers; "dots": all but those and the products with weights.
        segments: into how many groups the layers are split for that; 0: each layer is one.

    Returns:
        The state after the last layer.

    Raises:
        UserError: for an unknown `remat`, or `segments` that the layers cannot be split into.
    """
    last = len(layers) - 1
    for segment in remat_segments(len(layers), remat, segments):

        def apply(state, segment=segment):
            for i in segment:
                layer, state = fsdp.gather(layers[i], state)
                state = step(layer, state, ctx.at(i, num_outputs if i == last else None))
            return state

        policy, gathers = REMAT[remat], any(fsdp.is_split(layers[i]) for i in segment)
        if remat == "none" and gathers and ctx.key is not None:  # training: a backward pass follows
            policy = fsdp.save_all_but_gathered
        state = (jax.checkpoint(apply, policy=policy) if policy else apply)(state)
    return state


def remat_segments(count: int, remat: str = "full", segments: int = 0) -> list[range]:
    """Return the layers of each segment: consecutive ones, of sizes that differ by 1 at most.

    Args:
        count: number of layers.
        remat: see `run_layers`.
        segments: see `run_layers`.

    Raises:
        UserError: for an unknown `remat`, or `segments` that do not suit it or the layers.
    """
    if remat not in REMAT:
        raise unknown("remat", remat, REMAT)
    if segments and remat == "none":
        raise UserError(
            f"remat_segments is {segments}, but remat is 'none', which has no segments. "
            "Set remat='full', or leave remat_segments at 0."
        )
    if not 0 <= segments <= count:
        raise UserError(
            f"remat_segments is {segments}; the backbone has {count} layers. Choose 1 to {count}, "
            "or 0 for a segment a layer."
        )
    parts = segments or count
    return [range(count * i // parts, count * (i + 1) // parts) for i in range(parts)]
