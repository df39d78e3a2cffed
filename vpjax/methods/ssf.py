"""SSF: a trained scale and shift of every channel, after each operation of a frozen backbone.

    y -> gamma * y + beta       after the patches, norms, query-key-value, out, fc1, fc2, last norm

Lian et al. 2022, arXiv 2210.08823. gamma starts at N(1, 0.02^2), beta at N(0, 0.02^2), so the start
is not exactly the backbone's own function. A backbone without a norm before pooling scales its
tokens there, as published.
"""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from vpjax.backbones.base import Backbone
from vpjax.core.errors import UserError
from vpjax.methods import linears
from vpjax.methods.base import KEEP, Method
from vpjax.nn.context import Context
from vpjax.nn.tokens import Tokens

LINEARS = ("qkv", "proj", "fc1", "fc2")
NORMS = ("norm1", "norm2")


class SSF(Method):
    """Trained scales and shifts after the operations of a frozen transformer.

    Raises:
        UserError: if the backbone is no transformer with norms in its blocks.
    """

    no_decay = r"method/(stem|last|layers)/.*"

    def __init__(self, backbone: Backbone, num_classes: int, *, rngs: nnx.Rngs, **inherited):
        super().__init__(backbone, num_classes, rngs=rngs, **inherited)
        self.stem = Affine(backbone.stem.dim, rngs=rngs)
        self.layers = nnx.Dict()
        for place in linears.places(backbone, LINEARS):
            own = self.layers.setdefault(str(place.layer), nnx.Dict())
            own[place.name] = Affine(place.outputs, rngs=rngs)
        for i, own in self.layers.items():
            for name in NORMS:
                width = getattr(backbone.layers[int(i)], name).scale.shape[0]
                own[name] = Affine(width, rngs=rngs)
        self.on_tokens = getattr(backbone, "norm", None) is None
        self.last = Affine(backbone.sites[-1].dim if self.on_tokens else backbone.dim, rngs=rngs)

    def tap(self, site: str, y: Any, x: Array, ctx: Context) -> Any:
        """Scale and shift the output of a site."""
        if site == "stem":
            return self.stem(y)
        own = self.layers.get(str(ctx.layer), {})
        if site in NORMS and own:
            return own[site](y)
        found = linears.at(LINEARS, site, ctx)
        if found is None:
            return y
        name, third = found
        shape = ctx.linear.kernel.shape[ctx.linear.inputs :]
        parts = (own[name].scale[...], own[name].shift[...])
        scale, shift = (linears.third_of(v, third, y, ctx).reshape(shape) for v in parts)
        return y * scale + shift

    def predict(self, backbone: Backbone, state: Tokens, ctx: Context) -> dict[str, Array]:
        """Return the outputs for scaled and shifted features."""
        if self.on_tokens:
            tokens = Tokens(self.last(state.x), state.num_prefix_tokens, state.grid)
            return self.classify(backbone.pool(tokens), ctx)
        return self.classify(self.last(backbone.pool(state)), ctx)

    def fold(self, backbone: Backbone) -> dict[str, Array]:
        """Return the weights of all layers, norms and the patches, scaled and shifted."""
        after = ("pre_logits", "projection", "fc_norm", "attn_pool")
        after = [n for n in after if getattr(backbone, n, None) is not None]
        if self.on_tokens or after or len(self.last.scale) != len(backbone.norm.scale):
            last = after[0] if after else "pooling"
            raise UserError(
                f"SSF's last scale and shift cannot be folded into this {type(backbone).__name__}, "
                f"as {last} stands between them and the head; {KEEP}."
            )
        if getattr(backbone.patch_embed, "bias", None) is None:
            raise UserError(
                f"SSF cannot be folded into this {type(backbone).__name__}, as its patches have no "
                f"plain projection with a bias for the first shift to go into; {KEEP}."
            )
        out = linears.fold(
            backbone,
            {i: {n: own[n] for n in LINEARS} for i, own in self.layers.items()},
            lambda own, part, w, b: (w * own.scale[part], b * own.scale[part] + own.shift[part]),
            bias=True,
        )
        norms = {"norm": (backbone.norm, self.last)}
        for i, own in self.layers.items():
            for n in NORMS:
                norms[f"layers/{i}/{n}"] = (getattr(backbone.layers[int(i)], n), own[n])
        for path, (norm, own) in norms.items():
            out[f"{path}/scale"] = norm.scale[...] * own.scale[...]
            out[f"{path}/bias"] = own(norm.bias[...])
        out["patch_embed/kernel"] = backbone.patch_embed.kernel[...] * self.stem.scale[...]
        out["patch_embed/bias"] = self.stem(backbone.patch_embed.bias[...])
        return out


class Affine(nnx.Module):
    """A scale and a shift of every channel, near 1 and 0 at the start."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.scale = nnx.Param(1 + 0.02 * jax.random.normal(rngs.params(), (dim,)))
        self.shift = nnx.Param(0.02 * jax.random.normal(rngs.params(), (dim,)))

    def __call__(self, y: Array) -> Array:
        return y * self.scale[...].astype(y.dtype) + self.shift[...].astype(y.dtype)
