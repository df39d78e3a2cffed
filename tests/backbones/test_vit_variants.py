"""Every kind of ViT that weights bring, with every kind of method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vpjax.backbones.vit import ViT
from vpjax.core.errors import UserError
from vpjax.methods.adapter import Adapter
from vpjax.methods.finetune import Bias, ClsToken, Full, Linear, Partial
from vpjax.methods.sa2vp import SA2VP
from vpjax.methods.vpt import VPT, PromptCls
from vpjax.methods.vpt_input import Add, Pad, PrependPixel
from vpjax.models.model import Model
from vpjax.models.partition import merge, partition
from vpjax.nn.context import EVALUATION, Context

DINOV3 = {"rope": "dinov3", "positions": "none", "qkv_bias": "qv", "eps": 1e-5}
BEIT = {"relative_bias": True, "positions": "none", "qkv_bias": "qv", "pool": "mean"}
VARIANTS = {
    "registers": {"num_registers": 3, "layer_scale": True},
    "map": {"class_token": False, "pool": "map", "activation": "gelu_tanh"},
    "mean": {"class_token": False, "num_registers": 2, "final_norm": False, "fc_norm": True},
    "distilled": {"dist_token": True, "pool": "prefix_mean"},
    "dinov3": DINOV3 | {"num_registers": 2, "layer_scale": True, "pool": "mean"},
    "eva": {"rope": "eva", "rope_grid": (8, 8), "mlp": "swiglu_norm", "out_norm": True},
    "beit": BEIT | {"layer_scale": True, "final_norm": False, "fc_norm": True},
    "clip": {"pre_norm": True, "patch_bias": False, "projection_dim": 6, "prefix_positions": 0},
    "query_norm": {"qk_norm": True, "pool": "token_mean", "mlp": "swiglu", "qkv_bias": False},
    "all": {"pool": "mean_all", "num_registers": 1, "prefix_positions": 2},
}
METHODS = {
    "linear": (Linear, {}),
    "full": (Full, {}),
    "bias": (Bias, {}),
    "partial": (Partial, {}),
    "adapter": (Adapter, {"reduction": 4}),
    "vpt_shallow": (VPT, {"num_tokens": 3, "deep": False}),
    "vpt_deep": (VPT, {"num_tokens": 3}),
    "vpt_prompts": (VPT, {"num_tokens": 3, "pool": "prompt"}),
    "add": (Add, {}),
    "prepend_pixel": (PrependPixel, {"num_tokens": 2}),
    "pad": (Pad, {"num_tokens": 2}),
    "sa2vp": (SA2VP, {"inter_dim": 4, "inter_weight": 0.5}),
}
PROMPTS = 3


@functools.cache
def backbone(variant):
    """Returns a backbone none of whose numbers is 0 or 1."""
    sizes = {"dim": 16, "mlp_dim": 20, "heads": 2, "depth": 2, "dropout": 0.0}
    made = ViT("Ti/4", (16, 20), **sizes, **VARIANTS[variant], rngs=nnx.Rngs(0))
    graph, state = nnx.split(made)
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [v + 0.2 * jax.random.normal(k, v.shape) for k, v in zip(keys, leaves, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(tree, drawn))


def images(count=2):
    return jax.random.normal(jax.random.key(0), (count, 16, 20, 3))


def prompts():
    return jax.random.normal(jax.random.key(2), (PROMPTS, 16))


def close(a, b, atol=2e-5):
    np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompts_as_keys_and_values_are_prompts_among_tokens(variant):
    body = backbone(variant)
    tokens, n = body.embed(images(), EVALUATION), body.num_prefix_tokens
    assert tokens.num_prefix_tokens == n and tokens.x.shape == (2, n + 20, 16)
    for layer in body.layers:
        beside = layer(tokens, EVALUATION, extra_kv=prompts())
        among = layer(tokens.insert(prompts(), at=n), EVALUATION)
        kept = [*range(n), *range(n + PROMPTS, n + PROMPTS + 20)]
        close(beside.x, among.x[:, kept])
        assert among.num_prefix_tokens == n + PROMPTS and among.grid == (4, 5)
        for count in (1, n + 1, n + 20):
            few = layer(tokens, EVALUATION, extra_kv=prompts(), num_outputs=count)
            close(few.x, beside.x[:, :count])
        tokens = beside


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompts_take_no_part_in_pooling_unless_it_is_of_all(variant):
    body = backbone(variant)
    tokens = body.embed(images(), EVALUATION)
    among = tokens.insert(prompts(), at=tokens.num_prefix_tokens)
    pooled = body.pool(tokens)
    assert pooled.shape == (2, body.dim)
    assert np.allclose(pooled, body.pool(among), atol=2e-5) != body.pools_prompts
    if body.num_pooled_tokens is not None:
        close(body.pool(tokens.first(body.num_pooled_tokens)), pooled)


@pytest.mark.parametrize("variant", VARIANTS)
def test_deep_prompts_are_those_of_the_published_order(variant):
    body = backbone(variant)
    method = VPT(body, 3, num_tokens=PROMPTS, head_init="normal", rngs=nnx.Rngs(3))
    found = Model(body, method)(images(), EVALUATION)["features"]
    tokens, n = body.embed(images(), EVALUATION), body.num_prefix_tokens
    for i, layer in enumerate(body.layers):
        values = method.prompts[str(i)][...]
        tokens = tokens.overwrite(values, at=n) if i else tokens.insert(values, at=n)
        tokens = layer(tokens, EVALUATION)
    close(found, body.pool(tokens))


@pytest.mark.parametrize(
    ("variant", "method"),
    [(v, m) for v in VARIANTS for m in METHODS if (v, m) != ("query_norm", "vpt_prompts")],
)
def test_every_method_learns_on_every_variant(variant, method):
    body, (cls, options) = backbone(variant), METHODS[method]
    if method == "pad":
        body = nnx.merge(*nnx.split(body))
    parts = partition(Model(body, cls(body, 3, head_init="normal", **options, rngs=nnx.Rngs(4))))
    x = images()[:, 2:-2, 2:-2] if method == "pad" else images()

    @jax.jit
    @jax.grad
    def slopes(trainable):
        model = merge(parts.graph, trainable, *parts[2:])
        out = model(x, Context(key=jax.random.key(5)))
        return sum((v * (1 + jnp.arange(3))).sum() for n, v in out.items() if "logits" in n)

    found = slopes(parts.trainable)
    assert all(np.isfinite(v).all() for v in found.values())
    still = {n for n, v in found.items() if not v.any()}
    # A key's bias adds the same to all scores of a query; only norms after it change that.
    assert all(n.endswith("attn/key/bias") or "adapters" in n for n in still), still


def test_two_features_side_by_side_are_no_mean_of_prompts():
    body = backbone("query_norm")
    with pytest.raises(UserError, match="joins the class token and a mean"):
        body.pool(body.embed(images(), EVALUATION), slice(1, 3))


def test_fused_or_not_is_known():
    assert backbone("dinov3").head_dim == 8 and backbone("beit").head_dim is None


@pytest.mark.parametrize("method", [ClsToken, PromptCls])
def test_without_class_token_there_is_none_to_train(method):
    with pytest.raises(UserError, match="no class token"):
        method(backbone("mean"), 3, rngs=nnx.Rngs(0))


def test_layers_that_need_all_patches_refuse_to_lose_some():
    slip = {"num_deep_layers": 1, "reverse_deep": True, "match_reference_code": True}
    for variant in ("dinov3", "eva", "beit"):
        with pytest.raises(UserError, match="need all of them"):
            VPT(backbone(variant), 3, **slip, rngs=nnx.Rngs(0))
    VPT(backbone("registers"), 3, **slip, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_token": False, "pool": "token"}, "needs a class token"),
        ({"relative_bias": True, "num_registers": 1}, "made for a class token and the grid"),
        ({"pool": "max"}, "unknown pool"),
        ({"rope": "dino"}, "unknown rope"),
        ({"rope": "eva", "heads": 8}, "divides by 4"),
        ({"mlp": "glu"}, "unknown mlp"),
        ({"qkv_bias": "k"}, "qkv_bias is 'k'"),
        ({"prefix_positions": 2}, "prefix_positions is 2; give 0 to 1"),
        ({"positions": "sine"}, "unknown positions"),
    ],
)
def test_what_does_not_go_together(options, message):
    sizes = {"dim": 16, "mlp_dim": 20, "heads": 2, "depth": 1}
    with pytest.raises(UserError, match=message):
        ViT("Ti/4", 16, **sizes | options, rngs=nnx.Rngs(0))
