"""What SA2VP saves: work, memory, passes, and exchange between devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers.oracles import PlainSA2VP
from tests.helpers.sa2vp import full_size, make, pixels, swin, vit, vit_b
from vpjax.backbones.vit import ViT
from vpjax.methods.sa2vp import SA2VP
from vpjax.models.partition import merge
from vpjax.nn.context import EVALUATION, Context
from vpjax.train import sharding
from vpjax.train.losses import softmax
from vpjax.train.step import init_state, make_train_step

PUBLISHED_FLOPS = 87.2e9  # of the published code, an image forward, ViT-B/16 with inter_dim 16


def flops(parts, images, train=False, ctx=EVALUATION):
    """Operations an image, counted by XLA."""

    def forward(trainable, frozen, images):
        model = merge(parts.graph, trainable, {}, frozen)
        out = model(images, ctx)
        return model.method.loss(out, jnp.zeros(len(images), jnp.int32), softmax, ctx).mean()

    call = jax.jit(jax.grad(forward) if train else forward)
    lowered = call.lower(parts.trainable, parts.frozen, images)
    return lowered.cost_analysis()["flops"] / len(images)


def test_work_of_vit_b():
    assert flops(*full_size(PlainSA2VP, vit_b)) == pytest.approx(PUBLISHED_FLOPS, rel=0.01)
    assert flops(*full_size(SA2VP, vit_b)) < 0.87 * PUBLISHED_FLOPS
    assert flops(*full_size(SA2VP, vit_b, batch=8)) < 0.78 * PUBLISHED_FLOPS


def test_what_no_image_has_touched_runs_once():
    parts = make(SA2VP, swin)
    state = start(parts, EVALUATION)
    assert [len(tokens.x) for tokens in state] == [2, 1]
    noisy = make(SA2VP, vit, backbone={"dropout": 0.1})
    assert [len(t.x) for t in start(noisy, Context(key=jax.random.key(0)))] == [2, 2]


def start(parts, ctx):
    model = merge(*parts)
    ctx = dataclasses.replace(ctx, noisy_backbone=True)
    return model.method.start(model.backbone, pixels(parts), ctx)


class Stacked(SA2VP):
    """Both streams together from the first layer on."""

    def apply_layer(self, layer, state, ctx):
        image, prompt = state
        prompt = dataclasses.replace(prompt, x=jnp.broadcast_to(prompt.x, image.x.shape))
        layer_of_two = dataclasses.replace(ctx, layer=self.at[-1])
        return super().apply_layer(layer, (image, prompt), layer_of_two)


def test_the_image_has_no_backward_pass_before_it_receives():
    backward = []
    for cls in (SA2VP, Stacked):
        parts, images = make(cls, vit, backbone={"depth": 2}), pixels(make(cls, vit))
        backward.append(flops(parts, images, train=True) - flops(parts, images))
    assert backward[0] < 0.75 * backward[1]


def temporary(cls):
    sizes = {"dim": 48, "mlp_dim": 192, "heads": 3, "depth": 3, "dropout": 0.0}
    body = lambda rngs: ViT("Ti/16", **sizes, rngs=rngs)  # noqa: E731
    parts, images = full_size(cls, body, batch=2)

    def loss_fn(trainable, frozen, images):
        model = merge(parts.graph, trainable, {}, frozen)
        return model.method.loss(model(images), jnp.zeros(2, jnp.int32), softmax, EVALUATION).mean()

    compiled = jax.jit(jax.grad(loss_fn)).lower(parts.trainable, parts.frozen, images).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_needs_less_memory_than_its_formulas():
    assert temporary(SA2VP) < 0.75 * temporary(PlainSA2VP)


def test_shared_masks_of_injected_maps_save_their_passes():
    ctx, work = Context(key=jax.random.key(0)), []
    for shared in (False, True):
        options = {"dropout": 0.1, "deep_prompt_shared_dropout": shared}
        parts = make(SA2VP, vit, backbone={"dropout": 0.1}, **options)
        work.append(flops(parts, pixels(parts, 4), ctx=ctx))
    assert work[1] < 0.95 * work[0]


def test_one_device_never_asks_another_for_tokens():
    parts = make(SA2VP, vit, backbone={"depth": 4})
    optimiser, mesh = optax.sgd(0.1), sharding.make_mesh(8)
    state = init_state(parts.trainable, parts.stats, optimiser, 0)
    state, frozen = sharding.replicate((state, parts.frozen), mesh)
    batch = {"image": np.zeros((8, 12, 16, 3), np.float32), "label": np.zeros(8, np.int32)}
    batch = sharding.put_batch(batch | {"mask": np.ones(8, bool)}, mesh)
    step = make_train_step(parts.graph, optimiser, lambda batch, key: batch["image"], 1)
    text = step.lower(state, frozen, batch).compile().as_text()
    assert "all-reduce" in text
    for exchange in ("all-to-all", "collective-permute", "all-gather"):
        assert exchange not in text
