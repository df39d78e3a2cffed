"""Small networks from scratch: sizes, how they begin, dropout, batches with padding."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import msvp as recipe
from tests.helpers import cases
from vpjax.backbones.cnn import CNN
from vpjax.backbones.small_vit import SmallViT
from vpjax.core.errors import UserError
from vpjax.methods.msvp import MSVP
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn.attention import attention, resolve
from vpjax.nn.context import Context
from vpjax.nn.conv import BatchNorm
from vpjax.runs.experiment import abstract_model
from vpjax.train.step import init_state, make_train_step

TRAINING = Context(key=jax.random.key(0), noisy_backbone=True)


def pixels(batch=2, size=(16, 16), channels=3, seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, *size, channels))


def abstract(label):
    """The parts of the recipe's model, as shapes."""
    config = recipe.get_config(label)
    return partition(abstract_model(config, 10))


def count(part):
    return sum(v.size for v in part.values())


@pytest.mark.parametrize(
    ("label", "parameters", "averages"),
    [
        ("cifar10,model=cnn", 1_208_362, 1_920),
        ("mnist,model=cnn", 1_207_786, 1_920),
        ("cifar10,model=resnet18", 11_173_962, 9_600),
        ("fashion_mnist,model=resnet18", 11_172_810, 9_600),
        ("cifar10,model=vit", 5_362_762, 0),
        ("mnist,model=vit", 5_353_738, 0),
    ],
)
def test_networks_have_their_published_numbers_of_parameters(label, parameters, averages):
    without = abstract(f"{label},prompts=no")
    assert (count(without.trainable), count(without.frozen)) == (parameters, 0)
    assert count(without.stats) == averages
    added = 243 if label.startswith("cifar") else 81
    assert count(abstract(label).trainable) == parameters + added


def test_how_networks_begin():
    cnn = CNN(16, width=32, rngs=nnx.Rngs(0))
    assert np.std(cnn.layers[6].conv.kernel[...]) == pytest.approx(
        math.sqrt(2 / (256 * 9)), rel=0.01
    )
    assert np.std(cnn.layers[7].kernel[...]) == pytest.approx(0.01, rel=0.02)
    vit = SmallViT(image_size=16, depth=1, rngs=nnx.Rngs(0))
    attn, mlp = vit.layers[0].attn, vit.layers[0].mlp
    for dense, inputs in ((attn.key, 192), (attn.out, 192), (mlp.fc1, 192), (mlp.fc2, 768)):
        for numbers in (dense.kernel[...], dense.bias[...]):
            assert np.std(numbers) == pytest.approx(inputs**-0.5 / 3**0.5, rel=0.15)
            assert np.abs(numbers).max() <= inputs**-0.5
    assert np.std(vit.patch_embed.kernel[...]) == pytest.approx(math.sqrt(2 / (192 * 16)), rel=0.05)
    assert np.std(vit.cls_token[...]) == pytest.approx(0.02, rel=0.2)
    assert {vit.norm.eps, vit.layers[0].norm1.eps, vit.layers[0].norm2.eps} == {1e-5}
    for init, spread in (("normal_0.01", 0.01), ("normal_0.02", 0.02)):
        head = MSVP(vit, 50, head_init=init, rngs=nnx.Rngs(0)).head
        assert np.std(head.kernel[...]) == pytest.approx(spread, rel=0.05)
        assert not np.any(head.bias[...])


def test_a_cnn_halves_three_times():
    with pytest.raises(UserError, match="halves images 3 times"):
        CNN(7, rngs=nnx.Rngs(0))
    body = nnx.eval_shape(lambda: CNN((28, 36), rngs=nnx.Rngs(0)))
    assert [s.grid for s in body.sites] == (
        [(28, 36)] + 2 * [(14, 18)] + 2 * [(7, 9)] + 3 * [(3, 4)]
    )
    assert [s.dim for s in body.sites] == [32, 32, 64, 64, 128, 128, 256, 256]
    assert (body.dim, body.partial(1)) == (128, "layers/(7)/.*")
    with pytest.raises(UserError, match="partial-6"):
        body.partial(6)


def test_sites_of_the_cnn():
    body, seen = CNN(16, width=2, rngs=nnx.Rngs(0)), []

    def hook(site, y, x, ctx):
        seen.append((site, ctx.layer, y.shape[-1]))
        return y

    ctx = Context(hook=hook)
    tokens = body.embed(pixels(), ctx)
    for site, layer in zip(body.sites, body.layers, strict=True):
        assert (tokens.grid, tokens.x.shape[-1]) == (site.grid, site.dim)
        tokens = layer(tokens, ctx.at(site.index))
    assert {site for site, _, _ in seen} == body.taps
    assert seen[2:] == [("conv", i, d) for i, d in enumerate([2, 4, 4, 8, 8, 16, 16])] + [
        ("hidden", 7, 8)
    ]
    assert body.pool(tokens).shape == (2, body.dim)


