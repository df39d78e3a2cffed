"""VPT's short form is the long form with less work."""

import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.helpers import cases
from tests.helpers.oracles import InsertedVPT
from vpjax.backbones.vit import ViT
from vpjax.core.errors import UserError
from vpjax.methods.vpt import VPT
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn import attention
from vpjax.nn.context import Context
from vpjax.train.losses import softmax
from vpjax.train.step import init_state, make_train_step

GFLOP = 1e9


FORMS = {"short": VPT, "long": InsertedVPT}


@pytest.mark.parametrize("projection_dim", [None, 4])
@pytest.mark.parametrize("num_tokens", [1, 50])
def test_loss_and_gradients_equal_the_long_form(num_tokens, projection_dim):
    images = jax.random.normal(jax.random.key(0), (4, cases.IMAGE, cases.IMAGE, 3))
    labels = jnp.arange(4)
    results = []
    for cls in FORMS.values():
        parts = cases.make(
            "vit", "vpt_deep", cls, num_tokens=num_tokens, projection_dim=projection_dim
        )

        def loss(trainable, parts=parts):
            model = merge(parts.graph, trainable, parts.stats, parts.frozen)
            return model.method.loss(model(images), labels, softmax, Context()).mean()

        with jax.default_matmul_precision("highest"):
            results.append(jax.jit(jax.value_and_grad(loss))(parts.trainable))
    (short, grads), (long, expected) = results
    np.testing.assert_allclose(short, long, rtol=1e-6)
    for name, value in expected.items():
        largest = np.abs(value).max()
        np.testing.assert_allclose(grads[name], value, atol=1e-6 * max(1, largest), err_msg=name)
        assert largest > 0, name


def test_prompt_dropout_differs_by_image_and_layer():
    parts = cases.make("vit", "vpt_deep", num_tokens=6, dropout=0.5)

    def prompts(parts, ctx):
        method = merge(*parts).method
        return method.prompt(4, ctx.at(0)), method.prompt(4, ctx.at(1))

    first, second = prompts(parts, Context(key=jax.random.key(0)))
    assert first.shape == (4, 6, 16)
    dropped = np.asarray(first == 0)
    assert not np.array_equal(dropped[0], dropped[1])
    assert not np.array_equal(dropped, np.asarray(second == 0))
    whole = np.broadcast_to(parts.trainable["method/prompts/0"], first.shape)
    np.testing.assert_allclose(np.asarray(first)[~dropped], whole[~dropped] / 0.5, rtol=1e-6)
    assert prompts(parts, Context())[0].shape == (6, 16)


def test_dropout_trains_like_the_long_form():
    images = jax.random.normal(jax.random.key(0), (4, cases.IMAGE, cases.IMAGE, 3))
    ctx = Context(key=jax.random.key(3))
    short, long = (
        cases.outputs(cases.make("vit", "vpt_deep", cls, dropout=0.4), images, ctx)["logits"]
        for cls in FORMS.values()
    )
    np.testing.assert_allclose(short, long, atol=1e-5)


def test_prompts_start_within_the_paper_s_bound():
    rngs = nnx.Rngs(0)
    backbone = nnx.eval_shape(lambda: ViT("B/16", 224, depth=1, rngs=nnx.Rngs(0)))
    method = VPT(backbone, 10, num_tokens=100, rngs=rngs)
    prompts = np.abs(method.prompts["0"][...])
    assert 0.0620 < prompts.max() <= 0.0625  # sqrt(6 / (3 * 256 + 768))


@pytest.mark.parametrize(
    "options", [{"num_tokens": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"projection_dim": 0}]
)
def test_options_out_of_range(options):
    backbone = cases.tiny_vit(nnx.Rngs(0))
    with pytest.raises(UserError, match=next(iter(options))):
        VPT(backbone, 3, rngs=nnx.Rngs(0), **options)


