"""Several methods at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vpjax
from tests.helpers import cases
from vpjax.core import params, registry
from vpjax.core.errors import UserError
from vpjax.models.partition import partition


def body():
    return cases.tiny_vit(nnx.Rngs(0))


def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), jnp.float32)


def with_values(model, values):
    graph, state = nnx.split(model)
    known = params.flatten(state)
    assert values.keys() <= known.keys()
    return nnx.merge(graph, params.fill(state, known | values))


def drawn(model, part):
    """Returns random values of a method's parameters, none at its start."""
    rng = np.random.default_rng(1)
    arrays = params.flatten(nnx.state(model))
    return {n: jnp.asarray(rng.normal(size=v.shape) * 0.3, jnp.float32)
            for n, v in arrays.items() if n.startswith(part)}  # fmt: skip


@pytest.mark.parametrize(("other", "options"), [
    ("lora.LoRA", {"rank": 2}),
    ("adapter.Adapter", {"reduction": 4}),
    ("convpass.Convpass", {"rank": 2}),
    ("ia3.IA3", {}),
])  # fmt: skip
def test_each_method_does_its_part(other, options):
    """With the other method at its neutral start the result is VPT's, and the reverse."""
    prompts = {"num_tokens": 3}
    both = vpjax.create_model(body(), f"vpt.VPT+{other}", 5, **prompts, **options)
    alone = vpjax.create_model(body(), "vpt.VPT", 5, **prompts)
    name = other.rpartition(".")[2].lower()
    own = drawn(both, "method/vpt/") | drawn(both, "method/head/")
    neutral = {n: jnp.ones(v.shape) if "scale" in n else jnp.zeros(v.shape)
               for n, v in drawn(both, f"method/{name}/").items()}  # fmt: skip
    ours = with_values(both, own | neutral)(images())
    theirs = with_values(alone, {n.replace("/vpt/", "/"): v for n, v in own.items()})(images())
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=2e-5)
    changed = with_values(both, own | drawn(both, f"method/{name}/"))(images())
    assert np.abs(changed["logits"] - theirs["logits"]).max() > 1e-3


def test_prompts_pass_the_adapted_layers_as_tokens_do():
    """LoRA changes the keys and values of prompts too: as if they stood in the sequence."""
    options = {"num_tokens": 3, "rank": 2, "sites": "k+v"}
    kept = vpjax.create_model(body(), "vpt.VPT+lora.LoRA", 5, **options, pool="image")
    read = vpjax.create_model(body(), "vpt.VPT+lora.LoRA", 5, **options)
    values = drawn(read, "method/")
    a = kept.method.vpt.inserted_at, read.method.vpt.inserted_at
    assert a == (None, None)
    inserted = with_values(read, values)
    inserted.method.vpt.inserted_at = inserted.method.vpt.at[-1]
    outs = [m(images())["logits"] for m in (with_values(read, values), inserted)]
    np.testing.assert_allclose(*outs, atol=2e-5)


def test_a_list_of_names_is_the_same():
    one = vpjax.create_model(body(), "vpt.VPT+finetune.Bias", 5, num_tokens=2)
    two = vpjax.create_model(body(), ["vpt.VPT", "finetune.Bias"], 5, num_tokens=2)
    assert type(one.method) is type(two.method)
    assert registry.name_of("methods", type(one.method)) == "vpt.VPT+finetune.Bias"


def test_what_trains_is_what_each_trains():
    prompts = {"num_tokens": 2}
    both = partition(vpjax.create_model(body(), "vpt.VPT+finetune.Bias", 5, **prompts))
    known = partition(vpjax.create_model(body(), "vpt.PromptBias", 5, **prompts))
    ours = {n.replace("/vpt/", "/") for n in both.trainable}
    assert ours == known.trainable.keys()
    norms = partition(vpjax.create_model(body(), "adapter.Adapter+layer_norm.LayerNorm", 5))
    assert any("norm1/scale" in n for n in norms.trainable)
    assert not any(n.endswith("query/kernel") for n in norms.trainable)


def test_frozen_prompts_stay_frozen():
    both = partition(vpjax.create_model(body(), "vpt.FrozenPrompts+lora.LoRA", 5, num_tokens=2))
    assert not any("prompts" in n for n in both.trainable)
    assert any("lora" in n for n in both.trainable)


def test_options_that_both_have_carry_a_name():
    known = vpjax.options_of("vpt.VPT+lora.LoRA")
    assert {"num_tokens", "rank", "vpt_dropout", "lora_dropout", "head_init"} <= known.keys()
    assert "dropout" not in known
    with pytest.raises(UserError, match="dropout.*vpt_dropout"):
        vpjax.create_model(body(), "vpt.VPT+lora.LoRA", 5, dropout=0.1)


@pytest.mark.parametrize(("name", "words"), [
    ("vpt.VPT+vfpt.VFPT", "vpt and vfpt do not combine: each has its own way of running a layer"),
    ("vpt.VPT+vpt.VPT", "two or more different"),
    ("mop.MoP+lora.LoRA", "mop does not combine"),
    ("vpt.VPT+lora.Lora", "lora.LoRA"),
    ("vpt.VPT+", "vpt"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        vpjax.create_model(body(), name, 5)


def test_two_that_change_one_place_are_refused():
    model = vpjax.create_model(body(), "lora.LoRA+dora.DoRA", 5)
    with pytest.raises(UserError, match="lora and dora both change 'attn.query' of layer 0"):
        jax.eval_shape(model, images())


def test_two_at_different_sites_combine():
    model = vpjax.create_model(body(), "lora.LoRA+ia3.IA3", 5, lora_sites="q", ia3_sites="fc2")
    assert model(images())["logits"].shape == (4, 5)


def test_rules_about_parameters_follow_their_names():
    both = vpjax.create_model(body(), "gate_vpt.GateVPT+ia3.IA3", 5, num_tokens=2)
    assert list(both.method.limits) == ["method/gatevpt/temperatures"]
    assert "method/ia3/layers/.*" in both.method.no_decay.split("|")
