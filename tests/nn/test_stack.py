"""What the backward pass recomputes, in segments of layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vpjax.backbones.vit import ViT
from vpjax.core.errors import UserError
from vpjax.methods.vpt import VPT
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn.context import Context
from vpjax.nn.stack import remat_segments

LAYERS = 3


@functools.cache
def parts():
    rngs = nnx.Rngs(0)
    body = ViT("Ti/4", 8, dim=8, mlp_dim=8, heads=2, depth=LAYERS, rngs=rngs)
    method = VPT(body, 3, num_tokens=2, dropout=0.3, head_init="classes", rngs=rngs)
    return partition(Model(body, method))


@functools.cache
def gradient(remat="none", segments=0):
    """Returns logits and gradients with dropout, whose masks must be drawn again alike."""
    graph, *rest = parts()

    def loss(trainable, stats, frozen):
        ctx = Context(key=jax.random.key(1))
        images = jnp.linspace(-1, 1, 2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
        model = merge(graph, trainable, stats, frozen)
        out = model(images, ctx, remat, segments)
        return jnp.square(out["logits"]).sum(), out["logits"]

    return jax.jit(jax.grad(loss, has_aux=True))(*rest)


@pytest.mark.parametrize(
    ("remat", "segments"), [("full", n) for n in range(LAYERS + 1)] + [("dots", 2)]
)
def test_segments_change_nothing(remat, segments):
    for a, b in zip(
        jax.tree.leaves(gradient(remat, segments)), jax.tree.leaves(gradient()), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("segments", range(LAYERS + 1))
def test_each_segment_is_one_checkpoint(segments):
    graph, *rest = parts()

    def logits(trainable, stats, frozen):
        model = merge(graph, trainable, stats, frozen)
        return model(jnp.zeros((1, 8, 8, 3)), remat="full", segments=segments)["logits"]

    text = [e.primitive.name for e in jax.make_jaxpr(logits)(*rest).jaxpr.eqns]
    found = sum(name.startswith(("checkpoint", "remat")) for name in text)
    assert found == (segments or LAYERS)


@pytest.mark.parametrize("count", [1, 2, 12, 24, 31])
def test_segments_cover_the_layers_in_nearly_equal_shares(count):
    for segments in range(1, count + 1):
        found = remat_segments(count, "full", segments)
        assert [i for part in found for i in part] == list(range(count))
        sizes = {len(part) for part in found}
        assert len(found) == segments
        assert max(sizes) - min(sizes) <= 1
    assert remat_segments(count) == [range(i, i + 1) for i in range(count)]


@pytest.mark.parametrize(
    ("remat", "segments", "match"),
    [
        ("full", LAYERS + 1, f"has {LAYERS} layers. Choose 1 to {LAYERS}"),
        ("full", -1, f"has {LAYERS} layers"),
        ("none", 2, "Set remat='full'"),
        ("ful", 0, "Did you mean 'full'"),
    ],
)
def test_choices_that_cannot_be(remat, segments, match):
    with pytest.raises(UserError, match=match):
        gradient(remat, segments)
