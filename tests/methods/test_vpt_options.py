"""Every combination of VPT's options runs, or is refused before anything is compiled."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import cases
from tests.helpers.oracles import InsertedVPT
from vpjax.core.errors import UserError
from vpjax.methods.vpt import POOLS, VPT
from vpjax.methods.vpt_input import Add, Below, Pad, PrependPixel
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn.context import Context
from vpjax.train.losses import softmax

BACKBONES = ("vit", "mae", "moco", "swin")
CHOICES = {
    "deep": (False, True),
    "num_deep_layers": (None, 1, 2, 9),
    "reverse_deep": (False, True),
    "deep_shared": (False, True),
    "expand": (True, False),
    "projection_dim": (None, 4),
    "pool": POOLS,
}
GRID = [dict(zip(CHOICES, c, strict=True)) for c in itertools.product(*CHOICES.values())]


def refused(options, backbone):
    """Says why a combination cannot be; written apart from the code that refuses it."""
    sites = [s for s in backbone.sites if s.has_attention]
    k, reverse, expand = options["num_deep_layers"], options["reverse_deep"], options["expand"]
    if not options["deep"] and (k is not None or reverse):
        return "need deep=True"
    if k is not None and k > len(sites):
        return "num_deep_layers is 9"
    if reverse and k is None:
        return "reverse_deep"
    if not expand and (k is None or reverse):
        return "expand=False"
    if not expand and k < len(sites) and options["pool"] == "prompt":
        return "expand=False"
    chosen = sites[:1] if not options["deep"] else sites[-k:] if reverse else sites[:k]
    widths = len({s.dim for s in chosen})
    if options["deep_shared"] and not options["projection_dim"] and widths > 1:
        return "deep_shared"
    return None


def build(backbone, options, cls=VPT):
    rngs = nnx.Rngs(0)
    body = cases.BACKBONES[backbone](rngs, cls.input_size((cases.IMAGE, cases.IMAGE), options))
    return Model(body, cls(body, cases.CLASSES, head_init="classes", rngs=rngs, **options))


def gradients(graph, ctx=None):
    """Returns a function of a model's numbers and images to gradients and logits."""
    ctx = ctx or Context()

    def loss(trainable, stats, frozen, images):
        model = merge(graph, trainable, stats, frozen)
        out = model(images, ctx)
        return model.method.loss(out, jnp.arange(len(images)), softmax, ctx).mean(), out["logits"]

    return jax.grad(loss, has_aux=True)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_combination_is_refused_with_its_reason_or_not_at_all(backbone):
    body = cases.BACKBONES[backbone](nnx.Rngs(0))
    count = 0
    for options in (o for o in GRID if o["pool"] in ("original", "prompt")):
        make = lambda o=options: VPT(body, 5, num_tokens=2, rngs=nnx.Rngs(0), **o)  # noqa: E731
        if (reason := refused(options, body)) is None:
            nnx.eval_shape(make)
            count += 1
        else:
            with pytest.raises(UserError, match=reason):
                make()
    assert count >= 30


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_not_refused_has_logits_and_gradients(backbone):
    body = cases.BACKBONES[backbone](nnx.Rngs(0))
    good = [o for o in GRID if refused(o, body) is None]
    images = jax.ShapeDtypeStruct((2, cases.IMAGE, cases.IMAGE, 3), jnp.float32)
    ctx = Context(key=jax.random.key(0))
    for options in random.Random(backbone).sample(good, 8):
        make = lambda o=options: build(backbone, o | {"num_tokens": 2, "dropout": 0.1})  # noqa: E731
        parts = partition(nnx.eval_shape(make))
        grads, logits = jax.eval_shape(gradients(parts.graph, ctx), *parts[1:], images)
        assert logits.shape == (2, cases.CLASSES), options
        assert grads.keys() == parts.trainable.keys(), options


EQUAL = {
    "vit": (
        {"deep": False},
        {"pool": "both"},
        {"pool": "image"},
        {"deep_shared": True},
        {"num_deep_layers": 1, "pool": "prompt"},
        {"num_deep_layers": 1, "expand": False, "pool": "image"},
        {"num_deep_layers": 1, "expand": False, "pool": "both"},
        {"num_deep_layers": 1, "reverse_deep": True},
    ),
    "mae": ({}, {"num_deep_layers": 1, "expand": False}, {"pool": "prompt"}),
    "swin": ({}, {"deep": False}, {"num_deep_layers": 2}, {"num_deep_layers": 1, "expand": False}),
}