def abstract_step(cls, num_tokens, batch, dtype=jnp.float32, implementation="xla", deep=True):
    """Returns the jitted training step of ViT-B/16 and arguments that are shapes only."""

    def make():
        rngs = nnx.Rngs(0)
        backbone = ViT("B/16", attention=implementation, rngs=rngs)
        return Model(backbone, cls(backbone, 100, num_tokens=num_tokens, deep=deep, rngs=rngs))

    parts = partition(nnx.eval_shape(make))
    optimizer = optax.sgd(0.1, momentum=0.9)
    to_input = lambda batch, key: batch["image"].astype(dtype) / 127.5 - 1  # noqa: E731
    step = make_train_step(parts.graph, optimizer, to_input, 10)
    state = jax.eval_shape(
        lambda t, s: init_state(t, s, optimizer, 0), parts.trainable, parts.stats
    )
    shapes = {
        "image": jax.ShapeDtypeStruct((batch, 224, 224, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((batch,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((batch,), jnp.bool),
    }
    return step, (state, parts.frozen, shapes)


def flops(cls, num_tokens, batch=2):
    step, arguments = abstract_step(cls, num_tokens, batch)
    return step.lower(*arguments).compile().cost_analysis()["flops"] / batch / GFLOP


@pytest.mark.parametrize(("num_tokens", "share"), [(50, 0.78), (100, 0.66)])
def test_a_training_step_needs_less_than_the_long_form(num_tokens, share):
    short, long = flops(VPT, num_tokens), flops(InsertedVPT, num_tokens)
    print(f"{num_tokens} prompts: {short:.1f} of {long:.1f} GFLOP an image, {short / long:.3f}")
    assert short <= share * long


def test_a_forward_pass_needs_33_gflop_an_image():
    def make():
        rngs = nnx.Rngs(0)
        backbone = ViT("B/16", rngs=rngs)
        return Model(backbone, VPT(backbone, 100, num_tokens=50, rngs=rngs))

    parts = partition(nnx.eval_shape(make))

    def logits(trainable, frozen, images):
        return merge(parts.graph, trainable, parts.stats, frozen)(images)["logits"]

    images = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
    compiled = jax.jit(logits).lower(parts.trainable, parts.frozen, images).compile()
    assert 32 < compiled.cost_analysis()["flops"] / 8 / GFLOP < 34.5


def lowered_for_cuda(**options):
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    step, arguments = abstract_step(VPT, batch=4, dtype=jnp.bfloat16, **options)
    with mock.patch.object(fused, "check_cudnn_version", lambda: 91000):
        return step.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(("num_tokens", "deep"), [(50, True), (49, True), (50, False), (49, False)])
def test_a_step_for_cuda_calls_fused_attention_both_ways(num_tokens, deep):
    # 197 + 50 tokens is odd, 197 + 49 even: both lengths must go through.
    text = lowered_for_cuda(num_tokens=num_tokens, deep=deep, implementation="cudnn")
    assert len(re.findall(r"__cudnn\$fmhaSoftmax\b", text)) == 12
    assert len(re.findall(r"__cudnn\$fmhaSoftmaxBackward\b", text)) == 12


def test_a_step_for_cuda_has_no_fused_attention_unless_asked():
    text = lowered_for_cuda(num_tokens=50, implementation="xla")
    assert "__cudnn$" not in text


def test_no_gradient_of_a_frozen_weight_is_computed():
    step, (state, frozen, shapes) = abstract_step(VPT, 10, batch=2)
    text = step.lower(state, frozen, shapes).as_text()
    # Four products with weights in each block forward, four backward; two of attention forward,
    # four backward. Weight gradients would be products with these shapes as results.
    for shape in ("768x3072", "3072x768", "768x768"):
        assert not re.findall(rf"stablehlo.dot_general.*-> tensor<{shape}x", text)


@pytest.mark.parametrize(
    ("dtype", "width", "platform", "found"),
    [
        (jnp.bfloat16, 64, "gpu", "cudnn"),
        (jnp.float32, 64, "gpu", "xla"),
        (jnp.bfloat16, 12, "gpu", "xla"),
        (jnp.bfloat16, 64, "cpu", "xla"),
    ],
)
def test_attention_is_chosen_by_rule_and_never_changed_silently(dtype, width, platform, found):
    assert attention.resolve("auto", dtype, width, platform) == found
    assert attention.resolve("xla", dtype, width, platform) == "xla"
    if found == "xla":
        with pytest.raises(UserError, match="cannot run"):
            attention.resolve("cudnn", dtype, width, platform)


def test_attention_of_an_unknown_name():
    with pytest.raises(UserError, match="Did you mean 'cudnn'"):
        attention.resolve("cudn", jnp.float32, 64)
