"""Texts of classes with learnt context, for methods that prompt CLIP's text tower.

    "X X X X tabby cat."  ->  [start | ctx 1 .. n | name | . | end]     the rows of X are replaced

The tower is frozen and a part of the method, so that its weights are in no checkpoint; class names
are not learnt either: a trained context meets those of the data it is evaluated on.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vpjax.backbones.base import Backbone
from vpjax.backbones.clip import CLIP
from vpjax.core.errors import UserError, unknown
from vpjax.nn.context import Context
from vpjax.nn.mop_similarity import unit

POSITIONS = ("end", "middle", "front")
STD = 0.02  # of random contexts and prompts


class Sentences(NamedTuple):
    """What a method wants said of each class.

    Attributes:
        context: words before the name, as many as are replaced or more.
        templates: of fixed targets, see `vpjax.models.text.templates`; "": none are needed.
    """

    context: str
    templates: str = ""


class ClassTexts(NamedTuple):
    """CLIP's text tower with the texts of C classes; T tokens, the longest text's.

    Attributes:
        tower: a `vpjax.models.text.tower.TextTower` with weights.
        scale: exp(logit_scale) of the weights.
        ids: of the tokens of "context name.", the end token the largest of a row.
        name_lengths: tokens of each name by itself.
        targets: text features of the classes in the templates, of length 1; None: none are needed.
    """

    tower: nnx.Module
    scale: float
    ids: Int[np.ndarray, "C T"]
    name_lengths: Int[np.ndarray, " C"]
    targets: Float[np.ndarray | Array, "C D"] | None = None


class PromptedTexts(nnx.Module):
    """The frozen text tower and the texts of C classes: contexts in, text features out.

    Args:
        texts: from the builder.
        num_tokens: n, tokens after the start token that a context replaces.
        position: where the name stands: at the "end", in the "middle" of the context, in "front".

    Raises:
        UserError: if the texts have no room for the context.
    """

    def __init__(self, texts: ClassTexts, num_tokens: int, position: str = "end"):
        if position not in POSITIONS:
            raise unknown("position", position, POSITIONS)
        ends = texts.ids.argmax(1)
        if num_tokens > ends.min() - 1:
            raise UserError(
                f"{num_tokens} context tokens, but a text of these classes has {ends.min() - 1} "
                "between its start and its end. Give fewer, or more words to start from."
            )
        self.tower, self.num_tokens = texts.tower, num_tokens
        self.ids = nnx.Variable(jnp.asarray(texts.ids, jnp.int32))
        rows = _order(len(texts.ids[0]), num_tokens, texts.name_lengths, position)
        self.order = nnx.Variable(jnp.asarray(rows, jnp.int32))

    @property
    def width(self) -> int:
        """W, the width of the text tower's tokens."""
        return self.tower.token_embed.shape[1]

    def words(self, count: int) -> Float[Array, "n W"]:
        """Return the embeddings of the first tokens after the start, which all texts share."""
        return self.tower.token_embed[...][self.ids[...][0, 1 : 1 + count]]

    def embedded(self, context: Float[Array, "*C n W"]) -> Float[Array, "C T W"]:
        """Return the texts with a context (or C of them) in its place, without positions."""
        own = self.tower.token_embed[...][self.ids[...]]
        context = jnp.broadcast_to(context, (len(own), *context.shape[-2:])).astype(own.dtype)
        return jnp.take_along_axis(
            jnp.concatenate([own, context], axis=1), self.order[...][:, :, None], axis=1
        )

    def __call__(
        self,
        embedded: Float[Array, "*N C T W"],
        ctx: Context,
        rows: Mapping[int, Float[Array, "n W"]] | None = None,
    ) -> Float[Array, "*N C D"]:
        """Return text features of length 1, float32, of what `embedded` returned.

        Args:
            embedded: texts of the classes, or several sets of them.
            ctx: says what the backward pass recomputes.
            rows: {layer: what the context is before that layer}.
        """
        flat = embedded.reshape(-1, *embedded.shape[-2:])
        ends = self.ids[...].argmax(-1)
        ends = jnp.broadcast_to(ends, embedded.shape[:-2]).reshape(-1)
        dtype = self.tower.layers[0].mlp.fc1.kernel[...].dtype  # that of computation
        features = self.tower.encode(flat, ends, rows, dtype, ctx.remat)
        return unit(features.astype(jnp.float32)).reshape(*embedded.shape[:-2], -1)


class Linear(nnx.Module):
    """A linear layer that starts as torch draws it: uniform within 1 / sqrt(inputs)."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        bound = 1 / math.sqrt(inputs)
        draw = lambda *shape: jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)  # noqa: E731
        self.kernel = nnx.Param(draw(inputs, outputs))
        self.bias = nnx.Param(draw(outputs))

    def __call__(self, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
        return x @ self.kernel[...] + self.bias[...]


def drawn(rngs: nnx.Rngs, *shape: int) -> nnx.Param:
    """Return a context or prompts drawn from N(0, 0.02^2)."""
    return nnx.Param(STD * jax.random.normal(rngs.params(), shape))


def context_words(options: Mapping[str, Any], count: str) -> str:
    """Return the words that stand for a context: those it starts from, or an X for each token.

    Args:
        options: of the method.
        count: name of the option that says how many tokens.
    """
    return " ".join(options["init_words"].split()) or " ".join(["X"] * options[count])


def check_context(init_words: str, num_tokens: int, option: str) -> None:
    """Check that words give a context of so many tokens.

    Raises:
        UserError: if there are none, or more than there are words.
    """
    words = len(init_words.split())
    if num_tokens < 1:
        raise UserError(f"{option} is {num_tokens}; give at least 1 context token")
    if words and num_tokens > words:
        raise UserError(
            f"{option} is {num_tokens}, and init_words {init_words!r} has {words} words: the "
            f"context would replace tokens of the names. Give more words, {option}={words}, or "
            "init_words='' for a random start."
        )


def require_clip(backbone: Backbone, method: str, texts: ClassTexts | None, tower: bool) -> None:
    """Check that a backbone is CLIP's image tower, and that there is a text tower where needed.

    Args:
        backbone: of the model.
        method: name of the method's class.
        texts: from the builder.
        tower: whether the method needs the text tower.

    Raises:
        UserError: if not.
    """
    if not isinstance(backbone, CLIP) or (tower and texts is None):
        raise UserError(
            f"{method} compares images with the names of their classes by CLIP's two towers, which "
            f"{type(backbone).__name__} by itself has not. Set backbone.name='clip.CLIP' and "
            "backbone.weights to a whole CLIP."
        )
    if texts is not None and texts.tower.dim != backbone.dim:
        raise UserError(
            f"text features are {texts.tower.dim} wide and image features {backbone.dim}; both "
            "must come from the same CLIP"
        )


def _order(
    length: int, count: int, name_lengths: Int[np.ndarray, " C"], position: str
) -> Int[np.ndarray, "C T"]:
    """Return which row stands where: 0 .. T-1 are those of a text, T .. T+n-1 of its context."""
    context, out = np.arange(length, length + count), []
    for name in name_lengths:
        before = {"end": count, "middle": count // 2, "front": 0}[position]
        name = 0 if position == "end" else name  # it is a part of the rest then
        rest = np.arange(1 + count, length)
        parts = [[0], context[:before], rest[:name], context[before:], rest[name:]]
        out.append(np.concatenate(parts))
    return np.stack(out)