@pytest.mark.parametrize(("backbone", "options"), [(b, o) for b, os in EQUAL.items() for o in os])
def test_loss_and_gradients_equal_the_inserted_form(backbone, options):
    images = jax.random.normal(jax.random.key(0), (3, cases.IMAGE, cases.IMAGE, 3))
    results = []
    for cls in (VPT, InsertedVPT):
        parts = partition(build(backbone, {"num_tokens": 3} | options, cls))
        with jax.default_matmul_precision("highest"):
            results.append(jax.jit(gradients(parts.graph))(*parts[1:], images))
    (ours, logits), (expected, long) = results
    np.testing.assert_allclose(logits, long, atol=1e-5)
    for name, value in expected.items():
        largest = np.abs(value).max()
        np.testing.assert_allclose(ours[name], value, atol=2e-6 * max(1, largest), err_msg=name)
        assert largest > 0, name


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Add, {"deep": True}),
        (Add, {"deep": False, "single": True}),
        (Add, {"deep": True, "num_deep_layers": 1, "reverse_deep": True, "projection_dim": 3}),
        (PrependPixel, {"num_tokens": 2, "pixel_init": "gaussian"}),
        (PrependPixel, {"num_tokens": 2, "pixel_init": "imagenet"}),
        (Below, {"num_tokens": 2}),
        (Below, {"num_tokens": 1, "pixel_init": "imagenet"}),
        (Pad, {"num_tokens": 8}),
    ],
)
def test_input_prompts_run_on_every_transformer(backbone, cls, options):
    images = jax.ShapeDtypeStruct((2, cases.IMAGE, cases.IMAGE, 3), jnp.float32)
    parts = partition(nnx.eval_shape(lambda: build(backbone, options, cls)))
    grads, logits = jax.eval_shape(gradients(parts.graph), *parts[1:], images)
    assert logits.shape == (2, cases.CLASSES)
    assert grads.keys() == parts.trainable.keys()


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (VPT, {"num_tokens": 0}, "at least 1 prompt"),
        (VPT, {"pool": "imag"}, "Did you mean 'image'"),
        (VPT, {"init": "cls-nofirst"}, "Did you mean 'cls-nofirstl'"),
        (VPT, {"init": "final-cls"}, "needs init_path"),
        (VPT, {"init": "final-cls", "projection_dim": 3}, "does not go with"),
        (PrependPixel, {"num_tokens": 0}, "at least 1 patch"),
        (PrependPixel, {"pixel_init": "gausian"}, "Did you mean 'gaussian'"),
        (Pad, {"num_tokens": 0}, "at least 1 pixel"),
        (Below, {"num_tokens": 0}, "at least 1 channel"),
        (Add, {"projection_dim": 0}, "projection_dim is 0"),
        (Add, {"deep": False, "reverse_deep": True}, "need deep=True"),
    ],
)
def test_options_that_cannot_be(cls, options, message):
    with pytest.raises(UserError, match=message):
        build("vit", {"num_tokens": 2} | options if cls in (Pad,) else options, cls)


@pytest.mark.parametrize("backbone", ["convnext", "resnet"])
@pytest.mark.parametrize("cls", [VPT, Add, PrependPixel])
def test_token_prompts_need_attention(backbone, cls):
    with pytest.raises(UserError, match=r"no attention.*use vpt_input.Pad"):
        build(backbone, {}, cls)


@pytest.mark.parametrize("init", ["final-cls", "cls-nolastl", "cls-nofirstl"])
@pytest.mark.parametrize("deep", [False, True])
def test_prompts_start_from_class_embeddings(tmp_path, init, deep):
    depth, dim = 2, 16
    values = np.random.default_rng(0).normal(size=(3, depth + 1, dim)).astype(np.float32)
    np.save(tmp_path / "embeddings.npy", values)
    options = {"num_tokens": 3, "deep": deep, "init": init}
    options["init_path"] = str(tmp_path / "embeddings.npy")
    method = build("vit", options).method
    for i in range(depth if deep else 1):
        entry = {"final-cls": depth, "cls-nolastl": i, "cls-nofirstl": i + 1}[init]
        np.testing.assert_array_equal(method.prompts[str(i)][...], values[:, entry])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"no array", "cannot be read"),
        ((4, 3, 16), "num_tokens, layers"),
        (np.full((3, 3, 16), np.nan), "no finite one"),
        (np.full((3, 3, 16), 1e300), "no finite one"),
        (np.full((3, 3, 16), "x"), "no number"),
    ],
)
def test_class_embeddings_that_do_not_fit(tmp_path, content, message):
    path = tmp_path / "embeddings.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif content:
        np.save(path, np.zeros(content, np.float32))
    with pytest.raises(UserError, match=message):
        build("vit", {"num_tokens": 3, "init": "final-cls", "init_path": str(path)})


def test_parity_overwrites_patches_and_its_default_does_not():
    images = jax.random.normal(jax.random.key(0), (2, cases.IMAGE, cases.IMAGE, 3))
    options = {"num_tokens": 3, "num_deep_layers": 1, "reverse_deep": True}
    ours, published = (
        cases.outputs(partition(build("vit", options | {"match_reference_code": p})), images)[
            "logits"
        ]
        for p in (False, True)
    )
    assert np.abs(ours - published).max() > 1e-3
