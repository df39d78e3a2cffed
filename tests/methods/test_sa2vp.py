"""SA2VP against its formulas written out, and as published where it starts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.helpers import cases
from tests.helpers.oracles import PlainSA2VP
from tests.helpers.sa2vp import CLASSES, full_size, gradient, make, pixels, swin, vit, vit_b
from vpjax.backbones.convnext import ConvNeXt
from vpjax.backbones.swin import Swin
from vpjax.core.errors import UserError
from vpjax.methods.finetune import Linear
from vpjax.methods.sa2vp import SA2VP
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn.context import Context


@functools.cache
def plain(body, **options):
    parts = make(PlainSA2VP, body, **options)
    return gradient(parts, pixels(parts))


@pytest.mark.parametrize(
    ("body", "cross_attn", "cross_impl"),
    [(vit, "aligned", "dense"), (vit, "acc", "rows"), (swin, "aligned", "rows")],
)
def test_equals_its_formulas(body, cross_attn, cross_impl):
    parts = make(SA2VP, body, cross_attn=cross_attn, cross_impl=cross_impl)
    out, grads = gradient(parts, pixels(parts))
    expected, expected_grads = plain(body, cross_attn=cross_attn)
    for a, b in zip(out, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert grads.keys() == expected_grads.keys()
    for name, value in expected_grads.items():
        limit = 1e-5 * np.abs(value).max()
        np.testing.assert_allclose(grads[name], value, rtol=0, atol=limit, err_msg=name)


def test_the_variants_are_two_functions():
    (_, one, _), _ = plain(vit, cross_attn="aligned")
    (_, other, _), _ = plain(vit, cross_attn="acc")
    assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize(
    ("body", "inter_dim", "trainable", "frozen"),
    [
        (vit_b, 8, 202_200, 85_798_656),
        (vit_b, 16, 372_912, 85_798_656),
        (vit_b, 32, 714_336, 85_798_656),
        (vit_b, 64, 1_397_184, 85_798_656),
        (lambda rngs: Swin("B", rngs=rngs), 8, 201_488, 86_743_224),
    ],
)
def test_counts(body, inter_dim, trainable, frozen):
    parts, _ = full_size(SA2VP, body, inter_dim=inter_dim)
    learns = {n: v.size for n, v in parts.trainable.items() if not n.startswith("method/head/")}
    assert sum(learns.values()) == trainable
    assert all(n.startswith("method/") for n in learns)
    assert sum(v.size for v in parts.frozen.values()) == frozen
    assert all(n.startswith("backbone/") for n in parts.frozen)


@dataclasses.dataclass(frozen=True)
class Listening(Context):
    """Notes where the key of every draw comes from."""

    heard: Any = None
    path: tuple = ()

    def at(self, i, num_outputs=None):
        return dataclasses.replace(super().at(i, num_outputs), path=(*self.path, i))

    def branch(self, tag):
        return dataclasses.replace(super().branch(tag), path=(*self.path, tag))

    def dropout(self, x, rate, tag):
        if rate:
            self.heard.append((*self.path, tag))
        return super().dropout(x, rate, tag)


def test_every_dropout_draws_its_own_mask():
    parts = make(SA2VP, vit, backbone={"dropout": 0.1}, dropout=0.1)
    ctx = Listening(key=jax.random.key(1), heard=[])
    jax.eval_shape(lambda images: merge(*parts)(images, ctx), pixels(parts))
    # 2 embeddings; an MLP twice: both streams, alone in two layers, and two injected maps; 3 a
    # meeting.
    assert len(ctx.heard) == 2 + 2 * (2 * 2 + 4 + 2) + 3 * 6
    assert len(set(ctx.heard)) == len(ctx.heard)


def test_without_weight_it_is_a_linear_probe():
    shallow = {"depth": 3}
    options = {"inter_weight": 0.0, "branch_weights": (1.0, 0.0)}
    parts = make(SA2VP, vit, backbone=shallow, **options)
    (loss, logits, _), grads = gradient(parts, pixels(parts))
    rngs = nnx.Rngs(0)
    body = vit(rngs, **shallow)
    probe = partition(Model(body, Linear(body, CLASSES, rngs=rngs)))
    probe = probe._replace(trainable={n: parts.trainable[n] for n in probe.trainable})
    expected = cases.outputs(probe._replace(frozen=parts.frozen), pixels(parts))["logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(expected, jnp.arange(2)).mean()
    np.testing.assert_allclose(loss, cross_entropy, rtol=1e-5)
    assert not any(np.any(g) for n, g in grads.items() if not n.startswith("method/head/"))


def test_bfloat16_stays_near_float32():
    parts = make(SA2VP, swin, backbone={"depths": (2, 1), "heads": (1, 2)})
    wide = cases.outputs(parts, pixels(parts))["logits"]
    narrow = cases.outputs(parts, pixels(parts).astype(jnp.bfloat16))
    assert narrow["features"].dtype == jnp.bfloat16
    assert narrow["logits"].dtype == jnp.float32
    np.testing.assert_allclose(narrow["logits"], wide, atol=0.1 * np.abs(wide).max())


def test_the_head_starts_as_published():
    method = SA2VP(vit(nnx.Rngs(0)), 2000, rngs=nnx.Rngs(0))
    assert np.std(method.head.kernel[...]) == pytest.approx(0.02, rel=0.02)
    assert 0.24 < np.abs(method.head.bias[...]).max() <= 0.25  # 1 / sqrt(16)


def test_drawn_as_published():
    flat = SA2VP(vit(nnx.Rngs(0)), CLASSES, inter_dim=200, rngs=nnx.Rngs(1))
    bound = (6 / 216) ** 0.5
    assert 0.95 * bound < np.abs(flat.prompt.up.kernel[...]).max() <= bound
    assert 0 < np.abs(flat.prompt.up.bias[...]).max() < 1e-5
    staged = SA2VP(swin(nnx.Rngs(0)), CLASSES, inter_dim=200, rngs=nnx.Rngs(1))
    assert np.std(staged.prompt.up.kernel[...]) == pytest.approx(0.02, rel=0.1)
    assert not np.any(staged.prompt.up.bias[...])
    for method in (flat, staged):
        assert np.std(method.prompt.map[...]) == pytest.approx(0.02, rel=0.1)


def test_where_streams_meet():
    rngs = nnx.Rngs(0)
    deep = SA2VP(vit(rngs, depth=12), CLASSES, rngs=rngs)
    assert (deep.at, deep.to_prompt) == (tuple(range(12)), (0, 4, 8))
    assert set(deep.deep) == {"4", "8"}
    assert set(SA2VP(vit(rngs, depth=12), CLASSES, deep_prompts=1, rngs=rngs).deep) == {"4"}
    staged = SA2VP(swin(rngs, depths=(1, 7, 1)), CLASSES, rngs=rngs)
    assert (staged.at, staged.to_prompt) == (tuple(range(2, 9)), (2, 8))
    assert not staged.deep


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cross_attn": "alligned"}, "aligned"),
        ({"cross_impl": "sparse"}, "dense"),
        ({"period": 0}, "the image never receives"),
        ({"inter_dim": 0}, "inter_dim is 0"),
        ({"branch_weights": (1.0, -0.2)}, "two weights"),
        ({"dropout": 1.0}, "below 1"),
        ({"deep_prompts": 9}, "give 0 to 1"),
    ],
)
def test_mistakes_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        SA2VP(vit(nnx.Rngs(0)), CLASSES, rngs=nnx.Rngs(0), **options)


def test_convolutions_are_refused():
    body = ConvNeXt("T", 16, dims=(8, 12), depths=(1, 2), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="no attention"):
        SA2VP(body, CLASSES, rngs=nnx.Rngs(0))
