"""Swin v2: cosine scores, biases from offsets, norms behind, and prompts as in Swin."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers.cases import tiny_swin_v2
from vpjax.backbones.swin_v2 import SwinV2
from vpjax.core import params
from vpjax.core.errors import UserError
from vpjax.methods.vpt import VPT
from vpjax.models.model import Model
from vpjax.nn.context import EVALUATION
from vpjax.nn.tokens import Tokens


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@functools.cache
def drawn():
    graph, state = nnx.split(nnx.eval_shape(lambda: tiny_swin_v2(nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(0, 0.4, shape).astype(np.float32))  # noqa: E731
    return nnx.merge(
        graph, params.fill(state, {n: draw(v.shape) for n, v in params.flatten(state).items()})
    )


def test_scores_are_scaled_cosines_with_bias():
    attn, x = drawn().layers[0].attn, normal(2, 16, 8)
    row, column = np.indices((4, 4)).reshape(2, -1)
    together = (row[:, None] // 2 == row // 2) & (column[:, None] // 2 == column // 2)

    def logarithmic(offset):  # in units of the windows of pre-training, 3 wide
        offset = offset / 2 * 8
        return np.sign(offset) * np.log2(np.abs(offset) + 1) / 3

    dy, dx = (logarithmic((n[:, None] - n[None]).astype(np.float32)) for n in (row, column))

    @jax.jit
    def expected(x):
        q, k, v = (dense(x) for dense in (attn.query, attn.key, attn.value))
        unit = lambda y: y / jnp.linalg.norm(y, axis=-1, keepdims=True)  # noqa: E731
        scores = jnp.einsum("bqnd,bknd->bnqk", unit(q), unit(k))
        scores = scores * jnp.exp(attn.logit_scale[...])[:, None, None]
        mlp = attn.offset_mlp
        bias = mlp.fc2(jax.nn.relu(mlp.fc1(jnp.stack([dy, dx], -1))))
        scores = scores + 16 * jax.nn.sigmoid(bias).transpose(2, 0, 1)
        weights = jax.nn.softmax(jnp.where(together, scores, -jnp.inf), -1)
        return attn.out(jnp.einsum("bnqk,bknd->bqnd", weights, v))

    ours = jax.jit(lambda x: attn(x, EVALUATION))(x)
    np.testing.assert_allclose(ours, expected(x), atol=1e-5)


def test_reading_is_inserting_and_dropping():
    block, prompts, x = drawn().layers[1], normal(5, 8, seed=4), normal(3, 16, 8)
    read = lambda p, x: block(Tokens(x, 0, (4, 4)), EVALUATION, extra_kv=p).x  # noqa: E731
    inserted = lambda p, x: block(Tokens(x, 0, (4, 4)).insert(p, 0), EVALUATION).x[:, 5:]  # noqa: E731
    loss = lambda f: lambda p, x: (f(p, x) * normal(3, 16, 8, seed=7)).sum()  # noqa: E731
    both = [
        jax.jit(lambda *a, f=f: (f(*a), *jax.grad(loss(f), (0, 1))(*a))) for f in (read, inserted)
    ]
    for ours, theirs in zip(*(f(prompts, x) for f in both), strict=True):
        assert jnp.abs(theirs).max() > 0.01
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("deep", [False, True])
def test_prompts_train(deep):
    body = drawn()
    model = Model(
        body, VPT(body, 3, num_tokens=2, deep=deep, head_init="classes", rngs=nnx.Rngs(0))
    )
    images = normal(2, 16, 16, 3)
    graph, state = nnx.split(model)

    def loss(state):
        return jnp.square(nnx.merge(graph, state, copy=True)(images)["logits"]).sum()

    grads = params.flatten(jax.jit(jax.grad(loss))(state))
    prompts = {n: g for n, g in grads.items() if n.startswith("method/prompts")}
    assert len(prompts) == (4 if deep else 1)
    assert all(jnp.abs(g).max() > 1e-5 for g in prompts.values())


def test_zero_prompts_have_finite_gradients():
    block, x = drawn().layers[0], normal(1, 16, 8)
    loss = lambda p: block(Tokens(x, 0, (4, 4)), EVALUATION, extra_kv=p).x.sum()  # noqa: E731
    assert jnp.isfinite(jax.jit(jax.grad(loss))(jnp.zeros((2, 8)))).all()


def test_sizes_and_options():
    make = lambda **options: nnx.eval_shape(lambda: SwinV2(rngs=nnx.Rngs(0), **options))  # noqa: E731
    usual = make(variant="T")
    assert usual.image_size == (256, 256) and usual.dim == 768
    windows = [layer.attn.windows.size for layer in usual.layers if hasattr(layer, "attn")]
    assert windows == [8] * 12
    wider = make(variant="B", window=16, pretrained_windows=(12, 12, 12, 6))
    assert [wider.layers[i].attn.windows.size for i in (0, -1)] == [16, 8]
    assert [wider.layers[i].attn.pretrained for i in (0, -1)] == [12, 6]
    with pytest.raises(UserError, match="no positions of cells"):
        make(positions=True)
    with pytest.raises(UserError, match="as high as a grid of 8x16 cells"):
        make(image_size=(256, 512))
    assert make(image_size=(512, 768), variant="T").grid == (128, 192)
