"""Visual Prompt Tuning: learned tokens beside the image's.

    shallow   [ cls | prompts | patches ] -> layer -> layer -> ...     prompts live on
    deep      layer i sees [ cls | prompts_i | patches ]; what became of prompts_i is thrown away

Jia et al. 2022, arXiv 2203.12119. A deep prompt's own output is never used, so it enters a layer
as something to `read` only: keys and values, no query, no projection, no MLP. That is the same
function with a quarter of the work saved at 50 prompts; the published code computes the outputs
and drops them. Prompts have no position embedding: where they stand does not matter.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vpjax.backbones.contract import Backbone
from vpjax.context import Context
from vpjax.errors import UserError
from vpjax.methods.base import Method
from vpjax.tokens import Tokens


class VPT(Method):
    """Prompts before the grid, once (`deep=False`) or anew at every layer.

    `dropout` acts on each image's prompts separately. `project=r` learns prompts of width r and one
    linear layer, shared by all depths, that brings them to the backbone's width.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        num_tokens: int = 50,
        deep: bool = True,
        dropout: float = 0.0,
        project: int | None = None,
        head_hidden: int = 0,
        head_init: str = "zero",
        rngs: nnx.Rngs,
    ):
        if num_tokens < 1:
            raise UserError(f"num_tokens is {num_tokens}; VPT needs at least 1 prompt")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it is a probability below 1")
        if project is not None and project < 1:
            raise UserError(f"project is {project}; give a width of at least 1, or None")
        super().__init__(
            backbone, num_classes, head_hidden=head_hidden, head_init=head_init, rngs=rngs
        )
        sites = [s for s in backbone.sites if s.mixes]
        self.deep, self.dropout = deep, dropout
        bound = spread(backbone.patch_size, project or sites[0].dim)
        draw = lambda d: jax.random.uniform(  # noqa: E731
            rngs.params(), (num_tokens, d), minval=-bound, maxval=bound
        )
        self.prompts = nnx.Dict(
            {
                str(s.index): nnx.Param(draw(project or s.dim))
                for s in (sites if deep else sites[:1])
            }
        )
        self.project = _Projection(project, backbone.dim, rngs=rngs) if project else None

    def start(self, backbone: Backbone, images: Float[Array, "B H W C"], ctx: Context) -> Tokens:
        """Inserts shallow prompts; deep ones are read layer by layer."""
        tokens = super().start(backbone, images, ctx)
        if self.deep:
            return tokens
        return tokens.insert(self.prompt(0, len(images), ctx), at=tokens.extra)

    def step(self, layer: nnx.Module, tokens: Tokens, ctx: Context) -> Tokens:
        """Lets the layer read its own prompts."""
        if self.deep and str(ctx.layer) in self.prompts:
            prompt = self.prompt(ctx.layer, len(tokens.x), ctx)
            return layer(tokens, ctx, read=prompt, keep=ctx.keep)
        return super().step(layer, tokens, ctx)

    def prompt(self, index: int, batch: int, ctx: Context) -> Float[Array, "... P D"]:
        """Returns the prompts of a layer: P D, or B P D where dropout differs by image."""
        p = self.prompts[str(index)][...]
        if self.project is not None:
            p = self.project(p)
        if ctx.key is None or self.dropout == 0:
            return p
        return ctx.dropout(jnp.broadcast_to(p, (batch, *p.shape)), self.dropout, "prompt")


class _Projection(nnx.Module):
    """P r -> P D."""

    def __init__(self, width: int, dim: int, *, rngs: nnx.Rngs):
        std, bound = math.sqrt(2 / dim), 1 / math.sqrt(width)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (width, dim)))
        self.bias = nnx.Param(
            jax.random.uniform(rngs.params(), (dim,), minval=-bound, maxval=bound)
        )

    def __call__(self, prompts: Float[Array, "P r"]) -> Float[Array, "P D"]:
        return prompts @ self.kernel[...] + self.bias[...]


def spread(patch_size: tuple[int, int], width: int) -> float:
    """Bound of the uniform draw of prompts (paper, section 3.2: Xavier over a patch's numbers).

    All stages of a hierarchical backbone use the width of the first.
    """
    return math.sqrt(6 / (3 * math.prod(patch_size) + width))
