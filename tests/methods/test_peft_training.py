"""What PEFT methods do while they train: decay, stochastic depth, the norm before the head."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import cases
from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.methods.bottleneck import AdapterPlus
from vpjax.methods.convpass import Convpass
from vpjax.methods.finetune import Linear
from vpjax.methods.lora import LoRA
from vpjax.methods.vera import VeRA
from vpjax.models.partition import merge
from vpjax.nn.context import Context

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(6, 16, 16, 3)), jnp.float32)
SPARED = {  # parameters whose decay would pull them from where they do nothing
    "ia3": {"scale"},
    "ssf": {"scale", "shift"},
    "layer_norm": {"scale", "bias"},
    "adapter_plus": {"down_bias", "up_bias", "scaling"},
    "houlsby": {"down_bias", "up_bias", "scale", "bias"},
    "pfeiffer": {"down_bias", "up_bias", "scale", "bias"},
    "compacter": {"rule", "bias"},
    "lora": set(),
    "fact_tk": set(),
}


@pytest.mark.parametrize("method", SPARED)
def test_what_does_not_decay(method):
    parts = cases.make("vit_wide", method)
    pattern = cases.METHODS[method][0].no_decay
    own = [n for n in parts.trainable if "/head/" not in n]
    spared = {n.rpartition("/")[2] for n in own if re.fullmatch(pattern, n)}
    assert spared == SPARED[method]
    if method in ("ia3", "ssf", "layer_norm"):
        assert all(re.fullmatch(pattern, n) for n in own)


def logits(cls, key=1, images=IMAGES, **options):
    body = {"drop_path": 0.5, "dropout": 0.0}

    def make():
        rngs = nnx.Rngs(0)
        vit = cases.ViT("Ti/4", 16, dim=16, mlp_dim=64, heads=2, depth=2, **body, rngs=rngs)
        return cases.Model(vit, cls(vit, 5, head_init="classes", **options, rngs=rngs))

    run = jax.jit(lambda x: make()(x, Context(key=key and jax.random.key(key)))["logits"])
    return np.asarray(run(images))


def test_the_backbone_is_silent_unless_told():
    still = logits(LoRA)
    np.testing.assert_array_equal(still, logits(LoRA, key=2))
    noisy = logits(LoRA, backbone_dropout=True)
    assert np.abs(noisy - still).max() > 1e-3
    np.testing.assert_array_equal(logits(LoRA, backbone_dropout=True, key=None), still)


def test_batch_norm_is_not_let_loose():
    with pytest.raises(UserError, match="BatchNorm of ResNet"):
        cases.make("resnet", "linear", backbone_dropout=True)


@pytest.mark.parametrize("cls", [AdapterPlus, Convpass])
def test_adapters_are_left_out_for_whole_images(cls):
    same = jnp.tile(IMAGES[:1], (16, 1, 1, 1))
    options = {"drop_path": 0.5, "rank": 2}
    options |= {"init": "bert"} if cls is AdapterPlus else {"dropout": 0.0}
    found = logits(cls, images=same, **options)
    if cls is AdapterPlus:  # begins away from zero: images differ by which of two were left out
        assert 2 <= len(np.unique(found.round(5), axis=0)) <= 4
    else:  # begins at zero: nothing to leave out
        np.testing.assert_allclose(found, found[:1] * np.ones((16, 1)), atol=1e-5)


def test_a_norm_before_the_head_has_running_averages_and_nothing_else():
    parts = cases.make("vit", "linear", head_norm=True)
    assert parts.trainable.keys() == {"method/head/kernel", "method/head/bias"}
    assert parts.stats.keys() == {"method/head/norm/mean", "method/head/norm/var"}

    @jax.jit
    def features(key):
        model = merge(*parts)
        out = model(IMAGES, Context(key=key))
        return out["features"], out["logits"], model.method.head.norm.mean[...]

    x, y, mean = features(jax.random.key(0))
    normed = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
    head = normed @ parts.trainable["method/head/kernel"] + parts.trainable["method/head/bias"]
    np.testing.assert_allclose(y, head, atol=1e-4)
    np.testing.assert_allclose(mean, 0.1 * x.mean(0), atol=1e-5)


def test_the_pair_of_vera_is_peft_s():
    """Its first numbers for seed 0, as recorded cases have them to a 512th."""
    rngs = nnx.Rngs(0)
    made = VeRA(cases.tiny_vit(rngs), 5, sites="q+v", rank=6, rngs=rngs)
    first = [-0.00390625, 0.328125, -0.50390625, -0.45117188, -0.23632812]
    np.testing.assert_allclose(made.a[:5, 0], first, atol=1 / 1000)
    assert made.a.shape == (16, 6) and made.b.shape == (6, 16)


def test_every_option_of_the_head_is_one_of_every_method_with_a_head():
    assert {"head_norm", "backbone_dropout"} <= registry.options(Linear).keys()
