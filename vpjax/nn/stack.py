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
    """Applies layers in turn: the only loop over layers in the library.

    The last layer is asked for its first `num_outputs` tokens only. `remat` names what the backward pass
    recomputes: "none"; "full": all but the input of each segment of layers; "dots": all but those
    and products with weights. `segments` is how many there are; 0: each layer is one.
    Raises: UserError for an unknown `remat`, or `segments` the layers cannot be split into.
    """
    last = len(layers) - 1
    for part in remat_segments(len(layers), remat, segments):

        def apply(state, part=part):
            for i in part:
                layer, state = fsdp.whole(layers[i], state)
                state = step(layer, state, ctx.at(i, num_outputs if i == last else None))
            return state

        policy, gathers = REMAT[remat], any(fsdp.is_split(layers[i]) for i in part)
        if remat == "none" and gathers and ctx.key is not None:  # training: a backward pass follows
            policy = fsdp.all_but_gathered
        state = (jax.checkpoint(apply, policy=policy) if policy else apply)(state)
    return state


def remat_segments(count: int, remat: str = "full", segments: int = 0) -> list[range]:
    """Return the layers of each segment: consecutive, their numbers differing by 1 at most.

    Raises: UserError as `run` does.
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
            "or 0 for each layer its own."
        )
    parts = segments or count
    return [range(count * i // parts, count * (i + 1) // parts) for i in range(parts)]
