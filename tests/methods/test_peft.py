"""Names of linear layers, what cannot be folded, and backbones that methods refuse."""

import re

import pytest
from flax import nnx

from tests.helpers import cases
from vpjax.backbones.convnext import ConvNeXt
from vpjax.core import registry
from vpjax.core.errors import UserError
from vpjax.methods import linears
from vpjax.methods.bottleneck import AdapterPlus, Placed
from vpjax.methods.fact import TT
from vpjax.methods.lora import LoRA
from vpjax.methods.repadapter import RepAdapter
from vpjax.methods.ssf import SSF
from vpjax.nn.context import EVALUATION, Context


def built(backbone, cls, **options):
    def make():
        rngs = nnx.Rngs(0)
        body = cases.BACKBONES[backbone](rngs)
        return body, cls(body, 5, rngs=rngs, **options)

    return nnx.eval_shape(make)


def test_names_of_linear_layers():
    assert linears.parse("q+v") == ("q", "v")
    assert linears.parse("all") == ("q", "k", "v", "proj", "fc1", "fc2")
    layer, stem = Context(layer=0), EVALUATION
    assert linears.at(("qkv", "fc2"), "attn.value", layer) == ("qkv", 2)
    assert linears.at(("qkv", "fc2"), "attn.out", layer) is None
    assert linears.at(("qkv", "fc2"), "attn.value", stem) is None


@pytest.mark.parametrize(
    ("sites", "match"), [("q+x", "'x'"), ("qkv+v", "twice"), ("", "name of a linear layer")]
)
def test_wrong_names(sites, match):
    with pytest.raises(UserError, match=match):
        linears.parse(sites)


@pytest.mark.parametrize(
    ("backbone", "cls", "options", "match"),
    [
        ("resnet", LoRA, {}, "no linear layer 'q'"),
        ("convnext", SSF, {}, "no linear layer 'qkv'"),
        ("vit", TT, {}, "four times as wide"),
        ("swin_v2", RepAdapter, {}, "norms after"),
        ("vit", Placed, {"position": "before"}, "before"),
        ("resnet", AdapterPlus, {}, "no place 'mlp.residual'"),
    ],
)
def test_backbones_that_do_not_suit(backbone, cls, options, match):
    with pytest.raises(UserError, match=match):
        built(backbone, cls, **options)


@pytest.mark.parametrize(("backbone", "method"), cases.REFUSED)
def test_what_does_not_suit_is_refused_in_a_sentence_that_names_what_does(backbone, method):
    cls, options = cases.METHODS[method]
    with pytest.raises(UserError) as refused:
        built(backbone, cls, **options)
    text = str(refused.value)
    assert text.endswith(".") and ". " not in text and "; use " in text
    named = set(re.findall(r"\w+\.\w+", text.partition("; use ")[2]))
    sites = re.search(r"sites='([\w+]+)'", text)
    assert named and named <= set(registry.available("methods"))
    for name in named:  # and each of them works
        own = {"sites": sites[1]} if sites and name == "lora.LoRA" else {}
        built(backbone, registry.lookup("methods", name), **own)


@pytest.mark.parametrize("method", (*cases.PEFT, *cases.WIDE))
def test_a_backbone_may_consist_of_shapes(method):
    """As it does where its weights are read from a file."""
    cls, options = cases.METHODS[method]
    body = nnx.eval_shape(lambda: cases.tiny_wide(nnx.Rngs(0)))
    assert cls(body, 5, rngs=nnx.Rngs(0), **options).head is not None


def test_the_linear_layers_of_convnext_can_be_adapted():
    body, method = built("convnext", LoRA, sites="fc1+fc2")
    assert isinstance(body, ConvNeXt) and len(method.layers) == 3


def test_what_has_an_activation_inside_says_that_it_cannot_be_folded():
    body, method = built("vit", AdapterPlus)
    with pytest.raises(UserError, match="no linear change"):
        method.fold(body)