@dataclasses.dataclass(frozen=True)
class Listening(Context):
    """Notes where dropout is, and its rate."""

    heard: Any = None

    def dropout(self, x, rate, tag):
        self.heard.append((self.layer, tag, rate))
        return super().dropout(x, rate, tag)


def test_dropout_of_the_networks():
    vit = SmallViT(image_size=16, dim=12, mlp_dim=24, depth=2, dropout=0.2, rngs=nnx.Rngs(0))
    for body, expected in (
        (CNN(16, width=2, rngs=nnx.Rngs(0)), [(7, "before", 0.5), (7, "after", 0.3)]),
        (
            vit,
            [(None, "embed", 0.2)]
            + [
                (i, tag, rate)
                for i in (0, 1)
                for tag, rate in (
                    ("attn.weights", 0.1),
                    ("attn.out", 0.1),
                    ("mlp.fc1", 0.2),
                    ("mlp.fc2", 0.2),
                )
            ],
        ),
    ):
        model = Model(body, MSVP(body, 5, head_init="classes", rngs=nnx.Rngs(0)))
        ctx = Listening(key=jax.random.key(1), heard=[])
        parts = partition(model)
        jax.eval_shape(lambda images, p=parts, c=ctx: merge(*p)(images, c), pixels())
        assert ctx.heard == expected
    a, b, c = (
        cases.outputs(parts, pixels(), Context(key=key))["logits"]
        for key in (jax.random.key(1), jax.random.key(1), jax.random.key(2))
    )
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_dropped_probabilities_keep_the_rest_in_scale():
    q, k, v = (pixels(1, (6, 2), 4, seed) for seed in range(3))  # 1 L N d
    halved = attention(q, k, v, drop=lambda p: 0.5 * p)
    np.testing.assert_allclose(halved, 0.5 * attention(q, k, v), atol=1e-6)
    with pytest.raises(ValueError, match="no dropout"):
        attention(q, k, v, "blockwise", drop=lambda p: p)


def test_fused_attention_is_refused_where_probabilities_drop():
    vit = nnx.eval_shape(lambda: SmallViT(rngs=nnx.Rngs(0)))
    assert resolve("auto", jnp.bfloat16, vit.head_dim, "gpu") == "xla"
    with pytest.raises(UserError, match="'xla' or 'auto'"):
        resolve("blockwise", jnp.float32, vit.head_dim)


def test_padding_does_not_reach_batch_norm():
    norm, x = BatchNorm(3), 2 + 3 * pixels(5, (4, 4))
    padded = jnp.concatenate([x, 100 * jnp.ones((3, 4, 4, 3))])
    masked = BatchNorm(3)
    y = norm(x, TRAINING)
    z = masked(padded, dataclasses.replace(TRAINING, mask=jnp.arange(8) < 5))
    np.testing.assert_allclose(y, z[:5], atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], masked.mean[...], rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], masked.var[...], rtol=1e-5)
    unbiased = 0.9 + 0.1 * np.var(x, axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(norm.var[...], unbiased, rtol=1e-4)
    before = np.asarray(masked.mean[...])
    masked(padded, dataclasses.replace(TRAINING, mask=jnp.zeros(8, bool)))
    np.testing.assert_array_equal(masked.mean[...], before)


def test_a_padded_batch_trains_like_a_small_one():
    parts = cases.make("resnet", "msvp", MSVP)
    optimiser = optax.sgd(0.1)
    step = make_train_step(parts.graph, optimiser, lambda batch, key: batch["image"], 1)
    images, labels = np.asarray(pixels(8)), np.arange(8, dtype=np.int32) % 5
    full = {"image": images, "label": labels, "mask": np.arange(8) < 5}
    few = {"image": images[:5], "label": labels[:5], "mask": np.ones(5, bool)}
    start = lambda: init_state(parts.trainable, parts.stats, optimiser, 0)  # noqa: E731
    (a, p), (b, q) = step(start(), parts.frozen, full), step(start(), parts.frozen, few)
    assert p["loss"] == pytest.approx(float(q["loss"]), rel=1e-5)
    for ours, theirs in ((a.trainable, b.trainable), (a.stats, b.stats)):
        for name, value in ours.items():
            np.testing.assert_allclose(value, theirs[name], atol=1e-5, err_msg=name)
