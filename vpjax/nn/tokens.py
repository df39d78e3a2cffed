"""What flows between layers: prefix tokens first, then a grid.

    B L D, L = prefix + h w:     [ class token, prompts ... | row 0 | row 1 | ... | row h-1 ]

Prefix tokens have no place in the image. Feature maps of convolutional networks are Tokens with
`num_prefix_tokens = 0`. So "put prompts before the grid" is one operation for every backbone.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["x"], meta_fields=["num_prefix_tokens", "grid"]
)
@dataclasses.dataclass(frozen=True)
class Tokens:
    """A batch of token sequences.

    Attributes:
        x: B L D, the tokens; L = num_prefix_tokens + h w.
        num_prefix_tokens: tokens before the grid, such as a class token and prompts.
        grid: rows and columns (h, w) of the other tokens, row by row.
    """

    x: jax.Array
    num_prefix_tokens: int
    grid: tuple[int, int]

    def insert(self, prompts: Float[Array, "... P D"], at: int) -> "Tokens":
        """Return the tokens with P prefix tokens inserted before position `at`.

        Args:
            prompts: P D, repeated over the batch, or B P D; cast to the dtype of the tokens.
            at: a position among the prefix tokens, 0 to `num_prefix_tokens`.
        """
        p = over_batch(prompts, self.x.shape[0]).astype(self.x.dtype)
        x = jnp.concatenate([self.x[:, :at], p, self.x[:, at:]], axis=1)  # B (L + P) D
        return dataclasses.replace(self, x=x, num_prefix_tokens=self.num_prefix_tokens + p.shape[1])

    def overwrite(self, prompts: Float[Array, "... P D"], at: int) -> "Tokens":
        """Return the tokens with P of them replaced, from position `at` on.

        Args:
            prompts: P D, repeated over the batch, or B P D; cast to the dtype of the tokens.
            at: position of the first token that is replaced.
        """
        p = over_batch(prompts, self.x.shape[0]).astype(self.x.dtype)
        return dataclasses.replace(self, x=jax.lax.dynamic_update_slice_in_dim(self.x, p, at, 1))

    def first(self, count: int | None) -> "Tokens":
        """Return the first `count` tokens (None: all); a cut inside the grid leaves no grid."""
        if count is None or count >= self.x.shape[1]:
            return self
        return Tokens(
            self.x[:, :count], num_prefix_tokens=min(count, self.num_prefix_tokens), grid=(0, 0)
        )


def over_batch(prompts: Float[Array, "... P D"], batch: int) -> Float[Array, "B P D"]:
    """Repeat prompts P D over a batch; B P D stays as it is."""
    return jnp.broadcast_to(prompts, (batch, *prompts.shape[-2:]))
