"""Pieces that blocks are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from vpjax.backbones.vit import ViT, pair, parse
from vpjax.core.errors import UserError
from vpjax.nn.activations import gelu
from vpjax.nn.attention import attention
from vpjax.nn.context import EVALUATION, Context
from vpjax.nn.layers import layer_norm
from vpjax.nn.tokens import Tokens


def normal(*shape, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def same_gradients(ours, theirs, *arguments, atol=1e-5):
    weights = normal(*jax.eval_shape(ours, *arguments).shape, seed=9)
    numbers = tuple(range(len(arguments)))
    both = [
        jax.jit(jax.grad(lambda *a, f=f: (f(*a) * weights).sum(), numbers))(*arguments)
        for f in (ours, theirs)
    ]
    np.testing.assert_allclose(ours(*arguments), theirs(*arguments), atol=atol)
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def test_gelu_is_the_exact_one_with_its_derivative():
    same_gradients(gelu, lambda x: jax.nn.gelu(x, approximate=False), 3 * normal(7, 11))


def test_layer_norm_and_its_derivatives():
    def plain(x, scale, bias):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 1e-6) * scale + bias

    ours = lambda *a: layer_norm(*a, 1e-6)  # noqa: E731
    same_gradients(ours, plain, 2 * normal(3, 5, 16) + 1, normal(16, seed=1), normal(16, seed=2))


def test_attention_is_the_library_s():
    q, k, v = normal(2, 5, 3, 8), normal(2, 9, 3, 8, seed=1), normal(2, 9, 3, 8, seed=2)
    same_gradients(attention, jax.nn.dot_product_attention, q, k, v)


def test_low_precision_stays_low_and_close():
    q, k, v = (normal(2, 6, 2, 8, seed=i) for i in range(3))
    low = attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), attention(q, k, v), atol=3e-2)
    assert gelu(q.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@settings(deadline=None, max_examples=20)
@given(
    extra=st.integers(0, 3),
    prompts=st.integers(1, 4),
    h=st.integers(1, 3),
    w=st.integers(1, 3),
)
def test_tokens_insert_then_overwrite(extra, prompts, h, w):
    tokens = Tokens(normal(2, extra + h * w, 4), extra, (h, w))
    first, second = normal(prompts, 4, seed=1), normal(2, prompts, 4, seed=2)
    inserted = tokens.insert(first, at=tokens.num_prefix_tokens)
    assert (inserted.num_prefix_tokens, inserted.grid) == (extra + prompts, (h, w))
    np.testing.assert_array_equal(inserted.x[:, :extra], tokens.x[:, :extra])
    np.testing.assert_array_equal(inserted.x[:, extra + prompts :], tokens.x[:, extra:])
    replaced = inserted.overwrite(second, at=extra)
    np.testing.assert_array_equal(replaced.x[:, extra : extra + prompts], second)
    np.testing.assert_array_equal(replaced.x[:, extra + prompts :], tokens.x[:, extra:])


def test_the_first_tokens_have_no_grid():
    tokens = Tokens(normal(2, 7, 4), 1, (2, 3))
    assert tokens.first(None) is tokens
    assert tokens.first(7) is tokens
    cut = tokens.first(3)
    assert (cut.x.shape[1], cut.num_prefix_tokens, cut.grid) == (3, 1, (0, 0))


def test_dropout_keeps_the_mean_and_depends_on_layer_and_tag():
    ctx = Context(key=jax.random.key(0))
    x = jnp.ones((100, 100))
    dropped = ctx.dropout(x, 0.3, "a")
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert set(np.unique(dropped).round(4)) == {0.0, np.float32(1 / 0.7).round(4)}
    assert not np.array_equal(dropped, ctx.dropout(x, 0.3, "b"))
    assert not np.array_equal(ctx.at(0).dropout(x, 0.3, "a"), ctx.at(1).dropout(x, 0.3, "a"))
    np.testing.assert_array_equal(dropped, ctx.dropout(x, 0.3, "a"))
    np.testing.assert_array_equal(EVALUATION.dropout(x, 0.3, "a"), x)
    np.testing.assert_array_equal(ctx.backbone_dropout(x, 0.3, "a"), x)


@pytest.mark.parametrize(
    ("image_size", "patch_size", "grid"),
    [(224, None, (14, 14)), (32, 4, (8, 8)), ((32, 48), 16, (2, 3)), ((30, 20), (10, 4), (3, 5))],
)
def test_any_image_size_patch_size_and_grid(image_size, patch_size, grid):
    backbone = ViT(
        "Ti/16",
        image_size,
        patch_size=patch_size,
        dim=8,
        mlp_dim=8,
        heads=2,
        depth=1,
        rngs=nnx.Rngs(0),
    )
    height, width = pair(image_size)
    tokens = backbone.embed(jnp.zeros((2, height, width, 3)), EVALUATION)
    assert tokens.grid == backbone.grid == grid
    assert tokens.x.shape == (2, 1 + grid[0] * grid[1], 8)
    assert backbone.pool(backbone.layers[0](tokens, EVALUATION.at(0), num_outputs=1)).shape == (
        2,
        8,
    )


@pytest.mark.parametrize(
    ("size", "count"),
    [("Ti", 5_524_416), ("S", 21_665_664), ("B", 85_798_656), ("L", 303_301_632)],
)
def test_sizes_have_their_published_numbers_of_parameters(size, count):
    state = nnx.state(nnx.eval_shape(lambda: ViT(f"{size}/16", rngs=nnx.Rngs(0))))
    assert sum(v.size for v in jax.tree.leaves(state)) == count


def test_the_huge_one():
    state = nnx.state(nnx.eval_shape(lambda: ViT("H/14", rngs=nnx.Rngs(0))))
    assert sum(v.size for v in jax.tree.leaves(state)) == 630_764_800


@pytest.mark.parametrize("variant", ["B", "B/", "X/16", "B/x", "B/0", ""])
def test_unknown_variants(variant):
    with pytest.raises(UserError, match="ViT variant"):
        parse(variant)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"heads": 5}, "does not divide into 5 heads"), ({"image_size": 8}, "is below patch")],
)
def test_sizes_that_do_not_fit(options, match):
    with pytest.raises(UserError, match=match):
        ViT("Ti/16", **options, rngs=nnx.Rngs(0))


def test_a_tap_sees_every_site_and_can_replace():
    seen = []

    def hook(site, y, x, ctx):
        seen.append(site)
        return jnp.zeros_like(y) if site in ("attn", "mlp") else y

    backbone = ViT("Ti/8", 16, dim=8, mlp_dim=8, heads=2, depth=1, rngs=nnx.Rngs(0))
    ctx = Context(hook=hook)
    tokens = backbone.embed(jnp.ones((1, 16, 16, 3)), ctx)
    out = backbone.layers[0](tokens, ctx.at(0))
    np.testing.assert_array_equal(out.x, tokens.x)  # both branches were replaced by zero
    assert set(seen) == backbone.taps


def test_a_context_may_be_a_static_argument():
    assert hash(EVALUATION) == hash(Context())
    jax.jit(lambda x, ctx: x, static_argnums=1)(jnp.zeros(2), EVALUATION)
